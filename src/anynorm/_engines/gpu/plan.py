"""A plan: what a call is for the kernels of norms.cu, decided once for all calls of its kind.

It holds no array. Which memory the arrays of a library have, and who launches a kernel, is told by a Memory.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._core.arrays import shape_along
from ..._core.call import Statistics
from ..lowering import BIASES, RESULT, WEIGHTS, lower

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._core.call import Call
    from ..._core.libraries import Array, Shape
    from ..lowering import Lowering

MOST = 2**31  # elements of a slice, and of an axis: kernels count them in 32 bits
HELD, HELD_TWICE = 32, 16  # elements that a thread has in registers, of one array and of each of two
FEW, LONG = 128, 2**14  # fewer slices than this, and as long, do not fill a GPU one a block
NARROW = 32  # rows shorter than this are walked down
BLOCKS = 1024  # that fill a GPU: the same for all of them, so that sums are, too
WARPS = 8  # of a block that walks down
SIZES = (4, 2, 2)  # bytes of float32, float16, bfloat16
CELLS, ELEMENTS, REFUSED = "cells", "elements", "nothing"  # over what dy is summed for weight and bias

POINTERS = ("x", "dy", "y", "weight", "bias", "mean", "rest", "var", "parts", "shift", "scale")
OF_CALL, OF_KIND = struct.Struct("11Qfii4x"), struct.Struct("8q" + 3 * "8I4q")  # the two parts of Call in norms.cu


class Case(NamedTuple):
    """What a kernel is compiled for: the macros of norms.cu."""

    kernel: str
    element: int
    gradient: int
    parameter: int
    vec: int
    per: int
    tpr: int
    rows: int
    form: int

    def macros(self) -> list[str]:
        """Return the options that a compiler takes."""
        return [f"-D{name.upper()}={value}" for name, value in self._asdict().items()]


class Walk(NamedTuple):
    """How a kernel walks over x: see norms.cu."""

    vec: int
    per: int
    tpr: int
    rows: int
    form: int
    pieces: int
    side: int
    grid: int


class Memory(NamedTuple):
    """How a library's arrays are memory of a GPU, how to get more of it, and how to launch a kernel beside it."""

    kinds: dict[Any, int]  # what the kernels call each dtype
    place: Callable[[Array], int]  # its address
    strides: Callable[[Array], Shape]  # in elements
    empty: Callable[[Array, Shape], Array]  # float32, beside an array
    empty_like: Callable[[Array], Array]  # in the order of its memory
    laid_like: Callable[[Array, Array], Array]  # a copy of the second in the order of the first's memory
    contiguous: Callable[[Array], Array]
    broadcast: Callable[[Array, Shape], Array]
    turn: Callable[[Array, Shape], Array]
    launch: Callable[[Case, int, int, bytes, Array], None]


# ---------------------------------------------------------------------------------- how to walk


