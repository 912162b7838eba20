"""Run every example of the pages that have been built, by two processes at once: `python docs/doctests.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent
BUILD = DOCS / "_build"


def main() -> int:
    """Return the worse exit status of the two."""
    pages = [
        p
        for p in DOCS.rglob("*")
        if p.suffix in {".md", ".rst"} and BUILD not in p.parents
    ]
    first = [
        p for p in pages if p.relative_to(DOCS).parts[0] in {"frameworks", "reference"}
    ]
    halves = (first, [p for p in pages if p not in first])
    command = [
        "sphinx-build",
        "-W",
        "--keep-going",
        "-b",
        "doctest",
        "-d",
        BUILD / "read",
        DOCS,
    ]
    processes = [
        subprocess.Popen([*command, BUILD / f"doctest{i}", *half])
        for i, half in enumerate(halves)
    ]
    return max(process.wait() for process in processes)


if __name__ == "__main__":
    sys.exit(main())
