"""What has to be known about arrays before they can be normalised.

Libraries, dtypes, axes, shapes and sums live here, and so does every error message about them.
"""

from __future__ import annotations

import math
import operator
import sys
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

Array: TypeAlias = Any  # an array of any library: the standard has no type for it yet
Namespace: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]

# --------------------------------------------------------------------------------------------------
# Libraries and devices
# --------------------------------------------------------------------------------------------------

_namespaces: dict[type, Namespace | None] = {}  # asked of array-api-compat once a type: a lookup is 20 times faster


def library(value: object) -> Namespace | None:
    """Return the array-API namespace of an array, None for anything else."""
    kind = type(value)
    if kind not in _namespaces:
        _namespaces[kind] = _find_library(value)
    return _namespaces[kind]


def _find_library(value: object) -> Namespace | None:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        # array_namespace makes Dynamo warn about its lru_cache, so torch is answered without it.
        import array_api_compat.torch

        return array_api_compat.torch
    ma = sys.modules.get("numpy.ma")
    if ma is not None and isinstance(value, ma.MaskedArray):
        message = "anynorm takes no masked arrays: got one; pass its .data, and where=~numpy.ma.getmaskarray(x)"
        raise TypeError(message)
    from array_api_compat import array_namespace  # when it is needed: it is most of what importing anynorm would cost

    try:
        return array_namespace(value)
    except TypeError:
        return None


_NAMES = {
    "array_api_compat.numpy": "numpy",
    "array_api_compat.cupy": "cupy",
    "array_api_compat.torch": "torch",
    "array_api_compat.dask.array": "dask",
    "jax.numpy": "jax",
}


def library_name(xp: Namespace) -> str:
    """Return the name a user knows the library by (array-api-compat's predicates are cached, of which Dynamo warns)."""
    name: str = xp.__name__
    return _NAMES.get(name, name)


def namespace(caller: str, x: Array, /, **others: Array | None) -> Namespace:
    """Return x's namespace, having checked that all the arrays are of one library and on one device."""
    xp = library(x)
    if xp is None:
        message = (
            f"{caller} needs x to be an array of NumPy, CuPy, JAX, PyTorch, Dask or another library of the array "
            f"API standard: got {type(x).__name__}; convert it first, with numpy.asarray(x) for example"
        )
        raise TypeError(message)
    for name, value in others.items():
        if value is not None:
            _check_kin(caller, xp, x, name, value)
    return xp


def _check_kin(caller: str, xp: Namespace, x: Array, name: str, value: Array) -> None:
    kin = library(value)
    if kin is None:
        message = (
            f"{caller} needs {name} to be an array of x's library, {library_name(xp)}: "
            f"got {type(value).__name__}; convert it"
        )
        raise TypeError(message)
    if kin is not xp and (library_name(xp), library_name(kin)) != ("dask", "numpy"):
        message = (
            f"{caller} needs all arrays from one library: got x from {library_name(xp)} and {name} from "
            f"{library_name(kin)}; convert one of them"
        )
        raise TypeError(message)
    place, other = device_of(xp, x), device_of(kin, value)
    if place is not None and other is not None and place != other:
        message = (
            f"{caller} needs all arrays on one device: got x on {place} and {name} on {other}; move one of them, "
            f"since anynorm never does"
        )
        raise ValueError(message)


def device_of(xp: Namespace, x: Array) -> Any:
    """Return x's device, or None where there is nothing to choose: NumPy, Dask, and JAX (its tracers have none)."""
    if library_name(xp) in ("numpy", "jax", "dask"):
        return None
    return x.device


# --------------------------------------------------------------------------------------------------
# Dtypes
# --------------------------------------------------------------------------------------------------

_floats: dict[tuple[type, Any], Any] = {}  # (array type, floating dtype) -> the dtype to compute in


def dtypes(caller: str, xp: Namespace, x: Array, name: str = "x") -> tuple[Any, Any]:
    """Return the dtype of the result and the dtype to compute in, for an array of real numbers."""
    key = (type(x), x.dtype)
    if key in _floats:
        return x.dtype, _floats[key]
    if not is_number(xp, x.dtype):
        message = (
            f"{caller} needs {name} to hold real numbers: got dtype {x.dtype} of {library_name(xp)}; "
            f"convert it to float32, or pass the parts of a complex array one by one"
        )
        raise TypeError(message)
    if not xp.isdtype(x.dtype, "real floating"):
        default = xp.__array_namespace_info__().default_dtypes(device=device_of(xp, x))["real floating"]
        return default, default
    _floats[key] = xp.float32 if xp.finfo(x.dtype).bits < 32 else x.dtype
    return x.dtype, _floats[key]


