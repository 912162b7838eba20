"""The scalings of plain data: to zero mean and unit deviation, or into a range."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ._core.arguments import LARGEST, axes_of, cast, number, rank
from ._core.arrays import quiet, without_empty_chunks
from ._core.call import prepare
from ._core.plans import remember
from ._core.standardize import trusted
from ._engines import normalize, statistics
from ._moments import over

if TYPE_CHECKING:
    from ._core.libraries import Array, Shape


def zscore(x: Array, /, *, axis: int | Shape | None = 0, correction: float = 0, where: Array | None = None) -> Array:
    r"""Return how many standard deviations each element lies from the mean of its slice.

    .. math:: z = \frac{x - \mathrm{E}[x]}{\sigma}, \qquad \sigma^2 = \frac{1}{n - c} \sum_i (x_i - \mathrm{E}[x])^2

    Parameters
    ----------
    x : array
        Of any shape and real dtype.
    axis : int or tuple of ints, optional
        The axes that share a mean and a deviation; None for all of them.
    correction : float
        c: 0 for the deviation of the elements themselves, 1 for the one estimated from a sample.
    where : boolean array, optional
        Broadcasts to x's shape. Hidden elements are not counted, and become 0.

    Returns
    -------
    array
        Of x's shape, dtype, library and device. A slice without a deviation, because it is constant or its count is
        not above the correction, gives 0.

    Raises
    ------
    TypeError
        x is not an array of real numbers, or where is not boolean.
    ValueError
        An axis, the shape of where or the correction does not fit.

    See Also
    --------
    scipy.stats.zscore : ddof there is correction here; NaN for a constant slice there.
    sklearn.preprocessing.StandardScaler : axis 0.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> anynorm.zscore(np.asarray([[1.0, 5.0], [3.0, 5.0]]))
    array([[-1.,  0.],
           [ 1.,  0.]])
    """
    axes_of("zscore", axis, rank("zscore", x))
    correction = number("zscore", "correction", correction, 0.0, LARGEST, x)
    call = prepare("zscore", over, (axis,), x, where=where)
    xp = call.xp
    s = statistics(call)
    var = trusted(xp, s.var, 0.0)
    if isinstance(s.count, int) and isinstance(correction, float):
        freedom = s.count - correction
        var = var * (s.count / freedom) if freedom > 0 else xp.zeros_like(var)
    else:
        count = s.counts(xp)
        freedom = count - cast(xp, correction, count.dtype)
        var = xp.where(freedom > 0, var * (count / xp.where(freedom > 0, freedom, 1.0)), 0.0)
    return normalize(call.by(s._replace(var=var)))[0]


def minmax_scale(
    x: Array,
    /,
    *,
    axis: int | Shape | None = 0,
    feature_range: tuple[float, float] = (0.0, 1.0),
    where: Array | None = None,
) -> Array:
    r"""Map the smallest element of each slice to the lower bound of a range, and the largest to the upper.

    .. math:: y = a + (b - a) \frac{x - \min x}{\max x - \min x}

    Parameters
    ----------
    x : array
        Of any shape and real dtype.
    axis : int or tuple of ints, optional
        The axes that share a smallest and a largest element; None for all of them.
    feature_range : (float, float)
        a and b.
    where : boolean array, optional
        Broadcasts to x's shape. Hidden elements are ignored, and become a.

    Returns
    -------
    array
        Of x's shape, dtype, library and device. A constant slice gives a.

    Raises
    ------
    TypeError
        x is not an array of real numbers, or where is not boolean.
    ValueError
        An axis or the shape of where does not fit, or a is not below b.

    See Also
    --------
    sklearn.preprocessing.minmax_scale : the same.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> anynorm.minmax_scale(np.asarray([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))
    array([[0. , 0. ],
           [0.5, 0. ],
           [1. , 0. ]])
    """
    axes_of("minmax_scale", axis, rank("minmax_scale", x))
    low, high = _range(feature_range)
    call = prepare("minmax_scale", over, (axis,), x, where=where)
    xp, a, mask, axes = call.xp, call.inner(call.x), call.mask, call.layout.shared
    if 0 in a.shape:
        return call.finish(a)
    if call.plan is None:
        remember(call)
    low_of, high_of = (
        without_empty_chunks(xp, a if mask is None else xp.where(mask, a, hidden)) for hidden in (math.inf, -math.inf)
    )
    least, most = xp.min(low_of, axis=axes, keepdims=True), xp.max(high_of, axis=axes, keepdims=True)
    flat = most <= least
    with quiet(xp):
        y = (a - xp.where(flat, 0.0, least)) / xp.where(flat, math.inf, most - least) * (high - low) + low
    # The greatest element is exactly high, which XLA's division by multiplication may miss, and none is beyond it.
    y = xp.where(((a == most) & ~flat) | (y > high), high, y)
    if mask is not None:
        y = xp.where(mask, y, low)
    return xp.astype(y, call.dtype, copy=False)


def _range(feature_range: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (number("minmax_scale", "feature_range", bound, -LARGEST, LARGEST) for bound in feature_range)
        ordered = bool(low < high)
    except (TypeError, ValueError):
        ordered = False
    if not ordered:
        message = f"minmax_scale needs feature_range to be two numbers, the lower first: got {feature_range!r}"
        raise ValueError(message)
    return low, high
