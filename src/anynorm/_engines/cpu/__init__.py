"""Engines for memory that the CPU reads: compiled loops, and who calls them."""

import numba as numba  # first of all, so that what is missing where it is not installed is Numba
