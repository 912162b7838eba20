"""python -m anynorm: what the library is worth on this machine.

`check` runs every norm, or its gradient, on every array library that is installed, and sets its errors beside those of
the native norms. `bench` times them; `_bench.py` holds it.

Array libraries are imported inside functions alone: the command has to start, and to say what is missing, without any.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import warnings
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import anynorm
from anynorm._engines import problems, watch

from . import _report
from ._bench import add_bench
from ._install import install
from ._report import MISSED, say, watched, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Array: TypeAlias = Any
Namespace: TypeAlias = Any
Norm: TypeAlias = "Callable[[Array], Array]"  # of an array of shape (N, C, *S)

SHAPE = (16, 32, 28, 28)
OFFSETS = (0.0, 1e4)
EPS = 1e-5  # the native norms differ in their default, so all are told

ERROR = 2e-6  # the promise for float32 data of unit spread ...
UNIT = 8.0  # ... whose results stay below this; larger results have coarser last places
DIFFERENCE = 1e-5  # from the native norm, at offset 0

# --------------------------------------------------------------------------------------------------
# The norms: ours, by the formula, and exactly
# --------------------------------------------------------------------------------------------------


def num_groups(x: Array) -> int:
    """Return the largest divisor of the channels up to 8."""
    return next(groups for groups in range(8, 0, -1) if x.shape[1] % groups == 0)


OURS: dict[str, Callable[..., Any]] = {
    "layer": lambda x, of=anynorm: of.layer_norm(x, axis=tuple(range(1, x.ndim)), eps=EPS),
    "rms": lambda x, of=anynorm: of.rms_norm(x, axis=tuple(range(1, x.ndim)), eps=EPS),
    "group": lambda x, of=anynorm: of.group_norm(x, num_groups(x), eps=EPS),
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
    if norm != "group":
        return x
    groups = num_groups(x)
    return x.reshape((x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))


def shared(norm: str, ndim: int) -> tuple[int, ...]:
    """Return the axes of a split array whose elements share their statistics."""
    first = {"layer": (1,), "rms": (1,), "group": (), "instance": (), "batch": (0,)}[norm]
    return (*first, *range(2, ndim))


def textbook(xp: Namespace, norm: str, x: Array, dy: Array = None) -> Array:
    """Return the norm of x, or the gradient of x, as the formula says, with the library's own mean and variance."""
    a = split(norm, x)
    mean = partial(xp.mean, axis=shared(norm, a.ndim), keepdims=True)
    if norm == "rms":
        deviation = xp.sqrt(mean(a * a) + EPS)
    else:
        deviation = xp.sqrt(xp.var(a, axis=shared(norm, a.ndim), keepdims=True) + EPS)
        a = a - mean(a)
    y = a / deviation
    return (y if dy is None else gradient(norm, split(norm, dy), y, deviation, mean)).reshape(x.shape)


def gradient(norm: str, dy: Array, y: Array, deviation: Array, mean: Callable[[Array], Array]) -> Array:
    """Return the gradient of x by the closed form."""
    shift = 0.0 if norm == "rms" else mean(dy)
    return (dy - shift - y * mean(dy * y)) / deviation


def oracle(norm: str, x: Array, dy: Array = None) -> tuple[Array, Array]:
    """Return the norm, or the gradient, of a split NumPy array in a wider dtype, and the deviations divided by."""
    axes = shared(norm, x.ndim)
    d = x.astype("longdouble" if x.dtype.itemsize > 4 else "float64")
    if norm != "rms":
        d = d - d.mean(axis=axes, keepdims=True)
        d = d - d.mean(axis=axes, keepdims=True)  # the wider dtype rounds the first mean, too
    deviation = ((d * d).mean(axis=axes, keepdims=True) + EPS) ** 0.5
    y = d / deviation
    if dy is not None:
        y = gradient(norm, dy.astype(d.dtype), y, deviation, lambda a: a.mean(axis=axes, keepdims=True))
    return y, deviation


# --------------------------------------------------------------------------------------------------
# The libraries, and what each is compared with
# --------------------------------------------------------------------------------------------------

LIBRARIES = {"numpy": "numpy", "cupy": "cupy", "jax": "jax.numpy", "torch": "torch", "dask": "dask.array"}


