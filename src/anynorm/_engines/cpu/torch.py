"""The engine for tensors of PyTorch on CPUs: Numba's, which reads and writes their memory as NumPy arrays.

What torch differentiates goes through an autograd function, whose gradient is a kernel's, too. Where that gradient is
to be differentiated in its turn, or the statistics are, array-API code is differentiated in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat.numpy
import numpy as np
import torch
from torch.autograd.forward_ad import unpack_dual

from ..._core import standardize as array_api
from ..._core.call import Statistics
from ..choice import ARRAY_API, chosen, ran
from .kernels import KNOWS_FLOAT16
from .numpy import Work

if TYPE_CHECKING:
    from ..._core.call import Call
    from ..._core.libraries import Array

FLOAT32, FLOAT64 = np.dtype("float32"), np.dtype("float64")
STORED = {  # as what the kernels take each dtype, and the dtype to compute in
    torch.float32: (FLOAT32, FLOAT32),
    torch.float64: (FLOAT64, FLOAT64),
    torch.float16: (np.dtype("uint16"), FLOAT32),
    torch.bfloat16: (np.dtype("int16"), FLOAT32),
}
if not KNOWS_FLOAT16:
    del STORED[torch.float16]


def normalize(call: Call) -> tuple[Array, Statistics] | None:
    """Return the normalised tensor, and the statistics of its slices."""
    work = opened(call)
    if work is None:
        return None
    if not tracked(call.x, call.weight, call.bias):
        y, s = work.standardize()
        return tensor(y, call), call.given or tensors(work.narrow(s))
    y, *tables = Normalize.apply(work, call, call.x, call.weight, call.bias)
    return y, call.given or Statistics(None if tables[0] is None else int(work.n), *tables)


def statistics(call: Call) -> Statistics | None:
    """Return the statistics of the slices."""
    work = None if tracked(call.x) else opened(call)
    return None if work is None else tensors(work.standardize(alone=True)[1])


def pull(call: Call, s: Statistics, dy: Array) -> tuple[Array, Array | None, Array | None] | None:
    """Return the gradients of x, weight and bias, given that of the result."""
    if tracked(call.x, call.weight, dy, *s[1:]) or not all(map(plain, (dy, *s[1:]))) or dy.dtype not in STORED:
        return None
    try:
        g = stored(dy)
    except RuntimeError:  # the memory of a batch of gradients is out of reach
        return None
    work = opened(call)
    pulled = None if work is None else work.pull(array_statistics(s), g)
    if pulled is None:
        return None
    dx, *totals = pulled
    parameters = zip((call.weight, call.bias), totals, strict=True)
    return tensor(dx, call), *(None if p is None else call.gradient(p, torch.from_numpy(g)) for p, g in parameters)


class Normalize(torch.autograd.Function):
    """A norm whose gradient is a kernel's."""

    @staticmethod
    def forward(
        ctx: Any, work: Work, call: Call, x: Array, weight: Array | None, bias: Array | None
    ) -> tuple[Array, ...]:
        """Return the normalised tensor, and the mean, its rest and the variance, None where they were given."""
        y, s = work.standardize()
        s = call.given or tensors(work.narrow(s))
        ctx.call, ctx.count = call._replace(x=None, weight=None, bias=None), s.count
        ctx.save_for_backward(x, weight, bias, *s[1:])
        ctx.set_materialize_grads(False)
        return tensor(y, call), *((None,) * 3 if call.given else s[1:])

    @staticmethod
    def backward(ctx: Any, dy: Array | None, *dtables: Array | None) -> tuple[Array | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight, bias, *tables = ctx.saved_tensors
        call = ctx.call._replace(x=x, weight=weight, bias=bias)
        if dy is None or any(g is not None for g in dtables) or torch.is_grad_enabled():
            return None, None, *differentiate(call, (dy, *dtables))
        return None, None, *backward(call, Statistics(ctx.count, *tables), dy)


def backward(call: Call, s: Statistics, dy: Array) -> tuple[Array, Array | None, Array | None]:
    """Return the gradients of x, weight and bias by the engine that is chosen now, which was another one forward."""
    name, module = chosen("torch")
    pulled = None if module is None else pull(call, s, dy)
    ran(ARRAY_API if pulled is None else name)
    return array_api.pull(call, s, dy) if pulled is None else pulled


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
        y, s = array_api.normalize(call._replace(x=x, weight=weight, bias=bias))
        pairs = [(out, g) for out, g in zip((y, *s[1:]), gradients, strict=True) if g is not None]
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
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and not value.is_neg()
        and unpack_dual(value).tangent is None
    )


def transformed() -> bool:
    """Whether operations are being traced or transformed, which kernels would escape."""
    return bool(torch.jit.is_tracing() or _transforms() is not None or _modes())


# Torch has no public name for these. Where it has dropped them, no call is known to be plain.
_transforms = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: True)  # noqa: SLF001
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: True)  # noqa: SLF001


def opened(call: Call) -> Work | None:
    """Return the work of a call, None where the kernels do not do it."""
    arrays = (call.x, call.weight, call.bias, *(call.given or ())[1:])
    if transformed() or not all(map(plain, arrays)) or (call.given is not None and tracked(*call.given[1:])):
        return None
    if call.dtype not in STORED:
        return None
    x = stored(call.x.to(call.dtype))
    as_arrays = call._replace(
        xp=array_api_compat.numpy,
        x=x,
        weight=None if call.weight is None else array(call.broadcastable(call.weight)),
        bias=None if call.bias is None else array(call.broadcastable(call.bias)),
        given=None if call.given is None else array_statistics(call.given),
        computing=STORED[call.dtype][1],
    )
    return Work.of(as_arrays, x, torch.get_num_threads())


def stored(value: Array) -> Array:
    """Return a tensor's memory as the kernels take it."""
    value = value.detach()
    if value.element_size() > 2:
        return value.numpy()
    return value.view(torch.int16).numpy().view(STORED[value.dtype][0])


def array(value: Array | None) -> Array | None:
    """Return the memory of a tensor in the dtype to compute in."""
    return None if value is None else value.detach().numpy()


def array_statistics(s: Statistics) -> Statistics:
    """Return statistics with the memory of their tensors."""
    return Statistics(s.count, *map(array, s[1:]))


def tensor(value: Array, call: Call) -> Array:
    """Return what the kernels wrote as a tensor of the result's dtype."""
    return torch.from_numpy(value).view(call.dtype)


def tensors(s: Statistics) -> Statistics:
    """Return statistics as tensors."""
    return Statistics(s.count, *(None if part is None else torch.from_numpy(part) for part in s[1:]))
