"""The engine for JAX: one compiled function, where JAX would dispatch operation after operation.

XLA decides what its sums cost and how exact they are, so they are written for it:

* Two sums over one operand become one loop, which saves a reading. Along the last axis it is not vectorised, and there
  one sum waits for the other.
* Elements of a slice that do not lie side by side are added one after another: those are summed apart from the others.
* What follows a sum is copied into each of its consumers, and rounded there in different ways.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from .._core import standardize as array_api
from .._core.arrays import sharded_as, smallest_square
from .._core.call import Statistics, split
from .._core.mean import BLOCK, Mean, sum_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.call import Call
    from .._core.libraries import Array, Shape

barrier = jax.lax.optimization_barrier

# ---------------------------------------------------------------------------------- the engine


def normalize(call: Call, *, keep: bool) -> tuple[Array, Statistics] | None:
    """Return the normalised array, and the statistics of its slices: XLA leaves out what nobody reads."""
    del keep
    if call.sync is not None:  # it may be another function in every call, each to be compiled for
        return None
    y, s = compose(_normalize, call, array_api.is_large(call.eps))
    return y, call.given or _counted(call, s)


def statistics(call: Call) -> Statistics | None:
    """Return the statistics of the slices."""
    return None if call.sync is not None else _counted(call, compose(_statistics, call, array_api.is_large(call.eps)))


def pull(call: Call, s: Statistics, dy: Array) -> tuple[Array, Array | None, Array | None] | None:
    """Return the gradients of x, weight and bias, given that of the result."""
    if call.sync is not None:
        return None
    done: tuple[Array, Array | None, Array | None] = compose(_pull, call, s, dy)
    return done


def compose(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function compiled for everything in its arguments, which are nested tuples, but arrays and floats."""
    leaves, tree = jax.tree.flatten(arguments)
    varies = [isinstance(leaf, (jax.Array, float)) for leaf in leaves]
    varying = [leaf for leaf, apart in zip(leaves, varies, strict=True) if apart]
    known = tuple(_VARIES if apart else leaf for leaf, apart in zip(leaves, varies, strict=True))
    return _compiled(function, tree, known, varying)


_VARIES = object()


@partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _compiled(function: Callable[..., Any], tree: Any, known: tuple[Any, ...], varying: list[Any]) -> Any:
    values = iter(varying)
    return function(*jax.tree.unflatten(tree, [next(values) if leaf is _VARIES else leaf for leaf in known]))


# ---------------------------------------------------------------------------------- what is compiled


def _normalize(call: Call, large: bool) -> tuple[Array, Statistics]:  # noqa: FBT001  it is known, while eps varies
    call = by_channel(call)
    x = call.inner(call.x)
    if call.given is not None or not sums_here(call, x):
        y, s = array_api.normalize(call)
        return y, _uncounted(s)
    readings, kernel = partial(_by_readings, call, large), partial(_as_one_kernel, call, large)
    if are_rows(x, call.layout.shared):
        y, s = jax.lax.platform_dependent(x, cpu=readings, default=kernel)
    else:
        y, s = readings(x)
    return call.finish(y), s


def _by_readings(call: Call, large: bool, x: Array) -> tuple[Array, Statistics]:  # noqa: FBT001
    """Return x standardised, and the statistics of its slices, by few readings of x."""
    axes, eps = call.layout.shared, array_api.TINY if large else call.eps
    if call.layout.centred:
        d, s = centre(x, axes, eps)
        # An infinite variance is NaN: by a product, since a choice is made again for every element in the gradient.
        s = s._replace(var=s.var + 0.0 * s.var if large else array_api.trusted(jnp, s.var, eps))
    else:
        d, s = x, Statistics(None, None, None, own_square(x, axes, eps))
    rstd = 1.0 / jnp.sqrt(s.var + call.eps) if large else array_api.rstd(jnp, s.var, call.eps, d.dtype)
    return d * barrier(rstd), s


