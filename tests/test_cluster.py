"""Dask arrays many times larger than the memory their workers are given."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm

pytestmark = [pytest.mark.library("dask"), pytest.mark.library("distributed"), pytest.mark.slow]

LIMIT = 512 * 2**20
SHAPE = (2048, 64, 64, 64)  # 2 GiB of float32, in chunks of 16 MiB


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    import dask
    from distributed import Client, LocalCluster

    settings = {"distributed.worker.memory.terminate": 0.95, "distributed.comm.timeouts.connect": "60s"}
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=LIMIT,
            dashboard_address=None,
            local_directory=tmp_path_factory.mktemp("spill"),
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def made_by_tasks():
    import dask.array as da

    return da.random.default_rng(0).standard_normal(SHAPE, dtype="float32", chunks=(16, 64, 64, 64)) + np.float32(1e4)


@pytest.mark.parametrize(
    ("call", "axes"),
    [
        (lambda x: anynorm.layer_norm(x, axis=(1, 2, 3), eps=0), (1, 2, 3)),
        (lambda x: anynorm.group_norm(x, 8, eps=0), None),
        (lambda x: anynorm.batch_norm(x, eps=0), (0, 2, 3)),
    ],
    ids=["layer_norm", "group_norm", "batch_norm"],
)
def test_a_norm_of_an_array_larger_than_the_memory_of_its_workers_runs(client, call, axes):
    import dask

    x = made_by_tasks()
    assert x.nbytes >= 4 * LIMIT
    y = call(x)
    assert y.chunks == x.chunks
    pids = client.run(lambda: __import__("os").getpid())
    if axes is None:
        axes, y = (2, 3, 4), y.reshape(SHAPE[0], 8, 8, *SHAPE[2:])
    mean, square = dask.compute(y.mean(axis=axes, dtype="float64"), (y * y).mean(axis=axes, dtype="float64"))
    assert np.abs(mean).max() < 1e-7
    assert np.abs(square - 1).max() < 1e-6
    assert client.run(lambda: __import__("os").getpid()) == pids, "a worker was killed for its memory"
