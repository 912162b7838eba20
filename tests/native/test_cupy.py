"""CuPy's own zscore, and float64 on the GPU. CuPy has no other norms of its own."""

from __future__ import annotations

import cupy
import cupyx.scipy.stats
import numpy as np
import pytest

import anynorm
from anynorm._engines import watch
from native.comparison import SMALL, assert_native, assert_never_worse
from oracles import KINDS, NORMS, assert_near, assert_within, data, standardized, tolerance

pytestmark = [
    pytest.mark.library("cupy"),
    # of CuPy 13, at the first reduction after it was installed
    pytest.mark.filterwarnings("ignore:Jitify is performing a one-time only warm-up"),
]

TABLE = (200, 12)
IMAGES = (16, 32, 28, 28)

each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])
each_kind = pytest.mark.parametrize("kind", KINDS)
each_small_kind = pytest.mark.parametrize("kind", SMALL)


def on_gpu(y: cupy.ndarray, dtype: str) -> np.ndarray:
    """Return a result, which has to be CuPy's and of x's dtype, as NumPy's."""
    assert isinstance(y, cupy.ndarray)
    assert y.dtype == dtype
    return y.get()


@each_dtype
@each_small_kind
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_zscore_gives_what_cupyx_gives(axis, ddof, kind, dtype):
    x = cupy.asarray(data(kind, TABLE, dtype))
    native = cupyx.scipy.stats.zscore(x, axis=axis, ddof=ddof)
    assert_native(on_gpu(anynorm.zscore(x, axis=axis, correction=ddof), dtype), native.get(), dtype)


@each_dtype
def test_a_constant_column_is_0_where_cupyx_has_nan(dtype):
    x = data("offset 0", TABLE, dtype)
    x[:, 1] = 3.7
    ours = on_gpu(anynorm.zscore(cupy.asarray(x)), dtype)
    native = cupyx.scipy.stats.zscore(cupy.asarray(x)).get()
    assert np.all(np.isnan(native[:, 1]))
    assert np.all(ours[:, 1] == 0)
    assert_native(np.delete(ours, 1, axis=1), np.delete(native, 1, axis=1), dtype)


@each_dtype
@each_kind
@pytest.mark.parametrize("shape", [(3000, 8), (1_000_000, 4)])
def test_zscore_is_never_further_from_float64_than_cupyxs(shape, kind, dtype):
    x = data(kind, shape, dtype)
    exact = standardized(x, (0,), 0)
    ours = on_gpu(anynorm.zscore(cupy.asarray(x)), dtype)
    native = cupyx.scipy.stats.zscore(cupy.asarray(x)).get()
    assert_never_worse(ours, native, exact, tolerance(x, exact, dtype))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@each_small_kind
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_every_norm_gives_what_float64_gives(norm, kind, dtype):
    x = data(kind, (6, 8, 9, 10), dtype)
    exact = norm.oracle(x.astype("float64"))
    assert_native(on_gpu(norm.call(cupy.asarray(x)), dtype), exact, dtype)


@each_kind
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_every_norm_keeps_the_promise_in_either_order(norm, order, kind):
    x = data(kind, IMAGES)
    exact = norm.oracle(x)
    y = on_gpu(norm.call(cupy.asarray(x, order=order)), "float32")
    assert_within(y, exact, tolerance(x, exact, "float32"))


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_every_norm_and_its_gradient_are_kernels(norm):
    x, g = data("offset 10000", IMAGES), data("offset 0", IMAGES, seed=7)
    with watch() as ran:
        y, pull = norm.vjp(cupy.asarray(x))
        dx = pull(cupy.asarray(g))[0]
    assert ran == {"gpu"}
    assert_within(on_gpu(y, "float32"), norm.oracle(x), 2e-6)
    assert_near(on_gpu(dx, "float32"), norm.gradient(x, g))


@each_kind
def test_long_leading_axes_keep_the_promise(kind):
    x = data(kind, (1_000_000, 4))
    exact = standardized(x, (0,), 1e-5)
    y = on_gpu(anynorm.batch_norm(cupy.asarray(x)), "float32")
    assert_within(y, exact, tolerance(x, exact, "float32"))


@each_dtype
def test_ten_steps_of_running_statistics_and_inference_go_as_in_float64(dtype):
    mean, var = np.zeros(8), np.ones(8)
    stats = anynorm.running_stats(8, like=cupy.asarray(data("offset 3", (6, 8, 9, 10), dtype)))
    for step in range(10):
        x = data("offset 3", (6, 8, 9, 10), dtype, seed=step)
        _, stats = anynorm.batch_norm_train(cupy.asarray(x), stats)
        wide = x.astype("float64")
        mean = 0.9 * mean + 0.1 * wide.mean((0, 2, 3))
        var = 0.9 * var + 0.1 * wide.var((0, 2, 3), ddof=1)
    assert_native(on_gpu(stats.mean, dtype), mean, dtype)
    assert_native(on_gpu(stats.var, dtype), var, dtype)
    assert int(stats.steps) == 10
    exact = (wide - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    assert_native(on_gpu(anynorm.batch_norm(cupy.asarray(x), stats=stats), dtype), exact, dtype)
