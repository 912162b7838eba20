"""The table of errors in the README: `python -m anynorm check --json | python tests/accuracy_table.py` writes it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from libraries_table import table

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- accuracy table: from `python -m anynorm check` -->", "<!-- end of accuracy table -->"
COLUMNS = {
    "numpy": "NumPy / textbook",
    "jax": "JAX / Flax",
    "torch": "PyTorch / `torch.nn.functional`",
    "dask": "Dask / textbook",
}
NORMS = ("layer", "rms", "group", "instance", "batch")
OFFSETS = {0.0: "0", 1e4: "1e4"}


def short(error: float) -> str:
    return f"{error:.1e}".replace("e-0", "e-").replace("e+0", "e")


def drawn(document: dict) -> str:
    """Return the table of what `check --json` has printed."""
    found = {(row["library"], row["norm"], row["offset"]): row for row in document["rows"]}
    rows = [("norm", "offset", *COLUMNS.values())]
    for norm in NORMS:
        for offset, written in OFFSETS.items():
            cells = [found[library, norm, offset] for library in COLUMNS]
            pairs = [f"{short(cell['error'])} / {short(cell['native_error'])}" for cell in cells]
            rows.append(("" if offset else norm, written, *pairs))
    return table(rows)


def read(page: str) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Return our error and the native one for each norm, offset and column of the table in a page."""
    lines = page.split(BEGIN)[1].split(END, maxsplit=1)[0].strip().splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    errors, norm = {}, ""
    for first, offset, *pairs in rows:
        norm = first or norm
        for column, pair in zip(head[2:], pairs, strict=True):
            ours, theirs = map(float, pair.split(" / "))
            errors[norm, offset, column] = ours, theirs
    return errors


def claimed(page: str) -> tuple[float, float]:
    """Return the least and the largest error of native norms at an offset of 1e4 that the page speaks of."""
    return tuple(map(float, re.search(r"measured to err by (\S+) to (\S+)[.]\s", page).groups()))


if __name__ == "__main__":
    text = README.read_text()
    before, rest = text.split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n\n{drawn(json.load(sys.stdin))}\n\n{END}" + rest.split(END)[1])
