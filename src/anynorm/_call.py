"""A call to a norm: its axes, its checked arguments, and what is done with the standardised array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ._arrays import (
    LARGEST,
    affine_parameter,
    as_array,
    cast,
    dtypes,
    library_name,
    mask_of,
    namespace,
    number,
    split,
    state_of,
)
from ._mean import Mean

if TYPE_CHECKING:
    from ._arrays import Array, Namespace, Shape, State


class Layout(NamedTuple):
    """What tells one norm from another: its axes."""

    caller: str
    shared: Shape  # the axes whose elements share one mean and one variance
    affine: Shape = ()  # the axes that weight and bias run along
    groups: int | None = None  # into how many the channel axis is split: shared then names axes of the split array

    def inner(self, xp: Namespace, a: Array, dtype: Any) -> Array:
        """Return an array of x's rank as the computation has it: in dtype, its channel axis split into groups."""
        a = xp.astype(a, dtype, copy=False)
        return a if self.groups is None else split(xp, a, self.affine[0], self.groups)


class Call(NamedTuple):
    """A checked call: x in the dtype to compute in, its mean, and what is to be done to the standardised array."""

    layout: Layout
    xp: Namespace
    x: Array
    mean: Mean
    eps: Any
    weight: Array | None
    bias: Array | None
    mask: Array | None
    state: State | None
    like: Array  # x as it was given
    dtype: Any  # the result's

    def join(self, y: Array) -> Array:
        """Return what the computation made of x in x's shape, 0 where the mask hides it."""
        if self.layout.groups is not None:
            y = self.xp.reshape(y, self.like.shape)
        return y if self.mask is None else self.xp.where(self.mask, y, 0.0)

    def finish(self, y: Array) -> Array:
        """Turn the standardised array into the result."""
        y = self.join(y)
        if self.weight is not None:
            y = y * self.weight
        if self.bias is not None:
            y = y + self.bias
        return self.narrow(y)

    def narrow(self, y: Array) -> Array:
        """Return y in the result's dtype, and in x's chunks."""
        y = self.xp.astype(y, self.dtype, copy=False)
        y = y if y.ndim else as_array(y)
        # Splitting channels into groups may have moved Dask's chunk boundaries; everything else keeps them.
        return y.rechunk(self.like.chunks) if library_name(self.xp) == "dask" and y.chunks != self.like.chunks else y


def prepare(
    layout: Layout,
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: Any = 0.0,
    where: Array | None = None,
    sync: Any = None,
    stats: Any = None,
) -> Call:
    """Check everything, and return what the computation needs."""
    caller = layout.caller
    xp = namespace(caller, x, weight=weight, bias=bias, where=where)
    dtype, computing = dtypes(caller, xp, x)
    state = None if stats is None else state_of(caller, xp, x, stats, layout.affine[0])
    if sync is not None and not callable(sync):
        message = f"{caller} needs sync to be a function that sums an array over the replicas: got {sync!r}"
        raise TypeError(message)
    eps = cast(xp, number(caller, "eps", eps, 0.0, LARGEST, x), computing)
    if weight is not None:
        weight = affine_parameter(caller, xp, x, "weight", weight, layout.affine, computing)
    if bias is not None:
        bias = affine_parameter(caller, xp, x, "bias", bias, layout.affine, computing)
    mask = None if where is None else mask_of(caller, xp, x, where)
    a = layout.inner(xp, x, computing)
    mean = Mean(caller, xp, a, layout.shared, None if mask is None else layout.inner(xp, mask, mask.dtype), sync)
    return Call(layout, xp, a, mean, eps, weight, bias, mask, state, x, dtype)
