"""Masks in kernels: bytes, 0 where an element is hidden; or None where nothing is, for which no code is made.

A mask lies as weight and bias do, (A, B, C, D) with sizes that repeat. Where kernels walk down columns it is either one
byte for each row of a slice, or whole.
"""

from __future__ import annotations

import numpy as np
from numba import carray, types
from numba.extending import overload

from .geometry import COLUMNS, DEPTH, MASK, SHAPE

BYTES = types.CPointer(types.uint8)  # the pointer to a mask
NOTHING = types.voidptr  # and to none


def mask_of(pointer, geometry):
    """Return the mask, or None."""


def seen(mask, j, value):
    """Return a value, or 0 where the mask hides it."""


def hidden(mask, j, value):
    """Return a value where the mask hides it, or 0."""


def of_row(mask, a, b, c):
    """Return the mask of a row: one byte for each element, or one for all."""


def alike_of(mask, size):
    """Return the bytes of a block that is hidden, and of one that is shown."""


def of_block(row, i, size, alike):
    """Return the bytes of a block of a row, or so many that are alike."""


def of_columns(mask, geometry, a, b, low, out):
    """Return the bytes of columns from low on; out is where they may be written."""


def first(row):
    """Return the first place of a row that is shown, -1 where none is."""


def shown(mask, shape, a, c):
    """Return how many elements of a slice are shown."""


@overload(mask_of)
def _mask_of(pointer, geometry):
    if pointer == NOTHING:
        return lambda pointer, geometry: None
    return lambda pointer, geometry: carray(
        pointer, (geometry[MASK], geometry[MASK + 1], geometry[MASK + 2], geometry[MASK + 3])
    )


@overload(seen)
def _seen(mask, j, value):
    if mask is types.none:
        return lambda mask, j, value: value
    zero = (np.float32 if value == types.float32 else np.float64)(0)
    return lambda mask, j, value: value if mask[j] != 0 else zero


@overload(hidden)
def _hidden(mask, j, value):
    zero = (np.float32 if value == types.float32 else np.float64)(0)
    if mask is types.none:
        return lambda mask, j, value: zero
    return lambda mask, j, value: zero if mask[j] != 0 else value


@overload(of_row)
def _of_row(mask, a, b, c):
    if mask is types.none:
        return lambda mask, a, b, c: None
    return lambda mask, a, b, c: mask[a % mask.shape[0], b % mask.shape[1], c % mask.shape[2]]


@overload(alike_of)
def _alike_of(mask, size):
    if mask is types.none:
        return lambda mask, size: None

    def make(mask, size):
        alike = np.zeros((2, size), np.uint8)
        alike[1] = 1
        return alike

    return make


@overload(of_block)
def _of_block(row, i, size, alike):
    if row is types.none:
        return lambda row, i, size, alike: None

    def block(row, i, size, alike):
        return row[i : i + size] if row.size > 1 else alike[1 if row[0] != 0 else 0, :size]

    return block


@overload(of_columns)
def _of_columns(mask, geometry, a, b, low, out):
    if mask is types.none:
        return lambda mask, geometry, a, b, low, out: None

    def columns(mask, geometry, a, b, low, out):
        if mask.shape[2] * mask.shape[3] > 1:
            whole = mask.reshape(geometry[COLUMNS], geometry[COLUMNS + 1], geometry[COLUMNS + 2])
            return whole[a, b, low : low + out.size]
        length = geometry[SHAPE + 2] * geometry[DEPTH]  # of a row, of which several lie side by side
        first = b * (geometry[COLUMNS + 2] // length)
        j = 0
        while j < out.size:
            row = (low + j) // length
            end = min(out.size, (row + 1) * length - low)
            out[j:end] = mask[a % mask.shape[0], (first + row) % mask.shape[1], 0, 0]
            j = end
        return out

    return columns


@overload(first)
def _first(row):
    if row is types.none:
        return lambda row: 0

    def find(row):
        for i in range(row.size):
            if row[i] != 0:
                return i
        return -1

    return find


@overload(shown)
def _shown(mask, shape, a, c):
    if mask is types.none:
        return lambda mask, shape, a, c: float(shape[1] * shape[3])

    def count(mask, shape, a, c):
        n = 0
        for b in range(shape[1]):
            row, found = of_row(mask, a, b, c), 0
            for j in range(row.size):
                found += row[j] != 0
            n += found * (shape[3] // row.size)
        return float(n)

    return count
