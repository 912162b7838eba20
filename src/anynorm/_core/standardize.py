"""The computation behind every norm, in array-API code: the statistics of a slice, and what is done with them.

The mean is carried as an unevaluated sum of two floats, mean + rest. Wherever x lies near its mean, x - mean is exact,
and the rest is what is left of the mean after that: so the offset of the data costs no digits.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from .arrays import complete, double, quiet, reuse, rounded_once, smallest_square, stack
from .call import Statistics
from .libraries import is_compiling
from .mean import sum_over, sums_in, unstack

if TYPE_CHECKING:
    from collections.abc import Callable

    from .call import Call
    from .libraries import Array, Namespace, Shape
    from .mean import Mean


def centre(x: Array, mean: Mean, eps: Any = 0.0) -> tuple[Array, Statistics]:
    """Return x less its mean, and the statistics of its slices, those of all the replicas where there are any.

    A slice is constant when x equals its mean everywhere: then, and only then, its squares sum to exactly 0. Its rest
    is rounding alone, and is dropped, which makes it standardise to exactly 0 and leaves its gradient as it is.
    """
    if is_compiling() and mean.is_whole:
        return centre_about(x, mean, eps)
    with quiet(mean.xp):
        first, rest = mean.parts(x)
        d = mean.select(x - first)
        square = told_from_constant(mean, d, mean.of_shard(d * d), eps)
        if not mean.exact:
            rest = mean.xp.where(square == 0, 0.0, rest)
        s = Statistics(mean.count, first, rest, square - rest * rest)
    if mean.sync is not None:
        s = pool(mean.xp, s._replace(count=s.counts(mean.xp)), mean.sync)
        d = mean.select(x - s.mean)
    return reuse(mean.xp, operator.sub, d, s.rest), s


def centre_about(x: Array, mean: Mean, eps: Any) -> tuple[Array, Statistics]:
    """Do so as torch's compiler makes the fewest readings of it: forward and backward both have two sums in one.

    The sums are of deviations from a number near the mean; where all elements are equal it is one of them, and they
    are 0. The result does not depend on that number, so it has no part in a gradient.
    """
    xp, axes, share = mean.xp, mean.axes, 1.0 / mean.divisor
    element = first_of(x, axes)
    # The sum comes last: a product before it might be rounded in one consumer, and not in another.
    near = (element + complete(xp, xp.sum((x - element) * share, axis=axes, keepdims=True))).detach()
    d = x - near
    left = complete(xp, xp.sum(d, axis=axes, keepdims=True)) * share
    square = xp.astype(sum_over(xp, d * d, axes, mean.wide) * share, d.dtype, copy=False)
    s = about(mean, d, near, left, square, eps)
    return d - s.rest, s


def first_of(x: Array, axes: Shape) -> Array:
    """Return the first element of each slice, which has one."""
    return x[tuple([slice(0, 1) if i in axes else slice(None) for i in range(x.ndim)])]


def about(mean: Mean, d: Array, near: Array, left: Array, square: Array, eps: Any) -> Statistics:
    """Return the statistics of slices whose deviations d from a number near their mean have this mean and square."""
    square = told_from_constant(mean, d, square, eps)
    return Statistics(mean.count, near, left, square - left * left)


def told_from_constant(mean: Mean, d: Array, square: Array, eps: Any) -> Array:
    """Return the mean squares of d, above 0 where d is not 0 everywhere: squares of little numbers may be.

    Where eps is large beside them that makes no difference, and costs nothing.
    """
    if is_large(eps):
        return square
    return mean.xp.where((square == 0) & mean.any(d != 0), smallest_square(mean.xp, square.dtype) / 2, square)


def trusted(xp: Namespace, var: Array, eps: Any) -> Array:
    """Return variances, NaN where their squares have left the range of the dtype: neither 0 nor infinity is true."""
    left = xp.isinf(var)
    if not is_large(eps):
        left = left | ((var != 0) & (var + eps < smallest_square(xp, var.dtype)))
    return xp.where(left, math.nan, var)


def is_large(eps: Any) -> bool:
    """Whether eps hides what is lost where squares are too small for float32; of a traced eps nobody knows."""
    return isinstance(eps, float) and eps >= TINY


TINY = 2.0**-80


def divide(xp: Namespace, d: Array, var: Array, eps: Any) -> Array:
    """Return d, which is x less its mean and written over, divided by its standard deviation."""
    with quiet(xp):
        return reuse(xp, operator.mul, d, rstd(xp, var, eps, d.dtype))


def standardize(call: Call) -> tuple[Array, Statistics]:
    """Return x standardised, and the statistics it was standardised by."""
    x = call.inner(call.x)
    mean = call.mean(x)
    if call.given is not None:
        return standardize_by(call.given, x, mean, call.eps), call.given
    if not call.layout.centred:
        s = Statistics(None, None, None, mean_square(x, mean, call.eps))
        return standardize_by(s, x, mean, call.eps), s
    d, s = centre(x, mean, call.eps)
    s = s._replace(var=trusted(mean.xp, s.var, call.eps))
    return divide(mean.xp, d, s.var, call.eps), s


def mean_square(x: Array, mean: Mean, eps: Any) -> Array:
    """Return the mean square of each slice."""
    a = mean.select(x)
    with quiet(mean.xp):
        square = within_range(mean, a, mean.of_shard(a * a), eps)
    return mean.over_replicas([square])[0]


def within_range(mean: Mean, a: Array, square: Array, eps: Any) -> Array:
    """Return the mean squares of a, infinite where a is, and NaN where they have left the range of their dtype."""
    known = trusted(mean.xp, told_from_constant(mean, a, square, eps), eps)
    return mean.xp.where(mean.any(mean.xp.isinf(a)), math.inf, known)


def standardize_by(s: Statistics, x: Array, mean: Mean, eps: Any) -> Array:
    """Return x standardised by statistics that are known."""
    xp = mean.xp
    with quiet(xp):
        if s.mean is None:
            return mean.select(x) * rstd(xp, s.var, eps, x.dtype)
        d = mean.select(x - s.mean)
        return divide(xp, d if s.rest is None else reuse(xp, operator.sub, d, s.rest), s.var, eps)


def pool(xp: Namespace, part: Statistics, total: Callable[[Array], Array]) -> Statistics:
    """Return the statistics of all parts together, where total sums a stack of terms over the parts.

    The mean is taken as of elements: roughly first, then what the parts' means deviate from that.
    """
    count, weighted = unstack(total(stack(xp, [part.count, part.count * part.mean])))
    divisor = xp.where(count > 0, count, 1.0)
    rough = rounded_once(xp, weighted / divisor)
    with quiet(xp, over="ignore"):  # squares may leave the dtype: then the variance is not a number
        d = (part.mean - rough) + part.rest
        terms = [part.count * d, part.count * d * d, part.count * part.var]
        error, square, within = (rounded_once(xp, term / divisor) for term in unstack(total(stack(xp, terms))))
        first = rough + error
        between = square - error * error
        # Constant parts of one mean deviate from the rough one alike, but for rounding: together they are constant.
        alike = between <= 16 * float(xp.finfo(square.dtype).eps) * square
        constant = (within == 0) & alike & (square < math.inf)
        rest = xp.where(constant, 0.0, error - (first - rough))
        between = xp.where(constant | (between < 0), 0.0, between)
        return Statistics(count, first, rest, within + between)


def rstd(xp: Namespace, var: Array, eps: Any, dtype: Any) -> Array:
    """Return 1 / sqrt(var + eps), or 0 where that has no value: finite, and with a finite gradient.

    It is rounded once: beside a large element the two roundings of a root and a quotient would count.
    """
    wide = double(xp, var)
    total = (var if wide is None else xp.astype(var, wide)) + eps
    if not is_large(eps):
        total = xp.where(total <= 0, math.inf, total)
    return xp.astype(1.0 / xp.sqrt(total), dtype, copy=False)


def lost(call: Call, g: Array, y: Array, mean: Mean) -> tuple[Array | None, Array | None]:
    """Return what is to be subtracted from g, the gradient of the standardised y: how much of 1, and of y.

    Standardising undoes a shift and a scaling of x, so its gradient has no part along either; where the mean or both
    are none of x's own, nothing is lost.
    """
    if call.given is not None:
        return None, None
    if not call.layout.centred:
        return None, *mean(g * y)
    shift, scale = mean(g, g * y)
    return shift, scale


# ---------------------------------------------------------------------------------- the array-API engine


def normalize(call: Call) -> tuple[Array, Statistics]:
    """Return the normalised array, and the statistics of its slices."""
    made = list(standardize(call))
    s = made.pop()
    return call.finish(made.pop()), s  # popped: a reference kept here would keep an array alive meanwhile


def statistics(call: Call) -> Statistics:
    """Return the statistics of the slices alone."""
    x = call.inner(call.x)
    return centre(x, call.mean(x))[1]


def pull(
    call: Call, s: Statistics, dy: Array, lost: Callable[..., tuple[Array | None, Array | None]] = lost
) -> tuple[Array, Array | None, Array | None]:
    """Return the gradients of x, weight and bias, given that of the result."""
    xp, dtype = call.xp, call.computing
    g = xp.astype(dy, dtype, copy=False)
    mean = call.mean(call.inner(call.x))
    # One array lets go of the last: there are never more than three.
    y = standardize_by(s, call.inner(call.x), mean, call.eps)
    with quiet(xp):
        dweight = None if call.weight is None else _sum_to(call, call.weight, g * call.join(y))
        dbias = None if call.bias is None else _sum_to(call, call.bias, g)
        g = mean.select(call.inner(g if call.weight is None else g * call.broadcastable(call.weight)))
        shift, scale = lost(call, g, y, mean)
        if shift is not None:
            g = g - shift
        if scale is not None:
            y = y * scale
            g = g - y
        del y
        dx = g * rstd(xp, s.var, call.eps, g.dtype)
    return call.narrow(call.join(dx)), dweight, dbias


def _sum_to(call: Call, parameter: Array, gradient: Array) -> Array:
    """Sum the gradient of every element over those that share an element of the parameter."""
    return call.gradient(parameter, sum_to(call.xp, gradient, tuple(call.broadcastable(parameter).shape)))


def sum_to(xp: Namespace, a: Array, shape: Shape) -> Array:
    """Sum over the axes of size 1 in a shape."""
    return summed(xp, a, tuple(i for i, size in enumerate(shape) if size == 1))


def summed(xp: Namespace, a: Array, axes: Shape) -> Array:
    """Sum over axes, which stay at size 1, in the dtype of a."""
    return xp.astype(sum_over(xp, a, axes, sums_in(xp, a)), a.dtype, copy=False)
