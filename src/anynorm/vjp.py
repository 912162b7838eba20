"""The norms with their gradients, for libraries that do not differentiate, and for those that lose digits doing so.

Every function takes the arguments of its namesake in :mod:`anynorm`, and returns the same result together with its
pullback, which turns the gradient of the result into those of x, weight and bias.

>>> import numpy as np
>>> from anynorm import vjp
>>> y, pullback = vjp.layer_norm(np.asarray([[1.0, 2.0, 6.0]]), np.ones(3))
>>> dx, dweight, dbias = pullback(np.ones_like(y))
>>> dweight.shape, dbias
((3,), None)
"""

from __future__ import annotations

from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from . import _mixtures as mixtures
from . import _norms as norms
from . import _relatives as relatives
from . import _running as running
from ._core.arguments import dtypes, gradient_of
from ._core.libraries import namespace_of
from ._core.plans import checked
from ._norms import returning

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._core.libraries import Array
    from ._norms import Done

__all__ = [
    "Pullback",
    "batch_instance_norm",
    "batch_instance_norm_train",
    "batch_norm",
    "batch_norm_train",
    "batch_renorm_train",
    "group_norm",
    "instance_norm",
    "instance_norm_train",
    "layer_norm",
    "local_response_norm",
    "rms_norm",
    "spectral_norm",
    "switchable_norm",
    "switchable_norm_train",
    "unit_norm",
    "weight_standardize",
]


P = ParamSpec("P")
R = TypeVar("R")


class Pullback:
    """The gradients of x, weight, bias and the controls of a mixture, given that of the result.

    It keeps x and the statistics, and nothing else. Do not write to x before it is called.
    """

    __slots__ = ("_call", "_caller", "_pull", "_statistics")

    def __init__(self, caller: str, done: Done[Any]) -> None:
        self._caller, (_, self._call, self._statistics, self._pull) = caller, done

    def __getstate__(self) -> tuple[Any, ...]:
        # No pickle holds a module, as a namespace is, or a dtype of MLX.
        call = self._call.alone()._replace(xp=None, dtype=None, computing=None)
        return self._caller, call, self._statistics, self._pull

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._caller, call, self._statistics, self._pull = state
        xp = namespace_of(call.x)
        dtype, computing = dtypes(self._caller, xp, call.x)
        self._call = call._replace(xp=xp, dtype=dtype, computing=computing)

    def __call__(self, dy: Array, /) -> tuple[Any, ...]:
        """Return (dx, dweight, dbias), None where there was no parameter, and for a mixture those of its controls.

        Parameters
        ----------
        dy : array
            The gradient of the result: with its shape, library and device, and of a floating dtype.

        Returns
        -------
        dx : array
            Of the result's shape and dtype. Elements that the mask hides have gradient 0.
        dweight, dbias : array or None
            Of the shape and dtype of weight and bias, but of a floating dtype where those are integers, and lazy where
            x is. They are sums over this replica alone.
        *dcontrols : array
            Those of mean_logits and var_logits of :func:`switchable_norm`, or of the gate of
            :func:`batch_instance_norm`, likewise.

        Raises
        ------
        TypeError
            dy is not an array of x's library, or not of a floating dtype.
        ValueError
            dy is not of the result's shape, or is on another device.
        """
        call = self._call
        dy = checked(call, dy, lambda: gradient_of(self._caller, call.xp, call.x, dy, call.rows))
        return self._pull(call, self._statistics, dy)


def with_pullback(norm: Callable[P, R]) -> Callable[[Callable[[], None]], Callable[P, tuple[R, Pullback]]]:
    """Make a norm's namesake of what is but a docstring: it returns the norm's result, and its pullback."""
    make: Callable[P, Any] = norm.__wrapped__  # type: ignore[attr-defined]
    perform: Callable[..., Any] = norm.perform  # type: ignore[attr-defined]

    def decorate(documented: Callable[[], None]) -> Callable[P, tuple[R, Pullback]]:
        @wraps(documented)
        def both(*arguments: P.args, **keywords: P.kwargs) -> tuple[R, Pullback]:
            done = perform(make(*arguments, **keywords), keep=True)
            return done.result, Pullback(norm.__name__, done)

        return returning(both, norm, perform, f"tuple[{signature(norm).return_annotation}, Pullback]")

    return decorate


# ---------------------------------------------------------------------------------- the norms


