"""The table of libraries, drawn from that of the tests."""

from __future__ import annotations

import re

from backends import ABOUT, FEATURES

from . import README, ROOT, table, title


def drawn() -> dict[str, str]:
    """Return the table of each page."""
    return {"docs/guide/libraries.md": full(), README: short()}


def full() -> str:
    """Return what works on which library, and below it why the rest does not."""
    rows = [("library", "version", "used", *FEATURES)]
    rows += [(title(name), a.tested or "none yet", a.used, *works(name)) for name, a in ABOUT.items()]
    reasons = [
        f"* **{title(library)}** lacks {name}: {reason}."
        for library, about in ABOUT.items()
        for name, reason in about.lacks.items()
    ]
    return "\n".join([table(rows), "", *reasons])


def short() -> str:
    """Return how each library is used, and what it lacks."""
    rows = [("library", "version", "used", "lacks")]
    rows += [(title(name), a.tested or "none yet", a.used, ", ".join(a.lacks)) for name, a in ABOUT.items()]
    return table(rows)


def works(library: str) -> list[str]:
    """Return for each feature whether its tests pass: all of them, or all that need nothing that is lacking."""
    if not ABOUT[library].tested:
        return ["not run yet"] * len(FEATURES)
    return [", but for ".join(["yes", *lacking(library, module)]) for module in FEATURES.values()]


def lacking(library: str, module: str) -> list[str]:
    """Return what the tests of a module need that a library lacks."""
    needed = needs(module)
    found = [name for name in ABOUT[library].lacks if name in needed]
    return [" and ".join(found)] if found else []


def needs(module: str) -> set[str]:
    """Return what the tests of a module say that they need."""
    marks = re.findall(r"mark\.needs\(([^)]*)\)", (ROOT / "tests" / f"{module}.py").read_text())
    return {name for mark in marks for name in re.findall(r'"(.*?)"', mark)}
