"""The engine for NumPy arrays, by kernels that Numba compiles."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from ..._core import plans
from .compiled import HEAD
from .half import KNOWS_FLOAT16
from .plan import Memory, Plan

if TYPE_CHECKING:
    from ..._core.call import Call, Statistics
    from ..._core.libraries import Array

MEMORY = Memory(
    head=HEAD,
    place=id,
    stored={np.dtype("float32"): types.float32, np.dtype("float64"): types.float64}
    | ({np.dtype("float16"): types.uint16} if KNOWS_FLOAT16 else {}),
    empty_like=np.empty_like,
    empty=np.empty,
    contiguous=np.ascontiguousarray,
    as_numpy=np.asarray,
    from_numpy=np.asarray,
    turn=np.transpose,
    strides=operator.attrgetter("strides"),
    cast=np.ndarray.astype,
    dtypes={name: np.dtype(name) for name in ("float32", "float64", "int64")},
    most_threads=lambda: None,
)


def normalize(call: Call, *, keep: bool) -> tuple[Array, Statistics | None] | None:
    """Return the normalised array, and the statistics of its slices where they are to be kept."""
    x = stored(call, call.x)
    plan = None if x is None else plan_of(call, x)
    return None if plan is None else plan.normalize(call, x, keep=keep)


def statistics(call: Call) -> Statistics | None:
    """Return the statistics of the slices."""
    x = stored(call, call.x)
    plan = None if x is None else plan_of(call, x)
    return None if plan is None else plan.statistics(call, x)


def pull(call: Call, s: Statistics, dy: Array) -> tuple[Array | None, Array | None, Array | None] | None:
    """Return the gradients of x, weight and bias, given that of the result."""
    x, g = stored(call, call.x), stored(call, dy)
    plan = None if x is None or g is None else plan_of(call, x)
    return None if plan is None else plan.pull(call, x, s, g)


def advance(call: Call, s: Statistics, *arguments: Any) -> tuple[Array, Array] | None:
    """Return the running mean and variance after a batch of the statistics s."""
    x = stored(call, call.x)
    plan = None if x is None else plan_of(call, x)
    return None if plan is None else plan.advance(call, s, *arguments)


def plan_of(call: Call, x: Array) -> Plan | None:
    """Return the plan of a call, made now if it is the first of its kind."""
    found: Plan | None = call.plan or plans.keep(call, Plan.of(call, x, MEMORY))
    return found


def stored(call: Call, a: Array) -> Array | None:
    """Return an array of numbers as the kernels take it, None where they do not."""
    if type(a) is not np.ndarray:
        return None
    if a.dtype.kind != "f":
        a = a.astype(call.dtype)
    return a if a.dtype in MEMORY.stored and a.dtype.isnative and a.flags.aligned else None


def described(*arrays: Any) -> tuple[Any, ...] | None:
    """Return what is decided by arrays but for their elements, None where one of them is no plain array."""
    parts: list[Any] = []
    for a in arrays:
        if a is None:
            parts.append(None)
        elif type(a) is np.ndarray and a.flags.aligned:
            parts += (a.dtype, a.shape, a.strides)
        else:
            return None
    return tuple(parts)


plans.describe(np.ndarray, described)
