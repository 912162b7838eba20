"""The engine for arrays of CuPy, which compiles the kernels and keeps them on disk itself."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from ..._core import plans
from ..choice import report
from .launch import OPTIONS, source
from .plan import Memory, Plan

if TYPE_CHECKING:
    from ..._core.call import Call, Statistics
    from ..._core.libraries import Array, Shape
    from .plan import Case


@cache
def kernel(case: Case) -> Any:
    """Return a case as a kernel, of whichever device it is called on."""
    return cupy.RawModule(code=source(), options=(*OPTIONS, *case.macros())).get_function("kernel")


def launch_case(case: Case, grid: int, block: int, arguments: bytes, like: Array) -> None:
    """Launch a kernel on the current stream of an array's device; a value of NumPy's is told as its bytes."""
    with like.device:
        kernel(case)((grid,), (block,), (np.frombuffer(arguments, f"V{len(arguments)}"),))


def empty(like: Array, shape: Shape) -> Array:
    """Return float32 beside an array, which hold whatever their memory does."""
    with like.device:
        return cupy.empty(shape, np.float32)


def empty_like(a: Array) -> Array:
    """Return an array that lies in memory as another does."""
    with a.device:
        return cupy.empty_like(a)


def laid_like(like: Array, a: Array) -> Array:
    """Return a copy of an array in the order of another's memory."""
    with like.device:
        copy = cupy.empty_like(like, dtype=a.dtype)
        copy[...] = a
        return copy


def contiguous(a: Array) -> Array:
    """Return an array in C order, itself where it is."""
    with a.device:
        return cupy.ascontiguousarray(a)


def strides(a: Array) -> Shape:
    """Return by how many elements an array's axes step."""
    return tuple(step // a.itemsize for step in a.strides)


MEMORY = Memory(
    kinds={np.dtype("float32"): 0, np.float32: 0, np.dtype("float16"): 1},  # as arrays have it, and as calls may
    place=lambda a: int(a.data.ptr),
    strides=strides,
    empty=empty,
    empty_like=empty_like,
    laid_like=laid_like,
    contiguous=contiguous,
    broadcast=cupy.broadcast_to,
    turn=cupy.transpose,
    launch=launch_case,
)


@cache
def usable() -> bool:
    """Whether CuPy can compile and launch kernels; where it cannot, that is said once."""
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # noqa: BLE001  a driver or a library that is half there raises anything
        report("gpu", error)
        return False
    return not cupy.cuda.runtime.is_hip


def normalize(call: Call, *, keep: bool) -> tuple[Array, Statistics | None] | None:
    """Return the normalised array, and the statistics of its slices."""
    plan = plan_of(call)
    return None if plan is None else plan.normalize(call, stored(call, call.x), keep=keep)


def statistics(call: Call) -> Statistics | None:
    """Return the statistics of the slices."""
    plan = plan_of(call)
    return None if plan is None else plan.statistics(call, stored(call, call.x))


def pull(call: Call, s: Statistics, dy: Array) -> tuple[Array | None, Array | None, Array | None] | None:
    """Return the gradients of x, weight and bias, given that of the result."""
    plan = plan_of(call) if type(dy) is cupy.ndarray and dy.dtype in MEMORY.kinds else None
    return None if plan is None else plan.pull(call, stored(call, call.x), s, dy)


def plan_of(call: Call) -> Plan | None:
    """Return the plan of a call, made now if it is the first of its kind; None where the kernels do not do it."""
    if call.plan is not None:
        found: Plan = call.plan
        return found
    arrays = (call.x, call.weight, call.bias, *(call.given or ())[1:])
    if not all(a is None or type(a) is cupy.ndarray for a in arrays) or not usable():
        return None
    made: Plan | None = plans.keep(call, Plan.of(call, stored(call, call.x), MEMORY))
    return made


def stored(call: Call, x: Array) -> Array:
    """Return x as the kernels take it."""
    return x if x.dtype == call.dtype else x.astype(call.dtype)


def described(*arrays: Any) -> tuple[Any, ...] | None:
    """Return what is decided by arrays but for their elements, None where one of them is no plain array."""
    parts: list[Any] = []
    for a in arrays:
        if a is None:
            parts.append(None)
        elif type(a) is cupy.ndarray:
            parts += (a.dtype, a.shape, a.strides, a.device.id)
        else:
            return None
    return tuple(parts)


plans.describe(cupy.ndarray, described)
