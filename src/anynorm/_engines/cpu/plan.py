"""A plan: what a call is for the kernels, decided once for all calls of its kind.

It holds no array. Which memory the arrays of a library have, and how to make more of it, is told by a Memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
from numba import types

from ..._core.call import Statistics
from ..lowering import BIASES, RESULT, STATISTICS, WEIGHTS, lower
from . import geometry, kernels
from .compiled import address, launch, piece
from .geometry import AT_ZERO, GIVEN, OWN
from .threads import SMALL, cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._core.call import Call
    from ..._core.libraries import Array, Shape
    from ..lowering import Lowering

MOST = 2**53  # elements that float64 counts
TINY = 2**13  # elements that take less than the four calls that walk down columns
LEAST = 2.0**-100  # smaller variances may have lost digits in float32, and 0 may have been one
PIECES = 8  # a core: one that is late then delays the others by little
THREADS = numba.config.NUMBA_NUM_THREADS

ONE, ZERO = ({name: np.full(1, n, name) for name in ("float32", "float64")} for n in (1.0, 0.0))
FLOATS = {"float32": types.float32, "float64": types.float64}


class Memory(NamedTuple):
    """How a library's arrays are memory: what a kernel is told of one, and how to get another."""

    head: int  # between what a kernel is told and where the address stands; 0 where that is the address
    place: Callable[[Array], int]  # what a kernel is told
    stored: dict[Any, Any]  # Numba's type of what each dtype is stored as
    empty_like: Callable[[Array], Array]
    empty: Callable[[Shape, str], Array]
    contiguous: Callable[[Array], Array]
    as_numpy: Callable[[Array], Array]
    from_numpy: Callable[[Array], Array]
    turn: Callable[[Array, Shape], Array]
    strides: Callable[[Array], Shape]
    cast: Callable[[Array, Any], Array]
    dtypes: dict[str, Any]  # by name, those to compute in
    most_threads: Callable[[], int | None]


