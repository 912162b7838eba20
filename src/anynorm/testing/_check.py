"""A norm of anybody's, held against float64 on every kind of data, in every use of every library."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from anynorm._report import Table, drawn, finite, say, short

from . import _reference as reference
from ._uses import USES, Compiled, Use, usable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._reference import Array

OFFSETS = (0.0, 1e2, 1e4, 1e6)
KINDS = (*(f"offset {offset:g}" for offset in OFFSETS), "outlier first", "ramp", "heavy tails", "small spread")
SHAPE = (4, 16, 7, 6)
OF = {"result": "y", "gradient": "dx"}  # as the table has it
DTYPES = ("float32", "float64", "float16")


def data(kind: str, shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Array:
    """Return a NumPy array of a kind of data that breaks some norms.

    Parameters
    ----------
    kind : str
        One of ``KINDS``, such as "offset 1e+06", of unit spread around 1e6; or "constant"; or "empty", without samples.
    shape : tuple of ints
        The shape of the array.
    dtype : str
        A floating dtype of NumPy.
    seed : int
        For the random numbers.

    Returns
    -------
    numpy.ndarray
        The same array for the same arguments.

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
    if offset := re.fullmatch(r"offset ([-+.e\d]+)", kind):
        x = noise + float(offset[1])
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
    elif kind == "empty":
        x = noise[:0]
    else:
        message = f"data needs kind to be one of {', '.join((*KINDS, 'constant', 'empty'))}: got {kind!r}"
        raise ValueError(message)
    return x.astype(dtype)


class Finding(NamedTuple):
    """What a norm did with one kind of data, on one library, in one use of it."""

    library: str
    use: str  # "eager", "read-only", "jitted", "compiled", "exported" or "lazy"
    data: str
    of: str  # "result" or "gradient"
    error: float | None = None  # the largest, against float64; None where there is no result
    bound: float | None = None
    native_error: float | None = None  # of the library's own norm
    kept: bool = False
    note: str | None = None  # what is wrong, in words


class Report(NamedTuple):
    """All findings for a norm; as text it is a table of the worst for each library."""

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
        cells: list[tuple[str, ...]] = [("library", "of", "worst data", "error", "native", "")]
        notes = []
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            where = finding.library if finding.use == "eager" else f"{finding.library} {finding.use}"
            groups.setdefault((where, OF[finding.of]), []).append(finding)
        for key, found in groups.items():
            worst = max(found, key=_excess)
            missed = sum(not finding.kept for finding in found)
            cells.append(
                (
                    *key,
                    worst.data,
                    short(worst.error),
                    short(worst.native_error),
                    f"{missed} MISSED" if missed else "kept",
                )
            )
            if worst.note:
                allowed = f" (up to {short(worst.bound)} is allowed)" if worst.bound else ""
                notes.append(f"{', '.join(key)}, {worst.data}: {worst.note}{allowed}")
        return "\n".join([*drawn(Table(cells, range(3, 6))), *notes])


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
    r"""Run a norm on every kind of data and every library, and compare it with float64.

    .. math:: \max_i |y_i - \hat y_i|, \quad \hat y = \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}}
       \text{ in float64}

    Parameters
    ----------
    function : callable
        The norm of an array x of shape (N, C, \*S), without weight and bias: ``lambda x: mine(x, num_groups=8)``.
    norm : str
        What it should be: "layer" over all axes but the first, "last axis" for a layer norm over that alone, "rms" over
        all axes but the first, "group" with as many groups as divide C, up to 8, "instance" or "batch".
    libraries : iterable of str, optional
        Names of libraries in ``USES``. By default "numpy", "cupy", "jax", "torch" and "dask", as far as they can be
        used.
    shape, dtype
        Of x: "float32", "float64" or "float16".
    eps : float
        The eps that the function uses.
    within : float, optional
        The largest error to allow, for all data; by default what anynorm promises for its own norms.
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
        There is no such norm, or a requested library, or NumPy, cannot be used.

    See Also
    --------
    assert_norm : the same as an assertion.

    Notes
    -----
    Besides the error, it checks that the result has x's library, shape and dtype, that x is not written to, that Dask
    computes nothing before it is asked to, that a constant slice gives 0 with a finite gradient, and that an empty
    array stays one.

    Examples
    --------
    >>> import anynorm
    >>> from anynorm import testing
    >>> testing.check_norm(
    ...     anynorm.instance_norm, "instance", libraries=["numpy", "dask"]
    ... ).kept
    True
    """
    if norm not in (*reference.NORMS, "last axis"):
        message = f"check_norm needs norm to be one of {', '.join(reference.NORMS)} or last axis: got {norm!r}"
        raise ValueError(message)
    if dtype not in DTYPES or not all(size > 0 for size in shape) or len(shape) < 2:
        message = f"check_norm needs dtype of {', '.join(DTYPES)} and shape (N, C, *S): got {dtype} and {shape}"
        raise ValueError(message)
    case = _Case(function, norm, shape, dtype, eps, within)
    uses = [use for use in _usable(libraries) if dtype in use.floats and (compiled or use.how != "compiled")]
    if not uses:
        message = f"check_norm needs a library that has {dtype}: got {', '.join(libraries or ()) or 'none'}"
        raise ValueError(message)
    return Report(
        norm,
        tuple(
            _find(case, use, kind, of)
            for use in uses
            for of in ("result", "gradient")
            if of == "result" or (gradients and use.library in {"jax", "torch"})
            for kind in (*KINDS, "constant", *(["empty"] if of == "result" else []))
        ),
    )


