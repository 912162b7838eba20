"""The geometry of a call: where in an array of whole numbers kernels find which."""

from __future__ import annotations

from ..lowering import COLUMNS_AT_ONCE

SHAPE, WEIGHT, BIAS, MEAN, REST, VAR, MASK = 0, 4, 8, 12, 16, 20, 24  # four sizes each
COLUMNS = 28  # three
DEPTH, WIDTH, SOURCE, WANTED, CHANNELS = 31, 32, 33, 34, 35
PLACES = 36

OWN, AT_ZERO, GIVEN = 0, 1, 2  # what a slice is standardised by: its mean and variance, its mean square, or neither

LANE = COLUMNS_AT_ONCE + 24  # lanes of numbers for columns: so their places do not compete for those in the cache
