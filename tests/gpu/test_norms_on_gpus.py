"""The kernels for GPUs, run by the emulator through plan, lowering and launch: every norm, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anynorm
from anynorm import RunningStats, vjp
from anynorm._engines import watch
from drawn import norm_of
from oracles import NORMS, assert_near, assert_within, data, gradient, standardized, tolerance, ulp

F32 = np.float32
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)

LAYOUTS = {
    "C": lambda x: x,
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
}


def laid(gpu, x, layout):
    """Return an array of the GPU in a layout."""
    return LAYOUTS[layout](x).view(type(gpu.array(x)))


def parameters(norm, x, rng):
    """Return weight and bias, and how they broadcast to x."""
    axes = norm.runs_along(x.ndim)
    own = rng.standard_normal((2, *(x.shape[i] for i in axes))).astype(F32)
    return own, own.reshape(2, *(size if i in axes else 1 for i, size in enumerate(x.shape)))


@each_norm
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_norms_and_their_gradients_keep_the_promise(cupy, rng, norm, layout, offset):
    x, g = data(f"offset {offset:g}", (4, 6, 5, 8)), rng.standard_normal((4, 6, 5, 8)).astype(F32)
    own, (w, b) = parameters(norm, x, rng)
    given = laid(cupy, x, layout)
    with watch() as ran:
        assert_within(cupy.numpy(norm.call(given)), norm.oracle(x), 2e-6)
        y, pull = norm.vjp(given, weight=cupy.array(own[0]), bias=cupy.array(own[1]))
    assert ran == {"gpu"}
    assert_within(cupy.numpy(y), norm.oracle(x) * w + b, 2e-6 * np.abs(w).max())
    dx, dweight, dbias = map(cupy.numpy, pull(cupy.array(g)))
    for ours, exact in zip((dweight, dbias), norm.parameter_gradients(x, g), strict=True):
        assert_near(ours, exact)
    assert_near(dx, norm.gradient(x, g * w.astype(float)))
    assert_near(cupy.numpy(norm.vjp(given)[1](cupy.array(g))[0]), norm.gradient(x, g))


def slow(values, *quick):
    """Return values of which these few are tested by default: a case of a kernel takes a second to compile."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


ROWS = (1, 2, 7, 8, 100, 129, 1000, 1024, 4096, 4097, 16400, 32768, 40001)
COLUMNS = ((7, 3), (1000, 5), (257, 64), (300, 130), (20000, 4))


@pytest.mark.parametrize("n", slow(ROWS, 7, 129, 1000, 40001))
@pytest.mark.parametrize("rms", slow([False, True], False))
def test_rows_of_every_length_keep_the_promise(cupy, rng, n, rms):
    x = data("offset 10000", (3 if n > 200 else 37, n))
    g, w = rng.standard_normal(x.shape).astype(F32), rng.standard_normal(n).astype(F32)
    y, pull = (vjp.rms_norm if rms else vjp.layer_norm)(cupy.array(x), cupy.array(w))
    exact = standardized(x, (1,), 1e-5, rms=rms)
    assert_within(cupy.numpy(y), exact * w, 2e-6 * np.abs(w).max())
    dx, dweight, _ = pull(cupy.array(g))
    assert_near(cupy.numpy(dweight), (g * exact).sum(axis=0))
    if n > 2 or (rms and n > 1):  # of shorter rows the gradient is what eps makes of it
        assert_near(cupy.numpy(dx), gradient(x, g * w.astype(float), (1,), rms=rms))


@pytest.mark.parametrize("shape", slow(COLUMNS, (257, 64), (20000, 4)))
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_columns_of_every_length_keep_the_promise(cupy, rng, shape, offset):
    x, g = data(f"offset {offset:g}", shape), rng.standard_normal(shape).astype(F32)
    y, pull = vjp.batch_norm(cupy.array(x))
    assert_within(cupy.numpy(y), standardized(x, (0,), 1e-5), 2e-6)
    assert_near(cupy.numpy(pull(cupy.array(g))[0]), gradient(x, g, (0,)))


