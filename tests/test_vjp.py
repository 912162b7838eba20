"""Gradients: by the pullbacks, and by each framework's own differentiation, against the closed form in float64."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import tracemalloc

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats, vjp
from backends import settled
from oracles import KINDS, NORMS, assert_near, assert_within, data, gradient, standardized, ulp
from test_replicas import Replicas

F32 = np.float32
SHAPE = (4, 4, 5, 6)
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
each_kind = pytest.mark.parametrize("kind", KINDS)
TRAIN = (vjp.batch_norm_train, vjp.instance_norm_train)


def parameters(norm, shape, rng, dtype="float32"):
    """Return a weight and a bias of the norm's own shape, and the weight as it broadcasts to x."""
    own = tuple(shape[i] for i in norm.runs_along(len(shape)))
    w, b = rng.standard_normal((2, *own)).astype(dtype)
    return w, b, w.reshape([size if i in norm.runs_along(len(shape)) else 1 for i, size in enumerate(shape)])


@functools.cache
def pulled(norm):
    """Return a function of x, weight, bias and dy that returns the gradients."""

    def gradients(x, w, b, dy):
        _, pullback = norm.vjp(x, weight=w, bias=b)
        return pullback(dy)

    return gradients


# ------------------------------------------------------------------------------------------------ the oracle


@each_norm
def test_the_closed_form_is_what_differences_of_the_norm_give(norm, rng):
    x, g = data("offset 3", (2, 4, 3, 2), "float64"), rng.standard_normal((2, 4, 3, 2))
    step, differences = np.longdouble(1e-6), np.zeros(x.shape)
    for i in range(x.size):
        moved = [x.astype(np.longdouble) for _ in range(2)]
        moved[0].flat[i] += step
        moved[1].flat[i] -= step
        differences.flat[i] = ((norm.oracle(moved[0]) - norm.oracle(moved[1])) * g).sum() / (2 * step)
    assert_within(norm.gradient(x, g), differences.astype(np.longdouble), 1e-10)


# ------------------------------------------------------------------------------------------------ accuracy


@each_norm
@each_kind
def test_pullbacks_in_float32_keep_the_promise(xp, norm, kind, rng):
    x, dy = data(kind, SHAPE), rng.standard_normal(SHAPE).astype(F32)
    w, b, laid = parameters(norm, SHAPE, rng)
    dx, dw, db = xp.numpy(xp.run(pulled(norm), *map(xp.array, (x, w, b, dy))))
    exact, (exact_w, exact_b) = norm.gradient(x, laid.astype(np.float64) * dy), norm.parameter_gradients(x, dy)
    assert_near(dx, exact)
    assert_near(dw, exact_w)
    assert_near(db, exact_b)


@each_norm
@pytest.mark.parametrize("kind", ["offset 0", "offset 10000", "outlier first"])
@pytest.mark.dtypes("float64")
def test_pullbacks_in_float64_keep_the_promise(xp, dtype, norm, kind, rng):
    x, dy = data(kind, SHAPE, dtype), rng.standard_normal(SHAPE)
    w, b, laid = parameters(norm, SHAPE, rng, dtype)
    with xp.using(dtype):
        dx, dw, db = xp.numpy(xp.run(pulled(norm), *map(xp.array, (x, w, b, dy))))
    exact, (exact_w, exact_b) = norm.gradient(x, laid * dy), norm.parameter_gradients(x, dy)
    assert_near(dx, exact, 1e-11)  # at an offset of 1e4 x itself is known to 1e-12
    assert_near(dw, exact_w, 1e-11)
    assert_near(db, exact_b, 1e-14)


