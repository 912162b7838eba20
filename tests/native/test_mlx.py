"""MLX's own norms: ours agree with them on data of small offset, and are never the worse elsewhere; and MLX's ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn
import numpy as np
import pytest

import anynorm
from anynorm import vjp
from anynorm.testing._uses import Mlx
from native.comparison import SMALL, assert_native, assert_never_worse, largest_error
from oracles import GROUPS, KINDS, NORMS, Norm, assert_near, assert_within, data, standardized, tolerance
from test_graphs import Formula, Ours, vjp_in_mlx, weight_from_x

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.library("mlx")

lib = Mlx()
SHAPE = (4, 8, 9, 10)
C = SHAPE[1]
BY_NAME = {norm.name: norm for norm in NORMS}
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
each_half = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


# ------------------------------------------------------------------------------------------------ mlx.nn


def batch_norm_of_mlx(x: mx.array) -> mx.array:
    return mlx.nn.BatchNorm(C, affine=False, track_running_stats=False)(x)


NATIVE: dict[str, Callable[[mx.array], mx.array]] = {  # of x with its channels last
    "layer_norm last axis": lambda x: mlx.nn.LayerNorm(C, affine=False)(x),
    "rms_norm": lambda x: mlx.nn.RMSNorm(C)(x),
    "group_norm": lambda x: mlx.nn.GroupNorm(GROUPS, C, affine=False, pytorch_compatible=True)(x),
    "instance_norm": lambda x: mlx.nn.InstanceNorm(C)(x),
    "batch_norm": batch_norm_of_mlx,
}


def ours(name: str, x: mx.array) -> mx.array:
    return BY_NAME[name].call(x) if name in ("layer_norm last axis", "rms_norm") else channels_last(name, x)


def channels_last(name: str, x: mx.array) -> mx.array:
    return BY_NAME[name].call(x, channel_axis=-1)


def oracle(name: str, x: np.ndarray) -> np.ndarray:
    """Return the norm of x, with its channels last, in float64."""
    if name in ("layer_norm last axis", "rms_norm"):
        return BY_NAME[name].oracle(x)
    return np.moveaxis(BY_NAME[name].oracle(np.moveaxis(x, -1, 1)), 1, -1)


def last(kind: str) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(data(kind, SHAPE), 1, -1))


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_norms_are_those_of_mlx_at_small_offsets(name, kind, dtype):
    x = lib.array(last(kind), dtype)
    exact = oracle(name, lib.numpy(x).astype(np.float32))
    y = ours(name, x)
    assert lib.dtype(y) == dtype
    if dtype == "float32":
        assert_native(lib.numpy(y), lib.numpy(NATIVE[name](x)), dtype)
    assert_never_worse(lib.numpy(y), lib.numpy(NATIVE[name](x)), exact, tolerance(x, exact, dtype))


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_never_further_from_float64_than_those_of_mlx(name, kind):
    x = last(kind)
    exact = oracle(name, x)
    native = lib.numpy(NATIVE[name](mx.array(x)))
    assert_never_worse(lib.numpy(ours(name, mx.array(x))), native, exact, tolerance(x, exact, "float32"))


def test_batch_norm_keeps_the_digits_that_mlx_loses():
    x = last("offset 1e+04")
    exact = oracle("batch_norm", x)
    assert largest_error(lib.numpy(batch_norm_of_mlx(mx.array(x))), exact) > 1e-4
    assert largest_error(lib.numpy(ours("batch_norm", mx.array(x))), exact) < 2e-6


def test_training_keeps_the_state_that_mlx_keeps():
    module, stats = mlx.nn.BatchNorm(C), anynorm.running_stats(C, like=mx.array(last("offset 0")))
    for seed in range(3):
        x = mx.array(np.moveaxis(data("offset 3", SHAPE, seed=seed), 1, -1))
        y, stats = anynorm.batch_norm_train(x, stats, channel_axis=-1)
        assert_native(lib.numpy(y), lib.numpy(module(x)), "float32")
    module.eval()
    assert_native(lib.numpy(stats.mean), lib.numpy(module.running_mean), "float32")
    unbiased = lib.numpy(module.running_var)
    assert largest_error(lib.numpy(stats.var), unbiased.astype(np.float64)) < 1e-2  # biased before 2026-07
    assert int(stats.steps) == 3


# ------------------------------------------------------------------------------------------------ many elements


@pytest.mark.parametrize("offset", [1e4, 1e6])
@pytest.mark.parametrize(
    ("shape", "axes", "channels"),
    [((100, 100, 100, 4), (0, 1, 2), 3), ((4_194_304, 4), (0,), 1), ((4, 1_000_000), (1,), 0)],
    ids=str,
)
def test_sums_of_many_elements_keep_the_promise(shape, axes, channels, offset):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32) + np.float32(offset)
    exact = standardized(x, axes, 1e-5)
    y = anynorm.batch_norm(mx.array(x), channel_axis=channels)
    assert_within(lib.numpy(y), exact, tolerance(x[:100], exact, "float32"))


# ------------------------------------------------------------------------------------------------ transformations


def loss(norm: Norm) -> Callable[..., mx.array]:
    return lambda x, w, dy: (norm.call(x, weight=w, bias=w) * dy).sum()


def arguments(norm: Norm, kind: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(1)
    own = tuple(SHAPE[i] for i in norm.runs_along(len(SHAPE)))
    return data(kind, SHAPE), *(rng.standard_normal(shape).astype(np.float32) for shape in (own, SHAPE))


def laid(norm: Norm, w: np.ndarray) -> np.ndarray:
    return w.reshape([size if i in norm.runs_along(len(SHAPE)) else 1 for i, size in enumerate(SHAPE)])


@each_norm
@pytest.mark.parametrize("kind", ["offset 0", "offset 1e+06"])
def test_value_and_grad_keep_the_promise_where_weight_is_bias(norm, kind):
    x, w, dy = arguments(norm, kind)
    value, (dx, dw) = mx.value_and_grad(loss(norm), argnums=(0, 1))(*map(mx.array, (x, w, dy)))
    exact = (norm.oracle(x) * laid(norm, w) + laid(norm, w)) * dy
    assert abs(float(value) - exact.sum()) < 2e-6 * np.abs(exact).sum()
    assert_near(dx, norm.gradient(x, laid(norm, w).astype(np.float64) * dy))
    assert_near(dw, sum(norm.parameter_gradients(x, dy)))


@each_norm
def test_gradients_of_gradients_are_those_of_the_formula(norm):
    x, w, dy = (mx.array(a, dtype=mx.float64) for a in arguments(norm, "offset 0"))

    def slope(f):
        inner = mx.grad(lambda a: (weight_from_x(f, a, w) * dy).sum())
        return mx.grad(lambda a: (inner(a) ** 2).sum())(x)

    assert_near(slope(Ours(norm)), lib.numpy(slope(Formula(norm, vjp_in_mlx))), 1e-10)


# A kernel is written in C++ and compiled for every group of operations, which takes seconds on a CPU.
compiled_norms = pytest.mark.parametrize(
    "norm",
    [norm if norm.name == "group_norm" else pytest.param(norm, marks=pytest.mark.slow) for norm in NORMS],
    ids=str,
)


@compiled_norms
def test_what_is_compiled_keeps_the_promise_forward_and_backward(norm):
    step = mx.compile(lambda x, w, dy: (norm.call(x, weight=w), mx.grad(loss(norm))(x, w, dy)))
    for kind in KINDS:
        x, w, dy = arguments(norm, kind)
        y, dx = step(*map(mx.array, (x, w, dy)))
        exact = norm.oracle(x)
        assert_within(lib.numpy(y), exact * laid(norm, w), tolerance(x, exact, "float32") * (1 + np.abs(w).max()))
        assert_near(dx, norm.gradient(x, laid(norm, w).astype(np.float64) * dy))


@each_norm
def test_vmap_is_a_loop(norm):
    x = np.stack([data("offset 1e+04", SHAPE, seed=seed) for seed in range(3)])
    y = mx.vmap(norm.call)(mx.array(x))
    for one, a in zip(lib.numpy(y), x, strict=True):
        exact = norm.oracle(a)
        assert_within(one, exact, tolerance(a, exact, "float32"))


def test_a_network_is_trained_as_with_the_norm_of_mlx():
    """Ours in a module's place: the same losses, step by step."""
    rng = np.random.default_rng(0)
    x, target = (mx.array(rng.standard_normal(shape).astype(np.float32)) for shape in ((32, 8), (32, 1)))
    start = [mx.array(rng.standard_normal(shape).astype(np.float32) / 3) for shape in ((8, 16), (16,), (16, 1))]

    def train(norm: Callable[..., mx.array]) -> list[float]:
        def error(p: list[mx.array]) -> mx.array:
            return ((mx.tanh(norm(x @ p[0], 1 + p[1])) @ p[2] - target) ** 2).mean()

        p, errors = start, []
        for _ in range(20):
            value, gradients = mx.value_and_grad(error)(p)
            p = [a - 0.1 * g for a, g in zip(p, gradients, strict=True)]
            errors.append(float(value))
        return errors

    mine = train(anynorm.layer_norm)
    assert mine[-1] < mine[0] / 2
    assert np.allclose(mine, train(lambda a, w: mx.fast.layer_norm(a, w, None, 1e-5)), rtol=1e-4)


