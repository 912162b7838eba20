"""The norms of ``torch.nn``: channels on axis 1, momentum weights the new batch, running variances are unbiased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .._running import instance_norm_train
from . import _preset as preset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.libraries import Array, Shape


class _Stateful(preset.Tracking):
    """What batch and instance norm have in common."""

    ranks: ClassVar[tuple[int, ...]]
    counts_batches: ClassVar[bool] = True
    num_features: int
    eps: float
    momentum: float | None

    def options(self, x: Array) -> dict[str, Any]:
        return {"channel_axis": 1, "eps": self.eps, "momentum": self.momentum, "correction": 1}

    def __call__(
        self,
        x: Array,
        /,
        *,
        weight: Array | None = None,
        bias: Array | None = None,
        running_mean: Array | None = None,
        running_var: Array | None = None,
        num_batches_tracked: Any = 0,
        training: bool = False,
    ) -> Any:
        """Return (y, state), or y alone if it does not track running statistics."""
        if preset.library(x) and not self.ranks[0] <= x.ndim <= self.ranks[-1]:  # torch.compile misreads `not in`
            message = f"{type(self).__name__} needs x of rank {' or '.join(map(str, self.ranks))}: got {x.ndim}"
            raise ValueError(message)
        self.sized(x, self.options(x)["channel_axis"], "num_features")
        y, stats = self.track(x, weight, bias, running_mean, running_var, training=training, steps=num_batches_tracked)
        steps = num_batches_tracked if stats is None or not self.counts_batches else stats.steps
        return y if stats is None else (y, {**self.named(stats), "num_batches_tracked": steps})


@dataclass(frozen=True)
class BatchNorm1d(_Stateful, preset.Batch):
    """``torch.nn.BatchNorm1d``, of x of shape (N, C) or (N, C, L).

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import presets
    >>> y, state = presets.torch.BatchNorm1d(1, eps=0)(
    ...     np.asarray([[1.0], [3.0]]), training=True
    ... )
    >>> y.ravel(), state["running_mean"], state["running_var"]
    (array([-1.,  1.]), array([0.2]), array([1.1]))
    """

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True
    ranks: ClassVar[tuple[int, ...]] = (2, 3)


class BatchNorm2d(BatchNorm1d):
    """``torch.nn.BatchNorm2d``, of x of shape (N, C, H, W)."""

    ranks = (4,)


class BatchNorm3d(BatchNorm1d):
    """``torch.nn.BatchNorm3d``, of x of shape (N, C, D, H, W)."""

    ranks = (5,)


@dataclass(frozen=True)
class InstanceNorm1d(preset.Instance, _Stateful):
    """``torch.nn.InstanceNorm1d``, of x of shape (N, C, L) or (C, L).

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import presets
    >>> presets.torch.InstanceNorm1d(1, eps=0)(np.asarray([[[1.0, 3.0]]]))
    array([[[-1.,  1.]]])
    """

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = False
    track_running_stats: bool = False
    ranks: ClassVar[tuple[int, ...]] = (2, 3)
    counts_batches: ClassVar[bool] = False
    train = staticmethod(instance_norm_train)

    def options(self, x: Array) -> dict[str, Any]:
        momentum = 0.0 if self.momentum is None else self.momentum  # which never moves, as there
        return {**super().options(x), "momentum": momentum, "channel_axis": 0 if x.ndim == self.ranks[0] else 1}


class InstanceNorm2d(InstanceNorm1d):
    """``torch.nn.InstanceNorm2d``, of x of shape (N, C, H, W) or (C, H, W)."""

    ranks = (3, 4)


class InstanceNorm3d(InstanceNorm1d):
    """``torch.nn.InstanceNorm3d``, of x of shape (N, C, D, H, W) or (C, D, H, W)."""

    ranks = (4, 5)


@dataclass(frozen=True)
class LayerNorm(preset.Layer):
    """``torch.nn.LayerNorm``: weight and bias have the trailing shape that is normalised."""

    normalized_shape: int | Shape
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool = True

    def options(self, x: Array) -> dict[str, Any]:
        return {"axis": self.trailing(x, "normalized_shape"), "eps": self.eps}

    def __call__(self, x: Array, /, *, weight: Array | None = None, bias: Array | None = None) -> Array:
        """Return y."""
        weight = self.allowed("elementwise_affine", "weight", weight)
        bias = self.allowed("elementwise_affine", "bias", bias)
        return self.normalize(x, weight, self.allowed("bias", "bias", bias))


@dataclass(frozen=True)
class RMSNorm(preset.Rms):
    """``torch.nn.RMSNorm``: with eps=None, it is the distance from 1 to the next number in the computing dtype."""

    normalized_shape: int | Shape
    eps: float | None = None
    elementwise_affine: bool = True

    def options(self, x: Array) -> dict[str, Any]:
        axes = self.trailing(x, "normalized_shape")
        smallest = 2.0**-52 if x.dtype == preset.library(x).float64 else 2.0**-23
        return {"axis": axes, "eps": smallest if self.eps is None else self.eps}

    def __call__(self, x: Array, /, *, weight: Array | None = None) -> Array:
        """Return y."""
        return self.normalize(x, self.allowed("elementwise_affine", "weight", weight), None)


@dataclass(frozen=True)
class GroupNorm(preset.Group):
    """``torch.nn.GroupNorm``."""

    num_groups: int
    num_channels: int
    eps: float = 1e-5
    affine: bool = True

    def options(self, x: Array) -> dict[str, Any]:
        return {"num_groups": self.num_groups, "channel_axis": 1, "eps": self.eps}

    def __call__(self, x: Array, /, *, weight: Array | None = None, bias: Array | None = None) -> Array:
        """Return y."""
        self.sized(x, 1, "num_channels")
        return self.normalize(x, self.allowed("affine", "weight", weight), self.allowed("affine", "bias", bias))


def arrays(state_dict: Mapping[str, Array], path: str = "") -> dict[str, Array]:
    """Return the arrays of one layer of a ``state_dict``, or of a loaded safetensors file, for its preset.

    Examples
    --------
    >>> from anynorm import presets
    >>> presets.torch.arrays(
    ...     {"block.norm.weight": 1, "block.norm.bias": 0, "head.bias": 2}, "block.norm"
    ... )
    {'weight': 1, 'bias': 0}
    """
    return preset.arrays(state_dict, path)
