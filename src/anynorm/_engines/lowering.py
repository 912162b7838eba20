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

if TYPE_CHECKING:
    from .._core.call import Layout
    from .._core.libraries import Shape

Axes = tuple[int, ...]

RESULT, STATISTICS, WEIGHTS, BIASES = 1, 2, 4, 8  # what may be wanted of kernels

NARROW = 32  # rows shorter than this are walked down, many at once
COLUMNS_AT_ONCE = 512


class Columns(NamedTuple):
    """How an array is walked down: as (A, B, L), where short rows lie side by side to fill COLUMNS_AT_ONCE."""

    shape: Shape
    slices: int  # C
    depth: int  # neighbouring columns of one slice
    width: int  # columns walked down at once


class Lowering(NamedTuple):
    """What an array is for the kernels. Axes are those of x, its channels split into groups."""

    layout: Layout
    order: Axes  # from the outermost axis in memory to the innermost
    inverse: Axes
    straight: bool  # whether that is the order they have
    slots: tuple[Axes, Axes, Axes, Axes]  # which of the ordered axes make A, B, C and D
    sizes: Shape  # of the ordered axes
    kept: Shape  # of statistics: the ordered axes, those reduced at size 1
    shape: Shape  # (A, B, C, D)
    columns: Columns | None  # None where it can be walked along its rows alone
    narrow: bool  # whether walking down is the faster way

    def lay(self, a: Any, *, whole: bool = False) -> Any:
        """Return an array that broadcasts to the split x as four axes: of each slot the part from where it varies."""
        import numpy as np

        a = a if self.straight else a.transpose(self.order)
        sizes = self.sizes if whole else self.laid(a.shape)
        shape = [math.prod([sizes[i] for i in slot]) for slot in self.slots]
        return np.ascontiguousarray((a if sizes == a.shape else np.broadcast_to(a, sizes)).reshape(shape))

    def laid(self, ordered: Shape) -> Shape:
        """Return the sizes at which an array is laid: it is repeated along the axes of a slot after one that it has."""
        sizes = list(ordered)
        for slot in self.slots:
            for i in _varying(slot, ordered, whole=slot is self.slots[3]):
                sizes[i] = self.sizes[i]
        return tuple(sizes)

    def unlay(self, a: Any, shape: Shape) -> Any:
        """Return what is laid as an array of a shape is, at x's rank: whole along the axes it is repeated along."""
        sizes = self.laid(tuple(shape[i] for i in self.order))
        return a.reshape(sizes).transpose(self.inverse)

    def unfolded(self, shape: Shape) -> Shape:
        """Return, of the ordered axes, the sizes of what is laid as four axes, each at size 1 or whole."""
        sizes = [1] * len(self.sizes)
        for slot, size in zip(self.slots, shape, strict=True):
            if size > 1:
                for i in slot:
                    sizes[i] = self.sizes[i]
        return tuple(sizes)


@lru_cache(maxsize=4096)
def lower(
    layout: Layout,
    shape: Shape,
    strides: Shape,
    itemsize: int,
    parameters: tuple[Shape, ...] = (),
    masks: tuple[Shape, ...] = (),
) -> Lowering | None:
    """Lower x, and the shapes of weight, bias and mask.

    None where x has holes, where four axes do not hold it, or where weight or bias laid along them would be as large.
    """
    if layout.groups is not None:
        shape, strides, parameters, masks = _split(layout, shape, strides, parameters, masks)
    order = _memory_order(shape, strides, itemsize)
    varying, masked = ({i for i in range(len(shape)) if any(p[i] > 1 for p in many)} for many in (parameters, masks))
    slots = None if order is None else _slots(order, shape, layout.shared, varying, masked)
    if order is None or slots is None:
        return None
    sizes = tuple(shape[i] for i in order)
    for parameter in parameters:
        ordered = tuple(parameter[i] for i in order)
        laid = math.prod([sizes[i] for slot in slots for i in _varying(slot, ordered, whole=slot is slots[3])])
        if laid > math.prod(parameter) and 4 * laid > math.prod(sizes):
            return None
    a, b, c, d = (math.prod([sizes[i] for i in slot]) for slot in slots)
    vary = [any(order[i] in varying for i in slot) for slot in slots]
    return Lowering(
        layout=layout,
        order=order,
        inverse=tuple(sorted(range(len(order)), key=order.__getitem__)),
        straight=order == tuple(range(len(order))),
        slots=slots,
        sizes=sizes,
        kept=tuple(1 if order[i] in layout.shared else size for i, size in enumerate(sizes)),
        shape=(a, b, c, d),
        columns=_columns(a, b, c, d, vary),
        narrow=c > 1 and d < NARROW,
    )