def test_few_long_slices_are_shared_by_many_blocks(cupy, device):
    x = data("offset 10000", (2, 5, 70000))
    y = anynorm.group_norm(cupy.array(x), 1)
    assert device.kernels == ["partial", "combine", "apply"]
    assert_within(cupy.numpy(y), standardized(x, (1, 2), 1e-5), 2e-6)


@pytest.mark.parametrize("norm", slow([norm for norm in NORMS if not norm.name.endswith("axis")], NORMS[0]), ids=str)
@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.library("torch"))])
def test_halves_are_rounded_once(request, rng, norm, dtype):
    gpu = request.getfixturevalue("cupy" if dtype == "float16" else "torch")  # CuPy has no bfloat16
    x = gpu.array(data("offset 3", (4, 6, 5, 8)), dtype)
    own, (w, b) = parameters(norm, x, rng)
    wide = gpu.numpy(x).astype(np.float64)
    exact = norm.oracle(wide)
    y = norm.call(x, weight=gpu.array(own[0]), bias=gpu.array(own[1]))
    assert y.dtype == x.dtype
    assert_within(gpu.numpy(y).astype(float), exact * w + b, 0.5001 * ulp(exact * w + b, dtype) + 4e-6)
    narrow = gpu.array(own[0], dtype)
    w = gpu.numpy(narrow).reshape(w.shape).astype(float)
    y, pull = norm.vjp(x, weight=narrow)
    assert_within(gpu.numpy(y).astype(float), exact * w, 0.5001 * ulp(exact * w, dtype) + 4e-6)
    g = gpu.array(rng.standard_normal(x.shape), dtype)
    exact = norm.gradient(wide, gpu.numpy(g) * w)
    dx = gpu.numpy(pull(g)[0]).astype(float)
    assert_within(dx, exact, 0.5001 * ulp(exact, dtype) + 2e-6 * np.abs(exact).max())


BROADCAST = {  # of weight beside x of (4, 6, 5, 8), and which norm
    "a weight of each channel": ((1, 6, 1, 1), "layer_norm"),
    "a weight of each row": ((1, 1, 5, 1), "layer_norm"),
    "a weight of each place": ((1, 1, 5, 8), "layer_norm"),
    "a weight of each column": ((1, 1, 1, 8), "layer_norm"),
    "a weight of each sample": ((4, 1, 1, 1), "layer_norm"),
    "a weight of each element": ((4, 6, 5, 8), "layer_norm"),
    "one weight": ((1, 1, 1, 1), "instance_norm"),
    "a weight of each sample and channel": ((4, 6, 1, 1), "instance_norm"),
    "a weight of each place of a batch": ((1, 1, 5, 8), "batch_norm"),
    "a weight of each channel and row": ((1, 6, 5, 1), "batch_norm"),
    "a weight of each sample of a batch": ((4, 1, 1, 1), "batch_norm"),
    "a weight of each sample of groups": ((4, 1, 1, 1), "group_norm"),
    "a weight of each place of groups": ((1, 6, 1, 8), "group_norm"),
}


@pytest.mark.parametrize(("shape", "name"), BROADCAST.values(), ids=BROADCAST)
@pytest.mark.parametrize("layout", ["C", "channels last"])
def test_whatever_broadcasts_is_a_weight(cupy, rng, shape, name, layout):
    norm = next(norm for norm in NORMS if norm.name == name)
    x, g = data("offset 100", (4, 6, 5, 8)), rng.standard_normal((4, 6, 5, 8)).astype(F32)
    w, b = rng.uniform(0.5, 2, (2, *shape)).astype(F32)
    y, pull = norm.vjp(laid(cupy, x, layout), weight=cupy.array(w), bias=cupy.array(b))
    assert_within(cupy.numpy(y), norm.oracle(x) * w + b, 4e-6)
    dx, dweight, dbias = map(cupy.numpy, pull(cupy.array(g)))
    axes = tuple(i for i, size in enumerate(shape) if size == 1)
    assert_near(dx, norm.gradient(x, g * w.astype(float)))
    assert_near(dweight, (g * norm.oracle(x)).sum(axis=axes, keepdims=True))
    assert_near(dbias, g.astype(float).sum(axis=axes, keepdims=True))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["C", "channels last"])
