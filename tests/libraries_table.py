"""The table of libraries in the docs, drawn from that of the tests: `python tests/libraries_table.py` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from backends import ABOUT, FEATURES

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- libraries table: from `python tests/libraries_table.py` -->", "<!-- end of libraries table -->"
TITLES = {
    "numpy": "NumPy",
    "array_api_strict": "array-api-strict",
    "torch": "PyTorch",
    "jax": "JAX",
    "dask": "Dask",
    "cupy": "CuPy",
    "mlx": "MLX",
    "sparse": "pydata/sparse",
    "cubed": "Cubed",
}


def full() -> str:
    """Return what works on which library, and what it lacks."""
    rows = [("library", "version", "used", *FEATURES, "lacks")]
    for library, about in ABOUT.items():
        lacks = "; ".join(f"{name}: {reason}" for name, reason in about.lacks.items())
        rows.append((title(library), about.tested or "none yet", about.used, *works(library), lacks))
    return table(rows)


def short() -> str:
    """Return how each library is used, and what it lacks."""
    rows = [("library", "version", "used", "lacks")]
    rows += [(title(name), a.tested or "none yet", a.used, ", ".join(a.lacks)) for name, a in ABOUT.items()]
    return table(rows)


def title(library: str) -> str:
    return TITLES.get(library, library)


def works(library: str) -> list[str]:
    """Return for each feature whether its tests pass: all of them, or all that need nothing that is lacking."""
    if not ABOUT[library].tested:
        return ["not run yet"] * len(FEATURES)
    return [", but for ".join(["yes", *lacking(library, module)]) for module in FEATURES.values()]


def lacking(library: str, module: str) -> list[str]:
    """Return what the tests of a module need that a library lacks."""
    needed = needs(Path(__file__).with_name(f"{module}.py"))
    found = [name for name in ABOUT[library].lacks if name in needed]
    return [" and ".join(found)] if found else []


def needs(module: Path) -> set[str]:
    """Return what the tests of a module say that they need."""
    marks = re.findall(r"mark\.needs\(([^)]*)\)", module.read_text())
    return {name for mark in marks for name in re.findall(r'"(.*?)"', mark)}


def table(rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]).replace("|  |", "| |")


PLACES = {"docs/guide/libraries.md": full, "README.md": short}


def written(text: str, drawn: str) -> str:
    """Return a page with the table in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{drawn}\n\n{END}" + rest.split(END)[1]


if __name__ == "__main__":
    for place, draw in PLACES.items():
        page = ROOT / place
        page.write_text(written(page.read_text(), draw()))
