"""How a command prints what it found: with Rich where it is installed, and without."""

from __future__ import annotations

import io
import math
import os
import sys
from contextlib import redirect_stdout, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

MISSED = "MISSED"


class Table(NamedTuple):
    """Rows of cells, the titles first, and which columns are of numbers."""

    cells: list[tuple[str, ...]]
    right: Collection[int]

    @property
    def widths(self) -> list[int]:
        """How wide every column is."""
        return [max(map(len, column)) for column in zip(*self.cells, strict=True)]

    @property
    def width(self) -> int:
        """How wide it is, with two blanks between columns."""
        return sum(self.widths) + 2 * len(self.widths) - 2


def show(parts: Sequence[list[str] | Table], verdict: str, bad: str = MISSED) -> None:
    """Print lines and tables, and the verdict last; what is bad stands out where there is colour."""
    if installed("rich"):
        show_rich(parts, verdict, bad)
    else:
        show_plain(parts, verdict)


def show_plain(parts: Sequence[list[str] | Table], verdict: str) -> None:
    """Print where Rich is not installed."""
    blocks = (drawn(part) if isinstance(part, Table) else part for part in parts)
    print("\n\n".join(["\n".join(block) for block in blocks] + [verdict]))


def drawn(table: Table) -> list[str]:
    """Return the lines of a table."""
    pads = [str.rjust if i in table.right else str.ljust for i in range(len(table.widths))]
    lines = []
    for row in table.cells:
        padded = (pad(cell, width) for pad, cell, width in zip(pads, row, table.widths, strict=True))
        lines.append("  ".join(padded).rstrip())
    return [lines[0], "-" * table.width, *lines[1:]]


def show_rich(parts: Sequence[list[str] | Table], verdict: str, bad: str) -> None:
    """Print with Rich."""
    # What is printed is held until the command ends; the colours are those of where it goes then. [torch] is no markup.
    console = import_module("rich.console").Console(file=sys.__stdout__, highlight=False, markup=False)
    console.width = max(console.width, *(part.width for part in parts if isinstance(part, Table)))  # no cell is cut
    with console.capture() as said:
        for part in parts:
            if isinstance(part, Table):
                console.print(grid(part, bad))
                console.print()
            else:
                console.print("\n".join([*part, ""]), soft_wrap=True)
        console.print(verdict, style="bold red" if bad in verdict else "bold", soft_wrap=True)
    print(said.get(), end="")


def grid(table: Table, bad: str) -> Any:
    """Return a table as Rich's, with a gap above every row whose first cell says something."""
    box, rich_table, text = (import_module(f"rich.{name}") for name in ("box", "table", "text"))
    rows = rich_table.Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for i, title in enumerate(table.cells[0]):
        rows.add_column(title, justify="right" if i in table.right else "left", no_wrap=True)
    for row in table.cells[1:]:
        if row[0] and rows.row_count:
            rows.add_section()
        rows.add_row(*(text.Text(cell, style="bold red" if cell == bad else "") for cell in row))
    return rows


def at_once(command: Callable[[], int]) -> int:
    """Run a command, write all that it printed at once, and return its exit status."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            return command()
    finally:  # also where argparse exits, after the help
        write(printed.getvalue())


def write(text: str) -> None:
    """Write to standard output: a reader that has left misses nothing, and anything else that fails is status 2."""
    try:
        print(text, end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python tries to write it again as it ends
        if not isinstance(error, BrokenPipeError):
            with suppress(OSError):  # standard error may be full, too
                print(f"anynorm: cannot write the report: {error.strerror}", file=sys.stderr)
            raise SystemExit(2) from None


def installed(name: str) -> bool:
    """Whether a module that is not needed can be imported."""
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def say(error: Exception) -> str:
    """Return an exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def watched(items: Sequence[Any], describe: Callable[[Any], str]) -> Iterator[Any]:
    """Yield the items one by one, behind a progress bar where somebody watches."""
    if not (sys.stderr.isatty() and installed("rich")):
        yield from items
        return
    console = import_module("rich.console").Console(stderr=True)
    with import_module("rich.progress").Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=len(items))
        for item in items:
            bar.update(task, description=describe(item))
            yield item
            bar.advance(task)


def short(number: float | None, decimals: int = 1) -> str:
    """Return a number as 1.5e-7, without zeros in its exponent."""
    if number is None or number == 0 or not math.isfinite(number):
        return "-" if number is None else f"{number:g}"
    digits, exponent = f"{number:.{decimals}e}".split("e")
    return f"{digits}e{int(exponent)}" if int(exponent) else digits


def finite(number: float | None) -> float | None:
    """Return a number as JSON has it, which knows no NaN and no infinity."""
    return number if number is not None and math.isfinite(number) else None
