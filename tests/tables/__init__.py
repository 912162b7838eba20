"""The tables of the README and the docs, drawn from where what they say is at home. `nox -s figures` writes them all.

Each module has `drawn`, which returns the table of each page, of what a command has measured where it takes that; and
`claims`, where sentences repeat numbers of a table.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
README = "README.md"
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
    "flax": "Flax",
    "numba": "Numba",
}


class Claim(NamedTuple):
    """A sentence of a page, with `{}` for each number in it."""

    page: str
    sentence: str
    numbers: Sequence[str]


def text(page: str) -> str:
    """Return a page as it stands."""
    return (ROOT / page).read_text()


def title(library: str) -> str:
    """Return how a library writes its name."""
    return TITLES.get(library, library)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table, of which the first row is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]).replace("|  |", "| |")


def rows_of(drawn: str) -> list[list[str]]:
    """Return the cells of the tables in a text, without the lines under their heads."""
    lines = [line for line in drawn.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def place(page: str, name: str) -> tuple[int, int]:
    """Return where a table begins and ends in the text of a page: between two comments that name it."""
    begin, end = re.search(rf"<!-- {name} table: .*? -->\n\n", page), page.find(f"\n\n<!-- end of {name} table -->")
    if begin is None or end < begin.end():
        message = f"a page needs `<!-- {name} table: what prints it -->` and `<!-- end of {name} table -->`"
        raise ValueError(message)
    return begin.end(), end


def standing(page: str, name: str) -> str:
    """Return a table as it stands in the text of a page."""
    begin, end = place(page, name)
    return page[begin:end]


def pasted(page: str, name: str, drawn: str) -> str:
    """Return the text of a page with a table in its place."""
    begin, end = place(page, name)
    return page[:begin] + drawn + page[end:]


def said(page: str, claim: Claim) -> str:
    """Return the text of a page with the numbers in their sentence, wherever its lines break."""
    words = [re.escape(part).replace(r"\ ", r"\s+") for part in claim.sentence.split("{}")]
    found = list(re.finditer(r"(\d\S*)".join(words), page))
    if len(found) != 1:
        message = f"{claim.page} needs the sentence {claim.sentence!r} once: found it {len(found)} times"
        raise ValueError(message)
    for i, number in reversed([*enumerate(claim.numbers, 1)]):
        begin, end = found[0].span(i)
        page = page[:begin] + number + page[end:]
    return page