@each_norm
@pytest.mark.dtypes("float16", "bfloat16")
def test_pullbacks_in_halves_are_rounded_once(xp, dtype, norm, rng):
    x, dy = (xp.array(a, dtype) for a in (data("offset 3", SHAPE), rng.standard_normal(SHAPE)))
    dx, dw, db = xp.run(lambda a, g: norm.vjp(a)[1](g), x, dy)
    exact = norm.gradient(xp.numpy(x).astype(F32), xp.numpy(dy).astype(F32))
    assert (xp.dtype(dx), dw, db) == (dtype, None, None)
    assert_within(xp.numpy(dx), exact, ulp(exact, dtype) + 2e-6 * np.abs(exact).max())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_long_slices_keep_the_promise(xp, axis, offset, rng):
    shape = (300_001, 3) if axis == 0 else (3, 300_001)
    x, dy = data(f"offset {offset:g}", shape), rng.standard_normal(shape).astype(F32)
    w = np.ones(shape[axis], F32)
    dx, dw, _ = xp.numpy(xp.run(lambda a, v, g: vjp.layer_norm(a, v, axis=axis)[1](g), *map(xp.array, (x, w, dy))))
    exact, y = gradient(x, dy, (axis,)), standardized(x, (axis,), 1e-5)
    assert_near(dx, exact)
    exact_w = (dy * y).sum(axis=1 - axis)
    assert_near(dw, exact_w)


# ------------------------------------------------------------------------------------------------ the frameworks' own


def grad_in_torch(norm, x, w, b, dy):
    import torch

    x, w, b = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    (norm.call(x, weight=w, bias=b) * torch.tensor(dy)).sum().backward()
    return [a.grad.numpy() for a in (x, w, b)]


@functools.cache  # one compilation for all kinds of data
def compiled(norm):
    import torch

    return torch.compile(lambda x, w, b: norm.call(x, weight=w, bias=b), fullgraph=True, backend="aot_eager")


def grad_in_torch_compiled(norm, x, w, b, dy):
    import torch

    x, w, b = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    (compiled(norm)(x, w, b) * torch.tensor(dy)).sum().backward()
    return [a.grad.numpy() for a in (x, w, b)]


@functools.cache
def jitted(norm):
    import jax

    return jax.jit(jax.grad(lambda x, w, b, dy: (norm.call(x, weight=w, bias=b) * dy).sum(), argnums=(0, 1, 2)))


def grad_in_jax(norm, *arrays):
    return [np.asarray(a) for a in jitted(norm)(*arrays)]


def grad_in_mlx(norm, *arrays):
    import mlx.core as mx

    gradients = mx.grad(lambda x, w, b, dy: (norm.call(x, weight=w, bias=b) * dy).sum(), argnums=(0, 1, 2))
    return [np.asarray(a) for a in gradients(*map(mx.array, arrays))]


@each_norm
@each_kind
@pytest.mark.parametrize(
    "differentiate",
    [
        pytest.param(grad_in_torch, id="torch", marks=pytest.mark.library("torch")),
        pytest.param(grad_in_torch_compiled, id="torch-compiled", marks=pytest.mark.library("torch")),
        pytest.param(grad_in_jax, id="jax-jit", marks=pytest.mark.library("jax")),
        pytest.param(grad_in_mlx, id="mlx", marks=pytest.mark.library("mlx")),
    ],
)
def test_differentiating_the_norm_keeps_the_promise(differentiate, norm, kind, rng):
    x, dy = data(kind, SHAPE), rng.standard_normal(SHAPE).astype(F32)
    w, b, laid = parameters(norm, SHAPE, rng)
    dx, dw, db = differentiate(norm, x, w, b, dy)
    exact, (exact_w, exact_b) = norm.gradient(x, laid.astype(np.float64) * dy), norm.parameter_gradients(x, dy)
    assert_near(dx, exact)
    assert_near(dw, exact_w)
    assert_near(db, exact_b)


# ------------------------------------------------------------------------------------------------ results


@each_norm
def test_the_forward_is_the_norms_own(xp, norm, rng):
    x, (w, b, _) = data("offset 100", SHAPE), parameters(norm, SHAPE, rng)
    given = [xp.array(a) for a in (x, w, b)]
    y = xp.numpy(xp.run(lambda a, v, c: norm.call(a, weight=v, bias=c), *given))
    z = xp.numpy(xp.run(lambda a, v, c: norm.vjp(a, weight=v, bias=c)[0], *given))
    assert np.array_equal(y, z)


