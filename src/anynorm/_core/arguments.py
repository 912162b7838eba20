"""Arguments: whose they are, axes, numbers, shapes, masks and states. Every check is here, and every error message."""

from __future__ import annotations

import operator
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from .arrays import check_sizes, default_dtype, device_of, reshape, shape_along, welcome, written
from .libraries import is_compiling, library_name, namespace_of, record, refusal, rows_of

if TYPE_CHECKING:
    from .libraries import Array, Namespace, Rows, Shape

# --------------------------------------------------------------------------------------------------
# Whose arrays
# --------------------------------------------------------------------------------------------------


def namespace(caller: str, x: Array, /, *, ragged: bool = False) -> Namespace:
    """Return x's namespace."""
    xp = namespace_of(x)
    if xp is None:
        instead = remedy("x", x) or (
            "convert it first, with numpy.asarray(x) for example, or make its library known by anynorm.register"
        )
        message = (
            f"{caller} needs x to be an array of NumPy, CuPy, JAX, PyTorch, Dask, MLX or another library of the "
            f"array API standard: got {type(x).__name__}; {instead}"
        )
        raise TypeError(message)
    check_plain(caller, xp, "x", x, ragged=ragged)
    return xp


def remedy(name: str, value: object) -> str | None:
    """Return what to pass for what holds an array: a labelled array, a table or a column of one."""
    if namespace_of(getattr(value, "data", None)) is not None:
        return f"pass {name}.data"
    return f"pass {name}.to_numpy()" if callable(getattr(value, "to_numpy", None)) else None


def kin(caller: str, xp: Namespace, x: Array, name: str, value: Array, rows: Rows | None = None) -> Array:
    """Return an array that comes with x as one of x's library; refuse what is not welcome beside x on its device."""
    own = namespace_of(value)
    if own is None:
        message = (
            f"{caller} needs {name} to be an array of x's library, {library_name(xp)}: "
            f"got {type(value).__name__}; {remedy(name, value) or 'convert it'}"
        )
        raise TypeError(message)
    if own is not xp and not (record(xp).welcomes_numpy and library_name(own) == "numpy"):
        message = (
            f"{caller} needs all arrays from one library: got x from {library_name(xp)} and {name} from "
            f"{library_name(own)}; convert one of them"
        )
        raise TypeError(message)
    value = value if rows is None else packed(caller, own, name, value, rows)
    check_plain(caller, own, name, value)
    place, other = device_of(xp, x), device_of(own, value)
    if place is not None and other is not None and place != other:
        here, there = written(place), written(other)
        there = f"another queue or part of {there}" if here == there else there
        message = (
            f"{caller} needs all arrays on one device: got x on {here} and {name} on {there}; move one of them, "
            f"since anynorm never does"
        )
        raise ValueError(message)
    if own is not xp:
        check_number(caller, xp, name, value.dtype)
    return welcome(xp, x, value)


def check_plain(caller: str, xp: Namespace, name: str, value: Array, *, ragged: bool = False) -> None:
    """Refuse arrays that are not their elements alone."""
    refused = refusal(xp, value, ragged=ragged)
    if refused is not None:
        form, instead = refused
        message = f"{caller} needs {name} to be a dense tensor: got one that is {form}; pass {name}.{instead}"
        raise TypeError(message)


def packed(caller: str, xp: Namespace, name: str, value: Array, rows: Rows) -> Array:
    """Return the packed rows of a jagged array that comes with another; what is not jagged as it is."""
    own = rows_of(xp, value)
    if own is None:
        return value
    if not (own.offsets is rows.offsets and own.lengths is rows.lengths and own.axis == rows.axis):
        message = (
            f"{caller} needs {name}, where it is nested, to have x's own offsets: got others; make it of x, or by "
            f"torch.nested.nested_tensor_from_jagged(values, x.offsets())"
        )
        raise TypeError(message)
    return value.values()


def check_rows(caller: str, xp: Namespace, x: Array, rows: Rows, axes: Shape) -> None:
    """Refuse a jagged x where statistics are shared over its samples, or over the axis along which they differ."""
    if not {0, rows.axis}.isdisjoint(axes):
        check_plain(f"{caller} over the axes {axes}", xp, "x", x)


