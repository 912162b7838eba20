"""The inner loops, compiled by Numba: sums over slices, and what they are applied to.

An array comes as (A, B, C, D), its slices (a, c) reduced over B and D; what broadcasts to it comes with the same rank.
Sums are float64, of deviations from an element of the slice: so their cancellation is at most as large as the slice
is, which float64 affords a float32 array, and a constant slice deviates by exactly 0. A float64 array is summed once
more, from its mean.

Every kernel does piece `p` of `pieces` of the work, so that pieces may run side by side. `rows` walk a slice along D,
`columns` many slices at once down B, for D too short to walk along.

All kernels have the same parameters, of which each uses some: pointers to x, to the gradient dy of the result and to
what is to be written; to the weight, the bias and the tables of the slices' statistics; to sums; and to a geometry of
whole numbers, whose places are named below. So one caller, compiled once, serves them all (see compiled.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit

from .half import load, room, store

Kernel = Callable[..., Any]

BLOCK = 1024  # elements that stay in the innermost cache, with what is made of them

OWN, AT_ZERO, GIVEN = 0, 1, 2  # what a slice is standardised by: its mean and variance, its mean square, or neither
SHAPE, WEIGHT, BIAS, MEAN, REST, VAR = 0, 4, 8, 12, 16, 20  # where the geometry has four sizes each
COLUMNS = 24  # and three
DEPTH, WIDTH, SOURCE, WANTED, CHANNELS = 27, 28, 29, 30, 31
PLACES = 32
RESULT, STATISTICS, WEIGHTS, BIASES = 1, 2, 4, 8  # what may be wanted


def inner(function: Kernel) -> Any:
    """Compile a part of kernels, with each of them."""
    return njit(nogil=True, error_model="numpy")(function)


@inner
def _four(pointer, geometry, at):
    """Return the array of four axes whose sizes stand in the geometry."""
    return carray(pointer, (geometry[at], geometry[at + 1], geometry[at + 2], geometry[at + 3]))


@inner
def _table(pointer, geometry, at=SHAPE):
    """Return the table of the slices, (A, 1, C, 1)."""
    return carray(pointer, (geometry[at], 1, geometry[at + 2], 1))


@inner
def _tables(mean, rest, var, geometry):
    """Return what slices are standardised by, each for every slice or for those that it repeats over."""
    return _table(mean, geometry, MEAN), _table(rest, geometry, REST), _table(var, geometry, VAR)


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
    return table[a % table.shape[0], b % table.shape[1], c % table.shape[2]]


@inner
def _of(table, a, c):
    """The entry of a slice, in a table that may be of one for all."""
    return table[a % table.shape[0], 0, c % table.shape[2], 0]


LEAST = 2.0**-1006  # the least mean square that is known: squares below 2**-1022 lose digits


@inner
def _rstd(var, eps, dtype):
    """Return 1 / sqrt(var + eps), 0 for a constant slice, NaN for no variance or where the dtype does not hold it."""
    if var < 0.0:
        return dtype(math.nan)
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
def _statistics(x, a, c, shift, s, q, n, source, dtype, scratch):
    """Return the mean of a slice of n elements, as a sum of two floats, and its variance in float64."""
    left = s / n if source == OWN else 0.0
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
def _standardize_row(row, out, mean, rest, rstd, weight, bias, scratches):
    alike = weight.size == bias.size
    for i in range(0, row.size, BLOCK):
        x, y = load(row[i : i + BLOCK], scratches[0]), room(out[i : i + BLOCK], scratches[1])
        if alike and weight.size == 1:
            w, b = weight[0], bias[0]
            for j in range(x.size):
                y[j] = ((x[j] - mean) - rest) * rstd * w + b
        elif alike:
            w_block, b_block = weight[i : i + BLOCK], bias[i : i + BLOCK]
            for j in range(x.size):
                y[j] = ((x[j] - mean) - rest) * rstd * w_block[j] + b_block[j]
        elif weight.size == 1:
            w, b_block = weight[0], bias[i : i + BLOCK]
            for j in range(x.size):
                y[j] = ((x[j] - mean) - rest) * rstd * w + b_block[j]
        else:
            w_block, b = weight[i : i + BLOCK], bias[0]
            for j in range(x.size):
                y[j] = ((x[j] - mean) - rest) * rstd * w_block[j] + b
        store(y, out[i : i + BLOCK])


def rows(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Standardise slices, each while it is in the cache."""
    geometry = carray(geometry, PLACES)
    x, y, weight = _four(x, geometry, SHAPE), _four(out, geometry, SHAPE), _four(weight, geometry, WEIGHT)
    bias = _four(bias, geometry, BIAS)
    mean, rest, var = _tables(mean, rest, var, geometry)
    source, wanted = geometry[SOURCE], geometry[WANTED]
    dtype = mean.dtype.type
    scratches = np.empty((2, BLOCK), np.float32)
    n = float(x.shape[1] * x.shape[3])
    low, high = _part(x.shape[0] * x.shape[2], pieces, p)
    for u in range(low, high):
        a, c = u // x.shape[2], u % x.shape[2]
        if source != GIVEN:
            shift = _first(x, a, 0, c, 0, scratches[0]) if source == OWN else 0.0
            s, q = _slice_sums(x, a, c, shift, scratches[0])
            if x.itemsize == 8 and source == OWN:
                shift += s / n
                s, q = _slice_sums(x, a, c, shift, scratches[0])
            m, r, square = _statistics(x, a, c, shift, s, q, n, source, dtype, scratches[0])
            if wanted & STATISTICS:
                var[a, 0, c, 0] = square
                if source == OWN:
                    mean[a, 0, c, 0], rest[a, 0, c, 0] = m, r
        else:
            m, r, square = _of(mean, a, c), _of(rest, a, c), _of(var, a, c)
        if wanted & RESULT:
            rstd = _rstd(square, eps, dtype)
            for b in range(x.shape[1]):
                w_row, b_row = _at(weight, a, b, c), _at(bias, a, b, c)
                _standardize_row(x[a, b, c], y[a, b, c], m, r, rstd, w_row, b_row, scratches)


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
def _row_sums(row, dy_row, mean, rest, rstd, weight, wanted, dweight, dbias, scratches):
    """Return the sums of dy and of dy times the deviations from the mean, weighted where the weight runs along.

    What the row gives to the gradients of weight and bias is added where they run along it and are wanted.
    """
    s, q, s_error, q_error = 0.0, 0.0, 0.0, 0.0
    for i in range(0, row.size, BLOCK):
        x, dy = load(row[i : i + BLOCK], scratches[0]), load(dy_row[i : i + BLOCK], scratches[1])
        part, product = _row_products(dy, x, mean, rest, weight if weight.size == 1 else weight[i : i + BLOCK])
        s, s_error = _add(s, s_error, part)
        q, q_error = _add(q, q_error, product)
        if wanted & WEIGHTS:
            to = dweight[i : i + BLOCK]
            for j in range(x.size):
                to[j] += np.float64(dy[j]) * np.float64(((x[j] - mean) - rest) * rstd)
        if wanted & BIASES:
            to = dbias[i : i + BLOCK]
            for j in range(x.size):
                to[j] += dy[j]
    return s + s_error, q + q_error


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


