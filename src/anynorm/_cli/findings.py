"""What `check` has to say of its rows: tables and what they mean, or JSON."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

import anynorm

from .check import DIFFERENCE, ERROR, UNIT, Row
from .report import MISSED, Table
from .report import show as show_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .data import Data
    from .reference import Found


class Report(NamedTuple):
    """Everything the check has to say."""

    data: Data
    gradients: bool
    compiled: bool
    libraries: list[Found]
    rows: list[Row]
    engines: Mapping[str, str]  # that cannot be used, each with what is wrong with it

    @property
    def missed(self) -> int:
        """How many rows miss their promise."""
        return sum(not row.kept for row in self.rows)


def as_json(report: Report) -> str:
    """Return the structure that the help of the command documents."""
    data, rows = report.data, [row._asdict() for row in report.rows]
    for row in rows:
        for key in ("error", "bound", "native_error", "difference"):
            row[key] = finite(row[key])
    document = {
        "anynorm": anynorm.__version__,
        "kept": not report.missed,
        "gradients": report.gradients,
        "compiled": report.compiled,
        "data": {key: getattr(data, key) for key in ("file", "dtype", "shape", "channel_axis")},
        "libraries": [
            {key: getattr(found, key) for key in ("name", "version", "problem", "native")} for found in report.libraries
        ],
        "engines": report.engines,
        "rows": rows,
    }
    return json.dumps(document, indent=2, allow_nan=False)


def finite(number: float | None) -> float | None:
    """Return a number as JSON has it, which knows no NaN and no infinity."""
    return number if number is not None and math.isfinite(number) else None


def show(report: Report) -> None:
    """Print the report: the libraries, the table, what it means, and the verdict."""
    verdict = f"{report.missed} of {len(report.rows)} promises MISSED." if report.missed else "Every promise is kept."
    show_parts([heading(report), Table(table(report), RIGHT), legend(report)], verdict)


def heading(report: Report) -> list[str]:
    """Return what the norms were run on, a line for every library, and which engines ran or could not."""
    data = report.data
    what = f"{data.file}: {data.dtype}" if data.file else f"{data.dtype} of unit spread,"
    run = ", gradients" * report.gradients + ", compiled" * report.compiled
    title = f"anynorm {anynorm.__version__}{run} on {what} {data.shape}, channels on axis {data.channel_axis}"
    width = max(len(found.version or "") for found in report.libraries)
    libraries = [f"{found.name:<7}{state(found, width)}" for found in report.libraries]
    engines = [f"engine {name}: {problem}" for name, problem in report.engines.items()]
    return [title, "", *libraries, "", f"run by: {', '.join(run_by(report.rows))}", *engines]


def run_by(rows: list[Row]) -> Iterator[str]:
    """Yield the engines that ran, each with its libraries."""
    for engine in sorted({row.engine for row in rows if row.engine}):
        yield f"{engine} ({', '.join(dict.fromkeys(row.library for row in rows if row.engine == engine))})"


def state(found: Found, width: int) -> str:
    """Return what is wrong with a library, or its version and what it is compared with."""
    return found.problem or f"{found.version:<{width}}  beside {found.native}"


def table(report: Report) -> list[tuple[str, ...]]:
    """Return the cells, the titles first; what a row shares with the row above it is left blank."""
    array = "input as" if report.data.file else "offset"
    cells: list[tuple[str, ...]] = [("library", "norm", array, "error", "native's error", "difference", "promise")]
    above = Row("", "", None)
    for row in report.rows:
        same = row.library == above.library
        name, norm = "" if same else row.library, "" if same and row.norm == above.norm else row.norm
        array = row.dtype or "-" if row.offset is None else short(row.offset, 0)
        numbers = (short(number) for number in (row.error, row.native_error, row.difference))
        cells.append((name, norm, array, *numbers, "kept" if row.kept else MISSED))
        above = row
    return cells


RIGHT = range(2, 6)  # the columns of numbers


def short(number: float | None, decimals: int = 1) -> str:
    """Return a number as 1.5e-7, without zeros in its exponent."""
    if number is None or number == 0 or not math.isfinite(number):
        return "-" if number is None else f"{number:g}"
    digits, exponent = f"{number:.{decimals}e}".split("e")
    return f"{digits}e{int(exponent)}" if int(exponent) else digits


PROMISES = {
    "float16": "in float16, one last place of the result",
    "float32": f"in float32, {short(ERROR, 0)}, times the largest result / {UNIT:g} where that is above 1",
    "float64": "in float64, 1e-14 times 1 + the largest result, or four last places of x",
}
GRADIENT_PROMISES = {
    "float16": f"in float16, one last place of the gradient, or {short(ERROR, 0)}",
    "float32": f"in float32, {short(ERROR, 0)}",
    "float64": "in float64, 2e-14, or four last places of x",
}


def legend(report: Report) -> list[str]:
    """Return what the columns mean, what is promised, and what went wrong."""
    lines = ["Errors: the largest distances from float64. Difference: between the two norms."]
    if report.gradients:
        lines += ["Both are of the gradient of x, in units of the largest. The native one is by the library's own"]
        lines += ["differentiation; where there is none, by the textbook's closed form."]
    if report.data.file:
        dtypes = sorted({row.dtype for row in report.rows if row.dtype})
        promises = GRADIENT_PROMISES if report.gradients else PROMISES
        lines += ["Promised: an error of at most", *(f"  {promises[dtype]}" for dtype in dtypes)]
    else:
        error, difference = short(ERROR, 0), short(DIFFERENCE, 0)
        lines += [f"Promised: an error of at most {error}; a difference of at most {difference} at offset 0;"]
        lines += ["at other offsets, never the worse of the two by more than a last place."]
    return lines + notes(report.rows)


def notes(rows: list[Row]) -> list[str]:
    """Return what was raised, once for all the norms of a library that raised the same."""
    norms: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row.note:
            norms.setdefault((row.library, row.note), {})[row.norm] = None
    return [f"{library}, {', '.join(names)}: {note}" for (library, note), names in norms.items()]
