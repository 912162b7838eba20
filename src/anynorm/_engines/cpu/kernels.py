"""The inner loops, compiled by Numba: sums over slices, and what they are applied to.

An array comes as (A, B, C, D), its slices (a, c) reduced over B and D; what broadcasts to it comes with the same rank.
Sums are float64, of deviations from an element of the slice: so their cancellation is at most as large as the slice
is, which float64 affords a float32 array, and a constant slice deviates by exactly 0. A float64 array is summed once
more, from its mean. What a mask hides deviates by 0.

Every kernel does piece `p` of `pieces` of the work, so that pieces may run side by side. `rows` walk a slice along D,
`columns` many slices at once down B, for D too short to walk along.

All kernels have the same parameters, of which each uses some: pointers to x, to the gradient dy of the result and to
what is to be written; to the weight, the bias and the tables of the slices' statistics; to the mask, and to the table
of how many elements it shows; to sums; and to the geometry. So one caller, compiled once, serves them all (see
compiled.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit

from ..lowering import BIASES, RESULT, STATISTICS, WEIGHTS
from .geometry import (
    BIAS,
    CHANNELS,
    COLUMNS,
    DEPTH,
    GIVEN,
    LANE,
    MEAN,
    OWN,
    PLACES,
    REST,
    SHAPE,
    SOURCE,
    VAR,
    WANTED,
    WEIGHT,
    WIDTH,
)
from .half import load, room, store
from .masks import alike_of, first, hidden, mask_of, of_block, of_columns, of_row, seen, shown

Kernel = Callable[..., Any]

BLOCK = 1024  # elements that stay in the innermost cache, with what is made of them


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
def _deviations(x, mask, shift):
    s, q = 0.0, 0.0
    for i in range(x.size):
        d = seen(mask, i, x[i] - shift)
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
def _extremes(x, mask, a, c, shift, scratch, alike):
    """Return the largest deviation of a slice, and whether all are finite."""
    largest, finite = 0.0, True
    for b in range(x.shape[1]):
        row, mask_row = x[a, b, c], of_row(mask, a, b, c)
        for i in range(0, row.size, BLOCK):
            block = load(row[i : i + BLOCK], scratch)
            see = of_block(mask_row, i, block.size, alike)
            for j in range(block.size):
                d = seen(see, j, block[j] - shift)
                largest, finite = max(largest, abs(d)), finite and math.isfinite(d)
    return largest, finite


@inner
def _variance(x, mask, a, c, shift, left, square, scratch, alike):
    """Return the variance of a slice. Where its squares leave float64, no number is it.

    Then it is NaN, or so small that it tells a slice that is not constant from one that is.
    """
    var = square - left * left
    if math.isinf(square) or (square == 0.0 and x.itemsize == 8):
        largest, finite = _extremes(x, mask, a, c, shift, scratch, alike)
        if math.isinf(square) and finite:
            return math.nan
        if square == 0.0 and largest > 0.0:
            return 5e-324
    return 0.0 if var < 0.0 else var  # noqa: FURB136  NaN stays


@inner
def _statistics(x, mask, a, c, shift, s, q, n, source, dtype, scratch, alike):
    """Return the mean of a slice of n elements, as a sum of two floats, and its variance in float64."""
    n = max(n, 1.0)
    left = s / n if source == OWN else 0.0
    first = dtype(shift + left)
    return first, dtype((shift - first) + left), _variance(x, mask, a, c, shift, left, q / n, scratch, alike)


@inner
def _first(x, mask, a, c, scratch):
    """Return the first element of a slice that is shown, 0 where there is none."""
    for b in range(x.shape[1]):
        i = first(of_row(mask, a, b, c))
        if i >= 0:
            return np.float64(load(x[a, b, c, i : i + 1], scratch)[0])
    return 0.0


# ---------------------------------------------------------------------------------- along rows


@inner
def _slice_sums(x, mask, a, c, shift, scratch, alike):
    s, q, s_error, q_error = 0.0, 0.0, 0.0, 0.0
    for b in range(x.shape[1]):
        row, mask_row = x[a, b, c], of_row(mask, a, b, c)
        for i in range(0, row.size, BLOCK):
            block = load(row[i : i + BLOCK], scratch)
            part, squares = _deviations(block, of_block(mask_row, i, block.size, alike), shift)
            s, s_error = _add(s, s_error, part)
            q, q_error = _add(q, q_error, squares)
    return s + s_error, q + q_error


@inner
def _standardize_row(row, mask, out, mean, rest, rstd, weight, bias, scratches, alike):
    same = weight.size == bias.size
    for i in range(0, row.size, BLOCK):
        x, y = load(row[i : i + BLOCK], scratches[0]), room(out[i : i + BLOCK], scratches[1])
        see = of_block(mask, i, x.size, alike)
        if same and weight.size == 1:
            w, b = weight[0], bias[0]
            for j in range(x.size):
                y[j] = seen(see, j, ((x[j] - mean) - rest) * rstd) * w + b
        elif same:
            w_block, b_block = weight[i : i + BLOCK], bias[i : i + BLOCK]
            for j in range(x.size):
                y[j] = seen(see, j, ((x[j] - mean) - rest) * rstd) * w_block[j] + b_block[j]
        elif weight.size == 1:
            w, b_block = weight[0], bias[i : i + BLOCK]
            for j in range(x.size):
                y[j] = seen(see, j, ((x[j] - mean) - rest) * rstd) * w + b_block[j]
        else:
            w_block, b = weight[i : i + BLOCK], bias[0]
            for j in range(x.size):
                y[j] = seen(see, j, ((x[j] - mean) - rest) * rstd) * w_block[j] + b
        store(y, out[i : i + BLOCK])


def rows(x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p):
    """Standardise slices, each while it is in the cache."""
    geometry = carray(geometry, PLACES)
    x, y, weight = _four(x, geometry, SHAPE), _four(out, geometry, SHAPE), _four(weight, geometry, WEIGHT)
    bias, mask, count = _four(bias, geometry, BIAS), mask_of(mask, geometry), _table(count, geometry)
    mean, rest, var = _tables(mean, rest, var, geometry)
    source, wanted = geometry[SOURCE], geometry[WANTED]
    dtype = mean.dtype.type
    scratches, alike = np.empty((2, BLOCK), np.float32), alike_of(mask, BLOCK)
    low, high = _part(x.shape[0] * x.shape[2], pieces, p)
    for u in range(low, high):
        a, c = u // x.shape[2], u % x.shape[2]
        if source != GIVEN:
            n = shown(mask, x.shape, a, c)
            shift = _first(x, mask, a, c, scratches[0]) if source == OWN else 0.0
            s, q = _slice_sums(x, mask, a, c, shift, scratches[0], alike)
            if x.itemsize == 8 and source == OWN and n > 0.0:
                shift += s / n
                s, q = _slice_sums(x, mask, a, c, shift, scratches[0], alike)
            m, r, square = _statistics(x, mask, a, c, shift, s, q, n, source, dtype, scratches[0], alike)
            if wanted & STATISTICS:
                var[a, 0, c, 0] = square
                if source == OWN:
                    mean[a, 0, c, 0], rest[a, 0, c, 0] = m, r
                if mask is not None:
                    count[a, 0, c, 0] = n
        else:
            m, r, square = _of(mean, a, c), _of(rest, a, c), _of(var, a, c)
        if wanted & RESULT:
            rstd = _rstd(square, eps, dtype)
            for b in range(x.shape[1]):
                w_row, b_row = _at(weight, a, b, c), _at(bias, a, b, c)
                mask_row = of_row(mask, a, b, c)
                _standardize_row(x[a, b, c], mask_row, y[a, b, c], m, r, rstd, w_row, b_row, scratches, alike)


@inner
def _divisor(mask, count, geometry, a, c):
    """Return what sums over a slice are divided by: how many elements it shows, or 1 where that is 0."""
    if mask is not None and geometry[SOURCE] != GIVEN:
        return max(count[a, 0, c, 0], 1.0)
    return float(geometry[SHAPE + 1] * geometry[SHAPE + 3])


@inner
def _row_products(dy, x, mask, mean, rest, weight):
    s, q = 0.0, 0.0
    if weight.size == 1:
        for i in range(x.size):
            d, g = np.float64(seen(mask, i, (x[i] - mean) - rest)), seen(mask, i, dy[i])
            s, q = _gather(s, q, g, g, d)
    else:
        for i in range(x.size):
            d, g = np.float64(seen(mask, i, (x[i] - mean) - rest)), np.float64(seen(mask, i, dy[i])) * weight[i]
            s, q = _gather(s, q, g, g, d)
    return s, q


@inner
def _row_sums(row, mask, dy_row, mean, rest, rstd, weight, wanted, dweight, dbias, scratches, alike):
    """Return the sums of dy and of dy times the deviations from the mean, weighted where the weight runs along.

    A third sum is that of the dy that is hidden: the result is the bias there. What the row gives to the gradients of
    weight and bias is added where they run along it and are wanted.
    """
    s, q, s_error, q_error, unseen = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(0, row.size, BLOCK):
        x, dy = load(row[i : i + BLOCK], scratches[0]), load(dy_row[i : i + BLOCK], scratches[1])
        see = of_block(mask, i, x.size, alike)
        part, product = _row_products(dy, x, see, mean, rest, weight if weight.size == 1 else weight[i : i + BLOCK])
        s, s_error = _add(s, s_error, part)
        q, q_error = _add(q, q_error, product)
        if mask is not None:
            for j in range(x.size):
                unseen, _ = _gather(unseen, 0.0, hidden(see, j, dy[j]), 0.0, 0.0)
        if wanted & WEIGHTS:
            to = dweight[i : i + BLOCK]
            for j in range(x.size):
                to[j] += np.float64(seen(see, j, dy[j])) * np.float64(seen(see, j, ((x[j] - mean) - rest) * rstd))
        if wanted & BIASES:
            to = dbias[i : i + BLOCK]
            for j in range(x.size):
                to[j] += dy[j]
    return s + s_error, q + q_error, unseen


@inner
def _pull_row(row, mask, dy_row, out, mean, rest, rstd, weight, shift, scale, scratches, alike):
    for i in range(0, row.size, BLOCK):
        x, dy = load(row[i : i + BLOCK], scratches[0]), load(dy_row[i : i + BLOCK], scratches[1])
        dx, see = room(out[i : i + BLOCK], scratches[2]), of_block(mask, i, x.size, alike)
        if weight.size == 1:
            w = weight[0]
            for j in range(x.size):
                dx[j] = seen(see, j, ((dy[j] * w - shift) - ((x[j] - mean) - rest) * rstd * scale) * rstd)
        else:
            w_block = weight[i : i + BLOCK]
            for j in range(x.size):
                dx[j] = seen(see, j, ((dy[j] * w_block[j] - shift) - ((x[j] - mean) - rest) * rstd * scale) * rstd)
        store(dx, out[i : i + BLOCK])


def rows_pullback(x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p):
    """Pull the gradient of slices back, and sum that of weight and bias: along D for each piece, or for each row."""
    geometry = carray(geometry, PLACES)
    x, dy, dx = _four(x, geometry, SHAPE), _four(dy, geometry, SHAPE), _four(out, geometry, SHAPE)
    weight, mask, count = _four(weight, geometry, WEIGHT), mask_of(mask, geometry), _table(count, geometry)
    mean, rest, var = _tables(mean, rest, var, geometry)
    source, wanted = geometry[SOURCE], geometry[WANTED]
    along = geometry[WEIGHT + 3] > 1 or geometry[BIAS + 3] > 1
    wide, deep = max(geometry[WEIGHT + 1], geometry[BIAS + 1]), max(geometry[WEIGHT + 2], geometry[BIAS + 2])
    rows = (pieces, wide, deep, x.shape[3]) if along else (1, 1, x.shape[0] * x.shape[1] * x.shape[2], 1)
    dweight, dbias = carray(one, rows), carray(two, rows)
    dtype = mean.dtype.type
    scratches, alike = np.empty((3, BLOCK), np.float32), alike_of(mask, BLOCK)
    low, high = _part(x.shape[0] * x.shape[2], pieces, p)
    for u in range(low, high):
        a, c = u // x.shape[2], u % x.shape[2]
        m, r, rstd = _of(mean, a, c), _of(rest, a, c), _rstd(_of(var, a, c), eps, dtype)
        n = _divisor(mask, count, geometry, a, c)
        shift, scale = 0.0, 0.0
        for b in range(x.shape[1]):
            row, dy_row, w_row, mask_row = x[a, b, c], dy[a, b, c], _at(weight, a, b, c), of_row(mask, a, b, c)
            sums = _at(dweight, p, b, c), _at(dbias, p, b, c)
            s, q, unseen = _row_sums(
                row, mask_row, dy_row, m, r, rstd, w_row, wanted if along else 0, sums[0], sums[1], scratches, alike
            )
            q *= rstd
            w = 1.0 if w_row.size > 1 else np.float64(w_row[0])  # that of a longer one is in the sums already
            shift, scale = shift + w * s, scale + w * q
            if not along:
                at = (a * x.shape[1] + b) * x.shape[2] + c
                if wanted & WEIGHTS:
                    dweight[0, 0, at, 0] = q
                if wanted & BIASES:
                    dbias[0, 0, at, 0] = s + unseen
        shift = shift / n if source == OWN else 0.0
        scale = scale / n if source != GIVEN else 0.0
        for b in range(x.shape[1] if wanted & RESULT else 0):
            row, dy_row, w_row, mask_row = x[a, b, c], dy[a, b, c], _at(weight, a, b, c), of_row(mask, a, b, c)
            dx_row, lost = dx[a, b, c], (dtype(shift), dtype(scale))
            _pull_row(row, mask_row, dy_row, dx_row, m, r, rstd, w_row, lost[0], lost[1], scratches, alike)


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


@inner
def _lane(lanes, i, size):
    return lanes[i * LANE : i * LANE + size]


@inner
def _run(j, low, high, depth):
    """Return where the neighbours of column low + j that belong to its slice end."""
    return min(high - low, j + depth - (low + j) % depth)


FLUSH = 128  # rows whose sums are added up before they are added to the rest


@inner
def _sum_columns(x, mask, base, sums):
    for j in range(x.size):
        d = seen(mask, j, x[j] - base[j])
        sums[j] += d
        sums[LANE + j] += d * d


def columns_first(x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p):
    """Write the element that a slice's deviations are taken from, to var."""
    geometry = carray(geometry, PLACES)
    x, mask = _four(x, geometry, SHAPE), mask_of(mask, geometry)
    shift, scratch = _table(var, geometry), np.empty(1, np.float32)
    for a in range(x.shape[0]):
        for c in range(x.shape[2]):
            shift[a, 0, c, 0] = _first(x, mask, a, c, scratch) if geometry[SOURCE] == OWN else 0.0