@each_norm
def test_gradients_have_the_dtype_shape_library_and_device_of_what_they_are_of(xp, norm, rng):
    x, (w, b, _) = xp.array(data("offset 3", SHAPE)), parameters(norm, SHAPE, rng)
    w, b = xp.array(w), xp.array(b, "float16" if "float16" in xp.floats else "float32")

    def gradients(x, w, b):
        y, pullback = norm.vjp(x, weight=w, bias=b)
        assert norm.vjp(x, bias=b)[1](y)[1] is None
        return pullback(y)

    for of, got in zip((x, w, b), xp.run(gradients, x, w, b), strict=True):
        assert (tuple(got.shape), got.dtype) == (tuple(of.shape), of.dtype)
        assert xp.owns(got)
        assert xp.place(got) == xp.place(x)


def test_integers_have_the_gradient_of_floats(xp):
    values = np.arange(12).reshape(3, 4)
    x, dy = xp.array(values), xp.array(np.eye(3, 4).astype(F32))
    y, pullback = vjp.layer_norm(x)
    dx, _, _ = pullback(dy)
    assert dx.dtype == y.dtype
    exact = gradient(values.astype(F32), np.eye(3, 4), (1,))
    assert_near(xp.numpy(dx), exact)


def test_integer_parameters_have_gradients_that_are_no_integers(xp):
    x, w = xp.array(data("offset 3", (3, 4))), xp.array(np.arange(4))
    y, pullback = vjp.layer_norm(x, w)
    _, dw, _ = pullback(y)
    assert dw.dtype == x.dtype
    exact = (xp.numpy(y).astype(np.float64) * standardized(data("offset 3", (3, 4)), (1,), 1e-5)).sum(axis=0)
    assert_near(xp.numpy(dw), exact)


@pytest.mark.parametrize("laid", [(1, 4, 1, 1), (4, 1, 5, 6), SHAPE, (1, 1, 1, 1)], ids=str)
def test_the_gradient_of_a_broadcast_parameter_is_summed_to_its_shape(xp, laid, rng):
    x, dy = data("offset 3", SHAPE), rng.standard_normal(SHAPE).astype(F32)
    w, b = rng.standard_normal((2, *laid)).astype(F32)

    def gradients(x, w, b, dy):
        return vjp.instance_norm(x, weight=w, bias=b)[1](dy)

    dx, dw, db = xp.numpy(xp.run(gradients, *map(xp.array, (x, w, b, dy))))
    axes = tuple(i for i, size in enumerate(laid) if size == 1)
    exact = gradient(x, w.astype(np.float64) * dy, (2, 3))
    assert_near(dx, exact)
    for got, terms in ((dw, dy * standardized(x, (2, 3), 1e-5)), (db, dy.astype(np.float64))):
        exact = terms.sum(axis=axes, keepdims=True)
        assert_near(got, exact)


@each_norm
def test_what_a_mask_hides_has_gradient_0_and_spoils_no_other(xp, norm, rng):
    x, mask, dy = data("offset 3", SHAPE), rng.random(SHAPE) < 0.7, rng.standard_normal(SHAPE).astype(F32)
    mask[1], mask[:, 2], mask[3, :, 1] = False, False, False
    x[~mask] = np.nan
    w, _, laid = parameters(norm, SHAPE, rng)

    def gradients(x, w, mask, dy):
        return norm.vjp(x, weight=w, where=mask)[1](dy)

    dx, dw, _ = xp.numpy(xp.run(gradients, *map(xp.array, (x, w, mask, dy))))
    exact = norm.gradient(np.where(mask, x, 0), laid.astype(np.float64) * dy, mask=mask)
    assert np.all(dx[~mask] == 0)
    assert_near(dx, exact)
    assert np.all(np.isfinite(dw))


