"""The inner loops, compiled by Numba: sums over slices, and what they are applied to.

An array comes as (A, B, C, D), its slices (a, c) reduced over B and D; what broadcasts to it comes with the same rank.
Sums are float64, of deviations from an element of the slice: so their cancellation is at most as large as the slice
is, which float64 affords a float32 array, and a constant slice deviates by exactly 0. A float64 array is summed once
more, from its mean. Half precision is widened block by block: float16 comes as uint16, bfloat16 as int16.

Every kernel does piece `p` of `pieces` of the work, so that pieces may run side by side. `rows` walk a slice along D,
`columns` many slices at once down B, for D too short to walk along.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from llvmlite import binding as llvm
from llvmlite import ir
from numba import config, njit, prange, types
from numba.extending import intrinsic, overload

Kernel = Callable[..., Any]

if config.DISABLE_JIT:
    message = f"Numba compiles nothing, since NUMBA_DISABLE_JIT is {config.DISABLE_JIT}"
    raise ImportError(message)

PATIENCE = 60.0  # seconds to wait for another process that compiles: a kernel takes less than ten
BLOCK = 1024  # elements that stay in the innermost cache, with what is made of them

OWN, AT_ZERO, GIVEN = 0, 1, 2  # what a slice is standardised by: its mean and variance, its mean square, or neither


def inner(function: Kernel) -> Any:
    """Compile a part of kernels, with each of them."""
    return njit(nogil=True, error_model="numpy")(function)


def kernel(function: Kernel, **options: Any) -> Any:
    """Compile a kernel when it is first called, or take it from the cache on disk, if there is a place for one."""
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        compiled = njit(cache=True, **options)(function)
    except (OSError, RuntimeError):  # neither the package's folder nor the user's can be written to
        return njit(**options)(function)
    compile_ = compiled.compile

    def compile_alone(signature: Any) -> Any:
        # Processes that save different signatures at once would give one file's name to both.
        with suppress(Exception), _lock(compiled.stats.cache_path):
            return compile_(signature)
        # A full disk, a damaged file, somebody else's lock: a norm can do without the cache.
        compiled._cache.disable()  # noqa: SLF001  Numba has no public way to
        return compile_(signature)

    compiled.compile = compile_alone
    return compiled


def in_parallel(function: Kernel) -> Any:
    """Compile a kernel whose loop over pieces runs on several cores."""
    return kernel(function, parallel=True)


@cache
def _lock(folder: str) -> FileLock:
    return FileLock(Path(folder) / "anynorm.lock", timeout=PATIENCE)


# ---------------------------------------------------------------------------------- half precision


@intrinsic
def _as_float(_, bits):
    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _as_bits(_, value):
    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), generate


# LLVM calls a function for what the processor does not do, and Numba has none.
KNOWS_FLOAT16 = platform.machine() not in ("x86_64", "AMD64") or (
    bool(llvm.get_host_cpu_features().get("f16c")) and config.CPU_NAME is None and config.CPU_FEATURES is None
)

U = np.uint32


@intrinsic
def _widen_float16(_, bits):
    def generate(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _narrow_float16(_, value):
    def generate(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@inner
def _widen_bfloat16(half):
    return _as_float(U(U(np.uint16(half)) << U(16)))


@inner
def _narrow_bfloat16(value):
    bits = _as_bits(value)
    rounded = U(U(bits + U(0x7FFF) + U(U(bits >> U(16)) & U(1))) >> U(16))
    if math.isnan(value):  # rounding would carry some NaN to infinity
        rounded = U(U(bits >> U(16)) | U(0x40))
    return np.int16(np.uint16(rounded))


def load(block, scratch):
    """Return the floats of a block: itself, or in scratch."""


def room(block, scratch):
    """Return where the floats of a block are to be written: itself, or scratch."""


def store(values, block):
    """Bring what was written to room(block, scratch) to the block."""


@overload(load)
def _load(block, scratch):
    if block.dtype == types.uint16:

        def widen(block, scratch):
            for i in range(block.size):
                scratch[i] = _widen_float16(block[i])
            return scratch[: block.size]

        return widen
    if block.dtype == types.int16:

        def widen(block, scratch):
            for i in range(block.size):
                scratch[i] = _widen_bfloat16(block[i])
            return scratch[: block.size]

        return widen
    return lambda block, scratch: block


@overload(room)
def _room(block, scratch):
    if isinstance(block.dtype, types.Float):
        return lambda block, scratch: block
    return lambda block, scratch: scratch[: block.size]


@overload(store)
def _store(values, block):
    if block.dtype == types.uint16:

        def narrow(values, block):
            for i in range(block.size):
                block[i] = _narrow_float16(values[i])

        return narrow
    if block.dtype == types.int16:

        def narrow(values, block):
            for i in range(block.size):
                block[i] = _narrow_bfloat16(values[i])

        return narrow
    return lambda values, block: None


# ---------------------------------------------------------------------------------- sums


@njit(nogil=True, fastmath={"reassoc", "contract"})
def _gather(s, q, first, second, third):
    """The only arithmetic whose order is free: everything else is done as it is written."""
    return s + first, q + second * third


@inner
def _add(total, error, term):
    """Add a term to a sum and its error."""
    new = total + term
    back = new - total
    left = (total - (new - back)) + (term - back)
    return new, error + (left if math.isfinite(new) else 0.0)  # of an infinity nothing is left


@inner
def _deviations(x, shift):
    s, q = 0.0, 0.0
    for i in range(x.size):
        d = x[i] - shift
        s, q = _gather(s, q, d, d, d)
    return s, q


@inner
def _part(size, pieces, p):
    return size * p // pieces, size * (p + 1) // pieces


@inner
def _at(table, a, b, c):
    """The elements of a table that belong to a row: all along D, or one."""
    return table[min(a, table.shape[0] - 1), min(b, table.shape[1] - 1), min(c, table.shape[2] - 1)]


LEAST = 2.0**-1006  # the least mean square that is known: squares below 2**-1022 lose digits


@inner
def _rstd(var, eps, dtype):
    """Return 1 / sqrt(var + eps), 0 for a constant slice, and NaN where the dtype does not hold it."""
    total = var + eps
    if total <= 0.0:
        return dtype(0.0)
    rstd = dtype(1.0 / math.sqrt(total))
    return dtype(math.nan) if (total < LEAST and var > 0.0) or math.isinf(rstd) else rstd


@inner
def _extremes(x, a, c, shift, scratch):
    """Return the largest deviation of a slice, and whether all are finite."""
    largest, finite = 0.0, True
    for b in range(x.shape[1]):
        row = x[a, b, c]
        for i in range(0, row.size, BLOCK):
            block = load(row[i : i + BLOCK], scratch)
            for j in range(block.size):
                largest, finite = max(largest, abs(block[j] - shift)), finite and math.isfinite(block[j])
    return largest, finite


@inner
def _variance(x, a, c, shift, left, square, scratch):
    """Return the variance of a slice. Where its squares leave float64, no number is it.

    Then it is NaN, or so small that it tells a slice that is not constant from one that is.
    """
    var = square - left * left
    if math.isinf(square) or (square == 0.0 and x.itemsize == 8):
        largest, finite = _extremes(x, a, c, shift, scratch)
        if math.isinf(square) and finite:
            return math.nan
        if square == 0.0 and largest > 0.0:
            return 5e-324
    return 0.0 if var < 0.0 else var  # noqa: FURB136  NaN stays


@inner
def _statistics(x, a, c, shift, s, q, n, kind, dtype, scratch):
    """Return the mean of a slice of n elements, as a sum of two floats, and its variance in float64."""
    left = s / n if kind == OWN else 0.0
    first = dtype(shift + left)
    return first, dtype((shift - first) + left), _variance(x, a, c, shift, left, q / n, scratch)


# ---------------------------------------------------------------------------------- along rows


@inner
def _slice_sums(x, a, c, shift, scratch):
    s, q, s_error, q_error = 0.0, 0.0, 0.0, 0.0
    for b in range(x.shape[1]):
        row = x[a, b, c]
        for i in range(0, row.size, BLOCK):
            part, squares = _deviations(load(row[i : i + BLOCK], scratch), shift)
            s, s_error = _add(s, s_error, part)
            q, q_error = _add(q, q_error, squares)
    return s + s_error, q + q_error


@inner
def _first(x, a, b, c, d, scratch):
    return np.float64(load(x[a, b, c, d : d + 1], scratch)[0])


@inner
def _standardize_row(row, out, mean, rest, rstd, weight, bias, scratch, scratch_out):
    for i in range(0, row.size, BLOCK):
        x, y = load(row[i : i + BLOCK], scratch), room(out[i : i + BLOCK], scratch_out)
        if weight.size == 1:
            w, b = weight[0], bias[0]
            for j in range(x.size):
                y[j] = ((x[j] - mean) - rest) * rstd * w + b
        else:
            w_block, b_block = weight[i : i + BLOCK], bias[i : i + BLOCK]
            for j in range(x.size):
                y[j] = ((x[j] - mean) - rest) * rstd * w_block[j] + b_block[j]
        store(y, out[i : i + BLOCK])


@kernel
def rows(x, y, mean, rest, var, weight, bias, eps, kind, pieces, p):
    """Standardise slices, each while it is in the cache. An empty y asks for the statistics alone."""
    dtype = mean.dtype.type
    scratch, scratch_out = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    n = float(x.shape[1] * x.shape[3])
    low, high = _part(x.shape[0] * x.shape[2], pieces, p)
    for u in range(low, high):
        a, c = u // x.shape[2], u % x.shape[2]
        if kind != GIVEN:
            shift = _first(x, a, 0, c, 0, scratch) if kind == OWN else 0.0
            s, q = _slice_sums(x, a, c, shift, scratch)
            if x.itemsize == 8 and kind == OWN:
                shift += s / n
                s, q = _slice_sums(x, a, c, shift, scratch)
            m, r, square = _statistics(x, a, c, shift, s, q, n, kind, dtype, scratch)
            mean[a, 0, c, 0], rest[a, 0, c, 0], var[a, 0, c, 0] = m, r, square
        else:
            m, r, square = mean[a, 0, c, 0], rest[a, 0, c, 0], np.float64(var[a, 0, c, 0])
        if y.size:
            rstd = _rstd(square, eps, dtype)
            for b in range(x.shape[1]):
                w_row, b_row = _at(weight, a, b, c), _at(bias, a, b, c)
                _standardize_row(x[a, b, c], y[a, b, c], m, r, rstd, w_row, b_row, scratch, scratch_out)


@inner
def _row_products(dy, x, mean, rest, weight):
    s, q = 0.0, 0.0
    if weight.size == 1:
        for i in range(x.size):
            d = np.float64((x[i] - mean) - rest)
            s, q = _gather(s, q, dy[i], dy[i], d)
    else:
        for i in range(x.size):
            d, g = np.float64((x[i] - mean) - rest), np.float64(dy[i]) * weight[i]
            s, q = _gather(s, q, g, g, d)
    return s, q


@inner
def _parameter_gradients(dy, x, mean, rest, rstd, dweight, dbias):
    """Add what a row gives to gradients that run along it; that of bias alone may be asked for, too."""
    if dweight.size:
        for i in range(x.size):
            dweight[i] += np.float64(dy[i]) * np.float64(((x[i] - mean) - rest) * rstd)
    if dbias.size:
        for i in range(x.size):
            dbias[i] += dy[i]


@inner
def _pull_row(row, dy_row, out, mean, rest, rstd, weight, shift, scale, scratches):
    for i in range(0, row.size, BLOCK):
        x, dy = load(row[i : i + BLOCK], scratches[0]), load(dy_row[i : i + BLOCK], scratches[1])
        dx = room(out[i : i + BLOCK], scratches[2])
        if weight.size == 1:
            w = weight[0]
            for j in range(x.size):
                dx[j] = ((dy[j] * w - shift) - ((x[j] - mean) - rest) * rstd * scale) * rstd
        else:
            w_block = weight[i : i + BLOCK]
            for j in range(x.size):
                dx[j] = ((dy[j] * w_block[j] - shift) - ((x[j] - mean) - rest) * rstd * scale) * rstd
        store(dx, out[i : i + BLOCK])


@kernel
def rows_pullback(x, dy, dx, mean, rest, var, weight, dweight, dbias, eps, kind, pieces, p):
    """Pull the gradient of slices back. dweight and dbias are of one element a row, along D, or empty."""
    dtype = mean.dtype.type
    scratches = np.empty((3, BLOCK), np.float32)
    n = float(x.shape[1] * x.shape[3])
    along = weight.shape[3] > 1
    low, high = _part(x.shape[0] * x.shape[2], pieces, p)
    for u in range(low, high):
        a, c = u // x.shape[2], u % x.shape[2]
        m, r, rstd = mean[a, 0, c, 0], rest[a, 0, c, 0], _rstd(var[a, 0, c, 0], eps, dtype)
        shift, scale = 0.0, 0.0
        for b in range(x.shape[1]):
            row, dy_row, w_row = x[a, b, c], dy[a, b, c], _at(weight, a, b, c)
            s, q, s_error, q_error = 0.0, 0.0, 0.0, 0.0
            for i in range(0, row.size, BLOCK):
                block, g = load(row[i : i + BLOCK], scratches[0]), load(dy_row[i : i + BLOCK], scratches[1])
                part, product = _row_products(g, block, m, r, w_row[i : i + BLOCK] if along else w_row)
                s, s_error = _add(s, s_error, part)
                q, q_error = _add(q, q_error, product)
                if along:
                    own = slice(i, i + BLOCK)
                    _parameter_gradients(g, block, m, r, rstd, dweight[p, 0, own], dbias[p, 0, own])
            s, q = s + s_error, (q + q_error) * rstd
            if along:
                shift, scale = shift + s, scale + q
            else:
                shift, scale = shift + w_row[0] * s, scale + w_row[0] * q
                at = (a * x.shape[1] + b) * x.shape[2] + c
                if dweight.size:
                    dweight[0, at, 0] = q
                if dbias.size:
                    dbias[0, at, 0] = s
        shift = shift / n if kind == OWN else 0.0
        scale = scale / n if kind != GIVEN else 0.0
        for b in range(x.shape[1]):
            row, dy_row, w_row = x[a, b, c], dy[a, b, c], _at(weight, a, b, c)
            _pull_row(row, dy_row, dx[a, b, c], m, r, rstd, w_row, dtype(shift), dtype(scale), scratches)


# ---------------------------------------------------------------------------------- down columns
#
# The array comes as (A, B, L). Its L columns are C slices of D neighbours each, several times over where rows are
# short, so column j belongs to slice (j // D) % C.


@inner
def _piece(x, pieces, p):
    """Return the piece's part of A and of B: pieces share out the one that is long enough."""
    if x.shape[0] >= pieces:
        low, high = _part(x.shape[0], pieces, p)
        return low, high, 0, x.shape[1]
    low, high = _part(x.shape[1], pieces, p)
    return 0, x.shape[0], low, high