def columns_sums(x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p):
    """Add the deviations from what stands in var, their squares and how many there are, to one, two and three."""
    geometry = carray(geometry, PLACES)
    x, shift, mask = _columns(x, geometry), _table(var, geometry), mask_of(mask, geometry)
    s, q, n = _sums(one, geometry, pieces, 1), _sums(two, geometry, pieces, 1), _sums(three, geometry, pieces, 1)
    columns, depth, width = shift.shape[2], geometry[DEPTH], geometry[WIDTH]
    scratch, base, bytes_ = np.empty(width, np.float32), np.empty(LANE), np.empty(width, np.uint8)
    part, total = np.empty(3 * LANE), np.empty(3 * LANE)
    a0, a1, b0, b1 = _piece(x, pieces, p)
    for a in range(a0, a1):
        for low in range(0, x.shape[2], width):
            own = slice(low, min(low + width, x.shape[2]))
            size = own.stop - low
            _spread(shift, a, low, columns, depth, base[:size])
            total[:] = 0.0
            for start in range(b0, b1, FLUSH):
                part[:] = 0.0
                for b in range(start, min(start + FLUSH, b1)):
                    see = of_columns(mask, geometry, a, b, low, bytes_[:size])
                    _sum_columns(load(x[a, b, own], scratch), see, base, part)
                    if mask is not None:
                        for j in range(size):
                            part[2 * LANE + j] += seen(see, j, 1.0)
                total += part
            j = 0
            while j < size:  # neighbours first: a sum of few sums
                c, end = (low + j) // depth % columns, _run(j, low, own.stop, depth)
                s[p, a, c, 0] += total[j:end].sum()
                q[p, a, c, 0] += total[LANE + j : LANE + end].sum()
                if mask is not None:
                    n[p, a, c, 0] += total[2 * LANE + j : 2 * LANE + end].sum()
                j = end


