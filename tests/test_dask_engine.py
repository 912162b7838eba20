"""The engine for Dask: every chunking against float64, and what a graph promises beside its values."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm
from anynorm._engines import watch
from anynorm.testing._uses import Dask
from oracles import NORMS, assert_within, data, exact, tolerance

pytestmark = pytest.mark.library("dask")

lib = Dask()
SHAPE = (8, 6, 5, 7)
CHUNKS = {
    "one block": (8, 6, 5, 7),
    "samples": (3, 6, 5, 7),
    "space": (8, 6, 2, 3),
    "groups": (8, 3, 5, 7),
    "channels cut groups": (5, 4, 5, 4),
    "single channels": (4, 1, 5, 7),
    "empty blocks": ((0, 4, 4), (3, 0, 3), 5, (0, 7)),
    "everything": (3, 4, 3, 4),
}
MASKS = [  # the axes that it varies along
    pytest.param(None, id="no mask"),
    pytest.param((0, 1, 2, 3), id="full mask"),
    pytest.param((0, 3), id="samples and space", marks=pytest.mark.slow),
    pytest.param((1,), id="channels", marks=pytest.mark.slow),
]

each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
each_chunking = pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)


def lazy(a, chunks):
    """Return a Dask array; of size 1 along an axis, the axis has one chunk."""
    import dask.array as da

    chunks = [c if size > 1 else 1 for size, c in zip(a.shape, chunks, strict=True)]
    return da.from_array(a, chunks=tuple(chunks))


@each_norm
@each_chunking
@pytest.mark.parametrize("axes", MASKS)
@pytest.mark.parametrize(
    "offset", [pytest.param(0.0, marks=pytest.mark.slow), 1e4, pytest.param(1e6, marks=pytest.mark.slow)]
)
def test_every_chunking_keeps_the_promise_forward_and_backward(norm, chunks, axes, offset, rng):
    w, b = rng.standard_normal((2, *(n if i in norm.runs_along(4) else 1 for i, n in enumerate(SHAPE)))).astype("f4")
    dy = rng.standard_normal(SHAPE).astype(np.float32)
    x = data(f"offset {offset:g}", SHAPE)
    x[0, 0] = x[0, 0, 0, 0]  # a constant slice
    mask = True
    arguments = {"weight": lazy(w, chunks)} | ({} if norm.rms else {"bias": b})  # NumPy's are welcome
    if axes is not None:
        mask = rng.random([n if i in axes else 1 for i, n in enumerate(SHAPE)]) < 0.6
        arguments["where"] = lazy(mask, chunks)
    a = lazy(x, chunks)
    with watch() as ran:
        y, pullback = lib.run(lambda a: norm.vjp(a, **arguments), a)
        gradients = lib.run(pullback, lazy(dy, (4, 6, 5, 3)))
    assert ran == {"dask"}
    assert y.chunks == gradients[0].chunks == a.chunks
    ours, dx, *totals = lib.numpy((y, *(g for g in gradients if g is not None)))
    assert ours.dtype == dx.dtype == np.float32
    shown, split = np.broadcast_to(mask, SHAPE), norm.split(SHAPE)
    parts = x.reshape(split), norm.axes(4)
    standard = exact(*parts, rms=norm.rms, mask=shown.reshape(split))[0].reshape(SHAPE)
    wanted = standard * w + (0 if norm.rms else b)
    assert_within(ours, wanted, tolerance(x, wanted, "float32") * 2)
    wanted = norm.gradient(x, dy.astype(np.float64) * w, mask=shown)
    assert_within(dx, wanted, 4e-6 * max(1.0, np.abs(wanted).max()))
    others = tuple(i for i in range(4) if i not in norm.runs_along(4))
    for got, term in zip(totals, (dy * standard, dy.astype(np.float64)), strict=False):
        total = term.sum(axis=others, keepdims=True)
        assert_within(got, total.reshape(got.shape), 4e-6 * max(1.0, np.sqrt((term**2).sum(axis=others).max())))


@each_chunking
@pytest.mark.parametrize("masked", [False, True])
def test_training_inference_moments_and_scalings_do_what_numpy_does(chunks, masked, rng):
    x = data("offset 1e+04", SHAPE)
    where = rng.random((8, 1, 5, 7)) < 0.7 if masked else None

    def everything(x, where):
        start = anynorm.running_stats(6, like=x)
        y, stats = anynorm.batch_norm_train(x, start, where=where)
        _, other = anynorm.instance_norm_train(x, start, where=where, momentum=None)
        m = anynorm.moments(x, axis=(0, 2, 3), where=where)
        population = anynorm.population_stats(anynorm.merge(m, m), correction=0)
        scaled = anynorm.zscore(x, axis=(0, 2), where=where, correction=1), anynorm.minmax_scale(x, where=where)
        by = anynorm.batch_norm(x, stats=population, where=where)
        return (y, *stats[:3], *other[:3], *m, by, *scaled)

    with watch() as ran:
        built = lib.run(everything, lazy(x, chunks), None if where is None else lazy(where, chunks))
    assert ran == {"dask"}
    with anynorm.engine("array-api"):
        right = everything(x.astype(np.float64), where)
    ours = lib.numpy(built)
    mean, rest = ours[8].astype(np.float64), ours[10]
    assert_within(mean + rest, right[8], 1e-6)
    for a, wanted in zip(ours[:10] + ours[11:], right[:10] + right[11:], strict=True):
        assert_within(a, wanted, 2e-6 * np.maximum(1.0, np.abs(wanted)))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int16"])
@each_norm
def test_other_dtypes_are_computed_as_by_numpy(norm, dtype):
    x = (data("offset 3", SHAPE) * 8).astype(dtype)
    built = [lib.run(norm.call, lazy(x, chunks)) for chunks in CHUNKS.values()]
    right = norm.oracle(x.astype("float64"))
    for ours in lib.numpy(tuple(built)):
        assert ours.dtype == norm.call(x).dtype
        assert_within(ours, right, 2**-9 if dtype == "float16" else 1e-14)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("value", [3.7, 1e6 + 0.1, 1e-30, 0.0])
@pytest.mark.parametrize("norm", [norm for norm in NORMS if not norm.rms], ids=str)
def test_constant_slices_that_are_cut_are_exactly_zero(norm, value, dtype):
    x = lazy(np.full(SHAPE, value, dtype), CHUNKS["everything"])
    assert not np.any(lib.numpy(tuple(norm.call(x, eps=eps) for eps in (0.0, 1e-5))))


def test_a_spread_that_float32_does_not_hold_is_never_zero(rng):
    x = rng.standard_normal((8, 6)).astype(np.float32)
    for scale in (1e-30, 1e30):
        a = lazy(x * np.float32(scale), (3, 6))
        cut = anynorm.batch_norm(a, eps=0.0).compute()
        assert np.all(np.isnan(cut)) or np.allclose(cut, anynorm.batch_norm(x, eps=0.0), atol=1e-5)
    x[2, 3] = np.inf
    y = anynorm.rms_norm(lazy(x, (3, 2)), axis=0).compute()
    assert np.isnan(y[2, 3])
    assert np.all(np.delete(y[:, 3], 2) == 0)
    assert np.all(np.isfinite(np.delete(y, 3, axis=1)))


def test_names_say_what_is_computed_and_nothing_else():
    x = data("offset 3", SHAPE)

    def name(**options):
        return anynorm.batch_norm(lazy(x, (3, 4, 5, 7)), **options).name

    assert name() == name()
    assert name().startswith("anynorm")
    assert len({name(), name(eps=1e-3), name(weight=np.ones(6)), name(where=x > 3), name(channel_axis=0)}) == 5


def test_the_graph_of_whole_slices_is_a_task_a_block_and_of_cut_ones_reads_a_block_twice():
    import dask

    x = lazy(data("offset 3", (32, 6, 5)), (1, 6, 5))

    def tasks(y):
        (graph,) = dask.optimize(y)
        return len(graph.__dask_graph__())

    assert tasks(anynorm.layer_norm(x, axis=(1, 2))) <= 32 + tasks(x)
    assert tasks(anynorm.batch_norm(x)) <= 3 * 32 + tasks(x)


class Tagged(np.ndarray):
    """A subclass of NumPy's arrays."""


