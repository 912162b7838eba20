"""python -m anynorm bench: how fast every norm is beside a copy, the native norm, the textbook and onnxruntime.

`_bench_cases.py` says what is timed, and times it; `_bench_revisions.py` compares two revisions. This module holds the
figures to reach, the tables, the plot and the command.
"""

# ruff: noqa: T201, BLE001 (it prints, and broken installations raise anything)

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from importlib import import_module
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import anynorm

from . import _bench_cases as bench
from . import _bench_revisions as revisions
from ._bench_cases import IMAGES, TINY, TOKENS, Case, last
from ._engines import watch
from ._install import install
from ._report import MISSED, Table, say, show, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from ._bench_revisions import Compared

RATIOS = (("native", "anynorm"), ("textbook", "anynorm"), ("onnxruntime", "anynorm"), ("anynorm", "copy"))
TIMED = ("anynorm", "native", "textbook", "onnxruntime", "copy")
COUNTED = ("anynorm", "textbook")

QUICK_ROUNDS, QUICK_BYTES = 3, 8_000_000

# --------------------------------------------------------------------------------------------------
# One case
# --------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What a case took."""

    case: Case
    seconds: Mapping[str, float] = {}  # the medians, of every call
    extra: Mapping[str, int | None] = {}  # bytes of memory besides the result; None where it cannot be known
    noise: float | None = None  # by how much the medians of two copies differ
    rounds: int = 0
    engines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def ratio(self, slow: str, fast: str) -> float | None:
        """Return how many times as long the one takes as the other."""
        known = slow in self.seconds and fast in self.seconds
        return self.seconds[slow] / self.seconds[fast] if known else None


def measure(case: Case, rounds: int | None) -> Result:
    """Time everything that competes in a case."""
    given = bench.draw(case)
    others, missing = bench.rivals(case, given)
    calls = {"anynorm": bench.ours(case, given), **others}
    with bench.threads(case):
        with watch() as engines:
            failed = attempted(calls["anynorm"])
        if failed:
            return Result(case, notes=(f"{case.name}: anynorm fails: {failed}",))
        times, failures = bench.race(calls, rounds)
        extra = {name: bench.extra_bytes(calls[name]) for name in counted(case.library, engines) if name in times}
    refused = (f"{case.name}: {name} fails: {problem}" for name, problem in failures.items())
    medians = {name: statistics.median(of) for name, of in times.items()}
    noise = abs(medians["copy"] / medians.pop("copy again") - 1)
    notes = (*missing, *refused)
    return Result(case, medians, extra, noise, len(times["copy"]), tuple(sorted(engines)), notes)


def counted(library: str, engines: Collection[str]) -> tuple[str, ...]:
    """Return the calls whose memory NumPy takes, which says so: on torch, those that end in its engine."""
    return {"numpy": COUNTED, "torch": ("anynorm",) if "numba" in engines else ()}.get(library, ())


def attempted(call: Callable[[], Any]) -> str | None:
    """Return what a call raises, in one line."""
    try:
        call()
    except Exception as error:
        return say(error)
    return None


# --------------------------------------------------------------------------------------------------
# The figures to reach
# --------------------------------------------------------------------------------------------------


class Figure(NamedTuple):
    """A ratio of two medians that is wished for: at least, where anynorm is below the line; at most, where above."""

    case: Case
    above: str
    below: str
    wished: float

    @property
    def ratio(self) -> str:
        """What is measured."""
        return f"{self.above} / {self.below}"

    def reached(self, measured: float) -> bool:
        """Whether what was measured is what is wished."""
        return measured >= self.wished if self.below == "anynorm" else measured <= self.wished


EXTRA, EXTRA_BYTES = "extra bytes", 1_000_000  # that a fused call may take besides its result


