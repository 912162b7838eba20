"""The engine for tensors of PyTorch on CPUs: Numba's, which reads and writes their memory as NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import types

from ..._core import plans
from .. import autograd
from ..autograd import stored, tracked
from ..lowering import BIASES, RESULT, WEIGHTS
from .half import KNOWS_FLOAT16
from .plan import Memory, Plan
from .threads import SMALL

if TYPE_CHECKING:
    from ..._core.call import Call, Statistics
    from ..._core.libraries import Array, Shape

HALVES = {torch.bfloat16: types.int16} | ({torch.float16: types.uint16} if KNOWS_FLOAT16 else {})
DTYPES = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64}


def as_numpy(value: Array) -> Array:
    """Return a tensor's memory as NumPy's, halves by their bits."""
    value = value.detach()
    return (value.view(torch.int16) if value.dtype in HALVES else value).numpy()


def empty_like(value: Array) -> Array:
    """Return a tensor that lies in memory as another does; a large one in NumPy's memory, whose pages are large."""
    if value.numel() < SMALL:
        return torch.empty_like(value)
    memory = torch.from_numpy(np.empty(value.numel() * value.element_size(), np.uint8))
    return memory.view(value.dtype).as_strided(value.shape, value.stride())


def empty(shape: Shape, dtype: str) -> Array:
    """Return a tensor that holds whatever its memory does."""
    return torch.empty(shape, dtype=DTYPES[dtype])


MEMORY = Memory(
    head=0,
    place=torch.Tensor.data_ptr,
    stored={torch.float32: types.float32, torch.float64: types.float64, **HALVES},
    empty_like=empty_like,
    empty=empty,
    contiguous=torch.Tensor.contiguous,
    as_numpy=as_numpy,
    from_numpy=torch.from_numpy,
    turn=torch.Tensor.permute,
    strides=torch.Tensor.stride,
    cast=torch.Tensor.to,
    dtypes=DTYPES,
    most_threads=torch.get_num_threads,
)


def normalize(call: Call, *, keep: bool) -> tuple[Array, Statistics | None] | None:
    """Return the normalised tensor, and the statistics of its slices where they are to be kept."""
    plan = plan_of(call)
    return None if plan is None else autograd.normalize(call, plan, keep=keep)


def statistics(call: Call) -> Statistics | None:
    """Return the statistics of the slices."""
    plan = None if tracked(call.x) else plan_of(call)
    return None if plan is None else plan.statistics(call, stored(call, call.x))


def pull(
    call: Call, s: Statistics, dy: Array, wanted: int = RESULT | WEIGHTS | BIASES
) -> tuple[Array | None, Array | None, Array | None] | None:
    """Return the gradients of x, weight and bias that are wanted, given that of the result."""
    if dy.dtype not in MEMORY.stored or not autograd.pulls(call, s, dy, plain):
        return None
    plan = plan_of(call)
    return None if plan is None else plan.pull(call, stored(call, call.x), s, dy.detach(), wanted)


def advance(call: Call, s: Statistics, *arguments: Any) -> tuple[Array, Array] | None:
    """Return the running mean and variance after a batch of the statistics s."""
    stats = arguments[0]
    if tracked(*s[1:], *stats[:2]) or not all(map(plain, stats[:2])):
        return None
    plan = plan_of(call)
    return None if plan is None else plan.advance(call, s, *arguments)


def plain(value: Array | None) -> bool:
    """Whether a tensor is memory of this process and nothing else."""
    return value is None or (autograd.plain(value) and value.is_cpu)


def plan_of(call: Call) -> Plan | None:
    """Return the plan of a call, made now if it is the first of its kind; None where the kernels do not do it."""
    if call.given is not None and tracked(*call.given[1:]):
        return None
    if call.plan is not None:
        return call.plan if isinstance(call.plan, Plan) else None
    if call.dtype not in MEMORY.stored or not autograd.may_plan(call, plain):
        return None
    made: Plan | None = plans.keep(call, Plan.of(call, as_numpy(stored(call, call.x)), MEMORY))
    return made