class Found(NamedTuple):
    """A library: either usable, with its module and the norms to compare with, or with a problem."""

    name: str
    version: str | None = None
    problem: str | None = None
    xp: Namespace = None
    native: str | None = None  # what the norms to compare with are called
    rivals: Mapping[str, Norm] = {}


def find(name: str) -> Found:
    """Import a library and try it: importable is not yet usable."""
    try:
        xp = import_module(LIBRARIES[name])
        version = str(import_module(name).__version__)
    except Exception as error:  # a broken installation raises anything
        missing = isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] == name
        problem = f"not installed ({install(name)})" if missing else f"installed but broken: {say(error)}"
        return Found(name, problem=problem)
    try:
        xp.empty(0)
    except Exception as error:  # CuPy alone has several kinds, where driver, device or memory is missing
        broken = "no usable GPU" if name == "cupy" else f"broken: {say(error)}"
        return Found(name, version, f"installed, but {broken}")
    native, rivals = rivals_of(name, xp)
    return Found(name, version, None, xp, native, rivals)


def rivals_of(name: str, xp: Namespace) -> tuple[str, Mapping[str, Norm]]:
    """Return the library's native norms, and what they are called; without any, the textbook's."""
    if name == "torch":
        return "torch.nn.functional", torch_norms(xp.nn.functional)
    lines = {norm: partial(textbook, xp, norm) for norm in OURS}
    label = "the textbook's (x - mean(x)) / sqrt(var(x) + eps)"
    if name != "jax":
        return label, lines
    try:
        flax = import_module("flax")
        return f"flax.linen {flax.__version__} (by default use_fast_variance)", flax_norms(flax, xp)
    except Exception:  # Flax is not asked for: missing or broken, JAX does without
        standardize = import_module("jax").nn.standardize
        layer = partial(standardize_by, standardize)
        return "jax.nn.standardize in layer norm, else the textbook", {**lines, "layer": layer}


def torch_norms(functional: Any) -> dict[str, Norm]:
    """Return the norms of torch.nn.functional."""
    return {
        "layer": lambda x: functional.layer_norm(x, x.shape[1:], eps=EPS),
        "rms": lambda x: functional.rms_norm(x, x.shape[1:], eps=EPS),
        "group": lambda x: functional.group_norm(x, num_groups(x), eps=EPS),
        "instance": lambda x: functional.instance_norm(x, eps=EPS),
        "batch": lambda x: functional.batch_norm(x, None, None, training=True, eps=EPS),
    }


def flax_norms(flax: Any, xp: Namespace) -> dict[str, Norm]:
    """Return the norms of flax.linen, without scale and bias."""
    nn = import_module(f"{flax.__name__}.linen")
    fast: dict[str, Any] = {"epsilon": EPS, "use_scale": False, "use_fast_variance": True}
    plain = {**fast, "use_bias": False}

    def group(x: Array) -> Array:  # the one that knows channels last alone
        last = xp.moveaxis(x, 1, -1)
        return xp.moveaxis(nn.GroupNorm(num_groups(x), **plain).apply({}, last), -1, 1)

    def batch(x: Array) -> Array:
        norm = nn.BatchNorm(use_running_average=False, axis=1, **plain)
        return norm.apply({}, x, mutable=["batch_stats"])[0]

    return {
        "layer": lambda x: nn.LayerNorm(reduction_axes=tuple(range(1, x.ndim)), **plain).apply({}, x),
        "rms": lambda x: nn.RMSNorm(reduction_axes=tuple(range(1, x.ndim)), **fast).apply({}, x),
        "group": group,
        "instance": lambda x: nn.InstanceNorm(feature_axes=1, **plain).apply({}, x),
        "batch": batch,
    }


def standardize_by(standardize: Any, x: Array) -> Array:
    """Return the layer norm of jax.nn."""
    return standardize(x, axis=tuple(range(1, x.ndim)), epsilon=EPS)


def theirs(found: Found, norm: str, x: Array, dy: Array = None) -> Array:
    """Return the native norm of x, or the gradient of x by the library's own differentiation, or by the textbook."""
    native = found.rivals[norm]
    if dy is None:
        return native(x)
    if found.name == "torch":
        x = x.clone().requires_grad_()
        return import_module("torch").autograd.grad(native(x), x, dy)[0]
    if found.name == "jax":
        return import_module("jax").vjp(native, x)[1](dy)[0]
    return textbook(found.xp, norm, x, dy)


