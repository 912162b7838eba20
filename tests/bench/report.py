"""What one revision took: as tables, or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anynorm
from anynorm._report import MISSED, Table, show

from .cases import by
from .figures import EXTRA, Reached, held
from .machine import on
from .results import COUNTED
from .units import duration, percent, size, times_as_long

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anynorm.testing._reference import Found

    from .cases import Case
    from .results import Result

RATIOS = (
    ("native", "anynorm"),
    ("textbook", "anynorm"),
    ("onnxruntime", "anynorm"),
    ("anynorm", "copy"),
    ("anynorm", "unmasked"),
)
TIMED = ("anynorm", "native", "textbook", "onnxruntime", "copy", "unmasked")


def columns(case: Case, above: Case | None) -> tuple[str, ...]:
    """Return the cells that say which case it is; library and norm are left blank where they are those above."""
    library, norm, shape, dtype, layout, work, mode, given = case
    if above is not None and above.library == library:
        library, norm = "", "" if above.norm == norm else norm
    return library, norm, by(shape), dtype, layout if len(shape) > 2 else "-", work, mode, given


WHICH = ("library", "norm", "shape", "dtype", "channels", "work", "mode", "given")


def listed(titles: Sequence[str], rows: Sequence[tuple[Case, Sequence[str]]]) -> Table:
    """Return a table with a row a case."""
    cells: list[tuple[str, ...]] = [(*WHICH, *titles)]
    above = None
    for case, numbers in rows:
        cells.append((*columns(case, above), *numbers))
        above = case
    return Table(cells, range(len(WHICH), len(WHICH) + len(titles)))


def tables(results: Sequence[Result]) -> list[list[str] | Table]:
    """Return the tables of figures, ratios, and times."""
    measured = [result for result in results if result.seconds]
    ratios = [
        (result.case, [*(times_as_long(result.ratio(*pair)) for pair in RATIOS), percent(result.noise)])
        for result in measured
    ]
    took = [
        (result.case, [*(duration(result.seconds.get(name)) for name in TIMED), *map(size, extra(result))])
        for result in measured
    ]
    return [
        ["figures"],
        figures_table([row for row in held(results) if row.reached is not None]),
        ["ratios of medians"],
        listed([*(f"{above}/{below}" for above, below in RATIOS), "noise"], ratios),
        ["medians of a call, and the memory that it takes besides its result"],
        listed([*TIMED, *(f"extra: {name}" for name in COUNTED)], took),
    ]


def extra(result: Result) -> list[int | None]:
    """Return the extra memory of the calls whose memory is counted."""
    return [result.extra.get(name) for name in COUNTED]


def figures_table(rows: Sequence[Reached]) -> Table:
    """Return the table of the figures that were measured."""
    cells: list[tuple[str, ...]] = [("library", "case", "figure", "wished", "measured", "noise", "")]
    above = Reached(" ")
    for row in rows:
        (library, _, case), (last_library, _, _) = row.case.partition(" "), above.case.partition(" ")
        first = "" if library == last_library else library, "" if row.case == above.case else case
        number = times_as_long(row.measured) if row.figure != EXTRA else size(row.measured)
        verdict = "reached" if row.reached else MISSED
        cells.append((*first, row.figure, row.wished, number, percent(row.noise), verdict))
        above = row
    return Table(cells, (4, 5))


LEGEND = [
    "native: torch.nn.functional, for NumPy too; of JAX flax.linen. unmasked: anynorm's call without its mask.",
    "work: forward, or both it and the gradients of x, weight and bias. The copy is of x, also where work is both.",
    "mode: with all threads, or one; compiled by torch.compile, with all; of JAX eager calls, or under jit.",
    "given: nothing but x; weight and bias (affine), also with a mean and variance to use (stats) or update (train); a",
    "mask that broadcasts, or one of x's shape.",
    "noise: by how much two medians of the same copy differ. -: not to be had, or not to be known.",
]


def legend(results: Sequence[Result]) -> list[str]:
    """Return what the columns mean, and what was missing."""
    notes = dict.fromkeys(note for result in results for note in result.notes)
    return [*LEGEND, *notes]


def shown(results: Sequence[Result], libraries: Sequence[Found], where: Mapping[str, Any]) -> None:
    """Print the report."""
    reached = [row.reached for row in held(results)]
    missed, unknown = reached.count(False), reached.count(None)
    verdict = (
        f"{missed} of {len(reached) - unknown} figures {MISSED}" if missed else f"{reached.count(True)} figures reached"
    )
    verdict += f", {unknown} not measured." if unknown else "."
    show([heading(libraries, where), *tables(results), legend(results)], verdict)


def heading(libraries: Sequence[Found], where: Mapping[str, Any]) -> list[str]:
    """Return what was measured, and on what."""
    missing = [f"{library.name:<7}{library.problem}" for library in libraries if library.problem]
    return [f"anynorm {anynorm.__version__} bench", on(where), *missing]


def as_json(results: Sequence[Result], libraries: Sequence[Found], where: Mapping[str, Any]) -> str:
    """Return the structure that the help of the command documents."""
    document = {
        "anynorm": anynorm.__version__,
        "machine": where,
        "libraries": [{key: getattr(found, key) for key in ("name", "version", "problem")} for found in libraries],
        "figures": [row._asdict() for row in held(results)],
        "cases": [
            {
                "name": result.case.name,
                **result.case._asdict(),
                "bytes": result.case.bytes,
                "ratios": {f"{above} / {below}": result.ratio(above, below) for above, below in RATIOS},
                **{key: getattr(result, key) for key in ("seconds", "extra", "noise", "rounds", "engines", "notes")},
            }
            for result in results
        ],
    }
    return json.dumps(document, indent=2, allow_nan=False)