def _varying(slot: Axes, shape: Shape, *, whole: bool) -> Axes:
    """Return the axes of a slot from the first on that an array varies along; all or none where it has to be whole."""
    first = next((at for at, i in enumerate(slot) if shape[i] > 1), len(slot))
    return slot if whole and first < len(slot) else slot[first:]


def _split(layout: Layout, shape: Shape, strides: Shape, *many: tuple[Shape, ...]) -> Any:
    """Return shapes and strides as they are once the channels are split into groups."""
    (channel,), groups = layout.affine, layout.groups or 1

    def split(sizes: Shape, whole: int) -> Shape:
        parts = (groups, whole // groups) if whole > 1 else (1, whole)
        return (*sizes[:channel], *parts, *sizes[channel + 1 :])

    stride, inside = strides[channel], split(shape, shape[channel])[channel + 1]
    strides = (*strides[:channel], stride * inside, stride, *strides[channel + 1 :])
    return split(shape, shape[channel]), strides, *(tuple(split(p, p[channel]) for p in shapes) for shapes in many)


def _memory_order(shape: Shape, strides: Shape, itemsize: int) -> Axes | None:
    """Return the axes from the outermost in memory to the innermost, None where elements do not lie side by side."""
    long = [i for i in range(len(shape)) if shape[i] > 1]  # the strides of the others say nothing
    ordered = iter(sorted(long, key=lambda i: -strides[i]))
    order = [i if shape[i] == 1 else next(ordered) for i in range(len(shape))]
    expected = itemsize
    for i in reversed(order):
        if shape[i] > 1 and strides[i] != expected:
            return None
        expected *= shape[i]
    return tuple(order)


def _slots(
    order: Axes, shape: Shape, shared: Axes, varying: set[int], masked: set[int]
) -> tuple[Axes, Axes, Axes, Axes] | None:
    """Return which of the ordered axes make A, B, C and D."""
    long = [i for i, axis in enumerate(order) if shape[axis] > 1]
    runs = [(reduced, tuple(run)) for reduced, run in groupby(long, key=lambda i: order[i] in shared)]
    slots: list[Axes] = [(), (), (), ()]
    place = 3 if runs and runs[-1][0] else 2
    for _, run in reversed(runs):
        if place < 0:
            return None
        slots[place] = run
        place -= 1
    if slots[3] and not slots[1]:  # then the slices are rows, one after another
        slots[0], slots[2] = slots[2], ()
    # Along a row weight and bias are one number each, or vary with every element; and so does a mask where rows can be
    # cut, which is else laid whole.
    row: Axes = ()
    for _, same in groupby(slots[3], key=lambda i: (order[i] in varying, order[i] in masked and not slots[2])):
        row = tuple(same)
    if row != slots[3]:
        if slots[2]:
            return None
        slots[1], slots[3] = slots[3][: -len(row)], row
    return slots[0], slots[1], slots[2], slots[3]


def _columns(a: int, b: int, c: int, d: int, vary: list[bool]) -> Columns | None:
    """Return how to walk down, where what is in a column has one weight and one bias."""
    if vary[1] or (c == 1 and vary[3]):
        return None
    if c == 1:  # any column is of the one slice
        b, d = b * d, 1
    side_by_side = next((r for r in range(COLUMNS_AT_ONCE // (c * d), 1, -1) if b % r == 0), 1)
    long = side_by_side * c * d
    return Columns((a, b // side_by_side, long), c, d, min(COLUMNS_AT_ONCE, long))