# ------------------------------------------------------------------------------------------------ MLX's ways


def test_nothing_looks_at_values():
    """While a function is traced to be compiled, its arrays have none, and MLX says so to who asks."""
    x = mx.array(data("offset 0", SHAPE))

    def everything(a: mx.array, m: mx.array) -> list[mx.array]:
        y, stats = anynorm.batch_norm_train(a, anynorm.running_stats(C, like=a), where=m)
        moments = anynorm.merge(anynorm.moments(a, axis=0), anynorm.moments(y, axis=0))
        dx = vjp.group_norm(a, 2, where=m)[1](y)[0]
        scaled = [anynorm.zscore(y), anynorm.minmax_scale(y, where=m)]
        return [*stats, *moments, anynorm.variance(moments), dx, *scaled, anynorm.layer_norm(a, eps=m.sum() * 1.0)]

    assert len(mx.compile(everything)(x, x > 0)) == 12
    with pytest.raises(ValueError, match="function transformations like compile"):
        mx.compile(lambda a: a * float(a.sum()))(x)


def test_float64_on_the_cpu_stays_float64():
    x = data("offset 100", SHAPE, "float64")
    with mx.stream(mx.cpu):
        y = anynorm.group_norm(mx.array(x, dtype=mx.float64), GROUPS)
        exact = BY_NAME["group_norm"].oracle(x)
        assert y.dtype == mx.float64
        assert_within(lib.numpy(y), exact, tolerance(x, exact, "float64"))