# --------------------------------------------------------------------------------------------------
# Dtypes
# --------------------------------------------------------------------------------------------------

_floats: dict[tuple[type, Any], Any] = {}  # (array type, floating dtype) -> the dtype to compute in


def dtypes(caller: str, xp: Namespace, x: Array, name: str = "x") -> tuple[Any, Any]:
    """Return the dtype of the result and the dtype to compute in, for an array of real numbers."""
    key, compiling = (type(x), x.dtype), is_compiling()
    if not compiling and key in _floats:  # torch would compile anew for what is added later
        return x.dtype, _floats[key]
    check_number(caller, xp, name, x.dtype)
    if not xp.isdtype(x.dtype, "real floating"):
        default = default_dtype(xp, x, "real floating")
        return default, default
    computing = xp.float32 if xp.finfo(x.dtype).bits < 32 else x.dtype
    if not compiling:
        _floats[key] = computing
    return x.dtype, computing


def check_number(caller: str, xp: Namespace, name: str, dtype: Any) -> None:
    """Refuse a dtype that holds no real numbers for the library."""
    if not is_number(xp, dtype):
        message = (
            f"{caller} needs {name} to hold real numbers: got dtype {dtype} of {library_name(xp)}; "
            f"convert it to float32, or pass the parts of a complex array one by one"
        )
        raise TypeError(message)


def is_number(xp: Namespace, dtype: Any) -> bool:
    """Whether the library knows dtype as boolean, integer or real floating (ml_dtypes in NumPy it does not)."""
    try:
        known = xp.isdtype(dtype, ("bool", "integral", "real floating"))
        return bool(known and (xp.isdtype(dtype, ("bool", "integral")) or xp.finfo(dtype).bits > 0))
    except (TypeError, ValueError):
        return False


# --------------------------------------------------------------------------------------------------
# Axes and numbers
# --------------------------------------------------------------------------------------------------


def rank(caller: str, x: Array) -> int:
    """Return the number of x's axes."""
    if namespace_of(x) is None:
        namespace(caller, x)  # which says what to pass
    ndim: int = x.ndim
    return ndim


def axes_of(caller: str, axis: int | tuple[int, ...] | None, ndim: int) -> Shape:
    """Return axis as sorted non-negative axes; None is all of them."""
    if axis is None:
        return tuple(range(ndim))
    if not isinstance(axis, (tuple, list)):
        return (axis_of(caller, "axis", axis, ndim),)
    if not axis:
        message = f"{caller} needs at least one axis: got axis=(); name the axes that share their statistics"
        raise ValueError(message)
    found = [axis_of(caller, "axis", one, ndim) for one in axis]
    if len(set(found)) != len(found):
        message = f"{caller} needs each axis once: got axis={axis} on x of rank {ndim}; drop the repetition"
        raise ValueError(message)
    return tuple(sorted(found))


def axis_of(caller: str, name: str, axis: int, ndim: int) -> int:
    """Return axis as a non-negative axis of an array of rank ndim."""
    one = integer(caller, name, axis)
    if not -ndim <= one < ndim:
        allowed = f"{-ndim} to {ndim - 1}" if ndim else "none: it has no axes"
        message = f"{caller} needs {name} to be an axis of x, which has rank {ndim}: got {one}; use {allowed}"
        raise ValueError(message)
    return one % ndim


def integer(caller: str, name: str, value: Any) -> int:
    """Return value as an int; anything but an integer is refused."""
    try:
        if isinstance(value, bool):
            raise TypeError  # noqa: TRY301
        return operator.index(value)
    except TypeError:
        message = f"{caller} needs {name} to be an integer: got {value!r} of type {type(value).__name__}"
        raise TypeError(message) from None


def number(caller: str, name: str, value: Any, low: float, high: float, x: Array = None) -> Any:
    """Return value as a Python float within [low, high]. Arrays of x's kind without axes pass, traced ones included."""
    if isinstance(value, (float, int, Real)) and not isinstance(value, bool):
        # A NumPy scalar would promote float32 arrays; a Python float promotes none.
        if not low <= value <= high:  # type: ignore[operator]
            message = f"{caller} needs {name} to be a number from {low:g} to {high:g}: got {short(value)}"
            raise ValueError(message)
        return float(value)
    own = None if x is None else namespace_of(value)
    if own is None or value.ndim:
        shape = "" if own is None else f" of shape {tuple(value.shape)}"
        message = f"{caller} needs {name} to be a number: got {type(value).__name__}{shape}"
        raise TypeError(message)
    xp = namespace(caller, x)
    value = kin(caller, xp, x, name, value)
    dtypes(caller, xp, value, name)
    return value


