"""The relatives, against their formulas in float64, differences of those, and the native functions of libraries."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats, vjp
from oracles import assert_near, assert_within, data, native_tolerance, standardized, tolerance, ulp
from test_mixtures import assert_gradients_near, differences
from test_replicas import Replicas

if TYPE_CHECKING:
    from collections.abc import Callable

F32, F64 = np.float32, np.float64
SHAPE = (3, 4, 5, 2)

# ------------------------------------------------------------------------------------------------ the oracles


def renorm(x, w, b, mean, var, r_max=3.0, d_max=5.0, mask=True, eps=1e-5):
    """Return a function of x, weight and bias, whose constants r and d are those of these."""
    mean, var, w, b = (a.reshape(1, -1, 1, 1) for a in (mean, var, w, b))

    def statistics(a):
        n = np.sum(np.broadcast_to(mask, a.shape), axis=(0, 2, 3), keepdims=True)
        middle = np.sum(np.where(mask, a, 0), axis=(0, 2, 3), keepdims=True) / n
        return middle, np.sum(np.where(mask, (a - middle) ** 2, 0), axis=(0, 2, 3), keepdims=True) / n

    own, own_var = statistics(x)
    r = np.clip(np.sqrt((own_var + eps) / (var + eps)), 1 / r_max, r_max)
    d = np.clip((own - mean) / np.sqrt(var + eps), -d_max, d_max)

    def function(a, v, c):
        middle, square = statistics(a)
        z = (a - middle) / np.sqrt(square + eps) * r + d
        return np.where(mask, z, 0) * v.reshape(1, -1, 1, 1) + c.reshape(1, -1, 1, 1)

    return function


def unit(p, axis, eps=1e-12):
    """Return a function that divides by a p-norm."""

    def function(x):
        size = np.abs(x)
        length = size.max(axis, keepdims=True) if p == np.inf else (size**p).sum(axis, keepdims=True) ** (1 / p)
        return x / np.maximum(length, eps)

    return lambda _: function


def response(size, alpha, beta, k):
    """Return a function that does what AlexNet's paper says, of alpha divided by the size."""

    def function(x):
        pairs = [(c, j) for c in range(x.shape[1]) for j in range(c - size // 2, c + (size - 1) // 2 + 1)]
        sums = np.zeros(x.shape)
        for c, j in pairs:
            if 0 <= j < x.shape[1]:
                sums[:, c] += x[:, j] ** 2
        return x / (k + alpha / size * sums) ** beta

    return lambda _: function


def spectral(steps):
    """Return a function that divides by what the power iteration finds, whose vectors are constants."""

    def of(x, u):
        matrix = x.reshape(len(x), -1)
        for i in range(max(steps, 1)):
            v = matrix.T @ u
            v = v / np.linalg.norm(v)
            if i < steps:
                u = matrix @ v / np.linalg.norm(matrix @ v)
        return lambda a: a / (u @ a.reshape(len(a), -1) @ v)

    return of


@dataclass(frozen=True)
class Case:
    """A relative, with some options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    oracle: Callable[..., Any] = field(default=unit, hash=False)  # of the arguments: a function of the first of them
    shifts: tuple[int, ...] = ()  # the arguments that may be shifted together: what the result does not notice
    many: int = 1  # how many of its arguments have gradients

    def arguments(self, rng, kind="offset 0", dtype="float32"):
        x = data(kind, SHAPE, dtype)
        others = ()
        if self.name == "batch_renorm_train":
            w, b, by = rng.standard_normal((3, 4))
            mean = x.mean(axis=(0, 2, 3), dtype=F64) + 4 * by  # some of the bounds are met, and some are not
            others = w, b, mean, np.asarray([0.02, 0.5, 2.0, 60.0])
        elif self.name == "spectral_norm":
            others = (rng.standard_normal(SHAPE[0]),)
        return x, *(a.astype(dtype) for a in others)

    def call(self, *arguments, of=anynorm, **more):
        function, options = getattr(of, self.name), {**self.options, **more}
        if self.name == "batch_renorm_train":
            x, w, b, mean, var = arguments
            return function(x, RunningStats(mean, var), weight=w, bias=b, **options)
        return function(*arguments, **options)

    def value(self, *arguments):
        result = self.call(*arguments)
        return result[0] if isinstance(result, tuple) else result

    def pulled(self, dy, *arguments):
        return self.call(*arguments, of=vjp)[1](dy)[: self.many]

    def exactly(self, *arguments):
        """Return the oracle's function of the arguments that have gradients, and those, in float64."""
        wide = [a.astype(F64) for a in arguments]
        middle = np.median(wide[0])
        wide = [a - middle if i in self.shifts else a for i, a in enumerate(wide)]
        return self.oracle(*wide), wide[: self.many]

    def right(self, *arguments):
        function, wide = self.exactly(*arguments)
        return function(*wide)

    def __str__(self):
        return " ".join((self.name, *(f"{name}={value}" for name, value in self.options.items())))


def standard(_):
    return lambda x: standardized(x, (1, 2, 3), 1e-5)


LOUD = {"alpha": 2.0, "beta": 0.7, "k": 1.5}
CASES = (
    Case("batch_renorm_train", {}, renorm, (0, 3), 3),
    Case("weight_standardize", {}, standard, (0,)),
    *(Case("unit_norm", {"p": p}, unit(p, -1)) for p in (1, 2, 3, np.inf)),
    Case("unit_norm", {"p": 1.5, "axis": (0, 2)}, unit(1.5, (0, 2))),
    Case("unit_norm", {"p": 2, "axis": None, "eps": 40.0}, unit(2, None, 40.0)),  # which is longer
    *(Case("local_response_norm", {"size": size, **LOUD}, response(size, *LOUD.values())) for size in (1, 3, 4, 9)),
    *(Case("spectral_norm", {"steps": steps}, spectral(steps)) for steps in (0, 1, 3)),
)
NAMES = tuple(dict.fromkeys(case.name for case in CASES))
each_case = pytest.mark.parametrize("case", CASES, ids=str)
first_cases = pytest.mark.parametrize("case", {case.name: case for case in reversed(CASES)}.values(), ids=str)


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("case", "kind"),
    [(c, k) for c in CASES for k in ("offset 0", *(("offset 1e+06", "outlier first") if c.shifts else ()))],
    ids=str,
)
def test_it_is_the_formula(xp, case, kind, rng):
    given = case.arguments(rng, kind)
    right = case.right(*given)
    assert_within(xp.numpy(xp.run(case.value, *map(xp.array, given))), right, tolerance(given[0], right, "float32"))


@first_cases
@pytest.mark.dtypes("float16", "bfloat16")
def test_halves_are_rounded_once(xp, dtype, case, rng):
    given = [xp.array(a, dtype) for a in case.arguments(rng)]
    y = xp.run(case.value, *given)
    right = case.right(*map(xp.numpy, given))
    assert xp.dtype(y) == dtype
    assert_within(xp.numpy(y), right, ulp(right, dtype) + 2e-6)


@pytest.mark.slow_on("jax")
@first_cases
@pytest.mark.eager
def test_integers_are_of_the_default_float_and_empty_arrays_stay_empty(xp, case, rng):
    x, *others = case.arguments(rng)
    few = np.round(3 * x).astype(np.int32)
    y = case.value(xp.array(few), *map(xp.array, others))
    assert xp.dtype(y) == xp.default_float
    right = case.right(few, *others)
    assert_within(xp.numpy(y), right, tolerance(x, right, "float32"))
    empty = xp.array(np.zeros((*SHAPE[:3], 0), F32))
    y, pullback = case.call(empty, *map(xp.array, others), of=vjp)
    assert xp.numpy(y[0] if isinstance(y, tuple) else y).shape == (*SHAPE[:3], 0)
    assert xp.numpy(pullback(empty)[0]).shape == (*SHAPE[:3], 0)


@pytest.mark.slow_on("jax")
@first_cases
@pytest.mark.eager
def test_channels_may_be_anywhere(xp, case, rng):
    if case.name == "unit_norm":
        return
    given = case.arguments(rng)
    channel = 0 if case.name in ("weight_standardize", "spectral_norm") else 1
    last = np.moveaxis(given[0], channel, -1)
    y = case.call(*map(xp.array, (last, *given[1:])), channel_axis=-1)
    y = np.moveaxis(xp.numpy(y[0] if isinstance(y, tuple) else y), -1, channel)
    right = case.right(*given)
    assert_within(y, right, tolerance(given[0], right, "float32"))


@pytest.mark.eager
@pytest.mark.parametrize("p", [1, 2, 3.5, np.inf])
@pytest.mark.parametrize("factor", [1e-30, 1e30, 3e37])
def test_vectors_of_any_length_have_a_direction(xp, p, factor, rng):
    x = (rng.uniform(-9, 9, (6, 50)) * factor).astype(F32)
    y = xp.numpy(anynorm.unit_norm(xp.array(x), p=p, eps=0))
    assert_within(y, unit(p, -1, 0)(x)(x.astype(F64)), 2e-6)


@pytest.mark.eager
@pytest.mark.parametrize("p", [1, 2, 3, np.inf])
@pytest.mark.parametrize("eps", [0, 1e-12])
def test_vectors_of_zeros_stay_so_with_a_finite_gradient(xp, p, eps):
    x = np.asarray([[0, 0, 0], [0, -5, 0]], F32)
    y, pullback = vjp.unit_norm(xp.array(x), p=p, eps=eps)
    assert np.array_equal(xp.numpy(y), np.asarray([[0, 0, 0], [0, -1, 0]], F32))
    dx, *_ = xp.numpy(pullback(xp.array(np.ones((2, 3), F32))))
    assert np.isfinite(dx).all()
    # Beside the largest element the others have the whole gradient; in the norm of p = 1 theirs is not defined.
    assert_near(dx[1], np.asarray([0.2, 0, 0.2]))


@pytest.mark.eager
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of array-api-strict
def test_vectors_of_nan_and_infinity_spoil_no_others(xp):
    x = np.asarray([[3, 4], [np.nan, 1], [np.inf, 1]], F32)
    y = xp.numpy(anynorm.unit_norm(xp.array(x)))
    assert_near(y[0], np.asarray([0.6, 0.8]))
    assert np.isnan(y[1]).all()
    assert np.isnan(y[2, 0])


@pytest.mark.eager
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of array-api-strict
def test_a_response_out_of_range_is_nan(xp):
    x = np.asarray([[1e30, 1.0, 1.0]], F32)
    y = xp.numpy(anynorm.local_response_norm(xp.array(x), 3))
    assert np.isnan(y[0, :2]).all()
    assert np.isfinite(y[0, 2])


@pytest.mark.eager
def test_spectral_norm_converges_to_the_largest_singular_value(xp, rng):
    x, u = rng.standard_normal(SHAPE).astype(F32), np.ones(4, F32)
    x[:, 1] += 20  # by which one value is far larger than the others, and few steps are enough
    y, u = anynorm.spectral_norm(xp.array(x), xp.array(u), channel_axis=1, steps=6)
    matrix = np.moveaxis(x, 1, 0).reshape(4, -1).astype(F64)
    right = x / np.linalg.norm(matrix, 2)
    assert_near(xp.numpy(y), right)
    assert_near(np.linalg.norm(xp.numpy(u)), np.ones(()))
    again, same = anynorm.spectral_norm(xp.array(x), u, channel_axis=1, steps=0)
    assert_near(xp.numpy(again), right)
    assert np.array_equal(xp.numpy(same), xp.numpy(u))


@pytest.mark.eager
def test_weights_of_zeros_stay_zeros(xp):
    x, u = xp.array(np.zeros((4, 3), F32)), xp.array(np.ones(4, F32))
    assert not xp.numpy(anynorm.weight_standardize(x, eps=0)).any()
    (y, _), pullback = vjp.spectral_norm(x, u)
    assert not xp.numpy(y).any()
    assert np.isfinite(xp.numpy(pullback(x)[0])).all()


# ------------------------------------------------------------------------------------------------ gradients


@each_case
def test_pullbacks_are_differences_of_the_formula(xp, case, rng):
    given, dy = case.arguments(rng), rng.standard_normal(SHAPE).astype(F32)
    found = xp.numpy(xp.run(case.pulled, *map(xp.array, (dy, *given))))
    function, wide = case.exactly(*given)
    assert_gradients_near(found, differences(function, wide, dy))


@pytest.mark.slow_on("jax", "dask")
@first_cases
@pytest.mark.dtypes("float16", "bfloat16")
def test_pullbacks_of_halves_are_rounded_once(xp, dtype, case, rng):
    given = [xp.array(a, dtype) for a in (rng.standard_normal(SHAPE), *case.arguments(rng))]
    dx, *_ = xp.run(case.pulled, *given)
    dy, *rest = map(xp.numpy, given)
    function, wide = case.exactly(*rest)
    right = differences(function, wide, dy)[0]
    assert xp.dtype(dx) == dtype
    assert_within(xp.numpy(dx), right, ulp(right, dtype) + 4e-6 * max(1.0, np.abs(right).max()))


@pytest.mark.eager
@pytest.mark.parametrize("case", [case for case in CASES if case.shifts], ids=str)
@pytest.mark.parametrize("kind", ["offset 1e+06", "outlier first"])
def test_an_offset_costs_pullbacks_no_digits(xp, case, kind, rng):
    given, dy = case.arguments(rng, kind), rng.standard_normal(SHAPE).astype(F32)
    function, wide = case.exactly(*given)
    (dx, *others), (right, *rights) = (
        xp.numpy(case.pulled(*map(xp.array, (dy, *given)))),
        differences(function, wide, dy),
    )
    assert_near(dx, right, 4e-6)
    assert_gradients_near(others, rights)


@each_case
@pytest.mark.library("torch")
@pytest.mark.parametrize("engine", [None, "array-api"])
def test_torch_differentiates_it(case, engine, rng):
    import torch

    given, dy = case.arguments(rng), rng.standard_normal(SHAPE).astype(F32)
    leaves = [torch.tensor(a, requires_grad=True) for a in given]
    with anynorm.engine(engine):
        (case.value(*leaves) * torch.tensor(dy)).sum().backward()
    function, wide = case.exactly(*given)
    assert_gradients_near([leaf.grad.numpy() for leaf in leaves[: case.many]], differences(function, wide, dy))
    assert all(leaf.grad is None or not leaf.grad.any() for leaf in leaves[case.many :])  # of a state


@each_case
@pytest.mark.library("jax")
def test_jax_differentiates_it(case, rng):
    import jax

    given, dy = case.arguments(rng), rng.standard_normal(SHAPE).astype(F32)
    found = jax.jit(lambda dy, *a: jax.vjp(case.value, *a)[1](dy))(dy, *map(jax.numpy.asarray, given))
    function, wide = case.exactly(*given)
    assert_gradients_near(map(np.asarray, found[: case.many]), differences(function, wide, dy))
    assert not any(np.asarray(a).any() for a in found[case.many :])  # of a state


def gradient_by(library, loss, x):
    """Return the gradient of x by a library's own differentiation."""
    if library == "jax":
        import jax

        return np.asarray(jax.jit(jax.grad(loss))(jax.numpy.asarray(x)))
    import torch

    leaf = torch.tensor(x, requires_grad=True)
    loss(leaf).backward()
    return leaf.grad.numpy()


BY = [pytest.param(name, marks=pytest.mark.library(name)) for name in ("torch", "jax")]


@pytest.mark.parametrize("library", BY)
@first_cases
def test_a_result_that_meets_x_again_has_both_parts_of_the_gradient(library, case, rng):
    x, *others = case.arguments(rng)
    function, (wide, *rest) = case.exactly(x, *others)
    offset = np.median(x.astype(F64)) if 0 in case.shifts else 0.0  # which the oracle has taken off
    xp = pytest.importorskip({"jax": "jax.numpy"}.get(library, library))
    given = [xp.asarray(a) for a in others]
    found = gradient_by(library, lambda a: (case.value(a, *given) * a * a).sum(), x)
    right = differences(lambda a: function(a, *rest) * (a + offset) ** 2, [wide], np.ones(SHAPE))
    assert_gradients_near([found], right)


@pytest.mark.parametrize("library", BY)
def test_renorm_by_a_weight_made_of_x_has_both_parts_of_the_gradient(library, rng):
    (case,) = (case for case in CASES if case.name == "batch_renorm_train")
    x, _, b, mean, var = case.arguments(rng)
    xp = pytest.importorskip({"jax": "jax.numpy"}.get(library, library))
    given = [xp.asarray(a) for a in (b, mean, var)]
    found = gradient_by(library, lambda a: (case.value(a, (a * a).mean((0, 2, 3)), *given) ** 2).sum() / 2, x)
    b, mean, var, wide = (a.astype(F64) for a in (b, mean, var, x))
    function = renorm(wide, b, b, mean, var)

    def of_x(a):
        return function(a, (a * a).mean(axis=(0, 2, 3)), b)

    assert_gradients_near([found], differences(of_x, [wide], of_x(wide)))


@first_cases
@pytest.mark.library("torch")
def test_torch_differentiates_a_single_large_element_and_zeros(case, rng):
    import torch

    x, *others = case.arguments(rng)
    x = np.zeros_like(x)
    x[0, 0, 0, 0] = 7.0
    given, dy = (x, *others), torch.tensor(rng.standard_normal(SHAPE).astype(F32))
    leaves = [torch.tensor(a, requires_grad=i == 0) for i, a in enumerate(given)]
    (case.value(*leaves) * dy).sum().backward()
    (ours, *_) = case.pulled(dy, *(leaf.detach() for leaf in leaves))
    assert_near(leaves[0].grad, ours.numpy().astype(F64))


@pytest.mark.eager
def test_several_largest_elements_share_a_gradient(xp):
    x = np.asarray([[2, -2, 1, 2]], F32)
    _, pullback = vjp.unit_norm(xp.array(x), p=np.inf)
    dx, *_ = xp.numpy(pullback(xp.array(np.asarray([[0, 0, 6, 0]], F32))))
    assert_near(dx, np.asarray([[-0.5, 0.5, 3, -0.5]]))


@first_cases
@pytest.mark.eager
@pytest.mark.needs("pickling")
def test_a_pickled_pullback_pulls_the_same(xp, case, rng):
    dy = xp.array(rng.standard_normal(SHAPE).astype(F32))
    _, pullback = case.call(*map(xp.array, case.arguments(rng)), of=vjp)
    ours, theirs = (xp.numpy(pull(dy)) for pull in (pullback, pickle.loads(pickle.dumps(pullback))))
    for one, other in zip(ours[: case.many], theirs, strict=False):
        assert_near(other, one.astype(F64))


# ------------------------------------------------------------------------------------------------ batch renormalisation


def train(x, stats, **options):
    y, stats = anynorm.batch_renorm_train(x, stats, **options)
    return y, stats.mean, stats.var, stats.steps


def test_renorm_keeps_what_batch_norm_keeps(xp, rng):
    given = CASES[0].arguments(rng)

    def steps(x, w, b, mean, var):
        stats = RunningStats(mean, var)
        for _ in range(3):
            y, stats = anynorm.batch_renorm_train(x, stats, weight=w, bias=b)
        return y, stats.mean, stats.var

    state = RunningStats(*(a.astype(F64) for a in given[3:]))
    for _ in range(3):
        before = state
        _, state = anynorm.batch_norm_train(given[0].astype(F64), state)
    y, mean, var = xp.numpy(xp.run(steps, *map(xp.array, given)))
    assert_near(mean, state.mean)
    assert_near(var, state.var)
    right = CASES[0].right(*given[:3], *before[:2])
    assert_within(y, right, tolerance(given[0], right, "float32"))


def bounded(x, mean, var, r_max, d_max):
    return anynorm.batch_renorm_train(x, RunningStats(mean, var), r_max=r_max, d_max=d_max)[0]


def test_bounds_may_be_arrays_that_grow(xp, rng):
    x, _, _, mean, var = CASES[0].arguments(rng)
    for bounds in ((1.0, 0.0), (1.5, 0.5), (100.0, 100.0)):
        arrays = (x, mean, var, *(np.asarray(a, F32) for a in bounds))
        y = xp.numpy(xp.run(bounded, *map(xp.array, arrays)))
        right = renorm(*(a.astype(F64) for a in (x, np.ones(4), np.zeros(4), mean, var)), *bounds)
        right = right(x.astype(F64), np.ones(4), np.zeros(4))
        assert_within(y, right, tolerance(x, right, "float32"))


@pytest.mark.eager
def test_without_a_correction_it_is_batch_norm_and_without_bounds_that_of_the_state(xp, rng):
    x, w, b, *state = map(xp.array, CASES[0].arguments(rng))
    stats = RunningStats(*state)
    y, _ = anynorm.batch_renorm_train(x, stats, r_max=1, d_max=0, weight=w, bias=b)
    assert_within(xp.numpy(y), xp.numpy(anynorm.batch_norm(x, weight=w, bias=b)).astype(F64), 1e-6)
    y, _ = anynorm.batch_renorm_train(x, stats, r_max=1e6, d_max=1e6, weight=w, bias=b)
    right = xp.numpy(anynorm.batch_norm(x, stats=stats, weight=w, bias=b)).astype(F64)
    assert_within(xp.numpy(y), right, tolerance(xp.numpy(x), right, "float32"))


@pytest.mark.eager
@pytest.mark.parametrize("kind", ["offset 0", "offset 1e+06"])
def test_renorm_shows_what_the_mask_shows(xp, kind, rng):
    x, *others = CASES[0].arguments(rng, kind)
    mask = rng.random((3, 1, 5, 2)) < 0.6
    dy = rng.standard_normal(SHAPE).astype(F32)
    spoilt = np.where(mask, x, np.nan).astype(F32)
    given = map(xp.array, (spoilt, *others))
    (y, _), pullback = CASES[0].call(*given, of=vjp, where=xp.array(mask))
    wide = [a.astype(F64) for a in (x, *others)]
    wide[0], wide[3] = wide[0] - np.median(x), wide[3] - np.median(x)
    function = renorm(*wide, mask=mask)
    right = function(*wide[:3])
    assert_within(xp.numpy(y), right, tolerance(x, right, "float32"))
    assert_gradients_near(xp.numpy(pullback(xp.array(dy))), differences(function, wide[:3], dy))


@pytest.mark.eager
def test_a_weight_for_every_element_has_its_gradient(xp, rng):
    x, _, _, *state = CASES[0].arguments(rng)
    w, b = rng.standard_normal((1, 1, 5, 1)).astype(F32), rng.standard_normal((3, 1, 1, 2)).astype(F32)
    dy = rng.standard_normal(SHAPE).astype(F32)
    (_, _), pullback = CASES[0].call(*map(xp.array, (x, w, b, *state)), of=vjp)
    one = renorm(x.astype(F64), np.ones(4), np.zeros(4), *state)

    def whole(a, v, c):
        return one(a, np.ones(4), np.zeros(4)) * v + c

    assert_gradients_near(xp.numpy(pullback(xp.array(dy))), differences(whole, (x, w, b), dy))


@pytest.mark.eager
def test_renorm_of_replicas_is_that_of_the_whole(xp, rng):
    x, *others = CASES[0].arguments(rng, "offset 10000")
    dy = rng.standard_normal(SHAPE).astype(F32)
    shards = [tuple(map(xp.array, pair)) for pair in zip(np.split(x, (1,)), np.split(dy, (1,)), strict=True)]

    def both(shard, sync):
        (y, stats), pullback = CASES[0].call(shard[0], *map(xp.array, others), of=vjp, sync=sync)
        return y, *stats[:2], *pullback(shard[1])

    ys, means, variances, dxs, *parameters = zip(*map(xp.numpy, map(tuple, Replicas(2).run(both, shards))), strict=True)
    function, wide = CASES[0].exactly(x, *others)
    right = function(*wide)
    assert_within(np.concatenate(ys), right, tolerance(x, right, "float32"))
    found = np.concatenate(dxs), *(sum(part) for part in parameters)
    assert_gradients_near(found, differences(function, wide, dy))
    _, state = anynorm.batch_norm_train(x.astype(F64), RunningStats(*(a.astype(F64) for a in others[2:])))
    for mean, var in zip(means, variances, strict=True):
        assert_near(mean, state.mean)
        assert_near(var, state.var)


# ------------------------------------------------------------------------------------------------ native functions


@pytest.mark.library("torch")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_torch_has_the_same(dtype, rng):
    import torch

    F = torch.nn.functional  # noqa: N806
    x = torch.tensor(rng.standard_normal(SHAPE)).to(getattr(torch, dtype))
    pairs = [
        (anynorm.weight_standardize(x), F.batch_norm(x.reshape(1, 3, -1), None, None, training=True).reshape(SHAPE)),
        *((anynorm.unit_norm(x, p=p, axis=i), F.normalize(x, p=p, dim=i)) for p in (1, 2, 3, np.inf) for i in (1, -1)),
        (anynorm.unit_norm(x, eps=3.0), F.normalize(x, dim=-1, eps=3.0)),
    ]
    if dtype != "bfloat16":  # which torch's own has not on CPUs
        pairs += [(anynorm.local_response_norm(x, n), F.local_response_norm(x, n)) for n in (1, 2, 5)]
        pairs += [(anynorm.local_response_norm(x, n, **LOUD), F.local_response_norm(x, n, **LOUD)) for n in (3, 4)]
    for ours, theirs in pairs:
        right = theirs.double().numpy()
        assert ours.dtype == theirs.dtype
        # What torch does in halves it rounds after every operation.
        bound = 4 * ulp(right, dtype) if dtype == "bfloat16" else native_tolerance(right, dtype)
        assert_within(ours.double().numpy(), right, bound)


@pytest.mark.library("torch")
@pytest.mark.parametrize("dim", [0, 1])
def test_torch_takes_the_same_steps_of_the_power_iteration(dim, rng):
    import torch

    layer = torch.nn.Conv2d(4, 3, (5, 2)) if dim == 0 else torch.nn.ConvTranspose2d(3, 4, (5, 2))
    layer = torch.nn.utils.spectral_norm(layer, dim=dim)
    x, u = layer.weight_orig.detach().clone().requires_grad_(), layer.weight_u.clone()
    for _ in range(3):
        layer(torch.ones(1, layer.in_channels, 6, 6))
        y, u = anynorm.spectral_norm(x, u, channel_axis=dim)
        assert_near(y.detach(), layer.weight.detach().double().numpy())
        assert_near(u, layer.weight_u.double().numpy())
    dy = torch.tensor(rng.standard_normal(tuple(x.shape)).astype(F32))
    (ours,), (theirs,) = torch.autograd.grad(y, x, dy), torch.autograd.grad(layer.weight, layer.weight_orig, dy)
    assert_near(ours, theirs.double().numpy(), 4e-6)


@pytest.mark.library("keras", "jax")
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # Keras's
def test_keras_has_the_same_renorm(rng):
    import keras

    x, w, b, mean, var = CASES[0].arguments(rng)
    layer = keras.layers.BatchNormalization(
        axis=1, epsilon=1e-5, renorm=True, renorm_clipping={"rmax": 3.0, "rmin": 1 / 3.0, "dmax": 5.0}
    )
    layer.build(SHAPE)
    for name, value in (("gamma", w), ("beta", b), ("renorm_mean", mean), ("renorm_stddev", np.sqrt(var + 1e-5))):
        getattr(layer, name).assign(value)
    ours, _ = CASES[0].call(x, w, b, mean, var)
    assert_within(ours, np.asarray(layer(x, training=True)).astype(F64), 1e-5)


@pytest.mark.library("onnxruntime", "onnx", "torch")
@pytest.mark.parametrize("size", [3, 5])
def test_onnx_has_the_same_response(size, rng):
    import onnxruntime
    from onnx import TensorProto, helper

    x = rng.standard_normal((2, 6, 3, 2)).astype(F32)
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=2.0, beta=0.7, bias=1.5)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph([node], "lrn", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (theirs,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert_within(anynorm.local_response_norm(x, size, **LOUD), theirs.astype(F64), 1e-5)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.eager
def test_what_does_not_fit_is_refused(xp):
    x, u = xp.array(np.ones(SHAPE, F32)), xp.array(np.ones(3, F32))
    stats = anynorm.running_stats(4, like=x)
    refused = {
        "batch_renorm_train needs r_max to be a number from 1": lambda: train(x, stats, r_max=0.5),
        "batch_renorm_train needs d_max to be a number from 0": lambda: train(x, stats, d_max=-1),
        "weight_standardize needs channel_axis to be an axis of x": lambda: anynorm.weight_standardize(
            x, channel_axis=4
        ),
        "unit_norm needs p to be a number from 1": lambda: anynorm.unit_norm(x, p=0.5),
        "unit_norm needs p to be a number .*: got an integer of": lambda: anynorm.unit_norm(x, p=10**5000),
        "unit_norm needs eps": lambda: anynorm.unit_norm(x, eps=-1),
        "local_response_norm needs size to be a number from 1": lambda: anynorm.local_response_norm(x, 0),
        "local_response_norm needs k": lambda: anynorm.local_response_norm(x, 3, k=0),
        r"spectral_norm needs u of shape \(4,\): got \(3,\)": lambda: anynorm.spectral_norm(x, u, channel_axis=1),
        "spectral_norm needs steps to be a number from 0": lambda: anynorm.spectral_norm(x, u, steps=-1),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="local_response_norm needs size to be an integer"):
        anynorm.local_response_norm(x, 2.5)
    with pytest.raises(TypeError, match="spectral_norm needs u of a floating dtype"):
        anynorm.spectral_norm(x, xp.array(np.ones(3, bool)))
