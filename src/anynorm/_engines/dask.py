"""The engine for Dask: every block by the engine of its own library.

Where no boundary of chunks cuts a slice, a norm is one function of a block. Elsewhere each block gives the statistics
of its part of every slice, in float64; they are merged in a tree, and the norm is one function of a block and of those.
Groups that are cut are merged from the statistics of their channels. What is made twice of the same arrays has the same
names, and is computed once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dask.array as da
from dask.array.utils import meta_from_array

from .. import _engines as engines
from .._core import standardize as array_api
from .._core.arguments import same
from .._core.arrays import has_sizes, quiet, smallest_square
from .._core.call import Statistics, split
from .._core.libraries import namespace_of
from .._core.mean import counts, sum_over, sums_in
from .choice import beside_others

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.call import Call
    from .._core.libraries import Array, Shape

# ---------------------------------------------------------------------------------- the engine


def normalize(call: Call, *, keep: bool) -> tuple[Array, Statistics | None] | None:
    """Return the normalised array, and the statistics of its slices where they are to be kept."""
    if refused(call):
        return None
    s = statistics(call) if keep and call.given is None else call.given
    if is_whole(call):
        return by_block(_normalize, call), s
    return by_block(_normalize, by_channel(call), merged=of_slices(call)), s


def statistics(call: Call) -> Statistics | None:
    """Return the statistics of the slices."""
    return None if refused(call) else laid_out(call, of_slices(call))


def pull(call: Call, s: Statistics, dy: Array) -> tuple[Array, Array | None, Array | None] | None:
    """Return the gradients of x, weight and bias, given that of the result."""
    del s  # it is made again where it is needed
    if refused(call):
        return None
    whole, groups = is_whole(call), call
    call = call if whole else by_channel(call)
    made = {} if whole else {"merged": of_slices(groups)}
    dweight = None if call.weight is None else parameter_gradient(call, call.weight, 1, dy=dy, **made)
    dbias = None if call.bias is None else parameter_gradient(call, call.bias, 0, dy=dy, **made)
    if whole:
        return by_block(_pull, call, dy=dy), dweight, dbias
    g = dy.astype(call.computing)
    g = g if call.weight is None else g * call.broadcastable(call.weight)
    g = g if call.mask is None else da.where(call.mask, g, 0.0)
    products = over_groups(groups, products_over(call, call.layout.shared, dy=g, **made), _add)
    return by_block(_pull_by, call._replace(weight=None), dy=g, products=products, **made), dweight, dbias


def refused(call: Call) -> bool:
    """Whether a call is left to array-API code."""
    return call.sync is not None or type(call.eps) is not float or not call.x.ndim or 0 in call.x.shape


# ---------------------------------------------------------------------------------- slices and chunks


def slice_axes(call: Call) -> Shape:
    """Return the axes of x, its channels not split into groups, that a slice runs along."""
    if call.layout.groups is None:
        return call.layout.shared
    return tuple(sorted((*call.layout.by_channel().shared, *call.layout.affine)))


def by_channel(call: Call) -> Call:
    """Return the call of each channel by itself, where it was of groups."""
    return call._replace(layout=call.layout.by_channel())


def is_whole(call: Call) -> bool:
    """Whether a block has all that it takes to standardise it: no chunk boundary cuts a slice."""
    if call.given is not None:
        return True
    cut = [i for i in slice_axes(call) if call.x.numblocks[i] > 1]
    if call.layout.groups is None or cut != [*call.layout.affine]:
        return not cut
    return all(size % members(call) == 0 for size in call.x.chunks[cut[0]])


def members(call: Call) -> int:
    """Return how many channels a group has."""
    size: int = call.x.shape[call.layout.affine[0]] // call.layout.groups
    return size


def aligned(a: Array, x: Array) -> Array:
    """Return an array that broadcasts to x in x's chunks."""
    a = a if isinstance(a, da.Array) else da.asarray(a)
    return a.rechunk({i: x.chunks[i] for i in range(x.ndim) if a.shape[i] != 1 and not alike(a.chunks[i], x.chunks[i])})


def alike(sizes: Shape, others: Shape) -> bool:
    """Whether chunks have the same sizes, or sizes that nobody knows."""
    return len(sizes) == len(others) and all(map(same, sizes, others))


# ---------------------------------------------------------------------------------- graphs


