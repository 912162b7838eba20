"""Arguments: whose they are, axes, numbers, shapes, masks and states. Every check is here, and every error message."""

from __future__ import annotations

import operator
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from .libraries import (
    default_dtype,
    device_of,
    has_sizes,
    is_compiling,
    library_name,
    namespace_of,
    record,
    refusal,
    reshape,
    shape_along,
    written,
)

if TYPE_CHECKING:
    from .libraries import Array, Namespace, Shape

# --------------------------------------------------------------------------------------------------
# Whose arrays
# --------------------------------------------------------------------------------------------------


def namespace(caller: str, x: Array, /, **others: Array | None) -> Namespace:
    """Return x's namespace, having checked that all the arrays are of one library and on one device."""
    xp = namespace_of(x)
    if xp is None:
        message = (
            f"{caller} needs x to be an array of NumPy, CuPy, JAX, PyTorch, Dask or another library of the array "
            f"API standard: got {type(x).__name__}; convert it first, with numpy.asarray(x) for example"
        )
        raise TypeError(message)
    check_plain(caller, xp, "x", x)
    for name, value in others.items():
        if value is not None:
            check_kin(caller, xp, x, name, value)
    return xp


def check_kin(caller: str, xp: Namespace, x: Array, name: str, value: Array) -> None:
    """Refuse what is no array of x's library, on x's device."""
    kin = namespace_of(value)
    if kin is None:
        message = (
            f"{caller} needs {name} to be an array of x's library, {library_name(xp)}: "
            f"got {type(value).__name__}; convert it"
        )
        raise TypeError(message)
    if kin is not xp and not (record(xp).is_lazy and library_name(kin) == "numpy"):
        message = (
            f"{caller} needs all arrays from one library: got x from {library_name(xp)} and {name} from "
            f"{library_name(kin)}; convert one of them"
        )
        raise TypeError(message)
    check_plain(caller, kin, name, value)
    place, other = device_of(xp, x), device_of(kin, value)
    if place is not None and other is not None and place != other:
        here, there = written(place), written(other)
        there = f"another queue or part of {there}" if here == there else there
        message = (
            f"{caller} needs all arrays on one device: got x on {here} and {name} on {there}; move one of them, "
            f"since anynorm never does"
        )
        raise ValueError(message)


def check_plain(caller: str, xp: Namespace, name: str, value: Array) -> None:
    """Refuse arrays that are not their elements alone."""
    refused = refusal(xp, value)
    if refused is not None:
        form, instead = refused
        message = f"{caller} needs {name} to be a dense tensor: got one that is {form}; pass {name}.{instead}"
        raise TypeError(message)


# --------------------------------------------------------------------------------------------------
# Dtypes
# --------------------------------------------------------------------------------------------------

_floats: dict[tuple[type, Any], Any] = {}  # (array type, floating dtype) -> the dtype to compute in


def dtypes(caller: str, xp: Namespace, x: Array, name: str = "x") -> tuple[Any, Any]:
    """Return the dtype of the result and the dtype to compute in, for an array of real numbers."""
    key, compiling = (type(x), x.dtype), is_compiling()
    if not compiling and key in _floats:  # torch would compile anew for what is added later
        return x.dtype, _floats[key]
    if not is_number(xp, x.dtype):
        message = (
            f"{caller} needs {name} to hold real numbers: got dtype {x.dtype} of {library_name(xp)}; "
            f"convert it to float32, or pass the parts of a complex array one by one"
        )
        raise TypeError(message)
    if not xp.isdtype(x.dtype, "real floating"):
        default = default_dtype(xp, x, "real floating")
        return default, default
    computing = xp.float32 if xp.finfo(x.dtype).bits < 32 else x.dtype
    if not compiling:
        _floats[key] = computing
    return x.dtype, computing


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
    kin = None if x is None else namespace_of(value)
    if kin is None or value.ndim:
        shape = "" if kin is None else f" of shape {tuple(value.shape)}"
        message = f"{caller} needs {name} to be a number: got {type(value).__name__}{shape}"
        raise TypeError(message)
    namespace(caller, x, **{name: value})
    dtypes(caller, kin, value, name)
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
    return xp.astype(value if namespace_of(value) is xp else xp.asarray(value), dtype, copy=False)


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


def check_sizes(caller: str, xp: Namespace, shape: Shape, axes: Shape) -> None:
    """Refuse axes of unknown size, whose elements nobody can count."""
    if not has_sizes(xp, [shape[i] for i in axes]):
        message = (
            f"{caller} needs to know the sizes of the axes {axes} that it shares statistics over: got x of shape "
            f"{tuple(shape)}; call x.compute_chunk_sizes() first"
        )
        raise ValueError(message)


def check_affine(caller: str, x: Array, name: str, value: Array, axes: Shape) -> None:
    """Refuse a weight or bias of neither the norm's own shape, nor x's rank and broadcastable to x."""
    shape, own = tuple(value.shape), tuple(x.shape[i] for i in axes)
    if not fits(shape, own) and not broadcasts(shape, tuple(x.shape)):
        message = (
            f"{caller} needs {name} of shape {own}, or of x's rank and broadcastable to x's shape {tuple(x.shape)}: "
            f"got {shape}; reshape it"
        )
        raise ValueError(message)
    dtypes(caller, namespace_of(value), value, name)


