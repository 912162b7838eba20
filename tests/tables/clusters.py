"""The table of Dask on workers, as `bench.clusters` printed it."""

from __future__ import annotations


def drawn(found: str) -> dict[str, str]:
    """Return the table."""
    return {"docs/guide/speed.md": found[found.index("| norm") :].strip()}