def figures() -> Iterator[Figure]:
    """Yield the figures to reach: on two cores, in float32, with all threads."""
    for library in ("numpy", "torch"):
        images = IMAGES if library == "torch" else last(IMAGES)
        yield from beside(Case(library, "batch", IMAGES), 4, 1.2)
        yield from beside(Case(library, "batch", images, layout="last"), 1.3, 1.4)
        yield from beside(Case(library, "instance", IMAGES), 4, 1.2)
        yield from beside(Case(library, "group", IMAGES), 1, 1.2)
        yield from beside(Case(library, "layer", TOKENS), 1.2, 1.2)
        yield from beside(Case(library, "layer", IMAGES), 2, 1.2)
        yield from beside(Case(library, "rms", TOKENS), 2, 1.2)
    for norm in ("batch", "instance"):
        yield Figure(Case("torch", norm, IMAGES, work="both"), "native", "anynorm", 2)
    yield Figure(Case("numpy", "layer", TINY), "textbook", "anynorm", 1)
    for case in bench.cases("jax"):
        if case.mode == "eager" and case.work == "forward":
            yield Figure(case, "native", "anynorm", 4)
    for case in bench.cases("jax"):
        if case.mode == "jit" and case.dtype == "float32" and case.shape in (last(IMAGES), TOKENS):
            yield Figure(case, "anynorm", "native", 1.15)


def beside(case: Case, native: float, copy: float) -> Iterator[Figure]:
    """Yield how many times faster than the native norm a case is to be, and as how many copies."""
    yield Figure(case, "native", "anynorm", native)
    yield Figure(case, "anynorm", "copy", copy)


class Reached(NamedTuple):
    """A figure, and what was measured."""

    case: str
    figure: str = ""
    wished: str = ""
    measured: float | None = None
    noise: float | None = None
    reached: bool | None = None  # None: not measured


def held(results: Sequence[Result]) -> list[Reached]:
    """Return every figure of the libraries that ran, and what was measured."""
    found = {result.case: result for result in results}
    libraries = {result.case.library for result in results}
    asked = [figure for figure in figures() if figure.case.library in libraries]
    rows = []
    for figure in asked:
        result = found.get(figure.case)
        measured = result.ratio(figure.above, figure.below) if result else None
        wished = f"at {'least' if figure.below == 'anynorm' else 'most'} {figure.wished:g}"
        reached = None if measured is None else figure.reached(measured)
        noise = result.noise if result else None
        rows.append(Reached(figure.case.name, figure.ratio, wished, measured, noise, reached))
    for library in sorted(libraries - {"jax"}):
        fused = [figure.case for figure in asked if figure.above == "native" and figure.case.work == "forward"]
        rows.append(taken(library, [found[case] for case in fused if case in found and case.library == library]))
    return sorted(rows, key=lambda row: bench.LIBRARIES.index(row.case.split()[0]))


def taken(library: str, results: Iterable[Result]) -> Reached:
    """Return the figure of the extra memory of a library's calls."""
    known = [count for result in results if (count := result.extra.get("anynorm")) is not None]
    most = max(known, default=None)
    reached = None if most is None else most < EXTRA_BYTES
    name = f"{library} the forward calls above, at most"
    return Reached(name, EXTRA, f"below {size(EXTRA_BYTES)}", most, None, reached)


# --------------------------------------------------------------------------------------------------
# The report
# --------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return what the figures are measured on, and how busy it is before."""
    packages = ("numpy", "torch", "jax", "flax", "numba", "onnxruntime")
    return {
        "cpu": processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := version(name))},
        "engines": [],
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "threads": os.environ.get("ANYNORM_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or str(cores()),
    }


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def cores() -> int:
    """Return how many cores the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(name: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return version_of(name)
    except Exception:  # a broken installation raises anything
        return None


def on(found: Mapping[str, Any]) -> str:
    """Return the machine in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    engines = f"; engines that ran: {', '.join(found['engines'])}" if found["engines"] else ""
    what = f"{found['cpu']}, cores: {found['cores']}, threads: {found['threads']}, load before: {found['load']}"
    return f"{what}; Python {found['python']}, {versions}{engines}"


class Library(NamedTuple):
    """A library: its version, or what is wrong with it."""

    name: str
    version: str | None = None
    problem: str | None = None


def find(name: str) -> Library:
    """Import a library."""
    try:
        module = import_module(name)
    except ModuleNotFoundError:
        return Library(name, problem=f"not installed ({install(name)})")
    except Exception as error:
        return Library(name, problem=f"installed but broken: {say(error)}")
    return Library(name, str(module.__version__))