def give(found: Found, x: Array) -> Array:
    """Return a NumPy array as one of the library's: for Dask in chunks that split every axis."""
    if found.name == "dask":
        return found.xp.from_array(x, chunks=tuple(math.ceil(size / 2) for size in x.shape))
    return found.xp.asarray(x)


def take(found: Found, np: Namespace, y: Array) -> Array:
    """Return an array of the library as NumPy's."""
    return found.xp.asnumpy(y) if found.name == "cupy" else np.asarray(y)


# --------------------------------------------------------------------------------------------------
# The data
# --------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """What the norms are run on: arrays of shape (N, C, *S), each with the offset it was given."""

    file: str | None
    dtype: str
    shape: tuple[int, ...]
    channel_axis: int
    arrays: tuple[tuple[float | None, Array], ...]


def asked_for(np: Namespace, file: str | None, channel_axis: int | None) -> Data:
    """Return the data that the arguments ask for; what is wrong with it is a ValueError."""
    if file is not None:
        return loaded(np, file, 1 if channel_axis is None else channel_axis)
    if channel_axis is not None:
        message = "--channel-axis says where --input has its channels: give both, or neither"
        raise ValueError(message)
    return generated(np)


def generated(np: Namespace) -> Data:
    """Return data of unit spread, at every offset."""
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    return Data(None, "float32", SHAPE, 1, tuple((offset, (noise + offset).astype("float32")) for offset in OFFSETS))


def noise(np: Namespace, x: Array) -> Array:
    """Return a gradient for the norm of x, in x's dtype, or float32 where that is of integers."""
    dtype = x.dtype if x.dtype.kind == "f" else "float32"
    return np.random.default_rng(1).standard_normal(x.shape).astype(dtype)


def loaded(np: Namespace, file: str, channel_axis: int) -> Data:
    """Return the user's array."""
    x = read(np, file)
    if x.dtype.kind not in "biuf" or x.dtype.itemsize > 8:
        message = f"--input needs real numbers of at most 64 bits: {file} holds {x.dtype}; convert it, to float32 say"
        raise ValueError(message)
    if x.ndim < 2 or x.size == 0:
        rule = "rank 2 or more, for samples and channels" if x.ndim < 2 else "at least one element"
        message = f"--input needs an array of {rule}: {file} has shape {x.shape}"
        raise ValueError(message)
    if not -x.ndim <= channel_axis < x.ndim:
        message = f"--channel-axis needs an axis of {file}, {-x.ndim} to {x.ndim - 1}: got {channel_axis}"
        raise ValueError(message)
    if not np.all(np.isfinite(x)):
        message = f"--input needs finite numbers: {file} holds {np.sum(~np.isfinite(x))} that are NaN or infinite"
        raise ValueError(message)
    channel = channel_axis % x.ndim
    native = x.astype(x.dtype.newbyteorder("="), copy=False)  # NumPy alone knows both byte orders
    # The channels are moved in view alone, so that the libraries meet the user's own memory layout.
    a = np.moveaxis(native, channel, 1) if channel else native[None]
    return Data(file, x.dtype.name, x.shape, channel, ((None, a),))


def read(np: Namespace, file: str) -> Array:
    """Return the array in a .npy file."""
    try:
        with Path(file).open("rb") as stream:
            start = stream.read(6)
    except OSError as error:
        message = f"--input cannot be opened: {file}: {error.strerror}"
        raise ValueError(message) from None
    if start != b"\x93NUMPY":
        message = f"--input needs a .npy file, such as numpy.save writes: {file} is none"
        raise ValueError(message)
    try:
        return np.load(file, allow_pickle=False)
    except Exception as error:  # a damaged header raises anything
        message = f"--input needs a .npy file of plain numbers: {file} cannot be read ({say(error)})"
        raise ValueError(message) from None


# --------------------------------------------------------------------------------------------------
# The measurement
# --------------------------------------------------------------------------------------------------


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
    note: str | None = None


