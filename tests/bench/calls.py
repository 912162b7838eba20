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
    """The arrays of a case: x, and what else it asks for."""

    x: Array
    dy: Array = None  # the gradient of the result
    weight: Array = None
    bias: Array = None
    mean: Array = None  # the statistics, or the state to train
    var: Array = None
    mask: Array = None

    @property
    def parameters(self) -> dict[str, Array]:
        """The weight and bias that there are, by name."""
        return {name: a for name, a in (("weight", self.weight), ("bias", self.bias)) if a is not None}


def draw(case: Case) -> Given:
    """Return normal data as arrays of the library; a mask shows five sixths."""
    np = import_module("numpy")
    layer = case.norm in ("layer", "rms")

    def normal(seed: int, shape: tuple[int, ...]) -> Array:
        return give(case, np.random.default_rng(seed).standard_normal(shape, "float32"))

    given = Given(normal(0, case.shape), normal(1, case.shape) if case.work == "both" else None)
    if case.masked:
        broad = (case.shape[0], 1) if layer else (1, 1, *case.shape[2:])
        return given._replace(mask=normal(7, case.shape if case.given == "full mask" else broad) > -1)
    if case.given == "nothing":
        return given
    shape = case.shape[1:] if layer else (case.shape[case.channel_axis],)
    given = given._replace(weight=normal(2, shape), bias=normal(3, shape))
    return given if case.given == "affine" else given._replace(mean=normal(4, shape), var=normal(5, shape) ** 2 + 0.1)


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
    anynorm, options = import_module("anynorm"), arranged(case)
    if given.mask is not None:
        options["where"] = given.mask
    if given.mean is not None:
        stats = anynorm.running_stats(len(given.mean), like=given.x)._replace(mean=given.mean, var=given.var)
        if case.given == "train":
            return partial(trained, partial(anynorm.batch_norm_train, given.x, stats, **given.parameters, **options))
        options["stats"] = stats
    if case.library == "numpy" and case.work == "both":
        return pulled(partial(getattr(anynorm.vjp, f"{case.norm}_norm"), **given.parameters, **options), given)
    return calling(case, getattr(anynorm, f"{case.norm}_norm"), given, **options)


def arranged(case: Case) -> dict[str, Any]:
    """Return the arguments that say which elements share their statistics."""
    options: dict[str, Any] = {}
    if case.norm in ("layer", "rms"):
        if len(case.shape) > 2:
            options["axis"] = tuple(range(1, len(case.shape)))
    elif case.channel_axis != 1:
        options["channel_axis"] = case.channel_axis
    if case.norm == "group":
        options["num_groups"] = GROUPS
    return options


def trained(step: Call) -> tuple[Array, ...]:
    """Return the norm of a step of training, and the mean and variance of the new state."""
    y, stats = step()
    return y, stats.mean, stats.var


def pulled(norm: Callable[[Array], Any], given: Given) -> Call:
    """Return the call of a norm of anynorm.vjp, and of the gradients of x and the parameters."""
    x, dy, *_ = given
    count = 1 + len(given.parameters)

    def both() -> tuple[Array, ...]:
        y, pullback = norm(x)
        return y, *pullback(dy)[:count]

    return both


def calling(case: Case, norm: Callable[..., Array], given: Given, **options: Any) -> Call:
    """Return the call of a norm, or of it and its gradient by the library's differentiation."""
    if case.library == "jax":
        return jax_call(case, partial(norm, **options), given)
    norm = partial(norm, **options)
    if case.mode == "compiled":
        norm = compiled(norm)
    if case.work == "both":
        return torch_both(import_module("torch"), norm, given)
    return partial(norm, given.x, **given.parameters)


def compiled(norm: Callable[..., Array]) -> Callable[..., Array]:
    """Return a norm compiled by torch, as often as there are cases of one code."""
    torch, dynamo = import_module("torch"), import_module("torch._dynamo")
    dynamo.config.recompile_limit = 1000
    made: Callable[..., Array] = torch.compile(lambda *arguments, **named: norm(*arguments, **named), fullgraph=True)
    return made


def jax_call(case: Case, norm: Norm, given: Given) -> Call:
    """Return a call that waits for its result."""
    jax = import_module("jax")

    def both(x: Array, dy: Array) -> tuple[Array, Array]:
        y, pull = jax.vjp(norm, x)
        return y, pull(dy)[0]

    function: Callable[..., Any] = both if case.work == "both" else norm
    run = jax.jit(function) if case.mode == "jit" else function
    arguments = given[: 2 if case.work == "both" else 1]
    return lambda: jax.block_until_ready(run(*arguments))


def torch_both(torch: Any, norm: Callable[..., Array], given: Given) -> Call:
    """Return the call of a norm and of the gradients of x and the parameters."""
    x, dy = given.x.detach().requires_grad_(), given.dy
    parameters = {name: a.detach().requires_grad_() for name, a in given.parameters.items()}
    leaves = (x, *parameters.values())

    def both() -> tuple[Array, ...]:
        y = norm(x, **parameters)
        return y, *torch.autograd.grad(y, leaves, dy)

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