def columns(case: Case, above: Case | None) -> tuple[str, ...]:
    """Return the cells that say which case it is; library and norm are left blank where they are those above."""
    library, norm, shape, dtype, layout, work, mode = case
    if above is not None and above.library == library:
        library, norm = "", "" if above.norm == norm else norm
    return library, norm, bench.by(shape), dtype, layout if len(shape) > 2 else "-", work, mode


WHICH = ("library", "norm", "shape", "dtype", "channels", "work", "mode")


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


def times_as_long(ratio: float | None) -> str:
    """Return a ratio with three digits."""
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.1f}" if ratio < 99.95 else f"{ratio:.0f}"


def percent(share: float | None) -> str:
    """Return a share of 1."""
    return "-" if share is None else f"{share:.1%}"


def duration(seconds: float | None) -> str:
    """Return seconds in a unit of three digits at most before the point."""
    if seconds is None:
        return "-"
    unit, factor = next(((u, f) for u, f in (("s", 1), ("ms", 1e3), ("us", 1e6)) if seconds * f >= 1), ("ns", 1e9))
    return f"{times_as_long(seconds * factor)} {unit}"


def size(count: float | None) -> str:
    """Return a number of bytes."""
    if count is None:
        return "-"
    unit, factor = next(((u, f) for u, f in (("MB", 1e6), ("kB", 1e3)) if count >= f), ("B", 1))
    return f"{count / factor:.3g} {unit}"


LEGEND = [
    "native: torch.nn.functional, for NumPy too; of JAX flax.linen. work: forward, or both it and the gradient of x.",
    "mode: with all threads, or one; of JAX eager calls, or under jit. The copy is of x, also where work is both.",
    "noise: by how much two medians of the same copy differ. -: not to be had, or not to be known.",
]


def legend(results: Sequence[Result]) -> list[str]:
    """Return what the columns mean, and what was missing."""
    notes = dict.fromkeys(note for result in results for note in result.notes)
    return [*LEGEND, *notes]


def shown(results: Sequence[Result], libraries: Sequence[Library], where: Mapping[str, Any]) -> None:
    """Print the report."""
    reached = [row.reached for row in held(results)]
    missed, unknown = reached.count(False), reached.count(None)
    verdict = (
        f"{missed} of {len(reached) - unknown} figures {MISSED}" if missed else f"{reached.count(True)} figures reached"
    )
    verdict += f", {unknown} not measured." if unknown else "."
    show([heading(libraries, where), *tables(results), legend(results)], verdict)


def heading(libraries: Sequence[Library], where: Mapping[str, Any]) -> list[str]:
    """Return what was measured, and on what."""
    missing = [f"{library.name:<7}{library.problem}" for library in libraries if library.problem]
    return [f"anynorm {anynorm.__version__} bench", on(where), *missing]


def as_json(results: Sequence[Result], libraries: Sequence[Library], where: Mapping[str, Any]) -> str:
    """Return the structure that the help of the command documents."""
    document = {
        "anynorm": anynorm.__version__,
        "machine": where,
        "libraries": [library._asdict() for library in libraries],
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


# --------------------------------------------------------------------------------------------------
# The plot
# --------------------------------------------------------------------------------------------------

STYLES = {"anynorm": ("C3", "o"), "native": ("C0", "s"), "textbook": ("C1", "^"), "copy": ("0.5", "d")}


def plot(results: Sequence[Result], file: str) -> None:
    """Write the plot to a file."""
    drawn(results).savefig(file, dpi=150)


def drawn(results: Sequence[Result]) -> Any:
    """Return the figure of the time per byte against the size, a panel for each library and norm."""
    figure_module = import_module("matplotlib.figure")
    of = [library for library in ("numpy", "torch") if any(result.case.library == library for result in results)]
    names = {"numpy": "NumPy", "torch": "PyTorch"}
    figure = figure_module.Figure(figsize=(9, 1 + 3.2 * len(of)), layout="constrained")
    panels = figure.subplots(len(of), len(bench.SIZES), sharex=True, sharey=True, squeeze=False)
    for row, library in zip(panels, of, strict=True):
        for panel, norm in zip(row, bench.SIZES, strict=True):
            draw(panel, [result for result in results if result.case in sizes(library, norm)])
            panel.set_title(f"{norm} norm, {names[library]}, float32")
            panel.grid(which="major", alpha=0.3)
        row[0].set_ylabel("nanoseconds a byte of x")
    for panel in panels[-1]:
        panel.set_xlabel("bytes of x")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(STYLES))
    return figure


