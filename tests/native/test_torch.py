"""PyTorch's own norms: they must agree with ours on data of small offset, and never be nearer to float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import anynorm
from backends import Torch
from native.comparison import SMALL, assert_native, assert_never_worse
from oracles import GROUPS, KINDS, NORMS, data, tolerance

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

pytestmark = pytest.mark.library("torch")

lib = Torch()
C = 12
HALVES = ("bfloat16", "float16")
DTYPES = ("float64", "float32", *HALVES)
SHAPES = {
    "2-D": (16, C),
    "3-D": (6, C, 11),
    "4-D": (5, C, 6, 7),
    "channels_last": (5, C, 6, 7),
    "channels_last_3d": (3, C, 4, 5, 3),
}
FORMATS = {"channels_last": torch.channels_last, "channels_last_3d": torch.channels_last_3d}

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_layout = pytest.mark.parametrize("layout", SHAPES)
small = pytest.mark.parametrize("kind", SMALL)
with_spatial_axes = pytest.mark.parametrize("layout", [name for name, shape in SHAPES.items() if len(shape) > 2])


def tensor(kind: str, layout: str, dtype: str, seed: int = 0, samples: int | None = None) -> Tensor:
    n, *rest = SHAPES[layout]
    x = lib.array(data(kind, (samples or n, *rest), "float64", seed), dtype)
    return x.contiguous(memory_format=FORMATS.get(layout, torch.contiguous_format))


def double(x: Tensor) -> np.ndarray:
    return x.double().numpy()


def wide(dtype: str) -> torch.dtype:
    """The dtype of the parameters and of the state: halves have float32 ones, as mixed-precision training does."""
    return torch.float64 if dtype == "float64" else torch.float32


def parameters(affine: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    rng = np.random.default_rng(7)
    weight, bias = (torch.tensor(rng.uniform(low, 1.5, shape), dtype=dtype) for low in (0.5, -1.5))
    return (weight if "weight" in affine else None), (bias if "bias" in affine else None)


def fresh_state(dtype: str) -> tuple[Tensor, Tensor]:
    return torch.zeros(C, dtype=wide(dtype)), torch.ones(C, dtype=wide(dtype))


class Pair(NamedTuple):
    """A norm of ours and PyTorch's, as functions of x, weight and bias."""

    name: str
    ours: Callable[..., Tensor]
    native: Callable[..., Tensor]
    shape: Callable[[Tensor], tuple[int, ...]] = lambda x: (C,)  # of weight and bias

    def __str__(self) -> str:
        return self.name


def native_batch_norm(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    return F.batch_norm(x, *fresh_state(lib.dtype(x)), w, b, training=True)


def native_instance_norm(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    return F.instance_norm(x, *fresh_state(lib.dtype(x)), w, b, use_input_stats=True)


def over(name: str, first: int) -> list[Pair]:
    """Layer and rms norm over the axes from first on."""
    return [
        Pair(
            f"layer_norm over {name}",
            lambda x, w, b: anynorm.layer_norm(x, w, b, axis=tuple(range(first % x.ndim, x.ndim))),
            lambda x, w, b: F.layer_norm(x, x.shape[first:], w, b),
            lambda x: x.shape[first:],
        ),
        Pair(
            f"rms_norm over {name}",
            lambda x, w, b: anynorm.rms_norm(x, w, axis=tuple(range(first % x.ndim, x.ndim))),
            lambda x, w, b: F.rms_norm(x, x.shape[first:], w, eps=1e-5),
            lambda x: x.shape[first:],
        ),
    ]


BY_AXES = [*over("the last axis", -1), *over("the last two", -2), *over("all but the samples", 1)]
BY_GROUPS = [
    Pair(
        f"group_norm of {groups}",
        lambda x, w, b, groups=groups: anynorm.group_norm(x, groups, w, b),
        lambda x, w, b, groups=groups: F.group_norm(x, groups, w, b),
    )
    for groups in (1, 3, 4, C)
]
INSTANCE = Pair("instance_norm", lambda x, w, b: anynorm.instance_norm(x, weight=w, bias=b), native_instance_norm)
BATCH = Pair("batch_norm", lambda x, w, b: anynorm.batch_norm(x, weight=w, bias=b), native_batch_norm)

each_affine = pytest.mark.parametrize("affine", ["plain", "weight", "weight and bias"])


def possible(pair: Pair, x: Tensor) -> bool:
    """Whether the norm has a slice of more than one element to share statistics over."""
    if pair is INSTANCE:
        return x.ndim > 2
    return not (pair.name == f"group_norm of {C}" and x.ndim == 2)


def compare(pair: Pair, x: Tensor, affine: str, parameter_dtype: torch.dtype) -> None:
    weight, bias = parameters(affine, pair.shape(x), parameter_dtype)
    ours, native = pair.ours(x, weight, bias), pair.native(x, weight, bias)
    assert ours.dtype == native.dtype == x.dtype
    assert_native(double(ours), double(native), lib.dtype(x))


@each_dtype
@small
@each_affine
@each_layout
@pytest.mark.parametrize("pair", [*BY_AXES, *BY_GROUPS], ids=str)
def test_layer_rms_and_group_norm_are_torchs(pair, layout, affine, kind, dtype):
    x = tensor(kind, layout, dtype)
    if possible(pair, x):
        compare(pair, x, affine, x.dtype)
