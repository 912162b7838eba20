"""Inputs that break normalisation code, through the kernels for GPUs: as docs/guide/hazards.md says."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats, vjp
from oracles import assert_within, data, standardized

F32 = np.float32
CALLS = {  # in registers, by pieces of rows, down columns: of x of (4, 6, 5, 8)
    "rows": (lambda x, **k: anynorm.layer_norm(x, axis=(1, 2, 3), **k), (1, 2, 3)),
    "pieces": (anynorm.batch_norm, (0, 2, 3)),
    "columns": (lambda x, **k: anynorm.batch_norm(x, channel_axis=-1, **k), (0, 1, 2)),
}
each_way = pytest.mark.parametrize(("norm", "axes"), CALLS.values(), ids=CALLS)
each_norm = pytest.mark.parametrize("norm", [norm for norm, _ in CALLS.values()], ids=CALLS)


@each_norm
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("value", [0.0, 3.7, -1e6, 1e30])
def test_a_constant_slice_is_exactly_0(cupy, norm, eps, value):
    y = cupy.numpy(norm(cupy.array(np.full((4, 6, 5, 8), value, F32)), eps=eps))
    assert np.all(y == 0)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "batch_norm"])
def test_the_gradient_of_a_constant_slice_is_finite(cupy, rng, name, eps):
    g = rng.standard_normal((6, 40)).astype(F32)
    value = 0.0 if name == "rms_norm" else 5.0
    dx = cupy.numpy(getattr(vjp, name)(cupy.array(np.full((6, 40), value, F32)), eps=eps)[1](cupy.array(g))[0])
    axis = 0 if name == "batch_norm" else 1
    exact = g if name == "rms_norm" else g - g.mean(axis, keepdims=True)
    exact = exact.astype(float) / (eps**0.5 or np.inf)
    assert_within(dx, exact, 2e-6 * np.abs(exact).max())


@each_way
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spreads_within_its_slice_alone(cupy, norm, axes, value):
    x = data("offset 3", (4, 6, 5, 8))
    x[2, 3, 1, 4] = value
    y = cupy.numpy(norm(cupy.array(x)))
    hit = np.broadcast_to(~np.isfinite(x.sum(axis=axes, keepdims=True)), x.shape)
    assert np.all(np.isnan(y[hit]))
    assert_within(y[~hit], standardized(np.where(hit, 0, x), axes, 1e-5)[~hit], 2e-6)


@pytest.mark.parametrize("shape", [(3, 40), (2, 70000)])
def test_in_rms_norm_an_infinity_alone_becomes_nan(cupy, shape):
    x = data("offset 1", shape)
    x[1, 7] = np.inf
    y = cupy.numpy(anynorm.rms_norm(cupy.array(x)))
    assert np.isnan(y[1, 7])
    assert np.all(np.delete(y[1], 7) == 0)
    assert_within(y[0], standardized(x[:1], (1,), 1e-5, rms=True)[0], 2e-6)


@each_norm
@pytest.mark.parametrize("scale", [1e22, 1e-30])
def test_squares_beyond_float32_are_nan_and_no_silent_0(cupy, norm, scale):
    x = (data("offset 0", (4, 6, 5, 8)) * scale).astype(F32)
    assert np.all(np.isnan(cupy.numpy(norm(cupy.array(x), eps=0.0))))


def test_squares_below_float32_are_drowned_by_eps(cupy):
    x = (data("offset 0", (4, 40)) * 1e-30).astype(F32)
    exact = standardized(x, (1,), 1e-5)
    assert_within(cupy.numpy(anynorm.layer_norm(cupy.array(x))), exact, 2e-6 * np.abs(exact).max())


def test_squares_beyond_float32_are_nan_in_rms_norm(cupy):
    for shape in ((3, 40), (2, 70000)):
        x = np.full(shape, 1e25, F32)
        assert np.all(np.isnan(cupy.numpy(anynorm.rms_norm(cupy.array(x)))))
        assert np.all(np.isnan(cupy.numpy(anynorm.rms_norm(cupy.array(x * F32(1e-25) * F32(1e-30)), eps=0.0))))


@each_way
@pytest.mark.parametrize("scale", [1e16, 1e-16])
def test_squares_near_the_ends_of_float32_keep_the_promise(cupy, norm, axes, scale):
    x = (data("offset 0", (4, 6, 5, 8)) * scale).astype(F32)
    assert_within(cupy.numpy(norm(cupy.array(x), eps=0.0)), standardized(x, axes, 0), 2e-6)


@each_way
def test_one_step_of_one_element_is_no_constant_slice(cupy, norm, axes):
    x = np.full((4, 6, 5, 8), 1e4, F32)
    x[0, 0, 0, 0] = np.nextafter(F32(1e4), F32(2e4))
    y, exact = cupy.numpy(norm(cupy.array(x), eps=0.0)), standardized(x, axes, 0)
    assert_within(y, exact, 2e-6 * np.abs(exact).max())


def test_a_given_variance_below_0_is_nan(cupy):
    var = np.ones(6, F32)
    var[2] = -1e-9
    stats = RunningStats(cupy.array(np.zeros(6, F32)), cupy.array(var))
    for _ in range(2):  # the second call finds a plan
        y = cupy.numpy(anynorm.batch_norm(cupy.array(data("offset 0", (4, 6, 5, 8))), stats=stats))
        assert np.all(np.isnan(y[:, 2]))
        assert np.all(np.isfinite(np.delete(y, 2, axis=1)))


def test_halves_do_not_overflow(cupy):
    x = np.tile(np.asarray([60000, -60000], np.float16), (3, 20))
    assert_within(cupy.numpy(anynorm.layer_norm(cupy.array(x))).astype(float), np.sign(x).astype(float), 1e-3)
    assert np.all(cupy.numpy(anynorm.layer_norm(cupy.array(np.zeros((3, 40), np.float16)), eps=1e-12)) == 0)
    x = np.full((1, 70000), 40000, np.float16)
    x[:, ::2] = 39968
    y = cupy.numpy(anynorm.layer_norm(cupy.array(x))).astype(float)
    assert_within(y, np.where(np.arange(70000) % 2, 1.0, -1.0)[None], 1e-3)


@pytest.mark.parametrize(("shape", "axis"), [((70000, 3), 1), pytest.param((3, 70000), 0, marks=pytest.mark.slow)])
def test_more_than_65535_slices_keep_the_promise(cupy, shape, axis):
    x = data("offset 100", shape)
    assert_within(cupy.numpy(anynorm.layer_norm(cupy.array(x), axis=axis)), standardized(x, (axis,), 1e-5), 2e-6)
