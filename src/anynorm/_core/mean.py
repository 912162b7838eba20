"""The mean over each slice, summed exactly enough: the promise of accuracy rests on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .arrays import as_number, check_sizes, complete, default_dtype, double, stack
from .libraries import is_compiling, library_name, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from .libraries import Array, Namespace, Shape


class Mean:
    """The mean over each slice: the elements that share their statistics, less those that the mask hides.

    It knows the axes, the mask, the replicas that hold the rest of the slices, and how to sum exactly enough.
    """

    def __init__(
        self,
        xp: Namespace,
        x: Array,
        axes: Shape,
        mask: Array | None = None,
        sync: Callable[[Array], Array] | None = None,
    ) -> None:
        self.xp, self.shape, self.axes, self.mask, self.sync = xp, x.shape, axes, mask, sync
        self.dtype, self.wide, self._count = x.dtype, sums_in(xp, x), None  # Dynamo knows no cached_property
        unknown = mask is None and any(x.shape[i] is None for i in axes)
        if unknown:
            self._count = _count_at_run_time(xp, x, axes)
        self.counted = unknown or mask is not None  # whether the count is an array

    @property
    def count(self) -> Any:
        """How many elements a slice has: an int or a symbol, or integers under a mask and where a size is unknown.

        It is taken where it is needed.

        Statistics that are given need none, so x may have sizes that Dask does not know.
        """
        if self._count is None:
            self._count = _count(self.xp, self.shape, self.axes, self.mask)
        return self._count

    @property
    def divisor(self) -> Any:
        """What sums over a slice are divided by: its count, or 1 where that is 0."""
        if not self.counted:
            return as_number(self.xp, self.count, self.dtype, least=1)
        return self.xp.astype(self.xp.where(self.count > 0, self.count, 1), self.wide or self.dtype)

    @property
    def is_whole(self) -> bool:
        """Whether slices are all here, and known to have elements."""
        sized = all(not isinstance(size, int) or size > 0 for size in self.shape)
        return self.mask is None and self.sync is None and bool(self.axes) and sized

    @property
    def is_short(self) -> bool:
        """Whether slices are known to have so few elements that a sum's error is one of few roundings."""
        sizes = [self.shape[i] for i in self.axes]
        return all(isinstance(size, int) for size in sizes) and math.prod(sizes) <= LONG

    @property
    def exact(self) -> bool:
        """Whether the rest of a constant slice is 0 by itself.

        float64 adds 2**29 equal float32 values without rounding, and NumPy's quotients are rounded correctly.
        """
        return record(self.xp).always_float64 and self.wide is not None and self.mask is None and self.count <= 2**29

    def select(self, a: Array) -> Array:
        """Return a with 0 where the mask hides it: before it is summed or multiplied, so that it spoils nothing."""
        return a if self.mask is None else self.xp.where(self.mask, a, 0.0)

    def any(self, condition: Array) -> Array:
        """Return in which slices the condition holds of some element, of this replica alone."""
        if library_name(self.xp) != "torch":
            return self.xp.any(condition, axis=self.axes, keepdims=True) if self.axes else condition
        for axis in self.axes:  # over several it makes them one, which no DTensor takes
            condition = complete(self.xp, self.xp.any(condition, axis=axis, keepdims=True))
        return condition

    def __call__(self, *arrays: Array) -> list[Array]:
        """Return the mean over each slice of each array, masked ones selected, its axes kept at size 1."""
        return self.over_replicas([self.of_shard(a) for a in arrays])

    def over_replicas(self, parts: list[Array]) -> list[Array]:
        """Return the means over whole slices, of what the replicas' parts of them have for means."""
        if self.sync is None:
            return parts
        count = counts(self.xp, self.count, parts[0])
        *sums, count = unstack(self.sync(stack(self.xp, [*(part * count for part in parts), count])))
        return [total / self.xp.where(count > 0, count, 1.0) for total in sums]

    def of_shard(self, a: Array) -> Array:
        """Return the mean over what this replica holds of each slice.

        XLA adds the elements of a short slice one after another, and each addition after a large element rounds as that
        one does. So there the mean of what is left is added, as for the mean of x.
        """
        mean = self.xp.astype(self._mean(a), a.dtype, copy=False)
        if not record(self.xp).rounds_anew:
            return mean
        left = self._mean(self.select(a - mean))
        return mean + self.xp.where(self.xp.isfinite(mean), left, 0.0)  # squares may leave float32's range

    def parts(self, a: Array) -> tuple[Array, Array]:
        """Return the local mean as an unevaluated sum of two floats, which holds it to about twice a's precision.

        A float64 sum of float32 holds both parts. Elsewhere the mean of what is left after the first gives the second.
        """
        if self.wide is not None:
            exact = self._mean(self.select(a))
            first = self.xp.astype(exact, a.dtype)
            return first, self.xp.astype(exact - first, a.dtype)
        rough = self._settled(self.select(a))
        if record(self.xp).rounds_anew and not self.is_short:  # XLA adds in few chains: what they miss, they miss again
            rough = rough + self._settled(self.select(a - rough))
        error = self._settled(self.select(a - rough))
        first = rough + error
        return first, error - (first - rough)

    def _settled(self, a: Array) -> Array:
        """Return the mean, the same wherever it is used.

        XLA copies what follows a sum into every fused consumer. In one a division may become part of a multiply-add, in
        another be rounded: the copies differ in the last place, which at offset 1e6 is an error of 3e-3. The sum itself
        is computed once, so there the division comes first.
        """
        return self._sum(a / self.divisor) if record(self.xp).rounds_anew else self._mean(a)

    def _mean(self, a: Array) -> Array:
        return self._sum(a) / self.divisor

    def _sum(self, a: Array) -> Array:
        return sum_over(self.xp, a, self.axes, self.wide)


