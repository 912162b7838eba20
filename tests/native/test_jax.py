"""JAX's own standardize, and Flax's norms in Flax's conventions: ours agree with them, and are never the worse.

Flax: eps 1e-6, but 1e-5 for batch norm; channels last; weight and bias along the last axis alone; momentum the weight of
the old value; the running variance biased. Both take E[x^2] - E[x]^2 unless told otherwise, which makes no oracle.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import anynorm
from native.comparison import SMALL, assert_native, assert_never_worse
from oracles import KINDS, data, standardized, tolerance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jax import Array

pytestmark = pytest.mark.library("jax")

C = 24
SHAPES = {"2-D": (16, C), "3-D": (4, 17, C), "4-D": (3, 6, 16, C)}
SPATIAL = ("3-D", "4-D")
DTYPES = ("float64", "float32", "bfloat16", "float16")
STEPS = 10

each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(params=[lambda function: function, jax.jit], ids=["eager", "jit"])
def how(request: pytest.FixtureRequest) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return request.param


@pytest.fixture(autouse=True)
def float64_where_it_is_asked_for(request: pytest.FixtureRequest) -> Iterator[None]:
    with jax.enable_x64(request.node.callspec.params["dtype"] == "float64"):
        yield


def array(kind: str, rank: str, dtype: str, seed: int = 0, samples: int | None = None) -> Array:
    n, *rest = SHAPES[rank]
    return jnp.asarray(data(kind, (samples or n, *rest), "float64", seed)).astype(dtype)


def double(x: Array) -> np.ndarray:
    return np.asarray(x.astype("float32") if x.dtype == "bfloat16" else x).astype(np.float64)


def at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def assert_same(ours: Array, native: Array) -> None:
    assert ours.dtype == native.dtype
    assert_native(double(ours), double(native), str(native.dtype))


# -------------------------------------------------------------------------------- jax.nn.standardize


def standardize(x: Array, axis: tuple[int, ...]) -> Array:
    """JAX's; on halves it rounds its statistics to halves, so those are widened."""
    return jax.nn.standardize(at_least_float32(x), axis, algorithm="stable").astype(x.dtype)


@each_dtype
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("first", [-1, 1], ids=["the last axis", "all but the samples"])
def test_layer_norm_gives_what_jax_nn_standardize_gives(how, first, rank, kind, dtype):
    x = array(kind, rank, dtype)
    axis = tuple(range(first % x.ndim, x.ndim))
    assert_same(how(partial(anynorm.layer_norm, axis=axis))(x), how(partial(standardize, axis=axis))(x))


# -------------------------------------------------------------------------------- Flax


class Pair(NamedTuple):
    """A norm of ours, as a function of x, weight and bias, and the settings of Flax's class."""

    flax: str
    settings: Callable[[int], dict[str, Any]]
    ours: Callable[[Array, Array | None, Array | None], Array]
    axes: Callable[[int], tuple[int, ...]]  # that share statistics, once channels are split into groups
    groups: int = 0

    def __str__(self) -> str:
        return self.flax + (f" in {self.groups}" if self.groups else " ".join(("", *self.settings(4))))


def over_all_but_the_samples(x: Array, w: Array | None, b: Array | None) -> Array:
    """Layer norm with Flax's affine: its weight and bias broadcast, along the last axis alone."""
    along = (1,) * (x.ndim - 1) + (C,)
    w, b = (None if a is None else a.reshape(along) for a in (w, b))
    return anynorm.layer_norm(x, w, b, axis=tuple(range(1, x.ndim)), eps=1e-6)


def in_groups(groups: int) -> Pair:
    return Pair(
        "GroupNorm",
        lambda _: {"num_groups": groups},
        lambda x, w, b: anynorm.group_norm(x, groups, w, b, channel_axis=-1, eps=1e-6),
        lambda n: (*range(1, n - 1), n),
        groups,
    )