@with_pullback(norms.layer_norm)
def layer_norm() -> None:
    r"""Return a layer norm and its pullback.

    With :math:`\hat y = (x - \mathrm{E}[x]) / \sqrt{\mathrm{Var}[x] + \epsilon}` and :math:`g = w \cdot dy`:

    .. math::

        dx = \frac{g - \mathrm{E}[g] - \hat y \, \mathrm{E}[g \hat y]}{\sqrt{\mathrm{Var}[x] + \epsilon}}, \qquad
        dw = \sum dy \cdot \hat y, \qquad db = \sum dy

    Parameters
    ----------
    x, weight, bias, axis, eps, where, sync
        As in :func:`anynorm.layer_norm`.

    Returns
    -------
    y : array
        What :func:`anynorm.layer_norm` returns.
    pullback : Pullback
        Turns dy, of y's shape, into (dx, dweight, dbias).

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.layer_norm`.

    See Also
    --------
    torch.ops.aten.native_layer_norm_backward : the same, but it loses digits to an offset. jax.vjp : of
    :func:`anynorm.layer_norm` is the same, too.

    Notes
    -----
    In float32 the largest error is under 2e-6 of the largest gradient, for data of unit spread at any offset from 0 to
    1e6.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import vjp
    >>> y, pullback = vjp.layer_norm(
    ...     np.asarray([[1.0, 3.0], [10.0, 30.0]]), np.asarray([1.0, 2.0]), eps=0
    ... )
    >>> dx, dweight, dbias = pullback(np.asarray([[1.0, 0.0], [0.0, 1.0]]))
    >>> dx, dweight, dbias
    (array([[0., 0.],
           [0., 0.]]), array([-1.,  1.]), None)
    """


@with_pullback(norms.rms_norm)
def rms_norm() -> None:
    r"""Return an rms norm and its pullback.

    With :math:`\hat y = x / \sqrt{\mathrm{E}[x^2] + \epsilon}` and :math:`g = w \cdot dy`:

    .. math::

        dx = \frac{g - \hat y \, \mathrm{E}[g \hat y]}{\sqrt{\mathrm{E}[x^2] + \epsilon}}, \qquad
        dw = \sum dy \cdot \hat y, \qquad db = \sum dy

    Parameters
    ----------
    x, weight, bias, axis, eps, where, sync
        As in :func:`anynorm.rms_norm`.

    Returns
    -------
    y : array
        What :func:`anynorm.rms_norm` returns.
    pullback : Pullback
        As in :func:`layer_norm`.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.rms_norm`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.rms_norm` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import vjp
    >>> y, pullback = vjp.rms_norm(np.asarray([[1.0, 1.0]]), eps=0)
    >>> pullback(np.asarray([[1.0, 0.0]]))[0]
    array([[ 0.5, -0.5]])
    """


@with_pullback(norms.group_norm)
def group_norm() -> None:
    r"""Return a group norm and its pullback.

    The gradient is that of :func:`layer_norm`, with its means taken over each group:

    .. math::

        dx = \frac{g - \mathrm{E}_{C/G,S}[g] - \hat y \, \mathrm{E}_{C/G,S}[g \hat y]}
                  {\sqrt{\mathrm{Var}_{C/G,S}[x] + \epsilon}}, \qquad g = w \cdot dy

    Parameters
    ----------
    x, num_groups, weight, bias, channel_axis, eps, where, sync
        As in :func:`anynorm.group_norm`.

    Returns
    -------
    y : array
        What :func:`anynorm.group_norm` returns.
    pullback : Pullback
        As in :func:`layer_norm`.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.group_norm`.

    See Also
    --------
    torch.ops.aten.native_group_norm_backward : the same, but it loses digits to an offset.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import vjp
    >>> y, pullback = vjp.group_norm(
    ...     np.asarray([[1.0, 3.0, 5.0, 0.0]]), 1, bias=np.zeros(4)
    ... )
    >>> [gradient.shape for gradient in pullback(y) if gradient is not None]
    [(1, 4), (4,)]
    """