def counts(xp: Namespace, count: Any, like: Array) -> Array:
    """Return the count of every slice, in the shape and the dtype of its statistics."""
    return xp.zeros_like(like) + as_number(xp, count, like.dtype)


def sum_over(xp: Namespace, a: Array, axes: Shape, wide: Any) -> Array:
    """Sum over axes, which stay at size 1: in the dtype wide, or where that is None as exactly as a's own allows."""
    return complete(xp, _sum_over(xp, a, axes, wide)) if axes else a


def _sum_over(xp: Namespace, a: Array, axes: Shape, wide: Any) -> Array:
    if wide is not None:
        return xp.sum(a, axis=axes, keepdims=True, dtype=wide)
    if record(xp).sums_short and double(xp, a) is not None:
        # The few chains of torch's own sum round all that comes after a large element as that is rounded.
        sums = xp.sum(sum_blocks(xp, a, axes[-1], SHORT), axis=axes, keepdims=True, dtype=xp.float64)
        return xp.astype(sums, a.dtype)
    if record(xp).sums_exactly:
        return xp.sum(a, axis=axes, keepdims=True)
    for axis in axes:
        while isinstance(a.shape[axis], int) and a.shape[axis] > BLOCK:
            a = sum_blocks(xp, a, axis, BLOCK)
        a = xp.sum(a, axis=axis, keepdims=True)
    return a


def sums_in(xp: Namespace, x: Array) -> Any:
    """Return float64 where the library's own float32 sum would miss the promise, else None.

    NumPy's does over leading axes: it errs by 6 for (4194304, 4) at offset 1e3. So do the sums that torch.compile
    writes: those of squares err by 5e-6. Of all elements a float64 sum takes eager torch thirty times as long, and most
    GPUs 64 times.
    """
    elementwise = not record(xp).sums_short or (is_compiling() and x.device.type == "cpu")
    return double(xp, x) if elementwise else None


def _count(xp: Namespace, shape: Shape, axes: Shape, mask: Array | None) -> Any:
    """Count the elements of a slice in integers, since float sums of ones stop at 2**24."""
    check_sizes(xp, shape, axes)
    if mask is None:
        return math.prod([shape[i] for i in axes])
    repeats = math.prod([shape[i] for i in axes if mask.shape[i] == 1])
    whole = xp.astype(mask, default_dtype(xp, mask, "integral"))
    return repeats * (xp.sum(whole, axis=axes, keepdims=True) if axes else whole)


def _count_at_run_time(xp: Namespace, x: Array, axes: Shape) -> Array:
    """Count the elements of a slice of x, some of whose sizes are None: as ones, of which a run has as many."""
    one = x[tuple(slice(None) if i in axes else slice(0, 1) for i in range(x.ndim))]
    return xp.sum(xp.ones_like(one, dtype=default_dtype(xp, x, "integral")), axis=axes, keepdims=True)


def unstack(stack: Array) -> list[Array]:
    """Return the arrays of a stack (the standard's own unstack is too new for some libraries)."""
    return [stack[i, ...] for i in range(stack.shape[0])]


LONG = 2**12  # elements of a slice from which on the error of a sum in few chains is to be summed, too

BLOCK = 32  # a block's sum errs by at most 32 roundings, by about 6 where they are random

SHORT = 8  # what is added to a large element in a block of so many is no more than its last place


def sum_blocks(xp: Namespace, a: Array, axis: int, size: int) -> Array:
    """Return the sums of the blocks of an axis, so that no error grows with the number of elements.

    NumPy adds one row to another over leading axes: on photographs its float64 mean is off by 3e-12.
    """
    if not isinstance(a.shape[axis], int) or a.shape[axis] < size:  # a symbol says nothing of blocks
        return xp.sum(a, axis=axis, keepdims=True)
    blocks, rest = divmod(a.shape[axis], size)
    before, after = a.shape[:axis], a.shape[axis + 1 :]
    whole = (slice(None),) * axis
    head, tail = a[(*whole, slice(0, blocks * size), ...)], a[(*whole, slice(blocks * size, None), ...)]
    sums = xp.sum(xp.reshape(head, (*before, blocks, size, *after)), axis=axis + 1)
    return xp.concat([sums, xp.sum(tail, axis=axis, keepdims=True)], axis=axis) if rest else sums
