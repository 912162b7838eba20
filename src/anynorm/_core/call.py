"""A call to a norm: its axes, its checked arguments, and what is done with the standardised array."""

from __future__ import annotations

import math
import operator
import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from .arguments import (
    LARGEST,
    at_rank,
    cast,
    check_affine,
    check_rows,
    dtypes,
    kin,
    mask_of,
    namespace,
    number,
    rest_of,
    state_of,
)
from .arrays import as_array, check_sizes, chunked_as, complete, fills, reshape, reuse, shape_along, unknown
from .libraries import record, rows_of
from .mean import Mean, counts
from .plans import find, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .libraries import Array, Namespace, Rows, Shape
    from .plans import Known


class Statistics(NamedTuple):
    """How many elements a slice has, their mean, in two parts, and their biased variance, broadcastable to x.

    A part of the mean that is None is not subtracted.
    """

    count: Any
    mean: Array | None
    rest: Array | None
    var: Array

    def counts(self, xp: Namespace) -> Array:
        """Return the count of every slice, in the shape and the dtype of its variance."""
        return counts(xp, self.count, self.var)


class Layout(NamedTuple):
    """What tells one norm from another: its axes, and whether it subtracts the mean."""

    shared: Shape  # the axes whose elements share one mean and one variance
    affine: Shape = ()  # the axes that weight and bias run along
    groups: int | None = None  # into how many the channel axis is split: shared then names axes of the split array
    centred: bool = True

    def split(self, xp: Namespace, a: Array) -> Array:
        """Return an array of x's rank with its channel axis split into groups."""
        return a if self.groups is None else split(xp, a, self.affine[0], self.groups)

    def packed(self) -> Layout:
        """Return the layout of the packed rows of a jagged array, in which axis 0 and the ragged one are one."""
        return self._replace(shared=tuple(i - 1 for i in self.shared), affine=tuple(i - 1 for i in self.affine))

    def by_channel(self) -> Layout:
        """Return the layout of each channel by itself, where it was of groups."""
        if self.groups is None:
            return self
        channel = self.affine[0]
        spatial = tuple(i - (i > channel) for i in self.shared if i != channel + 1)
        return self._replace(shared=spatial, groups=None)

    def shape(self, x: Array) -> Shape:
        """Return x's shape with its channel axis split into groups."""
        if self.groups is None:
            return tuple(x.shape)
        channel = self.affine[0]
        return (*x.shape[:channel], self.groups, x.shape[channel] // self.groups, *x.shape[channel + 1 :])


class Call(NamedTuple):
    """A checked call: the arrays as they were given, and what to make of them."""

    layout: Layout
    xp: Namespace
    x: Array
    weight: Array | None
    bias: Array | None
    eps: Any
    mask: Array | None
    sync: Callable[[Array], Array] | None
    given: Statistics | None  # what to standardise by, if not by x's own statistics
    dtype: Any  # the result's
    computing: Any  # the dtype to compute in
    kind: Any = None  # see plans
    plan: Any = None  # an engine's, for calls of this kind
    rows: Rows | None = None  # how x packs the rows of a jagged array, where it was one

    def alone(self) -> Call:
        """Return the call without what is known of its kind."""
        if self.plan is None or self.given is None:
            return self._replace(kind=None, plan=None)
        return self._replace(kind=None, plan=None, given=_sound(self.xp, self.given))

    def by(self, given: Statistics) -> Call:
        """Return the call with statistics to standardise by, which is one of another kind."""
        kind = None if self.kind is None else (self.kind, "by")
        known = find(kind)
        return self._replace(given=given, kind=kind, plan=None if known is None else known.plan)

    def inner(self, a: Array) -> Array:
        """Return an array of x's rank as the computation has it: in its dtype, the channel axis split into groups."""
        return self.layout.split(self.xp, self.xp.astype(a, self.computing, copy=False))

    def mean(self, x: Array) -> Mean:
        """Return the mean over each slice of arrays like x, which is as the computation has it."""
        mask = None if self.mask is None else self.layout.split(self.xp, self.mask)
        return Mean(self.xp, x, self.layout.shared, mask, self.sync)

    def broadcastable(self, parameter: Array) -> Array:
        """Return weight or bias in the dtype to compute in, at x's rank."""
        xp, x = self.xp, self.x
        value = xp.astype(parameter, self.computing, copy=False)
        return value if value.ndim == x.ndim else reshape(xp, value, shape_along(x, self.layout.affine))

    def gradient(self, parameter: Array, total: Array) -> Array:
        """Return the gradient of weight or bias in its shape and dtype, or in a floating one."""
        dtype = parameter.dtype if self.xp.isdtype(parameter.dtype, "real floating") else total.dtype
        return self.xp.astype(reshape(self.xp, total, tuple(parameter.shape)), dtype, copy=False)

    def jagged(self, y: Array) -> Array:
        """Return what an engine made of x as jagged as x was."""
        return y if self.rows is None else self.rows.jagged(y)

    def join(self, y: Array) -> Array:
        """Return what the computation made of x in x's shape, 0 where the mask hides it."""
        if self.layout.groups is not None:
            y = join(self.xp, y, self.layout.affine[0], self.x.shape)
        return y if self.mask is None else self.xp.where(self.mask, y, 0.0)

    def finish(self, y: Array) -> Array:
        """Turn the standardised array, which is written over, into the result."""
        y = self.join(y)
        if self.weight is not None:
            y = reuse(self.xp, operator.mul, y, self.broadcastable(self.weight))
        if self.bias is not None:
            y = reuse(self.xp, operator.add, y, self.broadcastable(self.bias))
        return self.narrow(y)

    def narrow(self, y: Array) -> Array:
        """Return y in the result's dtype, and in x's chunks."""
        y = self.xp.astype(y, self.dtype, copy=False)
        y = y if y.ndim else as_array(y)
        return chunked_as(self.xp, y, self.x)


def prepare(
    caller: str,
    rule: Callable[..., Layout],
    options: tuple[Any, ...],
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: Any = 0.0,
    where: Array | None = None,
    sync: Any = None,
    stats: Any = None,
    *,
    state: Any = None,
    ragged: bool = False,
) -> Call:
    """Check everything, and return what the computation needs; what a kind decides is checked at its first call."""
    kind = None
    if sync is None:
        states = () if stats is None and state is None else (*_parts(stats), *_parts(state, steps=True))
        kind = kind_of(rule, options, x, weight, bias, where, *states)
        known = find(kind)
        if known is not None and type(eps) is float and 0.0 <= eps <= LARGEST:
            return _again(known, kind, x, weight, bias, eps, where, stats)
    xp = namespace(caller, x, ragged=ragged)
    x = complete(xp, x)
    layout = rule(caller, x, *options)
    rows = rows_of(xp, x)
    if rows is not None:
        check_rows(caller, xp, x, rows, layout.shared)
        x, layout = x.values(), layout.packed()
    weight, bias, where = (
        value if value is None else kin(caller, xp, x, name, value, rows)
        for name, value in (("weight", weight), ("bias", bias), ("where", where))
    )
    dtype, computing = dtypes(caller, xp, x)
    given = None if stats is None else statistics_of(caller, xp, x, stats, layout.affine[0], computing)
    if given is not None and any(a is not None and a.dtype != computing for a in _parts(stats)):
        kind = None  # they are converted in every call
    check_sync(caller, sync, stats)
    eps = cast(xp, number(caller, "eps", eps, 0.0, LARGEST, x), computing)
    if weight is not None:
        check_affine(caller, x, "weight", weight, layout.affine)
    if bias is not None:
        check_affine(caller, x, "bias", bias, layout.affine)
    mask = None if where is None else mask_of(caller, xp, x, where)
    if (layout.centred and (given is None or fills(xp, given.mean))) or fills(xp, bias):
        _say_that_it_fills(caller, xp)
    return Call(layout, xp, x, weight, bias, eps, mask, sync, given, dtype, computing, kind, rows=rows)


def _say_that_it_fills(caller: str, xp: Namespace) -> None:
    """Warn that a sparse array is about to become full."""
    if record(xp).is_sparse:
        message = (
            f"{caller} fills x, which is sparse, since it subtracts a mean or adds a bias other than 0: pass "
            f"x.todense(), which takes less memory and time, or use rms_norm, which stays sparse"
        )
        level, frame = 1, sys._getframe()  # noqa: SLF001
        while frame.f_back is not None and frame.f_globals["__name__"].startswith("anynorm."):
            level, frame = level + 1, frame.f_back
        warnings.warn(message, RuntimeWarning, stacklevel=level)  # at the caller's line


def _parts(stats: Any, *, steps: bool = False) -> tuple[Any, ...]:
    """Return the arrays of a state for its kind; of what is no state, what no kind has."""
    if stats is None:
        return (None, None)
    if not (isinstance(stats, tuple) and hasattr(stats, "mean") and hasattr(stats, "var")):
        return (stats,)
    counted = getattr(stats, "steps", None) if steps else None
    return stats.mean, stats.var, rest_of(stats), None if isinstance(counted, int) else counted


def _again(
    known: Known,
    kind: Any,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    where: Array | None,
    stats: Any,
) -> Call:
    """Return a call of a kind that is known."""
    layout, xp, dtype, computing, along, plan = known
    given = None
    if along is not None:
        rest = rest_of(stats)
        rest = None if rest is None else rest.reshape(along)
        given = Statistics(None, stats.mean.reshape(along), rest, stats.var.reshape(along))
    mask = None if where is None else at_rank(where, x.ndim)
    return Call(layout, xp, x, weight, bias, eps, mask, None, given, dtype, computing, kind, plan)


def check_sync(caller: str, sync: Any, stats: Any) -> None:
    """Refuse what sums nothing over replicas, and to sum where statistics are given."""
    if sync is not None and not callable(sync):
        message = f"{caller} needs sync to be a function that sums an array over the replicas: got {sync!r}"
        raise TypeError(message)
    if stats is not None and sync is not None:
        message = f"{caller} with stats= has nothing to sync: got both; leave sync out, or stats"
        raise ValueError(message)


def statistics_of(caller: str, xp: Namespace, x: Array, stats: Any, channel: int, dtype: Any) -> Statistics:
    """Return a state as statistics in dtype: exactly, where its mean is in two parts or of a wider one."""
    state = state_of(caller, xp, x, stats, channel)
    first, rest = xp.astype(state.mean, dtype, copy=False), state.rest
    if xp.finfo(state.mean.dtype).bits > xp.finfo(dtype).bits:
        left = state.mean - xp.astype(first, state.mean.dtype)
        rest = left if rest is None else left + xp.astype(rest, left.dtype)
    rest = None if rest is None else xp.astype(rest, dtype, copy=False)
    return _sound(xp, Statistics(None, first, rest, xp.astype(state.var, dtype, copy=False)))


def _sound(xp: Namespace, s: Statistics) -> Statistics:
    """Return statistics whose variance is NaN below 0, whatever eps makes of it: it shows that they are corrupt."""
    return s._replace(var=xp.where(s.var < 0, math.nan, s.var))


def split(xp: Namespace, a: Array, axis: int, parts: int) -> Array:
    """Split an axis into (parts, size / parts), or (1, size) where it only broadcasts or is empty: always a view."""
    check_sizes(xp, a.shape, range(a.ndim))
    size = a.shape[axis]
    if size < 2:  # Dask cannot split an empty axis
        return xp.expand_dims(a, axis=axis)
    if unknown(a.shape) < 2:
        return reshape(xp, a, (*a.shape[:axis], parts, size // parts, *a.shape[axis + 1 :]))
    before, share = (slice(None),) * axis, size // parts
    return xp.stack([a[(*before, slice(i, i + share), ...)] for i in range(0, size, share)], axis=axis)


def join(xp: Namespace, a: Array, axis: int, shape: Shape) -> Array:
    """Return an array whose axis was split in the shape that it had."""
    if unknown(shape) < 2:
        return reshape(xp, a, shape)
    before = (slice(None),) * axis
    return xp.concat([a[(*before, i, ...)] for i in range(a.shape[axis])], axis=axis)