PAIRS = (
    Pair("LayerNorm", lambda _: {}, lambda x, w, b: anynorm.layer_norm(x, w, b, eps=1e-6), lambda n: (n - 1,)),
    Pair(
        "LayerNorm",
        lambda n: {"reduction_axes": tuple(range(1, n))},
        over_all_but_the_samples,
        lambda n: tuple(range(1, n)),
    ),
    Pair("RMSNorm", lambda _: {}, lambda x, w, _: anynorm.rms_norm(x, w, eps=1e-6), lambda n: (n - 1,)),
    in_groups(1),
    in_groups(3),
    Pair(
        "InstanceNorm",
        lambda _: {},
        lambda x, w, b: anynorm.instance_norm(x, weight=w, bias=b, channel_axis=-1, eps=1e-6),
        lambda n: tuple(range(1, n - 1)),
    ),
    Pair(
        "BatchNorm",
        lambda _: {"use_running_average": False},
        lambda x, w, b: anynorm.batch_norm(x, weight=w, bias=b, channel_axis=-1),
        lambda n: tuple(range(n - 1)),
    ),
)
each_pair_and_rank = pytest.mark.parametrize(
    ("pair", "rank"),
    [(p, r) for p in PAIRS for r in ("2-D", "4-D") if p.flax != "InstanceNorm" or r in SPATIAL],
    ids=str,
)


def weight_and_bias(affine: bool, x: Array) -> tuple[Array | None, Array | None]:
    if not affine:
        return None, None
    rng = np.random.default_rng(7)
    wide = at_least_float32(x).dtype
    return jnp.asarray(rng.uniform(0.5, 1.5, C)).astype(wide), jnp.asarray(rng.uniform(-1, 1, C)).astype(wide)


def flax_norm(api: Any, pair: Pair, x: Array, w: Array | None, b: Array | None) -> Array:
    """Flax's norm of x, with Flax's own defaults but for the exact variance; where weight widens halves, rounded once."""
    settings = {
        **pair.settings(x.ndim),
        "use_fast_variance": False,
        "use_scale": w is not None,
        "scale_init": lambda *_: w,
        "param_dtype": at_least_float32(x).dtype,
    }
    if pair.flax != "RMSNorm":
        settings |= {"use_bias": b is not None, "bias_init": lambda *_: b}
    with jax.numpy_dtype_promotion("standard"):  # Flax mixes float32 and halves
        if api is nnx:
            y = getattr(nnx, pair.flax)(C, rngs=nnx.Rngs(0), **settings)(x)
        else:
            y, _ = getattr(linen, pair.flax)(**settings).init_with_output(jax.random.key(0), x)
    return y.astype(x.dtype)


@each_dtype
@pytest.mark.parametrize(
    ("affine", "kind"), [(False, "offset 0"), (True, "offset 3")], ids=["plain-offset 0", "affine-offset 3"]
)
@each_pair_and_rank
def test_every_norm_gives_what_linen_gives(how, pair, rank, affine, kind, dtype):
    x = array(kind, rank, dtype)
    w, b = weight_and_bias(affine, x)
    assert_same(how(pair.ours)(x, w, b), how(partial(flax_norm, linen, pair))(x, w, b))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@each_pair_and_rank
def test_every_norm_gives_what_nnx_gives(pair, rank, dtype):
    x = array("offset 3", rank, dtype)
    w, b = weight_and_bias(True, x)
    assert_same(jax.jit(pair.ours)(x, w, b), jax.jit(partial(flax_norm, nnx, pair))(x, w, b))


# -------------------------------------------------------------------------------- running statistics


def batches(rank: str, dtype: str) -> list[Array]:
    """Batches of two sizes, as the last one of an epoch is smaller."""
    size = SHAPES[rank][0]
    return [array("offset 3", rank, dtype, seed=step, samples=size + 2 * (step % 5 > 0)) for step in range(STEPS)]


