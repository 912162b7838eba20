"""The tables of figures to reach, of what `bench --figures --json` printed in several runs."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from bench.cases import TINY, TINY_IMAGES
from bench.figures import figures
from bench.units import size

from . import README, Claim, rows_of, standing, table, text, title

if TYPE_CHECKING:
    from bench.cases import Case
    from bench.figures import Figure

PAGE = "docs/guide/speed.md"
TABLES = LARGE, AFFINE, TEXTBOOK, MASKED, COMPILED, EAGER, JITTED = (
    "large arrays",
    "weight and bias",
    "compared with the textbook",
    "masks",
    "compiled by PyTorch",
    "JAX, eager",
    "JAX, jitted",
)
WORK = {"forward": "forward", "both": "forward and backward"}
GIVEN = {
    "nothing": "",
    "affine": "",
    "stats": ", by given statistics",
    "train": ", a step of training",
    "mask": ", a mask that broadcasts",
    "full mask": ", a full mask",
}


def drawn(*runs: dict[str, Any]) -> dict[str, str]:
    """Return the tables, of the median of the runs, and what they were measured with."""
    rows = [row for run in runs for row in run["figures"]]
    measured: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        measured.setdefault((row["case"], row["figure"]), []).append(row["measured"])
    tables: dict[str, dict[str, dict[str, str]]] = {name: {} for name in TABLES}
    for figure in figures():
        name, row, column = place(figure)
        number = median(measured[figure.case.name, figure.ratio])
        tables[name].setdefault(row, {})[column] = f"{number:.1f} ({figure.wished:g})"
    most = max(row["measured"] for row in rows if row["figure"] == "extra bytes")
    where = runs[0]["machine"]
    versions = [f"{title(name)} {version.partition('+')[0]}" for name, version in where["versions"].items()]
    memory = f"Besides their results the calls of NumPy and PyTorch took {size(most)} at most (1 MB)."
    machine = f"{where['cpu']}, {where['cores']} cores; Python {where['python']}, {', '.join(versions)}."
    parts = [*(laid_out(name, rows) for name, rows in tables.items()), f"{memory} {machine}"]
    return {PAGE: "\n\n".join(parts)}


def laid_out(name: str, rows: dict[str, dict[str, str]]) -> str:
    """Return a table of rows of cells."""
    columns = [*dict.fromkeys(column for cells in rows.values() for column in cells)]
    return table(
        [(name, *columns), *((row, *(cells.get(column, "") for column in columns)) for row, cells in rows.items())]
    )


def place(figure: Figure) -> tuple[str, str, str]:
    """Return the table, the row and the column of a figure."""
    case, ratio, what = figure.case, figure.ratio, of(figure.case)
    if case.library == "jax":
        return EAGER if case.mode == "eager" else JITTED, what, f"{ratio.replace('native', 'Flax')}, {WORK[case.work]}"
    if case.mode == "compiled":
        return COMPILED, what, f"{ratio}, {WORK[case.work]}"
    row, column = f"{what}{GIVEN[case.given]}", f"{ratio}, {title(case.library)}"
    if case.work == "both":
        row += f", {WORK['both']}"
    if case.masked:
        return MASKED, row, column.replace("anynorm", "masked")
    if "textbook" in ratio:
        return TEXTBOOK, row, column
    return AFFINE if figure.below == "native" else LARGE, row, column


def of(case: Case) -> str:
    """Return what is normalised, whichever library's and wherever its channels are."""
    shape = case.shape
    if case.channel_axis == -1:
        shape = (shape[0], shape[-1], *shape[1:-1])
    over = " over C, H and W" if case.norm == "layer" and len(shape) > 2 else ""
    return f"{case.norm}{over} {shape}{', channels last' if case.layout == 'last' else ''}"


def ratios(drawn: str) -> dict[tuple[str, str, str], float]:
    """Return what was measured for each table, row and column."""
    found, head = {}, [""]
    for row, *cells in rows_of(drawn):
        if row in TABLES:
            head = [row, *cells]
            continue
        for column, cell in zip(head[1:], cells, strict=True):
            if cell:
                found[head[0], row, column] = float(cell.split()[0])
    return found


def claims() -> list[Claim]:
    """Return how fast the norms are said to be beside the native ones: of large arrays, and of small ones."""
    large, small = [], []
    for (name, row, column), ratio in ratios(standing(text(PAGE), "speed")).items():
        if name == LARGE and column.startswith("native / anynorm"):
            large.append(ratio)
        elif name == AFFINE:
            is_small = any(str(shape) in row for shape in (TINY, TINY_IMAGES))
            small.append(ratio) if is_small else large.append(1 / ratio)
    numbers = [f"{number:.1f}" for found in (large, small) for number in (min(found), max(found))]
    english = (
        "norms of large arrays ran {} to {} times as fast as the native ones; small calls took {} to {} times as long"
    )
    page, of_large, of_small = (
        "docs/zh/index.md",
        "大数组上的速度是原生实现的 {} 到 {} 倍",
        "单次调用耗时是原生的 {} 到 {} 倍",
    )
    chinese = [Claim(page, of_large, numbers[:2]), Claim(page, of_small, numbers[2:])]
    return [Claim(README, english, numbers), Claim("docs/faq.md", english, numbers), *chinese]