def is_number(xp: Namespace, dtype: Any) -> bool:
    """Whether the library knows dtype as boolean, integer or real floating (ml_dtypes in NumPy it does not)."""
    try:
        known = xp.isdtype(dtype, ("bool", "integral", "real floating"))
        return bool(known and (xp.isdtype(dtype, ("bool", "integral")) or xp.finfo(dtype).bits > 0))
    except (TypeError, ValueError):
        return False


def default_integer(xp: Namespace, x: Array) -> Any:
    """Return the dtype that the library counts in."""
    return xp.__array_namespace_info__().default_dtypes(device=device_of(xp, x))["integral"]


def has_float64(xp: Namespace, x: Array) -> bool:
    """Whether x's device has float64 (asking the namespace for the attribute is not enough)."""
    return "float64" in xp.__array_namespace_info__().dtypes(kind="real floating", device=device_of(xp, x))


# --------------------------------------------------------------------------------------------------
# Axes and numbers
# --------------------------------------------------------------------------------------------------


def rank(caller: str, x: Array) -> int:
    """Return the number of x's axes."""
    namespace(caller, x)
    ndim: int = x.ndim
    return ndim


def axes_of(caller: str, axis: int | tuple[int, ...] | None, ndim: int) -> Shape:
    """Return axis as sorted non-negative axes; None is all of them."""
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    if not given:
        message = f"{caller} needs at least one axis: got axis=(); name the axes that share their statistics"
        raise ValueError(message)
    found = [axis_of(caller, "axis", one, ndim) for one in given]
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


def number(caller: str, name: str, value: Any, low: float, high: float) -> Any:
    """Return value as a Python float within [low, high]; arrays without axes pass unlooked at, traced ones included."""
    if isinstance(value, (float, int, Real)) and not isinstance(value, bool):
        # A NumPy scalar would promote float32 arrays; a Python float promotes none.
        if not low <= float(value) <= high:
            bounds = f"at least {low:g} and finite" if high > 1 else f"from {low:g} to {high:g}"
            message = f"{caller} needs {name} to be {bounds}: got {value!r}"
            raise ValueError(message)
        return float(value)
    if library(value) is None or value.ndim:
        shape = f" of shape {tuple(value.shape)}" if library(value) is not None else ""
        message = f"{caller} needs {name} to be a number: got {type(value).__name__}{shape}"
        raise TypeError(message)
    return value


def cast(xp: Namespace, value: Any, dtype: Any) -> Any:
    """Return a number that may be an array in dtype; a Python number follows the dtype it meets."""
    return value if isinstance(value, (int, float)) else xp.astype(value, dtype, copy=False)


def as_array(value: Any) -> Any:
    """Return an array of what NumPy turned into a scalar because it has no axes."""
    xp = None if isinstance(value, int) else library(value)
    return xp.asarray(value) if xp is not None and library_name(xp) == "numpy" else value


LARGEST = sys.float_info.max

# --------------------------------------------------------------------------------------------------
# Shapes of what comes with x
# --------------------------------------------------------------------------------------------------


def broadcasts(shape: Shape, target: Shape) -> bool:
    """Whether shape, of target's rank, broadcasts to target without enlarging it."""
    return len(shape) == len(target) and all(a in (1, b) for a, b in zip(shape, target, strict=True))


def along(x: Array, axes: Shape) -> Shape:
    """Return the shape that lays an array of the sizes of axes along them, at x's rank."""
    return tuple(size if i in axes else 1 for i, size in enumerate(x.shape))


def affine_parameter(caller: str, xp: Namespace, x: Array, name: str, value: Array, axes: Shape, dtype: Any) -> Array:
    """Return weight or bias in dtype at x's rank: given in the norm's own shape, or broadcastable to x at its rank."""
    shape, own = tuple(value.shape), tuple(x.shape[i] for i in axes)
    if shape != own and not broadcasts(shape, tuple(x.shape)):
        message = (
            f"{caller} needs {name} of shape {own}, or of x's rank and broadcastable to x's shape {tuple(x.shape)}: "
            f"got {shape}; reshape it"
        )
        raise ValueError(message)
    value = like_x(caller, xp, name, value, dtype)
    return xp.reshape(value, along(x, axes)) if shape == own else value