class Plan:
    """A call as the kernels take it: x as (A, B, C, D), its slices (a, c)."""

    __slots__ = (
        "addresses", "channels", "computing", "copied", "direct", "geometries", "lowering", "masked", "memory", "n",
        "places", "shapes", "size", "source", "stored",
    )  # fmt: skip

    def __init__(self, call: Call, x: Array, lowering: Lowering, memory: Memory, *, copied: bool) -> None:
        self.lowering, self.memory, self.copied = lowering, memory, copied
        self.stored = memory.stored[call.dtype]
        self.addresses: dict[Any, int] = {}
        self.size, self.n = math.prod(lowering.shape), lowering.shape[1] * lowering.shape[3]
        self.computing = "float64" if x.itemsize == 8 else "float32"
        own = OWN if call.layout.centred else AT_ZERO
        self.source = own if call.given is None else GIVEN
        given = (None, None) if call.given is None else call.given[1:3]
        parameters: tuple[Any, ...] = (call.weight, call.bias, *given)
        laid = [None if p is None else self.lay(call, p) for p in parameters]
        self.masked = call.mask is not None
        parameters, laid = (*parameters, call.mask), [*laid, self.lay_mask(call) if self.masked else None]
        #: Whether weight, bias, a given mean, its rest and the mask lie in memory as the kernels take them.
        self.direct = [
            a is not None and a.size == math.prod(p.shape) and a.ctypes.data == memory.as_numpy(p).ctypes.data
            for p, a in zip(parameters, laid, strict=True)
        ]
        #: What the kernels are told where there is none of them.
        self.places = [self.told(a[self.computing]) for a in (ONE, ZERO, ZERO, ZERO)]
        *self.shapes, mask = [(1, 1, 1, 1) if a is None else a.shape for a in laid]
        slices = (lowering.shape[0], 1, lowering.shape[2], 1)
        if self.source == OWN:
            self.shapes[2:] = slices, slices
        self.shapes += self.shapes[2] if self.source == GIVEN else slices, mask
        self.channels = channels_of(call, lowering)
        self.geometries = [self.geometry(wanted) for wanted in range(16)]

    @classmethod
    def of(cls, call: Call, x: Array, memory: Memory) -> Plan | None:
        """Return the plan of a call whose x has the memory of NumPy's x; None where the kernels do not do it."""
        if call.sync is not None or type(call.eps) is not float:
            return None
        if x.size == 0 or x.ndim == 0 or x.size > MOST:
            return None
        parameters = [tuple(call.broadcastable(p).shape) for p in (call.weight, call.bias) if p is not None]
        if call.given is not None and call.given.mean is not None:
            parameters.append(tuple(call.given.mean.shape))
        masks = () if call.mask is None else (tuple(call.mask.shape),)
        lowering = lower(call.layout, x.shape, x.strides, x.itemsize, tuple(parameters), masks)
        copied = lowering is None and not x.flags.c_contiguous
        if copied:
            x = np.ascontiguousarray(x)
            lowering = lower(call.layout, x.shape, x.strides, x.itemsize, tuple(parameters), masks)
        return None if lowering is None else cls(call, x, lowering, memory, copied=copied)

    # ------------------------------------------------------------------------------ what kernels are told

    def geometry(self, wanted: int) -> tuple[int, Array]:
        """Return the whole numbers that a kernel needs, and before them their address."""
        low = self.lowering
        numbers = np.zeros(geometry.PLACES, np.int64)
        for at, shape in zip(range(0, geometry.COLUMNS, 4), (low.shape, *self.shapes), strict=True):
            numbers[at : at + 4] = shape
        if low.columns is not None:
            numbers[geometry.COLUMNS : geometry.COLUMNS + 3] = low.columns.shape
            numbers[geometry.DEPTH], numbers[geometry.WIDTH] = low.columns.depth, low.columns.width
        numbers[geometry.SOURCE : geometry.PLACES] = self.source, wanted, self.channels
        return numbers.ctypes.data, numbers

    def told(self, a: Array) -> int:
        """Return what a kernel is told of an array of NumPy's, which has to outlive the call."""
        return id(a) if self.memory.head else a.ctypes.data

    def lay(self, call: Call, parameter: Array) -> Array:
        """Return weight, bias or a given statistic as four axes, in the dtype to compute in."""
        array = self.memory.as_numpy(call.broadcastable(parameter))  # cast: NumPy reads torch's halves as bits
        return self.lowering.lay(call.layout.split(np, array))

    def lay_mask(self, call: Call) -> Array:
        """Return the mask as four axes of bytes: whole, where columns are walked down and rows are hidden in part."""
        low, mask = self.lowering, call.layout.split(np, self.memory.as_numpy(call.mask))
        laid = low.lay(mask)
        if self.down(THREADS) and (low.shape[2] == 1 or laid.shape[2:] != (1, 1)):
            laid = low.lay(np.broadcast_to(mask, call.layout.shape(call.x)), whole=True)
        return laid.view(np.uint8)

    def tell_mask(self, call: Call, held: list[Array]) -> int:
        """Return what a kernel is told of the mask."""
        if not self.masked:
            return 0
        if self.direct[4]:
            return self.memory.place(call.mask)
        held.append(self.lay_mask(call))
        return self.told(held[-1])

    def tell(self, call: Call, i: int, value: Array | None, held: list[Array]) -> int:
        """Return what a kernel is told of weight, bias, a given mean or its rest."""
        if value is None:
            return self.places[i]
        if self.direct[i]:
            return self.memory.place(value)
        held.append(self.lay(call, value))
        return self.told(held[-1])

    def table(self, value: Array, dtype: str, held: list[Array]) -> int:
        """Return what a kernel is told of a table of the slices."""
        memory = self.memory
        if self.lowering.straight and value.dtype == memory.dtypes[dtype]:
            held.append(memory.contiguous(value))
            return memory.place(held[-1])
        held.append(self.lowering.lay(memory.as_numpy(value).astype(dtype, copy=False)))
        return self.told(held[-1])

    def tables(self, call: Call, s: Statistics, held: list[Array]) -> tuple[int, ...]:
        """Return what kernels are told of the mean, its rest and the variance of the slices, and of their counts."""
        if self.source == GIVEN:
            mean, rest = self.tell(call, 2, s.mean, held), self.tell(call, 3, s.rest, held)
            if self.direct[2]:  # and so does the variance
                held.append(self.memory.as_numpy(s.var).astype("float64", order="C"))
                return mean, rest, self.told(held[-1]), 0
        elif self.source == OWN:
            mean, rest = (self.table(part, self.computing, held) for part in (s.mean, s.rest))
        else:
            mean, rest = self.places[2:]
        count = 0
        if self.masked and self.source != GIVEN:
            counts = np.broadcast_to(self.memory.as_numpy(s.count).astype("float64"), tuple(s.var.shape))
            held.append(self.lowering.lay(counts))
            count = self.told(held[-1])
        return mean, rest, self.table(s.var, "float64", held), count

    @property
    def along(self) -> bool:
        """Whether weight or bias vary along rows."""
        return any(shape[3] > 1 for shape in self.shapes[:2])

    def kernel(self, kernel: Callable[..., None], gradient: Any = None) -> int:
        """Return the address of a kernel, for a dy of a dtype."""
        key = kernel, gradient
        if key not in self.addresses:
            stored = self.memory.stored
            dy = self.stored if gradient is None else stored[gradient]
            self.addresses[key] = address(kernel, self.stored, dy, FLOATS[self.computing], masked=self.masked)
        return self.addresses[key]

    # ------------------------------------------------------------------------------ who does how much

    def down(self, threads: int) -> bool:
        """Whether to walk down columns: where rows are too short, or slices too few to keep the threads busy."""
        low = self.lowering
        few = threads > 1 and low.shape[0] * low.shape[2] < 2 * threads
        return low.columns is not None and (few or (low.narrow and self.size >= TINY))

    def pieces(self, threads: int) -> int:
        """Return into how many pieces to divide the slices."""
        # Numba shares pieces out evenly: fewer than its threads when not all of them are allowed.
        slices = self.lowering.shape[0] * self.lowering.shape[2]
        return 1 if threads == 1 else min(slices, threads * (PIECES if threads == THREADS else 1))

    # ------------------------------------------------------------------------------ forward

    def normalize(self, call: Call, x: Array, *, keep: bool) -> tuple[Array, Statistics | None]:
        """Return the normalised array, and where they are to be kept the statistics."""
        x = self.memory.contiguous(x) if self.copied else x
        y = self.memory.empty_like(x)
        s = self.run(call, x, y, keep=keep)
        if keep and s is not None and call.given is None and self.size >= SMALL:
            s = s._replace(var=self.narrow(s.var))
        return y, s

    def statistics(self, call: Call, x: Array) -> Statistics:
        """Return the statistics of the slices."""
        found = self.run(call, self.memory.contiguous(x) if self.copied else x, None, keep=True)
        assert found is not None  # noqa: S101
        return found

    def run(self, call: Call, x: Array, y: Array | None, *, keep: bool) -> Statistics | None:
        """Have the kernels write the result to y, and return the statistics where they are to be kept."""
        if self.size < SMALL:
            return self.standardize(call, x, y, 1, keep=keep)
        with cores(self.size, self.memory.most_threads()) as threads:
            return self.standardize(call, x, y, threads, keep=keep)

    def standardize(self, call: Call, x: Array, y: Array | None, threads: int, *, keep: bool) -> Statistics | None:
        """Do so on as many threads."""
        memory, down, s = self.memory, self.down(threads), call.given
        held: list[Array] = []
        weight, bias = self.tell(call, 0, call.weight, held), self.tell(call, 1, call.bias, held)
        mask = self.tell_mask(call, held)
        tables: tuple[int, ...] = (0, 0, 0, 0)
        wanted = RESULT * (y is not None)
        if s is not None:
            tables = self.tables(call, s, held)
        elif keep or down:
            s, tables = self.blank()
            wanted += STATISTICS
        told = memory.head, memory.place(x), 0, 0 if y is None else memory.place(y), weight, bias, *tables, mask
        if down:
            self.walk_down(told, threads, wanted, call.eps)
        else:
            launch(
                self.kernel(kernels.rows), self.pieces(threads), *told, 0, 0, 0, self.geometries[wanted][0], call.eps
            )
        return s if s is None or call.given is not None else self.closed(s)

    def blank(self) -> tuple[Statistics, tuple[int, ...]]:
        """Return statistics that hold whatever their memory does, and what kernels are told of them."""
        memory, kept = self.memory, self.lowering.kept
        var = memory.empty(kept, "float64")
        n, count = self.n, 0
        if self.masked:
            n = memory.empty(kept, "float64")
            count = memory.place(n)
        if self.source == AT_ZERO:
            return Statistics(n if self.masked else None, None, None, var), (*self.places[2:], memory.place(var), count)
        mean, rest = memory.empty(kept, self.computing), memory.empty(kept, self.computing)
        return Statistics(n, mean, rest, var), (memory.place(mean), memory.place(rest), memory.place(var), count)

    def closed(self, s: Statistics) -> Statistics:
        """Return statistics along x's axes, their counts as whole numbers."""
        memory, inverse = self.memory, self.lowering.inverse
        if self.masked:
            s = s._replace(count=memory.cast(s.count, memory.dtypes["int64"]))
        if self.lowering.straight:
            return s
        return Statistics(*(a if a is None or isinstance(a, int) else memory.turn(a, inverse) for a in s))

    def narrow(self, var: Array) -> Array:
        """Return variances in the dtype to compute in, which takes half the memory and may not hold them all."""
        with np.errstate(over="ignore"):
            return self.memory.cast(var, self.memory.dtypes[self.computing])

    def walk_down(self, told: Any, threads: int, wanted: int, eps: float) -> None:
        """Run the kernels that walk down columns."""
        a, _, c, _ = self.lowering.shape
        sums = list(np.zeros((3, threads, a, c)))
        arguments = *told, *map(self.told, sums), self.geometries[wanted][0], eps
        if self.source != GIVEN:
            piece(self.kernel(kernels.columns_first), *arguments, threads, 0)
            launch(self.kernel(kernels.columns_sums), threads, *arguments)
            if self.source == OWN and self.computing == "float64":  # see kernels
                piece(self.kernel(kernels.columns_again), *arguments, threads, 0)
                launch(self.kernel(kernels.columns_sums), threads, *arguments)
            piece(self.kernel(kernels.columns_statistics), *arguments, threads, 0)
        if wanted & RESULT:
            launch(self.kernel(kernels.columns_apply), threads, *arguments)

    # ------------------------------------------------------------------------------ backward

    def pull(
        self, call: Call, x: Array, s: Statistics, dy: Array, wanted: int = RESULT | WEIGHTS | BIASES
    ) -> tuple[Array | None, Array | None, Array | None] | None:
        """Return the gradients of x, weight and bias that are wanted, given that of the result."""
        memory = self.memory
        held: list[Array] = []
        if self.along and any(shape[0] > 1 for shape in self.shapes[:2]):
            return None
        x = memory.contiguous(x) if self.copied else x
        dx = memory.empty_like(x) if wanted & RESULT else None
        exact = s if self.holds(s) else self.run(call, x, None, keep=True)
        assert exact is not None  # noqa: S101
        told = self.tell(call, 0, call.weight, held), 0, *self.tables(call, exact, held), self.tell_mask(call, held)
        lies_alike = memory.strides(dy) == memory.strides(x) and dy.shape == x.shape
        g = dy if lies_alike else self.open(call, dy)
        place = memory.place(g) if g is dy else self.told(g)
        wanted &= RESULT | WEIGHTS * (call.weight is not None) | BIASES * (call.bias is not None)
        with cores(self.size, memory.most_threads()) as threads:
            work = self.pull_down if self.down(threads) else self.pull_rows
            arguments = memory.head, memory.place(x), place, 0 if dx is None else memory.place(dx), *told
            dweight, dbias = work(dy.dtype, arguments, threads, wanted, call.eps)
        weight, bias = call.weight if wanted & WEIGHTS else None, call.bias if wanted & BIASES else None
        return dx, self.gradient(call, 0, weight, dweight), self.gradient(call, 1, bias, dbias)

    def holds(self, s: Statistics) -> bool:
        """Whether the variances are as they were summed, or their dtype holds them all, or they were given."""
        if self.source == GIVEN:
            return True
        if self.masked and s.count is None:
            return False
        if s.var.dtype == self.memory.dtypes["float64"]:
            return True
        var = self.memory.as_numpy(s.var)
        return bool(np.all((var > LEAST) & (var < np.inf)))

    def open(self, call: Call, dy: Array) -> Array:
        """Return the gradient of the result in the order of x's memory."""
        g = call.layout.split(np, self.memory.as_numpy(dy))
        return np.ascontiguousarray(g if self.copied else g.transpose(self.lowering.order))

    def pull_rows(self, gradient: Any, arguments: Any, threads: int, wanted: int, eps: float) -> list[Array | None]:
        """Run the kernel that walks along rows."""
        a, b, c, d = self.lowering.shape
        along = self.along
        pieces = min(threads, a * c) if along else self.pieces(threads)
        wide, deep = (max(shape[i] for shape in self.shapes[:2]) for i in (1, 2))
        rows = (pieces, wide, deep, d) if along else (1, a, b, c, 1)
        sums = [np.zeros(rows) if wanted & which else None for which in (WEIGHTS, BIASES)]
        told = *(0 if total is None else self.told(total) for total in sums), 0
        kernel = self.kernel(kernels.rows_pullback, gradient)
        launch(kernel, pieces, *arguments, *told, self.geometries[wanted][0], eps)
        if along:
            return [t if t is None else (t if pieces == 1 else t.sum(axis=0, keepdims=True)) for t in sums]
        return [t if t is None else t[0] for t in sums]

    def pull_down(self, gradient: Any, arguments: Any, threads: int, wanted: int, eps: float) -> list[Array | None]:
        """Run the kernels that walk down columns."""
        low = self.lowering
        assert low.columns is not None  # noqa: S101
        a, _, c, _ = low.shape
        sums = list(np.zeros((3, threads + 1, a, c, low.columns.depth)))
        arguments = *arguments, *map(self.told, sums), self.geometries[wanted][0], eps
        launch(self.kernel(kernels.columns_products, gradient), threads, *arguments)
        piece(self.kernel(kernels.columns_lost, gradient), *arguments, threads, 0)
        if wanted & RESULT:
            launch(self.kernel(kernels.columns_pullback, gradient), threads, *arguments)
        return [total[0].reshape(a, 1, c, -1) for total in sums[:2]]

    def gradient(self, call: Call, i: int, parameter: Array | None, table: Array | None) -> Array | None:
        """Return the gradient of weight or bias, from that of what it is as four axes."""
        if parameter is None or table is None:
            return None
        own, total = self.shapes[i], table  # of each axis own is the last part, over and over
        if own != table.shape:
            pairs = [n for whole, part in zip(table.shape, own, strict=True) for n in (whole // part, part)]
            total = table.reshape(pairs).sum(axis=(0, 2, 4, 6))
        if not (self.direct[i] and (self.lowering.straight or parameter.ndim == 1)):  # whose memory is in another order
            shape = call.layout.split(np, self.memory.as_numpy(call.broadcastable(parameter))).shape
            axes = tuple(i for i, size in enumerate(shape) if size == 1)
            total = self.lowering.unlay(total, shape).sum(axis=axes, keepdims=True)
        total = self.memory.from_numpy(total.astype(self.computing))
        return total.reshape(parameter.shape) if parameter.dtype == total.dtype else call.gradient(parameter, total)

    # ------------------------------------------------------------------------------ running statistics

    def advance(
        self, call: Call, s: Statistics, stats: Any, momentum: Any, correction: Any
    ) -> tuple[Array, Array] | None:
        """Return the running mean and variance after a batch of the statistics s, None where no kernel does it."""
        if self.source != OWN or self.masked or not self.channels or type(correction) is not float:
            return None
        if momentum is None:
            momentum = 1.0 / (int(stats.steps) + 1)
        memory, n = self.memory, float(self.n)
        if type(momentum) is not float or not all(map(self.is_vector, stats[:2])):
            return None
        held = [np.full(1, n / (n - correction) if n > correction else 0.0)]
        mean, var = memory.empty_like(stats.mean), memory.empty_like(stats.var)
        piece(
            self.advancing(), memory.head, 0, memory.place(var), memory.place(mean), memory.place(stats.mean),
            memory.place(stats.var), *self.tables(call, s, held), 0, self.told(held[0]), 0, 0,
            self.geometries[0][0], momentum, 1, 0,
        )  # fmt: skip
        return mean, var

    def advancing(self) -> int:
        """Return the address of the kernel, which has no x."""
        float_ = FLOATS[self.computing]
        return self.addresses.get("advance") or self.addresses.setdefault(
            "advance", address(kernels.advance, float_, float_, float_, masked=False)
        )

    def is_vector(self, a: Array) -> bool:
        """Whether an array is a vector of the channels as the kernels take it."""
        memory = self.memory
        return a.dtype == memory.dtypes[self.computing] and memory.contiguous(a) is a


def channels_of(call: Call, lowering: Lowering) -> int:
    """Return the number of channels, 0 where the tables of statistics are no rows of one for each sample."""
    kept = [axis for axis in lowering.order if axis not in call.layout.shared]
    own = call.layout.affine
    return int(call.x.shape[own[0]]) if len(own) == 1 and call.layout.groups is None and kept[-1:] == [*own] else 0
