"""The computation behind every norm, in array-API code: the statistics of a slice, and what is done with them.

The mean is carried as an unevaluated sum of two floats, mean + rest. Wherever x lies near its mean, x - mean is exact,
and the rest is what is left of the mean after that: so the offset of the data costs no digits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ._arrays import quiet
from ._mean import unstack

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._arrays import Array, Namespace
    from ._mean import Mean


class Statistics(NamedTuple):
    """How many elements a slice has, their mean, in two parts, and their biased variance, broadcastable to x.

    A part of the mean that is None is not subtracted.
    """

    count: Any
    mean: Array | None
    rest: Array | None
    var: Array


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


def divide(xp: Namespace, d: Array, var: Array, eps: Any) -> Array:
    """Return d, which is x less its mean, divided by its standard deviation."""
    with quiet(xp):
        return d * rstd(xp, var, eps)


def standardize(x: Array, mean: Mean, eps: Any) -> tuple[Array, Statistics]:
    """Return x with mean 0 and variance 1 over each slice, and the statistics of the slices."""
    d, s = centre(x, mean)
    return divide(mean.xp, d, s.var, eps), s


def standardize_at_zero(x: Array, mean: Mean, eps: Any) -> tuple[Array, Statistics]:
    """Return x with mean square 1 over each slice, and the mean squares for variances."""
    selected = mean.select(x)
    with quiet(mean.xp):
        (square,) = mean(selected * selected)
    s = Statistics(None, None, None, square)
    return standardize_with(s, x, mean, eps), s


def standardize_given(x: Array, mean: Mean, given: Array, var: Array, eps: Any) -> tuple[Array, Statistics]:
    """Return x standardised with a given mean, to the last digit of one wider than x, and variance."""
    xp = mean.xp
    first = xp.astype(given, x.dtype, copy=False)
    wider = xp.finfo(given.dtype).bits > xp.finfo(x.dtype).bits
    rest = xp.astype(given - xp.astype(first, given.dtype), x.dtype) if wider else None
    s = Statistics(None, first, rest, xp.astype(var, x.dtype, copy=False))
    return standardize_with(s, x, mean, eps), s


def standardize_with(s: Statistics, x: Array, mean: Mean, eps: Any) -> Array:
    """Return x standardised with statistics that are known."""
    with quiet(mean.xp):
        x = mean.select(x if s.mean is None else x - s.mean)
        x = x if s.rest is None else x - s.rest
    return divide(mean.xp, x, s.var, eps)


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


TINY = 2.0**-120  # large enough to be no zero in float32


def rstd(xp: Namespace, var: Array, eps: Any) -> Array:
    """Return 1 / sqrt(var + eps), or 0 where that has no value: finite, and with a finite gradient."""
    total = var + eps
    if isinstance(eps, float) and eps >= TINY:
        return 1.0 / xp.sqrt(total)
    return 1.0 / xp.sqrt(xp.where(total <= 0, math.inf, total))


# Standardising undoes a shift and a scaling of x, so its gradient has no part along either: of g, the gradient of the
# standardised y, the parts along 1 and along y are lost. Below, what is to be subtracted: their sizes, None where a
# norm loses nothing. The gradient of x is (g - shift - y * scale) * rstd.


def lost(g: Array, y: Array, mean: Mean) -> tuple[Array | None, Array | None]:
    """Return what g loses where y is x standardised with its own mean and variance."""
    shift, scale = mean(g, g * y)
    return shift, scale


def lost_at_zero(g: Array, y: Array, mean: Mean) -> tuple[Array | None, Array | None]:
    """Return what g loses where y is x divided by its root mean square."""
    (scale,) = mean(g * y)
    return None, scale


def lost_to_none(g: Array, y: Array, mean: Mean) -> tuple[Array | None, Array | None]:  # noqa: ARG001
    """Return what g loses where y is x standardised with statistics that are none of its own."""
    return None, None
