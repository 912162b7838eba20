"""Tests for norms of your own, on every array library that is installed: against float64 and against native norms.

>>> import numpy as np
>>> from anynorm import testing
>>> def textbook(x):
...     d = x - x.mean(axis=-1, keepdims=True)
...     return d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + 1e-5)
>>> report = testing.check_norm(textbook, "last axis", libraries=["numpy"])
>>> [finding.data for finding in report.findings if not finding.kept]
['offset 100', 'offset 10000', 'offset 1e+06', 'ramp', 'small spread']
"""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from ._cli import reference
from ._cli.check import give, promised, take
from ._cli.findings import finite, short
from ._cli.report import Table, drawn, say
from ._core.libraries import library_name, namespace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._cli.reference import Array, Found

__all__ = ["KINDS", "Finding", "Report", "assert_norm", "check_norm", "data"]

OFFSETS = (0.0, 1e2, 1e4, 1e6)
KINDS = (*(f"offset {offset:g}" for offset in OFFSETS), "outlier first", "ramp", "heavy tails", "small spread")
SHAPE = (4, 16, 7, 6)


def data(kind: str, shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Array:
    """Return a NumPy array of a kind that breaks some norm.

    Parameters
    ----------
    kind : str
        One of ``KINDS``: "offset 1e+06" is of unit spread about 1e6; or "constant".
    shape : tuple of ints
        The shape of the array.
    dtype : str
        A floating dtype of NumPy.
    seed : int
        Of the random numbers.

    Returns
    -------
    numpy.ndarray
        The same for the same arguments.

    Raises
    ------
    ValueError
        There is no such kind.

    Examples
    --------
    >>> from anynorm import testing
    >>> testing.data("ramp", (5,))
    array([1000., 1001., 1002., 1003., 1004.], dtype=float32)
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape)
    if kind.startswith("offset"):
        x = noise + float(kind.split()[1])
    elif kind == "outlier first":
        x = noise
        x.flat[0] = 1e4
    elif kind == "ramp":
        x = np.linspace(1e3, 1e3 + 4, noise.size).reshape(shape)
    elif kind == "heavy tails":
        x = rng.standard_t(1.5, shape)
    elif kind == "small spread":
        x = 1e3 + 1e-3 * noise
    elif kind == "constant":
        x = np.full(shape, 1e6 / 3)
    else:
        message = f"data needs kind to be one of {', '.join((*KINDS, 'constant'))}: got {kind!r}"
        raise ValueError(message)
    return x.astype(dtype)


class Finding(NamedTuple):
    """What a norm did with one kind of data, on one library, in one use of it."""

    library: str
    use: str  # "eager", "jitted", "compiled" or "lazy"
    data: str
    of: str  # "result" or "gradient"
    error: float | None = None  # the largest, against float64; None where there is no result
    bound: float | None = None
    native_error: float | None = None  # of the library's own norm
    kept: bool = False
    note: str | None = None  # what is wrong, in words


class Report(NamedTuple):
    """All findings of a norm; as text it is a table of the worst of each library."""

    norm: str
    findings: tuple[Finding, ...]

    @property
    def kept(self) -> bool:
        """Whether nothing was found wrong."""
        return all(finding.kept for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: numbers that are not finite as None."""
        rows = [finding._asdict() for finding in self.findings]
        for row in rows:
            for key in ("error", "bound", "native_error"):
                row[key] = finite(row[key])
        return {"norm": self.norm, "kept": self.kept, "findings": rows}

    def __str__(self) -> str:
        """Return a table: a row for each library and use, result and gradient, of what was worst."""
        cells: list[tuple[str, ...]] = [("library", "use", "of", "worst data", "error", "native's", "allowed", "")]
        notes = []
        groups: dict[tuple[str, ...], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.library, finding.use, finding.of), []).append(finding)
        for key, found in groups.items():
            worst = max(found, key=_excess)
            numbers = (short(a) for a in (worst.error, worst.native_error, worst.bound))
            missed = sum(not finding.kept for finding in found)
            cells.append((*key, worst.data, *numbers, f"{missed} of {len(found)} MISSED" if missed else "kept"))
            if worst.note:
                notes.append(f"{', '.join(key)}, {worst.data}: {worst.note}")
        return "\n".join([*drawn(Table(cells, range(4, 7))), *notes])


def _excess(finding: Finding) -> float:
    """Return how bad a finding is: its error as a multiple of what is allowed; what has no number comes after."""
    if finding.error is None or not finding.bound:
        return 0.0 if finding.kept else 1.0
    return math.inf if math.isnan(finding.error) else finding.error / finding.bound