def state_of(caller: str, xp: Namespace, x: Array, stats: Any, channel: int) -> State:
    """Return the mean and the variance of stats, each in the dtype it is to be computed in, laid along x's channels."""
    if not (isinstance(stats, tuple) and hasattr(stats, "mean") and hasattr(stats, "var")):
        message = f"{caller} needs stats to be RunningStats(mean, var): got {type(stats).__name__}"
        raise TypeError(message)
    namespace(caller, x, **{"stats.mean": stats.mean, "stats.var": stats.var})
    return State(
        _channel_parameter(caller, xp, x, "stats.mean", stats.mean, channel),
        _channel_parameter(caller, xp, x, "stats.var", stats.var, channel),
    )


def _channel_parameter(caller: str, xp: Namespace, x: Array, name: str, value: Array, channel: int) -> Array:
    if tuple(value.shape) != (x.shape[channel],):
        message = (
            f"{caller} needs {name} of shape {(x.shape[channel],)}, one value a channel (x.shape[{channel}]): "
            f"got {tuple(value.shape)}; make the state with running_stats({x.shape[channel]}, like=x)"
        )
        raise ValueError(message)
    _, dtype = dtypes(caller, library(value), value, name)
    return xp.reshape(like_x(caller, xp, name, value, dtype), along(x, (channel,)))


def like_x(caller: str, xp: Namespace, name: str, value: Array, dtype: Any) -> Array:
    """Return a parameter in dtype, a NumPy one on a Dask array as Dask's."""
    dtypes(caller, library(value), value, name)
    if library(value) is not xp:
        value = xp.asarray(value)
    return xp.astype(value, dtype, copy=False)


def mask_of(caller: str, xp: Namespace, x: Array, where: Array) -> Array:
    """Return the mask at x's rank."""
    kin = library(where)
    if kin is None or not kin.isdtype(where.dtype, "bool"):
        message = f"{caller} needs where to be a boolean mask: got dtype {where.dtype}; compare it, as in where != 0"
        raise TypeError(message)
    shape = (1,) * (x.ndim - where.ndim) + tuple(where.shape)
    if not broadcasts(shape, tuple(x.shape)):
        message = (
            f"{caller} needs where to broadcast to x's shape {tuple(x.shape)}: got {tuple(where.shape)}; "
            f"give it x's rank, with 1 for the axes that it does not vary along"
        )
        raise ValueError(message)
    return xp.reshape(where if kin is xp else xp.asarray(where), shape)


def groups_of(caller: str, x: Array, channel: int, num_groups: int) -> int:
    """Return num_groups, which has to divide x's channels."""
    groups, channels = integer(caller, "num_groups", num_groups), x.shape[channel]
    if groups < 1 or channels % groups:
        divisors = [str(d) for d in range(1, channels + 1) if channels % d == 0]
        use = " or ".join([", ".join(divisors[:-1]), divisors[-1]] if len(divisors) > 1 else divisors)
        message = (
            f"{caller} needs num_groups to divide the channels: got {channels} channels (x.shape[{channel}]) and "
            f"num_groups={groups}; use {use or 'a positive number'}"
        )
        raise ValueError(message)
    return groups