def by_block(
    work: Callable[..., Array], call: Call, *, axes: Shape | None = None, width: int = 0, **others: Array
) -> Array:
    """Return what work makes of a block of the call, and of the same block of other arrays.

    That is a block of the result; or where axes are named, of size 1 along them, with a new last axis of a width.
    """
    x, rank = call.x, call.x.ndim
    arrays = {"mask": call.mask, **others}
    for name, parameter in (("weight", call.weight), ("bias", call.bias)):
        arrays[name] = None if parameter is None else call.broadcastable(parameter)
    if call.given is not None:
        arrays |= {"mean": call.given.mean, "rest": call.given.rest, "var": call.given.var}
    arrays = {name: aligned(a, x) for name, a in arrays.items() if a is not None}
    index = tuple(range(rank))
    pairs = [part for a in arrays.values() for part in (a, index if a.ndim == rank else (*index, -a.shape[-1]))]
    dtype = call.dtype if axes is None else "f8"
    return da.blockwise(
        _on_block, index if axes is None else (*index, rank), x, index, *pairs,
        work=work, call=plain(call), names=tuple(arrays), size=call.layout.groups and members(call), axes=axes,
        token=f"anynorm{work.__name__}", new_axes={} if axes is None else {rank: width},
        adjust_chunks=dict.fromkeys(axes or (), 1), concatenate=True, align_arrays=False,
        dtype=dtype, meta=meta_from_array(x._meta, ndim=rank + (axes is not None), dtype=dtype),  # noqa: SLF001
    )  # fmt: skip


def plain(call: Call) -> Call:
    """Return what a block has to know of a call."""
    return call._replace(xp=None, x=None, weight=None, bias=None, mask=None, given=None, kind=None, plan=None)


TOGETHER = 8  # blocks of an axis that are merged at once


def tree(parts: Array, merge: Callable[..., Array], axes: Shape) -> Array:
    """Merge what the blocks along axes gave."""
    if all(parts.numblocks[i] == 1 for i in axes):
        return parts
    return da.reduction(
        parts, chunk=_unchanged, aggregate=merge, axis=axes, keepdims=True, split_every=dict.fromkeys(axes, TOGETHER),
        concatenate=True,
        dtype=parts.dtype, meta=parts._meta,  # noqa: SLF001
    )  # fmt: skip


def of_slices(call: Call) -> Array:
    """Return count, mean, the rest of the mean and variance of every slice along a new last axis, in x's chunks."""
    own = by_channel(call)
    parts = by_block(_measure, own._replace(weight=None, bias=None), axes=own.layout.shared, width=4)
    return over_groups(call, tree(parts, _merge, own.layout.shared), _merge)


def products_over(call: Call, axes: Shape, **arrays: Array) -> Array:
    """Return the sums, over axes, of a gradient and of its product with the standardised x, along a new last axis."""
    return tree(by_block(_products, call, axes=axes, width=2, **arrays), _add, axes)


def parameter_gradient(call: Call, parameter: Array, which: int, **arrays: Array) -> Array:
    """Return the gradient of weight or bias."""
    axes = tuple(i for i, size in enumerate(call.broadcastable(parameter).shape) if size == 1)
    totals = products_over(call._replace(weight=None, bias=None), axes, **arrays)
    return call.gradient(parameter, totals[..., which].astype(call.computing))


def over_groups(call: Call, parts: Array, merge: Callable[..., Array]) -> Array:
    """Give all the channels of a group what they amount to together."""
    if call.layout.groups is None:
        return parts
    (channel,) = call.layout.affine
    return parts.rechunk({channel: -1}).map_blocks(
        _over_groups, merge=merge, axis=channel, size=members(call), dtype=parts.dtype, meta=parts._meta  # noqa: SLF001
    )  # fmt: skip


