"""The command line, anynorm or python -m anynorm: what the library is worth on this machine.

`check` runs every norm, or its gradient, on every array library that is installed, and sets its errors beside those of
the native norms.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import anynorm
from anynorm._engines import problems
from anynorm._engines.choice import choice
from anynorm._report import at_once, say, watched
from anynorm.testing import _reference as reference

from .check import measure
from .data import asked_for, noise
from .findings import Report, as_json, show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHECK = """\
Run every norm on every array library that is installed, and print its largest
error against float64 beside that of the library's native norm: those of
torch.nn.functional, of flax.linen with the use_fast_variance of its default
or, without Flax, of jax.nn; elsewhere the textbook formula,
(x - mean(x)) / sqrt(var(x) + eps) in the library's own mean and variance.
The last sentence says how layer norm compares."""

DETAILS = """\
what is promised:
  Without --input the norms run on float32 data of standard deviation 1 around
  0 and around 1e4, the offset. The error is to stay within 2e-6, at offset 0
  the difference from the native norm within 1e-5, and at 1e4 ours is never to
  be the worse of the two by more than one last place of the largest result.
  With --input the error is to stay
    in float16  within one last place of the result,
    in float32  within 2e-6, times the largest result / 8 where that is above 1,
    in float64  within 1e-14 times 1 + the largest result, or four last places
                of x, whichever is more.
  With --gradients all this holds of the gradient of x, by the pullbacks of
  anynorm.vjp, in units of the largest gradient. The native gradient is torch's
  or JAX's own; elsewhere the textbook's closed form.
  No time is promised. It is the least of up to 20 calls, each until NumPy has
  the result.
  With --compiled the calls of torch and JAX are compiled, ours and the native
  ones alike, which takes some seconds; other libraries run as they do.
  Integers become each library's default float. JAX computes float64 only with
  JAX_ENABLE_X64=1 in the environment.

with --norm:
  MODULE:FUNCTION takes an array of shape (N, C, *S) and returns it normalised,
  with eps 1e-5 and without weight and bias. It is to be --as layer (over all
  axes but the first), "last axis", rms, group (8 groups of 16 channels),
  instance or batch. It runs on eight kinds of data and a constant, on every
  library that can be used, or on each --library. A row shows what was worst.
  --gradients, --compiled and --json go with it.

exit status:
  0  every promise is kept
  1  a promise is missed
  2  the arguments, the file, or ANYNORM_ENGINE or ANYNORM_NUM_THREADS in the
     environment are no good, there is no NumPy to measure with, or the report
     cannot be written (that a reader such as head leaves early is no error)

