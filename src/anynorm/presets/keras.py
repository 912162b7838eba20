"""The norms of ``keras.layers``: channels last, eps 1e-3, momentum weights the old value, variances are biased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._core.arguments import axis_of
from . import _preset as preset

if TYPE_CHECKING:
    from .._core.libraries import Array, Shape


class _Affine(preset.Preset):
    """What layer and group norm have in common."""

    widens = True

    def __call__(self, x: Array, /, *, gamma: Array | None = None, beta: Array | None = None) -> Array:
        """Return y."""
        return self.normalize(x, self.allowed("scale", "gamma", gamma), self.allowed("center", "beta", beta))


@dataclass(frozen=True)
class LayerNormalization(_Affine, preset.Layer):
    """``keras.layers.LayerNormalization``: gamma and beta have the shape of the axes named."""

    axis: int | Shape = -1
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True

    def options(self, x: Array) -> dict[str, Any]:
        return {"axis": preset.as_tuple(self.axis), "eps": self.epsilon}


@dataclass(frozen=True)
class RMSNormalization(preset.Rms):
    """``keras.layers.RMSNormalization``."""

    axis: int | Shape = -1
    epsilon: float = 1e-6
    widens = True

    def options(self, x: Array) -> dict[str, Any]:
        return {"axis": preset.as_tuple(self.axis), "eps": self.epsilon}

    def __call__(self, x: Array, /, *, scale: Array | None = None) -> Array:
        """Return y."""
        return self.normalize(x, scale, None)


@dataclass(frozen=True)
class GroupNormalization(_Affine, preset.Group):
    """``keras.layers.GroupNormalization``: 32 groups; -1 makes a group of each channel, which is instance norm."""

    groups: int = 32
    axis: int = -1
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True

    def options(self, x: Array) -> dict[str, Any]:
        axis = axis_of(type(self).__name__, "axis", self.axis, x.ndim)
        groups = x.shape[axis] if self.groups == -1 else self.groups
        return {"num_groups": groups, "channel_axis": self.axis, "eps": self.epsilon}


@dataclass(frozen=True)
class BatchNormalization(preset.Batch):
    """``keras.layers.BatchNormalization``. A mask lacks the last axis of x; what it hides standardises to 0 here.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import presets
    >>> norm = presets.keras.BatchNormalization(epsilon=0)
    >>> norm(
    ...     np.asarray([[1.0], [3.0]]),
    ...     moving_mean=np.asarray([2.0]),
    ...     moving_variance=np.asarray([4.0]),
    ... )[0].ravel()
    array([-0.5,  0.5])
    """

    axis: int = -1
    momentum: float = 0.99
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True
    names = ("moving_mean", "moving_variance")
    widens = True

    def options(self, x: Array) -> dict[str, Any]:
        return {
            "channel_axis": self.axis,
            "eps": self.epsilon,
            "momentum": self.weight_of_new("momentum"),
            "correction": 0,
        }

    def __call__(
        self,
        x: Array,
        /,
        training: bool = False,
        mask: Array | None = None,
        *,
        gamma: Array | None = None,
        beta: Array | None = None,
        moving_mean: Array | None = None,
        moving_variance: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Return (y, state)."""
        gamma, beta = self.allowed("scale", "gamma", gamma), self.allowed("center", "beta", beta)
        where = None if mask is None else preset.library(mask).expand_dims(mask, axis=-1)
        y, stats = self.step(x, moving_mean, moving_variance, gamma, beta, training=training, where=where)
        return y, self.named(stats)


def arrays(layer: Any) -> dict[str, Any]:
    """Return the weights of a Keras layer as NumPy arrays, for its preset."""
    from keras import ops

    return {weight.name: ops.convert_to_numpy(weight) for weight in layer.weights}
