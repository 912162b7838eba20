"""A layout lowered to four axes: kept, reduced, kept, reduced.

Neighbouring axes of one kind are one axis, and axes go by their strides, not by their names: so each of the norms, with
its channels first or last, is at most these four.

=========  ====================  =======================
norm       channels first        channels last
=========  ====================  =======================
batch      (1, N, C, S)          (1, N S, C, 1)
layer      (N, 1, 1, K)          (N, 1, 1, K)
instance   (N C, 1, 1, S)        (N, S, C, 1)
group      (N G, 1, 1, C / G S)  (N, S, G, C / G)
=========  ====================  =======================
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .._arrays import Shape

    Axes = tuple[int, ...]

NARROW = 32  # rows shorter than this are walked down, many at once
WIDTH = 1024  # columns walked down at once


class Columns(NamedTuple):
    """How an array is walked down: as (A, B, L), where short rows lie side by side to fill WIDTH columns."""

    shape: Shape
    slices: int  # C
    depth: int  # neighbouring columns of one slice


class Lowering(NamedTuple):
    """What an array is for the kernels, given its shape, and the order of its axes in memory."""

    order: Axes  # from the outermost axis in memory to the innermost
    inverse: Axes
    slots: tuple[Axes, Axes, Axes, Axes]  # which of the ordered axes make A, B, C and D
    sizes: Shape  # of the ordered axes
    shape: Shape  # (A, B, C, D)
    columns: Columns | None  # None where it can be walked along its rows alone
    narrow: bool  # whether walking down is the faster way

    def lay(self, a: Any) -> Any:
        """Return an array that broadcasts to the whole as four axes, each at size 1 or whole."""
        a = a.transpose(self.order)
        sizes = list(a.shape)
        for slot in self.slots:
            if any(a.shape[i] > 1 for i in slot):  # it may vary along some of the axes that make a slot
                for i in slot:
                    sizes[i] = self.sizes[i]
        shape = [math.prod([sizes[i] for i in slot]) for slot in self.slots]
        return np.ascontiguousarray(np.broadcast_to(a, sizes).reshape(shape))

    def restore(self, table: Any) -> Any:
        """Return what is laid as four axes, each at size 1 or whole, as an array that broadcasts to the whole."""
        sizes = [1] * len(self.sizes)
        for slot, size in zip(self.slots, table.shape, strict=True):
            if size > 1:
                for i in slot:
                    sizes[i] = self.sizes[i]
        return table.reshape(sizes).transpose(self.inverse)


def memory_order(a: Any) -> Axes | None:
    """Return the order of the axes in memory, or None where the elements do not lie side by side."""
    if a.flags.c_contiguous:
        return tuple(range(a.ndim))
    order = tuple(sorted(range(a.ndim), key=lambda i: -a.strides[i]))
    return order if a.transpose(order).flags.c_contiguous else None


@lru_cache(maxsize=4096)
def lower(shape: Shape, order: Axes, shared: Axes, varying: Axes) -> Lowering | None:
    """Lower a layout; varying are the axes along which weight or bias vary. None where four axes do not hold it."""
    sizes = tuple(shape[i] for i in order)
    long = [i for i, size in enumerate(sizes) if size > 1]
    runs = [(reduced, tuple(run)) for reduced, run in groupby(long, key=lambda i: order[i] in shared)]
    slots: list[Axes] = [(), (), (), ()]
    place = 3 if runs and runs[-1][0] else 2
    for _, run in reversed(runs):
        if place < 0:
            return None
        slots[place] = run
        place -= 1
    # Along a row weight and bias are one number each, or vary with every element.
    *_, (_, row) = [(False, ()), *((v, tuple(run)) for v, run in groupby(slots[3], key=lambda i: order[i] in varying))]
    if row != slots[3]:
        if slots[2]:
            return None
        slots[1], slots[3] = slots[3][: -len(row)], row
    if slots[3] and not slots[1]:  # then the slices are rows, one after another
        slots[0], slots[2] = slots[2], ()
    a, b, c, d = (math.prod([sizes[i] for i in slot]) for slot in slots)
    vary = [any(order[i] in varying for i in slot) for slot in slots]
    return Lowering(
        order=order,
        inverse=tuple(sorted(range(len(order)), key=order.__getitem__)),
        slots=(slots[0], slots[1], slots[2], slots[3]),
        sizes=sizes,
        shape=(a, b, c, d),
        columns=_columns(a, b, c, d, vary),
        narrow=c > 1 and d < NARROW,
    )


def _columns(a: int, b: int, c: int, d: int, vary: list[bool]) -> Columns | None:
    """Return how to walk down, where what is in a column has one weight and one bias."""
    if vary[1] or (c == 1 and vary[3]):
        return None
    if c == 1:  # any column is of the one slice
        b, d = b * d, 1
    side_by_side = next((r for r in range(WIDTH // (c * d), 1, -1) if b % r == 0), 1)
    return Columns((a, b // side_by_side, side_by_side * c * d), c, d)