def measure(np: Namespace, found: Found, norm: str, offset: float | None, x: Array, dy: Array = None) -> Row:
    """Run a norm, and its rival, and hold both against the oracle; with dy their gradients, in units of the largest."""
    row = Row(found.name, norm, offset)
    given = [give(found, a) for a in (x, dy) if a is not None]
    try:
        with watch() as ran:
            y = take(found, np, ours(norm, *given))
    except Exception as problem:  # whatever it raises, a promise is missed
        return row._replace(note=f"failed: {say(problem)}")
    # A library may have narrowed x, and turned integers into its default float: what it has made of x is what counts.
    held = [take(found, np, a).astype(y.dtype, copy=False) for a in given]
    x, *rest = (split(norm, a) for a in held)
    exact, deviation = oracle(norm, x, *rest)
    unit = abs(exact).max() if rest else 1.0
    bound = promised(np, norm, x, exact, deviation, unit) / unit
    errors = abs(split(norm, y) - exact) / unit
    error, largest = float(errors.max()), abs(exact / unit).max().astype(y.dtype)
    row = row._replace(dtype=y.dtype.name, error=error, bound=float(np.max(bound)), kept=bool(np.all(errors <= bound)))
    row = row._replace(engine=" and ".join(sorted(ran)))
    try:
        rival = take(found, np, quietly(partial(theirs, found, norm), *(give(found, a) for a in held)))
    except Exception as problem:  # the native norms refuse shapes and dtypes that ours take
        return row._replace(note=f"the native norm refuses: {say(problem)}")
    apart = (abs(split(norm, rival) - other).max() / unit for other in (exact, split(norm, y)))
    native_error, difference = map(float, apart)
    if offset is not None:
        # Never the worse: rounding alone, one last place of the largest result, decides between two that are right.
        fair = difference <= DIFFERENCE if offset == 0 else not error > native_error + float(np.spacing(largest))
        row = row._replace(kept=row.kept and fair)
    return row._replace(native_error=native_error, difference=difference)


def promised(np: Namespace, norm: str, x: Array, exact: Array, deviation: Array, unit: float) -> Array:
    """Return how far from exact a result may be, for every element or for all; unit is 1, or the largest gradient."""
    largest = abs(exact).max()
    if x.dtype == "float64":
        digits = abs(x).max(axis=shared(norm, x.ndim), keepdims=True) / deviation  # that x's offset takes from it
        return np.maximum(1e-14 * (unit + largest), 4 * sys.float_info.epsilon * digits * unit)
    single = ERROR * max(unit, largest / UNIT)
    # float16 is computed in float32 and rounded once.
    return single if x.dtype == "float32" else np.maximum(np.spacing(abs(exact).astype(x.dtype)), single)