def split(xp: Namespace, a: Array, axis: int, parts: int) -> Array:
    """Split an axis into (parts, size / parts), or (1, 1) where it only broadcasts: always a view."""
    size = a.shape[axis]
    pair = (1, 1) if size == 1 else (parts, size // parts)
    return xp.reshape(a, (*a.shape[:axis], *pair, *a.shape[axis + 1 :]))


# --------------------------------------------------------------------------------------------------
# Sums
# --------------------------------------------------------------------------------------------------


def is_compiling() -> bool:
    """Whether torch.compile is tracing the call; only to be asked of a torch call."""
    import torch

    return torch.compiler.is_compiling()


class Mean:
    """The mean over each slice: the elements that share their statistics, less those that the mask hides.

    It knows the axes, the mask, and how to sum exactly enough: the promise of accuracy rests on it.
    """

    __slots__ = ("axes", "count", "divisor", "exact", "mask", "wide", "xp")

    def __init__(self, caller: str, xp: Namespace, x: Array, axes: Shape, mask: Array | None = None) -> None:
        self.xp, self.axes, self.mask = xp, axes, mask
        self.wide = xp.float64 if sums_in_float64(xp, x) else None
        self.count = _count(caller, xp, x, axes, mask)  # elements in a slice: an int, or integers under a mask
        if mask is None:
            self.divisor = max(self.count, 1)
            # float64 adds 2**29 equal float32 values without rounding: the rest of a constant slice is 0 by itself.
            self.exact = self.wide is not None and self.count <= 2**29
        else:
            self.exact = False
            self.divisor = xp.astype(xp.where(self.count > 0, self.count, 1), self.wide or x.dtype)

    def select(self, a: Array) -> Array:
        """Return a with 0 where the mask hides it: before it is summed or multiplied, so that it spoils nothing."""
        return a if self.mask is None else self.xp.where(self.mask, a, 0.0)

    def __call__(self, a: Array) -> Array:
        """Return the mean over each slice of what has been selected, its axes kept at size 1."""
        return self.xp.astype(self._mean(a), a.dtype, copy=False)

    def counts(self, like: Array) -> Array:
        """Return the count of every slice, in the shape and the dtype of its statistics."""
        count = float(self.count) if self.mask is None else self.xp.astype(self.count, like.dtype)
        return self.xp.zeros_like(like) + count

    def parts(self, a: Array) -> tuple[Array, Array]:
        """Return the mean as an unevaluated sum of two floats, which holds it to about twice a's precision.

        A float64 sum of float32 holds both parts. Elsewhere the mean of what is left after the first gives the second.
        """
        if self.wide is not None:
            exact = self._mean(self.select(a))
            first = self.xp.astype(exact, a.dtype)
            return first, self.xp.astype(exact - first, a.dtype)
        rough = self._settled(self.select(a))
        error = self._settled(self.select(a - rough))
        first = rough + error
        return first, error - (first - rough)

    def _settled(self, a: Array) -> Array:
        """Return the mean, the same wherever it is used.

        XLA copies what follows a sum into every fused consumer. In one a division may become part of a multiply-add, in
        another be rounded: the copies differ in the last place, which at offset 1e6 is an error of 3e-3. The sum itself
        is computed once, so there the division comes first.
        """
        return self._sum(a / self.divisor) if library_name(self.xp) == "jax" else self._mean(a)

    def _mean(self, a: Array) -> Array:
        return self._sum(a) / self.divisor

    def _sum(self, a: Array) -> Array:
        xp = self.xp
        if not self.axes:
            return a
        if self.wide is not None:
            return xp.sum(a, axis=self.axes, keepdims=True, dtype=self.wide)
        if library_name(xp) in ("jax", "torch", "dask"):
            return xp.sum(a, axis=self.axes, keepdims=True)
        return sum_in_blocks(xp, a, self.axes)


def sums_in_float64(xp: Namespace, x: Array) -> bool:
    """Whether float32 is summed in float64, because the library's own float32 sum would miss the promise.

    NumPy's does over leading axes: it errs by 6 for (4194304, 4) at offset 1e3. So do the sums that torch.compile
    writes: those of squares err by 5e-6. The sums of JAX and of eager torch are good enough, and a float64 sum takes
    eager torch thirty times as long.
    """
    name = library_name(xp)
    if x.dtype != xp.float32 or name == "jax" or (name == "torch" and not is_compiling()):
        return False
    return name == "numpy" or has_float64(xp, x)


def _count(caller: str, xp: Namespace, x: Array, axes: Shape, mask: Array | None) -> Any:
    """Count the elements of a slice in integers, since float sums of ones stop at 2**24."""
    size = math.prod([x.shape[i] for i in axes])
    if math.isnan(size):
        message = (
            f"{caller} needs to know the sizes of the axes {axes} that it shares statistics over: got x of shape "
            f"{tuple(x.shape)}; call x.compute_chunk_sizes() first"
        )
        raise ValueError(message)
    if mask is None:
        return size
    repeats = math.prod([x.shape[i] for i in axes if mask.shape[i] == 1])
    whole = xp.astype(mask, default_integer(xp, x))
    return repeats * (xp.sum(whole, axis=axes, keepdims=True) if axes else whole)


BLOCK = 128  # a block's sum errs by at most 128 roundings, by about 11 where they are random


def sum_in_blocks(xp: Namespace, a: Array, axes: Shape) -> Array:
    """Sum over axes in blocks, and blocks of blocks, so that no error grows with the number of elements.

    NumPy adds one row to another over leading axes: on photographs its float64 mean is off by 3e-12.
    """
    for axis in axes:
        while a.shape[axis] > BLOCK:
            blocks, rest = divmod(a.shape[axis], BLOCK)
            before, after = a.shape[:axis], a.shape[axis + 1 :]
            whole = (slice(None),) * axis
            head, tail = a[(*whole, slice(0, blocks * BLOCK), ...)], a[(*whole, slice(blocks * BLOCK, None), ...)]
            sums = xp.sum(xp.reshape(head, (*before, blocks, BLOCK, *after)), axis=axis + 1)
            if rest:
                sums = xp.concat([sums, xp.sum(tail, axis=axis, keepdims=True)], axis=axis)
            a = sums
    return xp.sum(a, axis=axes, keepdims=True)


# --------------------------------------------------------------------------------------------------
# A call, checked and ready to compute
# --------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """What tells one norm from another: its axes."""

    caller: str
    shared: Shape  # the axes whose elements share one mean and one variance
    affine: Shape = ()  # the axes that weight and bias run along
    groups: int | None = None  # into how many the channel axis is split: shared then names axes of the split array


class State(NamedTuple):
    """A given mean and variance, laid along x's channels."""

    mean: Array
    var: Array


class Call(NamedTuple):
    """A checked call: x in the dtype to compute in, its mean, and what is to be done to the standardised array."""

    layout: Layout
    xp: Namespace
    x: Array
    mean: Mean
    eps: Any
    weight: Array | None
    bias: Array | None
    mask: Array | None
    state: State | None
    like: Array  # x as it was given
    dtype: Any  # the result's

    def finish(self, y: Array) -> Array:
        """Turn the standardised array into the result: x's shape, mask, affine, dtype and chunks."""
        xp = self.xp
        if self.layout.groups is not None:
            y = xp.reshape(y, self.like.shape)
        if self.mask is not None:
            y = xp.where(self.mask, y, 0.0)
        if self.weight is not None:
            y = y * self.weight
        if self.bias is not None:
            y = y + self.bias
        y = xp.astype(y, self.dtype, copy=False)
        # Splitting channels into groups may have moved Dask's chunk boundaries; everything else keeps them.
        return y.rechunk(self.like.chunks) if library_name(xp) == "dask" and y.chunks != self.like.chunks else y


def prepare(
    layout: Layout,
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: Any = 0.0,
    where: Array | None = None,
    sync: Any = None,
    stats: Any = None,
) -> Call:
    """Check everything, and return what the computation needs."""
    caller = layout.caller
    xp = namespace(caller, x, weight=weight, bias=bias, where=where)
    dtype, computing = dtypes(caller, xp, x)
    state = None if stats is None else state_of(caller, xp, x, stats, layout.affine[0])
    if sync is not None:
        message = f"{caller} does not join replicas yet: got sync={sync!r}; leave it out"
        raise NotImplementedError(message)
    eps = cast(xp, number(caller, "eps", eps, 0.0, LARGEST), computing)
    if weight is not None:
        weight = affine_parameter(caller, xp, x, "weight", weight, layout.affine, computing)
    if bias is not None:
        bias = affine_parameter(caller, xp, x, "bias", bias, layout.affine, computing)
    mask = inner_mask = None if where is None else mask_of(caller, xp, x, where)
    a = xp.astype(x, computing, copy=False)
    if layout.groups is not None:
        channel, groups = layout.affine[0], groups_of(caller, x, layout.affine[0], layout.groups)
        a = split(xp, a, channel, groups)
        inner_mask = None if mask is None else split(xp, mask, channel, groups)
    mean = Mean(caller, xp, a, layout.shared, inner_mask)
    return Call(layout, xp, a, mean, eps, weight, bias, mask, state, x, dtype)
