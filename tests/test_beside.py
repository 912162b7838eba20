"""What is welcome beside x: NumPy's arrays where the library itself takes them, and what to pass of labelled ones."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import anynorm
from anynorm import Moments, RunningStats, vjp
from anynorm.testing import USES
from backends import EXHAUSTIVE
from oracles import NORMS, assert_near, data, gradient

F32 = np.float32
SHAPE = (6, 4, 5)
WELCOMING = ("jax", "dask")
each_welcoming = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(b, id=b.name, marks=[pytest.mark.library(b.library)] + [pytest.mark.slow] * (b.name in EXHAUSTIVE))
        for b in USES
        if b.library in WELCOMING
    ],
)


@pytest.fixture
def x():
    return data("offset 100", SHAPE)


@pytest.fixture
def g(rng):
    return rng.standard_normal(SHAPE).astype(F32)


@pytest.fixture
def parts(rng):
    """What may come with x, as NumPy's arrays of float64."""
    stats = RunningStats(rng.normal(100, 1, 4), rng.uniform(1, 2, 4), np.asarray(2))
    mask = rng.random(SHAPE) < 0.8
    return {"weight": rng.uniform(1, 2, 4), "bias": rng.normal(size=4), "where": mask, "stats": stats}


def of(dtype, parts):
    """Return what comes with x in another dtype, but for masks and steps."""
    stats = parts["stats"]
    return {
        **{name: parts[name].astype(dtype) for name in ("weight", "bias")},
        "where": parts["where"],
        "stats": RunningStats(stats.mean.astype(dtype), stats.var.astype(dtype), stats.steps),
    }


def made_beside(x, dy, *, weight, bias, where, stats):
    """Return what every function makes of x and of NumPy's arrays."""
    y, pullback = vjp.batch_norm(x, weight=weight, bias=bias, where=where)
    z, new = anynorm.batch_norm_train(x, stats, weight=weight, momentum=None)
    once = anynorm.instance_norm_train(x, stats, momentum=np.asarray(0.5), correction=np.asarray(1.0))[1]
    known, pulled = vjp.instance_norm(x, stats=stats, weight=weight.reshape(1, 4, 1))
    return (
        *(y, *pullback(dy), z, *new, *once, known, *pulled(dy)[:2]),
        anynorm.group_norm(x, 2, weight, bias, eps=np.float32(1e-3), where=where[:, :1]),
        anynorm.layer_norm(x, where=where, eps=np.asarray(1e-5)),
        anynorm.zscore(x, axis=(0, 2), where=where, correction=np.asarray(1)),
        anynorm.minmax_scale(x, axis=(0, 2), where=where),
        *anynorm.moments(x, axis=(0, 2), where=where)[:3],
    )


def assert_made_beside(backend, x, dy, parts, dtype, wide="float32"):
    """Compare with the same of float64 alone; dtype is that of what has the dtype of a parameter."""
    own = backend.array(x)
    made = backend.run(lambda a: made_beside(a, dy, **parts), own)
    with anynorm.engine("array-api"):
        exact = made_beside(x.astype(np.float64), dy, **of(np.float64, parts))
    assert all(map(backend.owns, made))
    assert backend.dtype(made[0]) == backend.dtype(own)
    assert {backend.dtype(made[i]) for i in (2, 3, 5, 6)} == {dtype}  # gradients of parameters, and a new state
    rounded = {"float32": 2**-24, "float64": 1e-12}  # once, of what was computed in float64
    for got, expected in zip(backend.numpy(made), exact, strict=True):
        assert_near(got, expected, 2e-6 if wide == "float32" else rounded.get(got.dtype.name, 0))


@each_welcoming
def test_numpy_is_welcome_in_every_place(backend, x, g, parts):
    # Where JAX has no float64, it takes that of NumPy for float32, and says nothing.
    assert_made_beside(backend, x, g, parts, "float32" if backend.library == "jax" else "float64")


@each_welcoming
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_numpy_is_welcome_beside_float64(backend, x, g, parts, dtype):
    with backend.using("float64"):
        wide = x.astype(np.float64)
        assert_made_beside(backend, wide, g, of(dtype, parts), dtype, wide="float64")


@pytest.mark.library("jax")
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int64", "bool"])
def test_every_dtype_that_jax_makes_of_numpy_is_welcome_beside_it(name, x):
    import jax
    import ml_dtypes

    dtype = ml_dtypes.bfloat16 if name == "bfloat16" else name  # which NumPy's arrays of JAX's have
    weight = np.asarray([0, 1, 2, 1]).astype(dtype)
    y, pullback = vjp.batch_norm(jax.numpy.asarray(x), weight=weight, bias=weight)
    w = weight.astype(np.float64)[:, None]
    assert_near(y, NORMS[-1].oracle(x) * w + w)
    _, dweight, _ = pullback(x)
    assert dweight.dtype == (dtype if "float" in name else F32)


