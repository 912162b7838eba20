"""What JAX would run on other platforms keeps the promise here, where the CPU runs it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oracles import KINDS, NORMS, assert_within, data, tolerance

pytestmark = pytest.mark.library("jax")

F32 = np.float32
ALONG_ROWS = [norm for norm in NORMS if norm.name in ("layer_norm last axis", "rms_norm")]
each_norm = pytest.mark.parametrize("norm", ALONG_ROWS, ids=str)
SHAPES = [(16, 4, 7), (16, 2, 100), (8, 2, 1024), (1, 2, 70_001)]


@pytest.fixture(autouse=True)
def on_another_platform(monkeypatch):
    import jax

    from anynorm._engines import jax as engine

    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arguments, cpu, default: default(*arguments))  # noqa: ARG005
    monkeypatch.setattr(engine, "_sum", sum_as_a_tree)
    engine._compiled.clear_cache()
    yield
    engine._compiled.clear_cache()


def sum_as_a_tree(a, axes):
    """Sum as the threads of a GPU do, which have few elements each and then add one another's sums."""
    import jax.numpy as jnp

    assert axes == (a.ndim - 1,)
    while a.shape[-1] > 1:
        half = -(-a.shape[-1] // 2)
        rest = jnp.pad(a[..., half:], [(0, 0)] * (a.ndim - 1) + [(0, 2 * half - a.shape[-1])])
        a = a[..., :half] + rest
    return a


@each_norm
@pytest.mark.parametrize(
    ("shape", "eps"),
    [
        *((shape, 1e-5) for shape in SHAPES[::3]),
        *(pytest.param(shape, 1e-5, marks=pytest.mark.slow) for shape in SHAPES[1:3]),
        *(pytest.param(shape, 0, marks=pytest.mark.slow) for shape in SHAPES[:2]),
    ],
    ids=str,
)
def test_every_kind_of_data(norm, shape, eps, rng):
    import jax

    g = rng.standard_normal(shape).astype(F32)
    gradient = jax.jit(lambda a, dy: jax.vjp(lambda a: norm.call(a, eps=eps), a)[1](dy)[0])
    forward = jax.jit(lambda a: norm.call(a, eps=eps))
    for kind in KINDS:
        x = data(kind, shape)
        exact = norm.oracle(x, eps)
        assert_within(np.asarray(forward(x)), exact, tolerance(x, exact, "float32"))
        exact = norm.gradient(x, g, eps)
        dx = np.asarray(gradient(x, g))
        assert_within(dx, exact, 4e-6 * max(1.0, float(np.abs(exact).max())))


@each_norm
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_rounded_once(norm, dtype):
    import jax.numpy as jnp

    x = jnp.asarray(data("offset 100", (16, 2, 100)), dtype)
    exact = norm.oracle(np.asarray(x, F32))
    y = norm.call(x)
    assert y.dtype == dtype
    assert_within(np.asarray(y, F32), exact, tolerance(np.asarray(x, F32), exact, dtype))


@each_norm
@pytest.mark.parametrize("size", [2, 1000, 5000])
def test_one_step_of_one_element_is_no_constant_slice(norm, size):
    x = np.full((1, 1, size), 1e6 / 3, F32)
    assert norm.rms or not np.asarray(norm.call(_array(x), eps=0)).any()
    x[..., 0] = np.nextafter(x[..., 0], F32(math.inf))
    exact = norm.oracle(x, 0)
    assert_within(np.asarray(norm.call(_array(x), eps=0)), exact, tolerance(x, exact, "float32"))


@each_norm
@pytest.mark.parametrize("eps", [1e-5, 0])
def test_squares_that_leave_their_range_are_no_silent_zero(norm, eps):
    rows = data("offset 0", (6, 4, 64))
    rows[0] *= F32(1e30)
    rows[1] = 0.0
    rows[2, 0, 5] = math.inf
    rows[3, 0, 5] = math.nan
    rows[4] *= F32(1e-12)
    y = np.asarray(norm.call(_array(rows), eps=eps))
    assert np.isnan(y[0]).all()
    assert not y[1].any()
    assert np.isnan(y[2, 0, 5])
    assert norm.rms == bool((y[2, 0, :5] == 0).all())
    assert np.isnan(y[3, 0]).all()
    exact = norm.oracle(rows[4:], eps)
    for got, right in zip(y[4:], exact, strict=True):
        assert_within(got, right, 2e-6 * np.abs(right).max())


@each_norm
def test_it_is_transformed_as_it_is_called(norm, rng):
    import jax

    x, g = rng.standard_normal((2, 3, 2, 5)).astype(F32)
    exact = norm.gradient(x, g)
    assert_within(np.asarray(jax.jvp(norm.call, (x,), (g,))[1]), exact, 4e-6)  # a symmetric matrix
    assert_within(np.asarray(jax.vmap(norm.call)(x)), norm.oracle(x), 2e-6)

    def of_x(a):  # a weight that is made of x
        return (norm.call(a, weight=a.mean((0, 1)) + 1) ** 3).sum()

    def apart(a, fixed):
        return (norm.call(a, weight=fixed.mean((0, 1)) + 1) ** 3).sum()

    whole, parts = jax.grad(of_x)(x), jax.grad(apart, (0, 1))(x, x)
    assert_within(np.asarray(whole), np.asarray(parts[0] + parts[1], np.float64), 1e-4)
    assert np.isfinite(jax.hessian(of_x)(x)).all()


def test_small_numbers_are_drowned_by_eps_and_not_lost():
    x = data("offset 0", (4, 2, 64)) * F32(1e-30)
    for norm in ALONG_ROWS:
        exact = norm.oracle(x)
        assert_within(np.asarray(norm.call(_array(x))), exact, 1e-5 * np.abs(exact).max())


def _array(a):
    import jax.numpy as jnp

    return jnp.asarray(a)
