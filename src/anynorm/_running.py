"""Running statistics, and the training forms of batch and instance norm that keep them.

State goes in and state comes out: nothing is mutated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import _engines as engines
from ._core.arguments import LARGEST, cast, dtypes, integer, kin, namespace, number, rest_of, state_of
from ._core.arrays import as_array, beside, default_dtype, has_sizes, sharded_as, welcome
from ._core.call import prepare
from ._core.mean import Mean
from ._engines import compose, normalize
from ._moments import variance
from ._norms import Done, batch, instance, performed_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._core.arguments import State
    from ._core.call import Call, Layout, Statistics
    from ._core.libraries import Array, Namespace
    from ._moments import Moments


class RunningStats(NamedTuple):
    """The state of batch or instance norm: a mean and a variance per channel, and the number of batches seen.

    mean and var have shape (C,). A pytree in JAX and PyTorch.
    """

    mean: Array
    var: Array
    steps: Array | int = 0


class PopulationStats(NamedTuple):
    """The mean and variance per channel of a whole population, which :func:`population_stats` makes from moments.

    Use it wherever a :class:`RunningStats` goes. Its mean is mean + rest, two floats instead of one, so an offset costs
    float32 no digits.
    """

    mean: Array
    var: Array
    steps: Array | int
    rest: Array


def running_stats(channels: int, /, *, like: Array) -> RunningStats:
    """Return the state to start training from: mean 0, variance 1, no batches seen.

    Parameters
    ----------
    channels : int
        C, the size of x's channel axis.
    like : array
        The state has its library, device and dtype, but at least float32.

    Returns
    -------
    RunningStats
        mean and var of shape (C,), steps an integer of shape ().

    Raises
    ------
    TypeError
        like is not an array of real numbers, or channels is not an integer.
    ValueError
        channels is negative.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> anynorm.running_stats(2, like=np.ones((8, 2), dtype=np.float32))
    RunningStats(mean=array([0., 0.], dtype=float32), var=array([1., 1.], dtype=float32), steps=array(0))
    """
    xp = namespace("running_stats", like)
    _, dtype = dtypes("running_stats", xp, like, "like")
    size = integer("running_stats", "channels", channels)
    if size < 0:
        message = f"running_stats needs channels to be the size of x's channel axis: got {size}"
        raise ValueError(message)
    place = beside(xp, like)
    start = (
        xp.zeros((size,), dtype=dtype, **place),
        xp.ones((size,), dtype=dtype, **place),
        xp.zeros((), dtype=default_dtype(xp, like, "integral"), **place),
    )
    return RunningStats(*(welcome(xp, like, value) for value in start))


def population_stats(m: Moments, /, *, correction: float = 1) -> PopulationStats:
    """Turn merged moments into a state: the statistics of a whole data set, for inference.

    Parameters
    ----------
    m : Moments
        Of shape (C,): those of each batch over every axis but the channels, merged.
    correction : float
        The correction of the variance: 1 as in PyTorch, 0 as in Flax, Keras and ONNX.

    Returns
    -------
    PopulationStats
        With m's dtype and rest, and steps 1: the data set counts as one batch. Where the count is not above the
        correction, there is no variance to estimate, and it is 1, as at the start.

    Raises
    ------
    TypeError
        m is not Moments.
    ValueError
        m is not of shape (C,), or the correction is negative or not finite.

    See Also
    --------
    torch.optim.swa_utils.update_bn : the same for the modules of a torch model, averaged over batches.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> pieces = (np.asarray([[1.0, 10.0]]), np.asarray([[3.0, 30.0], [5.0, 50.0]]))
    >>> stats = anynorm.population_stats(
    ...     anynorm.merge(*(anynorm.moments(piece, axis=0) for piece in pieces))
    ... )
    >>> stats.mean, stats.var
    (array([ 3., 30.]), array([  4., 400.]))
    """
    var = variance(m, correction=correction)
    if var.ndim != 1:
        message = (
            f"population_stats needs moments of shape (C,): got {tuple(var.shape)}; take them over every axis but the "
            f"channels, as in moments(x, axis=(0, 2, 3))"
        )
        raise ValueError(message)
    xp = namespace("population_stats", m.mean)
    steps = xp.ones((), dtype=default_dtype(xp, m.mean, "integral"), **beside(xp, m.mean))
    correction = number("population_stats", "correction", correction, 0.0, LARGEST, m.mean)
    known = m.count > cast(xp, correction, m.count.dtype)
    rest = xp.zeros_like(m.mean) if isinstance(m.rest, (int, float)) else m.rest
    return PopulationStats(m.mean, xp.where(known, var, 1.0), steps, rest)


class Step(NamedTuple):
    """A checked call to a training form, and what it makes of the state."""

    call: Call
    stats: RunningStats | PopulationStats
    momentum: Any
    correction: Any


def train(step: Step, *, keep: bool = True) -> Done[tuple[Array, RunningStats | PopulationStats]]:
    """Normalise, and take the step."""
    del keep  # the state is made of the statistics
    y, s = normalize(step.call, keep=True)
    return Done((y, advance(step, s)), step.call, s)


training = performed_by(train, "tuple[Array, RunningStats | PopulationStats]")


@training
def batch_norm_train(
    x: Array,
    stats: RunningStats | PopulationStats,
    /,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float | None = 0.1,
    correction: float = 1,
    channel_axis: int = 1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> Step:
    r"""Normalise a batch as :func:`batch_norm` does, and return the updated state, too.

    .. math::

        \mu' = (1 - m)\, \mu + m\, \mathrm{E}[x], \qquad
        \sigma'^2 = (1 - m)\, \sigma^2 + m\, \frac{n}{n - c} \mathrm{Var}[x]

    Parameters
    ----------
    x : array
        Of shape (N, C, \*S), or with the channels elsewhere.
    stats : RunningStats or PopulationStats
        The state so far. It is not written to.
    weight, bias : array, optional
        As in :func:`batch_norm`.
    momentum : float or None
        m, the weight of the new batch, from 0 to 1, as in PyTorch: 0.1 is what Flax, Keras and ONNX call 0.9. None
        gives the cumulative average, 1 / (steps + 1).
    correction : float
        c, for the running variance alone: 1 as in PyTorch, 0 as in Flax, Keras and ONNX.
    channel_axis, eps, where, sync
        As in :func:`batch_norm`.

    Returns
    -------
    y : array
        What batch_norm returns.
    stats : RunningStats or PopulationStats
        The new state, with the type and dtypes of the old one. A channel with no elements in the batch keeps its mean
        and variance; one whose count n is not above c keeps its variance. A NaN or infinity in x goes into its
        channel's state.

    Raises
    ------
    TypeError, ValueError
        As in :func:`batch_norm`; also if momentum is not within [0, 1].

    See Also
    --------
    torch.nn.functional.batch_norm : training=True, except that it writes to its buffers. flax.linen.BatchNorm :
    momentum 0.99 there is 0.01 here, correction 0, channels last.

    Notes
    -----
    Follows Ioffe and Szegedy, *Batch Normalization*, https://arxiv.org/abs/1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x = np.asarray([[1.0, 10.0], [3.0, 30.0]])
    >>> y, stats = anynorm.batch_norm_train(
    ...     x, anynorm.running_stats(2, like=x), momentum=0.5
    ... )
    >>> stats
    RunningStats(mean=array([ 1., 10.]), var=array([  1.5, 100.5]), steps=array(1))
    """
    return step("batch_norm_train", batch, channel_axis, x, stats, weight, bias, momentum, correction, eps, where, sync)


@training
def instance_norm_train(
    x: Array,
    stats: RunningStats | PopulationStats,
    /,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float | None = 0.1,
    correction: float = 1,
    channel_axis: int = 1,
    eps: float = 1e-5,
    where: Array | None = None,
    sync: Callable[[Array], Array] | None = None,
) -> Step:
    r"""Normalise a batch as :func:`instance_norm` does, and return the updated state, too.

    .. math::

        \mu' = (1 - m)\, \mu + m\, \mathrm{E}_N[\mathrm{E}_S[x]], \qquad
        \sigma'^2 = (1 - m)\, \sigma^2 + m\, \mathrm{E}_N\left[\frac{n}{n - c} \mathrm{Var}_S[x]\right]

    Parameters
    ----------
    x : array
        Of shape (N, C, \*S), or with the channels elsewhere.
    stats, weight, bias, momentum, correction, channel_axis, eps, where, sync
        As in :func:`batch_norm_train`.

    Returns
    -------
    y : array
        What instance_norm returns.
    stats : RunningStats
        The new state, with the dtypes of the old one. The batch enters it as the average of its samples' means and
        variances, as in PyTorch, not as those of all its elements together. Samples that have no mean or variance are
        left out.

    Raises
    ------
    TypeError, ValueError
        As in :func:`batch_norm_train`.

    See Also
    --------
    torch.nn.functional.instance_norm : use_input_stats=True, except that it writes to its buffers.

    Notes
    -----
    Follows Ulyanov, Vedaldi and Lempitsky, *Instance Normalization*, https://arxiv.org/abs/1607.08022.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> x = np.asarray([[[1.0, 3.0]], [[10.0, 30.0]]])
    >>> y, stats = anynorm.instance_norm_train(
    ...     x, anynorm.running_stats(1, like=x), momentum=1
    ... )
    >>> stats
    RunningStats(mean=array([11.]), var=array([101.]), steps=array(1))
    """
    caller = "instance_norm_train"
    return step(caller, instance, channel_axis, x, stats, weight, bias, momentum, correction, eps, where, sync)


def step(
    caller: str,
    rule: Callable[..., Layout],
    channel_axis: int,
    x: Array,
    stats: RunningStats | PopulationStats,
    weight: Array | None,
    bias: Array | None,
    momentum: float | None,
    correction: float,
    eps: float,
    where: Array | None,
    sync: Callable[[Array], Array] | None,
) -> Step:
    """Return a training step whose arguments are checked."""
    if momentum is not None:
        momentum = number(caller, "momentum", momentum, 0.0, 1.0, x)
    correction = number(caller, "correction", correction, 0.0, LARGEST, x)
    if stats is None:
        message = f"{caller} needs a state: got stats=None; start with running_stats(channels, like=x)"
        raise TypeError(message)
    call = prepare(caller, rule, (channel_axis,), x, weight, bias, eps, where, sync, state=stats)
    if call.plan is None:
        state_of(caller, call.xp, x, stats, call.layout.affine[0])
        steps = _steps(caller, call.xp, x, stats.steps)
        mean, var, *rest = (kin(caller, call.xp, x, "stats", a) for a in _arrays(stats))
        stats = PopulationStats(mean, var, steps, *rest) if rest else RunningStats(mean, var, steps)
    elif isinstance(stats.steps, int):
        _steps(caller, call.xp, x, stats.steps)
    return Step(call, stats, momentum, correction)


def _arrays(stats: Any) -> list[Array]:
    """Return the mean and the variance of a state, and where there is one the rest of its mean."""
    rest = rest_of(stats)
    return [stats.mean, stats.var, *([] if rest is None else [rest])]


def advance(step: Step, s: Statistics) -> RunningStats | PopulationStats:
    """Return the state that has seen a batch of the statistics s."""
    call, stats, momentum, correction = step
    new = engines.advance(call, s, stats, momentum, correction) if rest_of(stats) is None else None
    if new is not None:
        return RunningStats(*new, as_array(stats.steps + 1))
    state = state_of("", call.xp, call.x, stats, call.layout.affine[0])
    arguments = (stats, state, s, momentum, correction)
    # A Python number of steps stays one: nothing is compiled for every number.
    return _advance(call, *arguments) if isinstance(stats.steps, int) else compose(_advance, call, *arguments)


def _steps(caller: str, xp: Namespace, x: Array, steps: Any) -> Any:
    """Return one integer that may count batches; anything else is refused."""
    if isinstance(steps, int) and not isinstance(steps, bool):
        number(caller, "stats.steps", steps, 0, 2**62)
        return steps
    steps = kin(caller, xp, x, "stats.steps", steps)
    if steps.ndim or not xp.isdtype(steps.dtype, "integral"):
        message = f"{caller} needs stats.steps to be one integer: got shape {tuple(steps.shape)} of {steps.dtype}"
        raise ValueError(message)
    return steps


def _advance(
    call: Call, stats: RunningStats | PopulationStats, state: State, s: Statistics, momentum: Any, correction: Any
) -> RunningStats | PopulationStats:
    """Return the state after a batch of the statistics s."""
    xp = call.xp
    known_statically = call.mask is None and call.sync is None and has_sizes(xp, call.x.shape)
    if known_statically and 0 in call.x.shape:
        return stats
    count = s.counts(xp)
    correction = cast(xp, correction, count.dtype)
    unbiased = s.var * count / xp.where(count > correction, count - correction, 1.0)
    seen, known = _average(call, count, count > 0), _average(call, count, count > correction)
    share = 1.0 / cast(xp, stats.steps + 1, s.var.dtype) if momentum is None else momentum
    var = _blend(xp, stats.var, state.var, known, (unbiased,), share)
    steps = as_array(stats.steps + 1 if known_statically else _count_step(xp, stats.steps, count))
    if state.rest is None:
        return RunningStats(_blend(xp, stats.mean, state.mean, seen, (s.mean, s.rest), share), var, steps)
    mean, rest = _blend_parts(xp, stats, state, seen, s, share)  # type: ignore[arg-type]  # since it has a rest
    return PopulationStats(mean, var, steps, rest)


def _count_step(xp: Namespace, steps: Any, count: Array) -> Array:
    """Return the number of steps after a batch, which is one where any of its slices has an element."""
    seen = xp.any(count > 0)
    if isinstance(steps, int):
        return steps + xp.astype(seen, default_dtype(xp, count, "integral"))
    return xp.where(seen, steps + 1, steps)  # a sum with another array would end JAX's weak type


def _average(call: Call, like: Array, valid: Array) -> Mean:
    """Return the mean over the samples whose statistics are valid: axis 0 for instance norm, none for batch norm."""
    kept = (*call.layout.shared, *call.layout.affine)
    samples = tuple(i for i in range(call.x.ndim) if i not in kept)
    return Mean(call.xp, like, samples, valid)


def _blend(xp: Namespace, given: Array, old: Array, average: Mean, parts: tuple[Array, ...], share: Any) -> Array:
    """Move the old mean or variance towards that of the batch, which comes in parts, where the batch has one."""
    dtype = old.dtype if xp.finfo(old.dtype).bits > xp.finfo(parts[0].dtype).bits else parts[0].dtype
    old, share = xp.astype(old, dtype, copy=False), cast(xp, share, dtype)
    new = sum(xp.astype(part, dtype, copy=False) for part in average(*map(average.select, parts)))
    new, found = (sharded_as(xp, a, old) for a in (new, average.count > 0))
    moved = xp.where(found, (1 - share) * old + share * new, old)
    return xp.astype(xp.reshape(moved, given.shape), given.dtype, copy=False)


def _blend_parts(
    xp: Namespace, given: PopulationStats, old: State, average: Mean, s: Statistics, share: Any
) -> tuple[Array, ...]:
    """Move an old mean in two parts towards that of the batch."""
    dtype = old.mean.dtype
    pairs = (s.mean, old.mean), (s.rest, old.rest)
    apart = [xp.astype(new, dtype, copy=False) - xp.astype(a, dtype, copy=False) for new, a in pairs]
    move = xp.astype(share * sum(average(*map(average.select, apart))), dtype, copy=False)
    move, found = (sharded_as(xp, a, old.mean) for a in (move, average.count > 0))
    left = xp.astype(old.rest, dtype, copy=False) + xp.where(found, move, 0.0)
    first = old.mean + left
    moved: list[tuple[Array, Array]] = [(first, given.mean), (left - (first - old.mean), given.rest)]
    return tuple(xp.astype(xp.reshape(a, was.shape), was.dtype, copy=False) for a, was in moved)
