"""python -m tables NAME [FILE ...], with the tests on the path: write a table, of what a command printed into files."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

from . import ROOT, Claim, pasted, said, text


def main(name: str, *files: str) -> None:
    """Write a table into its pages, and what their sentences repeat of it."""
    module = import_module(f"tables.{name}")
    for page, drawn in module.drawn(*(parsed(Path(file)) for file in files)).items():
        (ROOT / page).write_text(pasted(text(page), name, drawn))
    claims: list[Claim] = module.claims() if hasattr(module, "claims") else []
    for claim in claims:
        (ROOT / claim.page).write_text(said(text(claim.page), claim))


def parsed(file: Path) -> object:
    """Return what a command printed: JSON, or lines."""
    return json.loads(file.read_text()) if file.suffix == ".json" else file.read_text()


if __name__ == "__main__":
    main(*sys.argv[1:])
