"""The computation behind every norm, in array-API code: the statistics of a slice, and what is done with them.

The mean is carried as an unevaluated sum of two floats, mean + rest. Wherever x lies near its mean, x - mean is exact,
and the rest is what is left of the mean after that: so the offset of the data costs no digits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ._arrays import quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._arrays import Array, Namespace
    from ._mean import Mean


class Statistics(NamedTuple):
    """How many elements a slice has, their mean, in two parts, and their biased variance, broadcastable to x."""

    count: Any
    mean: Array
    rest: Array
    var: Array


def standardize(x: Array, mean: Mean, eps: Any) -> Array:
    """Return x with mean 0 and variance 1 over each of mean's slices."""
    d, s = centre(x, mean)
    return d * rstd(mean.xp, s.var, eps)


def standardize_rms(x: Array, mean: Mean, eps: Any) -> Array:
    """Return x with mean square 1 over each of mean's slices."""
    x = mean.select(x)
    with quiet(mean.xp):
        return x * rstd(mean.xp, mean(x * x), eps)


def standardize_given(x: Array, mean: Mean, centre: Array, var: Array, eps: Any) -> Array:
    """Return x standardised with a given centre and variance, to the last digit of a centre wider than x."""
    xp = mean.xp
    first = xp.astype(centre, x.dtype, copy=False)
    with quiet(xp):
        d = mean.select(x - first)
        if xp.finfo(centre.dtype).bits > xp.finfo(x.dtype).bits:
            d = d - xp.astype(centre - xp.astype(first, centre.dtype), x.dtype)
        return d * rstd(xp, xp.astype(var, x.dtype, copy=False), eps)


def centre(x: Array, mean: Mean) -> tuple[Array, Statistics]:
    """Return x less its mean, and the statistics of its slices, those of all the replicas where there are any.

    A slice is constant when x equals its mean everywhere: then, and only then, its squares sum to exactly 0. Its rest
    is rounding alone, and is dropped, which makes it standardise to exactly 0 and leaves its gradient as it is.
    """
    with quiet(mean.xp):
        first, rest = mean.parts(x)
        d = mean.select(x - first)
    square = mean.local(d * d)
    if not mean.exact:
        rest = mean.xp.where(square == 0, 0.0, rest)
    s = Statistics(mean.count, first, rest, square - rest * rest)
    if mean.sync is not None:
        s = pool(mean.xp, s._replace(count=mean.counts(s.var)), mean.sync)
        d = mean.select(x - s.mean)
    return d - s.rest, s


def pool(xp: Namespace, part: Statistics, total: Callable[[Array], Array]) -> Statistics:
    """Return the statistics of all parts together, where total sums a stack of terms over the parts.

    The mean is taken as of elements: roughly first, then what the parts' means deviate from that.
    """
    count, weighted = unstack(total(xp.stack([part.count, part.count * part.mean], axis=0)))
    divisor = xp.where(count > 0, count, 1.0)
    rough = weighted / divisor
    with quiet(xp):
        d = (part.mean - rough) + part.rest
    terms = [part.count * d, part.count * d * d, part.count * part.var]
    error, square, within = (term / divisor for term in unstack(total(xp.stack(terms, axis=0))))
    first = rough + error
    # Constant parts of one mean deviate from the rough one alike, but for rounding: together they are constant.
    constant = (within == 0) & (square - error * error <= 16 * xp.finfo(square.dtype).eps * square)
    rest = xp.where(constant, 0.0, error - (first - rough))
    between = xp.where(constant, 0.0, square - error * error)
    return Statistics(count, first, rest, within + xp.where(between > 0, between, 0.0))


def unstack(stack: Array) -> list[Array]:
    """Return the arrays of a stack (the standard's own unstack is too new for some libraries)."""
    return [stack[i, ...] for i in range(stack.shape[0])]


TINY = 2.0**-120  # large enough to be no zero in float32


def rstd(xp: Namespace, var: Array, eps: Any) -> Array:
    """Return 1 / sqrt(var + eps), or 0 where that has no value: finite, and with a finite gradient."""
    total = var + eps
    if isinstance(eps, float) and eps >= TINY:
        return 1.0 / xp.sqrt(total)
    return 1.0 / xp.sqrt(xp.where(total <= 0, math.inf, total))