@with_pullback(norms.instance_norm)
def instance_norm() -> None:
    r"""Return an instance norm and its pullback.

    The gradient is that of :func:`layer_norm`, with its means taken over the spatial axes:

    .. math::

        dx = \frac{g - \mathrm{E}_S[g] - \hat y \, \mathrm{E}_S[g \hat y]}{\sqrt{\mathrm{Var}_S[x] + \epsilon}},
        \qquad g = w \cdot dy

    With statistics :math:`\mu, \sigma^2` given, it is that of an affine map,
    :math:`dx = g / \sqrt{\sigma^2 + \epsilon}`.

    Parameters
    ----------
    x, stats, weight, bias, channel_axis, eps, where, sync
        As in :func:`anynorm.instance_norm`.

    Returns
    -------
    y : array
        What :func:`anynorm.instance_norm` returns.
    pullback : Pullback
        As in :func:`layer_norm`. A state has no gradient.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.instance_norm`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.instance_norm` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> from anynorm import vjp
    >>> stats = anynorm.RunningStats(np.asarray([2.0]), np.asarray([4.0]))
    >>> y, pullback = vjp.instance_norm(
    ...     np.asarray([[[2.0, 6.0]]]), stats=stats, weight=np.ones(1), eps=0
    ... )
    >>> pullback(np.asarray([[[1.0, 3.0]]]))
    (array([[[0.5, 1.5]]]), array([6.]), None)
    """


@with_pullback(norms.batch_norm)
def batch_norm() -> None:
    r"""Return a batch norm and its pullback.

    The gradient is that of :func:`layer_norm`, with its means taken over samples and spatial axes:

    .. math::

        dx = \frac{g - \mathrm{E}_{N,S}[g] - \hat y \, \mathrm{E}_{N,S}[g \hat y]}
                  {\sqrt{\mathrm{Var}_{N,S}[x] + \epsilon}}, \qquad g = w \cdot dy

    With statistics :math:`\mu, \sigma^2` given, it is that of an affine map,
    :math:`dx = g / \sqrt{\sigma^2 + \epsilon}`.

    Parameters
    ----------
    x, stats, weight, bias, channel_axis, eps, where, sync
        As in :func:`anynorm.batch_norm`.

    Returns
    -------
    y : array
        What :func:`anynorm.batch_norm` returns.
    pullback : Pullback
        As in :func:`layer_norm`. A state has no gradient.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.batch_norm`.

    See Also
    --------
    torch.ops.aten.native_batch_norm_backward : the same, but it loses digits to an offset.

    Notes
    -----
    Follows Ioffe and Szegedy, *Batch Normalization*, https://arxiv.org/abs/1502.03167, section 3, in closed form.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import vjp
    >>> y, pullback = vjp.batch_norm(
    ...     np.asarray([[1.0], [1.0], [3.0], [3.0]]), weight=np.ones(1), eps=0
    ... )
    >>> dx, dweight, dbias = pullback(np.asarray([[1.0], [0.0], [0.0], [0.0]]))
    >>> dx.T, dweight
    (array([[ 0.5, -0.5,  0. ,  0. ]]), array([-1.]))
    """


@with_pullback(running.batch_norm_train)
def batch_norm_train() -> None:
    r"""Return a training step of batch norm and its pullback, which is that of :func:`batch_norm`.

    .. math::

        dx = \frac{g - \mathrm{E}_{N,S}[g] - \hat y \, \mathrm{E}_{N,S}[g \hat y]}
                  {\sqrt{\mathrm{Var}_{N,S}[x] + \epsilon}}, \qquad g = w \cdot dy

    Parameters
    ----------
    x, stats, weight, bias, momentum, correction, channel_axis, eps, where, sync
        As in :func:`anynorm.batch_norm_train`.

    Returns
    -------
    (y, stats) : array and RunningStats
        What :func:`anynorm.batch_norm_train` returns.
    pullback : Pullback
        As in :func:`layer_norm`: of dy alone, since a state has no gradient.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.batch_norm_train`.

    See Also
    --------
    torch.nn.functional.batch_norm : training=True, differentiated by torch, except that it writes to its buffers.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> from anynorm import vjp
    >>> x = np.asarray([[1.0, 10.0], [3.0, 30.0]])
    >>> (y, stats), pullback = vjp.batch_norm_train(
    ...     x, anynorm.running_stats(2, like=x), bias=np.zeros(2)
    ... )
    >>> pullback(np.ones_like(y))
    (array([[0., 0.],
           [0., 0.]]), None, array([2., 2.]))
    """


