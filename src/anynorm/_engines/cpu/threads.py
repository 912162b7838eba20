"""How many cores a call takes: all that the process may use, unless another call has them; and how it shares them."""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numba

from ..choice import choice, is_beside_others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

SMALL = 2**16  # elements that one core is done with before another has woken up

_taken = threading.Lock()  # some threading layers of Numba do not bear two launches at once
_forked = False  # some do not bear a launch on both sides of a fork


def _after_fork() -> None:
    global _forked  # noqa: PLW0603
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def allowed() -> int:
    """Return how many threads a call may use: one beside the calls of a pool, which has the cores already."""
    if _forked:
        return 1
    asked = choice().threads
    if asked is None and is_beside_others():
        return 1
    openmp = os.environ.get("OMP_NUM_THREADS", "")  # may be a list, one number a level
    limits = (asked, int(openmp) if openmp.isdigit() else None, numba.config.NUMBA_NUM_THREADS)
    return max(1, min(n for n in limits if n is not None))


ALONE = nullcontext(1)


def cores(size: int, most: int | None = None) -> AbstractContextManager[int]:
    """Take the cores for work on size elements, and give how many: 1 while another call has them."""
    threads = 1 if size < SMALL else min(allowed(), most or size)
    if threads == 1 or threading_layer() is None or not _taken.acquire(blocking=False):
        return ALONE
    return _shared(threads)


@contextmanager
def _shared(threads: int) -> Iterator[int]:
    try:
        yield threads
    finally:
        _taken.release()


@cache
def threading_layer() -> str | None:
    """Return what Numba runs its threads by, which is started now; None, and a warning, where that fails."""
    try:
        numba.get_num_threads()
        layer: str = numba.threading_layer()
    except Exception as error:  # noqa: BLE001  a layer that was asked for and is not there
        message = (
            f"anynorm's norms run on one thread, since Numba has none ({str(error).strip().splitlines()[0]}): "
            f"unset NUMBA_THREADING_LAYER ({numba.config.THREADING_LAYER}), or install what it names"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None
    return layer


# ---------------------------------------------------------------------------------- threads of our own


def safe_beside_others() -> bool:
    """Whether Numba's threads may be used while somebody else uses them: its workqueue aborts the process then."""
    return threading_layer() != "workqueue"


def take_turns(work: Callable[[int], Any], pieces: int) -> None:
    """Do pieces of work on threads of our own and on this one; whoever is free takes the next."""
    turns = iter(range(pieces))

    def take() -> None:
        for piece in turns:
            work(piece)

    others: list[Future[None]] = []
    with suppress(RuntimeError):  # the interpreter is shutting down: this thread does what nobody else takes
        others.extend(_pool().submit(take) for _ in range(min(pieces, numba.config.NUMBA_NUM_THREADS) - 1))
    take()
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # which a process that is shutting down cannot import

    return ThreadPoolExecutor(max(1, numba.config.NUMBA_NUM_THREADS - 1), "anynorm")