def laid_out(call: Call, parts: Array) -> Statistics:
    """Return merged statistics as they broadcast to x, its channel axis split into groups."""
    s = rounded(call, parts)
    sizes = [call.x.shape[i] for i in slice_axes(call)]
    if call.mask is None and has_sizes(call.xp, sizes):
        s = s._replace(count=math.prod(sizes) // (call.layout.groups or 1))
    if call.layout.groups is None:
        return s
    (channel,) = call.layout.affine
    first = (slice(None),) * channel + (slice(None, None, members(call)), None)
    return Statistics(*(a[first] if isinstance(a, da.Array) else a for a in s))


def rounded(call: Call, parts: Array) -> Statistics:
    """Return merged statistics in the dtype to compute in; a variance that has left its range is NaN."""
    xp: Any = namespace_of(parts)
    dtype = call.computing
    count, mean, rest, var = (parts[..., i] for i in range(4))
    least = smallest_square(xp, dtype) / 2
    with quiet(xp, over="ignore"):
        narrow = xp.astype(xp.where((var != 0) & (var < least), least, var), dtype)
        known = array_api.trusted(xp, narrow, call.eps)
        first = xp.astype(mean, dtype)
        rest = xp.astype(xp.where(var == 0, 0.0, (mean - first) + rest), dtype)
    # A mean square is infinite where x is.
    return Statistics(xp.astype(count, dtype), first, rest, xp.where(xp.isinf(var), math.inf, known))


# ---------------------------------------------------------------------------------- what is done with a block


def _on_block(
    x: Array,
    *others: Array,
    work: Callable[..., Array],
    call: Call,
    names: tuple[str, ...],
    size: int | None,
    axes: Shape | None,
) -> Array:
    """Do work with the call that is of this block alone."""
    xp: Any = namespace_of(x)
    others = tuple(a if namespace_of(a) is xp else xp.asarray(a) for a in others)  # NumPy's beside another's
    arrays = dict(zip(names, others, strict=True))
    layout = call.layout
    if size is not None:
        layout = layout._replace(groups=x.shape[layout.affine[0]] // size)
    call = call._replace(
        layout=layout, xp=xp, x=x, mask=arrays.pop("mask", None),
        weight=arrays.pop("weight", None), bias=arrays.pop("bias", None),
    )  # fmt: skip
    merged = arrays.pop("merged", None)
    if merged is not None:
        call = call._replace(given=rounded(call, merged))
    elif "var" in arrays:
        given = (arrays.pop(name, None) for name in ("mean", "rest", "var"))
        call = call._replace(given=Statistics(None, *given))
    with beside_others():
        return work(call, **arrays) if axes is None else work(call, axes, **arrays)


def _normalize(call: Call) -> Array:
    return engines.normalize(call)[0]


def _measure(call: Call, axes: Shape) -> Array:
    """Return count, mean, the rest of the mean and variance of a block's part of every slice; rms has mean 0."""
    del axes  # those of its slices
    xp = call.xp
    if call.layout.centred:
        s = engines.statistics(call)
        return stack(xp, s.counts(xp), s.mean, s.rest, s.var)
    x = call.inner(call.x)
    mean = call.mean(x)
    square = array_api.mean_square(x, mean, call.eps)
    zero = xp.zeros_like(square)
    return stack(xp, counts(xp, mean.count, square), zero, zero, square)


def _products(call: Call, axes: Shape, dy: Array) -> Array:
    """Return the sums of a gradient and of its product with the standardised x."""
    xp = call.xp
    y = call.join(array_api.standardize(call)[0])
    g = xp.astype(dy, y.dtype, copy=False)
    with quiet(xp):
        return stack(xp, *(sum_over(xp, a, axes, sums_in(xp, a)) for a in (g, g * y)))


def _pull(call: Call, dy: Array) -> Array:
    """Return the gradient of x in a block that has all of its slices."""
    s = engines.normalize(call, keep=True)[1]
    return engines.pull(call, s, dy)[0]


def _pull_by(call: Call, dy: Array, products: Array) -> Array:
    """Return the gradient of x in a block of slices whose statistics and products are known."""
    xp, s = call.xp, call.given
    assert s is not None  # noqa: S101
    means = products / xp.where(s.count > 0, s.count, 1.0)[..., None]
    shift, scale = (xp.astype(means[..., i], call.computing) for i in range(2))
    return array_api.pull(call, s, dy, lambda *_: (shift if call.layout.centred else None, scale))[0]


def stack(xp: Any, *arrays: Array) -> Array:
    """Return arrays along a new last axis, in float64."""
    return xp.stack([xp.astype(a, xp.float64) for a in arrays], axis=-1)


# ---------------------------------------------------------------------------------- what is merged


def _unchanged(parts: Array, axis: Shape, keepdims: bool) -> Array:  # noqa: FBT001
    del axis, keepdims
    return parts


def _add(parts: Array, axis: Shape, keepdims: bool) -> Array:  # noqa: FBT001
    xp: Any = namespace_of(parts)
    return xp.sum(parts, axis=axis, keepdims=keepdims)


def _merge(parts: Array, axis: Shape, keepdims: bool) -> Array:  # noqa: FBT001
    """Return the statistics of all the parts along axes together."""
    xp: Any = namespace_of(parts)
    axes = tuple(i + 1 for i in axis)
    s = Statistics(*(parts[..., i] for i in range(4)))
    with quiet(xp):
        s = array_api.pool(xp, s, lambda terms: xp.sum(terms, axis=axes, keepdims=keepdims))
    return xp.stack([*s], axis=-1)


def _over_groups(parts: Array, *, merge: Callable[..., Array], axis: int, size: int) -> Array:
    """Give all the channels of a group what they amount to together."""
    xp: Any = namespace_of(parts)
    groups = split(xp, parts, axis, parts.shape[axis] // size)
    whole = merge(groups, (axis + 1,), keepdims=True)
    return xp.reshape(xp.broadcast_to(whole, groups.shape), parts.shape)