def short(value: Any) -> str:
    """Return value as it is written, or its beginning: an integer may have more digits than fit a message."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of over 4300 digits
        return f"an integer of {value.bit_length()} bits"
    return text if len(text) <= 60 else f"{text[:60]}..."


def cast(xp: Namespace, value: Any, dtype: Any) -> Any:
    """Return a number that may be an array in dtype; a Python number follows the dtype it meets."""
    if isinstance(value, (int, float)):
        return value
    return xp.astype(value, dtype, copy=False)


LARGEST = 1e38  # of numbers that float32 arrays are to meet

# --------------------------------------------------------------------------------------------------
# Shapes of what comes with x
# --------------------------------------------------------------------------------------------------


def broadcasts(shape: Shape, target: Shape) -> bool:
    """Whether shape, of target's rank, broadcasts to target without enlarging it."""
    return len(shape) == len(target) and all(a == 1 or same(a, b) for a, b in zip(shape, target, strict=True))


def same(size: Any, other: Any) -> bool:
    """Whether two sizes are equal; of those unknown so far, to Dask NaN and in a graph None, that shows in a run."""
    return size is None or other is None or bool(size == other or (size != size and other != other))  # noqa: PLR0124


def fits(shape: Shape, other: Shape) -> bool:
    """Whether two shapes are equal, so far as their sizes are known."""
    return len(shape) == len(other) and all(map(same, shape, other))


def check_affine(caller: str, x: Array, name: str, value: Array, axes: Shape) -> None:
    """Refuse a weight or bias of neither the norm's own shape, nor x's rank and broadcastable to x."""
    shape, own = tuple(value.shape), tuple(x.shape[i] for i in axes)
    if not fits(shape, own) and not broadcasts(shape, tuple(x.shape)):
        message = (
            f"{caller} needs {name} of shape {own}, or of x's rank and broadcastable to x's shape {tuple(x.shape)}: "
            f"got {shape}; reshape it{or_axis(x, shape)}"
        )
        raise ValueError(message)
    dtypes(caller, namespace_of(value), value, name)


def or_axis(x: Array, shape: Shape) -> str:
    """Return what else to do about a vector that does not fit: the axis of its size may be the one that was meant."""
    axes = [i for i, size in enumerate(x.shape) if shape == (size,)]
    return f", or name axis {axes[-1]} of x, whose size it has" if axes else ""


def floating_of(caller: str, xp: Namespace, x: Array, name: str, value: Array, shape: Shape) -> Array:
    """Return an array that comes with x, of one shape and a floating dtype."""
    value = kin(caller, xp, x, name, value)
    if not fits(tuple(value.shape), shape):
        message = f"{caller} needs {name} of shape {shape}: got {tuple(value.shape)}"
        raise ValueError(message)
    if dtypes(caller, xp, value, name)[0] != value.dtype:
        message = f"{caller} needs {name} of a floating dtype: got {value.dtype}"
        raise TypeError(message)
    return value


def rest_of(stats: Any) -> Array | None:
    """Return what the mean of a state left of itself, None where the mean is one number."""
    return getattr(stats, "rest", None)


class State(NamedTuple):
    """The mean, the variance and what the mean left of itself, of a state, laid along x's channels."""

    mean: Array
    var: Array
    rest: Array | None


def state_of(caller: str, xp: Namespace, x: Array, stats: Any, channel: int) -> State:
    """Return the arrays of stats, each in the dtype it is to be computed in, laid along x's channels."""
    if not (isinstance(stats, tuple) and hasattr(stats, "mean") and hasattr(stats, "var")):
        message = f"{caller} needs stats to be RunningStats(mean, var): got {type(stats).__name__}"
        raise TypeError(message)
    rest = rest_of(stats)
    return State(
        _channel_parameter(caller, xp, x, "stats.mean", stats.mean, channel),
        _channel_parameter(caller, xp, x, "stats.var", stats.var, channel),
        None if rest is None else _channel_parameter(caller, xp, x, "stats.rest", rest, channel),
    )


