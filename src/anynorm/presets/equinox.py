"""The norms of ``equinox.nn``, over a batch: what ``jax.vmap`` makes of them there, with the samples on axis 0.

Layer and RMS norm, which know the shape of a sample, take a single one, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._core.arrays import as_number
from .._moments import moments, variance
from .._running import RunningStats
from . import _preset as preset

if TYPE_CHECKING:
    from .._core.libraries import Array, Shape


class _Whole(preset.Preset):
    """What layer and RMS norm have in common: they normalise whole samples, of a shape that they know."""

    shape: int | Shape
    eps: float

    def options(self, x: Array) -> dict[str, Any]:
        return {"axis": self.trailing(x, "shape", more=1), "eps": self.eps}

    def __call__(self, x: Array, /, *, weight: Array | None = None, bias: Array | None = None) -> Array:
        """Return y."""
        return self.normalize(x, self.allowed("use_weight", "weight", weight), self.allowed("use_bias", "bias", bias))


@dataclass(frozen=True)
class LayerNorm(_Whole, preset.Layer):
    """``equinox.nn.LayerNorm``."""

    shape: int | Shape
    eps: float = 1e-5
    use_weight: bool = True
    use_bias: bool = True


@dataclass(frozen=True)
class RMSNorm(_Whole, preset.Rms):
    """``equinox.nn.RMSNorm``."""

    shape: int | Shape
    eps: float = 1e-5
    use_weight: bool = True
    use_bias: bool = True


@dataclass(frozen=True)
class GroupNorm(preset.Group):
    """``equinox.nn.GroupNorm``."""

    groups: int
    channels: int | None = None
    eps: float = 1e-5
    channelwise_affine: bool = True

    def options(self, x: Array) -> dict[str, Any]:
        return {"num_groups": self.groups, "channel_axis": 1, "eps": self.eps}

    def __call__(self, x: Array, /, *, weight: Array | None = None, bias: Array | None = None) -> Array:
        """Return y."""
        if self.channels is not None:
            self.sized(x, 1, "channels")
        weight, bias = (self.allowed("channelwise_affine", *a) for a in (("weight", weight), ("bias", bias)))
        return self.normalize(x, weight, bias)


@dataclass(frozen=True)
class BatchNorm(preset.Batch):
    """``equinox.nn.BatchNorm``, in mode "ema" or "batch".

    In mode "ema", the default, x is normalised by the running statistics, which have already seen it. In mode "batch"
    they start at 0 and 1 and are divided by 1 - momentum ** count, as there.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import presets
    >>> norm = presets.equinox.BatchNorm(1, "batch", mode="batch")
    >>> y, state = norm(np.asarray([[1.0], [3.0]]))
    >>> state["batch_counter"], state["batch_state"][0].round(3)
    (1, array([0.02]))
    """

    input_size: int
    axis_name: Any
    eps: float = 1e-5
    channelwise_affine: bool = True
    momentum: float = 0.99
    inference: bool = False
    mode: str = field(default="ema", kw_only=True)
    widens = True

    def options(self, x: Array) -> dict[str, Any]:
        return {"channel_axis": 1, "eps": self.eps, "momentum": self.weight_of_new("momentum"), "correction": 0}

    def __call__(
        self,
        x: Array,
        /,
        *,
        inference: bool | None = None,
        weight: Array | None = None,
        bias: Array | None = None,
        ema_first_time: Any = True,
        ema_state: tuple[Array, Array] | None = None,
        batch_counter: Any = 0,
        batch_state: tuple[Array, Array] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Return (y, state)."""
        if self.mode not in {"ema", "batch"}:
            message = f"BatchNorm needs mode to be ema or batch: got {self.mode!r}"
            raise ValueError(message)
        self.sized(x, 1, "input_size")
        weight, bias = (self.allowed("channelwise_affine", *a) for a in (("weight", weight), ("bias", bias)))
        infers = self.inference if inference is None else inference
        if self.mode == "ema":
            return self._by_what_has_seen_it(x, weight, bias, ema_first_time, ema_state, infers=infers)
        stats = self.start(x) if batch_state is None else RunningStats(*batch_state)
        if infers:
            xp = preset.library(stats.mean)
            count = as_number(xp, batch_counter, stats.mean.dtype)
            share = 1 - self.momentum**count + (count == 0) * 1.0
            y = self.step(x, stats.mean / share, stats.var / share, weight, bias, training=False)[0]
        else:
            y, stats = self.step(x, *stats[:2], weight, bias, training=True)
            batch_counter = batch_counter + 1
        return y, {"batch_counter": batch_counter, "batch_state": tuple(stats[:2])}

    def _by_what_has_seen_it(
        self, x: Array, weight: Array | None, bias: Array | None, first: Any, state: Any, *, infers: bool
    ) -> tuple[Array, dict[str, Any]]:
        """Normalise by the running statistics, which take in x before, if it is not for inference."""
        if not infers:
            m, share = moments(x, axis=tuple(i for i in range(x.ndim) if i != 1)), self.weight_of_new("momentum")
            own = (m.mean, variance(m))
            moved = [
                (1 - share) * old + share * new for old, new in zip(own if state is None else state, own, strict=True)
            ]
            state = [_where(True if state is None else first, new, both) for new, both in zip(own, moved, strict=True)]
            first = False
        if state is None:
            message = "BatchNorm needs ema_state for inference: got None; train first, or give what was kept"
            raise ValueError(message)
        mean, var = state
        y = self.step(x, mean, var, weight, bias, training=False)[0]
        return y, {"ema_first_time": first, "ema_state": (mean, var)}


def _where(first: Any, new: Array, old: Array) -> Array:
    """Return the one or the other, as a flag says that may be an array."""
    return (new if first else old) if isinstance(first, bool) else preset.library(new).where(first, new, old)


def arrays(layer: Any, state: Any = None) -> dict[str, Any]:
    """Return the arrays of an Equinox layer, and those of its state, for its preset."""
    own = {name: getattr(layer, name) for name in ("weight", "bias") if getattr(layer, name, None) is not None}
    names = {
        "ema_first_time": "ema_first_time_index",
        "ema_state": "ema_state_index",
        "batch_counter": "batch_counter",
        "batch_state": "batch_state_index",
    }
    indices = {} if state is None else {name: getattr(layer, index, None) for name, index in names.items()}
    return {**own, **{name: state.get(index) for name, index in indices.items() if index is not None}}
