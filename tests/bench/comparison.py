"""How two revisions compare: as a table, or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anynorm
from anynorm._report import show

from .report import listed
from .units import duration, percent, times_as_long

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .verdict import Compared

SLOWER = "slower"

REVISIONS_LEGEND = [
    "ours: the anynorm that runs; theirs: the revision, in two processes. noise: the largest of what those two differ",
    "by, three standard errors of the ratio by the scatter of the rounds, and three standard deviations of the ratio",
    "by what those two differ by over all the cases. new: the revision does not do it.",
]


def shown(rows: Sequence[Compared], title: Sequence[str]) -> None:
    """Print how two revisions compare."""
    cells = [
        (
            row.case,
            [times_as_long(row.ratio), percent(row.noise), row.verdict, duration(row.ours), duration(row.theirs)],
        )
        for row in rows
    ]
    table = listed(("ours / theirs", "noise", "verdict", "ours", "theirs"), cells)
    notes = dict.fromkeys(f"{row.case.name}: {row.note}" for row in rows if row.note)
    counts = {name: sum(row.verdict == name for row in rows) for name in (SLOWER, "failed", "faster", "same", "new")}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    show([list(title), table, [*REVISIONS_LEGEND, *notes]], f"Of {len(rows)} cases: {said}.", bad=SLOWER)


def as_json(rows: Sequence[Compared], revision: str, commit: str, where: Mapping[str, Any]) -> str:
    """Return the structure that the help of the command documents."""
    document = {
        "anynorm": anynorm.__version__,
        "machine": where,
        "against": {"revision": revision, "commit": commit},
        "slower": sum(row.verdict == SLOWER for row in rows),
        "cases": [{"name": row.case.name, **row._asdict(), "case": row.case._asdict()} for row in rows],
    }
    return json.dumps(document, indent=2, allow_nan=False)