--json prints one object:
  anynorm    the version
  kept       whether every promise is kept
  summary    the sentences that the report ends in
  gradients  whether the rows are of gradients
  compiled   whether they are of compiled calls
  data       file (null: generated), dtype, shape, channel_axis
  libraries  of each: name, version, problem (null: usable), native (what it is
             compared with)
  engines    of each that is installed but cannot be used, by its name: what is
             wrong with it, and how to mend it
  rows       of each library, norm and array: library, norm, offset (null:
             --input), dtype (the result's), error, bound (promised for the
             error), native_error, difference (between the two), kept, engine
             (that ran: "numba", "gpu", "jax", "array-api"; null: code of
             torch's compiler), seconds and native_seconds (that a call takes),
             note (what was raised, or which limit x met, or null). Numbers
             that are not finite, or not to be had, are null.
  With --norm it has norm, kept, and findings: of each library, use and kind of
  data its error, bound, native_error, kept and note, as above.

examples:
  anynorm check
  anynorm check --input photographs.npy --channel-axis -1
  anynorm check --gradients --compiled
  anynorm check --norm mine:norm --as group --library torch
  anynorm check --json | python -m json.tool"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, write all that it printed at once, and return the exit status."""
    return at_once(partial(run, argv))


def run(argv: Sequence[str] | None) -> int:
    """Run a command, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="anynorm", description="Batch, layer, instance and group norm for the arrays of any library."
    )
    parser.add_argument("--version", action="version", version=f"anynorm {anynorm.__version__}")
    parser.set_defaults(run=None)
    add_check(parser.add_subparsers(title="commands", metavar="COMMAND"))
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return 0
    status: int = arguments.run(arguments)
    return status


def add_check(commands: Any) -> None:
    """Add the parser of `check`."""
    parser = commands.add_parser(
        "check",
        help="which libraries are usable, and how far every norm is from float64",
        description=CHECK,
        epilog=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gradients", action="store_true", help="measure the gradients of the norms in their place")
    parser.add_argument("--compiled", action="store_true", help="measure calls by torch.compile and under jax.jit")
    parser.add_argument("--json", action="store_true", help="print one JSON object, described below, and nothing else")
    parser.add_argument("--input", metavar="FILE.npy", help="run on this array of real numbers, of rank 2 or more")
    parser.add_argument("--channel-axis", type=int, metavar="AXIS", help="where --input has its channels (default: 1)")
    parser.add_argument("--norm", metavar="MODULE:FUNCTION", help="check this norm of your own in place of ours")
    parser.add_argument("--as", dest="kind", metavar="NORM", help="what it is to be (default: layer); see --norm below")
    parser.add_argument("--library", action="append", metavar="NAME", help="with --norm: check it on this one alone")
    parser.set_defaults(run=lambda arguments: run_check(arguments, parser.error))


def run_check(arguments: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> int:
    """Measure, report, and return the exit status."""
    try:
        choice()
    except (ImportError, ValueError) as error:  # what the environment must not hold
        refuse(str(error))
    if arguments.norm is not None:
        return run_check_of(arguments, refuse)
    if arguments.kind or arguments.library:
        refuse("--as and --library say what --norm is, and where it runs: give --norm, too")
    numpy = reference.find("numpy")
    if numpy.problem:
        refuse(f"the check measures everything with NumPy, which is {numpy.problem}")
    try:
        data = asked_for(numpy.xp, arguments.input, arguments.channel_axis)
    except ValueError as error:
        refuse(str(error))
    libraries = [reference.find(name) for name in watched(tuple(reference.LIBRARIES), "importing {}".format)]
    usable = [found for found in libraries if not found.problem]
    arrays = [(offset, x, noise(numpy.xp, x) if arguments.gradients else None) for offset, x in data.arrays]
    jobs = [(found, norm, *array) for found in usable for norm in reference.NORMS for array in arrays]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report says what has come of it
        progress = watched(jobs, lambda job: f"{job[0].name}: {job[1]} norm")
        rows = [measure(numpy.xp, *job, compiled=arguments.compiled) for job in progress]
    report = Report(data, arguments.gradients, arguments.compiled, libraries, rows, problems())
    if arguments.json:
        print(as_json(report))
    else:
        show(report)
    return 1 if report.missed else 0


def run_check_of(arguments: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> int:
    """Check a norm of somebody's own, report, and return the exit status."""
    from anynorm.testing import check_norm

    if arguments.input or arguments.channel_axis is not None:
        refuse("--norm makes its own data: leave --input and --channel-axis out")
    module, _, name = arguments.norm.partition(":")
    try:
        function = getattr(import_module(module), name)
    except Exception as error:  # whatever a module raises that is being imported
        refuse(f"--norm needs MODULE:FUNCTION, to be imported from here: {arguments.norm} is none ({say(error)})")
    libraries, gradients = arguments.library, arguments.gradients
    try:
        found = check_norm(
            function, arguments.kind or "layer", libraries=libraries, gradients=gradients, compiled=arguments.compiled
        )
    except ValueError as error:
        refuse(str(error))
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=2, allow_nan=False))
    else:
        print(found)
    return 0 if found.kept else 1
