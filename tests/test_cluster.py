"""Dask arrays larger than the memory of their workers, and workers that are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import zlib

import numpy as np
import pytest

import anynorm

pytestmark = [pytest.mark.library("dask"), pytest.mark.library("distributed"), pytest.mark.slow]

MB = 2**20


@contextlib.contextmanager
def workers(folder, n, limit):
    """Yield a client of so many worker processes of a limited memory each."""
    import dask
    from distributed import Client, LocalCluster

    settings = {"distributed.worker.memory.terminate": 0.95, "distributed.comm.timeouts.connect": "60s"}
    options = {"threads_per_worker": 1, "memory_limit": limit, "dashboard_address": ":0", "local_directory": folder}
    with dask.config.set(settings), LocalCluster(n_workers=n, **options) as cluster, Client(cluster) as client:
        yield client


def pids(client):
    return client.run(os.getpid)


def made_by_tasks(samples):
    """Return an array of 1 MiB a sample, in chunks of 16."""
    import dask.array as da

    shape, chunks = (samples, 64, 64, 64), (16, 64, 64, 64)
    return da.random.default_rng(0).standard_normal(shape, dtype="float32", chunks=chunks) + np.float32(1e4)


# ---------------------------------------------------------------------------------- larger than memory


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with workers(tmp_path_factory.mktemp("spill"), 2, 512 * MB) as client:
        yield client


@pytest.mark.parametrize(
    ("call", "axes"),
    [
        (lambda x: anynorm.layer_norm(x, axis=(1, 2, 3), eps=0), (1, 2, 3)),
        (lambda x: anynorm.group_norm(x, 8, eps=0), None),
        (lambda x: anynorm.batch_norm(x, eps=0), (0, 2, 3)),
    ],
    ids=["layer_norm", "group_norm", "batch_norm"],
)
def test_a_norm_of_an_array_larger_than_the_memory_of_its_workers_runs(two, call, axes):
    import dask

    x = made_by_tasks(2048)
    assert x.nbytes >= 4 * 512 * MB
    y = call(x)
    assert y.chunks == x.chunks
    before = pids(two)
    if axes is None:
        axes, y = (2, 3, 4), y.reshape(2048, 8, 8, 64, 64)
    mean, square = dask.compute(y.mean(axis=axes, dtype="float64"), (y * y).mean(axis=axes, dtype="float64"))
    assert np.abs(mean).max() < 1e-7
    assert np.abs(square - 1).max() < 1e-6
    assert pids(two) == before, "a worker was killed for its memory"


@pytest.mark.library("zarr")
def test_in_two_computes_6_gb_go_from_disk_to_disk_through_workers_of_600_mb(tmp_path):
    import dask
    import dask.array as da

    from bench.clusters import forget_peaks, memory

    with workers(tmp_path / "spill", 2, 600 * MB) as client:
        made_by_tasks(6000).to_zarr(tmp_path / "x.zarr")
        x, start = da.from_zarr(tmp_path / "x.zarr"), time.perf_counter()
        client.run(forget_peaks)
        m = anynorm.Moments(*dask.compute(*anynorm.moments(x, axis=(0, 2, 3))))
        stats = anynorm.population_stats(m, correction=0)
        anynorm.batch_norm(x, stats=stats, eps=0).to_zarr(tmp_path / "y.zarr")
        taken = time.perf_counter() - start
        spilled = client.run(lambda dask_worker: dask_worker.data.spilled_total.disk)
        peaks = client.run(memory, "VmHWM")
        y = da.from_zarr(tmp_path / "y.zarr")
        mean, square = dask.compute(*((y**k).mean(axis=(0, 2, 3), dtype="float64") for k in (1, 2)))
    assert np.abs(mean).max() < 1e-7
    assert np.abs(square - 1).max() < 1e-6
    largest = ", ".join(f"{worker / 1e6:.0f}" for worker in peaks.values())
    print(f"{x.nbytes / 1e9:.2f} GB in {taken:.0f} s; MB of the workers at most: {largest}; spilled: {spilled}")
    assert max(peaks.values()) < 600 * MB
    assert not any(spilled.values())


# ---------------------------------------------------------------------------------- killed


def slowly(x):
    """Return an array each block of which takes a while, so that there is a middle of the job."""

    def slow(block):
        time.sleep(0.05)
        return block

    return x.map_blocks(slow, dtype=x.dtype)


def bits_of(y):
    """Return what tells the bits of each block from others."""

    def bits(block):  # workers, which cannot import this module, are sent the functions inside others
        return np.full((1,) * block.ndim, zlib.crc32(block.tobytes()), dtype=np.uint32)

    return y.map_blocks(bits, dtype=np.uint32, chunks=tuple((1,) * n for n in y.numblocks))


@pytest.mark.parametrize("killed", [1, 2])
@pytest.mark.parametrize("call", [anynorm.batch_norm, lambda x: anynorm.vjp.group_norm(x, 8)[1](x)[0]], ids=["y", "dx"])
def test_workers_that_are_killed_come_back_and_the_bits_are_the_same(call, killed, tmp_path):
    x = made_by_tasks(512).rechunk((16, 24, 64, 64))  # which cuts channels, and groups of them
    right = bits_of(call(x)).compute(scheduler="threads")
    with workers(tmp_path, 3, 1024 * MB) as client:
        before = pids(client)
        job = client.compute(bits_of(call(slowly(x))))
        while sum(client.run(lambda dask_worker: dask_worker.state.executed_count).values()) < 20:
            assert job.status == "pending", "it was done before anybody was killed"
            time.sleep(0.02)
        for pid in list(before.values())[:killed]:
            os.kill(pid, signal.SIGKILL)
        assert job.status == "pending"
        assert np.array_equal(job.result(timeout=300), right)
        client.wait_for_workers(3, timeout=60)
        assert len(set(pids(client).values()) - set(before.values())) == killed