@inner
def _count(mask, counts, geometry, a, c):
    """Return how many elements of a slice are shown, from the pieces' counts."""
    return float(geometry[SHAPE + 1] * geometry[SHAPE + 3]) if mask is None else counts[:, a, c, 0].sum()


def columns_again(x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p):
    """Move what stands in var to the mean that the pieces' sums give, and clear them: see float64."""
    geometry = carray(geometry, PLACES)
    shift, mask = _table(var, geometry), mask_of(mask, geometry)
    s, q, n = _sums(one, geometry, pieces, 1), _sums(two, geometry, pieces, 1), _sums(three, geometry, pieces, 1)
    for a in range(shift.shape[0]):
        for c in range(shift.shape[2]):
            shift[a, 0, c, 0] += s[:, a, c, 0].sum() / max(_count(mask, n, geometry, a, c), 1.0)
    s[:], q[:] = 0.0, 0.0
    if mask is not None:
        n[:] = 0.0


def columns_statistics(
    x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p
):  # fmt: skip
    """Turn the pieces' sums into the statistics of the slices."""
    geometry = carray(geometry, PLACES)
    x, shift, mean = _four(x, geometry, SHAPE), _table(var, geometry), _table(mean, geometry)
    rest, mask, count = _table(rest, geometry), mask_of(mask, geometry), _table(count, geometry)
    s, q, n = _sums(one, geometry, pieces, 1), _sums(two, geometry, pieces, 1), _sums(three, geometry, pieces, 1)
    scratch, alike = np.empty(BLOCK, np.float32), alike_of(mask, BLOCK)
    for a in range(shift.shape[0]):
        for c in range(shift.shape[2]):
            found = _count(mask, n, geometry, a, c)
            m, r, shift[a, 0, c, 0] = _statistics(
                x, mask, a, c, shift[a, 0, c, 0], s[:, a, c, 0].sum(), q[:, a, c, 0].sum(), found, geometry[SOURCE],
                mean.dtype.type, scratch, alike,
            )  # fmt: skip
            if geometry[SOURCE] == OWN:
                mean[a, 0, c, 0], rest[a, 0, c, 0] = m, r
            if mask is not None:
                count[a, 0, c, 0] = found


