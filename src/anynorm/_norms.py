"""The norms: they differ in the axes whose elements share one mean and one variance, and in nothing else.

For x of shape (N, C, *S):

========  ====================================  ===========================  =======================
norm      elements that share their statistics  how many                     weight and bias
========  ====================================  ===========================  =======================
batch     a channel, in all samples             C                            (C,)
layer     the last axis, or the axes named      one for each position left   the shape of those axes
instance  a channel of a sample                 N * C                        (C,)
group     C / G channels of a sample            N * G                        (C,)
rms       as layer, without the mean                                         as layer
========  ====================================  ===========================  =======================
"""

from __future__ import annotations

from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar

from ._core.arguments import axes_of, axis_of, groups_of, rank
from ._core.call import Layout, prepare
from ._engines import normalize, pull

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._core.call import Call
    from ._core.libraries import Array, Shape
    from ._running import PopulationStats, RunningStats

# ---------------------------------------------------------------------------------- which axes


def layer(caller: str, x: Array, axis: int | Shape | None) -> Layout:
    """The axes named."""
    axes = axes_of(caller, axis, rank(caller, x))
    return Layout(shared=axes, affine=axes)


def rms(caller: str, x: Array, axis: int | Shape | None) -> Layout:
    """The axes named, whose mean is not subtracted."""
    return layer(caller, x, axis)._replace(centred=False)


def group(caller: str, x: Array, channel_axis: int, num_groups: int) -> Layout:
    """The channels of a group, and the spatial axes: in x with its channel axis split into (G, C / G)."""
    channel, spatial = channel_and_spatial(caller, rank(caller, x), channel_axis)
    shared = (channel + 1, *(i + (i > channel) for i in spatial))
    groups = groups_of(caller, x, channel, num_groups)
    return Layout(shared=tuple(sorted(shared)), affine=(channel,), groups=groups)


def instance(caller: str, x: Array, channel_axis: int) -> Layout:
    """The spatial axes."""
    channel, spatial = channel_and_spatial(caller, rank(caller, x), channel_axis)
    return Layout(shared=spatial, affine=(channel,))


def batch(caller: str, x: Array, channel_axis: int) -> Layout:
    """Every axis but the channels."""
    ndim = rank(caller, x)
    channel = axis_of(caller, "channel_axis", channel_axis, ndim)
    return Layout(shared=tuple(i for i in range(ndim) if i != channel), affine=(channel,))


def channel_and_spatial(caller: str, ndim: int, channel_axis: int) -> tuple[int, Shape]:
    """The channel axis, and the axes that are neither channels nor samples: the samples are axis 0, if that is free."""
    channel = axis_of(caller, "channel_axis", channel_axis, ndim)
    return channel, tuple(i for i in range(1, ndim) if i != channel)


# ---------------------------------------------------------------------------------- what is done with a call

P = ParamSpec("P")
R = TypeVar("R")


class Done(NamedTuple, Generic[R]):
    """What has been done with a call: a result, and what a pullback is made of."""

    result: R
    call: Call
    statistics: Any  # where they are to be kept
    pull: Callable[..., tuple[Any, ...]] = pull  # of the call, the statistics and the gradient of the result


def forward(call: Call, *, keep: bool) -> Done[Array]:
    """Normalise."""
    y, s = normalize(call, keep=keep)
    return Done(y, call, s)


def norm(make: Callable[P, Call]) -> Callable[P, Array]:
    """Make a norm of what makes its call: a function that returns the normalised array."""

    @wraps(make)
    def result_of(*arguments: P.args, **keywords: P.kwargs) -> Array:
        return normalize(make(*arguments, **keywords))[0]

    return returning(result_of, make, forward, "Array")


def performed_by(perform: Callable[..., Done[Any]], result: str) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Make a norm of what prepares its call, by what performs that."""

    def decorate(make: Callable[P, Any]) -> Callable[P, Any]:
        @wraps(make)
        def result_of(*arguments: P.args, **keywords: P.kwargs) -> Any:
            return perform(make(*arguments, **keywords)).result

        return returning(result_of, make, perform, result)

    return decorate


def returning(function: Callable[P, R], arguments: Callable[..., Any], perform: Any, result: str) -> Callable[P, R]:
    """Give a function another one's signature to show, but for what it returns, and what performs its calls."""
    function.perform = perform  # type: ignore[attr-defined]
    function.__signature__ = signature(arguments).replace(return_annotation=result)  # type: ignore[attr-defined]
    function.__annotations__ = {**arguments.__annotations__, "return": result}
    return function


# ---------------------------------------------------------------------------------- the norms


