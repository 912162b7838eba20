"""On Dask: SciPy's and scikit-learn's scalings of the computed array, float64, and the textbook's lines in Dask."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import pytest
import scipy.stats
import sklearn.preprocessing

import anynorm
from anynorm.testing._uses import Dask
from native.comparison import SMALL, assert_native, assert_never_worse
from oracles import GROUPS, KINDS, NORMS, assert_within, data, standardized, tolerance

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.library("dask")

lib = Dask()
TABLE = (40, 6)
IMAGES = (8, 6, 5, 7)  # N, C, H, W
CHUNKS = (5, 4, 5, 4)  # chunks of 4 channels and groups of 3

each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])
each_small_kind = pytest.mark.parametrize("kind", SMALL)
each_chunking = pytest.mark.parametrize(
    "chunks", [(7, 4), (40, 6), pytest.param((3, 1), marks=pytest.mark.slow)], ids=str
)


def computed(function: Callable[[da.Array], da.Array], x: np.ndarray, chunks: tuple[int, ...]) -> np.ndarray:
    """Call a function of a Dask array, which may compute nothing and has to keep the chunks; then compute."""
    lazy = da.from_array(x, chunks=chunks)
    y = lib.run(function, lazy)
    assert y.chunks == lazy.chunks
    assert y.dtype == x.dtype
    return lib.numpy(y)


@each_dtype
@each_small_kind
@each_chunking
@pytest.mark.parametrize(("axis", "ddof"), [(0, 0), (0, 1), (1, 0), (None, 0)])
def test_zscore_gives_what_scipy_gives(axis, ddof, chunks, kind, dtype):
    x = data(kind, TABLE, dtype)
    ours = computed(partial(anynorm.zscore, axis=axis, correction=ddof), x, chunks)
    assert_native(ours, scipy.stats.zscore(x, axis=axis, ddof=ddof), dtype)


@each_dtype
@each_small_kind
@each_chunking
@pytest.mark.parametrize("feature_range", [(0, 1), (-2, 3)])
def test_scalings_give_what_scikit_learn_gives_constant_columns_included(feature_range, chunks, kind, dtype):
    x = data(kind, TABLE, dtype)
    x[:, 2] = 3.7
    ours = computed(partial(anynorm.minmax_scale, feature_range=feature_range), x, chunks)
    assert_native(ours, sklearn.preprocessing.MinMaxScaler(feature_range).fit_transform(x), dtype)
    ours = computed(anynorm.zscore, x, chunks)
    assert_native(ours, sklearn.preprocessing.StandardScaler().fit_transform(x), dtype)


def test_zscore_of_many_chunks_at_an_offset_keeps_the_promise():
    x = data("offset 1e+04", (200_000, 3))
    exact = standardized(x, (0,), 0)
    assert_within(computed(anynorm.zscore, x, (9_999, 2)), exact, tolerance(x, exact, "float32"))


@each_dtype
@each_small_kind
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_every_norm_gives_what_float64_gives(norm, kind, dtype):
    x = data(kind, IMAGES, dtype)
    assert_native(computed(norm.call, x, CHUNKS), norm.oracle(x.astype("float64")), dtype)


@each_dtype
@pytest.mark.parametrize(
    ("train", "norm", "axes"),
    [
        (anynorm.batch_norm_train, anynorm.batch_norm, (0, 2, 3)),
        (anynorm.instance_norm_train, anynorm.instance_norm, (2, 3)),
    ],
)
def test_ten_steps_of_running_statistics_and_inference_go_as_in_float64(train, norm, axes, dtype):
    mean, var = np.zeros(6), np.ones(6)
    stats = anynorm.running_stats(6, like=da.from_array(data("offset 3", IMAGES, dtype)))
    for step in range(10):
        x = data("offset 3", IMAGES, dtype, seed=step)
        _, stats = lib.run(train, da.from_array(x, chunks=CHUNKS), stats)
        wide = x.astype("float64")
        mean = 0.9 * mean + 0.1 * wide.mean(axes, keepdims=True).mean((0, 2, 3))
        var = 0.9 * var + 0.1 * wide.var(axes, ddof=1, keepdims=True).mean((0, 2, 3))
    assert stats.mean.dtype == stats.var.dtype == dtype
    stats = lib.numpy(stats)
    assert_native(stats.mean, mean, dtype)
    assert_native(stats.var, var, dtype)
    assert stats.steps == 10
    exact = (wide - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    assert_native(computed(partial(norm, stats=stats), x, CHUNKS), exact, dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_ours_is_never_further_from_float64_than_two_lines_of_dask(norm, kind):
    x = data(kind, IMAGES, "float32")
    a = da.from_array(x, chunks=CHUNKS)
    a = a.reshape(8, GROUPS, 6 // GROUPS, 5, 7) if norm.groups else a
    axes = norm.axes(x.ndim)
    if norm.rms:
        native = a / da.sqrt(da.mean(a * a, axis=axes, keepdims=True) + 1e-5)
    else:
        native = (a - a.mean(axis=axes, keepdims=True)) / da.sqrt(a.var(axis=axes, keepdims=True) + 1e-5)
    exact = norm.oracle(x)
    ours = computed(norm.call, x, CHUNKS)
    assert_never_worse(ours, lib.numpy(native).reshape(x.shape), exact, tolerance(x, exact, "float32"))
