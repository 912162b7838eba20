"""Sparse arrays: what stays sparse, what says that it fills them, and statistics of several fill values."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import anynorm
from oracles import assert_near, assert_within, data, standardized

pytestmark = pytest.mark.library("sparse")

SHAPE = (8, 6, 10)
each_form = pytest.mark.parametrize("form", ["COO", "GCXS"])
fills = pytest.warns(RuntimeWarning, match=r"fills x, which is sparse.* pass x.todense\(\).*, or use rms_norm")


def thinned(form="COO"):
    """Return an array of which one element in ten is not 0, sparse and dense."""
    import sparse

    x = data("offset 0", SHAPE)
    x[np.abs(x) < 1.6] = 0
    return getattr(sparse, form).from_numpy(x), x


@each_form
def test_rms_norm_stays_sparse(form, rng):
    s, x = thinned(form)
    weight = rng.uniform(0.5, 2, 10).astype(np.float32)  # 0 times a negative one is -0.0, which sparse stores
    with warnings.catch_warnings(action="error"):
        y, pullback = anynorm.vjp.rms_norm(s, type(s).from_numpy(weight))
        dx, _, _ = pullback(y)
    assert y.nnz == s.nnz < 0.2 * s.size
    assert dx.nnz == s.nnz
    assert_within(y.todense(), standardized(x, (2,), 1e-5, rms=True) * weight, 2e-6 * (1 + np.abs(weight).max()))


@each_form
@pytest.mark.parametrize("norm", [anynorm.batch_norm, anynorm.instance_norm])
def test_given_statistics_of_mean_0_stay_sparse(form, norm):
    import sparse

    s, x = thinned(form)
    var = np.linspace(0.5, 2, 6, dtype=np.float32)
    stats = anynorm.RunningStats(sparse.zeros(6, dtype=np.float32), sparse.COO.from_numpy(var))
    with warnings.catch_warnings(action="error"):
        y = norm(s, stats=stats)
    assert y.nnz == s.nnz
    assert_near(y.todense(), x / np.sqrt(var[:, None].astype(np.float64) + 1e-5))


@each_form
@pytest.mark.parametrize(
    "call",
    [
        anynorm.layer_norm,
        anynorm.instance_norm,
        anynorm.batch_norm,
        anynorm.zscore,
        lambda s: anynorm.group_norm(s, 2),
        lambda s: anynorm.batch_norm_train(s, anynorm.running_stats(6, like=s))[0],
        lambda s: anynorm.batch_norm(s, stats=anynorm.running_stats(6, like=s)._replace(mean=ones(6))),
        lambda s: anynorm.rms_norm(s, bias=ones(10)),
    ],
)
def test_what_fills_a_sparse_array_says_so_at_the_callers_line(form, call):
    s, _ = thinned(form)
    with fills as seen:
        call(s)
    assert {warning.filename for warning in seen} == {__file__}


@pytest.mark.parametrize("form", ["COO", pytest.param("GCXS", marks=pytest.mark.needs("moments of GCXS"))])
@pytest.mark.filterwarnings("ignore:moments fills x")
def test_moments_are_those_of_the_dense_array(form):
    s, x = thinned(form)
    m = anynorm.moments(s, axis=1, keepdims=True)
    assert_near(m.mean.todense(), x.astype(np.float64).mean(axis=1, keepdims=True))
    assert np.array_equal(anynorm.moments(s, axis=1).mean.todense(), m.mean.todense()[:, 0])


def ones(size):
    import sparse

    return sparse.COO.from_numpy(np.ones(size, np.float32))


@pytest.mark.filterwarnings("ignore:moments fills x")
def test_moments_of_other_fill_values_merge():
    s, x = thinned()
    parts = [anynorm.moments(part, axis=0) for part in (s[:3], s[3:], s[:0])]
    assert len({part.count.fill_value for part in parts}) == 3
    merged = anynorm.merge(*parts)
    assert np.array_equal(merged.count.todense(), np.full(SHAPE[1:], 8))
    assert_near(merged.mean.todense(), x.astype(np.float64).mean(axis=0))
    assert_near(merged.m2.todense(), 8 * x.astype(np.float64).var(axis=0))


def test_mixed_with_numpy_it_is_refused():
    s, x = thinned()
    with pytest.raises(TypeError, match="got x from sparse and weight from numpy; convert one of them"):
        anynorm.rms_norm(s, x[0, 0])
