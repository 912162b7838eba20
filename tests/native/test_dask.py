"""On Dask: SciPy's and scikit-learn's scalings of the computed array, and chunks that stay."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.stats
from sklearn.preprocessing import minmax_scale

import anynorm
from native.comparison import SMALL, assert_native
from oracles import NORMS, data, standardized, tolerance

pytestmark = pytest.mark.library("dask")

SHAPE = (40, 6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("chunks", [(7, 4), (40, 6), (3, 1)])
def test_scalings_give_what_scipy_and_scikit_learn_give(kind, dtype, chunks):
    x = data(kind, SHAPE, dtype)
    lazy = da.from_array(x, chunks=chunks)
    scaled, z = anynorm.minmax_scale(lazy), anynorm.zscore(lazy)
    assert scaled.chunks == z.chunks == lazy.chunks
    assert_native(scaled.compute(), minmax_scale(x), dtype)
    assert_native(z.compute(), scipy.stats.zscore(x), dtype)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("offset", ["0", "1e+06"])
def test_every_norm_gives_what_numpys_gives(norm, offset):
    x = data(f"offset {offset}", (8, 6, 5, 3))
    y = norm.call(da.from_array(x, chunks=(3, 4, 2, 3)))
    exact = norm.oracle(x)
    bound = tolerance(x, exact, "float32")
    assert np.abs(y.compute() - exact).max() <= bound
    assert np.abs(y.compute() - norm.call(x)).max() <= bound


def test_zscore_of_many_chunks_at_an_offset_keeps_the_promise():
    x = data("offset 1e+04", (200_000, 3))
    exact = standardized(x, (0,), 0)
    z = anynorm.zscore(da.from_array(x, chunks=(9_999, 2))).compute()
    assert np.abs(z - exact).max() <= tolerance(x, exact, "float32")
