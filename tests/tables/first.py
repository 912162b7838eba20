"""The table of first calls, as `bench.first` printed it."""

from __future__ import annotations


def drawn(found: str) -> dict[str, str]:
    """Return the table."""
    return {"docs/guide/engines.md": found.strip()}