@inner
def _spread(table, a, low, columns, depth, out):
    """Lay a table of shape (A or 1, 1, C or 1, D or 1) along the columns from low on."""
    values = table[min(a, table.shape[0] - 1), 0]
    for j in range(out.size):
        c, d = (low + j) // depth % columns, (low + j) % depth
        out[j] = values[min(c, values.shape[0] - 1), min(d, values.shape[1] - 1)]


FLUSH = 128  # rows whose sums are added up before they are added to the rest


@inner
def _sum_columns(x, base, s, q):
    for j in range(x.size):
        d = x[j] - base[j]
        s[j] += d
        q[j] += d * d


@kernel
def columns_sums(x, shift, s, q, columns, depth, width, pieces, p):
    """Add the deviations from shift, of shape (A, 1, C, 1), and their squares to s and q, of shape (pieces, A, C)."""
    scratch, base = np.empty(width, np.float32), np.empty(width)
    part, total = np.empty((2, width)), np.empty((2, width))
    a0, a1, b0, b1 = _piece(x, pieces, p)
    for a in range(a0, a1):
        for low in range(0, x.shape[2], width):
            own = slice(low, min(low + width, x.shape[2]))
            _spread(shift, a, low, columns, depth, base)
            total[:] = 0.0
            for start in range(b0, b1, FLUSH):
                part[:] = 0.0
                for b in range(start, min(start + FLUSH, b1)):
                    _sum_columns(load(x[a, b, own], scratch), base, part[0], part[1])
                total += part
            j = 0
            while j < own.stop - low:  # neighbours first: a sum of few sums
                c, end = (low + j) // depth % columns, min(own.stop - low, j + depth - (low + j) % depth)
                s[p, a, c] += total[0, j:end].sum()
                q[p, a, c] += total[1, j:end].sum()
                j = end


