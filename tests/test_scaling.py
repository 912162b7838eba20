"""zscore and minmax_scale against float64."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm
from oracles import KINDS, assert_within, centred, data, tolerance

SHAPE = (7, 5, 3)


@pytest.mark.parametrize("axis", [0, None, (0, 2)])
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_zscore_is_that_of_float64(xp, kind, axis, correction):
    x = data(kind, SHAPE)
    axes = {None: (0, 1, 2), 0: (0,)}.get(axis, axis)
    d = centred(x, axes)
    count = np.prod([x.shape[i] for i in axes])
    exact = d / np.sqrt((d * d).sum(axis=axes, keepdims=True) / (count - correction))
    z = xp.run(lambda a: anynorm.zscore(a, axis=axis, correction=correction), xp.array(x))
    assert_within(xp.numpy(z), exact, tolerance(x, exact, "float32"))


@pytest.mark.parametrize("correction", [0, 1, 2])
def test_zscore_of_what_has_no_deviation_is_zero(xp, correction):
    x = np.full((2 if correction == 2 else 1, 3), 7.7, dtype=np.float32)
    x[0, 0] += correction == 2
    z = xp.run(lambda a: anynorm.zscore(a, correction=correction), xp.array(x))
    assert np.array_equal(xp.numpy(z), np.zeros_like(x))


@pytest.mark.parametrize("feature_range", [(0, 1), (-2.0, 3.0)])
@pytest.mark.parametrize("axis", [0, None, (-1, 1)])
def test_minmax_scale_maps_the_bounds_to_the_range(xp, axis, feature_range):
    x = data("offset 1e+04", SHAPE)
    axes = tuple(range(3)) if axis is None else (0,) if axis == 0 else (1, 2)
    wide, (low, high) = x.astype(np.float64), feature_range
    least, most = wide.min(axis=axes, keepdims=True), wide.max(axis=axes, keepdims=True)
    y = xp.numpy(xp.run(lambda a: anynorm.minmax_scale(a, axis=axis, feature_range=feature_range), xp.array(x)))
    assert_within(y, low + (high - low) * (wide - least) / (most - least), 1e-6)
    assert np.all(y.min(axis=axes) == low)
    assert np.all(y.max(axis=axes) == high)


def test_minmax_scale_of_a_constant_is_the_lower_bound(xp):
    y = xp.run(lambda a: anynorm.minmax_scale(a, feature_range=(-1, 1)), xp.array(np.full((3, 2), 1e6 / 3, np.float32)))
    assert np.array_equal(xp.numpy(y), np.full((3, 2), -1))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize("scaling", [anynorm.zscore, anynorm.minmax_scale])
@pytest.mark.needs("empty arrays")
def test_empty_arrays_stay_empty(xp, scaling, shape):
    y = xp.run(scaling, xp.array(np.zeros(shape, dtype=np.float32)))
    assert (tuple(y.shape), xp.dtype(y)) == (shape, "float32")


def test_masks_select_before_the_statistics(xp, rng):
    x, mask = data("offset 100", (9, 4)), rng.random((9, 4)) < 0.6
    mask[:, 3] = False
    hidden = np.where(mask, x, np.nan)
    z, y = (
        xp.numpy(xp.run(lambda a, m, f=f: f(a, where=m), xp.array(hidden), xp.array(mask)))
        for f in (anynorm.zscore, lambda a, where: anynorm.minmax_scale(a, where=where, feature_range=(2, 3)))
    )
    assert np.all(z[~mask] == 0)
    assert np.all(y[~mask] == 2)
    for column in range(3):
        kept = x[mask[:, column], column].astype(np.float64)
        assert_within(z[mask[:, column], column], (kept - kept.mean()) / kept.std(), 2e-6)
        assert_within(y[mask[:, column], column], 2 + (kept - kept.min()) / np.ptp(kept), 1e-6)


@pytest.mark.parametrize("scaling", [anynorm.zscore, anynorm.minmax_scale])
def test_integers_become_the_default_float(xp, scaling):
    y = xp.run(scaling, xp.array(np.arange(12, dtype=np.int32).reshape(4, 3), "int32"))
    assert xp.dtype(y) == xp.default_float


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_range_is_never_left_and_no_order_is_reversed(xp, dtype):
    if dtype not in xp.floats:
        pytest.skip(f"no {dtype}")
    low, high, greatest = -0.1, 0.2, 0.1
    near = np.nextafter(np.asarray(greatest, dtype), np.asarray(0, dtype))
    x = np.asarray([-1.2, near, greatest, *np.linspace(-1.2, greatest, 1000)], dtype)
    with xp.using(dtype):
        y = xp.numpy(xp.run(lambda a: anynorm.minmax_scale(a, feature_range=(low, high)), xp.array(x, dtype)))
    assert y.min() == np.asarray(low, dtype)
    assert y.max() == np.asarray(high, dtype)
    assert np.all(np.diff(y[np.argsort(x, kind="stable")]) >= 0)
