"""The call of anynorm in a case, of whichever anynorm Python finds: that of another revision, say.

So nothing of the package is imported but the public names, and those inside functions.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .cases import GROUPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .cases import Case

Array: TypeAlias = Any
Norm: TypeAlias = "Callable[[Array], Array]"
Call: TypeAlias = "Callable[[], Any]"


class Given(NamedTuple):
    """The arrays of a case: x, and the gradient of the result where one is asked for."""

    x: Array
    dy: Array = None


def draw(case: Case) -> Given:
    """Return normal data as arrays of the library."""
    np = import_module("numpy")
    count = 2 if case.work == "both" else 1
    return Given(*(give(case, np.random.default_rng(i).standard_normal(case.shape, "float32")) for i in range(count)))


def give(case: Case, a: Array) -> Array:
    """Return a NumPy array as the library's, in the case's dtype and memory format."""
    if case.library == "numpy":
        return a.astype(case.dtype, copy=False)
    if case.library == "jax":
        jnp = import_module("jax.numpy")
        return jnp.asarray(a, dtype=getattr(jnp, case.dtype))
    torch = import_module("torch")
    tensor = torch.from_numpy(a).to(getattr(torch, case.dtype))
    return tensor.contiguous(memory_format=torch.channels_last) if case.layout == "last" else tensor


def ours(case: Case, given: Given) -> Call:
    """Return the call of anynorm."""
    anynorm = import_module("anynorm")
    options: dict[str, Any] = {}
    if case.norm in ("layer", "rms"):
        if len(case.shape) > 2:
            options["axis"] = tuple(range(1, len(case.shape)))
    elif case.channel_axis != 1:
        options["channel_axis"] = case.channel_axis
    if case.norm == "group":
        options["num_groups"] = GROUPS
    if case.library == "numpy" and case.work == "both":
        return partial(pulled, partial(getattr(anynorm.vjp, f"{case.norm}_norm"), **options), *given)
    return calling(case, getattr(anynorm, f"{case.norm}_norm"), given, **options)


def pulled(norm: Callable[[Array], Any], x: Array, dy: Array) -> tuple[Array, Array]:
    """Return a norm of anynorm.vjp, and the gradient of x."""
    y, pullback = norm(x)
    return y, pullback(dy)[0]


def calling(case: Case, norm: Callable[..., Array], given: Given, **options: Any) -> Call:
    """Return the call of a norm, or of it and its gradient by the library's differentiation."""
    if case.library == "jax":
        return jax_call(case, partial(norm, **options), given)
    if case.work == "both":
        return torch_both(import_module("torch"), partial(norm, **options), *given)
    return partial(norm, given.x, **options)


def jax_call(case: Case, norm: Norm, given: Given) -> Call:
    """Return a call that waits for its result."""
    jax = import_module("jax")

    def both(x: Array, dy: Array) -> tuple[Array, Array]:
        y, pull = jax.vjp(norm, x)
        return y, pull(dy)[0]

    function: Callable[..., Any] = both if case.work == "both" else norm
    run = jax.jit(function) if case.mode == "jit" else function
    arguments = given if case.work == "both" else given[:1]
    return lambda: jax.block_until_ready(run(*arguments))


def torch_both(torch: Any, norm: Norm, x: Array, dy: Array) -> Call:
    """Return the call of a norm and of its gradient."""
    x = x.detach().requires_grad_()

    def both() -> tuple[Array, Array]:
        y = norm(x)
        return y, torch.autograd.grad(y, x, dy)[0]

    return both


@contextmanager
def threads(case: Case) -> Iterator[None]:
    """Use one thread inside the block, where the case is of one."""
    if case.mode != "one":
        yield
        return
    with ExitStack() as stack:
        engine = getattr(import_module("anynorm"), "engine", None)  # which early revisions lack
        if engine is not None:
            stack.enter_context(engine(threads=1))
        torch = sys.modules.get("torch")
        if torch is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        yield