@kernel
def first_elements(x, out):
    """Write the first element of every slice to a table, (A, 1, C, 1)."""
    scratch = np.empty(1, np.float32)
    for a in range(x.shape[0]):
        for c in range(x.shape[2]):
            out[a, 0, c, 0] = _first(x, a, 0, c, 0, scratch)


@kernel
def columns_statistics(x, shift, s, q, n, kind, mean, rest, var):
    """Turn sums over slices, each of shape (A, C), into the tables of their statistics."""
    scratch = np.empty(BLOCK, np.float32)
    for a in range(s.shape[0]):
        for c in range(s.shape[1]):
            mean[a, 0, c, 0], rest[a, 0, c, 0], var[a, 0, c, 0] = _statistics(
                x, a, c, shift[a, 0, c, 0], s[a, c], q[a, c], n, kind, mean.dtype.type, scratch
            )


@inner
def _standardize_columns(x, y, mean, rest, rstd, weight, bias):
    for j in range(x.size):
        y[j] = ((x[j] - mean[j]) - rest[j]) * rstd[j] * weight[j] + bias[j]


@kernel
def columns_apply(x, y, mean, rest, var, weight, bias, eps, columns, depth, width, pieces, p):
    """Standardise by statistics that are known."""
    dtype = mean.dtype.type
    scratch, scratch_out = np.empty(width, np.float32), np.empty(width, np.float32)
    m, r, rstd, v = np.empty(width, dtype), np.empty(width, dtype), np.empty(width, dtype), np.empty(width)
    w, shift = np.empty(width, dtype), np.empty(width, dtype)
    a0, a1, b0, b1 = _piece(x, pieces, p)
    for a in range(a0, a1):
        for low in range(0, x.shape[2], width):
            own = slice(low, min(low + width, x.shape[2]))
            _spread(mean, a, low, columns, depth, m)
            _spread(rest, a, low, columns, depth, r)
            _spread(var, a, low, columns, depth, v)
            _spread(weight, a, low, columns, depth, w)
            _spread(bias, a, low, columns, depth, shift)
            for j in range(width):
                rstd[j] = _rstd(v[j], eps, dtype)
            for b in range(b0, b1):
                out = room(y[a, b, own], scratch_out)
                _standardize_columns(load(x[a, b, own], scratch), out, m, r, rstd, w, shift)
                store(out, y[a, b, own])


