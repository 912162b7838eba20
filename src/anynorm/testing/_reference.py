"""What is right: the norms by their formula, exactly, and as other libraries have them; and how near to it is right.

The textbook is the formula in any library's own mean and variance; the oracle is the formula in a wider dtype of
NumPy's; the native norms are those that a library brings. `check`, the tests and the benchmark all compare with these.

Array libraries are imported inside functions alone: the command has to start, and to say what is missing, without any.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from anynorm._install import install
from anynorm._report import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Array: TypeAlias = Any
Namespace: TypeAlias = Any
Norm: TypeAlias = "Callable[[Array], Array]"

ERROR = 2e-6  # the promise for float32 data of unit spread ...
UNIT = 8.0  # ... whose results stay below this; larger results have coarser last places

NORMS = ("layer", "rms", "group", "instance", "batch")
GROUPS = 8
EPS = 1e-5  # the native norms differ in their default, so all are told

# --------------------------------------------------------------------------------------------------
# Which elements share their statistics
# --------------------------------------------------------------------------------------------------


def num_groups(channels: int) -> int:
    """Return the largest divisor of the channels up to 8."""
    return next(groups for groups in range(GROUPS, 0, -1) if channels % groups == 0)


def split_shape(norm: str, shape: Sequence[int], channel_axis: int = 1) -> tuple[int, ...]:
    """Return a shape with the channels split into groups, for group norm, and as it is for the others."""
    if norm != "group":
        return tuple(shape)
    axis = channel_axis % len(shape)
    groups = num_groups(shape[axis])
    return (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])


def shared(norm: str, ndim: int, channel_axis: int = 1) -> tuple[int, ...]:
    """Return the axes of an array, of group norm a split one, whose elements share their statistics."""
    channel = channel_axis % (ndim - 1 if norm == "group" else ndim)
    kept = {"batch": (channel,), "instance": (0, channel), "group": (0, channel)}.get(norm, (0,))
    return tuple(axis for axis in range(ndim) if axis not in kept)


# --------------------------------------------------------------------------------------------------
# The textbook
# --------------------------------------------------------------------------------------------------


def closed_form(dy: Array, y: Array, mean: Norm, *, rms: bool) -> Array:
    """Return the gradient of x, given those of the norm and its result, but for the division by the deviation."""
    return dy - (0 if rms else mean(dy)) - y * mean(dy * y)


def deviation(xp: Namespace, x: Array, axes: tuple[int, ...], *, rms: bool) -> Array:
    """Return what the formula divides by, in the library's own mean and variance."""
    if rms:
        return xp.sqrt((x * x).mean(axes, keepdims=True) + EPS)
    biased = {"correction": 0} if xp.__name__ == "torch" else {}
    return xp.sqrt(x.var(axes, keepdims=True, **biased) + EPS)


def standardize(x: Array, by: Array, axes: tuple[int, ...], *, rms: bool) -> Array:
    """Return x less its mean, but in rms norm, divided by the deviation."""
    # In one expression: so NumPy divides in the memory of the difference.
    return (x if rms else x - x.mean(axes, keepdims=True)) / by


def textbook(xp: Namespace, norm: str, shape: Sequence[int], channel_axis: int = 1) -> Norm:
    """Return the norm of arrays of a shape by the formula."""
    split = split_shape(norm, shape, channel_axis)
    axes, rms = shared(norm, len(split), channel_axis), norm == "rms"

    def forward(x: Array) -> Array:
        return standardize(x, deviation(xp, x, axes, rms=rms), axes, rms=rms)

    return forward if norm != "group" else lambda x: forward(x.reshape(split)).reshape(shape)