def _as_one_kernel(call: Call, large: bool, x: Array) -> tuple[Array, Statistics]:  # noqa: FBT001
    """Return the same of rows, as XLA makes one kernel of it on GPUs: each sum waits for the one before.

    The products in the sum of squares are 0 where most elements are alike, as squares of d - left are not.
    """
    axes, eps = call.layout.shared, array_api.TINY if large else call.eps
    slices, n = Mean(jnp, x, axes), float(x.shape[-1])
    if call.layout.centred:
        element = array_api.first_of(x, axes)
        near = jax.lax.stop_gradient(element + _sum((x - element) / n, axes))
        d = x - near
        left = _sum(d / n, axes)
        var = array_api.told_from_constant(slices, d, _sum(d * (d - left) / n, axes), eps)
        var = array_api.trusted(jnp, var, eps)
        return (d - left) * array_api.rstd(jnp, var, call.eps, d.dtype), Statistics(None, near, left, var)
    square = _sum(x * x / n, axes)
    s = Statistics(None, None, None, array_api.within_range(slices, x, square, eps))
    if not large:
        return x * array_api.rstd(jnp, s.var, call.eps, x.dtype), s
    y = x * jax.lax.rsqrt(square + call.eps)
    lost = _sum(jnp.abs(y), axes) == 0.0  # where a square has left its range, whatever is not 0 has become 0
    return jnp.where(lost & (x != 0.0), math.nan, y), s


def _pull(call: Call, s: Statistics, dy: Array) -> tuple[Array, Array | None, Array | None]:
    return array_api.pull(by_channel(call), s, dy)


def _statistics(call: Call, large: bool) -> Statistics:  # noqa: FBT001
    x, eps = call.inner(call.x), array_api.TINY if large else call.eps
    if not sums_here(call, x):
        return _uncounted(array_api.statistics(call))
    return centre(x, call.layout.shared, eps)[1]


def sums_here(call: Call, x: Array) -> bool:
    """Whether the sums below are those to use.

    Not under a mask, nor where a slice is empty, of a size that is a symbol, or in parts on several devices, of which
    no element is at hand.
    """
    sizes_known = all(isinstance(size, int) for size in x.shape)
    whole = call.mask is None and call.sync is None and not in_parts(x, call.layout.shared)
    return whole and sizes_known and 0 not in x.shape


def are_rows(x: Array, axes: Shape) -> bool:
    """Whether slices are rows along the last axis."""
    return axes == (x.ndim - 1,)


def in_parts(x: Array, axes: Shape) -> bool:
    """Whether x may be sharded along axes: on explicit mesh axes its type says so, on automatic ones nobody knows."""
    sharding = jax.typeof(x).sharding
    automatic = jax.sharding.AxisType.Auto in sharding.mesh.axis_types and sharding.mesh.size > 1
    return automatic or any(sharding.spec[i] is not None for i in axes)


def by_channel(call: Call) -> Call:
    """Return a group norm of sharded channels as an instance norm whose channels add up their statistics.

    Groups need not end where shards do, so splitting the channels into groups would move x to other devices.
    """
    groups, sharding = call.layout.groups, jax.typeof(call.x).sharding
    if groups is None or sharding.spec[call.layout.affine[0]] is None:
        return call
    channel = call.layout.affine[0]

    def total(terms: Array) -> Array:
        spec = list(jax.typeof(terms).sharding.spec)
        spec[channel + 1] = None
        whole = jax.sharding.reshard(terms, jax.sharding.PartitionSpec(*spec))
        grouped = split(jnp, whole, channel + 1, groups)
        sums = jnp.broadcast_to(jnp.sum(grouped, axis=channel + 2, keepdims=True), grouped.shape)
        return sharded_as(jnp, jnp.reshape(sums, terms.shape), terms)

    return call._replace(layout=call.layout.by_channel(), sync=total)


def _uncounted(s: Statistics) -> Statistics:
    """Return statistics without a count that is a number, of which the compiled function would make an array."""
    return s._replace(count=None) if isinstance(s.count, int) else s


def _counted(call: Call, s: Statistics) -> Statistics:
    """Return statistics with the count of a slice, where that is known."""
    if s.count is not None or s.mean is None:
        return s
    shape = call.layout.shape(call.x)
    return s._replace(count=math.prod([shape[i] for i in call.layout.shared]))