@pytest.mark.parametrize("of_weight", ["channels last", "Fortran"])
def test_weights_of_xs_rank_lie_in_memory_as_they_like(cupy, rng, layout, of_weight, dtype):
    x, g = rng.standard_normal((2, 4, 6, 5, 8)).astype(F32)
    w, b = rng.uniform(0.5, 1.5, (2, *x.shape)).astype(dtype)
    plain = NORMS[0].oracle(x)
    weight, bias = (laid(cupy, a, of_weight) for a in (w, b))
    y, pull = NORMS[0].vjp(laid(cupy, x, layout), weight=weight, bias=bias)
    made = map(cupy.numpy, (y, *pull(laid(cupy, g, layout))))
    right = plain * w + b, NORMS[0].gradient(x, g * w.astype(float)), g * plain, g.astype(float)
    for ours, exact, kind in zip(made, right, ("float32", "float32", dtype, dtype), strict=True):
        assert_near(ours.astype(float), exact, 4e-6 if kind == "float32" else 1e-3)


@pytest.mark.parametrize("form", ["batch_norm", "instance_norm"])
@pytest.mark.parametrize("layout", ["C", "channels last"])
def test_given_statistics_are_used_as_they_are(cupy, rng, form, layout):
    x, g = data("offset 100", (4, 6, 5, 8)), rng.standard_normal((4, 6, 5, 8)).astype(F32)
    mean, var = rng.uniform(99, 101, 6).astype(F32), rng.uniform(0.5, 2, 6).astype(F32)
    w = rng.standard_normal(6).astype(F32)
    stats = RunningStats(cupy.array(mean), cupy.array(var))
    with watch() as ran:
        y, pull = getattr(vjp, form)(laid(cupy, x, layout), stats=stats, weight=cupy.array(w))
        dx, dweight = map(cupy.numpy, pull(cupy.array(g))[:2])
    assert ran == {"gpu"}
    m, v, wide = (a.reshape(6, 1, 1).astype(float) for a in (mean, var, w))
    z = (x - m) / np.sqrt(v + 1e-5)
    assert_within(cupy.numpy(y), z * wide, 2e-6 * np.abs(z * wide).max())
    assert_near(dx, g * wide / np.sqrt(v + 1e-5))
    assert_near(dweight, (g * z).sum(axis=(0, 2, 3)))


def test_a_step_of_training_moves_the_state(cupy):
    x = data("offset 1000", (4, 6, 5, 8))
    stats = RunningStats(cupy.array(np.zeros(6, F32)), cupy.array(np.ones(6, F32)), 0)
    with watch() as ran:
        y, new = anynorm.batch_norm_train(cupy.array(x), stats, momentum=1.0)
    assert ran == {"gpu"}
    wide = x.astype(float)
    assert_within(cupy.numpy(y), standardized(x, (0, 2, 3), 1e-5), 2e-6)
    assert_near(cupy.numpy(new.mean), wide.mean((0, 2, 3)), 1e-7)
    assert_near(cupy.numpy(new.var), wide.var((0, 2, 3), ddof=1), 1e-6)


def test_moments_are_those_of_float64(cupy):
    x = data("offset 10000", (500, 24))
    for axis in (0, 1, (0, 1)):
        m = anynorm.moments(cupy.array(x), axis=axis)
        wide = x.astype(float)
        assert_near(cupy.numpy(m.mean), wide.mean(axis), 1e-7)
        assert_near(cupy.numpy(anynorm.variance(m)), wide.var(axis), 1e-5)


def test_what_the_kernels_do_not_do_is_left_to_array_api_code(cupy):
    x = data("offset 3", (4, 6, 5, 8))
    given, double = cupy.array(x), cupy.array(x, "float64")
    column = cupy.array(np.ones((1, 1, 5, 1), F32))
    calls = {
        lambda: anynorm.layer_norm(given): "gpu",
        lambda: anynorm.layer_norm(given > 3): "array-api",  # CuPy's default float is float64
        lambda: anynorm.layer_norm(given, where=given > 3): "array-api",
        lambda: anynorm.layer_norm(given, sync=lambda a: a): "array-api",
        lambda: anynorm.layer_norm(double): "array-api",
        lambda: anynorm.layer_norm(given[:0]): "array-api",
        lambda: anynorm.batch_norm(given, weight=column): "array-api",  # a row has some of it
        lambda: anynorm.layer_norm(given, axis=(1, 3)): "gpu",
        lambda: anynorm.layer_norm(given, axis=(0, 2)): "array-api",  # axes that alternate five times
    }
    for call, engine in calls.items():
        with watch() as ran:
            call()
        assert ran == {engine}


