"""The norms of ``flax.linen``: channels last, momentum weights the old value, variances are biased.

Those of ``flax.nnx`` have the same options, except that batch norm trains by default: ``use_running_average=False``.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from . import _preset as preset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.libraries import Array, Shape


class _Stateless(preset.Preset):
    """What all but batch norm have in common. What a mask hides standardises to 0 here."""

    widens = True
    feature_axes: int | Shape = -1
    use_bias: bool = False

    def __call__(
        self, x: Array, /, *, scale: Array | None = None, bias: Array | None = None, mask: Array | None = None
    ) -> Array:
        """Return y."""
        scale, bias = self.allowed("use_scale", "scale", scale), self.allowed("use_bias", "bias", bias)
        scale, bias = (preset.along(a, self.feature_axes, x) for a in (scale, bias))
        return self.normalize(x, scale, bias, mask)


@dataclass(frozen=True)
class LayerNorm(_Stateless, preset.Layer):
    """``flax.linen.LayerNorm``: scale and bias run along feature_axes, whichever axes are reduced."""

    epsilon: float = 1e-6
    _: KW_ONLY
    use_bias: bool = True
    use_scale: bool = True
    reduction_axes: int | Shape = -1
    feature_axes: int | Shape = -1

    def options(self, x: Array) -> dict[str, Any]:
        return {"axis": self.reduction_axes, "eps": self.epsilon}


@dataclass(frozen=True)
class RMSNorm(_Stateless, preset.Rms):
    """``flax.linen.RMSNorm``."""

    epsilon: float = 1e-6
    _: KW_ONLY
    use_scale: bool = True
    reduction_axes: int | Shape = -1
    feature_axes: int | Shape = -1

    def options(self, x: Array) -> dict[str, Any]:
        return {"axis": self.reduction_axes, "eps": self.epsilon}


@dataclass(frozen=True)
class GroupNorm(_Stateless, preset.Group):
    """``flax.linen.GroupNorm``: 32 groups, or groups of group_size channels."""

    num_groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-6
    _: KW_ONLY
    use_bias: bool = True
    use_scale: bool = True

    def options(self, x: Array) -> dict[str, Any]:
        if (self.num_groups is None) == (self.group_size is None):
            message = (
                f"GroupNorm needs num_groups or group_size, and None for the other: got num_groups={self.num_groups}, "
                f"group_size={self.group_size}"
            )
            raise ValueError(message)
        size = self.group_size
        groups = self.num_groups if size is None else preset.groups(x, size, "group_size")
        return {"num_groups": groups, "channel_axis": -1, "eps": self.epsilon}


@dataclass(frozen=True)
class InstanceNorm(_Stateless, preset.Instance):
    """``flax.linen.InstanceNorm``, with one axis of features."""

    epsilon: float = 1e-6
    _: KW_ONLY
    use_bias: bool = True
    use_scale: bool = True
    feature_axes: int = -1

    def options(self, x: Array) -> dict[str, Any]:
        return {"channel_axis": self.feature_axes, "eps": self.epsilon}


@dataclass(frozen=True)
class BatchNorm(preset.Batch):
    """``flax.linen.BatchNorm``, with one axis of features.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import presets
    >>> y, state = presets.flax.BatchNorm(use_running_average=False)(
    ...     np.asarray([[1.0], [3.0]])
    ... )
    >>> state["mean"].round(3), state["var"]
    (array([0.02]), array([1.]))
    """

    use_running_average: bool | None = None
    axis: int = -1
    momentum: float = 0.99
    epsilon: float = 1e-5
    _: KW_ONLY
    use_bias: bool = True
    use_scale: bool = True
    names = ("mean", "var")
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
        use_running_average: bool | None = None,
        *,
        scale: Array | None = None,
        bias: Array | None = None,
        mean: Array | None = None,
        var: Array | None = None,
        mask: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Return (y, state)."""
        use = self.use_running_average if use_running_average is None else use_running_average
        if use is None or (self.use_running_average is not None and use_running_average is not None):
            message = (
                f"BatchNorm needs use_running_average once, from the start or where it is called: got "
                f"{self.use_running_average} and {use_running_average}"
            )
            raise ValueError(message)
        scale, bias = self.allowed("use_scale", "scale", scale), self.allowed("use_bias", "bias", bias)
        y, stats = self.step(x, mean, var, scale, bias, training=not use, where=mask)
        return y, self.named(stats)


def arrays(variables: Mapping[str, Mapping[str, Any]], path: str = "") -> dict[str, Array]:
    """Return the arrays of one layer from all collections of Flax's variables, for its preset.

    For a module of ``flax.nnx``, pass its state as a mapping: ``{"state": flax.nnx.to_pure_dict(state)}``.

    Examples
    --------
    >>> from anynorm import presets
    >>> variables = {
    ...     "params": {"Norm_0": {"scale": 1, "bias": 0}},
    ...     "batch_stats": {"Norm_0": {"mean": 2, "var": 3}},
    ... }
    >>> presets.flax.arrays(variables, "Norm_0")
    {'scale': 1, 'bias': 0, 'mean': 2, 'var': 3}
    """
    return preset.arrays_of_all(variables, path)