@inner
def _product_columns(dy, x, mean, rest, s, q):
    for j in range(x.size):
        g = np.float64(dy[j])
        s[j] += g
        q[j] += g * np.float64((x[j] - mean[j]) - rest[j])


@kernel
def columns_products(x, dy, mean, rest, var, dweight, dbias, eps, columns, depth, width, pieces, p):
    """Add dy * y and dy to dweight and dbias, of shape (pieces, A, C * D)."""
    dtype = mean.dtype.type
    scratch, scratch_dy = np.empty(width, np.float32), np.empty(width, np.float32)
    m, r, v = np.empty(width, dtype), np.empty(width, dtype), np.empty(width)
    part, total = np.empty((2, width)), np.empty((2, width))
    a0, a1, b0, b1 = _piece(x, pieces, p)
    for a in range(a0, a1):
        for low in range(0, x.shape[2], width):
            own = slice(low, min(low + width, x.shape[2]))
            _spread(mean, a, low, columns, depth, m)
            _spread(rest, a, low, columns, depth, r)
            _spread(var, a, low, columns, depth, v)
            total[:] = 0.0
            for start in range(b0, b1, FLUSH):
                part[:] = 0.0
                for b in range(start, min(start + FLUSH, b1)):
                    block, g = load(x[a, b, own], scratch), load(dy[a, b, own], scratch_dy)
                    _product_columns(g, block, m, r, part[0], part[1])
                total += part
            for j in range(own.stop - low):
                k = (low + j) % (columns * depth)
                dbias[p, a, k] += total[0, j]
                dweight[p, a, k] += total[1, j] * _rstd(v[j], eps, dtype)


