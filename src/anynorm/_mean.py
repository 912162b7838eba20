"""The mean over each slice, summed exactly enough: the promise of accuracy rests on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ._arrays import default_integer, has_float64, known, library_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._arrays import Array, Namespace, Shape


def is_compiling() -> bool:
    """Whether torch.compile is tracing the call; only to be asked of a torch call."""
    import torch

    compiling: bool = torch.compiler.is_compiling()
    return compiling


class Mean:
    """The mean over each slice: the elements that share their statistics, less those that the mask hides.

    It knows the axes, the mask, the replicas that hold the rest of the slices, and how to sum exactly enough.
    """

    __slots__ = ("axes", "count", "divisor", "exact", "mask", "sync", "wide", "xp")

    def __init__(
        self,
        caller: str,
        xp: Namespace,
        x: Array,
        axes: Shape,
        mask: Array | None = None,
        sync: Callable[[Array], Array] | None = None,
    ) -> None:
        self.xp, self.axes, self.mask, self.sync = xp, axes, mask, sync
        self.wide = sums_in(xp, x)
        self.count = _count(caller, xp, x, axes, mask)  # elements in a slice: an int, or integers under a mask
        if mask is None:
            self.divisor = float(max(self.count, 1))  # as an int of 2**31 it would overflow in JAX
            # float64 adds 2**29 equal float32 values without rounding, and NumPy divides as it is told to:
            # the rest of a constant slice is 0 by itself.
            self.exact = self.wide is not None and library_name(xp) == "numpy" and self.count <= 2**29
        else:
            self.exact = False
            self.divisor = xp.astype(xp.where(self.count > 0, self.count, 1), self.wide or x.dtype)

    def select(self, a: Array) -> Array:
        """Return a with 0 where the mask hides it: before it is summed or multiplied, so that it spoils nothing."""
        return a if self.mask is None else self.xp.where(self.mask, a, 0.0)

    def __call__(self, *arrays: Array) -> list[Array]:
        """Return the mean over each slice of each array, masked ones selected, its axes kept at size 1."""
        parts = [self.local(a) for a in arrays]
        if self.sync is None:
            return parts
        count = counts(self.xp, self.count, parts[0])
        *sums, count = unstack(self.sync(self.xp.stack([part * count for part in parts] + [count], axis=0)))
        return [total / self.xp.where(count > 0, count, 1.0) for total in sums]

    def local(self, a: Array) -> Array:
        """Return the mean over what this replica holds of each slice.

        XLA adds the elements of a short slice one after another, and each addition after a large element rounds as that
        one does. So there the mean of what is left is added, as for the mean of x.
        """
        mean = self.xp.astype(self._mean(a), a.dtype, copy=False)
        if library_name(self.xp) != "jax":
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
        error = self._settled(self.select(a - rough))
        first = rough + error
        return first, error - (first - rough)

    def _settled(self, a: Array) -> Array:
        """Return the mean, the same wherever it is used.

        XLA copies what follows a sum into every fused consumer. In one a division may become part of a multiply-add, in
        another be rounded: the copies differ in the last place, which at offset 1e6 is an error of 3e-3. The sum itself
        is computed once, so there the division comes first.
        """
        return self._sum(a / self.divisor) if library_name(self.xp) == "jax" else self._mean(a)

    def _mean(self, a: Array) -> Array:
        return self._sum(a) / self.divisor

    def _sum(self, a: Array) -> Array:
        return sum_over(self.xp, a, self.axes, self.wide)


def counts(xp: Namespace, count: Any, like: Array) -> Array:
    """Return the count of every slice, in the shape and the dtype of its statistics."""
    count = float(count) if isinstance(count, int) else xp.astype(count, like.dtype)
    return xp.zeros_like(like) + count


def sum_over(xp: Namespace, a: Array, axes: Shape, wide: Any) -> Array:
    """Sum over axes, which stay at size 1: in the dtype wide, or where that is None as exactly as a's own allows."""
    if not axes:
        return a
    if wide is not None:
        return xp.sum(a, axis=axes, keepdims=True, dtype=wide)
    if library_name(xp) in ("jax", "torch", "dask"):
        return xp.sum(a, axis=axes, keepdims=True)
    return sum_in_blocks(xp, a, axes)


def sums_in(xp: Namespace, x: Array) -> Any:
    """Return float64 where the library's own float32 sum would miss the promise, else None.

    NumPy's does over leading axes: it errs by 6 for (4194304, 4) at offset 1e3. So do the sums that torch.compile
    writes: those of squares err by 5e-6. The sums of JAX and of eager torch are good enough, and a float64 sum takes
    eager torch thirty times as long.
    """
    name = library_name(xp)
    if x.dtype != xp.float32 or name == "jax" or (name == "torch" and not is_compiling()):
        return None
    return xp.float64 if name == "numpy" or has_float64(xp, x) else None


def _count(caller: str, xp: Namespace, x: Array, axes: Shape, mask: Array | None) -> Any:
    """Count the elements of a slice in integers, since float sums of ones stop at 2**24."""
    sizes = [x.shape[i] for i in axes]
    if not known(xp, sizes):
        message = (
            f"{caller} needs to know the sizes of the axes {axes} that it shares statistics over: got x of shape "
            f"{tuple(x.shape)}; call x.compute_chunk_sizes() first"
        )
        raise ValueError(message)
    if mask is None:
        return math.prod(sizes)
    repeats = math.prod([x.shape[i] for i in axes if mask.shape[i] == 1])
    whole = xp.astype(mask, default_integer(xp, x))
    return repeats * (xp.sum(whole, axis=axes, keepdims=True) if axes else whole)


def unstack(stack: Array) -> list[Array]:
    """Return the arrays of a stack (the standard's own unstack is too new for some libraries)."""
    return [stack[i, ...] for i in range(stack.shape[0])]


BLOCK = 128  # a block's sum errs by at most 128 roundings, by about 11 where they are random


def sum_in_blocks(xp: Namespace, a: Array, axes: Shape) -> Array:
    """Sum over axes in blocks, and blocks of blocks, so that no error grows with the number of elements.

    NumPy adds one row to another over leading axes: on photographs its float64 mean is off by 3e-12.
    """
    for axis in axes:
        while a.shape[axis] > BLOCK:
            blocks, rest = divmod(a.shape[axis], BLOCK)
            before, after = a.shape[:axis], a.shape[axis + 1 :]
            whole = (slice(None),) * axis
            head, tail = a[(*whole, slice(0, blocks * BLOCK), ...)], a[(*whole, slice(blocks * BLOCK, None), ...)]
            sums = xp.sum(xp.reshape(head, (*before, blocks, BLOCK, *after)), axis=axis + 1)
            if rest:
                sums = xp.concat([sums, xp.sum(tail, axis=axis, keepdims=True)], axis=axis)
            a = sums
    return xp.sum(a, axis=axes, keepdims=True)