@inner
def _standardize_columns(x, mask, y, t):
    for j in range(x.size):
        y[j] = seen(mask, j, ((x[j] - t[j]) - t[LANE + j]) * t[2 * LANE + j]) * t[3 * LANE + j] + t[4 * LANE + j]


def columns_apply(x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p):
    """Standardise by statistics that are known."""
    geometry = carray(geometry, PLACES)
    x, y, weight = _columns(x, geometry), _columns(out, geometry), _four(weight, geometry, WEIGHT)
    bias, mask = _four(bias, geometry, BIAS), mask_of(mask, geometry)
    mean, rest, var = _tables(mean, rest, var, geometry)
    columns, depth, width = geometry[SHAPE + 2], geometry[DEPTH], geometry[WIDTH]
    dtype = mean.dtype.type
    scratches, bytes_ = np.empty((2, width), np.float32), np.empty(width, np.uint8)
    t, v = np.empty(5 * LANE, dtype), np.empty(width)
    a0, a1, b0, b1 = _piece(x, pieces, p)
    for a in range(a0, a1):
        for low in range(0, x.shape[2], width):
            own = slice(low, min(low + width, x.shape[2]))
            size = own.stop - low
            _spread(var, a, low, columns, depth, v[:size])
            _spread(mean, a, low, columns, depth, _lane(t, 0, size))
            _spread(rest, a, low, columns, depth, _lane(t, 1, size))
            _spread(weight, a, low, columns, depth, _lane(t, 3, size))
            _spread(bias, a, low, columns, depth, _lane(t, 4, size))
            for j in range(size):
                t[2 * LANE + j] = _rstd(v[j], eps, dtype)
            for b in range(b0, b1):
                see = of_columns(mask, geometry, a, b, low, bytes_[:size])
                out_row = room(y[a, b, own], scratches[1])
                _standardize_columns(load(x[a, b, own], scratches[0]), see, out_row, t)
                store(out_row, y[a, b, own])


