"""The norms that mix the statistics of an instance with those of more elements.

x is read once for the statistics of its instances: they merge into those of layers and of the batch. A mixture is then
(x - the mean of its instance) * scale + shift, with one scale and one shift for each sample and channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import _engines as engines
from ._core.arguments import floating_of
from ._core.arrays import reshape, shape_along, stack
from ._core.call import Statistics, check_sync, prepare, statistics_of
from ._core.plans import find, kind_of
from ._core.standardize import pool, rstd, sum_to, summed, trusted
from ._norms import Done, instance, performed_by
from ._running import advance, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._core.call import Call
    from ._core.libraries import Array, Namespace, Shape
    from ._running import PopulationStats, RunningStats, Step

# ---------------------------------------------------------------------------------- what is mixed


class Part(NamedTuple):
    """What instances are mixed with: how far its mean lies from that of an instance, and its variance."""

    apart: Array
    var: Array


class Parts(NamedTuple):
    """All that may be mixed, or the gradients of it."""

    var: Array  # of the instances
    layer: Part
    batch: Part


class Blend(NamedTuple):
    """A way to mix parts by what controls it."""

    tables: Callable[..., tuple[Array, Array]]  # of parts, controls and eps: scale and shift
    pull: Callable[..., tuple[Parts, tuple[Array, ...]]]  # and of their gradients: those of parts and controls


def switch(xp: Namespace, parts: Parts, controls: tuple[Array, ...], eps: Any) -> tuple[Array, Array]:
    """Mean and variance are averages, weighted by softmax of (instance, layer, batch)."""
    var, (layer, layer_var), (batch, batch_var) = parts
    (_, p_layer, p_batch), (q_own, q_layer, q_batch) = (softmax(xp, control) for control in controls)
    scale = rstd(xp, q_own * var + q_layer * layer_var + q_batch * batch_var, eps, var.dtype)
    return scale, -(p_layer * layer + p_batch * batch) * scale


def pull_switch(
    xp: Namespace, parts: Parts, controls: tuple[Array, ...], eps: Any, dscale: Array, dshift: Array
) -> tuple[Parts, tuple[Array, ...]]:
    """Return the gradients of what switch mixes."""
    var, (layer, layer_var), (batch, batch_var) = parts
    (_, p_layer, p_batch), (q_own, q_layer, q_batch) = p, q = [softmax(xp, control) for control in controls]
    scale, shift = switch(xp, parts, controls, eps)
    move = -scale * dshift
    dvar = -0.5 * scale * scale * (scale * dscale + shift * dshift)
    dp = [summed(xp, a, tuple(range(a.ndim))) for a in (xp.zeros_like(move), move * layer, move * batch)]
    dq = [summed(xp, dvar * a, tuple(range(a.ndim))) for a in (var, layer_var, batch_var)]
    gradients = Parts(q_own * dvar, Part(p_layer * move, q_layer * dvar), Part(p_batch * move, q_batch * dvar))
    return gradients, (pull_softmax(xp, p, dp), pull_softmax(xp, q, dq))


def softmax(xp: Namespace, logits: Array) -> list[Array]:
    """Return the three shares of logits of shape (3, 1, ...)."""
    powers = xp.exp(logits - xp.max(logits, axis=0, keepdims=True))
    shares = powers / xp.sum(powers, axis=0, keepdims=True)
    return [shares[i, ...] for i in range(3)]


def pull_softmax(xp: Namespace, shares: list[Array], gradients: list[Array]) -> Array:
    """Return the gradient of the logits, given those of the shares."""
    common = sum(p * g for p, g in zip(shares, gradients, strict=True))
    return stack(xp, [p * (g - common) for p, g in zip(shares, gradients, strict=True)])


def gate(xp: Namespace, parts: Parts, controls: tuple[Array, ...], eps: Any) -> tuple[Array, Array]:
    """The result is rho times that of a batch norm, and 1 - rho times that of an instance norm."""
    (rho,), (apart, batch_var) = controls, parts.batch
    of_batch = rho * rstd(xp, batch_var, eps, apart.dtype)
    return of_batch + (1.0 - rho) * rstd(xp, parts.var, eps, apart.dtype), -apart * of_batch


def pull_gate(
    xp: Namespace, parts: Parts, controls: tuple[Array, ...], eps: Any, dscale: Array, dshift: Array
) -> tuple[Parts, tuple[Array, ...]]:
    """Return the gradients of what gate mixes."""
    (rho,), (apart, batch_var) = controls, parts.batch
    own, batch = (rstd(xp, var, eps, apart.dtype) for var in (parts.var, batch_var))
    of_batch = dscale - apart * dshift  # the gradient of rho / sigma
    dvar, dbatch_var = -0.5 * own**3 * (1.0 - rho) * dscale, -0.5 * batch**3 * rho * of_batch
    gradients = Parts(dvar, Part(xp.zeros_like(apart), dvar * 0.0), Part(-rho * batch * dshift, dbatch_var))
    return gradients, (sum_to(xp, batch * of_batch - own * dscale, tuple(rho.shape)),)


SWITCH, GATE = Blend(switch, pull_switch), Blend(gate, pull_gate)

# ---------------------------------------------------------------------------------- what is done with a mixture


class Mixture(NamedTuple):
    """How a call is mixed."""

    blend: Blend
    controls: tuple[Array, ...]
    batch: Statistics | None  # in place of the batch's own
    sync: Callable[[Array], Array] | None

    def laid(self, call: Call) -> tuple[Array, ...]:
        """Return the controls in the dtype to compute in: (C,) along x's channels, (3,) before x's axes."""
        xp, x = call.xp, call.x
        along_x, before_x = shape_along(x, call.layout.affine), (3, *(1,) * x.ndim)
        shape = along_x if self.blend == GATE else before_x
        return tuple(reshape(xp, xp.astype(a, call.computing, copy=False), shape) for a in self.controls)


class Mixed(NamedTuple):
    """A mixture, and the statistics of instances, layers and the batch."""

    mixture: Mixture
    own: Statistics
    layer: Statistics
    batch: Statistics

    def parts(self) -> Parts:
        """Return what is mixed."""
        own, layer, batch = self.own, self.layer, self.batch
        return Parts(own.var, *(Part(distance(part, own), part.var) for part in (layer, batch)))


def distance(part: Statistics, own: Statistics) -> Array:
    """Return how far a mean in two parts lies from another."""
    left: Any = 0.0 if part.rest is None else part.rest
    return (part.mean - own.mean) + (left - own.rest)  # type: ignore[operator]


def measured(call: Call, mixture: Mixture) -> Mixed:
    """Return the mixture with its statistics."""
    xp, s, sync, batch = call.xp, engines.statistics(call), mixture.sync, mixture.batch
    s = s._replace(count=s.counts(xp), var=trusted(xp, s.var, call.eps))
    if batch is None:
        local = along(xp, samples(call))
        batch = pool(xp, s, local if sync is None else lambda terms: sync(local(terms)))
    return Mixed(mixture, s, pool(xp, s, along(xp, call.layout.affine)), batch)


def samples(call: Call) -> Shape:
    """Return the axis of the samples, if there is one."""
    return tuple(i for i in range(call.x.ndim) if i not in call.layout.shared + call.layout.affine)


def along(xp: Namespace, axes: Shape) -> Callable[[Array], Array]:
    """Return a function that sums a stack of statistics along axes of theirs."""
    return lambda terms: summed(xp, terms, tuple(i + 1 for i in axes))


def mix(prepared: tuple[Call, Mixture], *, keep: bool = True) -> Done[Array]:
    """Normalise."""
    del keep  # the result is made of the statistics
    call, mixture = prepared
    xp, mixed = call.xp, measured(call, mixture)
    scale, shift = mixture.blend.tables(xp, mixed.parts(), mixture.laid(call), call.eps)
    bias = None if call.bias is None else call.broadcastable(call.bias)
    if call.weight is not None:
        weight = call.broadcastable(call.weight)
        scale, shift = scale * weight, shift * weight
    y = engines.normalize(affine(call, mixed.own, scale, shift if bias is None else shift + bias))[0]
    if call.mask is not None:
        y = xp.where(call.mask, y, 0.0 if bias is None else xp.astype(bias, y.dtype, copy=False))
    return Done(y, call, mixed, pull)


def affine(call: Call, s: Statistics, scale: Array, shift: Array) -> Call:
    """Return the call that makes (x - mean) * scale + shift of x."""
    given = Statistics(None, s.mean, s.rest, call.xp.ones_like(s.var))
    kind = None
    if call.kind is not None:
        kind = kind_of(instance, call.layout.affine, call.x, scale, shift, *given[1:])
    known = find(kind)
    plan = None if known is None else known.plan
    return call._replace(weight=scale, bias=shift, eps=0.0, mask=None, given=given, kind=kind, plan=plan)


def pull(call: Call, mixed: Mixed, dy: Array) -> tuple[Array | None, ...]:
    """Return the gradients of x, weight, bias and the controls, given that of the result."""
    xp, (mixture, s, _, _), parts = call.xp, mixed, mixed.parts()
    laid = mixture.laid(call)
    x = xp.astype(call.x, call.computing, copy=False)
    wide = call._replace(x=x, dtype=x.dtype)
    dy = xp.astype(dy, call.computing, copy=False)
    shown = dy if call.mask is None else xp.where(call.mask, dy, 0.0)
    scale, shift = mixture.blend.tables(xp, parts, laid, call.eps)
    weight = xp.ones_like(scale) if call.weight is None else call.broadcastable(call.weight)
    linear = affine(wide, s, scale * weight, shift * weight)
    dx, dscale, dshift = engines.pull(linear, linear.given, shown)  # type: ignore[arg-type]

    dweight = sum_to(xp, dscale * scale + dshift * shift, tuple(weight.shape))
    dscale, dshift = (sum_to(xp, a * weight, tuple(scale.shape)) for a in (dscale, dshift))
    back, controls = mixture.blend.pull(xp, parts, laid, call.eps, dscale, dshift)
    dmean, dvar = through_pools(xp, mixed, back)
    share = 1.0 / xp.where(s.count > 0, s.count, 1.0)
    more = engines.normalize(affine(wide, s, 2.0 * dvar * share, (dmean - scale * dshift) * share))[0]
    dx = dx + (more if call.mask is None else xp.where(call.mask, more, 0.0))

    dbias = None
    if call.bias is not None:
        dbias = call.gradient(call.bias, sum_to(xp, dy, tuple(call.broadcastable(call.bias).shape)))
    own = (call.gradient(a, gradient) for a, gradient in zip(mixture.controls, controls, strict=True))
    return call.narrow(dx), None if call.weight is None else call.gradient(call.weight, dweight), dbias, *own


def through_pools(xp: Namespace, mixed: Mixed, back: Parts) -> tuple[Array, Array]:
    """Return the gradients of the instances' means and variances, given those of all parts."""
    mixture, s, layer, batch = mixed
    dmean, dvar = -back.layer.apart - back.batch.apart, back.var
    for pooled, part, sync in ((layer, back.layer, None), (batch, back.batch, mixture.sync)):
        if pooled is batch and mixture.batch is not None:
            continue  # a state has no gradient
        to = tuple(pooled.var.shape)
        sums = stack(xp, [sum_to(xp, a, to) for a in part])
        sums = sums if sync is None else sync(sums)
        share = s.count / xp.where(pooled.count > 0, pooled.count, 1.0)
        dmean = dmean + share * (sums[0, ...] - 2.0 * distance(pooled, s) * sums[1, ...])
        dvar = dvar + share * sums[1, ...]
    return dmean, dvar


