"""The algebra of statistics: count, mean and squared deviations, of an array or of many merged."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ._core.arguments import LARGEST, axes_of, cast, fits, is_number, kin, namespace, number, rank
from ._core.arrays import as_array, quiet, rounded_once, stack
from ._core.call import Layout, Statistics, prepare
from ._core.standardize import pool
from ._engines import statistics

if TYPE_CHECKING:
    from ._core.libraries import Array, Namespace, Shape


class Moments(NamedTuple):
    """The statistics of a set of elements: their count, their mean, and the sum of their squared deviations from it.

    Four arrays of one shape and dtype; a pytree in JAX and PyTorch. Without elements, all four are zeros. The mean is
    the number nearest to mean + rest, which is exact at every offset; a rest of 0 need not be an array. A float32 count
    is exact up to 2**24: single elements add nothing to a longer stream, so merge parts of many, or take float64.
    """

    count: Array
    mean: Array
    m2: Array
    rest: Array | float = 0.0


def over(caller: str, x: Array, axis: int | Shape | None) -> Layout:
    """The axes named."""
    return Layout(shared=axes_of(caller, axis, rank(caller, x)))


def moments(
    x: Array, /, *, axis: int | Shape | None = None, where: Array | None = None, keepdims: bool = False
) -> Moments:
    r"""Return the count, the mean and the sum of squared deviations over the axes named.

    .. math:: n, \quad \mu = \frac{1}{n} \sum_i x_i, \quad M_2 = \sum_i (x_i - \mu)^2

    Parameters
    ----------
    x : array
        Of any shape and real dtype.
    axis : int or tuple of ints, optional
        The axes to take the statistics over; all of them by default.
    where : boolean array, optional
        Broadcasts to x's shape. Hidden elements are not counted.
    keepdims : bool
        Keep those axes, with size 1.

    Returns
    -------
    Moments
        In x's dtype, but at least float32.

    Raises
    ------
    TypeError
        x is not an array of real numbers, or where is not boolean.
    ValueError
        An axis is out of range or repeated, or where does not broadcast to x's shape.

    See Also
    --------
    merge : the moments of several arrays together.
    torch.var_mean : without the count, and without the digits that an offset costs.

    Notes
    -----
    Follows Chan, Golub and LeVeque, *Algorithms for computing the sample variance*,
    https://doi.org/10.1080/00031305.1983.10483115.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> m = anynorm.moments(np.asarray([[1.0, 2.0], [3.0, 6.0]]), axis=0)
    >>> m.count, m.mean, m.m2
    (array([2., 2.]), array([2., 4.]), array([2., 8.]))
    """
    call = prepare("moments", over, (axis,), x, where=where)
    xp, axes = call.xp, call.layout.shared
    s = statistics(call)
    count = s.counts(xp)
    mean, rest = nearest(xp, s.mean, s.rest)
    with quiet(xp, over="ignore"):  # squares may leave the dtype of the mean
        parts = [xp.astype(a, mean.dtype, copy=False) for a in (count, mean, s.var * count, rest)]
    return Moments(*(as_array(a if keepdims else xp.squeeze(a, axis=axes)) for a in parts))


def nearest(xp: Namespace, mean: Array, rest: Array) -> tuple[Array, Array]:
    """Return a mean in two parts as the number nearest to it, and what is left."""
    with quiet(xp):
        rest = rounded_once(xp, rest)
        first = mean + rest
        return first, rest - (first - mean)


def merge(first: Moments, /, *others: Moments) -> Moments:
    r"""Merge several moments into those of all their elements together.

    .. math::

        n = \sum_k n_k, \quad \mu = \frac{1}{n} \sum_k n_k \mu_k, \quad
        M_2 = \sum_k M_{2,k} + \sum_k n_k (\mu_k - \mu)^2

    Parameters
    ----------
    first, *others : Moments
        Of one shape and dtype. Moments with count 0 change nothing.

    Returns
    -------
    Moments
        Of the same shape and dtype.

    Raises
    ------
    TypeError
        An argument is not Moments, or the arrays are of several libraries.
    ValueError
        The shapes or dtypes differ.

    Notes
    -----
    Follows Chan, Golub and LeVeque, as :func:`moments` does.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x = np.asarray([1.0, 2.0, 6.0, 7.0])
    >>> anynorm.merge(anynorm.moments(x[:1]), anynorm.moments(x[1:])) == anynorm.moments(x)
    True
    """
    xp, many = _check("merge", first, *others)
    while len(many) > TOGETHER:
        many = [_pooled(xp, many[i : i + TOGETHER]) for i in range(0, len(many), TOGETHER)]
    return _pooled(xp, many)


TOGETHER = 64  # moments whose sums in float32, one after another, cost the mean's rest no digits


def _pooled(xp: Namespace, many: list[Moments]) -> Moments:
    """Return the moments of few parts together."""
    count, mean, m2, rest = (stack(xp, list(part)) for part in zip(*many, strict=True))
    var = m2 / xp.where(count > 0, count, 1.0)
    s = pool(xp, Statistics(count, mean, rest, var), lambda terms: xp.sum(terms, axis=1, keepdims=True))
    mean, rest = nearest(xp, s.mean, s.rest)
    return Moments(*(as_array(part[0, ...]) for part in (s.count, mean, s.var * s.count, rest)))


def variance(m: Moments, /, *, correction: float = 0) -> Array:
    r"""Return the variance of moments.

    .. math:: \frac{M_2}{n - c}

    Parameters
    ----------
    m : Moments
        Of any shape.
    correction : float
        c: 0 for the variance of the elements themselves, 1 for an unbiased estimate of the population's.

    Returns
    -------
    array
        Of the moments' shape and dtype; NaN where the count is not above the correction, since there is no variance
        then.

    Raises
    ------
    TypeError
        m is not Moments.
    ValueError
        The correction is negative or not finite.

    See Also
    --------
    numpy.var : ddof there is correction here.
    torch.var : its correction is 1 by default.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> anynorm.variance(anynorm.moments(np.asarray([1.0, 3.0])), correction=1)
    array(2.)
    """
    xp, (m,) = _check("variance", m)
    correction = cast(xp, number("variance", "correction", correction, 0.0, LARGEST, m.mean), m.mean.dtype)
    freedom = m.count - correction
    return as_array(m.m2 / xp.where(freedom > 0, freedom, math.nan))


def _check(caller: str, *many: Moments) -> tuple[Namespace, list[Moments]]:
    """Return the namespace of moments of one library, shape and floating dtype, and them, each rest an array."""
    for m in many:
        if not isinstance(m, Moments):
            message = f"{caller} needs Moments: got {type(m).__name__}; make them with moments(x)"
            raise TypeError(message)
    like = many[0].mean
    xp = namespace(caller, like)
    if not (is_number(xp, like.dtype) and xp.isdtype(like.dtype, "real floating")):
        message = f"{caller} needs Moments of a floating dtype: got {like.dtype}; make them with moments(x)"
        raise TypeError(message)
    own = partial(kin, caller, xp, like, "the parts of Moments")
    whole = []
    for m in many:
        count, mean, m2 = map(own, m[:3])
        whole.append(Moments(count, mean, m2, xp.zeros_like(mean) if isinstance(m.rest, (int, float)) else own(m.rest)))
    parts: list[Array] = [part for m in whole for part in m]
    for part in parts:
        if not fits(part.shape, like.shape) or part.dtype != like.dtype:
            message = (
                f"{caller} needs moments of one shape and dtype: got {tuple(like.shape)} of {like.dtype} and "
                f"{tuple(part.shape)} of {part.dtype}; take them over the same axes, of arrays of one dtype"
            )
            raise ValueError(message)
    return xp, whole
