"""sync=: a norm over shards is the norm of the whole array."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats
from backends import settled
from oracles import OFFSETS, assert_within, data, gradient, standardized, tolerance

SHAPE = (8, 6, 5, 4)


class Replicas:
    """An all-reduce between threads, each of which holds one shard, and a count of how often it was called."""

    def __init__(self, size):
        self.parts, self.calls, self.barrier = [None] * size, 0, threading.Barrier(size, timeout=60)

    def run(self, function, shards):
        """Return function(shard, sync) of every shard, all at the same time."""
        with ThreadPoolExecutor(len(shards)) as pool:
            return list(
                pool.map(lambda i: settled(function(shards[i], functools.partial(self.sync, i))), range(len(shards)))
            )

    def sync(self, i, part):
        self.parts[i] = settled(part)
        if self.barrier.wait() == 0:
            self.calls += 1
        total = functools.reduce(lambda a, b: a + b, self.parts)
        self.barrier.wait()
        return total


CALLS = {
    "layer_norm": (lambda a, **k: anynorm.layer_norm(a, axis=(1, 2, 3), **k), (1, 2, 3)),
    "rms_norm": (lambda a, **k: anynorm.rms_norm(a, axis=(1, 2, 3), **k), (1, 2, 3)),
    "group_norm": (lambda a, **k: anynorm.group_norm(a, 1, **k), (1, 2, 3)),
    "instance_norm": (lambda a, **k: anynorm.instance_norm(a, **k), (2, 3)),
    "batch_norm": (lambda a, **k: anynorm.batch_norm(a, **k), (0, 2, 3)),
}
SPLITS = [(name, axis) for name, (_, axes) in CALLS.items() for axis in axes if (name, axis) != ("group_norm", 1)]
SHARDS = {"even": ((2, 4), 0.0), "uneven": ((1, 2), 1e4), "one empty": ((3, 3), 1e6)}  # and an offset
SHARDED = [  # every norm over each of its axes, on one kind of shards
    pytest.param(*split, shards, marks=[] if (i + j) % 3 == 0 else pytest.mark.slow)
    for i, split in enumerate(SPLITS)
    for j, shards in enumerate(SHARDS)
]


@pytest.mark.eager
@pytest.mark.slow_on("jax")  # whose own replicas are tested below
@pytest.mark.parametrize(("name", "axis", "shards"), SHARDED)
def test_a_norm_of_shards_is_the_norm_of_the_whole(xp, name, axis, shards):
    (call, axes), (cuts, offset) = CALLS[name], SHARDS[shards]
    x = data(f"offset {offset:g}", SHAPE)
    exact = standardized(x, axes, 1e-5, rms=name == "rms_norm")
    parts = np.split(x, cuts, axis=axis)
    # Threads share one tracer no better than they share a lazy graph: the shards are computed as they are.
    ys = Replicas(3).run(lambda a, sync: call(a, sync=sync), [xp.array(part) for part in parts])
    y = np.concatenate(xp.numpy(tuple(ys)), axis=axis)
    assert_within(y, exact, tolerance(x, exact, "float32"))


@pytest.mark.eager
@pytest.mark.parametrize(("name", "collectives"), [(n, 1 if n == "rms_norm" else 2) for n in CALLS])
def test_a_norm_makes_two_collectives(xp, name, collectives):
    replicas = Replicas(2)
    replicas.run(lambda a, sync: CALLS[name][0](a, sync=sync), [xp.array(data("offset 0", SHAPE))] * 2)
    assert replicas.calls == collectives


@pytest.mark.eager
@pytest.mark.parametrize("value", [0.0, 1e6 / 3, -0.1])
def test_constant_slices_over_shards_are_exactly_zero(xp, value):
    parts = np.split(np.full((9, 2, 7), value, dtype=np.float32), (2, 3))
    ys = Replicas(3).run(lambda a, sync: anynorm.batch_norm(a, eps=0, sync=sync), [xp.array(part) for part in parts])
    assert all(np.all(y == 0) for y in xp.numpy(tuple(ys)))


@pytest.mark.eager
def test_a_constant_shard_beside_another_is_no_constant_slice(xp):
    x = np.full((8, 1), 1e6, dtype=np.float32)
    x[6:] = np.nextafter(x[0], np.float32(np.inf))
    exact = standardized(x, (0,), 0)
    parts = [xp.array(part) for part in np.split(x, (3, 6))]
    ys = Replicas(3).run(lambda a, sync: anynorm.batch_norm(a, eps=0, sync=sync), parts)
    assert_within(np.concatenate(xp.numpy(tuple(ys))), exact, tolerance(x, exact, "float32"))


@pytest.mark.eager
def test_a_mask_over_shards_counts_what_all_show(xp, rng):
    x, mask = data("offset 1e+04", SHAPE), rng.random(SHAPE) < 0.5
    mask[:3] = False
    x[~mask] = np.nan
    pairs = [tuple(map(xp.array, pair)) for pair in zip(np.split(x, (3, 4)), np.split(mask, (3, 4)), strict=True)]
    ys = Replicas(3).run(lambda pair, sync: anynorm.batch_norm(pair[0], where=pair[1], sync=sync), pairs)
    whole = anynorm.batch_norm(x.astype(np.float64), where=mask)
    assert_within(np.concatenate(xp.numpy(tuple(ys))), whole, 2e-6)


@pytest.mark.eager
@pytest.mark.parametrize("form", ["batch", "instance"])
def test_a_training_step_over_shards_is_that_of_the_whole(xp, form):
    train = {"batch": anynorm.batch_norm_train, "instance": anynorm.instance_norm_train}[form]
    x = data("offset 100", SHAPE)
    start = settled(anynorm.running_stats(SHAPE[1], like=xp.array(x)))
    parts = [xp.array(part) for part in np.split(x, (1, 1), axis=2)]
    results = Replicas(3).run(lambda a, sync: train(a, start, sync=sync), parts)
    like = np.zeros(1)
    y, exact = train(x.astype(np.float64), anynorm.running_stats(SHAPE[1], like=like))
    assert {xp.dtype(stats.mean) for _, stats in results} == {"float32"}
    results = xp.numpy(tuple(results))
    assert_within(np.concatenate([part for part, _ in results], axis=2), y, 2e-6)
    for _, (mean, var, steps) in results:
        assert_within(mean, exact.mean, 1e-5)
        assert_within(var, exact.var, 1e-5)
        assert steps == 1


@pytest.mark.eager
def test_shards_without_any_element_leave_the_state_alone(xp):
    start = settled(anynorm.running_stats(2, like=xp.array(np.zeros(1, dtype=np.float32))))
    empty = [xp.array(np.zeros((0, 2), dtype=np.float32))] * 2
    results = Replicas(2).run(lambda a, sync: anynorm.batch_norm_train(a, start, sync=sync), empty)
    for _, (mean, var, steps) in xp.numpy(tuple(results)):
        assert (list(mean), list(var), int(steps)) == ([0, 0], [1, 1], 0)


# ------------------------------------------------------------------------------------------------ JAX


@pytest.fixture
def devices():
    import jax

    assert jax.device_count() == 8, "conftest sets XLA_FLAGS before JAX is imported"
    return jax.devices()


def loss(y, g):
    return (y * g).sum()


@pytest.mark.library("jax")
@pytest.mark.parametrize(
    ("way", "jit"), [pytest.param("vmap", False, marks=pytest.mark.slow), ("vmap", True), ("shard_map", True)]
)
def test_replicas_in_jax_are_the_whole_forward_and_backward(devices, way, jit, rng):
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, PartitionSpec

    psum = functools.partial(jax.lax.psum, axis_name="batch")
    g = rng.standard_normal((16, 3, 5)).astype(np.float32)

    def norm(a):
        return anynorm.batch_norm(a, sync=psum)

    if way == "vmap":

        def whole(a):
            return jax.vmap(norm, axis_name="batch")(a.reshape(8, 2, 3, 5)).reshape(a.shape)
    else:
        spec = PartitionSpec("batch")
        whole = jax.shard_map(norm, mesh=Mesh(devices, ("batch",)), in_specs=spec, out_specs=spec)
    backward = jax.grad(lambda a: loss(whole(a), g))
    if jit:
        whole, backward = jax.jit(whole), jax.jit(backward)
    for offset in OFFSETS:
        x = data(f"offset {offset:g}", g.shape)
        exact = standardized(x, (0, 2), 1e-5)
        assert_within(np.asarray(whole(jnp.asarray(x))), exact, tolerance(x, exact, "float32"))
        slope = gradient(x, g, (0, 2))
        assert_within(np.asarray(backward(jnp.asarray(x))), slope, 2e-6 * np.abs(slope).max())


# ------------------------------------------------------------------------------------------------ torch


def run_two(name, folder):
    """Run a script as two processes, which meet in a folder."""
    script = Path(__file__).with_name(name)
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors


@pytest.mark.library("torch")
def test_two_torch_processes_are_the_whole_forward_and_backward(tmp_path, rng):
    x, g = data("offset 1e+04", (7, 3, 5)), rng.standard_normal((7, 3, 5)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x, g=g)
    run_two("torch_replica.py", tmp_path)
    parts = [np.load(tmp_path / f"out{rank}.npz") for rank in range(2)]
    exact, slope = standardized(x, (0, 2), 1e-5), gradient(x, g, (0, 2))
    assert_within(np.concatenate([part["y"] for part in parts]), exact, tolerance(x, exact, "float32"))
    assert_within(np.concatenate([part["dx"] for part in parts]), slope, 2e-6 * np.abs(slope).max())
    _, stats = anynorm.batch_norm_train(x.astype(np.float64), anynorm.running_stats(3, like=np.zeros(1)))
    for part in parts:
        assert_within(part["mean"], stats.mean, 1e-3)
        assert_within(part["var"], stats.var, 1e-5)
        assert part["calls"] == 2


@pytest.mark.library("torch")
def test_a_dtensor_is_the_whole_however_it_is_sharded(tmp_path):
    run_two("torch_dtensor.py", tmp_path)
    assert all((tmp_path / f"done{rank}").exists() for rank in range(2))


@pytest.mark.eager
def test_stats_leave_nothing_to_sync(xp):
    x = xp.array(np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="nothing to sync"):
        anynorm.batch_norm(x, stats=RunningStats(x[0, :], x[0, :]), sync=lambda a: a)
