"""The engine for tensors of PyTorch on GPUs of NVIDIA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..._core import plans
from .. import autograd
from ..autograd import stored, tracked
from ..lowering import BIASES, RESULT, WEIGHTS
from . import launch
from .plan import Memory, Plan

if TYPE_CHECKING:
    from ..._core.call import Call, Statistics
    from ..._core.libraries import Array, Shape
    from .plan import Case


def empty(like: Array, shape: Shape) -> Array:
    """Return float32 beside a tensor, which hold whatever their memory does."""
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def laid_like(like: Array, a: Array) -> Array:
    """Return a copy of a tensor in the order of another's memory."""
    return torch.empty_like(like, dtype=a.dtype).copy_(a)


def launch_case(case: Case, grid: int, block: int, arguments: bytes, like: Array) -> None:
    """Launch a kernel on the current stream of a tensor's device."""
    with torch.cuda.device(like.device):
        stream = torch.cuda.current_stream().cuda_stream
        launch.launch(launch.kernel(case, like.device.index), grid, block, stream, arguments)


MEMORY = Memory(
    kinds={torch.float32: 0, torch.float16: 1, torch.bfloat16: 2},
    place=torch.Tensor.data_ptr,
    strides=torch.Tensor.stride,
    empty=empty,
    empty_like=torch.empty_like,
    laid_like=laid_like,
    contiguous=torch.Tensor.contiguous,
    broadcast=torch.Tensor.expand,
    turn=torch.Tensor.permute,
    launch=launch_case,
)


def normalize(call: Call, *, keep: bool) -> tuple[Array, Statistics | None] | None:
    """Return the normalised tensor, and the statistics of its slices."""
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
    if dy.dtype not in MEMORY.kinds or not autograd.pulls(call, s, dy, plain):
        return None
    plan = plan_of(call)
    return None if plan is None else plan.pull(call, stored(call, call.x), s, dy.detach(), wanted)


def plain(value: Array | None) -> bool:
    """Whether a tensor is memory of a GPU of NVIDIA and nothing else."""
    return value is None or (autograd.plain(value) and on_gpu(value))


def on_gpu(value: Array) -> bool:
    """Whether a tensor is on a GPU of NVIDIA: those of AMD, which torch calls so, too, run other code."""
    return bool(value.is_cuda) and torch.version.cuda is not None


def plan_of(call: Call) -> Plan | None:
    """Return the plan of a call, made now if it is the first of its kind; None where the kernels do not do it."""
    if call.given is not None and tracked(*call.given[1:]):
        return None
    if call.plan is not None:
        return call.plan if isinstance(call.plan, Plan) else None
    if not autograd.may_plan(call, plain) or not launch.usable():
        return None
    made: Plan | None = plans.keep(call, Plan.of(call, stored(call, call.x), MEMORY))
    return made
