"""Running statistics against float64, step by step."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats
from anynorm._core.libraries import namespace_of
from oracles import assert_within, data

SHAPE = (6, 4, 5, 3)
TRAIN = {"batch": anynorm.batch_norm_train, "instance": anynorm.instance_norm_train}
each_form = pytest.mark.parametrize("form", TRAIN)


def expected(form, x, old, momentum, correction=1):
    """Return the running mean and variance in float64 after one batch with channels on axis 1."""
    x = x.astype(np.float64)
    axes = (0, 2, 3) if form == "batch" else (2, 3)
    count = np.prod([x.shape[i] for i in axes])
    mean = x.mean(axis=axes, keepdims=True)
    var = ((x - mean) ** 2).sum(axis=axes, keepdims=True) / (count - correction)
    new = (mean.mean(axis=0).ravel(), var.mean(axis=0).ravel())
    return [(1 - momentum) * o + momentum * n for o, n in zip(old, new, strict=True)]


def start(xp, dtype="float32"):
    return anynorm.running_stats(SHAPE[1], like=xp.array(np.zeros(1), dtype))


def train(xp, form, x, stats, **options):
    """Take one training step the way the library is used."""
    return xp.run(step(form, **options), x, *stats)


@functools.cache  # what is compiled is compiled once
def step(form, **options):
    return lambda a, *stats: TRAIN[form](a, RunningStats(*stats), **options)


@pytest.mark.needs("many small calls")
@each_form
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.every_use
def test_ten_steps_keep_the_statistics(xp, form, offset):
    stats, exact = start(xp), (np.zeros(SHAPE[1]), np.ones(SHAPE[1]))
    for seed in range(10):
        x = data(f"offset {offset:g}", SHAPE, seed=seed)
        y, stats = train(xp, form, xp.array(x), stats)
        exact = expected(form, x, exact, 0.1)
    mean, var, steps = xp.numpy(stats)
    assert_within(mean, exact[0], 1e-6 * (1 + offset))
    assert_within(var, exact[1], 1e-5)
    assert steps == 10
    plain = anynorm.batch_norm if form == "batch" else anynorm.instance_norm
    assert np.array_equal(xp.numpy(y), xp.numpy(xp.run(plain, xp.array(x))))


@each_form
def test_momentum_none_is_the_cumulative_average(xp, form):
    stats, batches = start(xp), [data("offset 3", SHAPE, seed=seed) for seed in range(5)]
    for x in batches:
        _, stats = train(xp, form, xp.array(x), stats, momentum=None)
    each = [expected(form, x, (0, 0), 1.0) for x in batches]
    mean, var, _ = xp.numpy(stats)
    assert_within(mean, np.mean([m for m, _ in each], axis=0), 1e-5)
    assert_within(var, np.mean([v for _, v in each], axis=0), 1e-5)


@each_form
@pytest.mark.parametrize("correction", [0, 1, 2])
def test_the_correction_is_that_of_the_running_variance(xp, form, correction):
    x = data("offset 3", SHAPE)
    _, stats = train(xp, form, xp.array(x), start(xp), momentum=1.0, correction=correction)
    assert_within(xp.numpy(stats).var, expected(form, x, (0, 0), 1.0, correction)[1], 1e-5)


@each_form
@pytest.mark.dtypes("float64", "float32", "float16", "bfloat16")
def test_a_state_keeps_its_dtypes(xp, dtype, form):
    with xp.using("float64"):
        x = xp.array(data("offset 3", SHAPE))
        zeros, ones = xp.array(np.zeros(SHAPE[1]), dtype), xp.array(np.ones(SHAPE[1]), dtype)
        steps = xp.array(np.asarray(0, dtype=np.int32), "int32")
        y, stats = train(xp, form, x, RunningStats(zeros, ones, steps))
        assert [xp.dtype(part) for part in (y, *stats)] == ["float32", dtype, dtype, "int32"]
        assert all(xp.owns(part) for part in stats)


@pytest.mark.dtypes("float64", "float32", "float16", "bfloat16")
def test_a_state_starts_in_likes_dtype_but_at_least_float32(xp, dtype):
    with xp.using("float64"):
        like = xp.array(np.zeros(2), dtype)
        mean, var, steps = anynorm.running_stats(3, like=like)
        at_least = "float64" if dtype == "float64" else "float32"
        assert (xp.dtype(mean), xp.dtype(var)) == (at_least, at_least)
        assert (xp.place(mean), xp.place(steps)) == (xp.place(like), xp.place(like))
        assert np.array_equal(xp.numpy(mean), np.zeros(3))
        assert np.array_equal(xp.numpy(var), np.ones(3))


@each_form
@pytest.mark.parametrize("shape", [(0, 4), (0, 4, 3, 3), (2, 4, 0, 3)])
@pytest.mark.needs("empty arrays")
def test_an_empty_batch_leaves_the_state_alone(xp, form, shape):
    old = RunningStats(*(xp.array(np.full(4, value, dtype=np.float32)) for value in (3.5, 2.5)), 7)
    y, stats = xp.run(
        lambda a, m, v: TRAIN[form](a, RunningStats(m, v, 7)), xp.array(np.zeros(shape, np.float32)), *old[:2]
    )
    assert tuple(y.shape) == shape
    mean, var, steps = xp.numpy(stats)
    assert (list(mean), list(var), int(steps)) == ([3.5] * 4, [2.5] * 4, 7)


@each_form
def test_one_value_a_channel_moves_the_mean_alone(xp, form):
    x = np.full((1, 4), 5.0, dtype=np.float32)
    y, stats = train(xp, form, xp.array(x), start(xp), momentum=0.5, bias=None)
    mean, var, steps = xp.numpy(stats)
    assert np.array_equal(xp.numpy(y), np.zeros((1, 4)))
    assert (list(mean), list(var), int(steps)) == ([2.5] * 4, [1.0] * 4, 1)


def test_channels_may_be_on_any_axis(xp):
    x = data("offset 3", SHAPE)
    _, stats = train(xp, "batch", xp.array(np.moveaxis(x, 1, -1)), start(xp), channel_axis=-1)
    exact = expected("batch", x, (np.zeros(4), np.ones(4)), 0.1)
    assert_within(xp.numpy(stats).mean, exact[0], 1e-5)
    assert_within(xp.numpy(stats).var, exact[1], 1e-5)


@each_form
@pytest.mark.every_use("torch")
def test_a_masked_channel_leaves_its_state_alone(xp, form):
    x, mask = data("offset 3", SHAPE), np.ones(SHAPE, dtype=bool)
    x[:, 1], mask[:, 1] = np.nan, False
    mask[2], x[2] = False, np.inf

    def step(a, m, mean, var):
        return TRAIN[form](a, RunningStats(mean, var, 0), where=m)

    old = start(xp)
    _, stats = xp.run(step, xp.array(x), xp.array(mask), old.mean, old.var)
    mean, var, steps = xp.numpy(stats)
    assert (mean[1], var[1], int(steps)) == (0.0, 1.0, 1)
    kept = np.delete(np.delete(x, 2, axis=0), 1, axis=1)
    exact = expected(form, kept, (np.zeros(3), np.ones(3)), 0.1)
    assert_within(np.delete(mean, 1), exact[0], 1e-5)
    assert_within(np.delete(var, 1), exact[1], 1e-5)


@pytest.mark.every_use("torch")
def test_a_wholly_masked_batch_is_no_step(xp):
    old = RunningStats(*(xp.array(np.full(4, value, dtype=np.float32)) for value in (3.5, 2.5)))

    def step(a, m, mean, var):
        return anynorm.batch_norm_train(a, RunningStats(mean, var, 0), where=m)

    _, stats = xp.run(step, xp.array(data("offset 3", SHAPE)), xp.array(np.zeros(SHAPE, dtype=bool)), *old[:2])
    mean, var, steps = xp.numpy(stats)
    assert (list(mean), list(var), int(steps)) == ([3.5] * 4, [2.5] * 4, 0)


# ------------------------------------------------------------------------------------------------ inference


@pytest.mark.parametrize("norm", [anynorm.batch_norm, anynorm.instance_norm])
@pytest.mark.every_use
def test_given_statistics_are_used_exactly(xp, norm, rng):
    x = data("offset 1e+06", SHAPE)
    mean, var = (1e6 + rng.standard_normal(4)).astype(np.float32), rng.uniform(0.5, 2, 4).astype(np.float32)
    laid = (1, 4, 1, 1)
    exact = (x.astype(np.float64) - mean.reshape(laid)) / np.sqrt(var.reshape(laid) + 1e-5)
    y = xp.run(lambda a, m, v: norm(a, stats=RunningStats(m, v)), *map(xp.array, (x, mean, var)))
    assert_within(xp.numpy(y), exact, 2e-6)


@pytest.mark.dtypes("float64")
def test_given_statistics_wider_than_x_are_used_to_their_last_digit(xp, dtype, rng):
    x, mean, var = data("offset 1e+06", SHAPE), 1e6 + rng.standard_normal(4), rng.uniform(0.5, 2, 4)
    laid = (1, 4, 1, 1)
    exact = (x.astype(np.float64) - mean.reshape(laid)) / np.sqrt(var.reshape(laid) + 1e-5)
    with xp.using(dtype):
        stats = [xp.array(part, dtype) for part in (mean, var)]
        y = xp.run(lambda a, m, v: anynorm.batch_norm(a, stats=RunningStats(m, v)), xp.array(x), *stats)
        assert xp.dtype(y) == "float32"
        assert_within(xp.numpy(y), exact, 2e-6)


def test_inference_before_any_update_is_the_identity_at_eps_0(xp):
    x, stats = data("offset 3", SHAPE), start(xp)
    y = xp.run(
        lambda a, m, v: anynorm.batch_norm(a, stats=RunningStats(m, v), eps=0), xp.array(x), stats.mean, stats.var
    )
    assert np.array_equal(xp.numpy(y), x)


# ------------------------------------------------------------------------------------------------ populations


@pytest.mark.parametrize("correction", [0, 1])
def test_population_stats_are_those_of_all_the_batches(xp, correction):
    batches = [data("offset 100", (n, 4, 3), seed=n) for n in (1, 5, 2)]

    def population(*parts):
        merged = anynorm.merge(*(anynorm.moments(x, axis=(0, 2)) for x in parts))
        return anynorm.population_stats(merged, correction=correction)

    stats = xp.numpy(xp.run(population, *map(xp.array, batches)))
    whole = np.concatenate(batches).astype(np.float64)
    assert_within(stats.mean, whole.mean(axis=(0, 2)), 1e-5)
    assert_within(stats.var, whole.var(axis=(0, 2), ddof=correction), 1e-5)
    assert int(stats.steps) == 1


def test_a_population_of_one_has_the_variance_of_the_start(xp):
    stats = anynorm.population_stats(anynorm.moments(xp.array(np.full((1, 2), 3.0, dtype=np.float32)), axis=0))
    assert (list(xp.numpy(stats.mean)), list(xp.numpy(stats.var))) == ([3, 3], [1, 1])


# ------------------------------------------------------------------------------------------------ as pytrees


@pytest.mark.library("jax")
def test_scan_carries_the_state():
    import jax
    import jax.numpy as jnp

    batches = np.stack([data("offset 3", SHAPE, seed=seed) for seed in range(4)])

    def step(stats, x):
        y, stats = anynorm.batch_norm_train(x, stats)
        return stats, y

    stats, _ = jax.lax.scan(step, anynorm.running_stats(4, like=jnp.zeros(1)), jnp.asarray(batches))
    exact = (np.zeros(4), np.ones(4))
    for x in batches:
        exact = expected("batch", x, exact, 0.1)
    assert_within(np.asarray(stats.mean), exact[0], 1e-5)
    assert_within(np.asarray(stats.var), exact[1], 1e-5)
    assert int(stats.steps) == 4


@pytest.mark.library("jax")
@pytest.mark.parametrize("mask", [True, False])
def test_steps_keep_their_dtype_where_jax_counts_in_another(mask):
    import jax

    with jax.enable_x64(True):
        x, one = jax.numpy.ones((3, 4), dtype="float32"), jax.numpy.ones(4, dtype="float32")
        stats = RunningStats(one, one, jax.numpy.asarray(7, dtype="int32"))
        _, new = anynorm.batch_norm_train(x, stats, where=x > 0 if mask else None)
    assert (new.steps.dtype, int(new.steps)) == ("int32", 8)


# ------------------------------------------------------------------------------------------------ a step left out


def keep_if_finite(xp, new, old):
    """The pattern of the guide."""
    finite = xp.all(xp.isfinite(new.mean) & xp.isfinite(new.var))
    return RunningStats(*(xp.where(finite, a, b) for a, b in zip(new, old, strict=True)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_finite_can_be_left_out(xp, value):
    good, bad = data("offset 3", (6, 4, 5)), data("offset 3", (6, 4, 5), seed=1)
    namespace = namespace_of(xp.array(good))
    bad[2, 1, 3] = value

    def step(a, state):
        _, new = anynorm.batch_norm_train(a, state)
        return keep_if_finite(namespace, new, state)

    start = anynorm.running_stats(4, like=xp.array(good))
    with np.errstate(all="ignore"):  # 1e30 has no square
        first = xp.run(step, xp.array(good), start)
        second = xp.run(step, xp.array(bad), first)
        mean, var, steps = xp.numpy(second)
    _, exact = anynorm.batch_norm_train(good.astype(np.float64), anynorm.running_stats(4, like=np.zeros(1)))
    assert_within(mean, exact.mean, 1e-6)
    assert_within(var, exact.var, 1e-6)
    assert int(steps) == 1
