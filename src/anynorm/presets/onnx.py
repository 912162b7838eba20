"""The operators of ONNX that normalise: attributes when they are made, inputs when they are called, in ONNX's order.

Like the operator, batch norm returns y alone, and in training (y, running_mean, running_var).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any

from .._core.arguments import axis_of
from .._core.arrays import reshape
from . import _preset as preset

if TYPE_CHECKING:
    from .._core.libraries import Array, Shape


class _FromAxis(preset.Preset):
    """What layer and RMS norm have in common: they normalise an axis and all after it."""

    axis: int
    epsilon: float

    def options(self, x: Array) -> dict[str, Any]:
        first = axis_of(type(self).__name__, "axis", self.axis, preset.library(x) and x.ndim)
        return {"axis": tuple(range(first, x.ndim)), "eps": self.epsilon}

    def broadcast(self, a: Array | None, x: Array) -> Array | None:
        """Return a scale or bias at x's rank."""
        preset.library(x)
        return None if a is None else reshape(preset.library(a), a, (*(1,) * (x.ndim - a.ndim), *a.shape))


@dataclass(frozen=True)
class LayerNormalization(_FromAxis, preset.Layer):
    """``LayerNormalization``: the scale and bias broadcast to the axes."""

    axis: int = -1
    epsilon: float = 1e-5

    def __call__(self, X: Array, Scale: Array, B: Array | None = None) -> Array:
        """Return y."""
        return self.normalize(X, self.broadcast(Scale, X), self.broadcast(B, X))


@dataclass(frozen=True)
class RMSNormalization(_FromAxis, preset.Rms):
    """``RMSNormalization``."""

    axis: int = -1
    epsilon: float = 1e-5

    def __call__(self, X: Array, scale: Array) -> Array:
        """Return y."""
        return self.normalize(X, self.broadcast(scale, X), None)


@dataclass(frozen=True)
class GroupNormalization(preset.Group):
    """``GroupNormalization``: scale and bias of shape (C,), or one per group, as in opset 18."""

    num_groups: int
    epsilon: float = field(default=1e-5, kw_only=True)

    def options(self, x: Array) -> dict[str, Any]:
        return {"num_groups": self.num_groups, "channel_axis": 1, "eps": self.epsilon}

    def __call__(self, X: Array, scale: Array, bias: Array) -> Array:
        """Return y."""
        return self.normalize(X, *(self._of_channels(a, X) for a in (scale, bias)))

    def _of_channels(self, a: Array, x: Array) -> Array:
        """Return a parameter of shape (C,)."""
        if tuple(a.shape) != (self.num_groups,):
            return a
        xp, size = preset.library(a), preset.groups(x, self.num_groups, axis=1)
        return reshape(xp, xp.broadcast_to(a[:, None], (self.num_groups, size)), (-1,))


@dataclass(frozen=True)
class InstanceNormalization(preset.Instance):
    """``InstanceNormalization``."""

    epsilon: float = 1e-5

    def options(self, x: Array) -> dict[str, Any]:
        return {"channel_axis": 1, "eps": self.epsilon}

    def __call__(self, input: Array, scale: Array, B: Array) -> Array:  # noqa: A002
        """Return y."""
        return self.normalize(input, scale, B)


@dataclass(frozen=True)
class MeanVarianceNormalization(preset.Layer):
    """``MeanVarianceNormalization``: 1e-9 outside the root there, nothing here; a constant slice is 0 in both."""

    axes: Shape = (0, 2, 3)

    def options(self, x: Array) -> dict[str, Any]:
        return {"axis": tuple(self.axes), "eps": 0.0}

    def __call__(self, X: Array) -> Array:
        """Return y."""
        return self.normalize(X, None, None)


@dataclass(frozen=True)
class BatchNormalization(preset.Batch):
    """``BatchNormalization``.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import presets
    >>> x, one = np.asarray([[1.0], [3.0]]), np.asarray([1.0])
    >>> presets.onnx.BatchNormalization(epsilon=0)(x, one, one, one, one).ravel()
    array([1., 3.])
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    training_mode: int = 0

    def options(self, x: Array) -> dict[str, Any]:
        return {"channel_axis": 1, "eps": self.epsilon, "momentum": self.weight_of_new("momentum"), "correction": 0}

    def __call__(
        self,
        X: Array,
        scale: Array,
        B: Array,
        input_mean: Array,
        input_var: Array,
    ) -> Any:
        """Return y, or in training (y, running_mean, running_var)."""
        y, stats = self.step(X, input_mean, input_var, scale, B, training=bool(self.training_mode))
        return (y, stats.mean, stats.var) if self.training_mode else y


def arrays(model: Any, name: str) -> dict[str, Any]:
    """Return the initialisers that a node of a model takes, named as its preset names them, as NumPy arrays.

    The node is found by its name, or by that of its first output.
    """
    from onnx import numpy_helper

    found = [node for node in model.graph.node if name in {node.name, *node.output[:1]}]
    if not found:
        message = f"arrays needs the name of a node, or of its output: got {name!r}"
        raise ValueError(message)
    operator = globals().get(found[0].op_type)
    if operator is None:
        message = f"arrays needs a node that normalises: got {found[0].op_type}"
        raise ValueError(message)
    kept = {a.name: a for a in model.graph.initializer}
    names = list(signature(operator.__call__).parameters)[1:]
    taken = zip(names, found[0].input, strict=False)
    return {name: numpy_helper.to_array(kept[given]) for name, given in taken if given in kept}
