"""What NumPy users have: SciPy's zscore, scikit-learn's scalers, and the textbook's lines in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import scipy.stats
import sklearn.preprocessing

import anynorm
from native.comparison import SMALL, assert_native, assert_never_worse
from oracles import GROUPS, KINDS, NORMS, data, standardized, tolerance, widen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.library("numpy")

TABLE = (200, 12)  # samples, features
DTYPES = ("float64", "float32")

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_small_kind = pytest.mark.parametrize("kind", SMALL)


def assert_same(ours: np.ndarray, native: np.ndarray) -> None:
    assert ours.dtype == native.dtype
    assert_native(ours, native, str(native.dtype))


# -------------------------------------------------------------------------------- scipy.stats.zscore


@each_dtype
@each_small_kind
@pytest.mark.parametrize("ddof", [0, 1, 2])
@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("shape", [TABLE, (30, 20, 10)])
def test_zscore_gives_what_scipy_gives(shape, axis, ddof, kind, dtype):
    x = data(kind, shape, dtype)
    assert_same(anynorm.zscore(x, axis=axis, correction=ddof), scipy.stats.zscore(x, axis=axis, ddof=ddof))


def test_zscore_takes_axis_0_and_no_correction_unless_told_as_scipy_does():
    x = data("offset 0", TABLE, "float64")
    assert_same(anynorm.zscore(x), scipy.stats.zscore(x))


def test_zscore_of_integers_is_scipys():
    x = np.random.default_rng(0).integers(-1000, 1000, TABLE)
    assert_same(anynorm.zscore(x), scipy.stats.zscore(x))


@each_dtype
@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")
def test_a_constant_column_is_0_where_scipy_has_nan_or_worse(dtype):
    x = data("offset 0", TABLE, dtype)
    x[:, 1], x[:, 2] = 4, 3.7
    ours, native = anynorm.zscore(x), scipy.stats.zscore(x)
    assert np.all(np.isnan(native[:, 1]))
    assert not np.any(native[:, 2] == 0)  # -1 in SciPy 1.17: the mean of 200 times 3.7 is not 3.7
    assert np.all(ours[:, 1:3] == 0)
    assert_same(np.delete(ours, [1, 2], axis=1), np.delete(native, [1, 2], axis=1))


@each_dtype
@each_kind
@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")
def test_zscore_is_never_further_from_float64_than_scipys(kind, dtype):
    x = data(kind, (3000, 8), dtype)
    exact = standardized(x, (0,), 0)
    assert_never_worse(anynorm.zscore(x), scipy.stats.zscore(x), exact, tolerance(x, exact, dtype))


def test_zscore_of_a_million_rows_has_deviation_1_where_scipys_has_a_hundredth():
    x = 1e4 + np.random.default_rng(0).standard_normal((1_000_000, 4), dtype="float32")
    ours, native = anynorm.zscore(x), scipy.stats.zscore(x)
    exact = standardized(x, (0,), 0)
    assert_never_worse(ours, native, exact, tolerance(x[:1000], exact, "float32"))
    assert np.max(np.abs(ours.std(axis=0, dtype="float64") - 1)) < 1e-5
    assert np.max(np.abs(ours.mean(axis=0, dtype="float64"))) < 1e-5


# -------------------------------------------------------------------------------- scikit-learn


def with_constant_columns(kind: str, dtype: str) -> np.ndarray:
    x = data(kind, TABLE, dtype)
    x[:, 2], x[:, 5] = 0, 3.7
    return x


@each_dtype
@each_small_kind
def test_zscore_gives_what_standard_scaler_gives_constant_columns_included(kind, dtype):
    x = with_constant_columns(kind, dtype)
    assert_same(anynorm.zscore(x), sklearn.preprocessing.StandardScaler().fit_transform(x))


@each_dtype
@each_small_kind
@pytest.mark.parametrize("feature_range", [(0, 1), (-1, 1), (2.5, 7.5)])
def test_minmax_scale_gives_what_scikit_learn_gives_constant_columns_included(feature_range, kind, dtype):
    x = with_constant_columns(kind, dtype)
    ours = anynorm.minmax_scale(x, feature_range=feature_range)
    assert_same(ours, sklearn.preprocessing.MinMaxScaler(feature_range).fit_transform(x))
    assert_same(ours, sklearn.preprocessing.minmax_scale(x, feature_range))


@each_dtype
@pytest.mark.parametrize("axis", [0, 1])
def test_minmax_scale_over_either_axis_gives_what_scikit_learn_gives(axis, dtype):
    x = data("heavy tails", TABLE, dtype)
    assert_same(anynorm.minmax_scale(x, axis=axis), sklearn.preprocessing.minmax_scale(x, axis=axis))


def test_scaled_integers_are_scikit_learns():
    x = np.random.default_rng(0).integers(-1000, 1000, TABLE)
    assert_same(anynorm.minmax_scale(x), sklearn.preprocessing.minmax_scale(x))
    assert_same(anynorm.zscore(x), sklearn.preprocessing.StandardScaler().fit_transform(x))


@each_dtype
@each_kind
def test_scaling_is_never_further_from_float64_than_scikit_learns(kind, dtype):
    x = data(kind, (3000, 8), dtype)
    wide = widen(x)
    least, most = wide.min(axis=0), wide.max(axis=0)
    exact = (wide - least) / (most - least)
    native = sklearn.preprocessing.minmax_scale(x)
    assert_never_worse(anynorm.minmax_scale(x), native, exact, tolerance(x, exact, dtype))
    exact = standardized(x, (0,), 0)
    native = sklearn.preprocessing.StandardScaler().fit_transform(x)
    assert_never_worse(anynorm.zscore(x), native, exact, tolerance(x, exact, dtype))


# -------------------------------------------------------------------------------- the textbook


class Textbook(NamedTuple):
    """A norm as the slices of x that share a mean and a variance, with the shape of its affine, laid along x."""

    ours: Callable[..., np.ndarray]
    slices: Callable[[tuple[int, ...]], Iterator[tuple[Any, ...]]]
    affine: Callable[[tuple[int, ...]], tuple[int, ...]]
    rms: bool = False


ALL = slice(None)
CHANNELS = (4, 12, 6, 7)  # N, C, H, W


def along_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, shape[1], *[1] * (len(shape) - 2))


def of_groups(groups: int) -> Textbook:
    def slices(shape: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
        size = shape[1] // groups
        return ((n, slice(g * size, (g + 1) * size)) for n in range(shape[0]) for g in range(groups))

    return Textbook(lambda x, w, b, **k: anynorm.group_norm(x, groups, w, b, **k), slices, along_channels)


TEXTBOOK = {
    "layer_norm over the last axis": Textbook(
        anynorm.layer_norm, lambda shape: np.ndindex(shape[:-1]), lambda shape: shape[-1:]
    ),
    "layer_norm over all but the samples": Textbook(
        lambda x, w, b, **k: anynorm.layer_norm(x, w, b, axis=tuple(range(1, x.ndim)), **k),
        lambda shape: ((n,) for n in range(shape[0])),
        lambda shape: shape[1:],
    ),
    "rms_norm": Textbook(anynorm.rms_norm, lambda shape: np.ndindex(shape[:-1]), lambda shape: shape[-1:], rms=True),
    "group_norm in 2": of_groups(2),
    "group_norm in 6": of_groups(6),
    "instance_norm": Textbook(
        lambda x, w, b, **k: anynorm.instance_norm(x, weight=w, bias=b, **k),
        lambda shape: np.ndindex(shape[:2]),
        along_channels,
    ),
    "batch_norm": Textbook(
        lambda x, w, b, **k: anynorm.batch_norm(x, weight=w, bias=b, **k),
        lambda shape: ((ALL, c) for c in range(shape[1])),
        along_channels,
    ),
}


def by_the_textbook(x: np.ndarray, norm: Textbook, w: Any, b: Any, eps: float) -> np.ndarray:
    y = np.empty_like(x)
    for index in norm.slices(x.shape):
        part = x[index]
        if norm.rms:
            y[index] = part / np.sqrt(np.mean(part**2) + eps)
        else:
            y[index] = (part - np.mean(part)) / np.sqrt(np.var(part) + eps)
    return y * w + b


@each_dtype
@each_small_kind
@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("name", TEXTBOOK)
def test_every_norm_is_the_textbooks_lines_in_float64(name, eps, kind, dtype):
    norm, x = TEXTBOOK[name], data(kind, CHANNELS, dtype)
    rng = np.random.default_rng(7)
    shape = norm.affine(x.shape)
    w, b = rng.uniform(0.5, 1.5, shape).astype(dtype), rng.uniform(-1, 1, shape).astype(dtype)
    exact = by_the_textbook(x.astype("float64"), norm, w.astype("float64"), b.astype("float64"), eps)
    given = (w.reshape(-1), b.reshape(-1)) if shape == along_channels(x.shape) else (w, b)
    assert_native(norm.ours(x, *given, eps=eps), exact, dtype)
    assert_native(norm.ours(x, None, None, eps=eps), by_the_textbook(x.astype("float64"), norm, 1, 0, eps), dtype)


@each_dtype
@each_kind
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_every_norm_is_never_further_from_float64_than_two_lines_of_numpy(norm, kind, dtype):
    x = data(kind, CHANNELS, dtype)
    a = x.reshape(4, GROUPS, 12 // GROUPS, 6, 7) if norm.groups else x
    axes = norm.axes(x.ndim)
    if norm.rms:
        native = a / np.sqrt(np.mean(a * a, axis=axes, keepdims=True) + 1e-5)
    else:
        native = (a - a.mean(axis=axes, keepdims=True)) / np.sqrt(a.var(axis=axes, keepdims=True) + 1e-5)
    exact = norm.oracle(x)
    assert_never_worse(norm.call(x), native.reshape(x.shape), exact, tolerance(x, exact, dtype))