def mix_and_step(prepared: tuple[Step, Mixture], *, keep: bool = True) -> Done[tuple[Array, Any]]:
    """Normalise, and take the step of the batch's running statistics."""
    del keep
    step, mixture = prepared
    done = mix((step.call, mixture))
    call = step.call
    call = call._replace(layout=call.layout._replace(shared=call.layout.shared + samples(call)), kind=None, plan=None)
    return done._replace(result=(done.result, advance(step._replace(call=call), done.statistics.batch)))


norm = performed_by(mix, "Array")
training = performed_by(mix_and_step, "tuple[Array, RunningStats | PopulationStats]")


def mixture_of(
    caller: str, call: Call, blend: Blend, sync: Any, stats: Any = None, **controls: Array
) -> tuple[Call, Mixture]:
    """Return a call and how it is mixed, checked."""
    xp, channels = call.xp, call.x.shape[call.layout.affine[0]]
    shape = (channels,) if blend is GATE else (3,)
    controls = {name: floating_of(caller, xp, call.x, name, value, shape) for name, value in controls.items()}
    check_sync(caller, sync, stats)
    batch = None
    if stats is not None:
        batch = statistics_of(caller, xp, call.x, stats, call.layout.affine[0], call.computing)
    return call, Mixture(blend, tuple(controls.values()), batch, sync)