@with_pullback(running.instance_norm_train)
def instance_norm_train() -> None:
    r"""Return a training step of instance norm and its pullback, which is that of :func:`instance_norm`.

    .. math::

        dx = \frac{g - \mathrm{E}_{S}[g] - \hat y \, \mathrm{E}_{S}[g \hat y]}
                  {\sqrt{\mathrm{Var}_{S}[x] + \epsilon}}, \qquad g = w \cdot dy

    Parameters
    ----------
    x, stats, weight, bias, momentum, correction, channel_axis, eps, where, sync
        As in :func:`anynorm.instance_norm_train`.

    Returns
    -------
    (y, stats) : array and RunningStats
        What :func:`anynorm.instance_norm_train` returns.
    pullback : Pullback
        As in :func:`layer_norm`: of dy alone, since a state has no gradient.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.instance_norm_train`.

    See Also
    --------
    torch.nn.functional.instance_norm : use_input_stats=True, likewise.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> from anynorm import vjp
    >>> x = np.asarray([[[1.0, 3.0]], [[10.0, 30.0]]])
    >>> (y, stats), pullback = vjp.instance_norm_train(
    ...     x, anynorm.running_stats(1, like=x), weight=np.ones(1), eps=0
    ... )
    >>> pullback(y)[1]
    array([4.])
    """


@with_pullback(mixtures.switchable_norm)
def switchable_norm() -> None:
    r"""Return a switchable norm and its pullback.

    With a and s the scale and the shift of an instance, :math:`y = ((x - \mu_{in})\, a + s) \cdot w + b`, and
    :math:`g = w \cdot dy`:

    .. math::

        dx = a\, g + \frac{1}{|S|} \left(d\mu + 2\, (x - \mu_{in})\, d\sigma^2\right)

    where :math:`d\mu` and :math:`d\sigma^2` are the gradients of the instance's mean and variance: its own, and its
    shares of those that it is mixed with.

    Parameters
    ----------
    x, mean_logits, var_logits, stats, weight, bias, channel_axis, eps, where, sync
        As in :func:`anynorm.switchable_norm`.

    Returns
    -------
    y : array
        What :func:`anynorm.switchable_norm` returns.
    pullback : Pullback
        Turns dy, of y's shape, into (dx, dweight, dbias, dmean_logits, dvar_logits). A state has no gradient.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.switchable_norm`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.switchable_norm` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import vjp
    >>> x = np.asarray([[[1.0, 3.0]], [[5.0, 7.0]]])
    >>> y, pullback = vjp.switchable_norm(x, np.zeros(3), np.zeros(3))
    >>> [gradient.shape for gradient in pullback(y) if gradient is not None]
    [(2, 1, 2), (3,), (3,)]
    """


@with_pullback(mixtures.switchable_norm_train)
def switchable_norm_train() -> None:
    r"""Return a training step of switchable norm and its pullback, which is that of :func:`switchable_norm`.

    With a and s the scale and the shift of an instance, :math:`y = ((x - \mu_{in})\, a + s) \cdot w + b`, and
    :math:`g = w \cdot dy`:

    .. math::

        dx = a\, g + \frac{1}{|S|} \left(d\mu + 2\, (x - \mu_{in})\, d\sigma^2\right)

    where :math:`d\mu` and :math:`d\sigma^2` are the gradients of the instance's mean and variance: its own, and its
    shares of those that it is mixed with.

    Parameters
    ----------
    x, stats, mean_logits, var_logits, weight, bias, momentum, correction, channel_axis, eps, where, sync
        As in :func:`anynorm.switchable_norm_train`.

    Returns
    -------
    (y, stats) : array and RunningStats
        What :func:`anynorm.switchable_norm_train` returns.
    pullback : Pullback
        Turns dy, of y's shape, into (dx, dweight, dbias, dmean_logits, dvar_logits). A state has no gradient.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.switchable_norm_train`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.switchable_norm_train` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> from anynorm import vjp
    >>> x = np.asarray([[[1.0, 3.0]], [[5.0, 7.0]]])
    >>> (y, stats), pullback = vjp.switchable_norm_train(
    ...     x, anynorm.running_stats(1, like=x), np.zeros(3), np.zeros(3)
    ... )
    >>> [gradient.shape for gradient in pullback(y) if gradient is not None]
    [(2, 1, 2), (3,), (3,)]
    """


