"""What breaks normalisation code does not break this: the rows of docs/guide/hazards.md that no other file tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats
from anynorm._core.libraries import namespace_of
from anynorm._core.mean import Mean
from anynorm._engines import watch
from oracles import NORMS, Norm, assert_within, centred, data, standardized, tolerance

SHAPE = (6, 4, 3, 5)
F32 = np.float32
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
each_centred_norm = pytest.mark.parametrize("norm", [n for n in NORMS if not n.rms], ids=str)
each_halves = pytest.mark.dtypes("float16", "bfloat16")

# ------------------------------------------------------------------------------------------------ little spread


@pytest.mark.parametrize(("mean", "spread", "size"), [(2000, 1, 4), (100, 0.01, 32768)])
@pytest.mark.parametrize("eps", [0, 1e-5])
def test_a_spread_small_beside_the_mean_keeps_the_promise(xp, mean, spread, size, eps, rng):
    x = rng.normal(mean, spread, (131_072 // size, size)).astype(F32)
    exact = standardized(x, (1,), eps)
    y = xp.run(lambda a: anynorm.layer_norm(a, eps=eps), xp.array(x))
    assert_within(xp.numpy(y), exact, tolerance(x, exact, "float32"))


@each_norm
@pytest.mark.parametrize("eps", [0, 1e-5])
def test_a_constant_with_noise_of_a_few_last_places_keeps_the_promise(xp, norm, eps, rng):
    x = (1 + 1e-6 * rng.standard_normal((3, 4, 7, 11))).astype(F32)
    exact = norm.oracle(x, eps)
    y = xp.numpy(xp.run(lambda a: norm.call(a, eps=eps), xp.array(x)))
    assert_within(y, exact, tolerance(x, exact, "float32"))


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_variance_is_never_below_zero(xp, noise, rng):
    values = np.asarray([0, 1 / 3, 1, -1e5 / 3, 1e6]).reshape(-1, 1)
    x = (np.repeat(values, 10, axis=0) + noise * rng.standard_normal((50, 7))).astype(F32)
    m = xp.numpy(xp.run(lambda a: anynorm.moments(a, axis=1), xp.array(x)))
    assert np.all(m.m2 >= 0)
    exact = (centred(x, (1,)) ** 2).sum(axis=1)
    assert_within(m.m2, exact, 1e-5 * exact)


# ------------------------------------------------------------------------------------------------ halves


@each_halves
def test_zeros_in_halves_are_zeros_at_an_eps_that_halves_lack(xp, dtype):
    ys = xp.run(lambda a: tuple(norm.call(a, eps=1e-12) for norm in NORMS), xp.array(np.zeros(SHAPE), dtype))
    for norm, y in zip(NORMS, ys, strict=True):
        assert np.array_equal(xp.numpy(y), np.zeros(SHAPE)), norm


@each_halves
def test_60000_in_halves_is_1(xp, dtype):
    x = np.where(np.indices((6, 4, 3, 6)).sum(axis=0) % 2 == 0, 60000.0, -60000.0)
    ys = xp.run(lambda a: tuple(norm.call(a) for norm in NORMS), xp.array(x, dtype))
    for norm, y in zip(NORMS, ys, strict=True):
        assert np.array_equal(xp.numpy(y), np.sign(x)), norm


@each_halves
def test_the_state_of_60000_in_halves_does_not_overflow(xp, dtype):
    x = xp.array(np.asarray([[60000.0], [-60000.0]]), dtype)
    start = anynorm.running_stats(1, like=x)
    y, stats = xp.run(
        lambda a, m, v: anynorm.batch_norm_train(a, RunningStats(m, v), momentum=1, correction=0), x, *start[:2]
    )
    size = xp.numpy(x).astype(np.float64)[0]
    assert np.array_equal(xp.numpy(y), [[1], [-1]])
    assert np.array_equal(xp.numpy(stats.mean), [0])
    assert_within(xp.numpy(stats.var), size**2, 1e-6 * size**2)


@each_halves
def test_groups_of_70000_in_halves_do_not_overflow(xp, dtype):
    x = xp.array(data("offset 100", (2, 4, 35_000)), dtype)
    given = xp.numpy(x).astype(F32)
    exact = standardized(given.reshape(2, 2, 70_000), (2,), 1e-5).reshape(given.shape)
    y = xp.run(lambda a: anynorm.group_norm(a, 2), x)
    assert_within(xp.numpy(y), exact, tolerance(given, exact, dtype))
    m = xp.numpy(xp.run(lambda a: anynorm.moments(a, axis=(0, 2)), x))
    assert np.array_equal(m.count, np.full(4, 70_000))
    assert_within(m.mean, given.astype(np.float64).mean(axis=(0, 2)), 1e-4)


# ------------------------------------------------------------------------------------------------ float32's range


@each_norm
@pytest.mark.parametrize("scale", [1e17, 1e-16])
def test_squares_near_the_ends_of_float32_keep_the_promise(xp, norm, scale):
    x = data("offset 0", SHAPE) * F32(scale)
    exact = norm.oracle(x, 0)
    y = xp.run(lambda a: norm.call(a, eps=0), xp.array(x))
    assert_within(xp.numpy(y), exact, tolerance(x, exact, "float32"))


SCALED = [*NORMS, Norm("zscore", lambda x, eps=0: anynorm.zscore(x), lambda _: (0,))]  # noqa: ARG005  it has none


@pytest.mark.eager
@pytest.mark.parametrize("norm", SCALED, ids=str)
@pytest.mark.parametrize("scale", [1e37, 1e30, 1e21, 1e-20, 1e-30])
def test_squares_beyond_float32_are_right_by_a_kernel_and_nan_elsewhere(xp, norm, scale):
    """By no engine is the result a silent 0."""
    x = data("offset 0", SHAPE) * F32(scale)
    with np.errstate(over="ignore", invalid="ignore"):  # NumPy, and what is made of it, warns of the overflow
        with watch() as ran:
            y = xp.run(lambda a: norm.call(a, eps=0), xp.array(x))
        y = xp.numpy(y)
    if "numba" in ran:
        assert_within(y, norm.oracle(x, 0), 2e-6)
    else:
        assert np.all(np.isnan(y))


@pytest.mark.eager
@each_norm
def test_squares_below_float32_are_drowned_by_eps(xp, norm):
    x = data("offset 0", SHAPE) * F32(1e-30)
    y = xp.numpy(xp.run(norm.call, xp.array(x)))
    exact = norm.oracle(x)
    assert_within(y, exact, 1e-5 * np.abs(exact).max())


@each_norm
@pytest.mark.parametrize("scale", [1e30, 1e-30])
@pytest.mark.parametrize(
    "library", [pytest.param(name, marks=pytest.mark.library(name)) for name in ("numpy", "torch")]
)
@pytest.mark.library("numba")
@pytest.mark.engine
def test_the_gradient_of_squares_beyond_float32_is_right_by_a_kernel(norm, scale, library, rng):
    shape = (16, 4, 9, 40)  # walked along rows or down columns
    x, g = data("offset 0", shape) * F32(scale), rng.standard_normal(shape).astype(F32)
    convert = {"numpy": lambda a: a, "torch": lambda a: __import__("torch").tensor(a)}[library]
    dx, dw, _ = norm.vjp(convert(x), weight=convert(np.ones([shape[i] for i in norm.runs_along(4)], F32)), eps=0)[1](
        convert(g)
    )
    exact = norm.gradient(x, g, 0)
    assert_within(np.asarray(dx), exact, 2e-6 * np.abs(exact).max())
    exact = norm.parameter_gradients(x, g, 0)[0]
    assert_within(np.asarray(dw), exact, 2e-6 * np.abs(exact).max())


@pytest.mark.parametrize("norm", [n for n in SCALED if n.name != "zscore"], ids=str)
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_squares_beyond_float64_are_nan_on_every_engine(norm, scale):
    x = data("offset 0", SHAPE, "float64") * scale
    for engine in (None, "array-api"):
        with anynorm.engine(engine), np.errstate(over="ignore"):
            assert np.all(np.isnan(norm.call(x, eps=0)))
            constant = norm.call(np.zeros(SHAPE), eps=0)
    assert np.array_equal(constant, np.zeros(SHAPE))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_in_rms_norm_an_infinity_alone_becomes_nan(xp, dtype, axis):
    """Along rows and down columns, of few elements and of many: by every engine."""
    if dtype not in xp.floats:
        pytest.skip(f"no {dtype}")
    for size in (4, 3000):
        x = np.ones((size, 40) if axis == 0 else (40, size))
        x[2, 3] = -np.inf
        with xp.using(dtype), np.errstate(invalid="ignore"):  # what computes by NumPy warns of inf * 0
            y = xp.numpy(xp.run(lambda a: anynorm.rms_norm(a, axis=axis), xp.array(x, dtype)))
        expected = np.full(x.shape, 1 / np.sqrt(1 + 1e-5))
        expected[(slice(None), 3) if axis == 0 else 2] = 0
        expected[2, 3] = np.nan
        assert np.allclose(y, expected, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("norm", [anynorm.batch_norm, anynorm.instance_norm], ids=["batch", "instance"])
@pytest.mark.parametrize("var", [-1.0, -1e-5, -1e-6, -1e-30])
def test_a_given_variance_below_0_is_nan(xp, norm, var):
    """Also where eps would make up for it: it shows that a state is corrupt."""
    x = xp.array(data("offset 3", SHAPE))
    mean, variances = xp.array(np.zeros(4, F32)), xp.array(np.asarray([1, var, 0, 1], F32))
    y = xp.numpy(xp.run(lambda a, m, v: norm(a, stats=RunningStats(m, v)), x, mean, variances))
    assert np.all(np.isnan(y[:, 1]))
    assert np.all(np.isfinite(np.delete(y, 1, axis=1)))


# ------------------------------------------------------------------------------------------------ NaN and infinity


SCALINGS = (
    Norm("zscore", lambda x, **k: anynorm.zscore(x, **k), lambda _: (0,)),
    Norm("minmax_scale", lambda x, **k: anynorm.minmax_scale(x, **k), lambda _: (0,)),
)


@pytest.mark.parametrize("norm", [*NORMS, *SCALINGS], ids=str)
@pytest.mark.parametrize("value", [math.nan, -math.inf], ids=str)
def test_nan_and_infinity_spread_within_their_slice_alone(xp, norm, value):
    clean = data("offset 100", SHAPE)
    x = clean.copy()
    x[2, 1, 0, 3] = value
    axes, split = norm.axes(x.ndim), norm.split(SHAPE)
    hit = np.broadcast_to(~np.isfinite(x).reshape(split).all(axis=axes, keepdims=True), split).reshape(SHAPE)
    with np.errstate(invalid="ignore"):  # Dask computes later, and warns of inf - inf
        y = xp.numpy(xp.run(norm.call, xp.array(x)))
        whole = xp.numpy(xp.run(norm.call, xp.array(clean)))
    assert_within(y[~hit], whole[~hit].astype(np.float64), 1e-6)
    if np.isnan(value) or not (norm.rms or norm.name == "minmax_scale"):
        assert np.all(np.isnan(y[hit]))


@pytest.mark.parametrize("train", [anynorm.batch_norm_train, anynorm.instance_norm_train])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_nan_and_infinity_enter_the_state_of_their_channel_alone(xp, train, value):
    x = data("offset 3", SHAPE)
    x[2, 1, 0, 3] = value
    start = anynorm.running_stats(4, like=xp.array(x))

    def step(a, m, v):
        return train(a, RunningStats(m, v, 0), momentum=1, correction=0)[1]

    with np.errstate(invalid="ignore"):
        mean, var, steps = xp.numpy(xp.run(step, xp.array(x), *start[:2]))
    assert list(np.isnan(mean)) == list(np.isnan(var)) == [False, True, False, False]
    others, axes = np.delete(x, 1, axis=1).astype(np.float64), (0, 2, 3)
    assert_within(np.delete(mean, 1), others.mean(axis=axes), 1e-5)
    spread = others.var(axis=axes) if train is anynorm.batch_norm_train else others.var(axis=(2, 3)).mean(axis=0)
    assert_within(np.delete(var, 1), spread, 1e-5)
    assert steps == 1


# ------------------------------------------------------------------------------------------------ masks


@each_norm
def test_what_a_mask_hides_wholly_is_the_bias(xp, norm):
    x, bias = data("offset 100", SHAPE), np.linspace(-2, 2, math.prod(SHAPE)).astype(F32).reshape(SHAPE)
    x[:] = np.nan
    mask = np.zeros(SHAPE, dtype=bool)
    y = xp.run(lambda a, m, b: norm.call(a, where=m, bias=b), *map(xp.array, (x, mask, bias)))
    assert np.array_equal(xp.numpy(y), bias)


@pytest.mark.parametrize("train", [anynorm.batch_norm_train, anynorm.instance_norm_train])
def test_a_channel_hidden_wholly_is_its_bias_and_its_state_stays(xp, train):
    x, mask, bias = data("offset 3", SHAPE), np.ones((1, 4, 1, 1), dtype=bool), np.arange(4, dtype=F32)
    x[:, 2], mask[:, 2] = np.inf, False
    old = [np.full(4, value, dtype=F32) for value in (3.7, 2.3)]

    def step(a, m, b, mean, var):
        return train(a, RunningStats(mean, var), where=m, bias=b)

    y, stats = xp.run(step, *map(xp.array, (x, mask, bias, *old)))
    assert np.all(xp.numpy(y)[:, 2] == 2)
    assert np.all(np.isfinite(xp.numpy(y)))
    assert (xp.numpy(stats.mean)[2], xp.numpy(stats.var)[2]) == (old[0][2], old[1][2])
    assert np.all(np.isfinite(xp.numpy(stats.var)))


# ------------------------------------------------------------------------------------------------ gradients


def gradients_in_torch(loss, *xs):
    import torch

    leaves = [torch.tensor(x, requires_grad=True) for x in xs]
    for a in leaves:
        loss(a, torch.tensor).backward()
    return [a.grad.numpy() for a in leaves]


def gradients_in_jax(loss, *xs):
    import jax

    compiled = jax.jit(jax.grad(lambda a: loss(a, jax.numpy.asarray)))
    return [np.asarray(compiled(x)) for x in xs]


each_gradient = pytest.mark.parametrize(
    "gradients",
    [
        pytest.param(gradients_in_torch, id="torch", marks=pytest.mark.library("torch")),
        pytest.param(gradients_in_jax, id="jax-jit", marks=pytest.mark.library("jax")),
    ],
)


@each_gradient
@each_norm
def test_what_a_mask_hides_has_gradient_0_and_spoils_no_other(gradients, norm, rng):
    x, mask, g = data("offset 3", SHAPE), rng.random(SHAPE) < 0.7, rng.standard_normal(SHAPE).astype(F32)
    mask[1], mask[:, 2], mask[3, :, 1] = False, False, False  # slices of every norm have nothing left
    exact = norm.gradient(x, g, mask=mask)
    spoilt = [np.where(mask, x, F32(hidden)) for hidden in (math.nan, math.inf)]
    for dx in gradients(lambda a, like: (norm.call(a, where=like(mask)) * like(g)).sum(), *spoilt):
        assert np.all(dx[~mask] == 0)
        assert_within(dx, exact, 2e-6 * np.abs(exact).max())


@each_gradient
@pytest.mark.parametrize("norm", [*(n for n in NORMS if not n.groups), *SCALINGS], ids=str)
def test_a_mask_that_shows_nothing_leaves_gradient_0(gradients, norm):
    x = np.full(SHAPE, np.nan, dtype=F32)
    (dx,) = gradients(lambda a, like: norm.call(a, where=like(np.zeros(SHAPE, dtype=bool))).sum(), x)
    assert np.array_equal(dx, np.zeros(SHAPE))


@each_gradient
@pytest.mark.parametrize("train", [anynorm.batch_norm_train, anynorm.instance_norm_train])
def test_what_a_mask_hides_has_no_part_in_the_states_gradient(gradients, train, rng):
    x, mask = data("offset 3", SHAPE), rng.random(SHAPE) < 0.7
    mask[1], mask[:, 2] = False, False

    def loss(a, like):
        start = RunningStats(like(np.zeros(4, F32)), like(np.ones(4, F32)))
        y, stats = train(a, start, where=like(mask))
        return (y * y * y).sum() + (stats.mean * stats.mean).sum() + (stats.var * stats.var).sum()

    clean, dx = gradients(loss, *(np.where(mask, x, F32(hidden)) for hidden in (0, np.nan)))
    assert np.all(dx[~mask] == 0)
    assert np.any(dx != 0)
    assert_within(dx, clean.astype(np.float64), 1e-6 * np.abs(clean).max())


@each_gradient
@each_centred_norm
@pytest.mark.parametrize("eps", [0, 1e-5])
def test_the_gradient_of_a_constant_slice_is_finite(gradients, norm, eps, rng):
    g = rng.standard_normal(SHAPE).astype(F32)
    exact = norm.gradient(np.zeros(SHAPE), g, eps)
    constant = [np.full(SHAPE, value, dtype=F32) for value in (0.0, 1e6 / 3)]
    for dx in gradients(lambda a, like: (norm.call(a, eps=eps) * like(g)).sum(), *constant):
        assert_within(dx, exact, 2e-6 * np.abs(exact).max())


@each_gradient
def test_the_gradient_of_zeros_in_rms_norm_is_finite(gradients, rng):
    g = rng.standard_normal(SHAPE).astype(F32)
    for eps in (0, 1e-5):
        (dx,) = gradients(lambda a, like, e=eps: (anynorm.rms_norm(a, eps=e) * like(g)).sum(), np.zeros(SHAPE, F32))
        exact = g / np.sqrt(eps) if eps else np.zeros(SHAPE)
        assert_within(dx, exact.astype(np.float64), 2e-6 * np.abs(exact).max())


# ------------------------------------------------------------------------------------------------ dtypes


@pytest.mark.dtypes("float64", "float16", "bfloat16")
def test_affine_and_state_may_be_wider_or_narrower_than_x(xp, dtype, rng):
    with xp.using("float64"):
        x = xp.array(data("offset 3", SHAPE, "float64"), dtype)
        given = xp.numpy(x).astype(np.float64)
        weight, bias, mean, var = rng.uniform(0.5, 2, (4, SHAPE[1])).astype(F32)
        laid, axes = (1, SHAPE[1], 1, 1), (0, 2, 3)
        exact = standardized(given, axes, 1e-5) * weight.reshape(laid) + bias.reshape(laid)
        for wide in [name for name in ("float32", "float64") if name in xp.floats]:
            y, stats = xp.run(
                lambda a, w, b, m, v: anynorm.batch_norm_train(a, RunningStats(m, v), weight=w, bias=b),
                *(x, xp.array(weight, wide), xp.array(bias, wide), xp.array(mean, "float32"), xp.array(var, "float32")),
            )
            assert [xp.dtype(part) for part in (y, *stats[:2])] == [dtype, "float32", "float32"]
            rounding = 1e-6 if dtype == "float64" else tolerance(given, exact, dtype) + 4e-6
            assert_within(xp.numpy(y), exact, rounding)
            assert_within(xp.numpy(stats.mean), 0.9 * mean + 0.1 * given.mean(axis=axes), 1e-6)
            assert_within(xp.numpy(stats.var), 0.9 * var + 0.1 * given.var(axis=axes, ddof=1), 1e-6)


# ------------------------------------------------------------------------------------------------ layouts and sizes


@pytest.mark.library("numpy")
@each_norm
@pytest.mark.parametrize("repeated", [0, 1, 2, 3])
def test_zero_strides_keep_the_promise_in_numpy(norm, repeated):
    x = np.broadcast_to(data("offset 1e+04", tuple(1 if i == repeated else n for i, n in enumerate(SHAPE))), SHAPE)
    assert 0 in x.strides
    before, exact = x.copy(), norm.oracle(x)
    assert_within(norm.call(x), exact, tolerance(x, exact, "float32"))
    assert np.array_equal(x, before)


@pytest.mark.parametrize(
    ("call", "shape", "axes"),
    [
        (anynorm.layer_norm, (70_000, 5), (1,)),
        (lambda a: anynorm.instance_norm(a), (2, 35_000, 5), (2,)),
        (lambda a: anynorm.group_norm(a, 35_000), (2, 35_000, 5), (2,)),
        (lambda a: anynorm.batch_norm(a), (3, 70_000), (0,)),
    ],
    ids=["layer_norm", "instance_norm", "group_norm", "batch_norm"],
)
def test_more_than_65535_slices_keep_the_promise(xp, call, shape, axes):
    x = data("offset 100", shape)
    exact = standardized(x, axes, 1e-5)
    assert_within(xp.numpy(xp.run(call, xp.array(x))), exact, tolerance(x, exact, "float32"))


HUGE = 2**31 + 2


def huge_in_numpy():
    return np.broadcast_to(F32(1), (HUGE,)), np.ones(1, dtype=bool)


def huge_in_torch():
    import torch

    return torch.ones(1).expand(HUGE), torch.ones(1, dtype=torch.bool)


def huge_in_dask():
    import dask.array as da

    return da.ones((HUGE,), dtype=F32, chunks=2**28), da.ones(1, dtype=bool)


each_huge = pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=pytest.mark.library(name))
        for name, make in (("numpy", huge_in_numpy), ("torch", huge_in_torch), ("dask", huge_in_dask))
    ],
)


@each_huge
def test_more_than_2_to_the_31_elements_are_counted_exactly(make):
    """Of views that take no memory; without a mask a count is a Python int, with one it is the library's int64."""
    x, mask = make()
    xp = namespace_of(x)
    count = Mean(xp, x, (0,)).count
    assert isinstance(count, int)
    assert count == HUGE
    assert int(Mean(xp, x, (0,), mask).count[0]) == HUGE