def quietly(function: Callable[..., Array], *arrays: Array) -> Array:
    """Call what is not ours without its warnings: the table says what has come of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arrays)


# --------------------------------------------------------------------------------------------------
# The report
# --------------------------------------------------------------------------------------------------


class Report(NamedTuple):
    """Everything the check has to say."""

    data: Data
    gradients: bool
    libraries: list[Found]
    rows: list[Row]
    engines: Mapping[str, str]  # that cannot be used, each with what is wrong with it

    @property
    def missed(self) -> int:
        """How many rows miss their promise."""
        return sum(not row.kept for row in self.rows)


def as_json(report: Report) -> str:
    """Return the structure that the help of the command documents."""
    data, rows = report.data, [row._asdict() for row in report.rows]
    for row in rows:
        for key in ("error", "bound", "native_error", "difference"):
            row[key] = row[key] if row[key] is not None and math.isfinite(row[key]) else None  # JSON has no NaN
    document = {
        "anynorm": anynorm.__version__,
        "kept": not report.missed,
        "gradients": report.gradients,
        "data": {key: getattr(data, key) for key in ("file", "dtype", "shape", "channel_axis")},
        "libraries": [
            {key: getattr(found, key) for key in ("name", "version", "problem", "native")} for found in report.libraries
        ],
        "engines": report.engines,
        "rows": rows,
    }
    return json.dumps(document, indent=2, allow_nan=False)


def show(report: Report) -> None:
    """Print the report: the libraries, the table, what it means, and the verdict."""
    verdict = f"{report.missed} of {len(report.rows)} promises MISSED." if report.missed else "Every promise is kept."
    _report.show([heading(report), _report.Table(table(report), RIGHT), legend(report)], verdict)


def heading(report: Report) -> list[str]:
    """Return what the norms were run on, a line for every library, and which engines ran or could not."""
    data = report.data
    what = f"{data.file}: {data.dtype}" if data.file else f"{data.dtype} of unit spread,"
    run = ", gradients" if report.gradients else ""
    title = f"anynorm {anynorm.__version__}{run} on {what} {data.shape}, channels on axis {data.channel_axis}"
    width = max(len(found.version or "") for found in report.libraries)
    libraries = [f"{found.name:<7}{state(found, width)}" for found in report.libraries]
    engines = [f"engine {name}: {problem}" for name, problem in report.engines.items()]
    return [title, "", *libraries, "", f"run by: {', '.join(run_by(report.rows))}", *engines]


def run_by(rows: list[Row]) -> Iterator[str]:
    """Yield the engines that ran, each with its libraries."""
    for engine in sorted({row.engine for row in rows if row.engine}):
        yield f"{engine} ({', '.join(dict.fromkeys(row.library for row in rows if row.engine == engine))})"


def state(found: Found, width: int) -> str:
    """Return what is wrong with a library, or its version and what it is compared with."""
    return found.problem or f"{found.version:<{width}}  beside {found.native}"


def table(report: Report) -> list[tuple[str, ...]]:
    """Return the cells, the titles first; what a row shares with the row above it is left blank."""
    array = "input as" if report.data.file else "offset"
    cells: list[tuple[str, ...]] = [("library", "norm", array, "error", "native's error", "difference", "promise")]
    above = Row("", "", None)
    for row in report.rows:
        same = row.library == above.library
        name, norm = "" if same else row.library, "" if same and row.norm == above.norm else row.norm
        array = row.dtype or "-" if row.offset is None else short(row.offset, 0)
        numbers = (short(number) for number in (row.error, row.native_error, row.difference))
        cells.append((name, norm, array, *numbers, "kept" if row.kept else MISSED))
        above = row
    return cells


RIGHT = range(2, 6)  # the columns of numbers


def short(number: float | None, decimals: int = 1) -> str:
    """Return a number as 1.5e-7, without zeros in its exponent."""
    if number is None or number == 0 or not math.isfinite(number):
        return "-" if number is None else f"{number:g}"
    digits, exponent = f"{number:.{decimals}e}".split("e")
    return f"{digits}e{int(exponent)}" if int(exponent) else digits


PROMISES = {
    "float16": "in float16, one last place of the result",
    "float32": f"in float32, {short(ERROR, 0)}, times the largest result / {UNIT:g} where that is above 1",
    "float64": "in float64, 1e-14 times 1 + the largest result, or four last places of x",
}
GRADIENT_PROMISES = {
    "float16": f"in float16, one last place of the gradient, or {short(ERROR, 0)}",
    "float32": f"in float32, {short(ERROR, 0)}",
    "float64": "in float64, 2e-14, or four last places of x",
}


def legend(report: Report) -> list[str]:
    """Return what the columns mean, what is promised, and what went wrong."""
    lines = ["Errors: the largest distances from float64. Difference: between the two norms."]
    if report.gradients:
        lines += ["Both are of the gradient of x, in units of the largest. The native one is by the library's own"]
        lines += ["differentiation; where there is none, by the textbook's closed form."]
    if report.data.file:
        dtypes = sorted({row.dtype for row in report.rows if row.dtype})
        promises = GRADIENT_PROMISES if report.gradients else PROMISES
        lines += ["Promised: an error of at most", *(f"  {promises[dtype]}" for dtype in dtypes)]
    else:
        error, difference = short(ERROR, 0), short(DIFFERENCE, 0)
        lines += [f"Promised: an error of at most {error}; a difference of at most {difference} at offset 0;"]
        lines += ["at other offsets, never the worse of the two by more than a last place."]
    return lines + notes(report.rows)


def notes(rows: list[Row]) -> list[str]:
    """Return what was raised, once for all the norms of a library that raised the same."""
    norms: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row.note:
            norms.setdefault((row.library, row.note), {})[row.norm] = None
    return [f"{library}, {', '.join(names)}: {note}" for (library, note), names in norms.items()]


# --------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------

CHECK = """\
Run every norm on every array library that is installed, and print its largest
error against float64 beside that of the library's native norm: those of
torch.nn.functional, of flax.linen or, without Flax, of jax.nn; elsewhere the
textbook formula in the library's own mean and variance."""

