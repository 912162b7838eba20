"""Numbers as the tables have them."""

from __future__ import annotations


def times_as_long(ratio: float | None) -> str:
    """Return a ratio with three digits."""
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.1f}" if ratio < 99.95 else f"{ratio:.0f}"


def percent(share: float | None) -> str:
    """Return a share of 1."""
    return "-" if share is None else f"{share:.1%}"


def duration(seconds: float | None) -> str:
    """Return seconds in a unit of three digits at most before the point."""
    if seconds is None:
        return "-"
    unit, factor = next(((u, f) for u, f in (("s", 1), ("ms", 1e3), ("us", 1e6)) if seconds * f >= 1), ("ns", 1e9))
    return f"{times_as_long(seconds * factor)} {unit}"


def size(count: float | None) -> str:
    """Return a number of bytes."""
    if count is None:
        return "-"
    unit, factor = next(((u, f) for u, f in (("MB", 1e6), ("kB", 1e3)) if count >= f), ("B", 1))
    return f"{count / factor:.3g} {unit}"
