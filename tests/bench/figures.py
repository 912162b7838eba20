"""The figures to reach, and which of them were."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .cases import IMAGES, LIBRARIES, TINY, TINY_IMAGES, TOKENS, Case, cases_of, compiled, last, of_given
from .units import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .results import Result


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
        yield from beside(Case(library, "batch", images, layout="last"), 1.2, 1.6)
        yield from beside(Case(library, "instance", IMAGES), 4, 1.2)
        yield from beside(Case(library, "group", IMAGES), 1, 1.2)
        yield from beside(Case(library, "layer", TOKENS), 1.2, 1.2)
        yield from beside(Case(library, "layer", IMAGES), 2, 1.2)
        yield from beside(Case(library, "rms", TOKENS), 2, 1.2)
        yield from map(with_more, of_given(library))
    for norm in ("batch", "instance"):
        yield Figure(Case("torch", norm, IMAGES, work="both"), "native", "anynorm", 2)
    for case in compiled():
        yield Figure(case, "anynorm", "native", 1.1 if case.work == "forward" else 1.2)
    yield Figure(Case("numpy", "layer", TINY), "textbook", "anynorm", 1)
    yield Figure(Case("numpy", "layer", TINY, given="affine"), "anynorm", "textbook", 0.35)
    for case in cases_of("jax"):
        if case.mode == "eager" and case.work == "forward":
            yield Figure(case, "native", "anynorm", 4)
    for case in cases_of("jax"):
        if case.mode == "jit" and case.dtype == "float32" and case.shape in (last(IMAGES), TOKENS):
            along_rows = case.norm == "layer" and case.shape == TOKENS
            yield Figure(case, "anynorm", "native", 1.3 if along_rows and case.work == "forward" else 1.15)


def beside(case: Case, native: float, copy: float) -> Iterator[Figure]:
    """Yield how many times faster than the native norm a case is to be, and as how many copies."""
    yield Figure(case, "native", "anynorm", native)
    yield Figure(case, "anynorm", "copy", copy)


def with_more(case: Case) -> Figure:
    """Return the figure of a case that is given more than x, on NumPy or torch."""
    if case.masked:
        return Figure(case, "anynorm", "unmasked", 1.5 if case.given == "mask" else 2)
    if case.given == "train":
        return Figure(case, "anynorm", "native", 2)
    if case.library == "numpy" and case.norm == "layer":
        rival, wished = ("textbook", 1) if case.work == "both" else ("native", 1.2)
        return Figure(case, "anynorm", rival, wished)
    return Figure(case, "anynorm", "native", 1.5 if case.shape in (TINY, TINY_IMAGES) else 1)


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
    return sorted(rows, key=lambda row: LIBRARIES.index(row.case.split()[0]))


def taken(library: str, results: Iterable[Result]) -> Reached:
    """Return the figure of the extra memory of a library's calls."""
    known = [count for result in results if (count := result.extra.get("anynorm")) is not None]
    most = max(known, default=None)
    reached = None if most is None else most < EXTRA_BYTES
    name = f"{library} the forward calls beside a copy, at most"
    return Reached(name, EXTRA, f"below {size(EXTRA_BYTES)}", most, None, reached)
