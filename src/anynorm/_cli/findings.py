"""What `check` has to say of its rows: tables and what they mean, or JSON."""

from __future__ import annotations

import json
import math
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import anynorm
from anynorm._report import MISSED, Table, finite, short
from anynorm._report import show as show_parts
from anynorm.testing._reference import ERROR, UNIT

from .check import DIFFERENCE, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from anynorm.testing._reference import Found

    from .data import Data


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
        "summary": f"{verdict(report)} {comparison(report)}".strip(),
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


WIDTH = 60  # that everything fits but paths and commands


def wrapped(paragraphs: Iterable[str]) -> list[str]:
    """Return the lines of paragraphs, no wider than the table is."""
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False).wrap
    return [line for paragraph in paragraphs for line in wrap(paragraph)]


def show(report: Report) -> None:
    """Print the report: the libraries, the table, what it means, and the summary."""
    ending = "\n".join(wrapped([verdict(report), comparison(report)]))
    show_parts([heading(report), Table(table(report), RIGHT), wrapped(legend(report))], ending)


def verdict(report: Report) -> str:
    """Return whether every promise is kept."""
    return f"{report.missed} of {len(report.rows)} promises MISSED." if report.missed else "Every promise is kept."


def comparison(report: Report) -> str:
    """Return how layer norm on the last array compares, where it is as promised, and which norm is slowest there."""
    offset = report.rows[-1].offset
    rows = [row for row in report.rows if row.offset == offset and row.kept]
    clauses = [*filter(None, (compared(report, row) for row in rows if row.norm == "layer"))]
    if not clauses:
        return ""
    what = f"{'gradient of ' * report.gradients}layer norm{', compiled where that can be,' * report.compiled}"
    of = f"of {report.data.file}" if offset is None else f"of data around {short(offset, 0)}"
    return f"On this machine anynorm's {what} {of} is {'; '.join(clauses)}.{slowest(rows)}"


def compared(report: Report, row: Row) -> str:
    """Return how a norm compares with the library's native one, as in 1,200 times as exact as the textbook formula."""
    native = next((found.native for found in report.libraries if found.name == row.library), None)
    ratios = {"exact": ratio(row.native_error, row.error), "fast": ratio(row.native_seconds, row.seconds)}
    said = [f"{times(number)} times as {word}" for word, number in ratios.items() if number]
    return f"on {row.library} {', and '.join([f'{said[0]} as {native}', *said[1:]])}" if said else ""


def slowest(rows: Iterable[Row]) -> str:
    """Return which norm is the slowest beside the native one, nothing if none is slower."""
    speeds = [(speed, row.norm, row.library) for row in rows if (speed := ratio(row.native_seconds, row.seconds))]
    speed, norm, library = min(speeds, default=(1.0, "", ""))
    return f" The slowest there is {norm} norm on {library}, {times(speed)} times as fast." if speed < 1 else ""


def ratio(native: float | None, ours: float | None) -> float | None:
    """Return how many times as much the native norm has of something, None where that is no number."""
    return native / ours if native and ours and math.isfinite(native / ours) else None


def times(number: float) -> str:
    """Return a ratio in two digits."""
    rounded = float(f"{number:.1e}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:#.2g}"


def heading(report: Report) -> list[str]:
    """Return what the norms were run on, a line for every library, and which engines ran or could not."""
    data = report.data
    run = ", gradients" * report.gradients + ", compiled" * report.compiled
    array = f"{data.dtype} of shape {data.shape}, channels on axis {data.channel_axis}"
    drawn = f"{array}; standard deviation 1, around 0 or 1e4, which is the offset"
    title = f"anynorm {anynorm.__version__}{run} on {f'{data.file}: {array}' if data.file else drawn}"
    width = max(len(found.version or "") for found in report.libraries)
    libraries = [f"{found.name:<7}{state(found, width)}" for found in report.libraries]
    engines = [f"engine {name}: {problem}" for name, problem in report.engines.items()]
    ran = f"engines that ran: {', '.join(run_by(report.rows))}"
    return [*wrapped([title]), "", *libraries, "", *wrapped([ran]), *engines]


def run_by(rows: list[Row]) -> Iterator[str]:
    """Yield the engines that ran, each with its libraries."""
    for engine in sorted({row.engine for row in rows if row.engine}):
        yield f"{engine} ({', '.join(dict.fromkeys(row.library for row in rows if row.engine == engine))})"


def state(found: Found, width: int) -> str:
    """Return what is wrong with a library, or its version and what it is compared with."""
    return found.problem or f"{found.version:<{width}}  beside {found.native}"


def table(report: Report) -> list[tuple[str, ...]]:
    """Return the cells, the titles first; what a row shares with the row above it is left blank."""
    array = "dtype" if report.data.file else "offset"
    cells: list[tuple[str, ...]] = [("library", "norm", array, "error", "native", "speed", "promise")]
    above = Row("", "", None)
    for row in report.rows:
        same = row.library == above.library
        name, norm = "" if same else row.library, "" if same and row.norm == above.norm else row.norm
        array = row.dtype or "-" if row.offset is None else short(row.offset, 0)
        speed = ratio(row.native_seconds, row.seconds)
        numbers = short(row.error), short(row.native_error), f"{times(speed)}x" if speed else "-"
        cells.append((name, norm, array, *numbers, "kept" if row.kept else MISSED))
        above = row
    return cells


RIGHT = range(2, 6)  # the columns of numbers


PROMISES = {
    "float16": "one last place of the result in float16",
    "float32": f"{short(ERROR, 0)} in float32, times the largest result / {UNIT:g} where that is above 1",
    "float64": "1e-14 times 1 + the largest result in float64, or four last places of x",
}
GRADIENT_PROMISES = {
    "float16": f"one last place of the gradient in float16, or {short(ERROR, 0)}",
    "float32": f"{short(ERROR, 0)} in float32",
    "float64": "2e-14 in float64, or four last places of x",
}


def legend(report: Report) -> list[str]:
    """Return what the columns mean, what is promised, and what went wrong."""
    lines = [
        "error: the largest distance from the result in float64.",
        "native: that of the norm which the library stands beside, above.",
        "speed: the native norm's time over ours, so above 1x ours is faster.",
    ]
    if report.gradients:
        of = "All is of the gradient of x, the errors in units of the largest. The native one is by the library's own"
        lines.append(f"{of} differentiation; where there is none, by the textbook's closed form.")
    if report.data.file:
        dtypes = sorted({row.dtype for row in report.rows if row.dtype})
        promises = GRADIENT_PROMISES if report.gradients else PROMISES
        lines += [f"promise: an error of at most {promises[dtype]}." for dtype in dtypes]
    else:
        near = f"an error of at most {short(ERROR, 0)}; at offset 0 at most {short(DIFFERENCE, 0)} from the native norm"
        lines.append(f"promise: {near}; elsewhere no larger an error than the native norm's, but for the last digit.")
    return lines + notes(report.rows)


def notes(rows: list[Row]) -> list[str]:
    """Return what was raised, once for all the norms of a library that raised the same."""
    norms: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row.note:
            norms.setdefault((row.library, row.note), {})[row.norm] = None
    return [f"{library}, {', '.join(names)}: {note}" for (library, note), names in norms.items()]
