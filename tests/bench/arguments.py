"""What can be asked for, and what is refused."""

from __future__ import annotations

import argparse
from pathlib import Path

from .cases import LIBRARIES
from .machine import version

BENCH = """\
Time every norm on NumPy, PyTorch and JAX, forward and with the gradient,
beside a copy of x, the native norm (torch.nn.functional, for NumPy too;
flax.linen for JAX), the textbook's lines and, for layer norm on NumPy,
onnxruntime; with a mask, beside the same call without. Prints the figures to
reach, then every ratio, then the times and the memory. Or compare the anynorm
that runs with another revision of it."""

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
  2  the arguments are no good, a --library or the NumPy to draw the data with
     is missing, or the report cannot be written (that a reader leaves early is
     no error)

--json prints one object:
  anynorm    the version
  machine    cpu, cores, python, versions, engines (that ran; not known of
             --against), load (before), threads
  libraries  of each: name, version, problem (null: usable)
  figures    of each: case, figure (what is measured), wished, measured, noise,
             reached (null: not measured)
  cases      of each: name, library, norm, shape, dtype, layout, work, mode,
             given (besides x), bytes (of x), ratios, seconds (the medians),
             extra (bytes), noise, rounds, engines, notes
  with --against, in place of libraries and figures:
  against    revision, commit
  slower     how many cases are slower by more than the noise
  cases      of each: name, case, ours, theirs (the medians, in seconds), ratio,
             apart (what the two processes of the revision differ by), error
             (the standard error of the ratio), noise, verdict (slower, faster,
             same; new: the revision does not do it; failed), note

examples:
  python -m nox -s bench -- --quick
  python -m nox -s bench -- --figures
  python -m nox -s bench -- --library torch --only "batch 32x64x56x56"
  python -m nox -s bench -- --plot speed.svg
  python -m nox -s bench -- --against main --only float32"""


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    found = argparse.ArgumentParser(
        prog="python -m nox -s bench --",
        description=BENCH,
        epilog=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "--library",
        action="append",
        choices=LIBRARIES,
        help="time this library; may be repeated (default: all that are installed)",
    )
    found.add_argument("--only", metavar="TEXT", help="time the cases alone whose name contains this")
    found.add_argument(
        "--figures", action="store_true", help="time the cases alone that there is a figure to reach for"
    )
    found.add_argument("--quick", action="store_true", help="few rounds, and no array above 8 MB: a smoke test")
    found.add_argument("--rounds", type=positive, metavar="N", help="how many rounds a case has")
    found.add_argument("--json", action="store_true", help="print one JSON object, described below, and nothing else")
    found.add_argument("--plot", metavar="FILE", help="draw the time per byte against the size: .svg or .png")
    found.add_argument("--against", metavar="REVISION", help="compare with this revision of the git checkout here")
    return found


def positive(text: str) -> int:
    """Return a number of rounds."""
    if not text.isdigit() or int(text) < 1:
        message = f"needs a positive whole number: got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


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