def test_blocks_of_a_subclass_stay_so():
    x = data("offset 3", (6, 4)).view(Tagged)
    for call in (anynorm.layer_norm, anynorm.batch_norm):
        y = call(lazy(x, (3, 2)))
        assert type(y._meta) is Tagged
        assert type(y.blocks[0, 0].compute()) is Tagged
        assert_within(np.asarray(y), np.asarray(call(x)), 1e-6)


@pytest.mark.library("numba")
def test_a_block_takes_one_thread_since_dask_has_the_cores(monkeypatch):
    import dask

    from anynorm._engines.cpu import threads

    monkeypatch.setattr(threads.numba.config, "NUMBA_NUM_THREADS", 8)
    seen = []
    allowed = threads.allowed
    monkeypatch.setattr(threads, "allowed", lambda: seen.append(allowed()) or seen[-1])
    x = data("offset 3", (64, 64, 64))
    with dask.config.set(scheduler="threads"):
        anynorm.layer_norm(lazy(x, (32, 64, 64))).compute()
    assert seen
    assert set(seen) == {1}
    assert allowed() == 8


def test_an_engine_can_be_chosen_and_the_same_comes_out():
    x = lazy(data("offset 1e+04", SHAPE), (3, 4, 5, 7))
    with anynorm.engine("array-api"), watch() as ran:
        plain = anynorm.group_norm(x, 2)
    assert ran == {"array-api"}
    with anynorm.engine("dask"), watch() as ran:
        ours = anynorm.group_norm(x, 2)
    assert ran == {"dask"}
    assert_within(*lib.numpy((ours, plain)), 1e-6)


def test_a_pullback_may_be_pickled_and_pulled_elsewhere():
    import pickle

    x = lazy(data("offset 1e+04", SHAPE), (3, 4, 5, 7))
    _, pullback = anynorm.vjp.batch_norm(x, weight=np.ones(6))
    there = pickle.loads(pickle.dumps(pullback))
    for ours, theirs in zip(pullback(x)[:2], there(x)[:2], strict=True):
        assert np.array_equal(ours.compute(), theirs.compute())
