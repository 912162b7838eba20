"""JAX's own standardize, and Flax's norms in Flax's conventions: ours agree with them, and are never the worse.

Flax: eps 1e-6, but 1e-5 for batch norm; channels last; weight and bias along the last axis alone; momentum the weight
of the old value; the running variance biased. Both take E[x^2] - E[x]^2 unless told otherwise, which makes no oracle.
"""

from __future__ import annotations

from functools import cache, partial
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
SHAPES = {"2-D": (16, C), "4-D": (3, 6, 16, C)}
STEPS = 10


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


jit = cache(jax.jit)  # so that a function compiles once for all the kinds of data it is tested on


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def each(*ways: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("how", "dtype"), ways, ids=lambda a: getattr(a, "__name__", a))


# op by op in float32 alone: JAX compiles each op for each dtype, which takes its time
each_way = each((jit, "float32"), (jit, "bfloat16"), slow(jit, "float64"), slow(jit, "float16"), slow(eager, "float32"))
full_precision = each((jit, "float32"), (jit, "float64"), slow(eager, "float32"))


@pytest.fixture(autouse=True)
def float64_where_it_is_asked_for(request: pytest.FixtureRequest) -> Iterator[None]:
    with jax.enable_x64(request.node.callspec.params["dtype"] == "float64"):
        yield


def array(kind: str, rank: str, dtype: str, seed: int = 0) -> Array:
    return jnp.asarray(data(kind, SHAPES[rank], "float64", seed)).astype(dtype)


def double(x: Array) -> np.ndarray:
    return np.asarray(x.astype("float32") if x.dtype == "bfloat16" else x).astype(np.float64)


def at_least_float32(dtype: Any) -> Any:
    return jnp.float64 if dtype == "float64" else jnp.float32


def assert_same(ours: Array, native: Array) -> None:
    assert ours.dtype == native.dtype
    assert_native(double(ours), double(native), str(native.dtype))


# -------------------------------------------------------------------------------- jax.nn.standardize


def standardize(x: Array, axis: tuple[int, ...]) -> Array:
    """JAX's; on halves it rounds its statistics to halves, so those are widened."""
    wide = x.astype(at_least_float32(x.dtype))
    return jax.nn.standardize(wide, axis, algorithm="stable").astype(x.dtype)


@cache
def layer_norms(axis: tuple[int, ...]) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    return partial(anynorm.layer_norm, axis=axis), partial(standardize, axis=axis)


@each_way
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("rank", "axis"), [("2-D", (1,)), ("4-D", (1, 2, 3))])
def test_layer_norm_gives_what_jax_nn_standardize_gives(how, rank, axis, kind, dtype):
    x = array(kind, rank, dtype)
    ours, native = layer_norms(axis)
    assert_same(how(ours)(x), how(native)(x))


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


def weight_and_bias(affine: bool, x: Array) -> tuple[Array | None, Array | None]:
    if not affine:
        return None, None
    rng = np.random.default_rng(7)
    wide = at_least_float32(x.dtype)
    return jnp.asarray(rng.uniform(0.5, 1.5, C)).astype(wide), jnp.asarray(rng.uniform(-1, 1, C)).astype(wide)


def flax_norm(api: Any, pair: Pair, x: Array, w: Array | None, b: Array | None) -> Array:
    """Flax's norm in Flax's own defaults, but for the exact variance; what a float32 weight widens is rounded once."""
    settings = {**pair.settings(x.ndim), "use_fast_variance": False, "use_scale": w is not None}
    if pair.flax != "RMSNorm":
        settings["use_bias"] = b is not None
    with jax.numpy_dtype_promotion("standard"):  # Flax mixes float32 and halves
        if api is nnx:
            module = getattr(nnx, pair.flax)(C, rngs=nnx.Rngs(0), **settings)
            if w is not None:
                module.scale[...] = w
            if b is not None and pair.flax != "RMSNorm":
                module.bias[...] = b
            y = module(x)
        else:
            # batch norm makes a state even where it uses none
            affine = {"scale": w, "bias": b}
            state = {"mean": jnp.zeros(C), "var": jnp.ones(C)}
            module = getattr(linen, pair.flax)(**settings)
            y, _ = module.apply({"params": affine, "batch_stats": state}, x, mutable=["batch_stats"])
    return y.astype(x.dtype)


