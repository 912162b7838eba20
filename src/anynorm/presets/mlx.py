"""The norms of ``mlx.nn``: channels last, momentum weights the new batch, running variances are unbiased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._core.arrays import check_sizes, reshape
from .._norms import layer_norm
from . import _preset as preset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.libraries import Array


class _Stateless(preset.Preset):
    """What all but batch norm have in common."""

    widens = True
    eps: float
    bias: bool = True  # which affine rules out, too

    def __call__(self, x: Array, /, *, weight: Array | None = None, bias: Array | None = None) -> Array:
        """Return y."""
        weight, bias = self.allowed("affine", "weight", weight), self.allowed("affine", "bias", bias)
        return self.normalize(x, weight, self.allowed("bias", "bias", bias))


@dataclass(frozen=True)
class LayerNorm(_Stateless, preset.Layer):
    """``mlx.nn.LayerNorm``, along the last axis."""

    dims: int
    eps: float = 1e-5
    affine: bool = True
    bias: bool = True

    def options(self, x: Array) -> dict[str, Any]:
        self.sized(x, -1, "dims")
        return {"axis": -1, "eps": self.eps}


@dataclass(frozen=True)
class RMSNorm(preset.Rms):
    """``mlx.nn.RMSNorm``, along the last axis."""

    dims: int
    eps: float = 1e-5
    widens = True

    def options(self, x: Array) -> dict[str, Any]:
        self.sized(x, -1, "dims")
        return {"axis": -1, "eps": self.eps}

    def __call__(self, x: Array, /, *, weight: Array | None = None) -> Array:
        """Return y."""
        return self.normalize(x, weight, None)


@dataclass(frozen=True)
class InstanceNorm(_Stateless, preset.Instance):
    """``mlx.nn.InstanceNorm``."""

    dims: int
    eps: float = 1e-5
    affine: bool = False

    def options(self, x: Array) -> dict[str, Any]:
        self.sized(x, -1, "dims")
        return {"channel_axis": -1, "eps": self.eps}


@dataclass(frozen=True)
class GroupNorm(_Stateless, preset.Group):
    """``mlx.nn.GroupNorm``: unless it is compatible with PyTorch, channel c is in group c modulo num_groups.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import presets
    >>> x = np.asarray([[1.0, 10.0, 3.0, 30.0]])
    >>> presets.mlx.GroupNorm(2, 4, eps=0)(x)
    array([[-1., -1.,  1.,  1.]])
    >>> presets.mlx.GroupNorm(2, 4, eps=0, pytorch_compatible=True)(x)
    array([[-1.,  1., -1.,  1.]])
    """

    num_groups: int
    dims: int
    eps: float = 1e-5
    affine: bool = True
    pytorch_compatible: bool = False

    def options(self, x: Array) -> dict[str, Any]:
        self.sized(x, -1, "dims")
        return {"num_groups": self.num_groups, "channel_axis": -1, "eps": self.eps}

    def normalize(self, x: Array, weight: Array | None, bias: Array | None, where: Array | None = None) -> Array:
        """Normalise x by its own statistics: interleaved groups as layers of the channels split the other way round."""
        if self.pytorch_compatible:
            return super().normalize(x, weight, bias, where)
        options, x = self.options(x), self.widened(x, weight, bias)
        check_sizes(preset.library(x), x.shape, range(1, x.ndim))
        split = (*x.shape[:-1], preset.groups(x, self.num_groups), self.num_groups)

        def interleaved(a: Array | None) -> Array | None:
            return None if a is None else reshape(preset.library(a), a, (*(1,) * (x.ndim - 1), *split[-2:]))

        apart, axes = reshape(preset.library(x), x, split), tuple(range(1, x.ndim))
        y = layer_norm(apart, interleaved(weight), interleaved(bias), axis=axes, eps=options["eps"])
        return reshape(preset.library(y), y, x.shape)


@dataclass(frozen=True)
class BatchNorm(preset.Batch, preset.Tracking):
    """``mlx.nn.BatchNorm``: its running variance is unbiased since July 2026."""

    num_features: int
    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True
    track_running_stats: bool = True
    widens = True

    def options(self, x: Array) -> dict[str, Any]:
        return {"channel_axis": -1, "eps": self.eps, "momentum": self.momentum, "correction": 1}

    def __call__(
        self,
        x: Array,
        /,
        *,
        weight: Array | None = None,
        bias: Array | None = None,
        running_mean: Array | None = None,
        running_var: Array | None = None,
        training: bool = False,
    ) -> Any:
        """Return (y, state), or y alone if it does not track running statistics."""
        self.sized(x, -1, "num_features")
        x = x if training else self.widened(x, running_mean, running_var)
        y, stats = self.track(x, weight, bias, running_mean, running_var, training=training)
        return y if stats is None else (y, self.named(stats))


def arrays(parameters: Mapping[str, Any], path: str = "") -> dict[str, Array]:
    """Return the arrays of one layer from a module's ``parameters()`` or a file of weights, for its preset.

    Examples
    --------
    >>> from anynorm import presets
    >>> presets.mlx.arrays({"norm": {"weight": 1, "bias": 0}}, "norm")
    {'weight': 1, 'bias': 0}
    """
    return preset.arrays(parameters, path)