@pytest.mark.parametrize("norm", [vjp.batch_norm, vjp.instance_norm])
def test_given_statistics_make_an_affine_map(xp, norm, rng):
    x, dy = data("offset 100", SHAPE), rng.standard_normal(SHAPE).astype(F32)
    mean, var, w, b = rng.uniform(1, 100, (4, SHAPE[1])).astype(F32)

    def gradients(x, mean, var, w, b, dy):
        y, pullback = norm(x, stats=RunningStats(mean, var), weight=w, bias=b)
        return y, pullback(dy)

    y, (dx, dw, db) = xp.numpy(xp.run(gradients, *map(xp.array, (x, mean, var, w, b, dy))))
    wide_mean, wide_var, wide_w = (a.astype(np.float64).reshape(4, 1, 1) for a in (mean, var, w))
    rstd = 1 / np.sqrt(wide_var + 1e-5)
    plain = (x - wide_mean) * rstd
    exact = plain * wide_w + b.reshape(4, 1, 1)
    assert_near(y, exact)
    for got, exact in ((dx, dy * wide_w * rstd), (dw, (dy * plain).sum((0, 2, 3))), (db, dy.sum((0, 2, 3), float))):
        assert_near(got, exact)


@pytest.mark.parametrize("name", ["batch_norm_train", "instance_norm_train"])
def test_training_forms_return_the_state_and_the_norms_gradient(xp, name, rng):
    x, dy = data("offset 100", SHAPE), rng.standard_normal(SHAPE).astype(F32)
    train, forward = getattr(vjp, name), getattr(anynorm, name)

    def step(a, dy):
        (y, stats), pullback = train(a, anynorm.running_stats(SHAPE[1], like=a))
        return y, stats, pullback(dy)[0]

    y, stats, dx = xp.numpy(xp.run(step, xp.array(x), xp.array(dy)))
    same, state = xp.numpy(xp.run(lambda a: forward(a, anynorm.running_stats(SHAPE[1], like=a)), xp.array(x)))
    assert np.array_equal(y, same)
    for got, expected in zip(stats, state, strict=True):
        assert np.array_equal(got, expected)
    exact = gradient(x, dy, (0, 2, 3) if name.startswith("batch") else (2, 3))
    assert_near(dx, exact)


@pytest.mark.parametrize("value", [0.0, 1e6 / 3])
@pytest.mark.parametrize("eps", [0, 1e-5])
def test_the_gradient_of_a_constant_slice_is_finite(xp, value, eps, rng):
    x, dy = np.full((3, 7), value, dtype=F32), rng.standard_normal((3, 7)).astype(F32)
    dx, _, _ = xp.numpy(xp.run(lambda a, g: vjp.layer_norm(a, eps=eps)[1](g), xp.array(x), xp.array(dy)))
    exact = (dy - dy.mean(axis=1, keepdims=True, dtype=np.float64)) / np.sqrt(eps) if eps else np.zeros(x.shape)
    assert_near(dx, exact)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0, 3), (2, 4, 0)], ids=str)
@pytest.mark.needs("empty arrays")
def test_empty_arrays_have_empty_gradients(xp, shape):
    x, w = xp.array(np.zeros(shape, F32)), xp.array(np.ones(shape[1], F32))
    y, pullback = vjp.batch_norm(x, weight=w, bias=w)
    dx, dw, db = xp.numpy(pullback(y))
    assert dx.shape == shape
    assert np.array_equal(dw, np.zeros(shape[1]))
    assert np.array_equal(db, np.zeros(shape[1]))


# ------------------------------------------------------------------------------------------------ replicas


