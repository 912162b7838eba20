"""Switchable and batch-instance norm, against the formulas of their papers in float64, and differences of those."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats, vjp
from oracles import KINDS, assert_near, assert_within, data, in_memory, tolerance, ulp
from test_replicas import Replicas

F32 = np.float32
SHAPE = (3, 4, 5, 2)
AXES = {"instance": (2, 3), "layer": (1, 2, 3), "batch": (0, 2, 3)}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_mixture = pytest.mark.parametrize("name", ["switchable_norm", "batch_instance_norm"])

# ------------------------------------------------------------------------------------------------ the oracle


def statistics(x, which, mask):
    """Return the mean and the variance of what the mask shows, 0 and 0 where it shows nothing."""
    n = np.maximum(np.sum(np.broadcast_to(mask, x.shape), axis=AXES[which], keepdims=True), 1)
    mean = np.sum(np.where(mask, x, 0), axis=AXES[which], keepdims=True) / n
    return mean, np.sum(np.where(mask, (x - mean) ** 2, 0), axis=AXES[which], keepdims=True) / n


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def oracle(name, x, controls, weight, bias, mask=True, stats=None, eps=1e-5):
    """Return what the paper says, of x in float64."""
    parts = [statistics(x, which, mask) for which in ("instance", "layer", "batch")]
    if stats is not None:
        parts[2] = tuple(a.reshape(1, -1, 1, 1) for a in stats)
    if name == "switchable_norm":
        p, q = map(softmax, controls)
        mean, var = (
            sum(a * m for a, (m, _) in zip(p, parts, strict=True)),
            sum(a * v for a, (_, v) in zip(q, parts, strict=True)),
        )
        z = (x - mean) / np.sqrt(var + eps)
    else:
        rho = controls[0].reshape(1, -1, 1, 1)
        own, _, batch = ((x - mean) / np.sqrt(var + eps) for mean, var in parts)
        z = rho * batch + (1 - rho) * own
    return np.where(mask, z, 0) * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def differences(function, arguments, g, step=1e-5):
    """Return the gradients of sum(function(*arguments) * g), to 1e-9, by differences of the fourth order."""
    gradients = []
    for k, argument in enumerate(arguments):
        gradients.append(np.zeros(argument.shape))
        for i in range(argument.size):

            def moved(by, k=k, i=i):
                changed = [a.astype(np.float64) for a in arguments]
                changed[k].flat[i] += by
                return np.sum(function(*changed) * g)

            near, far = moved(step) - moved(-step), moved(2 * step) - moved(-2 * step)
            gradients[-1].flat[i] = (8 * near - far) / (12 * step)
    return gradients


def assert_gradients_near(ours, exactly):
    """Compare with exact gradients; that of a control is a sum of terms of unit size, which may be near 0."""
    for gradient, right in zip(ours, exactly, strict=True):
        assert_within(np.asarray(gradient), right, 4e-6 * max(1.0, np.abs(right).max()))


def arguments(name, rng, kind="offset 0", shape=SHAPE, dtype="float32"):
    """Return x, weight, bias and the controls."""
    x, channels = data(kind, shape, dtype), shape[1]
    controls = rng.standard_normal((2, 3)) if name == "switchable_norm" else rng.uniform(0.2, 0.8, (1, channels))
    return x, *(a.astype(dtype) for a in (*rng.standard_normal((2, channels)), *controls))


def exact(name, x, w, b, *controls, **options):
    """Return the oracle of arguments in any dtype: of x less its middle, since neither knows the offset."""
    middle = np.median(x.astype(np.float64))
    if "stats" in options:
        mean, var = options["stats"]
        options["stats"] = mean.astype(np.float64) - middle, var.astype(np.float64)
    x, w, b, *controls = (a.astype(np.float64) for a in (x, w, b, *controls))
    return oracle(name, x - middle, controls, w, b, **options)


@functools.cache
def called(name, of=anynorm, *keywords):
    """Return a function of x, weight, bias, the controls and what keywords name."""
    many = 2 if name.startswith("switchable") else 1

    def function(x, w, b, *others):
        more = dict(zip(keywords, others[many:], strict=True))
        return getattr(of, name)(x, *others[:many], weight=w, bias=b, **more)

    return function


@functools.cache
def gradients_of(name, *keywords):
    function = called(name, vjp, *keywords)
    return lambda dy, *others: function(*others)[1](dy)


# ------------------------------------------------------------------------------------------------ values


@each_mixture
@each_kind
def test_it_is_the_papers(xp, name, kind, rng):
    given = arguments(name, rng, kind)
    y = xp.numpy(xp.run(called(name), *map(xp.array, given)))
    right = exact(name, *given)
    assert_within(y, right, tolerance(given[0], right, "float32"))


@each_mixture
@pytest.mark.parametrize("kind", ["offset 0", "offset 1e+06"])
@pytest.mark.parametrize("mask_shape", [(3, 1, 5, 2), SHAPE], ids=["padding", "full"])
def test_a_mask_hides(xp, name, kind, mask_shape, rng):
    x, *others = arguments(name, rng, kind)
    mask = rng.random(mask_shape) < 0.6
    mask[0] = False  # a sample that has nothing to show
    spoilt = np.where(mask, x, np.nan).astype(F32)
    y = xp.numpy(xp.run(called(name, anynorm, "where"), *map(xp.array, (spoilt, *others, mask))))
    right = exact(name, x, *others, mask=mask)
    assert_within(y, right, tolerance(x, right, "float32"))


@each_mixture
@pytest.mark.parametrize("kind", ["offset 0", "offset 10000"])
def test_statistics_may_be_given(xp, name, kind, rng):
    given = arguments(name, rng, kind)
    stats, norm = (given[0].mean(axis=(0, 2, 3)), np.linspace(0.5, 1.5, 4, dtype=F32)), called(name, anynorm, "stats")

    def function(*a):
        return norm(*a[:-2], RunningStats(*a[-2:]))

    y = xp.numpy(xp.run(function, *map(xp.array, (*given, *stats))))
    right = exact(name, *given, stats=stats)
    assert_within(y, right, tolerance(given[0], right, "float32"))


@each_mixture
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [(3, 2, 1, 0), (0, 2, 3, 1), (1, 0, 3, 2)], ids=str)
def test_gradients_are_the_same_in_every_order_of_memory(name, dtype, order, rng):
    given = [a.astype(dtype) for a in (rng.standard_normal(SHAPE), *arguments(name, rng, "offset 0"))]
    turned = [in_memory(a, order) if a.ndim == 4 else a for a in given]
    for ours, right in zip(gradients_of(name)(*turned), gradients_of(name)(*given), strict=True):
        assert_within(ours, right.astype(float), 4e-6 * max(1.0, np.abs(right).max()))


@each_mixture
@pytest.mark.dtypes("float16", "bfloat16")
def test_halves_are_rounded_once(xp, dtype, name, rng):
    given = [xp.array(a, dtype) for a in arguments(name, rng, "offset 3")]
    y = xp.run(called(name), *given)
    right = exact(name, *(xp.numpy(a) for a in given))
    assert xp.dtype(y) == dtype
    assert_within(xp.numpy(y), right, ulp(right, dtype) + 2e-6)


@pytest.mark.slow_on("jax")
@each_mixture
@pytest.mark.eager
def test_constants_are_zero_at_every_eps(xp, name, rng):
    _, w, _, *controls = arguments(name, rng)
    x = np.full(SHAPE, 1e6 / 3, F32)
    given = map(xp.array, (x, w, np.zeros(4, F32), *controls))
    (y, pullback) = called(name, vjp, "eps")(*given, 0)
    assert not xp.numpy(y).any()
    assert all(np.isfinite(a).all() for a in xp.numpy(pullback(xp.array(np.ones(SHAPE, F32)))))


@pytest.mark.slow_on("jax")
@each_mixture
@pytest.mark.eager
def test_channels_may_be_last_and_shapes_change_between_calls(xp, name, rng):
    for shape in (SHAPE, (2, 4, 7, 1), SHAPE):
        x, *others = arguments(name, rng, "offset 100", shape)
        last = np.moveaxis(x, 1, -1)
        y = xp.numpy(called(name, anynorm, "channel_axis")(*map(xp.array, (last, *others)), -1))
        right = exact(name, x, *others)
        assert_within(np.moveaxis(y, -1, 1), right, tolerance(x, right, "float32"))


# ------------------------------------------------------------------------------------------------ gradients


@each_mixture
@pytest.mark.parametrize("kind", ["offset 0", "offset 1e+06", "outlier first"])
def test_pullbacks_are_differences_of_the_papers(xp, name, kind, rng):
    given, dy = arguments(name, rng, kind), rng.standard_normal(SHAPE).astype(F32)
    dx, dw, db, *dcontrols = xp.numpy(xp.run(gradients_of(name), *map(xp.array, (dy, *given))))
    x = given[0].astype(np.float64)
    right = differences(functools.partial(exact, name), (x - np.median(x), *given[1:]), dy)
    assert_gradients_near((dx, dw, db, *dcontrols), right)
    assert_near(dx, right[0])


@pytest.mark.slow_on("jax")
@each_mixture
@pytest.mark.dtypes("float16", "bfloat16")
def test_pullbacks_of_halves_are_rounded_once(xp, dtype, name, rng):
    given = [xp.array(a, dtype) for a in (rng.standard_normal(SHAPE), *arguments(name, rng))]
    dx, *_ = xp.run(gradients_of(name), *given)
    dy, *rest = map(xp.numpy, given)
    (right, *_) = differences(functools.partial(exact, name), [a.astype(np.float64) for a in rest], dy)
    assert xp.dtype(dx) == dtype
    assert_within(xp.numpy(dx), right, ulp(right, dtype) + 2e-6)


@each_mixture
@pytest.mark.eager
@pytest.mark.parametrize("option", ["where", "stats"])
def test_pullbacks_of_masked_and_given_are_differences(xp, name, option, rng):
    given, dy = arguments(name, rng), rng.standard_normal(SHAPE).astype(F32)
    mask = rng.random(SHAPE) < 0.6
    stats = rng.standard_normal(4).astype(F32), np.linspace(0.5, 1.5, 4, dtype=F32)
    ours = RunningStats(*map(xp.array, stats)) if option == "stats" else xp.array(mask)
    theirs = {"stats": stats} if option == "stats" else {"mask": mask}
    found = xp.numpy(gradients_of(name, option)(*map(xp.array, (dy, *given)), ours))
    right = differences(lambda *a: oracle(name, a[0], a[3:], *a[1:3], **theirs), given, dy)
    assert_gradients_near(found, right)


@each_mixture
@pytest.mark.eager
def test_a_weight_for_every_element_has_its_gradient(xp, name, rng):
    x, _, _, *controls = arguments(name, rng)
    w, b = rng.standard_normal((2, 1, 4, 5, 1)).astype(F32)
    dy = rng.standard_normal(SHAPE).astype(F32)
    (_, pullback) = called(name, vjp)(*map(xp.array, (x, w, b, *controls)))

    def whole(a, v, c, *mixed):
        return oracle(name, a, mixed, np.ones(4), np.zeros(4)) * v + c

    assert_gradients_near(xp.numpy(pullback(xp.array(dy))), differences(whole, (x, w, b, *controls), dy))


@each_mixture
@pytest.mark.library("torch")
@pytest.mark.parametrize("kind", ["offset 0", "offset 1e+06"])
def test_torch_differentiates_it_where_everything_is_made_of_x(name, kind, rng):
    import torch

    x, *_ = arguments(name, rng, kind)
    g = rng.standard_normal(SHAPE)
    many = (4, 4, 3, 3) if name == "switchable_norm" else (4, 4, 4)

    def loss(a, like, norm):
        near = (a - float(np.median(x))).reshape(-1)
        return (norm(a, *(near[i * 5 : i * 5 + size] for i, size in enumerate(many))) * like(g)).sum()

    leaf = torch.tensor(x, requires_grad=True)
    loss(leaf, lambda a: torch.tensor(a, dtype=torch.float32), called(name)).backward()
    middle = float(np.median(x))

    def theirs(a):
        near = a.reshape(-1)
        parts = [near[i * 5 : i * 5 + size] for i, size in enumerate(many)]
        return oracle(name, a, parts[2:], *parts[:2])

    (right,) = differences(theirs, (x.astype(np.float64) - middle,), g)
    assert_near(leaf.grad.numpy(), right, 4e-6)


@each_mixture
@pytest.mark.library("jax")
def test_jax_differentiates_it_as_the_pullback_does(name, rng):
    import jax

    given, dy = arguments(name, rng, "offset 10000"), rng.standard_normal(SHAPE).astype(F32)
    ours = gradients_of(name)(*map(jax.numpy.asarray, (dy, *given)))
    theirs = jax.jit(lambda dy, *a: jax.vjp(called(name), *a)[1](dy))(dy, *map(jax.numpy.asarray, given))
    assert_gradients_near(ours, [np.asarray(a).astype(np.float64) for a in theirs])


@each_mixture
@pytest.mark.eager
@pytest.mark.needs("pickling")
def test_a_pickled_pullback_pulls_the_same(xp, name, rng):
    given, dy = arguments(name, rng), xp.array(rng.standard_normal(SHAPE).astype(F32))
    (_, pullback) = called(name, vjp)(*map(xp.array, given))
    for ours, theirs in zip(*map(xp.numpy, (pullback(dy), pickle.loads(pickle.dumps(pullback))(dy))), strict=True):
        assert_near(theirs, ours.astype(np.float64))


# ------------------------------------------------------------------------------------------------ states and replicas


@each_mixture
@pytest.mark.parametrize("where", [False, True])
def test_training_keeps_what_batch_norm_keeps(xp, name, where, rng):
    given = arguments(name, rng, "offset 100")
    mask = rng.random((3, 1, 5, 2)) < 0.6 if where else np.ones((3, 1, 5, 2), bool)
    many = len(given) - 3

    def steps(x, w, b, *rest):
        controls, shown = rest[:many], {"where": rest[many]} if where else {}
        stats = anynorm.running_stats(4, like=x)
        for _ in range(3):
            y, stats = getattr(anynorm, f"{name}_train")(x, stats, *controls, weight=w, bias=b, **shown)
        return y, stats.mean, stats.var, stats.steps

    y, mean, var, count = xp.numpy(xp.run(steps, *map(xp.array, (*given, mask))))
    right = exact(name, *given, mask=mask)
    assert_within(y, right, tolerance(given[0], right, "float32"))
    state = RunningStats(np.zeros(4), np.ones(4))
    for _ in range(3):
        _, state = anynorm.batch_norm_train(given[0].astype(np.float64), state, where=mask)
    assert_near(mean, state.mean)
    assert_near(var, state.var)
    assert count == 3


@each_mixture
@pytest.mark.eager
def test_replicas_are_the_whole(xp, name, rng):
    given, dy = arguments(name, rng, "offset 10000", (6, 4, 3, 2)), rng.standard_normal((6, 4, 3, 2)).astype(F32)
    x, *others = given
    shards = [tuple(map(xp.array, pair)) for pair in zip(np.split(x, (2,)), np.split(dy, (2,)), strict=True)]

    def both(shard, sync):
        y, pullback = called(name, vjp, "sync")(shard[0], *map(xp.array, others), sync)
        return y, *pullback(shard[1])

    ys, dxs, *parameters = zip(*map(xp.numpy, map(tuple, Replicas(2).run(both, shards))), strict=True)
    right = exact(name, *given)
    assert_within(np.concatenate(ys), right, tolerance(x, right, "float32"))
    x = x.astype(np.float64)
    dx, *rights = differences(functools.partial(exact, name), (x - np.median(x), *others), dy)
    assert_near(np.concatenate(dxs), dx, 4e-6)
    assert_gradients_near([sum(part) for part in parameters], rights)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.eager
def test_controls_that_do_not_fit_are_refused(xp):
    x, three = xp.array(np.zeros(SHAPE, F32)), xp.array(np.zeros(3, F32))
    with pytest.raises(ValueError, match=r"switchable_norm needs var_logits of shape \(3,\): got \(4,\)"):
        anynorm.switchable_norm(x, three, xp.array(np.zeros(4, F32)))
    with pytest.raises(ValueError, match=r"batch_instance_norm needs gate of shape \(4,\): got \(3,\)"):
        anynorm.batch_instance_norm(x, three)
    with pytest.raises(TypeError, match=r"gate of a floating dtype"):
        anynorm.batch_instance_norm(x, xp.array(np.zeros(4, bool)))
    stats = anynorm.running_stats(4, like=x)
    with pytest.raises(ValueError, match="nothing to sync"):
        anynorm.switchable_norm(x, three, three, stats=stats, sync=lambda a: a)
    with pytest.raises(TypeError, match="gate to be an array of x's library"):
        anynorm.batch_instance_norm(x, 0.5)
