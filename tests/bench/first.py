"""python -m bench.first, with the tests on the path: how long first calls take, compiled and from disk."""

from __future__ import annotations

import os
import subprocess
import sys
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

import anynorm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL, LARGE = (np.random.default_rng(0).standard_normal(shape, "float32") for shape in ((8, 64), (512, 1024)))
CALLS: dict[str, Callable[[], Any]] = {  # in this order: what one has compiled, a later one finds
    "layer norm of (8, 64), and the import of Numba": lambda: anynorm.layer_norm(SMALL),
    "layer norm of (512, 1024), on all cores": lambda: anynorm.layer_norm(LARGE),
    "batch norm of (512, 1024), on all cores": lambda: anynorm.batch_norm(LARGE),
    "layer norm of (8, 64) and its pullback": lambda: anynorm.vjp.layer_norm(SMALL)[1](SMALL),
    "layer norm of (512, 1024) and its pullback, on all cores": lambda: anynorm.vjp.layer_norm(LARGE)[1](LARGE),
    "layer norm of (8, 64) with a mask": lambda: anynorm.layer_norm(SMALL, where=SMALL < 2),
    "batch norm of (512, 1024) with a mask, on all cores": lambda: anynorm.batch_norm(LARGE, where=LARGE < 2),
}


def seconds() -> Iterator[float]:
    """Yield how long each call takes in this process."""
    for call in CALLS.values():
        begin = perf_counter()
        call()
        yield perf_counter() - begin


def main() -> None:
    """Print the table: of a process that compiles, and of one that finds what that has kept."""
    command = [sys.executable, "-c", "from bench.first import seconds; print(*seconds())"]
    with TemporaryDirectory() as folder:
        env = {**os.environ, "NUMBA_CACHE_DIR": folder}
        compiled, kept = (subprocess.check_output(command, env=env, text=True).split() for _ in range(2))
    print("| first call, float32 | compiled | from disk |\n|---|---|---|")
    for name, *taken in zip(CALLS, compiled, kept, strict=True):
        print(f"| {name} | {' | '.join(f'{float(s):.2f} s' for s in taken)} |")


if __name__ == "__main__":
    main()