@norm
def layer_norm(
    x: Array,
    /,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int | Shape | None = -1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> Call:
    r"""Normalise each sample over the axes named, whose elements share one mean and one variance.

    .. math:: y = \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \cdot w + b

    Parameters
    ----------
    x : array
        Of any shape and real dtype. Integers and booleans become the library's default float.
    weight, bias : array, optional
        :math:`w` and :math:`b`, of the shape of the axes named, in x's order; or of x's rank and broadcastable to x.
    axis : int or tuple of ints, optional
        The axes that share their statistics, in any order: (1, 2, 3) for a whole image of shape (N, C, H, W), None for
        all of them.
    eps : float
        Added to the biased variance, inside the root. With 0, a constant slice still gives 0.
    where : boolean array, optional
        Broadcasts to x's shape. Hidden elements count in no statistic and come out as the bias, or 0.
    sync : callable, optional
        Sums an array over the replicas that hold the other parts of x, whichever of the axes named they split it along:
        ``functools.partial(jax.lax.psum, axis_name="batch")``, ``torch.distributed.nn.functional.all_reduce``, or MPI's
        ``comm.allreduce``. It is called twice with small arrays, once in :func:`rms_norm`. Each replica has its own
        weight and bias.

    Returns
    -------
    array
        Of x's shape, dtype, library and device. float16 and bfloat16 are computed in float32 and rounded once.

    Raises
    ------
    TypeError
        x is not an array of real numbers, or the arrays come from several libraries.
    ValueError
        An axis, a shape, eps or a device does not fit.

    See Also
    --------
    torch.nn.functional.layer_norm : axis=(-k, ..., -1) for a normalized_shape of k sizes.
    jax.nn.standardize : without weight and bias.
    flax.linen.LayerNorm : eps 1e-6 there; its scale and bias run along the last axis alone.

    Notes
    -----
    Follows Ba, Kiros and Hinton, *Layer Normalization*, https://arxiv.org/abs/1607.06450. In float32 the largest error
    is under 2e-6 for data of unit spread at any offset from 0 to 1e6.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> anynorm.layer_norm(np.asarray([[1.0, 2.0, 3.0], [1e6, 1e6, 1e6 + 3]]), eps=0)
    array([[-1.22474487,  0.        ,  1.22474487],
           [-0.70710678, -0.70710678,  1.41421356]])
    """
    return prepare("layer_norm", layer, (axis,), x, weight, bias, eps, where, sync, ragged=True)


@norm
def rms_norm(
    x: Array,
    /,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int | Shape | None = -1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> Call:
    r"""Divide each sample by its root mean square over the axes named: a layer norm without the mean.

    .. math:: y = \frac{x}{\sqrt{\mathrm{E}[x^2] + \epsilon}} \cdot w + b

    Parameters
    ----------
    x : array
        Of any shape and real dtype. Integers and booleans become the library's default float.
    weight, bias : array, optional
        :math:`w` and :math:`b`, of the shape of the axes named, in x's order; or of x's rank and broadcastable to x.
    axis : int or tuple of ints, optional
        The axes that share their root mean square, in any order; None for all of them.
    eps : float
        Added to the mean square, inside the root.
    where : boolean array, optional
        Broadcasts to x's shape. Hidden elements count in no statistic and come out as the bias, or 0.
    sync : callable, optional
        As in :func:`layer_norm`.

    Returns
    -------
    array
        Of x's shape, dtype, library and device. A slice of zeros gives zeros at every eps.

    Raises
    ------
    TypeError, ValueError
        As in :func:`layer_norm`.

    See Also
    --------
    torch.nn.functional.rms_norm : eps=None there is 1.19e-7, and 2.2e-16 for float64.
    flax.linen.RMSNorm : eps 1e-6 there.

    Notes
    -----
    Follows Zhang and Sennrich, *Root Mean Square Layer Normalization*, https://arxiv.org/abs/1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> anynorm.rms_norm(np.asarray([[3.0, 4.0], [0.0, 0.0]]), eps=0)
    array([[0.84852814, 1.13137085],
           [0.        , 0.        ]])
    """
    return prepare("rms_norm", rms, (axis,), x, weight, bias, eps, where, sync, ragged=True)


@norm
def group_norm(
    x: Array,
    /,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    channel_axis: int = 1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> Call:
    r"""Normalise each group of neighbouring channels in each sample, whose elements share one mean and one variance.

    .. math:: y = \frac{x - \mathrm{E}_{C/G,S}[x]}{\sqrt{\mathrm{Var}_{C/G,S}[x] + \epsilon}} \cdot w + b

    Parameters
    ----------
    x : array
        Of shape (N, C, \*S), or with the channels elsewhere; (N, C) alone works too. Axis 0 holds the samples, unless
        it holds the channels: then there is one sample.
    num_groups : int
        G, a divisor of C.
    weight, bias : array, optional
        :math:`w` and :math:`b`, of shape (C,); or of x's rank and broadcastable to x.
    channel_axis : int
        The axis of the channels: 1 as in PyTorch, -1 for channels last.
    eps : float
        Added to the biased variance, inside the root.
    where : boolean array, optional
        Broadcasts to x's shape. Hidden elements count in no statistic and come out as the bias, or 0.
    sync : callable, optional
        As in :func:`layer_norm`.

    Returns
    -------
    array
        Of x's shape, dtype, library and device.

    Raises
    ------
    TypeError, ValueError
        As in :func:`layer_norm`; also if num_groups does not divide C.

    See Also
    --------
    torch.nn.functional.group_norm : the same, channels first.
    flax.linen.GroupNorm : eps 1e-6, 32 groups and channels last there.

    Notes
    -----
    Follows Wu and He, *Group Normalization*, https://arxiv.org/abs/1803.08494. With one group it is a layer norm over
    (C, \*S), except for weight and bias; with C groups, an instance norm.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> anynorm.group_norm(np.asarray([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0)
    array([[-1.,  1., -1.,  1.]])
    """
    return prepare("group_norm", group, (channel_axis, num_groups), x, weight, bias, eps, where, sync)


@norm
def instance_norm(
    x: Array,
    /,
    *,
    stats: RunningStats | PopulationStats | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    channel_axis: int = 1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> Call:
    r"""Normalise each channel of each sample on its own: its spatial elements share one mean and one variance.

    .. math:: y = \frac{x - \mathrm{E}_S[x]}{\sqrt{\mathrm{Var}_S[x] + \epsilon}} \cdot w + b

    Parameters
    ----------
    x : array
        Of shape (N, C, \*S), or with the channels elsewhere; axis 0 as in :func:`group_norm`.
    stats : RunningStats or PopulationStats, optional
        The mean and variance to use, of shape (C,), in place of x's own: inference after :func:`instance_norm_train`.
    weight, bias : array, optional
        :math:`w` and :math:`b`, of shape (C,); or of x's rank and broadcastable to x.
    channel_axis : int
        The axis of the channels: 1 as in PyTorch, -1 for channels last.
    eps : float
        Added to the biased variance, inside the root.
    where : boolean array, optional
        Broadcasts to x's shape. Hidden elements count in no statistic and come out as the bias, or 0.
    sync : callable, optional
        As in :func:`layer_norm`. With stats there is nothing to sync.

    Returns
    -------
    array
        Of x's shape, dtype, library and device.

    Raises
    ------
    TypeError, ValueError
        As in :func:`layer_norm`; also if stats does not fit x's channels.

    See Also
    --------
    torch.nn.functional.instance_norm : use_input_stats=False there is stats= here.
    flax.linen.InstanceNorm : eps 1e-6 and channels last there.

    Notes
    -----
    Follows Ulyanov, Vedaldi and Lempitsky, *Instance Normalization*, https://arxiv.org/abs/1607.08022.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> anynorm.instance_norm(np.asarray([[[1.0, 3.0], [10.0, 30.0]]]), eps=0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    return prepare("instance_norm", instance, (channel_axis,), x, weight, bias, eps, where, sync, stats)


@norm
def batch_norm(
    x: Array,
    /,
    *,
    stats: RunningStats | PopulationStats | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    channel_axis: int = 1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> Call:
    r"""Normalise each channel over the whole batch: its elements in every sample share one mean and one variance.

    .. math:: y = \frac{x - \mathrm{E}_{N,S}[x]}{\sqrt{\mathrm{Var}_{N,S}[x] + \epsilon}} \cdot w + b

    Parameters
    ----------
    x : array
        Of shape (N, C, \*S), or with the channels elsewhere; (N, C) alone works too.
    stats : RunningStats or PopulationStats, optional
        The mean and variance to use, of shape (C,), in place of the batch's own: inference after
        :func:`batch_norm_train`. The result is exact for the statistics given, float64 ones on float32 data included.
    weight, bias : array, optional
        :math:`w` and :math:`b`, of shape (C,); or of x's rank and broadcastable to x.
    channel_axis : int
        The axis of the channels: 1 as in PyTorch, -1 for channels last.
    eps : float
        Added to the biased variance, inside the root.
    where : boolean array, optional
        Broadcasts to x's shape. Hidden elements count in no statistic and come out as the bias, or 0.
    sync : callable, optional
        As in :func:`layer_norm`. With stats there is nothing to sync.

    Returns
    -------
    array
        Of x's shape, dtype, library and device.

    Raises
    ------
    TypeError, ValueError
        As in :func:`layer_norm`; also if stats does not fit x's channels.

    See Also
    --------
    torch.nn.functional.batch_norm : training=False there is stats= here.
    flax.linen.BatchNorm : use_running_average=True there is stats= here; channels last.

    Notes
    -----
    Follows Ioffe and Szegedy, *Batch Normalization*, https://arxiv.org/abs/1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x = np.asarray([[1.0, 10.0], [3.0, 30.0]])
    >>> anynorm.batch_norm(x, eps=0)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> anynorm.batch_norm(
    ...     x,
    ...     stats=anynorm.RunningStats(np.asarray([1.0, 0.0]), np.asarray([4.0, 100.0])),
    ...     eps=0,
    ... )
    array([[0., 1.],
           [1., 3.]])
    """
    return prepare("batch_norm", batch, (channel_axis,), x, weight, bias, eps, where, sync, stats)
