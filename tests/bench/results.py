"""What a case took: everything that competes in it, timed."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from anynorm._engines import watch
from anynorm._report import say

from . import calls, clock, rivals

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from .cases import Case

COUNTED = ("anynorm", "textbook")


class Result(NamedTuple):
    """What a case took."""

    case: Case
    seconds: Mapping[str, float] = {}  # the medians, of every call
    extra: Mapping[str, int | None] = {}  # bytes of memory besides the result; None where it cannot be known
    noise: float | None = None  # by how much the medians of two copies differ
    rounds: int = 0
    engines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def ratio(self, slow: str, fast: str) -> float | None:
        """Return how many times as long the one takes as the other."""
        known = slow in self.seconds and fast in self.seconds
        return self.seconds[slow] / self.seconds[fast] if known else None


def measure(case: Case, rounds: int | None) -> Result:
    """Time everything that competes in a case."""
    given = calls.draw(case)
    others, missing = rivals.rivals(case, given)
    competing = {"anynorm": calls.ours(case, given), **others}
    with calls.threads(case):
        with watch() as engines:
            failed = attempted(competing["anynorm"])
        if failed:
            return Result(case, notes=(f"{case.name}: anynorm fails: {failed}",))
        times, failures = clock.race(competing, rounds)
        extra = {name: clock.extra_bytes(competing[name]) for name in counted(case.library, engines) if name in times}
    refused = (f"{case.name}: {name} fails: {problem}" for name, problem in failures.items())
    medians = {name: statistics.median(of) for name, of in times.items()}
    noise = abs(medians["copy"] / medians.pop("copy again") - 1)
    notes = (*missing, *refused)
    return Result(case, medians, extra, noise, len(times["copy"]), tuple(sorted(engines)), notes)


def counted(library: str, engines: Collection[str]) -> tuple[str, ...]:
    """Return the calls whose memory NumPy takes, which says so: on torch, those that end in its engine."""
    return {"numpy": COUNTED, "torch": ("anynorm",) if "numba" in engines else ()}.get(library, ())


def attempted(call: Callable[[], Any]) -> str | None:
    """Return what a call raises, in one line."""
    try:
        call()
    except Exception as error:
        return say(error)
    return None