def prepared(
    caller: str, blend: Blend, x: Array, weight: Any, bias: Any, channel_axis: int, eps: float, where: Any,
    sync: Any, stats: Any, **controls: Array,
) -> tuple[Call, Mixture]:  # fmt: skip
    """Return the call of a mixture."""
    call = prepare(caller, instance, (channel_axis,), x, weight, bias, eps, where)
    return mixture_of(caller, call, blend, sync, stats, **controls)


# ---------------------------------------------------------------------------------- the norms


@norm
def switchable_norm(
    x: Array,
    /,
    mean_logits: Array,
    var_logits: Array,
    *,
    stats: RunningStats | PopulationStats | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    channel_axis: int = 1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> tuple[Call, Mixture]:
    r"""Normalise by a learnt average of the statistics of instance, layer and batch norm.

    .. math::

        y = \frac{x - \sum_k p_k \mu_k}{\sqrt{\sum_k q_k \sigma_k^2 + \epsilon}} \cdot w + b, \qquad
        p = \mathrm{softmax}(\lambda), \; q = \mathrm{softmax}(\lambda'), \; k \in \{in, ln, bn\}

    Parameters
    ----------
    x : array
        Of shape (N, C, \*S), or with the channels elsewhere; axis 0 as in :func:`group_norm`.
    mean_logits, var_logits : array
        :math:`\lambda` and :math:`\lambda'`, of shape (3,), in the order instance, layer, batch.
    stats : RunningStats or PopulationStats, optional
        The batch's mean and variance, in place of its own: inference after :func:`switchable_norm_train`.
    weight, bias, channel_axis, eps, where
        As in :func:`instance_norm`. Elements that where hides standardise to 0.
    sync : callable, optional
        Sums an array over the replicas that hold the other samples, as in :func:`batch_norm`.

    Returns
    -------
    array
        Of x's shape, dtype, library and device.

    Raises
    ------
    TypeError, ValueError
        As in :func:`instance_norm`; also if the logits are not three floating numbers.

    See Also
    --------
    batch_instance_norm : a gate per channel between the results of two norms.

    Notes
    -----
    Follows Luo, Ren, Peng, Zhang and Li, *Differentiable Learning-to-Normalize via Switchable Normalization*,
    https://arxiv.org/abs/1806.10779. x is read once for all three statistics, and once more for the result.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x = np.asarray([[[1.0, 3.0], [2.0, 6.0]], [[0.0, 4.0], [5.0, 5.0]]])
    >>> only_instance = np.asarray([0.0, -np.inf, -np.inf])
    >>> y = anynorm.switchable_norm(x, only_instance, only_instance)
    >>> np.allclose(y, anynorm.instance_norm(x))
    True
    """
    return prepared(
        "switchable_norm", SWITCH, x, weight, bias, channel_axis, eps, where, sync, stats,
        mean_logits=mean_logits, var_logits=var_logits,
    )  # fmt: skip


@training
def switchable_norm_train(
    x: Array,
    stats: RunningStats | PopulationStats,
    /,
    mean_logits: Array,
    var_logits: Array,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float | None = 0.1,
    correction: float = 1,
    channel_axis: int = 1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> tuple[Step, Mixture]:
    r"""Normalise as :func:`switchable_norm` does, and return the updated state, too.

    .. math::

        \mu' = (1 - m)\, \mu + m\, \mu_{bn}, \qquad
        \sigma'^2 = (1 - m)\, \sigma^2 + m\, \frac{n}{n - c} \sigma_{bn}^2

    Parameters
    ----------
    x, mean_logits, var_logits, weight, bias, channel_axis, eps, where, sync
        As in :func:`switchable_norm`.
    stats, momentum, correction
        As in :func:`batch_norm_train`.

    Returns
    -------
    y : array
        What switchable_norm returns.
    stats : RunningStats or PopulationStats
        What :func:`batch_norm_train` returns: the statistics of the batch are kept, since only these outlive it.

    Raises
    ------
    TypeError, ValueError
        As in :func:`switchable_norm` and :func:`batch_norm_train`.

    Notes
    -----
    Follows Luo et al., https://arxiv.org/abs/1806.10779.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x, even = np.asarray([[[1.0, 3.0]], [[5.0, 7.0]]]), np.zeros(3)
    >>> y, stats = anynorm.switchable_norm_train(
    ...     x, anynorm.running_stats(1, like=x), even, even, momentum=1
    ... )
    >>> stats.mean
    array([4.])
    """
    caller = "switchable_norm_train"
    taken = step(caller, instance, channel_axis, x, stats, weight, bias, momentum, correction, eps, where, None)
    call, mixture = mixture_of(caller, taken.call, SWITCH, sync, mean_logits=mean_logits, var_logits=var_logits)
    return taken._replace(call=call), mixture


@norm
def batch_instance_norm(
    x: Array,
    /,
    gate: Array,
    *,
    stats: RunningStats | PopulationStats | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    channel_axis: int = 1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> tuple[Call, Mixture]:
    r"""Average the results of batch and instance norm, with a learnt gate per channel.

    .. math::

        y = \left(\rho\, \frac{x - \mu_{bn}}{\sqrt{\sigma_{bn}^2 + \epsilon}}
            + (1 - \rho)\, \frac{x - \mu_{in}}{\sqrt{\sigma_{in}^2 + \epsilon}}\right) \cdot w + b

    Parameters
    ----------
    x : array
        Of shape (N, C, \*S), or with the channels elsewhere; axis 0 as in :func:`group_norm`.
    gate : array
        :math:`\rho`, of shape (C,): 1 is batch norm, 0 instance norm. It is not clipped to [0, 1]: the authors do that
        after each optimiser step.
    stats : RunningStats or PopulationStats, optional
        The batch's mean and variance, in place of its own: inference after :func:`batch_instance_norm_train`.
    weight, bias, channel_axis, eps, where
        As in :func:`instance_norm`. Elements that where hides standardise to 0.
    sync : callable, optional
        Sums an array over the replicas that hold the other samples, as in :func:`batch_norm`.

    Returns
    -------
    array
        Of x's shape, dtype, library and device.

    Raises
    ------
    TypeError, ValueError
        As in :func:`instance_norm`; also if the gate is not of shape (C,) and a floating dtype.

    See Also
    --------
    switchable_norm : averages the statistics, not the results.

    Notes
    -----
    Follows Nam and Kim, *Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks*,
    https://arxiv.org/abs/1805.07925. x is read once for both statistics, and once more for the result.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x = np.asarray([[[1.0, 3.0]], [[5.0, 7.0]]])
    >>> anynorm.batch_instance_norm(x, np.asarray([0.0]), eps=0)
    array([[[-1.,  1.]],
    <BLANKLINE>
           [[-1.,  1.]]])
    """
    return prepared(
        "batch_instance_norm", GATE, x, weight, bias, channel_axis, eps, where, sync, stats, gate=gate
    )  # fmt: skip


@training
def batch_instance_norm_train(
    x: Array,
    stats: RunningStats | PopulationStats,
    /,
    gate: Array,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float | None = 0.1,
    correction: float = 1,
    channel_axis: int = 1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> tuple[Step, Mixture]:
    r"""Normalise as :func:`batch_instance_norm` does, and return the updated state, too.

    .. math::

        \mu' = (1 - m)\, \mu + m\, \mu_{bn}, \qquad
        \sigma'^2 = (1 - m)\, \sigma^2 + m\, \frac{n}{n - c} \sigma_{bn}^2

    Parameters
    ----------
    x, gate, weight, bias, channel_axis, eps, where, sync
        As in :func:`batch_instance_norm`.
    stats, momentum, correction
        As in :func:`batch_norm_train`.

    Returns
    -------
    y : array
        What batch_instance_norm returns.
    stats : RunningStats or PopulationStats
        What :func:`batch_norm_train` returns.

    Raises
    ------
    TypeError, ValueError
        As in :func:`batch_instance_norm` and :func:`batch_norm_train`.

    Notes
    -----
    Follows Nam and Kim, https://arxiv.org/abs/1805.07925.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x = np.asarray([[[1.0, 3.0]], [[5.0, 7.0]]])
    >>> y, stats = anynorm.batch_instance_norm_train(
    ...     x, anynorm.running_stats(1, like=x), np.asarray([0.5]), momentum=1
    ... )
    >>> stats.mean
    array([4.])
    """
    caller = "batch_instance_norm_train"
    taken = step(caller, instance, channel_axis, x, stats, weight, bias, momentum, correction, eps, where, None)
    call, mixture = mixture_of(caller, taken.call, GATE, sync, gate=gate)
    return taken._replace(call=call), mixture