@with_pullback(mixtures.batch_instance_norm)
def batch_instance_norm() -> None:
    r"""Return a batch-instance norm and its pullback.

    With a and s the scale and the shift of an instance, :math:`y = ((x - \mu_{in})\, a + s) \cdot w + b`, and
    :math:`g = w \cdot dy`:

    .. math::

        dx = a\, g + \frac{1}{|S|} \left(d\mu + 2\, (x - \mu_{in})\, d\sigma^2\right)

    where :math:`d\mu` and :math:`d\sigma^2` are the gradients of the instance's mean and variance: its own, and its
    shares of those that it is mixed with.

    Parameters
    ----------
    x, gate, stats, weight, bias, channel_axis, eps, where, sync
        As in :func:`anynorm.batch_instance_norm`.

    Returns
    -------
    y : array
        What :func:`anynorm.batch_instance_norm` returns.
    pullback : Pullback
        Turns dy, of y's shape, into (dx, dweight, dbias, dgate). A state has no gradient.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.batch_instance_norm`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.batch_instance_norm` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import vjp
    >>> x = np.asarray([[[1.0, 3.0]], [[5.0, 7.0]]])
    >>> y, pullback = vjp.batch_instance_norm(x, np.asarray([0.5]))
    >>> [gradient.shape for gradient in pullback(y) if gradient is not None]
    [(2, 1, 2), (1,)]
    """


@with_pullback(mixtures.batch_instance_norm_train)
def batch_instance_norm_train() -> None:
    r"""Return a training step of batch-instance norm and its pullback, which is that of :func:`batch_instance_norm`.

    With a and s the scale and the shift of an instance, :math:`y = ((x - \mu_{in})\, a + s) \cdot w + b`, and
    :math:`g = w \cdot dy`:

    .. math::

        dx = a\, g + \frac{1}{|S|} \left(d\mu + 2\, (x - \mu_{in})\, d\sigma^2\right)

    where :math:`d\mu` and :math:`d\sigma^2` are the gradients of the instance's mean and variance: its own, and its
    shares of those that it is mixed with.

    Parameters
    ----------
    x, stats, gate, weight, bias, momentum, correction, channel_axis, eps, where, sync
        As in :func:`anynorm.batch_instance_norm_train`.

    Returns
    -------
    (y, stats) : array and RunningStats
        What :func:`anynorm.batch_instance_norm_train` returns.
    pullback : Pullback
        Turns dy, of y's shape, into (dx, dweight, dbias, dgate). A state has no gradient.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.batch_instance_norm_train`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.batch_instance_norm_train` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> from anynorm import vjp
    >>> x = np.asarray([[[1.0, 3.0]], [[5.0, 7.0]]])
    >>> (y, stats), pullback = vjp.batch_instance_norm_train(
    ...     x, anynorm.running_stats(1, like=x), np.asarray([0.5])
    ... )
    >>> [gradient.shape for gradient in pullback(y) if gradient is not None]
    [(2, 1, 2), (1,)]
    """


@with_pullback(relatives.batch_renorm_train)
def batch_renorm_train() -> None:
    r"""Return a training step of batch renormalisation and its pullback.

    r and d are constants, so it is that of a :func:`batch_norm` with weight :math:`r w` and bias :math:`d w + b`:

    .. math::

        dx = \frac{g - \mathrm{E}_{N,S}[g] - \hat y \, \mathrm{E}_{N,S}[g \hat y]}
                  {\sqrt{\mathrm{Var}_{N,S}[x] + \epsilon}}, \qquad g = r w \cdot dy, \qquad
        dw = \sum dy \cdot (r \hat y + d)

    Parameters
    ----------
    x, stats, r_max, d_max, weight, bias, momentum, correction, channel_axis, eps, where, sync
        As in :func:`anynorm.batch_renorm_train`.

    Returns
    -------
    (y, stats) : array and RunningStats
        What :func:`anynorm.batch_renorm_train` returns.
    pullback : Pullback
        As in :func:`layer_norm`: of dy alone, since a state has no gradient.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.batch_renorm_train`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.batch_renorm_train` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> from anynorm import vjp
    >>> x = np.asarray([[1.0, 10.0], [3.0, 30.0]])
    >>> (y, stats), pullback = vjp.batch_renorm_train(
    ...     x, anynorm.running_stats(2, like=x), d_max=1, weight=np.ones(2)
    ... )
    >>> pullback(np.ones_like(y))[1]
    array([2., 2.])
    """


