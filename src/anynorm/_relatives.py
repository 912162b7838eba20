"""Relatives of the norms: batch renormalisation, standardised weights, and division by the length of something."""

from __future__ import annotations

import math
import operator
from functools import reduce
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _engines as engines
from ._core.arguments import LARGEST, cast, floating_of, integer, number
from ._core.arrays import as_array, check_sizes, constant, quiet, reshape, reuse, shape_along, without_empty_chunks
from ._core.call import Statistics, prepare, statistics_of
from ._core.plans import find
from ._core.standardize import TINY, is_large, rstd, sum_to, summed, trusted
from ._mixtures import distance
from ._norms import Done, batch, norm, performed_by, rms
from ._running import advance, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._core.call import Call, Layout
    from ._core.libraries import Array, Namespace, Shape
    from ._running import PopulationStats, RunningStats, Step

MOST = 2**31  # channels or steps

# ---------------------------------------------------------------------------------- batch renormalisation


class Renorm(NamedTuple):
    """The statistics of a batch, and the constants that take what they standardise to what the state would."""

    batch: Statistics
    r: Array
    d: Array


def renormalize(prepared: tuple[Step, Any, Any], *, keep: bool = True) -> Done[tuple[Array, Any]]:
    """Normalise by the batch, correct that towards the state, and take the step of the state."""
    del keep  # the correction is made of the statistics
    step, r_max, d_max = prepared
    call, bare = step.call, standardizing(step.call)
    xp, eps = call.xp, call.eps
    z, s = engines.normalize(bare, keep=True)
    state = statistics_of("", xp, call.x, step.stats, call.layout.affine[0], call.computing)
    known = rstd(xp, state.var, eps, call.computing)
    with quiet(xp):
        r = constant(xp, within(xp, xp.sqrt(s.var + eps) * known, 1.0 / r_max, r_max))
        d = constant(xp, within(xp, -distance(state, s) * known, -d_max, d_max))
        y = call.finish(reuse(xp, operator.add, reuse(xp, operator.mul, z, r), d))
    return Done((y, advance(step._replace(call=bare), s)), call, Renorm(s, r, d), pull_renorm)


def standardizing(call: Call) -> Call:
    """Return the call without weight and bias, in the dtype to compute in."""
    kind = None if call.kind is None else (call.kind, "standardizing")
    known, x = find(kind), call.xp.astype(call.x, call.computing, copy=False)
    plan = None if known is None else known.plan
    return call._replace(x=x, weight=None, bias=None, dtype=x.dtype, kind=kind, plan=plan)


def within(xp: Namespace, a: Array, low: Any, high: Any) -> Array:
    """Return an array clipped to a range; NaN stays NaN."""
    return xp.where(a < low, low, xp.where(a > high, high, a))


def pull_renorm(call: Call, kept: Renorm, dy: Array) -> tuple[Array | None, ...]:
    """Return the gradients of x, weight and bias: those of a batch norm of weight r * w and bias d * w + b."""
    xp, (s, r, d) = call.xp, kept
    dy = xp.astype(dy, call.computing, copy=False)
    shown = dy if call.mask is None else xp.where(call.mask, dy, 0.0)
    weight = xp.ones_like(r) if call.weight is None else call.broadcastable(call.weight)
    scaled = standardizing(call)._replace(weight=weight * r, bias=weight * d, kind=None, plan=None)
    dx, dscale, dshift = engines.pull(scaled, s, shown)
    dweight = dbias = None
    if call.weight is not None:
        dweight = call.gradient(call.weight, sum_to(xp, dscale * r + dshift * d, tuple(weight.shape)))
    if call.bias is not None:
        dbias = call.gradient(call.bias, sum_to(xp, dy, tuple(call.broadcastable(call.bias).shape)))
    return call.narrow(dx), dweight, dbias


