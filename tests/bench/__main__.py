"""python -m bench, with the tests on the path: what to time, and how to say it. `nox -s bench` runs it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anynorm
from anynorm._report import at_once, watched
from anynorm.testing import _reference as reference

from . import comparison, revisions
from .arguments import checked, parser
from .cases import LIBRARIES, cases_of
from .figures import figures
from .machine import machine, on
from .plot import plot
from .report import as_json, shown
from .results import measure

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from anynorm.testing._reference import Found

    from .cases import Case

QUICK_ROUNDS, QUICK_BYTES = 3, 8_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, write all that it printed at once, and return the exit status."""
    return at_once(partial(run, argv))


def run(argv: Sequence[str] | None) -> int:
    """Measure, report, and return the exit status."""
    reader = parser()
    arguments = reader.parse_args(argv)
    numpy = reference.find("numpy")
    if numpy.problem:
        reader.error(f"the bench draws its data with NumPy, which is {numpy.problem}")
    try:
        checked(arguments)
        commit = None if arguments.against is None else revisions.commit_of(arguments.against)
        libraries = found(arguments.library)
        cases = chosen(libraries, arguments.only, quick=arguments.quick, figured=arguments.figures)
    except ValueError as error:
        reader.error(str(error))
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


def found(asked: Sequence[str] | None) -> list[Found]:
    """Return the libraries asked for, which have to be usable, or all."""
    libraries = [reference.find(name) for name in dict.fromkeys(asked or LIBRARIES)]
    if asked and (problems := [f"{library.name} is {library.problem}" for library in libraries if library.problem]):
        message = f"--library needs libraries that can be used: {'; '.join(problems)}"
        raise ValueError(message)
    return libraries


def chosen(libraries: Iterable[Found], only: str | None, *, quick: bool, figured: bool = False) -> list[Case]:
    """Return the cases that the arguments ask for."""
    usable = [case for library in libraries if not library.problem for case in cases_of(library.name)]
    to_reach = {figure.case for figure in figures()}
    cases = [
        case for case in usable if not (quick and case.bytes > QUICK_BYTES) and not (figured and case not in to_reach)
    ]
    matching = [case for case in cases if only is None or only in case.name]
    if cases and not matching:
        message = f"--only needs text that is in the name of a case, such as {cases[0].name!r}: got {only!r}"
        raise ValueError(message)
    return matching


def against(arguments: argparse.Namespace, cases: Sequence[Case], rounds: int | None, commit: str) -> int:
    """Compare with a revision, report, and return the exit status."""
    where = machine()
    rows = revisions.run(commit, watched(cases, lambda case: case.name), rounds)
    if arguments.json:
        print(comparison.as_json(rows, arguments.against, commit, where))
    else:
        title = f"anynorm {anynorm.__version__} bench, against {arguments.against} ({commit[:12]})"
        comparison.shown(rows, [title, on(where)])
    return 1 if any(row.verdict in (comparison.SLOWER, "failed") for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