@pytest.mark.eager
@pytest.mark.slow_on("jax")
@pytest.mark.parametrize(("norm", "collectives"), [(n, 1 if n.rms else 2) for n in NORMS], ids=str)
def test_a_pullback_over_shards_is_that_of_the_whole(xp, norm, collectives, rng):
    shape = (4, 2, 6, 8)  # split along its last axis, which every norm but one shares statistics over
    dy, cuts = rng.standard_normal(shape).astype(F32), (slice(3), slice(3, None))

    def pullback_of(part, sync):
        pullback = norm.vjp(part[0], sync=sync)[1]
        settled(pullback._statistics)  # it may be called in another thread
        return pullback

    for x in (data(kind, shape) for kind in ("offset 0", "offset 1e+06")):
        parts = [tuple(xp.array(np.ascontiguousarray(a[..., cut])) for a in (x, dy)) for cut in cuts]
        replicas = Replicas(2)
        pullbacks = replicas.run(pullback_of, parts)
        before = replicas.calls
        both = list(zip(pullbacks, parts, strict=True))
        dxs = replicas.run(lambda pair, _: pair[0](pair[1][1])[0], both)
        assert (before, replicas.calls - before) == (collectives, 1)
        assert_near(np.concatenate(xp.numpy(tuple(dxs)), axis=-1), norm.gradient(x, dy))


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.library("numpy")
@each_norm
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_pullback_keeps_x_and_little_else(norm, dtype):
    x = data("offset 3", (32, 64, 32, 32), dtype)
    w = np.ones([x.shape[i] for i in norm.runs_along(x.ndim)])
    norm.vjp(x, weight=w)[1](x)  # imports and compiles what it needs
    with traced() as memory:
        y, pullback = norm.vjp(x, weight=w)
        kept = memory()[0] - y.nbytes
        tracemalloc.reset_peak()
        pullback(y)
        peak = memory()[1] - kept - y.nbytes
    wide = x.size * max(x.itemsize, 4)  # halves are computed in float32
    assert kept < wide / 8
    assert peak < 3.2 * wide  # the gradient of x, and two arrays beside it


@contextlib.contextmanager
def traced():
    tracemalloc.start()
    try:
        yield tracemalloc.get_traced_memory
    finally:
        tracemalloc.stop()


@pytest.mark.library("numpy")
def test_the_result_may_be_written_to():
    x = np.random.default_rng(0).standard_normal((3, 8))
    y, pullback = vjp.layer_norm(x)
    before = pullback(np.ones_like(x))[0]
    y[...] = 7
    assert np.array_equal(pullback(np.ones_like(x))[0], before)


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.eager
def test_a_gradient_that_does_not_fit_is_refused(xp):
    y, pullback = vjp.layer_norm(xp.array(np.ones((3, 4), F32)))
    for wrong, error, words in (
        (xp.array(np.ones((1, 4), F32)), ValueError, r"layer_norm's pullback needs dy of the result's shape \(3, 4\)"),
        (xp.array(np.ones((3, 4), bool)), TypeError, "dy of a floating dtype: got .*bool"),
        ([[1.0] * 4] * 3, TypeError, "dy to be an array"),
        (1.0, TypeError, "dy to be an array"),
        (None, TypeError, "dy to be an array"),
    ):
        with pytest.raises(error, match=words):
            pullback(wrong)
    assert xp.numpy(pullback(y)[0]).shape == (3, 4)


@pytest.mark.parametrize("train", TRAIN)
def test_training_forms_need_a_state(train):
    with pytest.raises(TypeError, match="start with running_stats"):
        train(np.ones((2, 3, 4)), None)


def test_stats_leave_nothing_to_sync():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match="nothing to sync"):
        vjp.batch_norm(x, stats=RunningStats(x[0], x[0]), sync=functools.partial(sum))


# ------------------------------------------------------------------------------------------------ kept for later


@pytest.mark.eager
@pytest.mark.needs("pickling")
@each_norm
def test_a_copied_or_pickled_pullback_pulls_the_same(xp, norm, rng):
    x, dy = data("offset 3", SHAPE), rng.standard_normal(SHAPE).astype(F32)
    _, pullback = norm.vjp(xp.array(x), where=xp.array(x > 2))
    exact = norm.gradient(x, dy, mask=x > 2)
    for copied in (lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy, copy.copy):
        assert_near(xp.numpy(copied(pullback)(xp.array(dy))[0]), exact)


@pytest.mark.library("torch")
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_a_gradient_in_eight_bits_is_welcome(dtype, rng):
    import torch

    x = torch.tensor(rng.standard_normal((4, 6)), dtype=torch.float16)
    dy = torch.tensor(rng.standard_normal((4, 6)).astype(F32)).to(getattr(torch, dtype))
    exact = gradient(x.double().numpy(), dy.double().numpy(), (1,))
    assert_within(vjp.layer_norm(x)[1](dy)[0].double().numpy(), exact, 2e-3)