@performed_by(renormalize, "tuple[Array, RunningStats | PopulationStats]")
def batch_renorm_train(
    x: Array,
    stats: RunningStats | PopulationStats,
    /,
    *,
    r_max: float = 3.0,
    d_max: float = 5.0,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float | None = 0.1,
    correction: float = 1,
    channel_axis: int = 1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> tuple[Step, Any, Any]:
    r"""Normalise a batch as :func:`batch_norm_train` does, corrected towards the result that the state would give.

    .. math::

        y = \left(\frac{x - \mathrm{E}[x]}{\sigma_B} \cdot r + d\right) \cdot w + b, \qquad
        r = \mathrm{clip}\left(\frac{\sigma_B}{\sigma}, \frac{1}{r_{max}}, r_{max}\right), \qquad
        d = \mathrm{clip}\left(\frac{\mathrm{E}[x] - \mu}{\sigma}, -d_{max}, d_{max}\right)

    Here :math:`\sigma_B^2 = \mathrm{Var}[x] + \epsilon`, and the state has mean :math:`\mu` and variance
    :math:`\sigma^2 - \epsilon`. For differentiation, r and d are constants.

    Parameters
    ----------
    x : array
        Of shape (N, C, \*S), or with the channels elsewhere.
    stats : RunningStats or PopulationStats
        The state so far. It is not written to.
    r_max, d_max : float
        The bounds of the correction: r_max at least 1, d_max at least 0. With 1 and 0 it is a batch norm. The authors
        begin with these and let them grow to 3 and 5; as 0-d arrays, they can grow within a compiled function.
    weight, bias, momentum, correction, channel_axis, eps, where, sync
        As in :func:`batch_norm_train`. Elements that where hides standardise to 0, whatever d is.

    Returns
    -------
    y : array
        Of x's shape, dtype, library and device. If no bound is reached, it is what :func:`batch_norm` makes of x with
        the given state.
    stats : RunningStats or PopulationStats
        What :func:`batch_norm_train` returns. At inference, pass it to :func:`batch_norm`.

    Raises
    ------
    TypeError, ValueError
        As in :func:`batch_norm_train`; also if r_max is below 1 or d_max below 0.

    See Also
    --------
    keras.layers.BatchNormalization : renorm=True, with momentum as in :func:`batch_norm_train`. rmax, 1 / rmin and
        dmax there are r_max, r_max and d_max here, and unbounded unless given.

    Notes
    -----
    Follows Ioffe, *Batch Renormalization*, https://arxiv.org/abs/1702.03275. The state averages variances, as in every
    norm here; the paper's averages standard deviations. x is read as often as by batch_norm_train.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x = np.asarray([[1.0, 10.0], [3.0, 30.0]])
    >>> stats = anynorm.RunningStats(np.asarray([1.0, 0.0]), np.asarray([4.0, 100.0]))
    >>> y, stats = anynorm.batch_renorm_train(x, stats, eps=0)
    >>> y
    array([[0., 1.],
           [1., 3.]])
    """
    caller = "batch_renorm_train"
    taken = step(caller, batch, channel_axis, x, stats, weight, bias, momentum, correction, eps, where, sync)
    bounds = number(caller, "r_max", r_max, 1.0, LARGEST, x), number(caller, "d_max", d_max, 0.0, LARGEST, x)
    return taken, *(cast(taken.call.xp, bound, taken.call.computing) for bound in bounds)


# ---------------------------------------------------------------------------------- standardised weights


@norm
def weight_standardize(x: Array, /, *, channel_axis: int = 0, eps: float = 1e-5) -> Call:
    r"""Give the weights of each output channel of a layer mean 0 and variance 1.

    .. math:: y = \frac{x - \mathrm{E}_i[x]}{\sqrt{\mathrm{Var}_i[x] + \epsilon}}

    Parameters
    ----------
    x : array
        The weights, of shape (C, \*I): C output channels, with the inputs of each along the other axes.
    channel_axis : int
        The axis of the output channels: 0 as in PyTorch, -1 in Flax and Keras.
    eps : float
        Added to the biased variance, inside the root.

    Returns
    -------
    array
        Of x's shape, dtype, library and device. Multiply it by a gain where the layer has one.

    Raises
    ------
    TypeError, ValueError
        As in :func:`layer_norm`.

    See Also
    --------
    layer_norm : this is one over every axis but the channels'. jax.nn.standardize : likewise, axis=(1, 2, 3) for the
    weights of PyTorch's convolutions.

    Notes
    -----
    Follows Qiao, Wang, Liu, Shen and Yuille, *Micro-Batch Training with Batch-Channel Normalization and Weight
    Standardization*, https://arxiv.org/abs/1903.10520.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> anynorm.weight_standardize(np.asarray([[1.0, 3.0], [5.0, 5.0]]), eps=0)
    array([[-1.,  1.],
           [ 0.,  0.]])
    """
    return prepare("weight_standardize", batch, (channel_axis,), x, eps=eps)


# ---------------------------------------------------------------------------------- vectors of unit length


class Unit(NamedTuple):
    """Vectors divided by their length, which is scale * root, and what their length is made of."""

    y: Array
    scale: Array  # constant for derivatives, and such that no power of a quotient by it overflows
    root: Array
    varies: Array  # where the length is that of the vector, and not eps


def unit(xp: Namespace, a: Array, axes: Shape, p: float, eps: Any) -> Unit:
    """Divide vectors along axes by their p-norm, or by eps where that is larger.

    They are divided by their largest element first, or by the largest number of which 1 / it is a normal one, since XLA
    divides by multiplication. So a sum of powers that is less than 1 is of no account: then the length is eps.
    """
    most = float(xp.finfo(a.dtype).max) / 4.0
    with quiet(xp, under="ignore"):
        largest = xp.max(without_empty_chunks(xp, xp.abs(a)), axis=axes, keepdims=True)
        short = largest <= eps
        scale = constant(xp, xp.where(short, eps, xp.where(largest > most, most, largest)))
        scale = xp.where(scale == 0, 1.0, scale)
        a = a / scale
        if p == math.inf:
            total = xp.max(without_empty_chunks(xp, xp.abs(a)), axis=axes, keepdims=True)
        else:
            total = summed(xp, a * a if p == 2 else xp.abs(a) ** p, axes)
        varies = (total > 1) | ~short
        total = xp.where(varies, total, 1.0)
        root = total if p in (1, math.inf) else xp.sqrt(total) if p == 2 else total ** (1.0 / p)
        return Unit(a / root, scale, root, varies)


def divide_by_length(prepared: tuple[Call, float], *, keep: bool = True) -> Done[Array]:
    """Divide vectors by their length."""
    del keep
    call, p = prepared
    if 0 in call.x.shape:
        return Done(call.narrow(call.x), call, None, pull_length)
    made = unit(call.xp, call.inner(call.x), call.layout.shared, p, call.eps)
    return Done(call.narrow(made.y), call, (p, made._replace(y=None)), pull_length)


def pull_length(call: Call, kept: tuple[float, Unit] | None, dy: Array) -> tuple[Array | None, ...]:
    """Return the gradient of x: where a vector has its own length, its gradient has no part along it."""
    if kept is None:
        return call.narrow(dy), None, None
    xp, axes, (p, (_, scale, root, varies)) = call.xp, call.layout.shared, kept
    dy = xp.astype(dy, call.computing, copy=False)
    with quiet(xp, under="ignore"):
        a = call.inner(call.x) / scale
        y, sign = a / root, xp.sign(a)
        if p == math.inf:
            sign = xp.where(xp.abs(a) == root, sign, 0.0)  # several largest elements share what one would have
            slope = sign / xp.where(varies, summed(xp, xp.abs(sign), axes), 1.0)
        else:
            slope = sign * xp.abs(y) ** (p - 1.0)
        along = xp.where(varies, summed(xp, dy * y, axes), 0.0)
        return call.narrow((dy - slope * along) / root / scale), None, None


@performed_by(divide_by_length, "Array")
def unit_norm(x: Array, /, *, p: float = 2, axis: int | Shape | None = -1, eps: float = 1e-12) -> tuple[Call, float]:
    r"""Divide vectors by their length, in the p-norm.

    .. math::

        y = \frac{x}{\max(\lVert x \rVert_p, \epsilon)}, \qquad
        \lVert x \rVert_p = \left(\sum_i |x_i|^p\right)^{1/p}

    Parameters
    ----------
    x : array
        Of any shape and real dtype.
    p : float
        From 1 to infinity, where the length is the magnitude of the largest element.
    axis : int or tuple of ints, optional
        The axes that a vector lies along; None for all of them.
    eps : float
        The smallest length to divide by. With 0, a vector of zeros still gives zeros.

    Returns
    -------
    array
        Of x's shape, dtype, library and device. No power of an element leaves the range of the dtype, so vectors of any
        finite elements keep their direction; with a finite p above 50, of elements up to 8e37 in float32.

    Raises
    ------
    TypeError
        x is not an array of real numbers, or p is not a number.
    ValueError
        An axis, p or eps is out of range.

    See Also
    --------
    torch.nn.functional.normalize : axis 1 there unless told otherwise.
    sklearn.preprocessing.normalize : for rows. rms_norm : with weight 1 and eps 0 it is :math:`\sqrt{n}` times this.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> anynorm.unit_norm(np.asarray([[3.0, 4.0], [3e200, 4e200], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0.6, 0.8],
           [0. , 0. ]])
    """
    largest = isinstance(p, Real) and p == math.inf
    p = math.inf if largest else number("unit_norm", "p", p, 1.0, LARGEST)
    return prepare("unit_norm", rms, (axis,), x, eps=eps), p


# ---------------------------------------------------------------------------------- neighbouring channels


def channels(caller: str, x: Array, channel_axis: int) -> Layout:
    """The channels, and every other axis."""
    return batch(caller, x, channel_axis)._replace(centred=False)


class Response(NamedTuple):
    """How far each channel's neighbours count."""

    size: int
    alpha: Any
    beta: Any
    k: Any

    def base(self, xp: Namespace, x: Array, channel: int) -> Array:
        """Return what is raised to the power of beta."""
        size = self.size
        squares = window(xp, x * x, channel, size // 2, (size - 1) // 2)
        base = trusted(xp, squares, self.k) * (self.alpha / size) + self.k
        return base if is_large(self.k) else xp.where(base == 0, math.inf, base)  # of an array nobody knows


def window(xp: Namespace, a: Array, axis: int, before: int, after: int) -> Array:
    """Return the sum over each element's neighbours along an axis, so many before it and so many after it."""
    n = a.shape[axis]
    before, after = min(before, n - 1), min(after, n - 1)
    whole = (slice(None),) * axis
    edges = (xp.zeros_like(a[(*whole, slice(0, many), ...)]) for many in (before, after))
    padded = xp.concat([next(edges), a, next(edges)], axis=axis)
    return reduce(operator.add, (padded[(*whole, slice(i, i + n), ...)] for i in range(before + after + 1)))


def respond(prepared: tuple[Call, Response], *, keep: bool = True) -> Done[Array]:
    """Divide every element by a power of its neighbours' squares."""
    del keep
    call, response = prepared
    if 0 in call.x.shape:
        return Done(call.narrow(call.x), call, None, pull_response)
    xp, x = call.xp, call.inner(call.x)
    with quiet(xp, over="ignore", under="ignore"):
        base = response.base(xp, x, call.layout.affine[0])
        return Done(call.narrow(x * base**-response.beta), call, response, pull_response)


def pull_response(call: Call, response: Response | None, dy: Array) -> tuple[Array | None, ...]:
    """Return the gradient of x: each element has a part in those whose neighbour it is."""
    if response is None:
        return call.narrow(dy), None, None
    xp, x, (channel,), (size, alpha, beta, _) = call.xp, call.inner(call.x), call.layout.affine, response
    with quiet(xp, over="ignore", under="ignore"):
        base = response.base(xp, x, channel)
        dy = xp.astype(dy, x.dtype, copy=False) * base**-beta
        back = window(xp, dy * x / base, channel, (size - 1) // 2, size // 2)
        return call.narrow(dy - x * back * (2.0 * alpha * beta / size)), None, None


@performed_by(respond, "Array")
def local_response_norm(
    x: Array, /, size: int, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, channel_axis: int = 1
) -> tuple[Call, Response]:
    r"""Divide every element by a power of the squares of its neighbours across channels.

    .. math::

        y_c = x_c \left(k + \frac{\alpha}{n} \sum_{j} x_j^2\right)^{-\beta}, \qquad
        c - \lfloor n / 2 \rfloor \le j \le c + \lfloor (n - 1) / 2 \rfloor

    Parameters
    ----------
    x : array
        Of shape (N, C, \*S), or with the channels elsewhere.
    size : int
        n, the number of neighbouring channels, the channel itself included. Beyond the first and the last channel there
        are zeros.
    alpha, beta, k : float
        alpha and beta at least 0, k above 0.
    channel_axis : int
        The axis of the channels: 1 as in PyTorch, -1 for channels last.

    Returns
    -------
    array
        Of x's shape, dtype, library and device. Where a sum of squares leaves the range of the dtype it is NaN.

    Raises
    ------
    TypeError
        x is not an array of real numbers, or size is not an integer.
    ValueError
        The axis, size, alpha, beta or k is out of range.

    See Also
    --------
    torch.nn.functional.local_response_norm : the same.
    tensorflow.nn.local_response_normalization : depth_radius r is size 2r + 1 here, and alpha is not divided by it.

    Notes
    -----
    Follows Krizhevsky, Sutskever and Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*, section
    3.3, whose alpha is not divided by n, either. With an even size, ONNX's LRN, where k is called bias, has the extra
    neighbour after the channel, not before it: flip the channels of x and of the result.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x = np.asarray([[1.0, 2.0, 0.0, 4.0]])
    >>> anynorm.local_response_norm(x, 3, alpha=3.0, beta=1.0)
    array([[0.16666667, 0.33333333, 0.        , 0.23529412]])
    """
    caller = "local_response_norm"
    call = prepare(caller, channels, (channel_axis,), x)
    check_sizes(call.xp, call.x.shape, call.layout.affine)
    size = integer(caller, "size", size)
    number(caller, "size", size, 1, MOST)
    given = {"alpha": (alpha, 0.0), "beta": (beta, 0.0), "k": (k, TINY)}
    checked = (number(caller, name, value, low, LARGEST, x) for name, (value, low) in given.items())
    return call, Response(size, *(cast(call.xp, value, call.computing) for value in checked))


# ---------------------------------------------------------------------------------- matrices of unit norm


class Spectral(NamedTuple):
    """The vectors that a matrix stretches most, and by how much."""

    u: Array
    v: Array
    sigma: Array


def iterate(prepared: tuple[Call, Array, int], *, keep: bool = True) -> Done[tuple[Array, Array]]:
    """Take steps of the power iteration, and divide by the norm that they found.

    The products with vectors are sums as those of the norms: products of matrices lose digits on some devices.
    """
    del keep
    call, start, steps = prepared
    xp, rows, columns = call.xp, call.layout.affine, call.layout.shared
    x = call.inner(call.x)
    if 0 in x.shape:
        return Done((call.narrow(x), start), call, None, pull_spectral)
    u = first = reshape(xp, xp.astype(start, x.dtype, copy=False), shape_along(x, rows))
    fixed = constant(xp, x)
    for _ in range(max(steps, 1)):
        v = unit(xp, summed(xp, fixed * u, rows), columns, 2, call.eps).y
        u = unit(xp, summed(xp, fixed * v, columns), rows, 2, call.eps).y
    u, v = constant(xp, u if steps else first), constant(xp, v)
    sigma = summed(xp, x * u * v, rows + columns)
    sigma = xp.where(sigma == 0, 1.0, sigma)
    state = xp.astype(reshape(xp, u, tuple(start.shape)), start.dtype, copy=False)
    return Done((call.narrow(x / sigma), as_array(state)), call, Spectral(u, v, sigma), pull_spectral)


def pull_spectral(call: Call, kept: Spectral | None, dy: Array) -> tuple[Array | None, ...]:
    """Return the gradient of x."""
    if kept is None:
        return call.narrow(dy), None, None
    xp, (u, v, sigma) = call.xp, kept
    x = call.inner(call.x)
    dy = xp.astype(dy, x.dtype, copy=False)
    along = summed(xp, dy * (x / sigma), tuple(range(x.ndim)))
    return call.narrow((dy - along * u * v) / sigma), None, None


@performed_by(iterate, "tuple[Array, Array]")
def spectral_norm(
    x: Array, u: Array, /, *, channel_axis: int = 0, steps: int = 1, eps: float = 1e-12
) -> tuple[Call, Array, int]:
    r"""Divide the weights of a layer by their largest singular value, which a power iteration finds step by step.

    .. math::

        v = \frac{W^T u}{\lVert W^T u \rVert}, \qquad u' = \frac{W v}{\lVert W v \rVert}, \qquad
        \sigma = u'^T W v, \qquad y = \frac{x}{\sigma}

    W is x as a matrix: one row per output channel, with all other axes in its columns. For differentiation, u' and v
    are constants.

    Parameters
    ----------
    x : array
        The weights, of shape (C, \*I): C output channels, with the inputs of each along the other axes.
    u : array
        The state, of shape (C,) and a floating dtype: at first any direction, such as random numbers. It is not written
        to.
    channel_axis : int
        The axis of the output channels: 0 as in PyTorch, -1 in Flax and Keras.
    steps : int
        How many steps to take. With 0, for inference, the state stays as it is.
    eps : float
        The smallest length to divide u and v by.

    Returns
    -------
    y : array
        Of x's shape, dtype, library and device. Weights of zeros give zeros.
    u : array
        The new state, with the shape and dtype of the old one, and of unit length after a step.

    Raises
    ------
    TypeError
        x is not an array of real numbers, u is not of a floating dtype, or steps is not an integer.
    ValueError
        The axis, steps, eps or the shape of u does not fit.

    See Also
    --------
    torch.nn.utils.parametrizations.spectral_norm : takes 15 steps at first, and keeps v, too.
    torch.nn.utils.spectral_norm : likewise, without those 15.
    flax.linen.SpectralNorm : keeps u and sigma.

    Notes
    -----
    Follows Miyato, Kataoka, Koyama and Yoshida, *Spectral Normalization for Generative Adversarial Networks*,
    https://arxiv.org/abs/1802.05957. Without a step, sigma is the length of :math:`W^T u`; at inference, PyTorch's,
    with the v it kept, is that of :math:`W v`. The two meet as the iteration converges.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x, u = np.asarray([[3.0, 0.0], [0.0, 1.0]]), np.asarray([1.0, 1.0])
    >>> y, u = anynorm.spectral_norm(x, u, steps=20)
    >>> y.round(6)
    array([[1.      , 0.      ],
           [0.      , 0.333333]])
    """
    caller = "spectral_norm"
    call = prepare(caller, channels, (channel_axis,), x, eps=eps)
    u = floating_of(caller, call.xp, call.x, "u", u, tuple(call.x.shape[i] for i in call.layout.affine))
    steps = integer(caller, "steps", steps)
    number(caller, "steps", steps, 0, MOST)
    return call, u, steps
