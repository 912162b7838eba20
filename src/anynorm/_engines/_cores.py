"""How many cores a call takes: all that the process may use, unless another call has them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import numba

from . import threads_asked

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = 2**16  # elements that one core is done with before another has woken up

_taken = threading.Lock()  # some threading layers of Numba do not bear two launches at once
_forked = False  # some do not bear a launch on both sides of a fork


def _after_fork() -> None:
    global _forked  # noqa: PLW0603
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def allowed() -> int:
    """Return how many threads a call may use: one where the process is of a pool, which has the cores already."""
    if _forked:
        return 1
    asked = threads_asked.get() or _asked_by_environment()
    if asked is None and multiprocessing.parent_process() is not None:
        return 1
    openmp = os.environ.get("OMP_NUM_THREADS", "")  # may be a list, one number a level
    limits = (asked, int(openmp) if openmp.isdigit() else None, numba.config.NUMBA_NUM_THREADS)
    return max(1, min(n for n in limits if n is not None))


def _asked_by_environment() -> int | None:
    value = os.environ.get("ANYNORM_NUM_THREADS") or None
    if value is not None and not (value.isdigit() and int(value)):
        message = f"ANYNORM_NUM_THREADS needs to be a positive integer: got {value!r}"
        raise ValueError(message)
    return None if value is None else int(value)


ALONE = nullcontext(1)


def cores(size: int, most: int | None = None) -> AbstractContextManager[int]:
    """Take the cores for work on size elements, and give how many: 1 while another call has them."""
    threads = 1 if size < SMALL else min(allowed(), most or size)
    return ALONE if threads == 1 or not _taken.acquire(blocking=False) else _shared(threads)


@contextmanager
def _shared(threads: int) -> Iterator[int]:
    try:
        yield threads
    finally:
        _taken.release()