def centre(x: Array, axes: Shape, eps: Any) -> tuple[Array, Statistics]:
    """Return x less its mean, and the statistics of its slices, both of which one reading gives.

    The sums are of deviations from a number near the elements; where all are equal it is one of them, and they are 0.
    The result does not depend on that number, so it has no part in a gradient.
    """
    element = array_api.first_of(x, axes)
    rows = are_rows(x, axes)
    some = x if rows else sample(x, axes)
    # The sum comes last: what comes after it may be copied into each consumer, and rounded there in different ways.
    share = 1.0 / math.prod([some.shape[i] for i in axes])
    near = barrier(jax.lax.stop_gradient(element + _sum((some - element) * share, axes)))
    d = x - near
    left = barrier(mean(d, axes)) if rows else mean(d, axes)
    s = array_api.about(Mean(jnp, x, axes), d, near, left, mean_square(d, axes), eps)
    left, var = barrier((s.rest, s.var))
    return (x - near) - left, Statistics(None, near, left, var)


SAMPLE = 256  # elements of a slice, whose mean is near that of all
SHORT = 1024  # elements of a slice that XLA adds one after another ...
SHORT_ROW = 512  # ... or of a row


def sample(a: Array, axes: Shape) -> Array:
    """Return about SAMPLE elements of every slice, evenly spaced along the outermost axes."""
    many = math.prod([a.shape[i] for i in axes]) // SAMPLE
    for axis in axes:
        step = min(a.shape[axis], max(1, many))
        a = jax.lax.slice_in_dim(a, (step - 1) // 2, None, step, axis)
        many //= step
    return a


def mean(a: Array, axes: Shape) -> Array:
    """Return the mean over axes, which stay at size 1."""
    size = float(math.prod([a.shape[i] for i in axes]))  # as an int of 2**31 it would overflow
    return _sum(a, axes) / size


def mean_square(a: Array, axes: Shape) -> Array:
    """Return the mean square; of a short slice by blocks, where XLA would add all its elements to a large one."""
    n = math.prod([a.shape[i] for i in axes])
    short = n <= (SHORT_ROW if are_rows(a, axes) else SHORT)
    return (_sum_of_short(a * a, axes) if short else _sum(a * a, axes)) / float(n)


def _sum_of_short(squares: Array, axes: Shape) -> Array:
    """Sum axis after axis, in blocks: abs() leaves squares as they are, and keeps XLA from making one sum of all."""
    for axis in axes:
        while squares.shape[axis] > BLOCK:
            squares = jnp.abs(sum_blocks(jnp, squares, axis, BLOCK))
        squares = jnp.abs(jnp.sum(squares, axis=axis, keepdims=True))
    return squares


def own_square(x: Array, axes: Shape, eps: Any) -> Array:
    """Return the mean square of slices that are not centred, NaN where it has left the range of its dtype.

    To find out what is infinite or 0 of itself takes a reading, which is done where there is reason to.
    """
    square = mean_square(x, axes)
    slices = Mean(jnp, x, axes)
    doubtful = (
        jnp.isinf(square)
        if array_api.is_large(eps)
        else jnp.isinf(square) | (square < smallest_square(jnp, square.dtype))
    )
    return jax.lax.cond(
        jnp.any(doubtful), lambda a, q: array_api.within_range(slices, a, q, eps), lambda _, q: q, x, square
    )


def _sum(a: Array, axes: Shape) -> Array:
    """Sum over axes: first over the more of those that are innermost in memory and those that are not."""
    inner = tuple(i for i in axes if all(j in axes for j in range(i, a.ndim)))
    outer = tuple(i for i in axes if i not in inner)
    if not (inner and outer):
        return jnp.sum(a, axis=axes, keepdims=True)
    more, fewer = sorted((inner, outer), key=lambda group: -math.prod([a.shape[i] for i in group]))
    return jnp.sum(barrier(jnp.sum(a, axis=more, keepdims=True)), axis=fewer, keepdims=True)