# ------------------------------------------------------------------------------------------------ plans and orders


def test_later_calls_give_the_bits_of_the_first(cupy, rng):
    x, w = data("offset 3", (4, 6, 5, 8)), rng.standard_normal(6).astype(F32)
    for norm in NORMS[3:]:
        first, again = (norm.vjp(cupy.array(x), weight=cupy.array(w)) for _ in range(2))
        assert np.array_equal(first[0], again[0])
        for one, other in zip(first[1](cupy.array(x)), again[1](cupy.array(x)), strict=True):
            assert (one is None and other is None) or np.array_equal(one, other)


@each_norm
@pytest.mark.parametrize("layout", ["C", "channels last"])
def test_the_order_of_threads_changes_no_bit(cupy, device, rng, norm, layout):
    x, g = data("offset 100", (4, 6, 5, 8)), rng.standard_normal((4, 6, 5, 8)).astype(F32)
    own, _ = parameters(norm, x, rng)
    results = []
    for device.order in (0, 1, 2, 3):
        y, pull = norm.vjp(laid(cupy, x, layout), weight=cupy.array(own[0]))
        results.append((y, *pull(cupy.array(g))[:2]))
    assert all(np.array_equal(a, b) for result in results[1:] for a, b in zip(results[0], result, strict=True))


def test_an_array_that_begins_at_an_odd_address_is_loaded_one_by_one(cupy):
    x = data("offset 3", (4, 6, 5, 8))
    memory = np.empty(x.size + 1, F32)[1:].reshape(x.shape)
    memory[...] = x
    odd = memory.view(type(cupy.array(x)))
    assert odd.ctypes.data % 16
    for norm in NORMS:
        assert_within(cupy.numpy(norm.call(odd)), norm.oracle(x), 2e-6)


@pytest.mark.parametrize("kind", ["outlier first", "ramp", "heavy tails", "small spread"])
@pytest.mark.parametrize("layout", ["C", "channels last"])
def test_data_that_breaks_norms_does_not_break_these(cupy, kind, layout):
    x = data(kind, (4, 6, 5, 8))
    for norm in NORMS:
        exact = norm.oracle(x)
        assert_within(cupy.numpy(norm.call(laid(cupy, x, layout))), exact, tolerance(x, exact, "float32"))


@st.composite
def calls(draw):
    """Draw a norm with its arguments, as a function of the module, and arrays."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=5)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    order = draw(st.permutations(range(len(shape))))
    x = np.ascontiguousarray(rng.standard_normal(shape).astype(F32).transpose(order)).transpose(np.argsort(order))
    norm, keywords = norm_of(draw, rng, shape, ("float32",))
    return norm, x, keywords, rng.standard_normal(shape).astype(F32)


@pytest.mark.slow
@settings(max_examples=200)
@given(calls())
def test_the_engine_does_what_array_api_code_does_in_every_layout(cupy, call):
    name, x, keywords, g = call
    with anynorm.engine("array-api"):
        y, pull = getattr(vjp, name)(x.astype(float), **keywords)
        exact = (y, *pull(g.astype(float)))
    arrays = {key: cupy.array(a) if isinstance(a, np.ndarray) else a for key, a in keywords.items()}
    y, pull = getattr(vjp, name)(x.view(type(cupy.array(x))), **arrays)
    largest = 1 + np.abs(exact[1]).max()
    for ours, theirs in zip((y, *pull(cupy.array(g))), exact, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == F32
            assert_within(cupy.numpy(ours), theirs, 4e-6 * max(largest, np.abs(theirs).max(initial=0.0)))