def held(n: int, vec: int, most: int) -> tuple[int, int] | None:
    """Return how many threads share a row of n elements in their registers, and how many loads each; None if none."""
    last = most if vec > 1 else most // 2  # as many single loads leave a thread of 1024 too few registers
    for threads, own in ((1, most // 4), (8, most // 2), (32, most), (128, most), (512, most), (1024, last)):
        loads = 1 << max(0, math.ceil(n / (threads * vec)) - 1).bit_length()
        if loads * vec <= max(own, vec):
            return threads, loads
    return None


@lru_cache(maxsize=4096)
def is_whole(shape: Shape, vec: int, most: int) -> bool:
    """Whether slices lie together and each is to be one row in registers."""
    a, b, c, d = shape
    few = a < FEW and b * d >= LONG
    return c == 1 and not few and held(b * d, vec if d % vec == 0 else 1, most) is not None


@lru_cache(maxsize=4096)
def walk(kernel: str, shape: Shape, vec: int, form: int | None = None) -> Walk:
    """Return how a kernel walks over x as four axes, by loads of vec elements where they fit."""
    a, b, c, d = shape
    if kernel.startswith("rows"):
        vec = vec if d % vec == 0 else 1
        found = held(b * d, vec, HELD if kernel == "rows" else HELD_TWICE)
        assert found is not None  # noqa: S101  which is_whole has said
        rows = max(1, 128 // found[0])
        return Walk(vec, found[1], found[0], rows, 0, 1, 1, math.ceil(a / rows))
    reads = kernel in ("partial", "products")  # what sums is in as few pieces as fill a GPU, since each leaves a part
    if form or (form is None and c > 1 and d < NARROW):
        return walk_down(shape, vec, form or 1, reads=reads)
    vec = vec if d % vec == 0 else 1
    vectors = b * d // vec
    pieces = max(1, vectors // (2048 if reads else 1024))
    pieces = min(pieces, max(1, BLOCKS // (a * c))) if reads else pieces
    threads = 256 if vectors > 64 * pieces else 32
    return Walk(vec, 32 // vec if kernel == "partial" else 1, threads, 1, 0, pieces, 1, a * c * pieces)


def walk_down(shape: Shape, vec: int, form: int, *, reads: bool) -> Walk:
    """Return how to walk down columns: where they are few, several rows lie side by side."""
    a, b, c, d = shape
    side = max(1, 32 * vec // (c * d))
    if side * c * d % vec or b * c * d % vec:
        vec, side = 1, max(1, 32 // (c * d))
    tiles, rows = math.ceil(side * c * d / (32 * vec)), math.ceil(b / side)
    pieces = max(1, rows // (32 * WARPS if reads else 8 * WARPS))
    pieces = min(pieces, max(1, BLOCKS // (a * tiles))) if reads else pieces
    return Walk(vec, 8, 32 * WARPS, 1, form, pieces, side, a * tiles * pieces)


# ---------------------------------------------------------------------------------- weight, bias and tables


class Along(NamedTuple):
    """Where an entry stands: along an axis of four it changes every `divide`, and begins again after `modulo`."""

    divide: Shape
    modulo: Shape
    stride: Shape

    def varies(self, *axes: int) -> bool:
        """Whether entries differ along one of the axes."""
        return any(self.stride[i] for i in axes)


NOWHERE = Along((1,) * 4, (1,) * 4, (0,) * 4)


def along(lowering: Lowering, sizes: Shape, strides: Shape) -> Along | None:
    """Return where the entries of what broadcasts to x stand, its axes ordered; None where it has to be laid anew."""
    parts = []
    for place, slot in enumerate(lowering.slots):
        varying = [i for i in slot if sizes[i] > 1]
        between = [i for i in slot if varying and varying[0] <= i <= varying[-1] and lowering.sizes[i] > 1]
        if between != varying or any(strides[i] != strides[j] * sizes[j] for i, j in pairwise(varying)):
            return None
        modulo = math.prod([sizes[i] for i in varying])
        divide = math.prod([lowering.sizes[i] for i in slot if varying and i > varying[-1]])
        stride = strides[varying[-1]] if varying else 0
        if place == 3 and varying and (divide, modulo, stride) != (1, lowering.shape[3], 1):
            return None
        parts.append((divide, modulo, stride))
    return Along(*map(tuple, zip(*parts, strict=True)))


# ---------------------------------------------------------------------------------- the plan


class Plan:
    """A call as the kernels take it: x as (A, B, C, D), its slices (a, c)."""

    __slots__ = (
        "centred", "copied", "direct", "dtype", "given", "kind", "lowering", "memory", "n", "own", "parameter",
        "recipes", "shape", "slices",
    )  # fmt: skip

    def __init__(self, call: Call, lowering: Lowering, memory: Memory, *, copied: bool) -> None:
        self.lowering, self.memory, self.copied = lowering, memory, copied
        self.shape, self.kind = lowering.shape, memory.kinds[call.dtype]
        self.n, self.slices = self.shape[1] * self.shape[3], self.shape[0] * self.shape[2]
        self.direct: dict[str, Along] = {}  # where the entries stand of what lies in memory as the kernels take it
        #: What is launched, but for where its arrays are: a case, and the part of what it is told that a kind decides.
        self.recipes: dict[Any, tuple[Case, bytes]] = {}
        parameters = [p for p in (call.weight, call.bias) if p is not None]
        self.dtype = call.dtype if all(p.dtype == call.dtype for p in parameters) else call.computing
        self.parameter = memory.kinds[self.dtype] if parameters else 0
        a, _, c, _ = self.shape
        self.own = Along((1,) * 4, (a, 1, c, 1), (c if a > 1 else 0, 0, int(c > 1), 0))  # of tables of the slices
        self.given = call.given is not None
        self.centred = call.layout.centred if call.given is None else call.given.mean is not None

    @classmethod
    def of(cls, call: Call, x: Array, memory: Memory) -> Plan | None:
        """Return the plan of a call; None where the kernels do not do it."""
        if call.sync is not None or call.mask is not None or call.dtype not in memory.kinds:
            return None
        if type(call.eps) is not float or x.ndim == 0 or 0 in x.shape:
            return None
        shapes = [at_rank(call, p) for p in (call.weight, call.bias, *(call.given or ())[1:]) if p is not None]
        shape = tuple(x.shape)
        lowering = lower(call.layout, shape, memory.strides(x), 1, tuple(shapes))
        copied = lowering is None
        if copied:
            strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
            lowering = lower(call.layout, shape, strides, 1, tuple(shapes))
        if lowering is None or lowering.shape[1] * lowering.shape[3] >= MOST or max(lowering.shape) >= MOST:
            return None
        return cls(call, lowering, memory, copied=copied)

    def lay(self, call: Call, a: Array, dtype: Any) -> tuple[Array, Along]:
        """Return weight, bias or a given statistic in a dtype, and where its entries stand."""
        memory, low = self.memory, self.lowering
        a = call.xp.astype(a, dtype, copy=False)
        a = memory.turn(call.layout.split(call.xp, a.reshape(at_rank(call, a))), low.order)
        found = along(low, tuple(a.shape), memory.strides(a))
        if found is None:  # then it gets memory of its own, whole in each run of axes along which it varies
            sizes = list(a.shape)
            for slot in low.slots:
                if any(sizes[i] > 1 for i in slot):
                    sizes = [low.sizes[i] if i in slot else size for i, size in enumerate(sizes)]
            a = memory.contiguous(memory.broadcast(a, tuple(sizes)))
            found = along(low, tuple(a.shape), memory.strides(a))
        assert found is not None  # noqa: S101  it is contiguous now
        return a, found

    def dense(self, x: Array) -> Array:
        """Return x as it is walked over: without holes."""
        return self.memory.contiguous(x) if self.copied else x

    # ------------------------------------------------------------------------------ forward

    def normalize(self, call: Call, x: Array, *, keep: bool) -> tuple[Array, Statistics]:
        """Return the normalised array, and the statistics of its slices, which the kernels make anyway."""
        del keep
        x = self.dense(x)
        y = self.memory.empty_like(x)
        if call.given is None:
            return y, self.run(call, x, y)
        work = Work(self, call, x, y=y)
        work.tell_tables(call.given)
        work.run("apply", work.walk("apply"))
        return y, call.given

    def statistics(self, call: Call, x: Array) -> Statistics:
        """Return the statistics of the slices."""
        return self.run(call, self.dense(x), None)

    def run(self, call: Call, x: Array, y: Array | None) -> Statistics:
        """Write the result to y, where there is one, and return the statistics of the slices."""
        memory, low = self.memory, self.lowering
        work = Work(self, call, x, y=y)
        tables = [memory.empty(x, low.kept) for _ in range(3 if self.centred else 1)]
        turned = tables if low.straight else [memory.turn(t, low.inverse) for t in tables]
        s = Statistics(self.n, *turned) if self.centred else Statistics(self.n, None, None, turned[0])
        work.tell(**dict(zip(("mean", "rest", "var") if self.centred else ("var",), tables, strict=True)))
        if is_whole(self.shape, work.vec, HELD):
            work.run("rows", work.walk("rows"), trust=y is not None)
            return s
        sums = work.walk("partial")
        many = parts_of(sums, self.shape)
        work.tell(parts=memory.empty(x, (self.slices * many, 4)))
        work.run("partial", sums)
        work.run("combine", folding(self.slices, many), share=many, trust=y is not None)
        if y is not None:
            work.run("apply", work.walk("apply"))
        return s

    # ------------------------------------------------------------------------------ backward

    def pull(
        self, call: Call, x: Array, s: Statistics, dy: Array, wanted: int = RESULT | WEIGHTS | BIASES
    ) -> tuple[Array | None, Array | None, Array | None] | None:
        """Return the gradients of x, weight and bias that are wanted, given that of the result."""
        memory, x = self.memory, self.dense(x)
        if dy.dtype not in (call.dtype, call.computing):
            dy = call.xp.astype(dy, call.computing)
        if memory.strides(dy) != memory.strides(x):
            dy = memory.laid_like(x, dy)
        dx = memory.empty_like(x) if wanted & RESULT else None
        work = Work(self, call, x, y=dx, dy=dy)
        work.tell_tables(s)
        parameters = [call.weight if wanted & WEIGHTS else None, call.bias if wanted & BIASES else None]
        kinds = [p if p is None else self.summed_over(of) for p, of in zip(parameters, work.alongs, strict=False)]
        if REFUSED in kinds:
            return None
        weigh = self.weighs(work.alongs[0])
        whole = is_whole(self.shape, work.vec, HELD_TWICE) and not self.given and (weigh or CELLS not in kinds)
        split = not whole and not self.given and dx is not None
        sums = {}
        if CELLS in kinds or (split and not weigh):
            sums[CELLS] = work.cells(combine=split and not weigh)
        if split and weigh:
            work.weighted()
        if ELEMENTS in kinds:
            sums[ELEMENTS] = work.elements()
        if dx is not None:
            work.run(*(("rows_pull", work.walk("rows_pull")) if whole else ("apply_pull", work.walk("apply_pull"))))
        totals = [None if kind is None else sums[kind][i] for kind, i in zip(kinds, (1, 0), strict=True)]
        dweight, dbias = (self.gradient(call, p, total) for p, total in zip(parameters, totals, strict=True))
        return dx, dweight, dbias

    def weighs(self, entries: Along) -> bool:
        """Whether weight or bias is no one number in each cell, of which the sums of dy and dy * y are."""
        down = walk("products", self.shape, 1).form == 1
        return entries.varies(3 if not down else 1) or (self.shape[2] > 1 and entries.varies(1))

    def summed_over(self, entries: Along) -> str:
        """Return over what dy and dy * y are summed for the gradient of a parameter."""
        if not self.weighs(entries):
            return CELLS
        return REFUSED if self.shape[2] > 1 or entries.varies(0, 1) else ELEMENTS

    def gradient(self, call: Call, parameter: Array | None, total: Array | None) -> Array | None:
        """Return the gradient of weight or bias, from sums that stand as four axes."""
        if parameter is None or total is None:
            return None
        low, xp = self.lowering, call.xp
        total = self.memory.turn(total.reshape(low.unfolded(tuple(total.shape))), low.inverse)
        own = call.layout.split(xp, parameter.reshape(at_rank(call, parameter))).shape
        axes = tuple(i for i, size in enumerate(own) if size == 1 and total.shape[i] > 1)
        total = xp.sum(total, axis=axes, keepdims=True) if axes else total
        return call.gradient(parameter, xp.astype(total, call.computing))


def at_rank(call: Call, parameter: Array) -> Shape:
    """Return the shape of weight, bias or a given statistic at x's rank."""
    shape = tuple(parameter.shape)
    return shape if len(shape) == call.x.ndim else shape_along(call.x, call.layout.affine)


def parts_of(sums: Walk, shape: Shape) -> int:
    """Return into how many parts a kernel sums a slice."""
    return sums.pieces * (shape[3] * sums.side * WARPS if sums.form else 1)


def folding(slices: int, many: int, form: int = 0) -> Walk:
    """Return how to put the parts of slices together: a block a slice."""
    return Walk(1, 1, 256 if many > 64 else 32, 1, form, 1, 1, slices)


class Work:
    """One call on its way: what its kernels are told, and the arrays that have to live until they are launched."""

    def __init__(self, plan: Plan, call: Call, x: Array, *, y: Array | None = None, dy: Array | None = None) -> None:
        self.plan, self.call, self.x = plan, call, x
        self.held: list[Array] = []
        self.places = dict.fromkeys(POINTERS, 0)
        self.tell(x=x, dy=dy, y=y)
        self.gradient = 0 if dy is None else plan.memory.kinds[dy.dtype]
        self.alongs = [NOWHERE, NOWHERE, plan.own]
        if call.weight is not None:
            self.alongs[0] = self.tell_laid("weight", call.weight, plan.dtype)
        if call.bias is not None:
            self.alongs[1] = self.tell_laid("bias", call.bias, plan.dtype)
        self.vec = self.widest()

    def widest(self) -> int:
        """Return how many elements a load may have: 16 bytes of them, or one, where some array begins elsewhere."""
        plan, places = self.plan, self.places
        vec = 16 // SIZES[plan.kind]
        odd = (places["x"] | places["y"]) % 16 or places["dy"] % (vec * SIZES[self.gradient])
        for name, of in zip(("weight", "bias"), self.alongs, strict=False):
            odd = odd or (of.stride[3] and places[name] % (vec * SIZES[plan.parameter]))
        return 1 if odd else vec

    def tell(self, **arrays: Array | None) -> None:
        """Tell the kernels of arrays."""
        for name, a in arrays.items():
            if a is not None:
                self.places[name] = self.plan.memory.place(a)
                self.held.append(a)

    def tell_laid(self, name: str, a: Array, dtype: Any) -> Along:
        """Tell the kernels of weight, bias or a given statistic, and return where its entries stand.

        What lies in memory as they take it does so in every call of the kind.
        """
        plan, place = self.plan, self.plan.memory.place
        found = plan.direct.get(name)
        if found is None:
            laid, found = plan.lay(self.call, a, dtype)
            if laid.dtype == a.dtype and place(laid) == place(a):
                plan.direct[name] = found
            a = laid
        self.places[name] = place(a)
        self.held.append(a)
        return found

    def tell_tables(self, s: Statistics) -> None:
        """Tell the kernels of the tables of statistics, given or own."""
        plan, call = self.plan, self.call
        for name, table in zip(("mean", "rest", "var"), s[1:], strict=True):
            if table is None:
                continue
            if plan.given:
                self.alongs[2] = self.tell_laid(name, plan.memory.contiguous(table), call.computing)
                continue
            turned = table if plan.lowering.straight else plan.memory.turn(table, plan.lowering.order)
            self.tell(**{name: plan.memory.contiguous(call.xp.astype(turned, call.computing, copy=False))})

    def walk(self, kernel: str, shape: Shape | None = None, form: int | None = None) -> Walk:
        """Return how a kernel walks over x."""
        return walk(kernel, shape or self.plan.shape, self.vec, form)

    def run(
        self, kernel: str, how: Walk, *, shape: Shape | None = None, pieces: int | None = None, share: int = 1,
        trust: bool = False, weigh: bool = False,
    ) -> None:  # fmt: skip
        """Launch a kernel."""
        plan, key = self.plan, (kernel, how, shape, pieces, share, self.gradient)
        if key not in plan.recipes:
            numbers = (*(shape or plan.shape), plan.n, pieces or how.pieces, how.side, share)
            entries = [number for of in self.alongs for part in of for number in part]
            plan.recipes[key] = self.case(kernel, how), OF_KIND.pack(*numbers, *entries)
        case, of_kind = plan.recipes[key]
        told = OF_CALL.pack(*self.places.values(), self.call.eps, trust, weigh) + of_kind
        plan.memory.launch(case, how.grid, how.tpr * how.rows, told, self.x)

    def case(self, kernel: str, how: Walk) -> Case:
        """Return what a kernel is compiled for: what puts parts together is the same for all x and dy."""
        element, gradient = (0, 0) if kernel.startswith("combine") else (self.plan.kind, self.gradient)
        parameter = 0 if kernel == "combine" else self.plan.parameter
        return Case(kernel, element, gradient, parameter, how.vec, how.per, how.tpr, how.rows, how.form)

    # ------------------------------------------------------------------------------ sums of gradients

    def cells(self, *, combine: bool) -> tuple[Array, Array]:
        """Return the sums of dy and of dy * y over cells, in which weight and bias are one number each.

        What the gradient loses in each slice is made of them, where that is wanted.
        """
        a, b, c, d = self.plan.shape
        split = c == 1 and b > 1
        shape = (a * b, 1, 1, d) if split else self.plan.shape
        how = self.walk("products", shape)
        across = d if how.form else 1
        many = parts_of(how, shape) // across
        parts = self.products(how, shape, many * across, share=b if split else 1)
        if combine:
            self.lose(how.form, many, b if split else across)
        sums = self.totals(parts, many)
        return tuple(total.reshape((a, b if split else 1, c, across)) for total in sums)

    def weighted(self) -> None:
        """Find what the gradient loses in slices whose elements have a weight each."""
        how, shape = self.walk("products"), self.plan.shape
        across = shape[3] if how.form else 1
        many = parts_of(how, shape) // across
        self.products(how, shape, many * across, weigh=True)
        self.lose(how.form, many, across, weigh=True)

    def elements(self) -> tuple[Array, Array]:
        """Return the sums of dy and of dy * y over rows: one for each element of a row."""
        a, b, _, d = self.plan.shape
        shape = (1, a * b, 1, d)
        how = self.walk("products", shape, form=2)
        many = how.side * how.pieces * WARPS
        parts = self.products(how, shape, d * many, share=b)
        return tuple(total.reshape((1, 1, 1, d)) for total in self.totals(parts, many))

    def products(self, how: Walk, shape: Shape, many: int, *, share: int = 1, weigh: bool = False) -> Array:
        """Sum dy and dy * y over parts, `many` a slice."""
        parts = self.plan.memory.empty(self.x, (shape[0] * shape[2] * many, 2))
        self.tell(parts=parts)
        self.run("products", how, shape=shape, share=share, weigh=weigh)
        return parts

    def lose(self, form: int, pieces: int, cells: int, *, weigh: bool = False) -> None:
        """Find what the gradient loses in each slice, from the parts of its cells."""
        slices = self.plan.slices
        self.tell(**{name: self.plan.memory.empty(self.x, (slices,)) for name in ("shift", "scale")})
        how = folding(slices, pieces * cells, form)
        self.run("combine_products", how, pieces=pieces, share=cells, weigh=weigh)

    def totals(self, parts: Array, many: int) -> tuple[Array, Array]:
        """Return the sums of parts, `many` to a sum, in float64."""
        xp = self.call.xp
        totals = xp.sum(parts.reshape((-1, many, 2)), axis=1, dtype=xp.float64)
        return totals[:, 0], totals[:, 1]
