"""The engine for NumPy arrays, by kernels that Numba compiles. Tensors of PyTorch on CPUs come through it as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from ..._core.call import Statistics
from . import kernels
from .lowering import lower
from .threads import cores, safe_beside_others, take_turns

if TYPE_CHECKING:
    from ..._core.call import Call
    from ..._core.libraries import Array
    from .lowering import Columns, Lowering

HALVES = ("float16",) if kernels.KNOWS_FLOAT16 else ()
STORED = {np.dtype(name) for name in ("float32", "float64", *HALVES)}
MOST = 2**53  # elements that float64 counts

THREADS = numba.config.NUMBA_NUM_THREADS
TINY = 2**11  # elements that take less than the four calls that walk down columns
LEAST = 2.0**-100  # smaller variances may have lost digits in float32, and 0 may have been one
PIECES = 8  # a core: one that is late then delays the others by little


def normalize(call: Call) -> tuple[Array, Statistics] | None:
    """Return the normalised array, and the statistics of its slices."""
    work = opened(call)
    if work is None:
        return None
    y, s = work.standardize()
    return y.view(call.dtype), work.narrow(s)


def statistics(call: Call) -> Statistics | None:
    """Return the statistics of the slices."""
    work = opened(call)
    return None if work is None else work.standardize(alone=True)[1]


def pull(call: Call, s: Statistics, dy: Array) -> tuple[Array, Array | None, Array | None] | None:
    """Return the gradients of x, weight and bias, given that of the result."""
    work = opened(call)
    g = None if work is None else stored(call, dy)
    if work is None or g is None:
        return None
    pulled = work.pull(s, g)
    return None if pulled is None else (pulled[0].view(call.dtype), *pulled[1:])


def opened(call: Call) -> Work | None:
    """Return the work of a call, None where the kernels do not do it."""
    x = stored(call, call.x)
    return None if x is None else Work.of(call, x)


def stored(call: Call, a: Array) -> Array | None:
    """Return an array of numbers as the kernels take it, None where they do not."""
    if type(a) is not np.ndarray:
        return None
    if a.dtype.kind != "f":
        a = a.astype(call.dtype)
    if a.dtype not in STORED or not (a.dtype.isnative and a.flags.aligned):
        return None
    return a.view("u2") if a.dtype.itemsize == 2 else a  # the kernels know float16 by its bits


def read_only(view: Array) -> Array:
    """Return a view that is not to be written to: Numba would compile anew for those that happen to be writable."""
    view.flags.writeable = False
    return view


def launch(kernel: Any, pieces: int, *arguments: Any) -> None:
    """Run a kernel in pieces side by side, or on this thread."""
    if pieces == 1:
        kernel(*arguments, 1, 0)
    elif not safe_beside_others():
        take_turns(lambda p: kernel(*arguments, pieces, p), pieces)
    else:
        kernels.TOGETHER[kernel](pieces, *arguments)


ONE, ZERO = (
    {dtype: read_only(np.full((1, 1, 1, 1), n, dtype)) for dtype in ("float32", "float64")} for n in (1.0, 0.0)
)


class Work:
    """A call as the kernels take it: x as (A, B, C, D), its slices (a, c)."""

    __slots__ = ("bias", "call", "computing", "kind", "lowering", "most", "n", "weight", "x")

    def __init__(self, call: Call, x: Array, lowering: Lowering, most: int | None) -> None:
        self.call, self.lowering, self.most = call, lowering, most
        self.x = read_only(lowering.open(x))
        self.n = float(lowering.shape[1] * lowering.shape[3])
        self.computing = "float64" if x.itemsize == 8 else "float32"
        own = kernels.OWN if call.layout.centred else kernels.AT_ZERO
        self.kind = own if call.given is None else kernels.GIVEN
        self.weight = ONE[self.computing] if call.weight is None else self.parameter(call.weight)
        self.bias = ZERO[self.computing] if call.bias is None else self.parameter(call.bias)
        if self.weight.shape[3] != self.bias.shape[3]:  # they vary along rows, or neither does
            row = lowering.shape[3:]
            wide = (np.broadcast_to(p, p.shape[:3] + row).copy() for p in (self.weight, self.bias))
            self.weight, self.bias = map(read_only, wide)

    @classmethod
    def of(cls, call: Call, x: Array, most: int | None = None) -> Work | None:
        """Return the work on x, by at most so many threads; None where the kernels do not do it."""
        if call.mask is not None or call.sync is not None or type(call.eps) is not float:
            return None
        if x.size == 0 or x.ndim == 0 or x.size > MOST:
            return None
        parameters = [call.broadcastable(p).shape for p in (call.weight, call.bias) if p is not None]
        lowering = lower(call.layout, x.shape, x.strides, x.itemsize, *parameters)
        if lowering is None and not x.flags.c_contiguous:
            x = np.ascontiguousarray(x)
            lowering = lower(call.layout, x.shape, x.strides, x.itemsize, *parameters)
        return None if lowering is None else cls(call, x, lowering, most)

    def parameter(self, value: Array) -> Array:
        """Return weight or bias as four axes."""
        return read_only(self.lowering.lay(self.call.layout.split(np, self.call.broadcastable(value))))

    def tables(self, s: Statistics | None, variance: str = "float64") -> list[Array]:
        """Return tables of the slices, for their mean, its rest and the variance: those given, or zeros.

        The variance is float64, as it was summed, where it is read again: so squares that leave float32 do no harm.
        """
        a, _, c, _ = self.lowering.shape
        tables = [np.zeros((a, 1, c, 1), dtype) for dtype in (self.computing, self.computing, variance)]
        for table, value in zip(tables, () if s is None else s[1:], strict=False):
            if value is not None:
                table[...] = self.lowering.lay(value)
        return tables

    def narrow(self, s: Statistics) -> Statistics:
        """Return statistics in the dtype to compute in, which a variance may leave."""
        if s.var.dtype == self.computing:
            return s
        with np.errstate(over="ignore"):
            return s._replace(var=s.var.astype(self.computing))

    def held(self, s: Statistics) -> bool:
        """Whether the dtype to compute in holds the variances of all slices, or they were given."""
        return self.kind == kernels.GIVEN or bool(np.all((s.var > LEAST) & (s.var < np.inf)))

    def down(self, threads: int) -> Columns | None:
        """Return how to walk down columns, where rows are too short, or slices too few to keep the threads busy."""
        few = threads > 1 and self.lowering.shape[0] * self.lowering.shape[2] < 2 * threads
        narrow = self.lowering.narrow and self.x.size >= TINY
        return self.lowering.columns if narrow or few else None

    # ------------------------------------------------------------------------------ forward

    def standardize(self, *, alone: bool = False) -> tuple[Array, Statistics]:
        """Return the normalised array, empty where statistics are wanted alone, and the statistics."""
        low, given = self.lowering, self.call.given
        y = np.empty((0,) * 4 if alone else low.shape, self.x.dtype)
        with cores(self.x.size, self.most) as threads:
            columns = self.down(threads)
            once = columns is None and given is None and not alone
            tables = self.tables(given, self.computing if once else "float64")
            if columns is None:
                self._rows(y, tables, threads)
            else:
                self._columns(columns, y, tables, threads)
        if given is not None:
            s = given
        elif self.kind == kernels.OWN:
            s = Statistics(int(self.n), *map(low.statistic, tables))
        else:
            s = Statistics(None, None, None, low.statistic(tables[2]))
        return y if alone else low.close(y, self.call.x.shape), s

    def _rows(self, y: Array, tables: list[Array], threads: int) -> None:
        launch(
            kernels.rows, self.pieces(threads), self.x, y, *tables, self.weight, self.bias,
            self.call.eps, self.kind,
        )  # fmt: skip

    def pieces(self, threads: int) -> int:
        """Return into how many pieces to divide the slices."""
        # Numba shares pieces out evenly: fewer than its threads when not all of them are allowed.
        slices = self.lowering.shape[0] * self.lowering.shape[2]
        return 1 if threads == 1 else min(slices, threads * (PIECES if threads == THREADS else 1))

    def _columns(self, columns: Columns, y: Array, tables: list[Array], threads: int) -> None:
        a, _, c, _ = self.lowering.shape
        x, width = read_only(self.x.reshape(columns.shape)), columns.width
        if self.kind != kernels.GIVEN:
            shift = np.zeros((a, 1, c, 1))
            if self.kind == kernels.OWN:
                kernels.first_elements(self.x, shift)
            again = self.kind == kernels.OWN and x.itemsize == 8  # see _kernels
            for _ in range(1 + again):
                s, q = np.zeros((2, threads, a, c))
                launch(kernels.columns_sums, threads, x, shift, s, q, c, columns.depth, width)
                s, q = s.sum(axis=0), q.sum(axis=0)
                kernels.columns_statistics(self.x, shift, s, q, self.n, self.kind, *tables)
                shift = shift + s[:, None, :, None] / self.n
        if y.size:
            launch(
                kernels.columns_apply, threads, x, y.reshape(x.shape), *tables, self.weight, self.bias,
                self.call.eps, c, columns.depth, width,
            )  # fmt: skip

    # ------------------------------------------------------------------------------ backward

    def pull(self, s: Statistics, dy: Array) -> tuple[Array, Array | None, Array | None] | None:
        """Return the gradients of x, weight and bias, given that of the result."""
        low = self.lowering
        along = self.weight.shape[3] > 1
        if along and {self.weight.shape, self.bias.shape} != {(1, 1, 1, low.shape[3])}:
            return None
        g = read_only(np.ascontiguousarray(self.call.layout.split(np, dy).transpose(low.order)).reshape(low.shape))
        dx = np.empty(low.shape, self.x.dtype)
        tables = self.tables(s if self.held(s) else self.standardize(alone=True)[1])
        with cores(self.x.size, self.most) as threads:
            columns = self.down(threads)
            if columns is None:
                dweight, dbias = self._pull_rows(g, dx, tables, threads)
            else:
                dweight, dbias = self._pull_columns(columns, g, dx, tables, threads)
        return (
            low.close(dx, self.call.x.shape),
            self.gradient(self.call.weight, dweight),
            self.gradient(self.call.bias, dbias),
        )

    def gradient(self, parameter: Array | None, table: Array) -> Array | None:
        """Return the gradient of weight or bias, from that of what it is as four axes."""
        if parameter is None:
            return None
        shape = self.call.layout.split(np, self.call.broadcastable(parameter)).shape
        axes = tuple(i for i, size in enumerate(shape) if size == 1)
        total = self.lowering.restore(table).sum(axis=axes, keepdims=True)
        return self.call.gradient(parameter, total.astype(self.computing))

    def _pull_rows(self, dy: Array, dx: Array, tables: list[Array], threads: int) -> tuple[Array, Array]:
        a, b, c, d = self.lowering.shape
        along = self.weight.shape[3] > 1
        pieces = min(threads, a * c) if along else self.pieces(threads)
        shape = (pieces, 1, d) if along else (1, a * b * c, 1)
        dweight, dbias = (
            np.zeros(shape if parameter is not None else (*shape[:2], 0) if along else (1, 0, 1))
            for parameter in (self.call.weight, self.call.bias)
        )
        launch(
            kernels.rows_pullback, pieces, self.x, dy, dx, *tables, self.weight, dweight, dbias,
            self.call.eps, self.kind,
        )  # fmt: skip
        whole = (1, 1, 1, -1) if along else (a, b, c, -1)
        dweight, dbias = (g.sum(axis=0).reshape(whole) if g.size else g for g in (dweight, dbias))
        return dweight, dbias

    def _pull_columns(
        self, columns: Columns, dy: Array, dx: Array, tables: list[Array], threads: int
    ) -> tuple[Array, Array]:
        a, _, c, _ = self.lowering.shape
        x, width = read_only(self.x.reshape(columns.shape)), columns.width
        dweight, dbias = np.zeros((2, threads, a, c * columns.depth))
        arguments = self.call.eps, c, columns.depth, width
        launch(
            kernels.columns_products, threads, x, read_only(dy.reshape(x.shape)), *tables, dweight, dbias, *arguments
        )
        dweight, dbias = (g.sum(axis=0).reshape(a, 1, c, columns.depth) for g in (dweight, dbias))
        lost = [np.zeros_like(tables[0]), np.zeros_like(tables[0])]
        for i, g in enumerate((dbias, dweight)):
            if self.kind == kernels.OWN or (self.kind == kernels.AT_ZERO and i == 1):
                lost[i] = ((self.weight * g).sum(axis=3, keepdims=True) / self.n).astype(self.computing)
        launch(
            kernels.columns_pullback, threads, x, read_only(dy.reshape(x.shape)), dx.reshape(x.shape), *tables,
            self.weight, *lost, *arguments,
        )  # fmt: skip
        return dweight, dbias
