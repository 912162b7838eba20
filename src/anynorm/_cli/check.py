"""What `check` measures: the error of every norm of every library, and whether it is as small as promised."""

from __future__ import annotations

import math
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import anynorm
from anynorm._engines import watch
from anynorm._report import say
from anynorm.testing import _reference as reference
from anynorm.testing._reference import EPS, num_groups, promised, shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from anynorm.testing._reference import Array, Found, Namespace

DIFFERENCE = 1e-5  # from the native norm, at offset 0
ROUNDS, SECONDS = 20, 0.2  # of timing: so many, or fewer once they have taken so long

OURS: dict[str, Callable[..., Any]] = {
    "layer": lambda x, of=anynorm: of.layer_norm(x, axis=tuple(range(1, x.ndim)), eps=EPS),
    "rms": lambda x, of=anynorm: of.rms_norm(x, axis=tuple(range(1, x.ndim)), eps=EPS),
    "group": lambda x, of=anynorm: of.group_norm(x, num_groups(x.shape[1]), eps=EPS),
    "instance": lambda x, of=anynorm: of.instance_norm(x, eps=EPS),
    "batch": lambda x, of=anynorm: of.batch_norm(x, eps=EPS),
}


def ours(norm: str, x: Array, dy: Array = None) -> Array:
    """Return our norm of x, or, given the gradient of that, the gradient of x."""
    if dy is None:
        return OURS[norm](x)
    _, pullback = OURS[norm](x, anynorm.vjp)
    return pullback(dy)[0]


def split(norm: str, x: Array) -> Array:
    """Return x with the channels split into groups, for group norm, and as it is for the others."""
    return x.reshape(reference.split_shape(norm, x.shape))


def give(found: Found, x: Array) -> Array:
    """Return a NumPy array as one of the library's: for Dask in chunks that split every axis."""
    if found.name == "dask":
        return found.xp.from_array(x, chunks=tuple(math.ceil(size / 2) for size in x.shape))
    return found.xp.asarray(x)


def take(found: Found, np: Namespace, y: Array) -> Array:
    """Return an array of the library as NumPy's."""
    return found.xp.asnumpy(y) if found.name == "cupy" else np.asarray(y)


class Row(NamedTuple):
    """One norm of one library on one array."""

    library: str
    norm: str
    offset: float | None  # of generated data
    dtype: str | None = None  # the result's
    error: float | None = None  # ours, against the oracle; None, here and below, where there is none
    bound: float | None = None  # what is promised for the error
    native_error: float | None = None
    difference: float | None = None  # between the two
    kept: bool = False
    engine: str | None = None  # that ran
    seconds: float | None = None  # that a call takes, until NumPy has the result
    native_seconds: float | None = None
    note: str | None = None


def measure(
    np: Namespace, found: Found, norm: str, offset: float | None, x: Array, dy: Array = None, *, compiled: bool = False
) -> Row:
    """Run a norm and its rival, hold both against the oracle, and time them; with dy their gradients."""
    row = Row(found.name, norm, offset)
    original, given = x, [give(found, a) for a in (x, dy) if a is not None]
    calls: list[Callable[..., Array]] = [partial(ours, norm), partial(reference.theirs, found, norm)]
    mine, native = (reference.compiled(found, call) for call in calls) if compiled else calls
    try:
        with watch() as ran:
            y = take(found, np, mine(*given))
    except Exception as problem:  # whatever it raises, a promise is missed
        return row._replace(note=f"failed: {say(problem)}")
    # A library may have narrowed x, and turned integers into its default float: what it has made of x is what counts.
    held = [take(found, np, a).astype(y.dtype, copy=False) for a in given]
    x, *rest = (split(norm, a) for a in held)
    exact, deviation = reference.exact(x, shared(norm, x.ndim), *rest, rms=norm == "rms")
    unit = abs(exact).max() if rest else 1.0  # a gradient's errors are in units of the largest
    bound = promised(np, x, exact, deviation, unit, shared(norm, x.ndim)) / unit
    errors = abs(split(norm, y) - exact) / unit
    error, largest = float(errors.max()), abs(exact / unit).max().astype(y.dtype)
    row = row._replace(dtype=y.dtype.name, error=error, bound=float(np.max(bound)), kept=bool(np.all(errors <= bound)))
    row = row._replace(engine=" and ".join(sorted(ran)) or None)  # torch's compiler makes its own code
    if not row.kept:
        row = row._replace(note=limit(np, original, y.dtype, deviation))
    given = [give(found, a) for a in held]
    try:
        rival = take(found, np, native(*given))
    except Exception as problem:  # the native norms refuse shapes and dtypes that ours take
        return row._replace(note=row.note or f"the native norm refuses: {say(problem)}")
    apart = (abs(split(norm, rival) - other).max() / unit for other in (exact, split(norm, y)))
    native_error, difference = map(float, apart)
    if offset is not None:
        # Never the worse: rounding alone, one last place of the largest result, decides between two that are right.
        fair = difference <= DIFFERENCE if offset == 0 else not error > native_error + float(np.spacing(largest))
        row = row._replace(kept=row.kept and fair)
    seconds, native_seconds = timed(lambda: take(found, np, mine(*given)), lambda: take(found, np, native(*given)))
    return row._replace(
        native_error=native_error, difference=difference, seconds=seconds, native_seconds=native_seconds
    )


def timed(*calls: Callable[[], Any]) -> list[float]:
    """Return the least seconds that each call takes, of rounds in which they take turns; all have run before."""
    took: list[list[float]] = [[] for _ in calls]
    start = perf_counter()
    while not took[0] or (len(took[0]) < ROUNDS and perf_counter() - start < SECONDS):
        for call, times in zip(calls, took, strict=True):
            before = perf_counter()
            call()
            times.append(perf_counter() - before)
    return [min(times) for times in took]


def limit(np: Namespace, x: Array, dtype: Any, deviation: Array) -> str | None:
    """Return which limit x met, as an array of a dtype whose slices deviate so much, if any."""
    top = np.finfo(np.result_type(dtype, "float32"))
    if np.all(deviation <= math.sqrt(top.max / (x.size // deviation.size))):
        return None
    largest = max(abs(float(x.min())), abs(float(x.max())))
    return f"x reaches {largest:.1e}, and its squares leave {top.dtype}, which ends at {top.max:.1e}: scale x down"