def check_norm(
    function: Callable[[Array], Array],
    norm: str = "layer",
    /,
    *,
    libraries: Iterable[str] | None = None,
    shape: tuple[int, ...] = SHAPE,
    dtype: str = "float32",
    eps: float = 1e-5,
    within: float | None = None,
    gradients: bool = True,
    compiled: bool = False,
) -> Report:
    r"""Run a norm on every kind of data and every library, and hold it against float64.

    .. math:: \max_i |y_i - \hat y_i|, \quad \hat y = \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}}
       \text{ in float64}

    Parameters
    ----------
    function : callable
        The norm of an array x of shape (N, C, \*S), without weight and bias: ``lambda x: mine(x, num_groups=8)``.
    norm : str
        What it is to be: "layer" over all axes but the first, "last axis" for a layer norm over that alone, "rms" over
        all axes but the first, "group" of as many groups as divide C, up to 8, "instance" or "batch".
    libraries : iterable of str, optional
        Of "numpy", "cupy", "jax", "torch" and "dask"; all that can be used, unless given.
    shape, dtype
        Of x: "float32", "float64" or "float16".
    eps : float
        That the function uses.
    within : float, optional
        The largest error to allow, for all data; what anynorm promises of its own norms, unless given.
    gradients : bool
        Differentiate it too, where the library is JAX or PyTorch.
    compiled : bool
        Compile it with ``torch.compile``, too, which takes seconds.

    Returns
    -------
    Report
        A finding for each library, use and kind of data. ``print(report)`` shows the worst, ``report.kept`` is the
        verdict.

    Raises
    ------
    ValueError
        There is no such norm, or a library that is asked for cannot be used, or NumPy cannot.

    See Also
    --------
    assert_norm : the same as an assertion.

    Notes
    -----
    Beside the error it is checked that the result has x's library, shape and dtype, that x is not written to, that Dask
    computes nothing before it is asked to, and that a constant slice gives 0 with a finite gradient.

    Examples
    --------
    >>> import anynorm
    >>> from anynorm import testing
    >>> testing.check_norm(anynorm.instance_norm, "instance", libraries=["numpy", "dask"]).kept
    True
    """
    if norm not in (*reference.NORMS, "last axis"):
        message = f"check_norm needs norm to be one of {', '.join(reference.NORMS)} or last axis: got {norm!r}"
        raise ValueError(message)
    case = _Case(function, norm, shape, dtype, eps, within)
    found = _usable(libraries)
    uses = [(one, use) for one in found for use in _uses(one, compiled=compiled)]
    parts = ["result", "gradient"] if gradients else ["result"]
    return Report(
        norm,
        tuple(
            _find(case, one, use, kind, of)
            for one, use in uses
            for of in parts
            if of == "result" or one.name in {"jax", "torch"}
            for kind in (*KINDS, "constant")
        ),
    )


def assert_norm(function: Callable[[Array], Array], norm: str = "layer", /, **options: Any) -> None:
    """Raise an AssertionError that tells what a norm does wrong, if it does.

    Parameters
    ----------
    function, norm, options
        As in :func:`check_norm`.

    Raises
    ------
    AssertionError
        A finding was not kept: the table, and the worst element with what it should have been.
    ValueError
        As in :func:`check_norm`.

    Examples
    --------
    >>> import anynorm
    >>> from anynorm import testing
    >>> testing.assert_norm(anynorm.layer_norm, "last axis", libraries=["numpy"])
    """
    report = check_norm(function, norm, **options)
    if not report.kept:
        message = f"the {norm} norm misses {sum(not f.kept for f in report.findings)} of {len(report.findings)}:\n"
        raise AssertionError(message + str(report))


# ---------------------------------------------------------------------------------- how it is found


class _Case(NamedTuple):
    """What is tested."""

    function: Callable[[Array], Array]
    norm: str
    shape: tuple[int, ...]
    dtype: str
    eps: float
    within: float | None

    def split(self, a: Array) -> Array:
        """Return an array with its channels split into groups, for group norm."""
        return a.reshape(reference.split_shape(self.norm, self.shape))

    def axes(self) -> tuple[int, ...]:
        """Return the axes that share their statistics, after the split."""
        if self.norm == "last axis":
            return (len(self.shape) - 1,)
        return reference.shared(self.norm, len(reference.split_shape(self.norm, self.shape)))

    def exact(self, x: Array, dy: Array | None, eps: float) -> tuple[Array, Array]:
        """Return the result or the gradient in float64, split, and the deviations."""
        dy = None if dy is None else self.split(dy)
        return reference.exact(self.split(x), self.axes(), dy, eps=eps, rms=self.norm == "rms")


def _usable(libraries: Iterable[str] | None) -> list[Found]:
    """Return the libraries asked for, or those that can be used."""
    names = tuple(reference.LIBRARIES) if libraries is None else tuple(libraries)
    unknown = [name for name in names if name not in reference.LIBRARIES]
    if unknown:
        message = f"check_norm needs libraries to be of {', '.join(reference.LIBRARIES)}: got {', '.join(unknown)}"
        raise ValueError(message)
    found = [reference.find(name) for name in names]
    broken = [f"{one.name} is {one.problem}" for one in found if one.problem]
    numpy = reference.find("numpy")
    if numpy.problem:
        message = f"check_norm measures with NumPy, which is {numpy.problem}"
        raise ValueError(message)
    if broken and libraries is not None:
        message = f"check_norm needs libraries that can be used: {'; '.join(broken)}"
        raise ValueError(message)
    return [one for one in found if not one.problem]