@pytest.mark.library("jax")
def test_more_than_2_to_the_31_elements_are_counted_exactly_in_jax():
    import jax

    counts = []

    def count(a):
        counts.append(Mean(namespace_of(a), a, (0,)).count)
        return anynorm.layer_norm(a)

    y = jax.eval_shape(count, jax.ShapeDtypeStruct((HUGE,), "float32"))
    assert y.shape == (HUGE,)
    assert counts == [HUGE]
    assert isinstance(counts[0], int)


# ------------------------------------------------------------------------------------------------ states


def test_one_value_a_channel_in_training_is_the_bias(xp):
    x, bias = np.asarray([[[[5.0]], [[-3e6]]]], dtype=F32), np.asarray([1.5, -2.5], dtype=F32)
    old = [np.asarray(part, dtype=F32) for part in ([1, 2], [3.3, 4.4])]

    def step(a, b, mean, var):
        return anynorm.batch_norm_train(a, RunningStats(mean, var), bias=b, momentum=0.5)

    y, stats = xp.run(step, *map(xp.array, (x, bias, *old)))
    assert np.array_equal(xp.numpy(y).ravel(), bias)
    assert np.array_equal(xp.numpy(stats.mean), [3, -1499999])
    assert np.array_equal(xp.numpy(stats.var), old[1])


