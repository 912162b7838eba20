"""What the comparisons with native norms share."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles import assert_within, native_tolerance

SMALL = ("offset 0", "offset 3")  # where native norms are still good


def assert_native(ours: np.ndarray, native: np.ndarray, dtype: str) -> None:
    """Fail unless ours is what the native norm gives, to within the tolerance for data of small offset."""
    native = native.astype(np.float64)
    assert_within(ours, native, native_tolerance(native, dtype))


def assert_never_worse(ours: np.ndarray, native: np.ndarray, exact: np.ndarray, bound: Any) -> None:
    """Fail where ours is further from the exact result than both the bound and the native norm's largest error."""
    off = np.abs(native.astype(exact.dtype) - exact)
    largest = np.max(np.where(np.isfinite(off), off, np.inf), initial=0.0)
    assert_within(ours, exact, np.maximum(bound, largest))
