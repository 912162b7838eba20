"""How long calls take, in turn, and how much memory."""

from __future__ import annotations

import math
import random
import statistics
import time
import tracemalloc
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .calls import Call

clock = time.perf_counter

SHORTEST = 1e-3  # seconds that a measurement takes: a quicker call is repeated inside
ROUNDS, FEWEST, SECONDS = 15, 5, 5.0  # rounds a case; or the fewest, once they have taken so many seconds


def seconds(call: Call, times: int) -> float:
    """Return how long a call takes, on average of so many."""
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / times


def enough(once: float) -> int:
    """Return how often to repeat a call that takes so long."""
    return max(1, math.ceil(SHORTEST / max(once, 1e-9)))


def warm(call: Call) -> int:
    """Call until everything is compiled and cached, and return how often to repeat it in a measurement."""
    call()
    return enough(min(seconds(call, 1) for _ in range(3)))


def interleaved(calls: Mapping[str, Callable[[], float]], rounds: int | None) -> dict[str, list[float]]:
    """Measure every call once a round, in an order that changes, and return what each round has measured."""
    names, order = list(calls), random.Random(0)
    measured: dict[str, list[float]] = {name: [] for name in names}
    start, done = clock(), 0
    while not over(done, clock() - start, rounds):
        for name in order.sample(names, len(names)):
            measured[name].append(calls[name]())
        done += 1
    return measured


def over(done: int, elapsed: float, rounds: int | None) -> bool:
    """Whether so many rounds are enough: as many as asked for, or else as fit into the time."""
    if rounds is not None:
        return done >= rounds
    return done >= ROUNDS or (done >= FEWEST and elapsed >= SECONDS)


def race(calls: Mapping[str, Call], rounds: int | None) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return the seconds that each call takes, round by round, and what those raise that fail."""
    ready: dict[str, Callable[[], float]] = {}
    failed: dict[str, str] = {}
    for name, call in calls.items():
        try:
            ready[name] = partial(seconds, call, warm(call))
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return interleaved(ready, rounds), failed


def quartile_range(times: Sequence[float]) -> float:
    """Return the distance between the quartiles."""
    if len(times) < 2:
        return 0.0
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return high - low


def extra_bytes(call: Call) -> int | None:
    """Return the most memory that a call takes besides its results; None where NumPy is not the one that takes it."""
    tracemalloc.start()
    try:
        result = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    results = sum(a.nbytes for a in (result if isinstance(result, tuple) else (result,)))
    return peak - results if peak >= results else None
