"""The norms of ``haiku``: channels last by default, running averages corrected for their start."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._core.arrays import as_number, reshape
from . import _preset as preset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.libraries import Array, Shape

CHANNELS = {  # formats, as patterns of the whole name, and where their channels are
    "channels_last|N[^C]+C|(BT|TB)[^D]*D": -1,
    "channels_first|NC[^C]*": 1,
}


class _Affine(preset.Preset):
    """What all but batch and RMS norm have in common. Scale and offset may be given whoever is to create them."""

    param_axis: Any
    widens = True

    def __call__(self, x: Array, /, *, scale: Array | None = None, offset: Array | None = None) -> Array:
        """Return y."""
        axes = -1 if self.param_axis is None else self.param_axis
        return self.normalize(x, *(preset.along(a, axes, x) for a in (scale, offset)))


class _Formatted:
    """What is told where the channels are by the name of a format."""

    data_format: str

    @property
    def param_axis(self) -> Any:
        """The axis of the channels."""
        for pattern, axis in CHANNELS.items():
            if re.fullmatch(pattern, self.data_format):
                return axis
        message = (
            f"{type(self).__name__} needs data_format to be channels_last, channels_first, or letters such as NHWC and "
            f"NCHW: got {self.data_format!r}"
        )
        raise ValueError(message)


def _axes(axis: int | slice | Shape, x: Array) -> Shape:
    return tuple(range(x.ndim)[axis]) if isinstance(axis, slice) else preset.as_tuple(axis)


@dataclass(frozen=True)
class LayerNorm(_Affine, preset.Layer):
    """``haiku.LayerNorm``: scale and offset run along param_axis, by default the last."""

    axis: int | slice | Shape
    create_scale: bool
    create_offset: bool
    eps: float = 1e-5
    param_axis: int | slice | Shape | None = field(default=None, kw_only=True)

    def options(self, x: Array) -> dict[str, Any]:
        return {"axis": _axes(self.axis, x), "eps": self.eps}


@dataclass(frozen=True)
class RMSNorm(preset.Rms):
    """``haiku.RMSNorm``."""

    axis: int | slice | Shape
    eps: float = 1e-5
    create_scale: bool = field(default=True, kw_only=True)
    param_axis: int | slice | Shape | None = field(default=None, kw_only=True)
    widens = True

    def options(self, x: Array) -> dict[str, Any]:
        return {"axis": _axes(self.axis, x), "eps": self.eps}

    def __call__(self, x: Array, /, *, scale: Array | None = None) -> Array:
        """Return y."""
        scale = self.allowed("create_scale", "scale", scale)
        return self.normalize(x, preset.along(scale, -1 if self.param_axis is None else self.param_axis, x), None)


@dataclass(frozen=True)
class GroupNorm(_Formatted, _Affine, preset.Group):
    """``haiku.GroupNorm``, over all axes but the first."""

    groups: int
    create_scale: bool = field(default=True, kw_only=True)
    create_offset: bool = field(default=True, kw_only=True)
    eps: float = field(default=1e-5, kw_only=True)
    data_format: str = field(default="channels_last", kw_only=True)

    def options(self, x: Array) -> dict[str, Any]:
        return {"num_groups": self.groups, "channel_axis": self.param_axis, "eps": self.eps}


@dataclass(frozen=True)
class InstanceNorm(_Formatted, _Affine, preset.Instance):
    """``haiku.InstanceNorm``."""

    create_scale: bool
    create_offset: bool
    eps: float = 1e-5
    data_format: str = field(default="channels_last", kw_only=True)

    def options(self, x: Array) -> dict[str, Any]:
        return {"channel_axis": self.param_axis, "eps": self.eps}


@dataclass(frozen=True)
class BatchNorm(_Formatted, preset.Batch):
    """``haiku.BatchNorm``: its state is two averages, each with a "hidden" one, the corrected one, and a count.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import presets
    >>> norm = presets.haiku.BatchNorm(True, True, decay_rate=0.9)
    >>> y, state = norm(np.asarray([[1.0], [3.0]]), is_training=True)
    >>> {name: np.ravel(a).round(3) for name, a in state["mean_ema"].items()}
    {'hidden': array([0.2]), 'average': array([2.]), 'counter': array([1])}
    """

    create_scale: bool
    create_offset: bool
    decay_rate: float
    eps: float = 1e-5
    data_format: str = field(default="channels_last", kw_only=True)
    widens = True

    def options(self, x: Array) -> dict[str, Any]:
        return {"channel_axis": self.param_axis, "eps": self.eps, "momentum": 1.0, "correction": 0}

    def __call__(
        self,
        x: Array,
        /,
        is_training: bool,
        test_local_stats: bool = False,
        *,
        scale: Array | None = None,
        offset: Array | None = None,
        mean_ema: Mapping[str, Any] | None = None,
        var_ema: Mapping[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Return (y, state)."""
        emas, own = (mean_ema, var_ema), is_training or test_local_stats
        if (mean_ema is None) != (var_ema is None) or (mean_ema is None and not own):
            message = "BatchNorm needs mean_ema and var_ema, or in training neither: got None"
            raise ValueError(message)
        mean, var = (None if own or ema is None else reshape(preset.library(x), ema["average"], (-1,)) for ema in emas)
        shape = tuple(size if i == self.param_axis % x.ndim else 1 for i, size in enumerate(x.shape))
        scale, offset = (preset.along(a, self.param_axis, x) for a in (scale, offset))
        y, stats = self.step(x, mean, var, scale, offset, training=own)
        if not is_training:
            return y, {"mean_ema": mean_ema, "var_ema": var_ema}
        share = self.weight_of_new("decay_rate")
        new = [
            _averaged(ema, reshape(preset.library(x), a, shape), share) for ema, a in zip(emas, stats[:2], strict=True)
        ]
        return y, dict(zip(("mean_ema", "var_ema"), new, strict=True))


def _averaged(ema: Mapping[str, Any] | None, value: Array, share: float) -> dict[str, Any]:
    """Return an average that has seen another value, of which that is a share."""
    xp, hidden, counter = preset.library(value), 0.0, 0
    if ema is not None:
        hidden, counter = reshape(xp, ema["hidden"], tuple(value.shape)), ema["counter"]
    hidden, counter = hidden * (1 - share) + value * share, counter + 1
    seen = 1 - (1 - share) ** as_number(xp, counter, value.dtype)
    return {"hidden": hidden, "average": hidden / seen, "counter": counter}


def arrays(params: Mapping[str, Any], name: str, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the arrays of one module from Haiku's parameters and state, for its preset.

    Examples
    --------
    >>> from anynorm import presets
    >>> params, state = (
    ...     {"net/norm": {"scale": 1}},
    ...     {"net/norm/~/mean_ema": {"average": 2}, "net/norm/~/var_ema": {}},
    ... )
    >>> presets.haiku.arrays(params, "net/norm", state)
    {'scale': 1, 'mean_ema': {'average': 2}, 'var_ema': {}}
    """
    inner = {key: a for key, a in (state or {}).items() if key.startswith(f"{name}/~/")}
    if name not in params and not inner:
        message = f"arrays needs name to be of {', '.join(params)}: got {name!r}"
        raise ValueError(message)
    return {**params.get(name, {}), **{key.rpartition("/")[2]: a for key, a in inner.items()}}
