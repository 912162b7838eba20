"""CuPy's own zscore, and float64 on the GPU. CuPy 14 has no native norms."""

from __future__ import annotations

import cupy
import cupyx.scipy.stats
import numpy as np
import pytest

import anynorm
from native.comparison import SMALL, assert_native
from oracles import KINDS, NORMS, assert_within, data, standardized, tolerance

pytestmark = pytest.mark.library("cupy")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_zscore_gives_what_cupyx_gives(kind, dtype, axis):
    x = cupy.asarray(data(kind, (40, 6), dtype))
    native = cupyx.scipy.stats.zscore(x, axis=axis)
    assert_native(anynorm.zscore(x, axis=axis).get(), native.get(), dtype)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_norm_gives_what_float64_gives(norm, kind, order):
    x = data(kind, (16, 32, 28, 28))
    exact = norm.oracle(x)
    y = norm.call(cupy.asarray(x, order=order))
    assert isinstance(y, cupy.ndarray)
    assert_within(y.get(), exact, tolerance(x, exact, "float32"))


@pytest.mark.parametrize("kind", KINDS)
def test_long_leading_axes_keep_the_promise(kind):
    x = data(kind, (1_000_000, 4))
    exact = standardized(x, (0,), 1e-5)
    assert_within(anynorm.batch_norm(cupy.asarray(x)).get(), exact, tolerance(x, exact, "float32"))
    assert np.isfinite(exact).all()