@each_dtype
@pytest.mark.parametrize("rank", ["2-D", "4-D"])
@pytest.mark.parametrize("momentum", [0.99, 0.7])
def test_ten_steps_of_batch_norm_and_inference_go_as_in_linen(how, momentum, rank, dtype):
    first, *_ = given = batches(rank, dtype)
    w, b = weight_and_bias(True, first)
    stats = anynorm.running_stats(C, like=first)
    buffers = {"mean": stats.mean, "var": stats.var}
    module = linen.BatchNorm(use_running_average=False, momentum=momentum, use_fast_variance=False)
    inference = linen.BatchNorm(use_running_average=True)

    @how
    def native_step(x: Array, buffers: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        variables = {"params": {"scale": w, "bias": b}, "batch_stats": buffers}
        with jax.numpy_dtype_promotion("standard"):
            y, after = module.apply(variables, x, mutable=["batch_stats"])
        return y.astype(x.dtype), after["batch_stats"]

    @how
    def step(x: Array, stats: anynorm.RunningStats) -> tuple[Array, anynorm.RunningStats]:
        return anynorm.batch_norm_train(
            x, stats, weight=w, bias=b, momentum=1 - momentum, correction=0, channel_axis=-1
        )

    for number, x in enumerate(given, start=1):
        native, buffers = native_step(x, buffers)
        y, stats = step(x, stats)
        assert_same(y, native)
        assert_same(stats.mean, buffers["mean"])
        assert_same(stats.var, buffers["var"])
        assert int(stats.steps) == number
    x = array("offset 3", rank, dtype, seed=STEPS)
    with jax.numpy_dtype_promotion("standard"):
        native = inference.apply({"params": {"scale": w, "bias": b}, "batch_stats": buffers}, x).astype(x.dtype)
    ours = how(partial(anynorm.batch_norm, channel_axis=-1))(x, stats=stats, weight=w, bias=b)
    assert_same(ours, native)


@pytest.mark.parametrize("dtype", ["float32"])
def test_ten_steps_of_batch_norm_and_inference_go_as_in_nnx(dtype):
    module = nnx.BatchNorm(C, use_fast_variance=False, rngs=nnx.Rngs(0))
    stats = anynorm.running_stats(C, like=array("offset 3", "4-D", dtype))
    train = jax.jit(partial(anynorm.batch_norm_train, momentum=0.01, correction=0, channel_axis=-1))
    for x in batches("4-D", dtype):
        y, stats = train(x, stats)
        assert_same(y, module(x))
        assert_same(stats.mean, module.mean[...])
        assert_same(stats.var, module.var[...])
    x = array("offset 3", "4-D", dtype, seed=STEPS)
    native = module(x, use_running_average=True)
    assert_same(anynorm.batch_norm(x, stats=stats, channel_axis=-1), native)


# -------------------------------------------------------------------------------- never the worse


def exact_norm(pair: Pair, x: np.ndarray) -> np.ndarray:
    split = x.reshape(*x.shape[:-1], pair.groups, C // pair.groups) if pair.groups else x
    eps = 1e-5 if pair.flax == "BatchNorm" else 1e-6
    return standardized(split, pair.axes(x.ndim), eps, rms=pair.flax == "RMSNorm").reshape(x.shape)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_ours_is_never_further_from_float64_than_flaxs(how, pair, kind, dtype):
    x = array(kind, "4-D", dtype)
    exact = exact_norm(pair, double(x))
    native = how(partial(flax_norm, linen, pair))(x, None, None)
    ours = how(pair.ours)(x, None, None)
    assert_never_worse(double(ours), double(native), exact, tolerance(double(x), exact, dtype))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_ours_is_never_further_from_float64_than_jax_nn_standardize(how, kind, dtype):
    x = array(kind, "4-D", dtype)
    axis = (1, 2, 3)
    exact = standardized(double(x), axis, 1e-5)
    ours = how(partial(anynorm.layer_norm, axis=axis))(x)
    native = how(partial(standardize, axis=axis))(x)
    assert_never_worse(double(ours), double(native), exact, tolerance(double(x), exact, dtype))