@each_welcoming
@pytest.mark.parametrize("dtype", ["U1", "object", "complex64"])
def test_numpy_that_holds_no_real_numbers_is_welcome_nowhere(backend, dtype):
    a, alien = backend.array(np.ones(SHAPE, F32)), np.ones(4).astype(dtype)
    calls = (
        lambda: anynorm.batch_norm(a, weight=alien),
        lambda: anynorm.batch_norm(a, stats=RunningStats(alien, alien)),
        lambda: anynorm.batch_norm(a, where=np.ones(SHAPE, dtype)),
        lambda: vjp.batch_norm(a)[1](np.ones(SHAPE, dtype)),
        lambda: anynorm.batch_norm(a, eps=np.ones((), dtype)),
    )
    for call in calls:
        with pytest.raises(TypeError, match=f"to hold real numbers: got dtype .* of {backend.library}; convert it"):
            call()


@pytest.mark.library("jax")
def test_jax_is_not_welcome_beside_numpy():
    import jax.numpy as jnp

    x, alien = np.ones((3, 4), F32), jnp.ones(4)
    for call in (
        lambda: anynorm.batch_norm(x, weight=alien),
        lambda: anynorm.batch_norm(x, where=alien > 0),
        lambda: anynorm.batch_norm_train(x, RunningStats(alien, alien)),
        lambda: vjp.layer_norm(x)[1](jnp.ones((3, 4))),
    ):
        with pytest.raises(TypeError, match="one library: got x from numpy and .* from jax; convert one"):
            call()


@pytest.mark.library("jax")
def test_moments_in_numpy_merge_into_those_of_jax(x):
    import jax.numpy as jnp

    ours = anynorm.moments(jnp.asarray(x[:2]), axis=(0, 2))
    theirs = anynorm.moments(x[2:].astype(np.float64), axis=(0, 2))  # as a file would hold them
    m = anynorm.merge(ours, theirs)
    exact = Moments(np.full(4, 30.0), *(f(x.astype(np.float64)) for f in (mean, lambda a: 30 * a.var(axis=(0, 2)))))
    assert m.rest.dtype == F32
    for part, expected in zip(m[:3], exact[:3], strict=True):
        assert part.dtype == F32
        assert_near(part, expected)


def mean(a):
    return a.mean(axis=(0, 2))


@pytest.mark.library("jax")
@pytest.mark.parametrize("way", ["grad", "vmap", "shard_map"])
def test_numpy_may_be_closed_over_by_what_jax_transforms(way, x, g, rng):
    import jax
    from jax.sharding import AxisType, PartitionSpec

    x, g = (np.concatenate([a] * 4)[:8] for a in (x, g))
    weight, mask = rng.uniform(1, 2, 5), rng.random((4, 5)) < 0.8

    def loss(a, dy):
        return (anynorm.layer_norm(a, weight, axis=-1, where=mask) * dy).sum()

    pulled = jax.grad(loss)
    if way == "vmap":
        pulled = jax.vmap(pulled)
    elif way == "shard_map":
        mesh, spec = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,)), PartitionSpec("batch")
        pulled = functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(pulled)
    assert_near(jax.jit(pulled)(x, g), gradient(x, g * weight, (2,), mask=np.broadcast_to(mask, x.shape)))


# ------------------------------------------------------------------------------------------------ labels


class Labelled:
    """An array with names, as xarray has them: any library's, and a copy of it in NumPy."""

    def __init__(self, array):
        self.data = array

    def to_numpy(self):
        raise AssertionError


class Table:
    """A table whose columns have names, one of them perhaps data."""

    data = "a column"

    def to_numpy(self):
        raise AssertionError


def test_labelled_arrays_and_tables_are_refused_with_what_to_pass(xp):
    array = xp.array(np.ones((2, 3), F32))
    for norm in (anynorm.layer_norm, anynorm.batch_norm, anynorm.zscore, anynorm.minmax_scale, anynorm.moments):
        with pytest.raises(TypeError, match=r"needs x to be an array of .* got Labelled; pass x\.data$"):
            norm(Labelled(array))
        with pytest.raises(TypeError, match=r"needs x to be an array of .* got Table; pass x\.to_numpy\(\)$"):
            norm(Table())
    with pytest.raises(TypeError, match=r"needs weight to be an array of .* got Labelled; pass weight\.data$"):
        anynorm.layer_norm(array, Labelled(array[0, :]))
    with pytest.raises(TypeError, match=r"needs where to be an array of .* got Table; pass where\.to_numpy\(\)$"):
        anynorm.layer_norm(array, where=Table())