DETAILS = """\
what is promised:
  Without --input the norms run on float32 data of unit spread, at offset 0 and
  1e4. The error is to stay within 2e-6, the difference from the native norm at
  offset 0 within 1e-5, and at 1e4 ours is never to be the worse of the two by
  more than one last place of the largest result.
  With --input the error is to stay
    in float16  within one last place of the result,
    in float32  within 2e-6, times the largest result / 8 where that is above 1,
    in float64  within 1e-14 times 1 + the largest result, or four last places
                of x, whichever is more.
  With --gradients all this holds of the gradient of x, by the pullbacks of
  anynorm.vjp, in units of the largest gradient. The native gradient is torch's
  or JAX's own; elsewhere the textbook's closed form.
  Integers become each library's default float. JAX computes float64 only with
  JAX_ENABLE_X64=1 in the environment.

exit status:
  0  every promise is kept
  1  a promise is missed
  2  the arguments or the file are no good, there is no NumPy to measure with,
     or the report cannot be written (that a reader such as head leaves early
     is no error)

--json prints one object:
  anynorm    the version
  kept       whether every promise is kept
  gradients  whether the rows are of gradients
  data       file (null: generated), dtype, shape, channel_axis
  libraries  of each: name, version, problem (null: usable), native (what it is
             compared with)
  engines    of each that is installed but cannot be used, by its name: what is
             wrong with it, and how to mend it
  rows       of each library, norm and array: library, norm, offset (null:
             --input), dtype (the result's), error, bound (promised for the
             error), native_error, difference, kept, engine (that ran: "numba",
             "jax", "array-api"), note (what was raised, or null). Numbers that
             are not finite, or not to be had, are null.

examples:
  python -m anynorm check
  python -m anynorm check --input photographs.npy --channel-axis -1
  python -m anynorm check --gradients
  python -m anynorm check --json | python -m json.tool"""


def check(arguments: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> int:
    """Measure, report, and return the exit status."""
    numpy = find("numpy")
    if numpy.problem:
        refuse(f"the check measures everything with NumPy, which is {numpy.problem}")
    try:
        data = asked_for(numpy.xp, arguments.input, arguments.channel_axis)
    except ValueError as error:
        refuse(str(error))
    libraries = [find(name) for name in watched(tuple(LIBRARIES), "importing {}".format)]
    usable = [found for found in libraries if not found.problem]
    arrays = [(offset, x, noise(numpy.xp, x) if arguments.gradients else None) for offset, x in data.arrays]
    jobs = [(found, norm, *array) for found in usable for norm in OURS for array in arrays]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "anynorm runs array-API code", RuntimeWarning)  # the report has a line for it
        rows = [measure(numpy.xp, *job) for job in watched(jobs, lambda job: f"{job[0].name}: {job[1]} norm")]
    report = Report(data, arguments.gradients, libraries, rows, problems())
    if arguments.json:
        print(as_json(report))
    else:
        show(report)
    return 1 if report.missed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, write all that it printed at once, and return the exit status."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            return run(argv)
    finally:  # also where argparse exits, after the help
        write(printed.getvalue())


def run(argv: Sequence[str] | None) -> int:
    """Run a command, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m anynorm", description="What anynorm is worth on this machine.")
    parser.add_argument("--version", action="version", version=f"anynorm {anynorm.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_check(commands)
    add_bench(commands)
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status


def add_check(commands: Any) -> None:
    """Add the parser of `check`."""
    parser = commands.add_parser(
        "check",
        help="which libraries are usable, and how far every norm is from float64",
        description=CHECK,
        epilog=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gradients", action="store_true", help="measure the gradients of the norms in their place")
    parser.add_argument("--json", action="store_true", help="print one JSON object, described below, and nothing else")
    parser.add_argument("--input", metavar="FILE.npy", help="run on this array of real numbers, of rank 2 or more")
    parser.add_argument("--channel-axis", type=int, metavar="AXIS", help="where --input has its channels (default: 1)")
    parser.set_defaults(run=lambda arguments: check(arguments, parser.error))


if __name__ == "__main__":
    raise SystemExit(main())