def assert_norm(function: Callable[[Array], Array], norm: str = "layer", /, **options: Any) -> None:
    """Raise an AssertionError that says what a norm does wrong, if anything.

    Parameters
    ----------
    function, norm, options
        As in :func:`check_norm`.

    Raises
    ------
    AssertionError
        A finding was not kept; the message has the table, and the worst element with what it should have been.
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


def _usable(libraries: Iterable[str] | None) -> list[Use]:
    """Return the uses of the libraries asked for, or of those that have norms and can be used."""
    known = tuple(dict.fromkeys(use.library for use in USES))
    names = tuple(reference.LIBRARIES) if libraries is None else tuple(libraries)
    unknown = [name for name in names if name not in known]
    if unknown:
        message = f"check_norm needs libraries to be of {', '.join(known)}: got {', '.join(unknown)}"
        raise ValueError(message)
    if problem := _problem("numpy"):
        message = f"check_norm measures with NumPy, which is {problem}"
        raise ValueError(message)
    problems = {name: problem for name in names if (problem := _problem(name))}
    if problems and libraries is not None:
        broken = "; ".join(f"{name} is {problem}" for name, problem in problems.items())
        message = f"check_norm needs libraries that can be used: {broken}"
        raise ValueError(message)
    chosen = [use for name in names for use in USES if use.library == name and name not in problems]
    return [replace(use, backend="inductor") if isinstance(use, Compiled) else use for use in chosen]


def _problem(library: str) -> str | None:
    """Return why a library cannot be used."""
    if library in reference.LIBRARIES:
        return reference.find(library).problem
    return None if usable(library) else "not installed"


def _find(case: _Case, use: Use, kind: str, of: str) -> Finding:
    """Run one case, and judge what came of it."""
    import numpy as np

    finding = Finding(use.library, use.how, kind, of)
    x = data(kind, case.shape, case.dtype)
    dy = None if of == "result" else np.random.default_rng(1).standard_normal(case.shape).astype(case.dtype)
    with warnings.catch_warnings(), use.using(case.dtype):
        warnings.simplefilter("ignore")
        try:
            y, problem = _run(case, use, x, dy)
        except Exception as error:  # noqa: BLE001  it is somebody else's function
            return finding._replace(note=f"failed: {say(error)}")
        if problem is not None:
            return finding._replace(note=problem)
        native_error = None if kind == "empty" else _native_error(case, use, x, dy)
    if kind == "empty":
        return finding._replace(kept=True)
    if kind == "constant" and case.norm != "rms":
        right = bool(np.all(np.isfinite(y))) and (of == "gradient" or not y.any())
        wrong = "a constant slice has to become 0" if of == "result" else "its gradient has to be finite"
        return finding._replace(kept=right, note=None if right else wrong)
    exact, deviation = case.exact(x, dy, case.eps)
    unit = 1.0 if dy is None else float(abs(exact).max()) or 1.0
    errors = abs(case.split(y) - exact) / unit
    promised = reference.promised(np, case.split(x), exact, deviation, unit, case.axes()) / unit
    bound = np.asarray(promised if case.within is None else case.within)
    kept = bool(np.all(errors <= bound))
    note = None if kept else _worst(case, x, y, exact, errors / bound)
    return finding._replace(
        error=float(errors.max()), bound=float(bound.max()), native_error=native_error, kept=kept, note=note
    )


def _run(case: _Case, use: Use, x: Array, dy: Array | None) -> tuple[Array, str | None]:
    """Return the result, or the gradient of x, as NumPy's, and what is wrong with it but for its values."""
    import numpy as np

    given = use.array(x, case.dtype)
    y = use.run(case.function, given) if dy is None else _differentiated(case.function, use, given, use.array(dy))
    if not use.owns(y):
        return y, f"the result is a {type(y).__module__}.{type(y).__qualname__}, no array of {use.library}"
    if use.dtype(y) != case.dtype or tuple(y.shape) != x.shape:
        return y, f"the result is of dtype {y.dtype} and shape {tuple(y.shape)}, x of {x.dtype} and {x.shape}"
    if not np.array_equal(use.numpy(given), x):
        return y, "it writes to x"
    return use.numpy(y), None


def _differentiated(function: Callable[[Array], Array], use: Use, x: Array, dy: Array) -> Array:
    """Return the gradient of x by the library's own differentiation."""
    if use.library == "jax":
        import jax

        return use.run(lambda x, dy: jax.vjp(function, x)[1](dy)[0], x, dy)
    import torch

    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(use.run(function, leaf), leaf, dy)[0]


def _native_error(case: _Case, use: Use, x: Array, dy: Array | None) -> float | None:
    """Return the largest error of the library's own norm, None where there is none to compare with."""
    if case.norm not in reference.NORMS or use.library not in reference.LIBRARIES:
        return None
    try:
        arrays = [use.array(a) for a in (x, dy) if a is not None]
        theirs = use.numpy(reference.theirs(reference.find(use.library), case.norm, *arrays))
    except Exception:  # noqa: BLE001  the native norms refuse what ours take
        return None
    exact, _ = case.exact(x, dy, reference.EPS)
    unit = 1.0 if dy is None else float(abs(exact).max()) or 1.0
    return float(abs(case.split(theirs) - exact).max() / unit)


def _worst(case: _Case, x: Array, y: Array, exact: Array, excess: Array) -> str:
    """Return where a result is worst, and what it should have been there."""
    import numpy as np

    excess = np.where(np.isnan(excess), np.inf, excess).reshape(case.shape)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(excess), case.shape))
    return f"at {list(at)}, where x is {x[at]:.9g}, it gives {y[at]:.9g}; exact is {exact.reshape(case.shape)[at]:.9g}"
