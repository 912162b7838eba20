"""Batch, layer, instance and group norm for the arrays of any library."""

from importlib import import_module as _import_module

from . import vjp
from ._core.libraries import register
from ._engines import engine
from ._mixtures import (
    batch_instance_norm,
    batch_instance_norm_train,
    switchable_norm,
    switchable_norm_train,
)
from ._moments import Moments, merge, moments, variance
from ._norms import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from ._relatives import batch_renorm_train, local_response_norm, spectral_norm, unit_norm, weight_standardize
from ._running import (
    PopulationStats,
    RunningStats,
    batch_norm_train,
    instance_norm_train,
    population_stats,
    running_stats,
)
from ._scaling import minmax_scale, zscore

__all__ = [
    "Moments",
    "PopulationStats",
    "RunningStats",
    "batch_instance_norm",
    "batch_instance_norm_train",
    "batch_norm",
    "batch_norm_train",
    "batch_renorm_train",
    "engine",
    "group_norm",
    "instance_norm",
    "instance_norm_train",
    "layer_norm",
    "local_response_norm",
    "merge",
    "minmax_scale",
    "moments",
    "population_stats",
    "register",
    "rms_norm",
    "running_stats",
    "spectral_norm",
    "switchable_norm",
    "switchable_norm_train",
    "unit_norm",
    "variance",
    "vjp",
    "weight_standardize",
    "zscore",
]
__version__ = "0.1.0"

_BESIDE = ("presets", "testing")  # packages that are imported when they are first used


def __getattr__(name: str) -> object:
    if name in _BESIDE:
        return _import_module(f"{__name__}.{name}")
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *_BESIDE})