class State(NamedTuple):
    """The mean and the variance of a state, laid along x's channels."""

    mean: Array
    var: Array


def state_of(caller: str, xp: Namespace, x: Array, stats: Any, channel: int) -> State:
    """Return the mean and the variance of stats, each in the dtype it is to be computed in, laid along x's channels."""
    if not (isinstance(stats, tuple) and hasattr(stats, "mean") and hasattr(stats, "var")):
        message = f"{caller} needs stats to be RunningStats(mean, var): got {type(stats).__name__}"
        raise TypeError(message)
    for name, value in (("stats.mean", stats.mean), ("stats.var", stats.var)):
        check_kin(caller, xp, x, name, value)
    return State(
        _channel_parameter(caller, xp, x, "stats.mean", stats.mean, channel),
        _channel_parameter(caller, xp, x, "stats.var", stats.var, channel),
    )


def _channel_parameter(caller: str, xp: Namespace, x: Array, name: str, value: Array, channel: int) -> Array:
    if not fits(tuple(value.shape), (x.shape[channel],)):
        message = (
            f"{caller} needs {name} of shape {(x.shape[channel],)}, one value a channel (x.shape[{channel}]): "
            f"got {tuple(value.shape)}; make the state with running_stats({x.shape[channel]}, like=x)"
        )
        raise ValueError(message)
    _, dtype = dtypes(caller, namespace_of(value), value, name)
    if dtype != value.dtype and xp.isdtype(value.dtype, ("bool", "integral")):
        message = f"{caller} needs {name} of a floating dtype: got {value.dtype}; make the state with running_stats"
        raise TypeError(message)
    return reshape(xp, like_x(caller, xp, name, value, dtype), shape_along(x, (channel,)))


def like_x(caller: str, xp: Namespace, name: str, value: Array, dtype: Any) -> Array:
    """Return a parameter in dtype, a NumPy one on a Dask array as Dask's."""
    dtypes(caller, namespace_of(value), value, name)
    if namespace_of(value) is not xp:
        value = xp.asarray(value)
    return xp.astype(value, dtype, copy=False)


def gradient_of(caller: str, xp: Namespace, x: Array, dy: Array) -> Array:
    """Return the gradient of the result, which has x's shape, a NumPy one on a Dask array as Dask's."""
    caller = f"{caller}'s pullback"
    check_kin(caller, xp, x, "dy", dy)
    if not fits(dy.shape, x.shape):
        message = (
            f"{caller} needs dy of the result's shape {tuple(x.shape)}: got {tuple(dy.shape)}; broadcast it, since a "
            f"gradient has one value for each element of the result"
        )
        raise ValueError(message)
    if dtypes(caller, namespace_of(dy), dy, "dy")[0] != dy.dtype:
        message = f"{caller} needs dy of a floating dtype: got {dy.dtype}; convert it to {dtypes(caller, xp, x)[0]}"
        raise TypeError(message)
    return dy if namespace_of(dy) is xp else xp.asarray(dy)


def mask_of(caller: str, xp: Namespace, x: Array, where: Array) -> Array:
    """Return the mask at x's rank."""
    kin = namespace_of(where)
    if kin is None or not kin.isdtype(where.dtype, "bool"):
        message = f"{caller} needs where to be a boolean mask: got dtype {where.dtype}; compare it, as in where != 0"
        raise TypeError(message)
    missing = x.ndim - where.ndim
    shape = (1,) * missing + tuple(where.shape)
    if not broadcasts(shape, tuple(x.shape)):
        message = (
            f"{caller} needs where to broadcast to x's shape {tuple(x.shape)}: got {tuple(where.shape)}; "
            f"give it x's rank, with 1 for the axes that it does not vary along"
        )
        raise ValueError(message)
    return at_rank(where if kin is xp else xp.asarray(where), x.ndim)


def at_rank(mask: Array, rank: int) -> Array:
    """Return a mask with the leading axes that it lacks."""
    return mask if mask.ndim == rank else mask[(None,) * (rank - mask.ndim) + (...,)]


def groups_of(caller: str, x: Array, channel: int, num_groups: int) -> int:
    """Return num_groups, which has to divide x's channels."""
    try:
        groups, channels = integer(caller, "num_groups", num_groups), x.shape[channel]
    except TypeError as error:
        raise ValueError(*error.args) from None
    if channels is None:
        message = (
            f"{caller} needs to know the number of channels, to split them into groups: got x of shape "
            f"{tuple(x.shape)}; give axis {channel} a size"
        )
        raise ValueError(message)
    if not has_sizes(namespace_of(x), x.shape):  # Dask's reshape would fail
        message = (
            f"{caller} needs to know every size of x, to split it into groups: got x of shape {tuple(x.shape)}; "
            "call x.compute_chunk_sizes() first"
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