@inner
def _product_columns(dy, x, mask, t, sums):
    for j in range(x.size):
        g = np.float64(seen(mask, j, dy[j]))
        sums[j] += g
        sums[LANE + j] += g * np.float64(seen(mask, j, (x[j] - t[j]) - t[LANE + j]))


def columns_products(
    x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p
):  # fmt: skip
    """Add dy * y and dy to one and two, and dy that is hidden to three: a sum for each of a slice's neighbours."""
    geometry = carray(geometry, PLACES)
    x, dy, mask = _columns(x, geometry), _columns(dy, geometry), mask_of(mask, geometry)
    mean, rest, var = _tables(mean, rest, var, geometry)
    columns, depth, width = geometry[SHAPE + 2], geometry[DEPTH], geometry[WIDTH]
    dweight, dbias = _sums(one, geometry, pieces, depth), _sums(two, geometry, pieces, depth)
    unseen = _sums(three, geometry, pieces, depth)
    dtype = mean.dtype.type
    scratches, bytes_ = np.empty((2, width), np.float32), np.empty(width, np.uint8)
    t, v, part, total = np.empty(2 * LANE, dtype), np.empty(width), np.empty(3 * LANE), np.empty(3 * LANE)
    a0, a1, b0, b1 = _piece(x, pieces, p)
    for a in range(a0, a1):
        for low in range(0, x.shape[2], width):
            own = slice(low, min(low + width, x.shape[2]))
            size = own.stop - low
            _spread(var, a, low, columns, depth, v[:size])
            _spread(mean, a, low, columns, depth, _lane(t, 0, size))
            _spread(rest, a, low, columns, depth, _lane(t, 1, size))
            total[:] = 0.0
            for start in range(b0, b1, FLUSH):
                part[:] = 0.0
                for b in range(start, min(start + FLUSH, b1)):
                    see = of_columns(mask, geometry, a, b, low, bytes_[:size])
                    block, g = load(x[a, b, own], scratches[0]), load(dy[a, b, own], scratches[1])
                    _product_columns(g, block, see, t, part)
                    if mask is not None:
                        for j in range(size):
                            part[2 * LANE + j] += hidden(see, j, g[j])
                total += part
            for j in range(size):
                c, d = (low + j) // depth % columns, (low + j) % depth
                dbias[p, a, c, d] += total[j]
                dweight[p, a, c, d] += total[LANE + j] * _rstd(v[j], eps, dtype)
                if mask is not None:
                    unseen[p, a, c, d] += total[2 * LANE + j]