@pytest.mark.parametrize("norm", [anynorm.batch_norm, anynorm.instance_norm])
@pytest.mark.parametrize("eps", [0, 1e-5])
def test_a_state_from_before_any_update_divides_by_no_zero(xp, norm, eps):
    x = data("offset 3", SHAPE)
    fresh = anynorm.running_stats(4, like=xp.array(x))
    nothing = anynorm.population_stats(anynorm.moments(xp.array(np.zeros((0, 4), F32)), axis=0))
    for stats in (fresh, nothing):
        y = xp.run(lambda a, m, v: norm(a, stats=RunningStats(m, v), eps=eps), xp.array(x), *stats[:2])
        assert_within(xp.numpy(y), x / np.sqrt(1 + eps), 1e-6)


@pytest.mark.parametrize(
    "shape", [(4, 60), (4, 500), (4, 600), (4, 12, 60), (4, 20, 50), (4, 16, 7, 6), (4, 33, 32)], ids=str
)
@pytest.mark.parametrize("kind", ["offset 1e+06", "outlier first", "heavy tails"])
def test_in_rms_norm_what_is_added_to_a_large_element_counts(xp, shape, kind):
    x, axes = data(kind, shape), tuple(range(1, len(shape)))
    exact = standardized(x, axes, 1e-5, rms=True)
    y = xp.numpy(xp.run(lambda a: anynorm.rms_norm(a, axis=axes), xp.array(x)))
    assert_within(y, exact, tolerance(x, exact, "float32"))
