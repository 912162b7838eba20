"""The computation behind every norm, in array-API code: the statistics of a slice, and what is done with them.

The mean is carried as an unevaluated sum of two floats, mean + rest. Wherever x lies near its mean, x - mean is exact,
and the rest is what is left of the mean after that: so the offset of the data costs no digits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ._arrays import Array, Namespace
    from ._mean import Mean


class Statistics(NamedTuple):
    """The mean, in two parts, and the biased variance of every slice, broadcastable to x."""

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
    return x * rstd(mean.xp, mean(x * x), eps)


def standardize_given(x: Array, mean: Mean, centre: Array, var: Array, eps: Any) -> Array:
    """Return x standardised with a given centre and variance, to the last digit of a centre wider than x."""
    xp = mean.xp
    first = xp.astype(centre, x.dtype, copy=False)
    d = mean.select(x - first)
    if xp.finfo(centre.dtype).bits > xp.finfo(x.dtype).bits:
        d = d - xp.astype(centre - xp.astype(first, centre.dtype), x.dtype)
    return d * rstd(xp, xp.astype(var, x.dtype, copy=False), eps)


def centre(x: Array, mean: Mean) -> tuple[Array, Statistics]:
    """Return x less its mean, and the statistics of its slices.

    A slice is constant when x equals its mean everywhere: then, and only then, its squares sum to exactly 0. Its rest
    is rounding alone, and is dropped, which makes it standardise to exactly 0 and leaves its gradient as it is.
    """
    first, rest = mean.parts(x)
    d = mean.select(x - first)
    square = mean(d * d)
    if not mean.exact:
        rest = mean.xp.where(square == 0, 0.0, rest)
    return d - rest, Statistics(first, rest, square - rest * rest)


TINY = 2.0**-120  # large enough to be no zero in float32


def rstd(xp: Namespace, var: Array, eps: Any) -> Array:
    """Return 1 / sqrt(var + eps), or 0 where that has no value: finite, and with a finite gradient."""
    total = var + eps
    if isinstance(eps, float) and eps >= TINY:
        return 1.0 / xp.sqrt(total)
    return 1.0 / xp.sqrt(xp.where(total <= 0, math.inf, total))
