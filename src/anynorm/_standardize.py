"""The computation behind every norm, in array-API code: the statistics of a slice, and what is done with them.

The mean is carried as an unevaluated sum of two floats, mean + rest. Wherever x lies near its mean, x - mean is exact,
and the rest is what is left of the mean after that: so the offset of the data costs no digits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ._arrays import Array, Mean, Namespace


class Statistics(NamedTuple):
    """The mean, in two parts, and the biased variance of every slice, broadcastable to x."""

    mean: Array
    rest: Array | None
    var: Array


def standardize(x: Array, mean: Mean, eps: Any) -> Array:
    """Return x with mean 0 and variance 1 over each of mean's slices."""
    d, s = centre(x, mean)
    return scale(d, mean.xp, s, eps)


def standardize_rms(x: Array, mean: Mean, eps: Any) -> Array:
    """Return x with mean square 1 over each of mean's slices."""
    return x * rstd(mean.xp, mean(x * x), eps)


def standardize_given(x: Array, xp: Namespace, mean: Array, var: Array, eps: Any) -> Array:
    """Return x standardised with a given mean and variance, to the last digit of a mean wider than x."""
    first = xp.astype(mean, x.dtype, copy=False)
    wide = xp.finfo(mean.dtype).bits > xp.finfo(x.dtype).bits
    rest = xp.astype(mean - xp.astype(first, mean.dtype), x.dtype) if wide else None
    return scale(x - first, xp, Statistics(first, rest, xp.astype(var, x.dtype, copy=False)), eps)


def centre(x: Array, mean: Mean) -> tuple[Array, Statistics]:
    """Return x less the first part of its mean, and the statistics of its slices.

    A slice is constant when x equals its mean everywhere: then, and only then, its squares sum to exactly 0. Its rest is
    rounding alone, and is dropped, which makes it standardise to exactly 0 and leaves its gradient as it is.
    """
    first, rest = mean.parts(x)
    d = x - first
    square = mean(d * d)
    if not mean.exact:
        rest = mean.xp.where(square == 0, 0.0, rest)
    return d, Statistics(first, rest, square - rest * rest)


def scale(d: Array, xp: Namespace, s: Statistics, eps: Any) -> Array:
    """Return what is left to do for x less the first part of its mean: take off the rest, divide by the deviation."""
    if s.rest is not None:
        d = d - s.rest
    return d * rstd(xp, s.var, eps)


TINY = 2.0**-120  # large enough to be no zero in float32


def rstd(xp: Namespace, var: Array, eps: Any) -> Array:
    """Return 1 / sqrt(var + eps), or 0 where that has no value: finite, and with a finite gradient."""
    total = var + eps
    if isinstance(eps, float) and eps >= TINY:
        return 1.0 / xp.sqrt(total)
    return 1.0 / xp.sqrt(xp.where(total <= 0, math.inf, total))
