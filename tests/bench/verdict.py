"""Whether one revision is slower than another by more than the noise."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

from .clock import quartile_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .cases import Case

SIGMAS = 3.0


class Compared(NamedTuple):
    """One case of both revisions."""

    case: Case
    ours: float | None = None  # the median, in seconds
    theirs: float | None = None
    ratio: float | None = None  # ours / theirs
    apart: float = 0.0  # by how much two workers of one revision differ
    error: float = 0.0  # what the scatter of the rounds leaves uncertain in the ratio
    noise: float = 0.0  # how far from 1 the ratio may be by chance
    verdict: str = "failed"  # or "slower", "faster", "same", "new"
    note: str | None = None


def weigh(case: Case, measured: Mapping[str, Sequence[float]]) -> Compared:
    """Return how a case compares, the verdict left open."""
    first, second = (statistics.median(measured[name]) for name in ("theirs", "theirs again"))
    ours, theirs = statistics.median(measured["ours"]), math.sqrt(first * second)
    error = math.hypot(uncertainty(measured["ours"]), uncertainty([*measured["theirs"], *measured["theirs again"]]))
    apart = max(first, second) / min(first, second) - 1
    return Compared(case, ours, theirs, ours / theirs, apart, error, verdict="open")


def uncertainty(times: Sequence[float]) -> float:
    """Return the relative standard error of a median, as the quartiles of normal data give it."""
    return math.sqrt(math.pi / 2 / len(times)) * quartile_range(times) / 1.349 / statistics.median(times)


def judge(rows: Iterable[Compared]) -> list[Compared]:
    """Return the cases with their noise, and whether they differ by more than that.

    The noise is the largest of three: by how much two workers of one revision differ in this case; three standard
    errors of the ratio, by the scatter of the rounds; and three standard deviations of the ratio from worker to worker,
    by how much the two of one revision differ over all the cases.
    """
    rows = list(rows)
    apart = [row.apart for row in rows if row.ratio is not None]
    # 1.4826 turns a median deviation into a standard one; three workers are in a ratio by 1 and 1/2, two in apart by 1.
    usual = 1.4826 * statistics.median(apart) * math.sqrt(1.5 / 2) if apart else 0.0
    return [row if row.ratio is None else judged(row, row.ratio, usual) for row in rows]


def judged(row: Compared, ratio: float, usual: float) -> Compared:
    """Return a case with its noise and its verdict, given what workers usually differ by."""
    noise = max(row.apart, SIGMAS * row.error, SIGMAS * usual)
    verdict = "slower" if ratio > 1 + noise else "faster" if ratio * (1 + noise) < 1 else "same"
    return row._replace(noise=noise, verdict=verdict)