def rows_pullback(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Pull the gradient of slices back, and sum that of weight and bias: along D for each piece, or for each row."""
    geometry = carray(geometry, PLACES)
    x, dy, dx = _four(x, geometry, SHAPE), _four(dy, geometry, SHAPE), _four(out, geometry, SHAPE)
    weight = _four(weight, geometry, WEIGHT)
    mean, rest, var = _tables(mean, rest, var, geometry)
    source, wanted = geometry[SOURCE], geometry[WANTED]
    along = geometry[WEIGHT + 3] > 1 or geometry[BIAS + 3] > 1
    rows = (pieces, 1, x.shape[3]) if along else (1, x.shape[0] * x.shape[1] * x.shape[2], 1)
    dweight, dbias = carray(one, rows), carray(two, rows)
    dtype = mean.dtype.type
    scratches = np.empty((3, BLOCK), np.float32)
    n = float(x.shape[1] * x.shape[3])
    low, high = _part(x.shape[0] * x.shape[2], pieces, p)
    for u in range(low, high):
        a, c = u // x.shape[2], u % x.shape[2]
        m, r, rstd = _of(mean, a, c), _of(rest, a, c), _rstd(_of(var, a, c), eps, dtype)
        shift, scale = 0.0, 0.0
        for b in range(x.shape[1]):
            row, dy_row, w_row = x[a, b, c], dy[a, b, c], _at(weight, a, b, c)
            sums = dweight[p % dweight.shape[0], 0], dbias[p % dbias.shape[0], 0]
            s, q = _row_sums(row, dy_row, m, r, rstd, w_row, wanted if along else 0, sums[0], sums[1], scratches)
            q *= rstd
            w = 1.0 if w_row.size > 1 else np.float64(w_row[0])  # that of a longer one is in the sums already
            shift, scale = shift + w * s, scale + w * q
            if not along:
                at = (a * x.shape[1] + b) * x.shape[2] + c
                if wanted & WEIGHTS:
                    dweight[0, at, 0] = q
                if wanted & BIASES:
                    dbias[0, at, 0] = s
        shift = shift / n if source == OWN else 0.0
        scale = scale / n if source != GIVEN else 0.0
        for b in range(x.shape[1]):
            row, dy_row, w_row = x[a, b, c], dy[a, b, c], _at(weight, a, b, c)
            _pull_row(row, dy_row, dx[a, b, c], m, r, rstd, w_row, dtype(shift), dtype(scale), scratches)


# ---------------------------------------------------------------------------------- down columns
#
# The array comes as (A, B, L). Its L columns are C slices of D neighbours each, several times over where rows are
# short, so column j belongs to slice (j // D) % C.


@inner
def _columns(pointer, geometry):
    """Return an array as (A, B, L)."""
    return carray(pointer, (geometry[COLUMNS], geometry[COLUMNS + 1], geometry[COLUMNS + 2]))


@inner
def _sums(pointer, geometry, pieces, depth):
    """Return sums down columns, one for each piece, A, C and D."""
    return carray(pointer, (pieces, geometry[SHAPE], geometry[SHAPE + 2], depth))


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
    values = table[a % table.shape[0], 0]
    for j in range(out.size):
        c, d = (low + j) // depth % columns, (low + j) % depth
        out[j] = values[c % values.shape[0], d % values.shape[1]]


FLUSH = 128  # rows whose sums are added up before they are added to the rest


@inner
def _sum_columns(x, base, s, q):
    for j in range(x.size):
        d = x[j] - base[j]
        s[j] += d
        q[j] += d * d


def columns_first(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Write the element that a slice's deviations are taken from, to var."""
    geometry = carray(geometry, PLACES)
    x, shift, scratch = _four(x, geometry, SHAPE), _table(var, geometry), np.empty(1, np.float32)
    for a in range(x.shape[0]):
        for c in range(x.shape[2]):
            shift[a, 0, c, 0] = _first(x, a, 0, c, 0, scratch) if geometry[SOURCE] == OWN else 0.0


def columns_sums(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Add the deviations from what stands in var, and their squares, to one and two."""
    geometry = carray(geometry, PLACES)
    x, shift = _columns(x, geometry), _table(var, geometry)
    s, q = _sums(one, geometry, pieces, 1), _sums(two, geometry, pieces, 1)
    columns, depth, width = shift.shape[2], geometry[DEPTH], geometry[WIDTH]
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
                s[p, a, c, 0] += total[0, j:end].sum()
                q[p, a, c, 0] += total[1, j:end].sum()
                j = end


def columns_again(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Move what stands in var to the mean that the pieces' sums give, and clear them: see float64."""
    geometry = carray(geometry, PLACES)
    shift, s, q = _table(var, geometry), _sums(one, geometry, pieces, 1), _sums(two, geometry, pieces, 1)
    n = float(geometry[SHAPE + 1] * geometry[SHAPE + 3])
    for a in range(shift.shape[0]):
        for c in range(shift.shape[2]):
            shift[a, 0, c, 0] += s[:, a, c, 0].sum() / n
    s[:], q[:] = 0.0, 0.0


def columns_statistics(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Turn the pieces' sums into the statistics of the slices."""
    geometry = carray(geometry, PLACES)
    x, shift, mean = _four(x, geometry, SHAPE), _table(var, geometry), _table(mean, geometry)
    rest = _table(rest, geometry)
    s, q = _sums(one, geometry, pieces, 1), _sums(two, geometry, pieces, 1)
    n, scratch = float(x.shape[1] * x.shape[3]), np.empty(BLOCK, np.float32)
    for a in range(shift.shape[0]):
        for c in range(shift.shape[2]):
            m, r, shift[a, 0, c, 0] = _statistics(
                x, a, c, shift[a, 0, c, 0], s[:, a, c, 0].sum(), q[:, a, c, 0].sum(), n, geometry[SOURCE],
                mean.dtype.type, scratch,
            )  # fmt: skip
            if geometry[SOURCE] == OWN:
                mean[a, 0, c, 0], rest[a, 0, c, 0] = m, r


@inner
def _standardize_columns(x, y, mean, rest, rstd, weight, bias):
    for j in range(x.size):
        y[j] = ((x[j] - mean[j]) - rest[j]) * rstd[j] * weight[j] + bias[j]


def columns_apply(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Standardise by statistics that are known."""
    geometry = carray(geometry, PLACES)
    x, y, weight = _columns(x, geometry), _columns(out, geometry), _four(weight, geometry, WEIGHT)
    bias = _four(bias, geometry, BIAS)
    mean, rest, var = _tables(mean, rest, var, geometry)
    columns, depth, width = geometry[SHAPE + 2], geometry[DEPTH], geometry[WIDTH]
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
                out_row = room(y[a, b, own], scratch_out)
                _standardize_columns(load(x[a, b, own], scratch), out_row, m, r, rstd, w, shift)
                store(out_row, y[a, b, own])


@inner
def _product_columns(dy, x, mean, rest, s, q):
    for j in range(x.size):
        g = np.float64(dy[j])
        s[j] += g
        q[j] += g * np.float64((x[j] - mean[j]) - rest[j])


def columns_products(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Add dy * y and dy to one and two, which have a sum for each of a slice's neighbouring columns."""
    geometry = carray(geometry, PLACES)
    x, dy = _columns(x, geometry), _columns(dy, geometry)
    mean, rest, var = _tables(mean, rest, var, geometry)
    columns, depth, width = geometry[SHAPE + 2], geometry[DEPTH], geometry[WIDTH]
    dweight, dbias = _sums(one, geometry, pieces, depth), _sums(two, geometry, pieces, depth)
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
                c, d = (low + j) // depth % columns, (low + j) % depth
                dbias[p, a, c, d] += total[0, j]
                dweight[p, a, c, d] += total[1, j] * _rstd(v[j], eps, dtype)


def columns_lost(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Add up the pieces' sums in the first, and write what the gradient loses along 1 and along y behind the last."""
    geometry = carray(geometry, PLACES)
    depth, source, weight = geometry[DEPTH], geometry[SOURCE], _four(weight, geometry, WEIGHT)
    dweight, dbias = _sums(one, geometry, pieces + 1, depth), _sums(two, geometry, pieces + 1, depth)
    n = float(geometry[SHAPE + 1] * geometry[SHAPE + 3])
    for a in range(dweight.shape[1]):
        for c in range(dweight.shape[2]):
            w, shift, scale = _at(weight, a, 0, c), 0.0, 0.0
            for d in range(depth):
                for i in range(1, pieces):
                    dweight[0, a, c, d] += dweight[i, a, c, d]
                    dbias[0, a, c, d] += dbias[i, a, c, d]
                own = np.float64(w[d % w.size])
                shift, scale = shift + own * dbias[0, a, c, d], scale + own * dweight[0, a, c, d]
            dbias[pieces, a, c, 0] = shift / n if source == OWN else 0.0
            dweight[pieces, a, c, 0] = scale / n if source != GIVEN else 0.0


@inner
def _pull_columns(x, dy, dx, mean, rest, rstd, weight, shift, scale):
    for j in range(x.size):
        dx[j] = ((dy[j] * weight[j] - shift[j]) - ((x[j] - mean[j]) - rest[j]) * scale[j]) * rstd[j]


def columns_pullback(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Pull the gradient back, less what it loses."""
    geometry = carray(geometry, PLACES)
    x, dy, dx = _columns(x, geometry), _columns(dy, geometry), _columns(out, geometry)
    weight = _four(weight, geometry, WEIGHT)
    mean, rest, var = _tables(mean, rest, var, geometry)
    columns, depth, width = geometry[SHAPE + 2], geometry[DEPTH], geometry[WIDTH]
    scale, shift = _sums(one, geometry, pieces + 1, depth)[pieces], _sums(two, geometry, pieces + 1, depth)[pieces]
    dtype = mean.dtype.type
    scratch, scratch_dy, scratch_dx = np.empty((3, width), np.float32)
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
            for j in range(own.stop - low):
                c = (low + j) // depth % columns
                rstd[j] = _rstd(v[j], eps, dtype)
                s[j], t[j] = dtype(shift[a, c, 0]), dtype(scale[a, c, 0]) * rstd[j]
            for b in range(b0, b1):
                out_row = room(dx[a, b, own], scratch_dx)
                _pull_columns(
                    load(x[a, b, own], scratch), load(dy[a, b, own], scratch_dy), out_row, m, r, rstd, w, s, t
                )
                store(out_row, dx[a, b, own])


# ---------------------------------------------------------------------------------- running statistics


def advance(x, dy, out, weight, bias, mean, rest, var, one, two, geometry, eps, pieces, p):
    """Blend a running mean and variance, which come as weight and bias, with a batch's: eps is its share.

    one holds what turns its variance into the unbiased one, 0 where there is none: then the old one stays. The new ones
    go to out and dy. A channel's mean and variance are the averages of its samples'.
    """
    geometry = carray(geometry, PLACES)
    channels = geometry[CHANNELS]
    samples = geometry[SHAPE] * geometry[SHAPE + 2] // channels
    mean, rest = carray(mean, (samples, channels)), carray(rest, (samples, channels))
    var = carray(var, (samples, channels))
    old_mean, old_var = carray(weight, channels), carray(bias, channels)
    new_mean, new_var, factor = carray(out, channels), carray(dy, channels), carray(one, 1)[0]
    for c in range(channels):
        m, v = 0.0, 0.0
        for a in range(samples):
            m += np.float64(mean[a, c]) + np.float64(rest[a, c])
            v += var[a, c]
        new_mean[c] = (1.0 - eps) * old_mean[c] + eps * (m / samples)
        new_var[c] = old_var[c] if factor == 0.0 else (1.0 - eps) * old_var[c] + eps * (v / samples * factor)