def _channel_parameter(caller: str, xp: Namespace, x: Array, name: str, value: Array, channel: int) -> Array:
    value = kin(caller, xp, x, name, value)
    if not fits(tuple(value.shape), (x.shape[channel],)):
        message = (
            f"{caller} needs {name} of shape {(x.shape[channel],)}, one value a channel (x.shape[{channel}]): "
            f"got {tuple(value.shape)}; make the state with running_stats({x.shape[channel]}, like=x)"
            f"{or_axis(x, tuple(value.shape))}"
        )
        raise ValueError(message)
    _, dtype = dtypes(caller, xp, value, name)
    if dtype != value.dtype and xp.isdtype(value.dtype, ("bool", "integral")):
        message = f"{caller} needs {name} of a floating dtype: got {value.dtype}; make the state with running_stats"
        raise TypeError(message)
    return reshape(xp, xp.astype(value, dtype, copy=False), shape_along(x, (channel,)))


def gradient_of(caller: str, xp: Namespace, x: Array, dy: Array, rows: Rows | None) -> Array:
    """Return the gradient of the result, which has x's shape."""
    caller = f"{caller}'s pullback"
    dy = kin(caller, xp, x, "dy", dy, rows)
    if not fits(dy.shape, x.shape):
        message = (
            f"{caller} needs dy of the result's shape {tuple(x.shape)}: got {tuple(dy.shape)}; broadcast it, since a "
            f"gradient has one value for each element of the result"
        )
        raise ValueError(message)
    if dtypes(caller, xp, dy, "dy")[0] != dy.dtype:
        message = f"{caller} needs dy of a floating dtype: got {dy.dtype}; convert it to {dtypes(caller, xp, x)[0]}"
        raise TypeError(message)
    return dy


def mask_of(caller: str, xp: Namespace, x: Array, where: Array) -> Array:
    """Return the mask at x's rank."""
    if not xp.isdtype(where.dtype, "bool"):
        message = f"{caller} needs where to be a boolean mask: got dtype {where.dtype}; compare it, as in where != 0"
        raise TypeError(message)
    missing = x.ndim - where.ndim
    shape = (1,) * missing + tuple(where.shape)
    if not broadcasts(shape, tuple(x.shape)):
        remedy = "give it x's rank, with 1 for the axes that it does not vary along"
        if missing > 0 and broadcasts(tuple(where.shape), tuple(x.shape[: where.ndim])):  # it lacks the last axes
            remedy = f"pass where[{', '.join(['...', *['None'] * missing])}]"
        message = f"{caller} needs where to broadcast to x's shape {tuple(x.shape)}: got {tuple(where.shape)}; {remedy}"
        raise ValueError(message)
    return at_rank(where, x.ndim)


def at_rank(mask: Array, rank: int) -> Array:
    """Return a mask with the leading axes that it lacks."""
    return mask if mask.ndim == rank else mask[(None,) * (rank - mask.ndim) + (...,)]


def groups_of(caller: str, x: Array, channel: int, num_groups: int) -> int:
    """Return num_groups, which has to divide x's channels."""
    try:
        groups, channels = integer(caller, "num_groups", num_groups), x.shape[channel]
    except TypeError as error:
        raise ValueError(*error.args) from None
    check_sizes(namespace_of(x), x.shape, (channel,))
    if channels is None:
        message = (
            f"{caller} needs to know the number of channels, to split them into groups: got x of shape "
            f"{tuple(x.shape)}; give axis {channel} a size"
        )
        raise ValueError(message)
    if groups < 1 or channels % groups:
        divisors = [str(d) for d in range(1, channels + 1) if channels % d == 0]
        use = " or ".join([", ".join(divisors[:-1]), divisors[-1]] if len(divisors) > 1 else divisors)
        message = (
            f"{caller} needs num_groups to divide the channels: got {channels} channels (x.shape[{channel}]) and "
            f"num_groups={groups}; use {use or 'a positive number'}"
        )
        raise ValueError(message)
    return groups