def columns_lost(x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p):
    """Add up the pieces' sums in the first, and write what the gradient loses along 1 and along y behind the last."""
    geometry = carray(geometry, PLACES)
    depth, source, weight = geometry[DEPTH], geometry[SOURCE], _four(weight, geometry, WEIGHT)
    dweight, dbias = _sums(one, geometry, pieces + 1, depth), _sums(two, geometry, pieces + 1, depth)
    unseen, count, mask = _sums(three, geometry, pieces, depth), _table(count, geometry), mask_of(mask, geometry)
    for a in range(dweight.shape[1]):
        for c in range(dweight.shape[2]):
            w, shift, scale = _at(weight, a, 0, c), 0.0, 0.0
            n = _divisor(mask, count, geometry, a, c)
            for d in range(depth):
                for i in range(1, pieces):
                    dweight[0, a, c, d] += dweight[i, a, c, d]
                    dbias[0, a, c, d] += dbias[i, a, c, d]
                own = np.float64(w[d % w.size])
                shift, scale = shift + own * dbias[0, a, c, d], scale + own * dweight[0, a, c, d]
                if mask is not None:
                    dbias[0, a, c, d] += unseen[:, a, c, d].sum()
            dbias[pieces, a, c, 0] = shift / n if source == OWN else 0.0
            dweight[pieces, a, c, 0] = scale / n if source != GIVEN else 0.0


