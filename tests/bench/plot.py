"""The plot: the time per byte against the size."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .cases import SIZES, of_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cases import Case
    from .results import Result

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
    panels = figure.subplots(len(of), len(SIZES), sharex=True, sharey=True, squeeze=False)
    for row, library in zip(panels, of, strict=True):
        for panel, norm in zip(row, SIZES, strict=True):
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
    return [case for case in of_sizes(library) if case.norm == norm]


def draw(panel: Any, results: Sequence[Result]) -> None:
    """Draw the lines of a panel."""
    names = {"native": "torch.nn.functional", "textbook": "textbook lines"}
    for name, (colour, marker) in STYLES.items():
        points = sorted((r.case.bytes, r.seconds[name] / r.case.bytes * 1e9) for r in results if name in r.seconds)
        panel.loglog(
            *zip(*points, strict=True) if points else ([], []), color=colour, marker=marker, label=names.get(name, name)
        )
