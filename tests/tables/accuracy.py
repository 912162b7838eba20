"""The tables of errors, of what `check --json` printed, and `check --gradients --json`."""

from __future__ import annotations

from typing import Any

from anynorm._report import short

from . import README, Claim, rows_of, standing, table, text, title

GRADIENTS = "docs/guide/gradients.md"
COLUMNS = {
    "numpy": "NumPy / textbook",
    "jax": "JAX / Flax",
    "torch": "PyTorch / `torch.nn.functional`",
    "dask": "Dask / textbook",
}
NORMS = ("layer", "rms", "group", "instance", "batch")
OFFSETS = {0.0: "0", 1e4: "1e4"}


def drawn(found: dict[str, Any]) -> dict[str, str]:
    """Return the table, and the versions that it was measured with."""
    measured = {(row["library"], row["norm"], row["offset"]): row for row in found["rows"]}
    rows = [("norm", "offset", *COLUMNS.values())]
    for norm in NORMS:
        for offset, said in OFFSETS.items():
            cells = [measured[library, norm, offset] for library in COLUMNS]
            errors = [f"{short(cell['error'])} / {short(cell['native_error'])}" for cell in cells]
            rows.append(("" if offset else norm, said, *errors))
    libraries = {one["name"]: one for one in found["libraries"]}
    versions = [f"{title(name)} {libraries[name]['version'].partition('+')[0]}" for name in COLUMNS]
    flax = libraries["jax"]["native"].replace("flax.linen", "Flax")
    return {
        GRADIENTS if found["gradients"] else README: f"{table(rows)}\n\n{', '.join(versions)} and {flax}, on a CPU."
    }


def errors(drawn: str) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Return our error and the native one for each norm, offset and column of the table."""
    head, *rows = rows_of(drawn)
    found, norm = {}, ""
    for first, offset, *pairs in rows:
        norm = first or norm
        for column, pair in zip(head[2:], pairs, strict=True):
            ours, native = map(float, pair.split(" / "))
            found[norm, offset, column] = ours, native
    return found


def claims() -> list[Claim]:
    """Return what is said of the native norms but RMS norm, which has no mean to lose, at an offset of 1e4."""
    native = [
        native
        for (norm, offset, _), (_, native) in errors(standing(text(README), "accuracy")).items()
        if offset == "1e4" and norm != "rms"
    ]
    least, most = short(min(native)).replace(".0e", "e"), short(max(native))
    return [
        Claim(README, "layer, instance and group norms were measured to err by {} to {}. ", (least, most)),
        Claim("docs/zh/index.md", "自带的 BN、LN、IN、GN 实测误差在 {} 到 {} 之间", (least, most)),
    ]