def test_an_empty_axis_is_summed_a_thousand_times():
    """MLX 0.32 stops for good at some such sums, which ours never asks it for."""
    for _ in range(1000):
        m = anynorm.moments(mx.array(np.zeros((0, 4), np.float32)), axis=0)
        assert [a.tolist() for a in m] == [[0.0] * 4] * 4


def test_arrays_of_another_library_are_named_in_the_error():
    with pytest.raises(TypeError, match="got x from mlx and weight from numpy; convert one of them"):
        anynorm.layer_norm(mx.ones((2, 3)), np.ones(3, np.float32))


def test_mlx_needs_no_registration_and_takes_none():
    with pytest.raises(ValueError, match="got array of mlx; leave the registration out"):
        anynorm.register(mx.array, mx)


@each_half
def test_halves_are_rounded_once_backward_too(dtype):
    x, _, dy = (lib.array(a, dtype) for a in arguments(BY_NAME["batch_norm"], "offset 3"))
    dx = mx.grad(lambda a: (anynorm.batch_norm(a) * dy).sum())(x)
    exact = BY_NAME["batch_norm"].gradient(*(lib.numpy(a).astype(np.float32) for a in (x, dy)))
    assert dx.dtype == x.dtype
    assert_near(lib.numpy(dx), exact, 2.0 ** (-10 if dtype == "float16" else -7))