def textbook_both(
    xp: Namespace, norm: str, shape: Sequence[int], channel_axis: int = 1
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Return the norm of arrays of a shape and the gradient of x, given that of the result, by the formula."""
    split = split_shape(norm, shape, channel_axis)
    axes, rms = shared(norm, len(split), channel_axis), norm == "rms"

    def both(x: Array, dy: Array) -> tuple[Array, Array]:
        x, dy = x.reshape(split), dy.reshape(split)
        by = deviation(xp, x, axes, rms=rms)
        y = standardize(x, by, axes, rms=rms)
        dx = closed_form(dy, y, lambda a: a.mean(axes, keepdims=True), rms=rms) / by
        return y.reshape(shape), dx.reshape(shape)

    return both


# --------------------------------------------------------------------------------------------------
# The oracle: of NumPy arrays, over axes
# --------------------------------------------------------------------------------------------------


def widen(x: Array) -> Array:
    """Return x in a dtype with digits to spare."""
    return x.astype("longdouble" if x.dtype.itemsize > 4 else "float64")


def shown(a: Array, mask: Any) -> Array:
    """Return what the mask shows of an array, and 0 elsewhere."""
    import numpy as np

    return a if mask is True else np.where(mask, a, 0)


def mean_shown(a: Array, axes: tuple[int, ...], mask: Any) -> Array:
    """Return the mean of what the mask shows, 0 where it shows nothing."""
    if mask is True:
        return a.mean(axis=axes, keepdims=True)
    import numpy as np

    count = np.broadcast_to(mask, a.shape).sum(axis=axes, keepdims=True)
    return shown(a, mask).sum(axis=axes, keepdims=True) / np.maximum(count, 1)


def centred(x: Array, axes: tuple[int, ...], *, mask: Any = True) -> Array:
    """Return x less its mean, exactly: the offset goes first, since the widest float too has a last place."""
    d = widen(x)
    for _ in range(2):
        d = shown(d - mean_shown(d, axes, mask), mask)
    return d


def exact(
    x: Array, axes: tuple[int, ...], dy: Array = None, *, eps: float = EPS, rms: bool = False, mask: Any = True
) -> tuple[Array, Array]:
    """Return the norm of x, or, given the gradient of that, the gradient of x, and the deviations divided by.

    Both are 0 in a constant slice, and where a mask shows nothing.
    """
    import numpy as np

    mean = partial(mean_shown, axes=axes, mask=mask)
    d = shown(widen(x), mask) if rms else centred(x, axes, mask=mask)
    root = np.sqrt(mean(d * d) + eps)
    by = np.where(root > 0, root, np.inf)
    if dy is None:
        return d / by, by
    rstd = 1 / by
    dx = rstd * closed_form(shown(dy, mask).astype(d.dtype), d * rstd, mean, rms=rms)
    return shown(dx, mask), by


# --------------------------------------------------------------------------------------------------
# The native norms
# --------------------------------------------------------------------------------------------------


def torch_norm(functional: Any, norm: str, shape: Sequence[int]) -> Norm:
    """Return the norm of torch.nn.functional, of arrays of shape (N, C, *S); its other arguments by keyword."""
    norms: dict[str, Norm] = {
        "layer": partial(functional.layer_norm, normalized_shape=shape[1:], eps=EPS),
        "rms": partial(functional.rms_norm, normalized_shape=shape[1:], eps=EPS),
        "group": partial(functional.group_norm, num_groups=num_groups(shape[1]), eps=EPS),
        "instance": partial(functional.instance_norm, eps=EPS),
        "batch": partial(functional.batch_norm, running_mean=None, running_var=None, training=True, eps=EPS),
    }
    return norms[norm]


def flax_norm(nn: Any, norm: str, shape: Sequence[int], channel_axis: int = 1, *, fast: bool = True) -> Norm:
    """Return the norm of flax.linen, without scale and bias; fast: with the variance that is its default."""
    options: dict[str, Any] = {"epsilon": EPS, "use_scale": False, "use_fast_variance": fast}
    if norm != "rms":
        options["use_bias"] = False
    if norm == "batch":
        batch = nn.BatchNorm(use_running_average=False, axis=channel_axis, **options)
        return lambda x: batch.apply({}, x, mutable=["batch_stats"])[0]
    layers: dict[str, Callable[..., Any]] = {
        "layer": partial(nn.LayerNorm, reduction_axes=shared(norm, len(shape))),
        "rms": partial(nn.RMSNorm, reduction_axes=shared(norm, len(shape))),
        "group": partial(nn.GroupNorm, num_groups(shape[channel_axis])),
        "instance": partial(nn.InstanceNorm, feature_axes=channel_axis),
    }
    apply = partial(layers[norm](**options).apply, {})
    return channels_moved(apply) if norm == "group" and channel_axis != -1 else apply


def channels_moved(norm: Norm) -> Norm:
    """Return a norm of arrays with the channels on axis 1, given one that knows channels last alone."""
    moveaxis = import_module("jax.numpy").moveaxis
    return lambda x: moveaxis(norm(moveaxis(x, 1, -1)), -1, 1)


def jax_layer_norm(nn: Any, x: Array) -> Array:
    """Return the layer norm of jax.nn."""
    return nn.standardize(x, axis=shared("layer", x.ndim), epsilon=EPS)


# --------------------------------------------------------------------------------------------------
# The libraries that are installed, and what each is compared with
# --------------------------------------------------------------------------------------------------

LIBRARIES = {"numpy": "numpy", "cupy": "cupy", "jax": "jax.numpy", "torch": "torch", "dask": "dask.array"}


class Found(NamedTuple):
    """A library: either usable, with its module and the norms to compare with, or with a problem."""

    name: str
    version: str | None = None
    problem: str | None = None
    xp: Namespace = None
    native: str | None = None  # what the norms to compare with are called
    rivals: Mapping[str, Norm] = {}  # of arrays of shape (N, C, *S)


def find(name: str) -> Found:
    """Import a library and try it: importable is not yet usable."""
    try:
        xp = import_module(LIBRARIES[name])
        version = str(import_module(name).__version__)
    except Exception as error:  # a broken installation raises anything
        missing = isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] == name
        problem = f"not installed ({install(name)})" if missing else f"installed but broken: {say(error)}"
        return Found(name, problem=problem)
    try:
        xp.empty(0)
    except Exception as error:  # CuPy alone has several kinds, where driver, device or memory is missing
        broken = "no usable GPU" if name == "cupy" else f"broken: {say(error)}"
        return Found(name, version, f"installed, but {broken}")
    native, rivals = rivals_of(name, xp)
    return Found(name, version, None, xp, native, rivals)


def rivals_of(name: str, xp: Namespace) -> tuple[str, Mapping[str, Norm]]:
    """Return the library's native norms, and what they are called; without any, the textbook's."""
    if name == "torch":
        return "torch.nn.functional", of_any_shape(partial(torch_norm, xp.nn.functional))
    lines = of_any_shape(partial(textbook, xp))
    if name != "jax":
        return "the textbook formula", lines
    try:
        nn, version = import_module("flax.linen"), import_module("flax").__version__
    except Exception:  # Flax is not asked for: missing or broken, JAX does without
        layer = partial(jax_layer_norm, import_module("jax").nn)
        return "jax.nn.standardize, else textbook", {**lines, "layer": layer}
    return f"flax.linen {version}", of_any_shape(partial(flax_norm, nn))


def of_any_shape(make: Callable[[str, Sequence[int]], Norm]) -> dict[str, Norm]:
    """Return every norm as one of arrays of any shape, given what makes the norm of one shape."""
    return {norm: lambda x, norm=norm: make(norm, x.shape)(x) for norm in NORMS}  # type: ignore[misc]


def compiled(found: Found, function: Callable[..., Array]) -> Callable[..., Array]:
    """Return a function compiled as the users of a library do, and as it is where they have no compiler."""
    if found.name == "torch":
        compiler = import_module("torch").compiler
        compiler.reset()  # it gives up on code that it has compiled eight times
        made: Callable[..., Array] = compiler.compile(function)
    elif found.name == "jax":
        made = import_module("jax").jit(function)
    else:
        return function
    return made


def theirs(found: Found, norm: str, x: Array, dy: Array = None) -> Array:
    """Return the native norm of x, or the gradient of x by the library's own differentiation, or by the textbook."""
    native = found.rivals[norm]
    if dy is None:
        return native(x)
    if found.name == "torch":
        x = x.clone().requires_grad_()
        return import_module("torch").autograd.grad(native(x), x, dy)[0]
    if found.name == "jax":
        return import_module("jax").vjp(native, x)[1](dy)[0]
    return textbook_both(found.xp, norm, x.shape)(x, dy)[1]


def promised(np: Namespace, x: Array, exact: Array, deviation: Array, unit: float, axes: tuple[int, ...]) -> Array:
    """Return how far from exact a result may be, for every element or for all; unit is 1, or the largest gradient."""
    largest = abs(exact).max()
    if x.dtype == "float64":
        digits = abs(x).max(axis=axes, keepdims=True) / deviation  # that x's offset takes from it
        return np.maximum(1e-14 * (unit + largest), 4 * sys.float_info.epsilon * digits * unit)
    single = ERROR * max(unit, largest / UNIT)
    # float16 is computed in float32 and rounded once.
    return single if x.dtype == "float32" else np.maximum(np.spacing(abs(exact).astype(x.dtype)), single)
