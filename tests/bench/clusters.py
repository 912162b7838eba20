"""python -m bench.clusters, with the tests on the path: norms of Dask arrays on two worker processes.

Each is timed, from the call to the last block, beside a copy of the blocks, the textbook in Dask, and dask-ml where
that is installed. x lies in the workers' memory already; of every block of a result one element comes back, so that no
result is held.
"""

from __future__ import annotations

import argparse
import math
import statistics
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anynorm
from anynorm.testing._reference import EPS, shared

from .clock import interleaved, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMAGES, BLOCK = (512, 64, 56, 56), (16, 64, 56, 56)  # 411 MB in float32, in 32 blocks
CUT = (64, 16, 56, 56)  # 32 blocks of a part of the channels
TOKENS, ROWS = (100_352, 1024), (3136, 1024)
TABLE, LINES = (1_605_632, 64), (50_176, 64)
GROUPS = 8


class Case(NamedTuple):
    """A call on an array in chunks, and the ratio to a copy of the blocks that is wished for."""

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    call: Callable[[Any], Any]
    norm: str
    wished: float


CASES = (
    Case("layer over C, H, W", IMAGES, BLOCK, partial(anynorm.layer_norm, axis=(1, 2, 3)), "layer", 1.5),
    Case("group", IMAGES, BLOCK, lambda x: anynorm.group_norm(x, GROUPS), "group", 1.5),
    Case("instance", IMAGES, BLOCK, anynorm.instance_norm, "instance", 1.5),
    Case("rms over the last axis", TOKENS, ROWS, anynorm.rms_norm, "rms", 1.5),
    Case("batch", IMAGES, BLOCK, anynorm.batch_norm, "batch", 2.2),
    Case("layer, channels cut", IMAGES, CUT, partial(anynorm.layer_norm, axis=(1, 2, 3)), "layer", 2.2),
    Case("group, groups cut", IMAGES, CUT, lambda x: anynorm.group_norm(x, 2), "group", 2.2),
    Case("zscore", TABLE, LINES, anynorm.zscore, "zscore", 2.2),
)


def textbook(norm: str, x: Any) -> Any:
    """Return the norm by the formula, in Dask's own operations."""
    if norm == "zscore":
        return (x - x.mean(axis=0)) / x.std(axis=0)
    split = x if norm != "group" else x.reshape(len(x), GROUPS, x.shape[1] // GROUPS, *x.shape[2:])
    axes = (-1,) if norm == "rms" else shared(norm, split.ndim)
    if norm == "rms":
        return x / ((x * x).mean(axis=axes, keepdims=True) + EPS) ** 0.5
    by = (split.var(axis=axes, keepdims=True) + EPS) ** 0.5
    return ((split - split.mean(axis=axes, keepdims=True)) / by).reshape(x.shape)


def rivals(case: Case) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Yield what is timed: functions of a lazy array that return another."""
    yield "copy", lambda x: x.map_blocks(copied, dtype=x.dtype, meta=x._meta)
    yield "anynorm", case.call
    if not (case.norm == "group" and case.chunks == CUT):
        yield "textbook", partial(textbook, case.norm)
    if case.norm == "zscore" and find_spec("dask_ml") is not None:
        from dask_ml.preprocessing import StandardScaler

        yield "dask-ml", lambda x: StandardScaler().fit(x).transform(x)


def copied(block: Any) -> Any:
    """Return a copy of a block."""
    return block.copy()


def first(block: Any) -> Any:
    """Return one element of a block, of which the rest is let go."""
    return block[(slice(0, 1),) * block.ndim].copy()


def one_each(y: Any) -> Any:
    """Return an array of one element of each block."""
    return y.map_blocks(first, dtype=y.dtype, chunks=tuple((1,) * n for n in y.numblocks), meta=y._meta)


def computed(call: Callable[[Any], Any], x: Any) -> None:
    """Build the graph of a call, and compute it."""
    one_each(call(x)).compute()


PROCESS = Path("/proc/self")


def forget_peaks() -> None:
    """Have the operating system measure this process's largest memory anew."""
    PROCESS.joinpath("clear_refs").write_text("5")


def memory(kind: str) -> int:
    """Return how many bytes this process has, "VmRSS", or had at most, "VmHWM"."""
    lines = PROCESS.joinpath("status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def measure(client: Any, case: Case, rounds: int) -> Iterator[str]:
    """Time one case, and yield its rows."""
    import dask
    import dask.array as da

    rng = da.random.default_rng(0)
    x = client.persist(rng.standard_normal(case.shape, dtype="float32", chunks=case.chunks) + 3)
    calls, tasks, extra = {}, {}, {}
    for name, call in rivals(case):
        compute = partial(computed, call, x)
        (graph,) = dask.optimize(one_each(call(x)))
        tasks[name] = len(graph.__dask_graph__())
        calls[name] = partial(seconds, compute, 1)
        compute()
        client.run(forget_peaks)
        before = client.run(memory, "VmRSS")
        compute()
        after = client.run(memory, "VmHWM")
        extra[name] = max(after[worker] - before[worker] for worker in after)
    taken = {name: statistics.median(times) for name, times in interleaved(calls, rounds).items()}
    for name, time in taken.items():
        ratio, wished = time / taken["copy"], f" ({case.wished:g})" if name == "anynorm" else ""
        row = case.name, name, f"{time:.2f}", f"{ratio:.2f}{wished}", str(tasks[name]), f"{extra[name] / 1e6:.0f}"
        yield f"| {' | '.join(row)} |"


def main() -> None:
    """Time everything and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.clusters", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    arguments = parser.parse_args()
    from distributed import Client, LocalCluster

    bytes_ = math.prod(IMAGES) * 4 / 1e6
    print(f"{bytes_:.0f} MB, two worker processes, medians of {arguments.rounds} interleaved rounds\n")
    print("| norm | by | seconds | copies (goal) | tasks | extra MB per worker |")
    print("|---|---|---|---|---|---|")
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        for case in CASES:
            if arguments.only in case.name:
                for row in measure(client, case, arguments.rounds):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