@inner
def _pull_columns(x, mask, dy, dx, t):
    for j in range(x.size):
        d = (x[j] - t[j]) - t[LANE + j]
        g = (dy[j] * t[3 * LANE + j] - t[4 * LANE + j]) - d * t[5 * LANE + j]
        dx[j] = seen(mask, j, g * t[2 * LANE + j])


def columns_pullback(
    x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p
):  # fmt: skip
    """Pull the gradient back, less what it loses."""
    geometry = carray(geometry, PLACES)
    x, dy, dx = _columns(x, geometry), _columns(dy, geometry), _columns(out, geometry)
    weight, mask = _four(weight, geometry, WEIGHT), mask_of(mask, geometry)
    mean, rest, var = _tables(mean, rest, var, geometry)
    columns, depth, width = geometry[SHAPE + 2], geometry[DEPTH], geometry[WIDTH]
    scale, shift = _sums(one, geometry, pieces + 1, depth)[pieces], _sums(two, geometry, pieces + 1, depth)[pieces]
    dtype = mean.dtype.type
    scratches, bytes_ = np.empty((3, width), np.float32), np.empty(width, np.uint8)
    t, v = np.empty(6 * LANE, dtype), np.empty(width)
    a0, a1, b0, b1 = _piece(x, pieces, p)
    for a in range(a0, a1):
        for low in range(0, x.shape[2], width):
            own = slice(low, min(low + width, x.shape[2]))
            size = own.stop - low
            _spread(var, a, low, columns, depth, v[:size])
            _spread(mean, a, low, columns, depth, _lane(t, 0, size))
            _spread(rest, a, low, columns, depth, _lane(t, 1, size))
            _spread(weight, a, low, columns, depth, _lane(t, 3, size))
            for j in range(size):
                c, rstd = (low + j) // depth % columns, _rstd(v[j], eps, dtype)
                t[2 * LANE + j], t[4 * LANE + j] = rstd, dtype(shift[a, c, 0])
                t[5 * LANE + j] = dtype(scale[a, c, 0]) * rstd
            for b in range(b0, b1):
                see = of_columns(mask, geometry, a, b, low, bytes_[:size])
                out_row = room(dx[a, b, own], scratches[2])
                block, g = load(x[a, b, own], scratches[0]), load(dy[a, b, own], scratches[1])
                _pull_columns(block, see, g, out_row, t)
                store(out_row, dx[a, b, own])


# ---------------------------------------------------------------------------------- running statistics


def advance(x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p):
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