def sizes(library: str, norm: str) -> list[Case]:
    """Return the cases of a panel."""
    return [case for case in bench.of_sizes(library) if case.norm == norm]


def draw(panel: Any, results: Sequence[Result]) -> None:
    """Draw the lines of a panel."""
    names = {"native": "torch.nn.functional", "textbook": "textbook lines"}
    for name, (colour, marker) in STYLES.items():
        points = sorted((r.case.bytes, r.seconds[name] / r.case.bytes * 1e9) for r in results if name in r.seconds)
        panel.loglog(
            *zip(*points, strict=True) if points else ([], []), color=colour, marker=marker, label=names.get(name, name)
        )


# --------------------------------------------------------------------------------------------------
# Two revisions
# --------------------------------------------------------------------------------------------------

SLOWER = "slower"

REVISIONS_LEGEND = [
    "ours: the anynorm that runs; theirs: the revision, in two processes. noise: the largest of what those two differ",
    "by, three standard errors of the ratio by the scatter of the rounds, and three standard deviations of the ratio",
    "by what those two differ by over all the cases. new: the revision does not do it.",
]


def shown_against(rows: Sequence[Compared], title: Sequence[str]) -> None:
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


def against_as_json(rows: Sequence[Compared], revision: str, commit: str, where: Mapping[str, Any]) -> str:
    """Return the structure that the help of the command documents."""
    document = {
        "anynorm": anynorm.__version__,
        "machine": where,
        "against": {"revision": revision, "commit": commit},
        "slower": sum(row.verdict == SLOWER for row in rows),
        "cases": [{"name": row.case.name, **row._asdict(), "case": row.case._asdict()} for row in rows],
    }
    return json.dumps(document, indent=2, allow_nan=False)


def against(arguments: argparse.Namespace, cases: Sequence[Case], rounds: int | None, commit: str) -> int:
    """Compare with a revision, report, and return the exit status."""
    where = machine()
    rows = revisions.run(commit, watched(cases, lambda case: case.name), rounds)
    if arguments.json:
        print(against_as_json(rows, arguments.against, commit, where))
    else:
        title = f"anynorm {anynorm.__version__} bench, against {arguments.against} ({commit[:12]})"
        shown_against(rows, [title, on(where)])
    return 1 if any(row.verdict in (SLOWER, "failed") for row in rows) else 0


# --------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------

BENCH = """\
Time every norm on NumPy, PyTorch and JAX, forward and with the gradient,
beside a copy of x, the native norm (torch.nn.functional, for NumPy too;
flax.linen for JAX), the textbook's lines and, for layer norm on NumPy,
onnxruntime. Prints the figures to reach, then every ratio, then the times and
the memory. Or compare the anynorm that runs with another revision of it."""

DETAILS = """\
how it is measured:
  Everything that competes in a case runs once a round, in an order that
  changes; a call of less than a millisecond is repeated inside a measurement.
  A ratio is one of two medians over the rounds: of 15, or of at least 5 once a
  case has taken 5 seconds. The noise of a case is by how much two medians of
  the same copy differ. The extra memory is the peak that tracemalloc sees,
  less the result: NumPy's own, which anynorm's is on PyTorch's CPU tensors.

comparing two revisions:
  --against unpacks the sources of a revision from the git checkout here, and
  times both in processes that take turns, the revision's in two. The noise of
  a case is the largest of what those two differ by, three standard errors of
  the ratio by the scatter of the rounds, and three standard deviations of the
  ratio by what those two differ by over all the cases. A case that differs by
  more is slower or faster.

exit status:
  0  it ran: no timing decides anything, but of --against that nothing is slower
  1  with --against, something is slower by more than the noise, or fails
  2  the arguments are no good, there is no NumPy to draw the data with, or the
     report cannot be written (that a reader leaves early is no error)

--json prints one object:
  anynorm    the version
  machine    cpu, cores, python, versions, engines (that ran; not known of
             --against), load (before), threads
  libraries  of each: name, version, problem (null: usable)
  figures    of each: case, figure (what is measured), wished, measured, noise,
             reached (null: not measured)
  cases      of each: name, library, norm, shape, dtype, layout, work, mode,
             bytes (of x), ratios, seconds (the medians), extra (bytes), noise,
             rounds, engines, notes
  with --against, in place of libraries and figures:
  against    revision, commit
  slower     how many cases are slower by more than the noise
  cases      of each: name, case, ours, theirs (the medians, in seconds), ratio,
             apart (what the two processes of the revision differ by), error
             (the standard error of the ratio), noise, verdict (slower, faster,
             same; new: the revision does not do it; failed), note

examples:
  python -m anynorm bench --quick
  python -m anynorm bench --figures
  python -m anynorm bench --library torch --only "batch 32x64x56x56"
  python -m anynorm bench --plot speed.svg
  python -m anynorm bench --against main --only float32"""