@with_pullback(relatives.weight_standardize)
def weight_standardize() -> None:
    r"""Return standardised weights and their pullback, which is that of :func:`layer_norm`.

    .. math::

        dx = \frac{dy - \mathrm{E}_i[dy] - y \, \mathrm{E}_i[dy \cdot y]}{\sqrt{\mathrm{Var}_i[x] + \epsilon}}

    Parameters
    ----------
    x, channel_axis, eps
        As in :func:`anynorm.weight_standardize`.

    Returns
    -------
    y : array
        What :func:`anynorm.weight_standardize` returns.
    pullback : Pullback
        Turns dy, of y's shape, into (dx, None, None).

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.weight_standardize`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.weight_standardize` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import vjp
    >>> y, pullback = vjp.weight_standardize(np.asarray([[1.0, 1.0, 3.0, 3.0]]), eps=0)
    >>> pullback(np.asarray([[1.0, 0.0, 0.0, 0.0]]))[0]
    array([[ 0.5, -0.5,  0. ,  0. ]])
    """


@with_pullback(relatives.unit_norm)
def unit_norm() -> None:
    r"""Return vectors divided by their length, and their pullback.

    .. math::

        dx = \frac{dy - t \sum dy \cdot y}{\lVert x \rVert_p}, \qquad
        t = \mathrm{sign}(y)\, |y|^{p - 1}

    With p infinite, t is the sign of the largest element, shared where there are several of them, and 0 elsewhere.
    Where eps is larger than the length, it is :math:`dx = dy / \epsilon`.

    Parameters
    ----------
    x, p, axis, eps
        As in :func:`anynorm.unit_norm`.

    Returns
    -------
    y : array
        What :func:`anynorm.unit_norm` returns.
    pullback : Pullback
        Turns dy, of y's shape, into (dx, None, None).

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.unit_norm`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.unit_norm` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import vjp
    >>> y, pullback = vjp.unit_norm(np.asarray([[0.0, 2.0]]))
    >>> pullback(np.ones_like(y))[0]
    array([[0.5, 0. ]])
    """


@with_pullback(relatives.local_response_norm)
def local_response_norm() -> None:
    r"""Return a local response norm and its pullback.

    With :math:`s_c` for what is raised to the power of :math:`-\beta`, and c one of the n neighbours of j:

    .. math::

        dx_c = dy_c\, s_c^{-\beta} - \frac{2 \alpha \beta}{n}\, x_c \sum_j dy_j\, x_j\, s_j^{-\beta - 1}

    Parameters
    ----------
    x, size, alpha, beta, k, channel_axis
        As in :func:`anynorm.local_response_norm`.

    Returns
    -------
    y : array
        What :func:`anynorm.local_response_norm` returns.
    pullback : Pullback
        Turns dy, of y's shape, into (dx, None, None).

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.local_response_norm`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.local_response_norm` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import vjp
    >>> y, pullback = vjp.local_response_norm(
    ...     np.asarray([[1.0, 0.0, 0.0]]), 1, alpha=1.0, beta=1.0
    ... )
    >>> pullback(np.ones_like(y))[0]
    array([[0., 1., 1.]])
    """


@with_pullback(relatives.spectral_norm)
def spectral_norm() -> None:
    r"""Return weights divided by their largest singular value, and their pullback.

    .. math:: dx = \frac{dy - u' v^T \sum dy \cdot y}{\sigma}

    Parameters
    ----------
    x, u, channel_axis, steps, eps
        As in :func:`anynorm.spectral_norm`.

    Returns
    -------
    (y, u) : two arrays
        What :func:`anynorm.spectral_norm` returns.
    pullback : Pullback
        Turns dy, of y's shape, into (dx, None, None). A state has no gradient.

    Raises
    ------
    TypeError, ValueError
        As in :func:`anynorm.spectral_norm`.

    See Also
    --------
    jax.vjp : of :func:`anynorm.spectral_norm` is the same.

    Examples
    --------
    >>> import numpy as np
    >>> from anynorm import vjp
    >>> (y, u), pullback = vjp.spectral_norm(
    ...     np.asarray([[2.0, 0.0], [0.0, 1.0]]), np.asarray([1.0, 0.0])
    ... )
    >>> pullback(np.ones_like(y))[0]
    array([[-0.25,  0.5 ],
           [ 0.5 ,  0.5 ]])
    """
