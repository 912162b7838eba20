"""Every transformation of JAX, of every norm and of its pullback."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats, vjp
from oracles import NORMS, assert_near, assert_within, data, gradient, standardized
from test_graphs import UNOPTIMIZED

pytestmark = pytest.mark.library("jax")

F32 = np.float32
SHAPE = (8, 4, 3, 5)
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
QUICK = ("rms_norm", "group_norm", "batch_norm")  # where JAX compiles much, by rules that all norms share
few_norms = pytest.mark.parametrize(
    "norm", [norm if norm.name in QUICK else pytest.param(norm, marks=pytest.mark.slow) for norm in NORMS], ids=str
)
TRAIN = ("batch_norm_train", "instance_norm_train")


@pytest.fixture
def x():
    return data("offset 100", SHAPE)


@pytest.fixture
def g(rng):
    return rng.standard_normal(SHAPE).astype(F32)


@each_norm
def test_jvp(norm, x, g):
    import jax

    # Within a slice the derivative is a symmetric matrix: what it makes of a tangent is what it makes of a gradient.
    y, moved = jax.jit(lambda a, t: jax.jvp(norm.call, (a,), (t,)))(x, g)
    assert_near(y, norm.oracle(x))
    assert_near(moved, norm.gradient(x, g))


@few_norms
def test_second_derivatives(norm, rng):
    import jax

    x, g = rng.standard_normal((2, 2, 2, 2))

    def exact(a):
        return norm.gradient(a, 3 * norm.oracle(a) ** 2 * g)

    steps = 1e-5 * np.eye(8).reshape(8, 2, 2, 2)
    differences = np.stack([(exact(x + e) - exact(x - e)) / 2e-5 for e in steps])
    with jax.enable_x64(True):
        gradient = jax.grad(lambda a: (norm.call(a) ** 3 * g).sum())
        both = jax.jit(lambda a: (jax.jacfwd(gradient)(a), jax.jacrev(gradient)(a)), compiler_options=UNOPTIMIZED)
        for second in both(x):
            assert_near(second.reshape(8, 2, 2, 2), differences, 1e-7)


@few_norms
def test_a_gradient_of_the_pullback_is_that_of_the_gradient(norm, rng):
    import jax

    x, g, h = map(jax.numpy.asarray, rng.standard_normal((3, 2, 4, 3)).astype(F32))

    def by_pullback(a):
        return (norm.vjp(a)[1](g)[0] * h).sum()

    def by_jax(a):
        return (jax.vjp(norm.call, a)[1](g)[0] * h).sum()

    ours, theirs = jax.jit(lambda a: [jax.grad(f)(a) for f in (by_pullback, by_jax)], compiler_options=UNOPTIMIZED)(x)
    assert_near(ours, np.asarray(theirs), 1e-5)


@each_norm
@pytest.mark.parametrize("axis", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_vmap(norm, axis, rng):
    import jax

    x, g = rng.standard_normal((2, 3, 4, 2, 5)).astype(F32)

    def both(a, dy):
        y, pullback = norm.vjp(a)
        return y, pullback(dy)[0]

    moved = (np.moveaxis(a, 0, axis) for a in (x, g))
    y, dx = jax.jit(jax.vmap(both, in_axes=axis))(*moved)
    assert_near(y, np.stack([norm.oracle(one) for one in x]))
    assert_near(dx, np.stack([norm.gradient(*pair) for pair in zip(x, g, strict=True)]))


@few_norms
def test_scan(norm, x):
    import jax

    def step(carry, _):
        carry = norm.call(carry + x, eps=1e-3)
        return carry, carry.sum()

    def loss(a):
        y, _ = jax.lax.scan(step, a, None, length=3)
        return y.sum(), y

    last = np.zeros(SHAPE)
    for _ in range(3):
        last = norm.oracle(last + x, eps=1e-3)
    (_, y), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(jax.numpy.zeros(SHAPE))
    # The carry is added to x before the norm, and rounded to x's last place.
    assert_within(np.asarray(y), last, 3 * np.spacing(F32(104)))
    assert np.all(np.isfinite(slope))


@few_norms
def test_checkpoint(norm, x, g):
    import jax

    dx = jax.jit(jax.grad(lambda a: (jax.checkpoint(norm.call)(a) * g).sum()))(x)
    assert_near(dx, norm.gradient(x, g))


@pytest.mark.parametrize("norm", [n for n in NORMS if n.name != "batch_norm"], ids=str)  # it needs sync=
def test_shard_map_over_samples(norm, x, g):
    import jax
    from jax.sharding import PartitionSpec

    spec = PartitionSpec("batch")
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec, spec), out_specs=(spec, spec))
    def both(a, dy):
        y, pullback = norm.vjp(a)
        return y, pullback(dy)[0]

    slope = jax.grad(lambda a: (both(a, g)[0] * g).sum())
    y, *slopes = jax.jit(lambda a: (*both(a, g), slope(a)))(x)
    assert_near(y, norm.oracle(x))
    for dx in slopes:
        assert_near(dx, norm.gradient(x, g))


def test_the_pullback_of_shards_is_that_of_the_whole(x, g):
    import jax
    from jax.sharding import PartitionSpec

    psum = functools.partial(jax.lax.psum, axis_name="batch")
    spec = PartitionSpec("batch")
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    def pulled(a, dy):
        return vjp.batch_norm(a, sync=psum)[1](dy)[0]

    assert_near(jax.jit(pulled)(x, g), gradient(x, g, (0, 2, 3)))


# ------------------------------------------------------------------------------------------------ state


@pytest.mark.parametrize("name", TRAIN)
def test_a_state_is_carried_through_a_scan(name, rng):
    import jax

    train, batches = getattr(anynorm, name), rng.standard_normal((5, *SHAPE)).astype(F32) + F32(100)
    start = anynorm.running_stats(4, like=jax.numpy.asarray(batches))

    @jax.jit
    def epoch(state, batches):
        return jax.lax.scan(lambda s, a: train(a, s)[::-1], state, batches)

    last, ys = epoch(start, batches)
    wide = anynorm.running_stats(4, like=np.zeros(1))
    for batch, y in zip(batches, ys, strict=True):
        exact, wide = train(batch.astype(np.float64), wide)
        assert_near(y, exact)
    assert_near(last.mean, wide.mean, 1e-6)
    assert_near(last.var, wide.var, 1e-6)
    assert int(last.steps) == 5


@pytest.mark.parametrize("name", TRAIN)
def test_an_ensemble_of_states_is_trained_at_once(name, rng):
    import jax

    train, models = getattr(anynorm, name), 3
    x, g = rng.standard_normal((2, models, *SHAPE)).astype(F32)
    states = RunningStats(rng.standard_normal((models, 4)).astype(F32), np.ones((models, 4), F32), np.arange(models))

    def loss(a, dy, state):
        y, state = train(a, state, momentum=None)
        return (y * dy).sum(), state

    dx, new = jax.jit(jax.vmap(jax.grad(loss, has_aux=True)))(x, g, jax.tree.map(jax.numpy.asarray, states))
    axes = (0, 2, 3) if name.startswith("batch") else (2, 3)
    for i in range(models):
        assert_near(dx[i], gradient(x[i], g[i], axes))
        _, exact = train(x[i].astype(np.float64), RunningStats(*(part[i] for part in states)), momentum=None)
        assert_near(new.mean[i], exact.mean, 1e-6)
        assert_near(new.var[i], exact.var, 1e-6)
        assert int(new.steps[i]) == i + 1


# ------------------------------------------------------------------------------------------------ shards


def made_of(x):
    """Return what every function makes of x, of shape (n, 16, 8, 8)."""
    import jax.numpy as jnp

    stats = anynorm.running_stats(16, like=x)
    y, new = anynorm.batch_norm_train(x, stats)
    z, also = anynorm.instance_norm_train(x, stats)
    return {
        **{norm.name: norm.call(x) for norm in NORMS},
        "group_norm of 8": anynorm.group_norm(x, 8),
        "batch_norm, masked": anynorm.batch_norm(x, where=x > 0),
        "zscore": anynorm.zscore(x, axis=(0, 2, 3)),
        "minmax_scale": anynorm.minmax_scale(x, axis=(0, 2)),
        "moments": anynorm.moments(x, axis=(0, 2, 3))[:3],
        "training": (y, new.mean, new.var, z, also.mean, also.var),
        **{f"vjp of {norm.name}": norm.vjp(x)[1](jnp.sin(x))[0] for norm in NORMS},
    }


def exactly_made_of(x):
    """Return the same in float64: by the oracles, and for the other functions by array-API code in NumPy."""
    a, stats = x.astype(np.float64), anynorm.running_stats(16, like=np.zeros(1))
    with anynorm.engine("array-api"):
        y, new = anynorm.batch_norm_train(a, stats)
        z, also = anynorm.instance_norm_train(a, stats)
        return {
            **{norm.name: norm.oracle(a) for norm in NORMS},
            "group_norm of 8": standardized(a.reshape(-1, 8, 2, 8, 8), (2, 3, 4), 1e-5).reshape(a.shape),
            "batch_norm, masked": anynorm.batch_norm(a, where=a > 0),
            "zscore": standardized(a, (0, 2, 3), 0),
            "minmax_scale": anynorm.minmax_scale(a, axis=(0, 2)),
            "moments": (np.full(16, a.size / 16), a.mean(axis=(0, 2, 3)), a.size / 16 * a.var(axis=(0, 2, 3))),
            "training": (y, new.mean, new.var, z, also.mean, also.var),
            **{f"vjp of {norm.name}": norm.gradient(a, np.sin(x)) for norm in NORMS},
        }


SHARDED = (8, 16, 8, 8)
SPECS = [
    ("Explicit", (None, "a")),
    ("Auto", ("b", None, None, "a")),
    pytest.param("Explicit", ("b", None, None, "a"), marks=pytest.mark.slow),
    pytest.param("Auto", ("a",), marks=pytest.mark.slow),
    pytest.param("Auto", (None, ("a", "b")), marks=pytest.mark.slow),
    pytest.param("Explicit", ("a",), marks=pytest.mark.slow),
    pytest.param("Explicit", (None, None, "a"), marks=pytest.mark.slow),
    pytest.param("Explicit", (None, ("a", "b")), marks=pytest.mark.slow),
    pytest.param("Auto", (None, None, "a"), marks=pytest.mark.slow),
]


@pytest.mark.engine
@pytest.mark.parametrize(("axes", "spec"), SPECS, ids=str)
def test_any_axis_may_be_sharded_and_only_statistics_travel(axes, spec, rng):
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    x = rng.normal(100, 1, SHARDED).astype(F32)
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(getattr(AxisType, axes),) * 2)
    with jax.set_mesh(mesh):
        shards = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
        program = jax.jit(made_of).lower(shards).compile()
        parts = program(shards)
        eager = anynorm.batch_norm(shards), anynorm.group_norm(shards, 2), anynorm.moments(shards, axis=0)
    whole = exactly_made_of(x)
    assert_all_near(parts, whole)
    assert_near(eager[0], whole["batch_norm"])
    assert_near(eager[1], whole["group_norm"])
    assert_near(eager[2].mean, x.astype(np.float64).mean(axis=0), 1e-6)
    # Statistics have a 64th of x's elements in instance norm of 8 by 8, an eighth over the last axis: never more.
    assert moved(program.as_text()) <= x.size // 8


def assert_all_near(parts, whole):
    import jax

    for part, exact in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        assert_near(part, exact)


def moved(text):
    """Return the most elements that any collective of a compiled program brings to a device but by summing."""
    found = re.findall(r"= \(?(.*?)\)? (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", text)
    shapes = (re.findall(r"\[([\d,]*)\]", types) for types in found)
    return max((math.prod(map(int, filter(None, s.split(",")))) for each in shapes for s in each), default=0)


def test_a_state_keeps_its_sharding_through_a_scan(rng):
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    batches = rng.standard_normal((3, *SHARDED)).astype(F32)
    mesh = jax.make_mesh((8,), ("a",))
    with jax.set_mesh(mesh):
        shards = jax.device_put(batches, NamedSharding(mesh, PartitionSpec(None, None, "a")))
        start = RunningStats(jax.numpy.zeros(16), jax.numpy.ones(16), jax.numpy.asarray(0))
        last, _ = jax.jit(lambda s, b: jax.lax.scan(lambda s, a: anynorm.batch_norm_train(a, s)[::-1], s, b))(
            start, shards
        )
    wide = anynorm.running_stats(16, like=np.zeros(1))
    for batch in batches:
        _, wide = anynorm.batch_norm_train(batch.astype(np.float64), wide)
    assert_near(last.mean, wide.mean, 1e-6)
    assert_near(last.var, wide.var, 1e-6)


# ------------------------------------------------------------------------------------------------ types of JAX's own


def test_a_program_of_symbolic_batch_is_exported_for_every_platform(rng):
    import jax
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    wanted = jax.ShapeDtypeStruct((batch, *SHARDED[1:]), F32)
    program = export.export(jax.jit(lambda x: jax.tree.leaves(made_of(x))), platforms=("cpu", "cuda", "tpu"))(wanted)
    again = export.deserialize(program.serialize())
    for size in (1, 5):
        x = rng.normal(3, 1, (size, *SHARDED[1:])).astype(F32)
        assert_all_near(again.call(x), exactly_made_of(x))


def test_nothing_needs_ranks_to_be_promoted(x):
    import jax

    def everything(a):
        anynorm.merge(*(anynorm.moments(part, axis=0) for part in (a[:3], a[3:])))
        anynorm.population_stats(anynorm.moments(a, axis=(0, 2, 3)))
        for norm in NORMS:
            norm.vjp(a, where=a > 0)[1](a)
        for name in TRAIN:
            getattr(anynorm, name)(a, anynorm.running_stats(4, like=a), where=a > 0)

    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(everything, x)


@pytest.mark.parametrize("name", TRAIN)
def test_steps_keep_their_weak_type_under_sync_and_masks(name, x):
    import jax

    start = RunningStats(jax.numpy.zeros(4), jax.numpy.ones(4), jax.numpy.asarray(0))
    assert jax.typeof(start.steps).weak_type
    for state in (start, start._replace(steps=jax.numpy.zeros((), "int32"))):
        for keywords in ({"sync": lambda a: a}, {"where": jax.numpy.asarray(x) > 0}, {}):
            # What is made of steps alone is the little that is compiled.
            steps = jax.jit(lambda a, s, k=keywords: getattr(anynorm, name)(a, s, **k)[1].steps)(x, state)
            assert jax.typeof(steps) == jax.typeof(state.steps)
            assert int(steps) == 1
