"""What the engines for PyTorch share: which tensors a kernel may take, and the autograd function of a norm.

What torch differentiates goes through an autograd function, whose gradient is a kernel's, too. Where that gradient is
to be differentiated in its turn, or the statistics are, array-API code is differentiated in its place.
"""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad
from torch.autograd.forward_ad import unpack_dual

from .._core import plans
from .._core import standardize as array_api
from .._core.call import Statistics
from .choice import ask
from .lowering import BIASES, RESULT, WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.call import Call
    from .._core.libraries import Array


def normalize(call: Call, plan: Any, *, keep: bool) -> tuple[Array, Statistics | None]:
    """Return the normalised tensor by a plan, and the statistics where they are to be kept; torch differentiates it."""
    if not tracked(call.x, call.weight, call.bias):
        done: tuple[Array, Statistics | None] = plan.normalize(call, stored(call, call.x), keep=keep)
        return done
    if not keep or call.given is not None:
        return Normalize.apply(plan, call, False, call.x, call.weight, call.bias), call.given
    y, *s = Normalize.apply(plan, call, True, call.x, call.weight, call.bias)
    return y, Statistics(*s)


class Normalize(torch.autograd.Function):
    """A norm whose gradient is a kernel's."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Any,
        call: Call,
        keep: bool,  # noqa: FBT001  apply knows no keywords
        x: Array,
        weight: Array | None,
        bias: Array | None,
    ) -> Array | tuple[Array | None, ...]:
        """Return the normalised tensor, and the statistics where they are to be kept."""
        y, s = plan.normalize(call, stored(call, x), keep=True)
        count = s.count if isinstance(s.count, torch.Tensor) else None
        ctx.call = call._replace(x=None, weight=None, bias=None, mask=None, plan=plan)
        ctx.n = None if count is not None else s.count
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
    pulled: tuple[Array | None, Array | None, Array | None] | None = ask("torch", "pull", call, s, dy, wanted)
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


# ---------------------------------------------------------------------------------- which tensors


def tracked(*values: Array | None) -> bool:
    """Whether torch is to differentiate what is made of these."""
    return torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in values)


def pulls(call: Call, s: Statistics, dy: Array, plain: Callable[[Array | None], bool]) -> bool:
    """Whether a kernel may pull a gradient back: it is memory, and nobody differentiates it further."""
    if tracked(call.x, call.weight, dy, *s[1:]) or not all(map(plain, (dy, *s[1:]))):
        return False
    try:
        dy.data_ptr()
    except RuntimeError:  # the memory of a batch of gradients is out of reach
        return False
    return True


def may_plan(call: Call, plain: Callable[[Array | None], bool]) -> bool:
    """Whether the tensors of a call are memory, and nobody traces what is done with them."""
    arrays = (call.x, call.weight, call.bias, call.mask, *(call.given or ())[1:])
    return not transformed() and all(map(plain, arrays))


def plain(value: Array | None) -> bool:
    """Whether a tensor is memory and nothing else: none that is being traced, batched or dual."""
    return value is None or (
        type(value) in _PLAIN
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
        elif not plain(a) or a.is_meta:
            return None
        else:
            parts += (a.dtype, a.shape, a.stride()) if a.is_cpu else (a.dtype, a.shape, a.stride(), a.device)
    return tuple(parts)


plans.describe(torch.Tensor, described)
plans.describe(torch.nn.Parameter, described)
