"""The engine for tensors of PyTorch on CPUs: Numba's, which reads and writes their memory as NumPy arrays.

What torch differentiates goes through an autograd function, whose gradient is a kernel's, too. Where that gradient is
to be differentiated in its turn, or the statistics are, array-API code is differentiated in its place.
"""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import types
from torch.autograd import forward_ad
from torch.autograd.forward_ad import unpack_dual

from ..._core import plans
from ..._core import standardize as array_api
from ..._core.call import Statistics
from ..choice import ARRAY_API, chosen, ran
from .geometry import BIASES, RESULT, WEIGHTS
from .half import KNOWS_FLOAT16
from .plan import Memory, Plan
from .threads import SMALL

if TYPE_CHECKING:
    from ..._core.call import Call
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
    if plan is None:
        return None
    if not tracked(call.x, call.weight, call.bias):
        return plan.normalize(call, stored(call, call.x), keep=keep)
    if not keep or call.given is not None:
        return Normalize.apply(plan, call, False, call.x, call.weight, call.bias), call.given
    y, *s = Normalize.apply(plan, call, True, call.x, call.weight, call.bias)
    return y, Statistics(*s)


def statistics(call: Call) -> Statistics | None:
    """Return the statistics of the slices."""
    plan = None if tracked(call.x) else plan_of(call)
    return None if plan is None else plan.statistics(call, stored(call, call.x))


def pull(
    call: Call, s: Statistics, dy: Array, wanted: int = RESULT | WEIGHTS | BIASES
) -> tuple[Array | None, Array | None, Array | None] | None:
    """Return the gradients of x, weight and bias that are wanted, given that of the result."""
    if tracked(call.x, call.weight, dy, *s[1:]) or not all(map(plain, (dy, *s[1:]))) or dy.dtype not in MEMORY.stored:
        return None
    try:
        dy.data_ptr()
    except RuntimeError:  # the memory of a batch of gradients is out of reach
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


class Normalize(torch.autograd.Function):
    """A norm whose gradient is a kernel's."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        call: Call,
        keep: bool,  # noqa: FBT001  apply knows no keywords
        x: Array,
        weight: Array | None,
        bias: Array | None,
    ) -> Array | tuple[Array | None, ...]:
        """Return the normalised tensor, and the statistics where they are to be kept."""
        y, s = plan.normalize(call, stored(call, x), keep=True)
        assert s is not None  # noqa: S101
        count = s.count if plan.masked else None
        ctx.call = call._replace(x=None, weight=None, bias=None, mask=None, plan=plan)
        ctx.n = None if plan.masked else s.count
        ctx.save_for_backward(x, weight, bias, call.mask, count, *s[1:])
        ctx.set_materialize_grads(False)
        return (y, *s) if keep else y

    @staticmethod
    def backward(ctx: Any, dy: Array | None, _: None = None, *dtables: Array | None) -> tuple[Array | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight, bias, mask, count, *tables = ctx.saved_tensors
        call = ctx.call._replace(x=x, weight=weight, bias=bias, mask=mask)
        if dy is None or any(g is not None for g in dtables) or torch.is_grad_enabled():
            return None, None, None, *differentiate(call, (dy, *(dtables or (None, None, None))))
        wanted = sum(compress((RESULT, WEIGHTS, BIASES), ctx.needs_input_grad[3:]))
        return None, None, None, *backward(call, Statistics(ctx.n if count is None else count, *tables), dy, wanted)


def backward(call: Call, s: Statistics, dy: Array, wanted: int) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients that are wanted by the engine that is chosen now, which may have been another forward."""
    name, module = chosen("torch")
    pulled = None if module is None else pull(call, s, dy, wanted)
    ran(ARRAY_API if pulled is None else name)
    return array_api.pull(call.alone(), s, dy) if pulled is None else pulled


def differentiate(call: Call, gradients: tuple[Array | None, ...]) -> list[Array | None]:
    """Return the gradients of x, weight and bias by differentiating array-API code, given those of what it returns.

    The arguments may be made of one another, as a weight that is a function of x: so it is differentiated with respect
    to aliases of them, which lie on no path from one to another. A view carries a further derivative on to its
    argument; where none is asked for, the argument's own graph may be gone, and a detached tensor does.
    """
    again = torch.is_grad_enabled()
    if all(g is None for g in gradients):
        return [None, None, None]
    with torch.enable_grad():
        inputs = [
            t if t is None or not t.requires_grad else alias(t, differentiable=again)
            for t in (call.x, call.weight, call.bias)
        ]
        x, weight, bias = inputs
        y, s = array_api.normalize(call.alone()._replace(x=x, weight=weight, bias=bias))
        pairs = [(out, g.to(out.dtype)) for out, g in zip((y, *s[1:]), gradients, strict=True) if g is not None]
        wanted = [t for t in inputs if t is not None and t.requires_grad]
        outputs, given = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=again, allow_unused=True))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]


def alias(value: Array, *, differentiable: bool) -> Array:
    """Return a tensor of the same memory that a gradient can be taken with respect to."""
    return value.view_as(value) if differentiable else value.detach().requires_grad_()


# ---------------------------------------------------------------------------------- tensors and arrays


def tracked(*values: Array | None) -> bool:
    """Whether torch is to differentiate what is made of these."""
    return torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in values)


def plain(value: Array | None) -> bool:
    """Whether a tensor is memory of this process and nothing else: none that is being traced, batched or dual."""
    return value is None or (
        type(value) in _PLAIN
        and value.is_cpu
        and value.layout is torch.strided
        and not value.is_nested
        and not value.is_neg()
        and (forward_ad._current_level < 0 or unpack_dual(value).tangent is None)  # noqa: SLF001
    )


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def transformed() -> bool:
    """Whether operations are being traced or transformed, which kernels would escape."""
    return bool(torch.jit.is_tracing() or _transforms() is not None or _modes())


# Torch has no public name for these. Where it has dropped them, no call is known to be plain.
_transforms = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: True)  # noqa: SLF001
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: True)  # noqa: SLF001


def plan_of(call: Call) -> Plan | None:
    """Return the plan of a call, made now if it is the first of its kind; None where the kernels do not do it."""
    if call.given is not None and tracked(*call.given[1:]):
        return None
    if call.plan is not None:
        found: Plan = call.plan
        return found
    arrays = (call.x, call.weight, call.bias, call.mask, *(call.given or ())[1:])
    if transformed() or not all(map(plain, arrays)) or call.dtype not in MEMORY.stored:
        return None
    made: Plan | None = plans.keep(call, Plan.of(call, as_numpy(stored(call, call.x)), MEMORY))
    return made


def stored(call: Call, x: Array) -> Array:
    """Return x as the kernels take it."""
    return x if x.dtype == call.dtype else x.to(call.dtype)


def described(*tensors: Any) -> tuple[Any, ...] | None:
    """Return what is decided by tensors but for their elements, None where one of them is no plain memory."""
    if transformed():
        return None
    parts: list[Any] = []
    for a in tensors:
        if a is None:
            parts.append(None)
        elif not plain(a):
            return None
        else:
            parts += (a.dtype, a.shape, a.stride())
    return tuple(parts)


plans.describe(torch.Tensor, described)
plans.describe(torch.nn.Parameter, described)