@inner
def _pull_columns(x, dy, dx, mean, rest, rstd, weight, shift, scale):
    for j in range(x.size):
        dx[j] = ((dy[j] * weight[j] - shift[j]) - ((x[j] - mean[j]) - rest[j]) * scale[j]) * rstd[j]


@kernel
def columns_pullback(x, dy, dx, mean, rest, var, weight, shift, scale, eps, columns, depth, width, pieces, p):
    """Pull the gradient back, less shift and the part of scale along y, which are of shape (A, 1, C, 1)."""
    dtype = mean.dtype.type
    scratch, scratch_dy, scratch_dx = (
        np.empty(width, np.float32),
        np.empty(width, np.float32),
        np.empty(width, np.float32),
    )
    m, r, rstd, v = np.empty(width, dtype), np.empty(width, dtype), np.empty(width, dtype), np.empty(width)
    w, s, t = np.empty(width, dtype), np.empty(width, dtype), np.empty(width, dtype)
    a0, a1, b0, b1 = _piece(x, pieces, p)
    for a in range(a0, a1):
        for low in range(0, x.shape[2], width):
            own = slice(low, min(low + width, x.shape[2]))
            _spread(mean, a, low, columns, depth, m)
            _spread(rest, a, low, columns, depth, r)
            _spread(var, a, low, columns, depth, v)
            _spread(weight, a, low, columns, depth, w)
            _spread(shift, a, low, columns, depth, s)
            _spread(scale, a, low, columns, depth, t)
            for j in range(width):
                rstd[j] = _rstd(v[j], eps, dtype)
                t[j] *= rstd[j]
            for b in range(b0, b1):
                out = room(dx[a, b, own], scratch_dx)
                _pull_columns(load(x[a, b, own], scratch), load(dy[a, b, own], scratch_dy), out, m, r, rstd, w, s, t)
                store(out, dx[a, b, own])


# ---------------------------------------------------------------------------------- side by side


# A loop each, since Numba does not cache what encloses other functions.


@in_parallel
def _rows(pieces, *arguments):
    for p in prange(pieces):
        rows(*arguments, pieces, p)


@in_parallel
def _rows_pullback(pieces, *arguments):
    for p in prange(pieces):
        rows_pullback(*arguments, pieces, p)


@in_parallel
def _columns_sums(pieces, *arguments):
    for p in prange(pieces):
        columns_sums(*arguments, pieces, p)


@in_parallel
def _columns_apply(pieces, *arguments):
    for p in prange(pieces):
        columns_apply(*arguments, pieces, p)


@in_parallel
def _columns_products(pieces, *arguments):
    for p in prange(pieces):
        columns_products(*arguments, pieces, p)


@in_parallel
def _columns_pullback(pieces, *arguments):
    for p in prange(pieces):
        columns_pullback(*arguments, pieces, p)


TOGETHER = {
    rows: _rows,
    rows_pullback: _rows_pullback,
    columns_sums: _columns_sums,
    columns_apply: _columns_apply,
    columns_products: _columns_products,
    columns_pullback: _columns_pullback,
}
