"""Plans: a call of a kind that has been met before gives the same bits, and the same errors, as the first."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats, vjp
from anynorm._core import plans
from oracles import NORMS, assert_near, assert_within, data

F32 = np.float32
SHAPE = (4, 6, 5, 7)
numba = pytest.mark.library("numba")
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)


@pytest.fixture
def none_known(monkeypatch):
    """Start without any plan."""
    monkeypatch.setattr(plans, "_known", {})


def parameters(norm, shape, rng):
    return {
        name: rng.standard_normal([shape[i] for i in norm.runs_along(4)]).astype(F32) for name in ("weight", "bias")
    }


@numba
@each_norm
@pytest.mark.parametrize(
    ("dtype", "shown"),
    [("float16", None), ("float32", None), ("float64", None), ("float32", SHAPE), ("float32", SHAPE[2:])],
    ids=["halves", "floats", "doubles", "masked", "masked in space"],
)
@pytest.mark.usefixtures("none_known")
def test_later_calls_give_the_bits_of_the_first(norm, dtype, shown, rng):
    x, y = (data("offset 3", SHAPE, dtype, seed=seed) for seed in (1, 2))
    given = parameters(norm, SHAPE, rng)
    if shown is not None:
        given["where"] = rng.random(shown) < 0.7
    first, (forward, pull) = norm.call(x, **given), norm.vjp(x, **given)
    gradients = pull(y)
    norm.call(y, **given)
    assert len(plans._known) > 0
    assert np.array_equal(norm.call(x, **given), first)
    again, pull = norm.vjp(x, **given)
    assert np.array_equal(again, forward)
    assert np.array_equal(forward, first)
    for one, other in zip(pull(y), gradients, strict=True):
        assert np.array_equal(one, other)


@numba
@pytest.mark.usefixtures("none_known")
@pytest.mark.parametrize("form", ["batch_norm_train", "instance_norm_train"])
def test_later_steps_give_the_bits_of_the_first(form, rng):
    x, train = data("offset 100", SHAPE), getattr(anynorm, form)
    stats = RunningStats(*rng.uniform(1, 2, (2, 6)).astype(F32), np.asarray(3))
    (y, new), (z, also) = train(x, stats, momentum=0.3), train(x, stats, momentum=0.3)
    assert np.array_equal(y, z)
    assert all(map(np.array_equal, new, also))
    assert np.array_equal(train(x, stats, momentum=1.0)[1].mean, train(x, stats, momentum=1)[1].mean)
    with anynorm.engine("array-api"):
        exact = train(x.astype(np.float64), stats, momentum=0.3)[1]
    assert_within(new.mean, exact.mean, 1e-5)
    assert_within(new.var, exact.var, 1e-6)
    assert new.steps == 4


WRONG = {  # calls that differ from a known one by what a key holds, and by what it does not
    "a truth for an axis": (lambda x, _: anynorm.layer_norm(x, axis=True), TypeError, "to be an integer: got True"),
    "a truth among the axes": (lambda x, _: anynorm.layer_norm(x, axis=(True,)), TypeError, "got True of type bool"),
    "an axis as a float": (lambda x, _: anynorm.layer_norm(x, axis=1.0), TypeError, "axis to be an integer: got 1.0"),
    "an eps below 0": (lambda x, _: anynorm.layer_norm(x, axis=1, eps=-1e-9), ValueError, "eps to be a number from 0"),
    "an eps that is none": (lambda x, _: anynorm.layer_norm(x, axis=1, eps=float("nan")), ValueError, "got nan"),
    "an eps as text": (lambda x, _: anynorm.layer_norm(x, axis=1, eps="1"), TypeError, "eps to be a number: got str"),
    "a weight as a list": (lambda x, _: anynorm.layer_norm(x, [1.0] * 6, axis=1), TypeError, "got list; convert it"),
    "a weight too short": (lambda x, w: anynorm.layer_norm(x, w[:-1], axis=1), ValueError, r"weight of shape \(6,\)"),
    "a masked weight": (lambda x, w: anynorm.layer_norm(x, np.ma.array(w), axis=1), TypeError, "no masked arrays"),
    "complex numbers": (lambda x, _: anynorm.layer_norm(x.astype("c8"), axis=1), TypeError, "hold real numbers"),
    "a mask of numbers": (
        lambda x, _: anynorm.layer_norm(x, axis=1, where=np.ones(SHAPE)), TypeError, "where to be a boolean mask",
    ),
    "a mask too short": (
        lambda x, _: anynorm.layer_norm(x, axis=1, where=np.ones((4, 6, 5, 2), bool)), ValueError, "where to broadcast",
    ),
    "a sync that is none": (lambda x, _: anynorm.layer_norm(x, axis=1, sync=1), TypeError, "sync to be a function"),
    "a momentum above 1": (
        lambda x, w: anynorm.batch_norm_train(x, RunningStats(w, w), momentum=2), ValueError, "momentum to be a number",
    ),
    "a negative number of steps": (
        lambda x, w: anynorm.batch_norm_train(x, RunningStats(w, w, -1)), ValueError, "stats.steps to be a number",
    ),
    "a state that is a list": (lambda x, w: anynorm.batch_norm_train(x, [w, w]), TypeError, "RunningStats.*got list"),
    "a gradient too short": (lambda x, _: vjp.layer_norm(x, axis=1)[1](x[1:]), ValueError, "dy of the result's shape"),
    "a gradient of integers": (
        lambda x, _: vjp.layer_norm(x, axis=1)[1](x.astype(int)), TypeError, "dy of a floating dtype",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_known_is_checked_for_what_its_kind_does_not_decide(name):
    call, error, words = WRONG[name]
    x, w = np.ones(SHAPE, F32), np.ones(6, F32)
    for _ in range(2):
        anynorm.layer_norm(x, axis=1)
        anynorm.layer_norm(x, w, axis=1)
        anynorm.layer_norm(x, axis=1, where=x > 0)
        vjp.layer_norm(x, axis=1)[1](x)
        anynorm.batch_norm_train(x, RunningStats(w, w, 0))
        with pytest.raises(error, match=words):
            call(x, w)


def test_the_values_that_no_kind_holds_are_those_of_each_call():
    x = data("offset 3", SHAPE)
    for eps in (1e-5, 1.0, 0, np.float32(2), 1e-5):
        exact = (x - x.mean(axis=-1, keepdims=True, dtype="f8")) / np.sqrt(
            x.var(axis=-1, keepdims=True, dtype="f8") + eps
        )
        assert_within(anynorm.layer_norm(x, eps=eps), exact, 2e-6)


@numba
@pytest.mark.usefixtures("none_known")
def test_what_no_engine_does_is_checked_once_too():
    x = data("offset 3", SHAPE)
    anynorm.layer_norm(x)  # which loads the engine that knows kinds
    plans._known.clear()
    first = anynorm.minmax_scale(x, axis=1)
    (known,) = plans._known.values()
    assert known.plan is None
    assert np.array_equal(anynorm.minmax_scale(x, axis=1), first)
    assert_near(anynorm.zscore(x, axis=1), (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True), 1e-5)
    assert next(iter(plans._known.values())).plan is not None  # of the same kind
    assert np.array_equal(anynorm.minmax_scale(x, axis=1), first)
    assert anynorm.minmax_scale(x[:, :0], axis=1).shape == (4, 0, 5, 7)


@numba
def test_a_mask_is_known_by_its_strides_and_its_rank(rng):
    x, wide = data("offset 3", (6, 8)), rng.random((12, 16)) < 0.7
    masks = [wide[:6, :8], wide[::2, ::2], wide.T[:6, :8], wide[0, 8:], wide[0, ::2], wide[:6, :1]]
    for mask in 2 * masks:
        assert np.array_equal(anynorm.layer_norm(x, where=mask), anynorm.layer_norm(x, where=mask.copy()))
        with anynorm.engine("array-api"):
            exact = anynorm.layer_norm(x.astype("f8"), where=mask)
        assert_within(anynorm.layer_norm(x, where=mask), exact, 2e-6)


@numba
@pytest.mark.usefixtures("none_known")
def test_no_more_plans_are_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(plans, "MOST", 5)
    for size in range(2, 30):
        x = np.arange(size, dtype=F32)
        assert_near(anynorm.layer_norm(x, eps=0), (np.arange(size) - (size - 1) / 2) / ((size**2 - 1) / 12) ** 0.5)
        assert len(plans._known) <= 5


@numba
@pytest.mark.usefixtures("none_known")
def test_a_plan_keeps_no_array_alive():
    import gc
    import weakref

    x = np.ones((3, 4), F32)
    w = np.ones(4, F32)
    alive = weakref.ref(x), weakref.ref(w)
    vjp.layer_norm(x, w)[1](x)
    anynorm.layer_norm(x, w)
    del x, w
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_a_state_that_is_corrupt_shows_in_later_calls_too():
    x, stats = np.ones((3, 4), F32), RunningStats(np.zeros(4, F32), np.asarray([1, -1, 1, 1], F32))
    for _ in range(3):
        y = anynorm.batch_norm(x, stats=stats)
        assert list(np.isnan(y[0])) == [False, True, False, False]


@numba
def test_moments_of_squares_beyond_their_dtype_warn_of_nothing():
    x = np.asarray([[-1e30], [1e30]], F32)
    for _ in range(2):
        assert np.isinf(anynorm.moments(x, axis=0).m2[0]) or np.isnan(anynorm.moments(x, axis=0).m2[0])


@numba
@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_plans_of_tensors_are_met_by_nothing_that_torch_traces():
    import torch
    from torch._dynamo.testing import CompileCounter

    x, count = torch.randn(4, 6), CompileCounter()
    compiled = torch.compile(lambda a: anynorm.layer_norm(a), backend=count, fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in (6, 6, 7, 8):  # eager calls of new kinds between the compiled ones
            anynorm.layer_norm(torch.randn(4, size), torch.ones(size))
            assert_near(compiled(x).numpy(), anynorm.layer_norm(x.double()).numpy())
    assert count.frame_count == 1
    anynorm.layer_norm(x)
    torch.func.vmap(anynorm.layer_norm)(x)
    assert torch.func.jvp(anynorm.layer_norm, (x,), (x,))[1].abs().max() < 1e-3


@numba
@pytest.mark.library("torch")
def test_a_tensor_that_requires_a_gradient_has_one_by_a_known_plan():
    import torch

    x, w = torch.randn(4, 6), torch.ones(6)
    anynorm.layer_norm(x, w)
    for leaf in (x, w):
        leaf.requires_grad_()
        for _ in range(2):
            (anynorm.layer_norm(x, w) ** 3).sum().backward()
        assert leaf.grad is not None
        leaf.requires_grad_(False)
    with torch.no_grad():
        assert not anynorm.layer_norm(x.requires_grad_(), w).requires_grad


@numba
@pytest.mark.library("torch")
def test_gradients_that_nobody_asks_for_are_not_computed():
    import torch

    x, w, b = torch.randn(4, 6), torch.ones(6), torch.zeros(6, requires_grad=True)
    for _ in range(2):
        (db,) = torch.autograd.grad(anynorm.layer_norm(x, w, b).sum(), b)
        assert torch.equal(db, torch.full((6,), 4.0))
