"""What the comparisons with native norms share."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles import assert_within, native_tolerance

SMALL = ("offset 0", "offset 3")  # where native norms are still good


def assert_native(ours: np.ndarray, native: np.ndarray, dtype: str) -> None:
    """Fail unless ours is what the native norm gives, to within the tolerance for data of small offset.

    Native norms of halves compute in float32. Near 0 two of a half's last places are less than float32's own error
    there, so halves are allowed that too.
    """
    native = native.astype(np.float64)
    bound = native_tolerance(native, dtype)
    if dtype in ("float16", "bfloat16"):
        bound = np.maximum(bound, native_tolerance(native, "float32"))
    assert_within(ours, native, bound)


def assert_never_worse(ours: np.ndarray, native: np.ndarray, exact: np.ndarray, bound: Any) -> None:
    """Fail where ours is further from the exact result than both the bound and the native norm's largest error."""
    assert_within(ours, exact, np.maximum(bound, largest_error(native, exact)))


def largest_error(actual: np.ndarray, exact: np.ndarray) -> float:
    error = np.abs(actual.astype(exact.dtype) - exact)
    return float(np.max(np.where(np.isfinite(error), error, np.inf), initial=0.0))