@cache
def flax_function(api: Any, pair: Pair) -> Callable[[Array, Array | None, Array | None], Array]:
    return partial(flax_norm, api, pair)


@each_way
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_norm_gives_what_linen_gives(how, pair, kind, dtype):
    x = array(kind, "4-D", dtype)
    w, b = weight_and_bias(True, x)
    assert_same(how(pair.ours)(x, w, b), how(flax_function(linen, pair))(x, w, b))


@pytest.mark.parametrize("dtype", ["float32"])
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.flax != "InstanceNorm"], ids=str)
def test_every_norm_without_spatial_axes_gives_what_linen_gives(pair, dtype):
    x = array("offset 3", "2-D", dtype)
    w, b = weight_and_bias(True, x)
    assert_same(jit(pair.ours)(x, w, b), jit(flax_function(linen, pair))(x, w, b))


@pytest.mark.parametrize("dtype", ["float32", slow("bfloat16")])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_norm_gives_what_nnx_gives(pair, dtype):
    x = array("offset 3", "4-D", dtype)
    w, b = weight_and_bias(True, x)
    assert_same(jit(pair.ours)(x, w, b), jit(flax_function(nnx, pair))(x, w, b))


# -------------------------------------------------------------------------------- running statistics


def batches(rank: str, dtype: str) -> list[Array]:
    return [array("offset 3", rank, dtype, seed=step) for step in range(STEPS)]


@pytest.mark.parametrize(
    ("rank", "momentum", "dtype"),
    [
        ("2-D", 0.7, "float32"),
        ("4-D", 0.99, "bfloat16"),
        *(slow("4-D", 0.99, dtype) for dtype in ("float64", "float32", "float16")),
    ],
)
def test_ten_steps_of_batch_norm_and_inference_go_as_in_linen(rank, momentum, dtype):
    first, *_ = given = batches(rank, dtype)
    w, b = weight_and_bias(True, first)
    stats = anynorm.running_stats(C, like=first)
    buffers = {"mean": stats.mean, "var": stats.var}
    module = linen.BatchNorm(use_running_average=False, momentum=momentum, use_fast_variance=False)
    inference = linen.BatchNorm(use_running_average=True)

    @jax.jit
    def native_step(x: Array, buffers: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        variables = {"params": {"scale": w, "bias": b}, "batch_stats": buffers}
        with jax.numpy_dtype_promotion("standard"):
            y, after = module.apply(variables, x, mutable=["batch_stats"])
        return y.astype(x.dtype), after["batch_stats"]

    @jax.jit
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
    ours = jax.jit(partial(anynorm.batch_norm, channel_axis=-1))(x, stats=stats, weight=w, bias=b)
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


@full_precision
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_ours_is_never_further_from_float64_than_flaxs(how, pair, kind, dtype):
    x = array(kind, "4-D", dtype)
    exact = exact_norm(pair, double(x))
    ours, native = how(pair.ours)(x, None, None), how(flax_function(linen, pair))(x, None, None)
    assert_never_worse(double(ours), double(native), exact, tolerance(double(x), exact, dtype))


@full_precision
@pytest.mark.parametrize("kind", KINDS)
def test_ours_is_never_further_from_float64_than_jax_nn_standardize(how, kind, dtype):
    x = array(kind, "4-D", dtype)
    axis = (1, 2, 3)
    exact = standardized(double(x), axis, 1e-5)
    ours, native = (how(function)(x) for function in layer_norms(axis))
    assert_never_worse(double(ours), double(native), exact, tolerance(double(x), exact, dtype))