def _uses(found: Found, *, compiled: bool) -> tuple[str, ...]:
    """Return the ways in which a library is used."""
    if found.name == "jax":
        return "eager", "jitted"
    if found.name == "torch" and compiled:
        return "eager", "compiled"
    return ("lazy",) if found.name == "dask" else ("eager",)


def _find(case: _Case, found: Found, use: str, kind: str, of: str) -> Finding:
    """Run one case, and judge what came of it."""
    import numpy as np

    finding = Finding(found.name, use, kind, of)
    x = data(kind, case.shape, case.dtype)
    dy = None if of == "result" else np.random.default_rng(1).standard_normal(case.shape).astype(case.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            y, problem = _run(case, found, use, x, dy)
        except Exception as error:  # noqa: BLE001  it is somebody else's function
            return finding._replace(note=f"failed: {say(error)}")
        if problem is not None:
            return finding._replace(note=problem)
        native_error = _native_error(case, found, x, dy)
    if kind == "constant" and case.norm != "rms":
        right = bool(np.all(np.isfinite(y))) and (of == "gradient" or not y.any())
        wrong = "a constant slice has to become 0" if of == "result" else "its gradient has to be finite"
        return finding._replace(kept=right, note=None if right else wrong)
    exact, deviation = case.exact(x, dy, case.eps)
    unit = 1.0 if dy is None else float(abs(exact).max())
    errors = abs(case.split(y) - exact) / unit
    bound = np.asarray(
        promised(np, case.split(x), exact, deviation, unit, case.axes()) / unit if case.within is None else case.within
    )
    kept = bool(np.all(errors <= bound))
    note = None if kept else _worst(case, x, y, exact, errors / bound)
    return finding._replace(
        error=float(errors.max()), bound=float(bound.max()), native_error=native_error, kept=kept, note=note
    )


def _run(case: _Case, found: Found, use: str, x: Array, dy: Array | None) -> tuple[Array, str | None]:
    """Return the result, or the gradient of x, as NumPy's, and what is wrong with it but for its values."""
    import numpy as np

    function = reference.compiled(found, case.function) if use in {"jitted", "compiled"} else case.function
    given = give(found, _read_only(x) if found.name == "numpy" else x.copy())
    with _nothing_computed(found):
        y = function(given) if dy is None else _differentiated(found, function, given, give(found, dy))
    own = namespace_of(y)
    if own is None or library_name(own) != library_name(namespace_of(given)):
        return y, f"the result is a {type(y).__module__}.{type(y).__qualname__}, no array of {found.name}"
    back = take(found, np, y.detach() if found.name == "torch" else y)
    if back.dtype != x.dtype or back.shape != x.shape:
        return back, f"the result is of dtype {back.dtype} and shape {back.shape}, x of {x.dtype} and {x.shape}"
    if not np.array_equal(take(found, np, given.detach() if found.name == "torch" else given), x):
        return back, "it writes to x"
    return back, None


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


def _nothing_computed(found: Found) -> Any:
    """Return a context in which Dask refuses to compute."""
    if found.name != "dask":
        return nullcontext()
    import dask

    def refuse(*_: Any, **__: Any) -> None:
        message = "it computes while the graph is being built"
        raise RuntimeError(message)

    return dask.config.set(scheduler=refuse)


def _differentiated(found: Found, function: Callable[[Array], Array], x: Array, dy: Array) -> Array:
    """Return the gradient of x by the library's own differentiation."""
    if found.name == "jax":
        import jax

        return jax.vjp(function, x)[1](dy)[0]
    import torch

    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, dy)[0]


def _native_error(case: _Case, found: Found, x: Array, dy: Array | None) -> float | None:
    """Return the largest error of the library's own norm, None where there is none to compare with."""
    import numpy as np

    if case.norm == "last axis":
        return None
    try:
        arrays = [give(found, a) for a in (x, dy) if a is not None]
        theirs = take(found, np, reference.theirs(found, case.norm, *arrays))
    except Exception:  # noqa: BLE001  the native norms refuse what ours take
        return None
    exact, _ = case.exact(x, dy, reference.EPS)
    unit = 1.0 if dy is None else float(abs(exact).max())
    return float(abs(case.split(theirs) - exact).max() / unit)


def _worst(case: _Case, x: Array, y: Array, exact: Array, excess: Array) -> str:
    """Return where a result is worst, and what it should have been there."""
    import numpy as np

    excess = np.where(np.isnan(excess), np.inf, excess).reshape(case.shape)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(excess), case.shape))
    return f"at {list(at)}, where x is {x[at]:.9g}, it gives {y[at]:.9g}; exact is {exact.reshape(case.shape)[at]:.9g}"