def run(arguments: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> int:
    """Measure, report, and return the exit status."""
    numpy = find("numpy")
    if numpy.problem:
        refuse(f"the bench draws its data with NumPy, which is {numpy.problem}")
    try:
        checked(arguments)
        commit = None if arguments.against is None else revisions.commit_of(arguments.against)
        libraries = [find(name) for name in dict.fromkeys(arguments.library or bench.LIBRARIES)]
        cases = chosen(libraries, arguments.only, quick=arguments.quick, figured=arguments.figures)
    except ValueError as error:
        refuse(str(error))
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else None)
    if commit is not None:
        return against(arguments, cases, rounds, commit)
    where = machine()
    results = [measure(case, rounds) for case in watched(cases, lambda case: case.name)]
    where["engines"] = sorted({engine for result in results for engine in result.engines})
    if arguments.plot:
        plot(results, arguments.plot)
    if arguments.json:
        print(as_json(results, libraries, where))
    else:
        shown(results, libraries, where)
    return 0


def checked(arguments: argparse.Namespace) -> None:
    """Refuse, with a ValueError, what argparse lets through."""
    if arguments.plot is None:
        return
    if arguments.against is not None:
        message = "--plot draws the times of one revision, and --against compares two: give one of them"
        raise ValueError(message)
    file = Path(arguments.plot)
    if file.suffix not in (".svg", ".png") or not file.absolute().parent.is_dir():
        message = f"--plot needs a file that ends in .svg or .png, in a folder that is there: got {arguments.plot}"
        raise ValueError(message)
    if version("matplotlib") is None:
        message = "--plot needs matplotlib, which is not installed: pip install matplotlib"
        raise ValueError(message)


def chosen(libraries: Iterable[Library], only: str | None, *, quick: bool, figured: bool = False) -> list[Case]:
    """Return the cases that the arguments ask for."""
    usable = [case for library in libraries if not library.problem for case in bench.cases(library.name)]
    to_reach = {figure.case for figure in figures()}
    cases = [
        case for case in usable if not (quick and case.bytes > QUICK_BYTES) and not (figured and case not in to_reach)
    ]
    matching = [case for case in cases if only is None or only in case.name]
    if cases and not matching:
        message = f"--only needs text that is in the name of a case, such as {cases[0].name!r}: got {only!r}"
        raise ValueError(message)
    return matching


def positive(text: str) -> int:
    """Return a number of rounds."""
    if not text.isdigit() or int(text) < 1:
        message = f"needs a positive whole number: got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def add_bench(commands: Any) -> None:
    """Add the parser of `bench`."""
    parser = commands.add_parser(
        "bench",
        help="how fast every norm is, beside a copy and the native norms",
        description=BENCH,
        epilog=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--library",
        action="append",
        choices=bench.LIBRARIES,
        help="time this library; may be repeated (default: all that are installed)",
    )
    parser.add_argument("--only", metavar="TEXT", help="time the cases alone whose name contains this")
    parser.add_argument(
        "--figures", action="store_true", help="time the cases alone that there is a figure to reach for"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, and no array above 8 MB: a smoke test")
    parser.add_argument("--rounds", type=positive, metavar="N", help="how many rounds a case has")
    parser.add_argument("--json", action="store_true", help="print one JSON object, described below, and nothing else")
    parser.add_argument("--plot", metavar="FILE", help="draw the time per byte against the size: .svg or .png")
    parser.add_argument("--against", metavar="REVISION", help="compare with this revision of the git checkout here")
    parser.set_defaults(run=lambda arguments: run(arguments, parser.error))
