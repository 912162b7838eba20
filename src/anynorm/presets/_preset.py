"""What every preset is made of: options that translate into anynorm's, and arrays under their names elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .. import _norms as norms
from .. import _running as running
from .._core.arguments import axis_of, integer, number
from .._core.arrays import reshape
from .._core.libraries import namespace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._core.libraries import Array, Shape


class Preset:
    """A norm as a framework has it."""

    norm: ClassVar[Callable[..., Any]]
    widens: ClassVar[bool] = False  # the result has the widest dtype of x and its parameters, not x's

    def options(self, x: Array) -> dict[str, Any]:
        """Return the keywords of anynorm's function that the preset's options amount to for x."""
        raise NotImplementedError

    def normalize(self, x: Array, weight: Array | None, bias: Array | None, where: Array | None = None) -> Array:
        """Normalise x by its own statistics."""
        x = self.widened(x, weight, bias)
        return self.norm(x, weight=weight, bias=bias, where=where, **_but_for_training(self.options(x)))

    def widened(self, x: Array, *parameters: Array | None) -> Array:
        """Return x in the dtype of the result."""
        xp = library(x)
        arrays = [x, *(a for a in parameters if a is not None)]
        if not self.widens or any(namespace_of(a) is not xp for a in arrays):  # which the norm itself refuses
            return x
        dtypes = [a.dtype for a in arrays if xp.isdtype(a.dtype, "real floating")]
        if x.dtype not in dtypes:
            return x
        bits = max(xp.finfo(dtype).bits for dtype in dtypes)
        widest = {dtype for dtype in dtypes if xp.finfo(dtype).bits == bits}
        return xp.astype(x, widest.pop() if len(widest) == 1 else xp.float32, copy=False)  # both halves: float32

    def allowed(self, option: str, name: str, array: Array | None) -> Array | None:
        """Return an array, unless the option that says whether there is one says that there is none."""
        if array is not None and not getattr(self, option):
            message = f"{type(self).__name__}({option}=False) has no {name}: got one; leave it out, or {option}=False"
            raise ValueError(message)
        return array

    def sized(self, x: Array, axis: int, option: str) -> Array:
        """Return x, whose axis has the size that an option says."""
        library(x)  # which it has to have
        size, shape = getattr(self, option), tuple(x.shape)
        if not -x.ndim <= axis < x.ndim or shape[axis] != size:
            message = f"{type(self).__name__} needs x of {option}={size} in axis {axis}: got shape {shape}"
            raise ValueError(message)
        return x

    def trailing(self, x: Array, option: str, more: int | None = None) -> Shape:
        """Return the last axes of x, whose sizes an option says; there may be so many more."""
        library(x)  # which it has to have
        shape = as_tuple(getattr(self, option))
        if tuple(x.shape[-len(shape) :]) != shape or (more is not None and x.ndim > len(shape) + more):
            what = f"x whose shape ends in {shape}" if more is None else f"a sample of shape {shape}, or a batch"
            message = f"{type(self).__name__} needs {what}: got {tuple(x.shape)}"
            raise ValueError(message)
        return tuple(range(-len(shape), 0))

    def weight_of_new(self, option: str) -> float:
        """Return what the new batch weighs, where an option says what the old value does."""
        return 1 - float(number(type(self).__name__, option, getattr(self, option), 0.0, 1.0))


class Stateful(Preset):
    """A norm that keeps a mean and a variance."""

    train: ClassVar[Callable[..., Any]]
    names: ClassVar[tuple[str, str]]  # of the running mean and variance

    def step(
        self, x: Array, mean: Array | None, var: Array | None, weight: Array | None, bias: Array | None,
        *, training: bool, where: Array | None = None, steps: Any = 0,
    ) -> tuple[Array, running.RunningStats]:  # fmt: skip
        """Normalise x by its own statistics and take them into the running ones; or by those, if not in training."""
        x, options = self.widened(x, weight, bias), self.options(x)
        stats = self.start(x) if mean is None and var is None else running.RunningStats(mean, var, steps)
        affine = {"weight": weight, "bias": bias, "where": where}
        if training:
            return self.train(x, stats, **affine, **options)  # type: ignore[no-any-return]
        return self.norm(x, stats=stats, **affine, **_but_for_training(options)), stats

    def start(self, x: Array) -> running.RunningStats:
        """Return what a new layer has: mean 0 and variance 1."""
        axis = axis_of(type(self).__name__, "the channel axis", self.options(x)["channel_axis"], x.ndim)
        return running.running_stats(x.shape[axis], like=x)

    def named(self, stats: running.RunningStats) -> dict[str, Array]:
        """Return a state under its names in the framework."""
        return dict(zip(self.names, stats[:2], strict=True))


class Tracking(Stateful):
    """A norm whose options say whether it has a weight and a bias, and whether it tracks running statistics."""

    names = ("running_mean", "running_var")
    affine: bool
    track_running_stats: bool

    def track(
        self, x: Array, weight: Array | None, bias: Array | None, mean: Array | None, var: Array | None,
        *, training: bool, steps: Any = 0,
    ) -> tuple[Array, running.RunningStats | None]:  # fmt: skip
        """Return y and the state, None if none is tracked."""
        weight, bias = self.allowed("affine", "weight", weight), self.allowed("affine", "bias", bias)
        mean, var = (
            self.allowed("track_running_stats", name, a) for name, a in zip(self.names, (mean, var), strict=True)
        )
        if not self.track_running_stats:
            return self.normalize(x, weight, bias), None
        return self.step(x, mean, var, weight, bias, training=training, steps=steps)


class Layer(Preset):
    """Layer norm."""

    norm = staticmethod(norms.layer_norm)


class Rms(Preset):
    """RMS norm."""

    norm = staticmethod(norms.rms_norm)


class Group(Preset):
    """Group norm."""

    norm = staticmethod(norms.group_norm)


class Instance(Preset):
    """Instance norm, which keeps a state in PyTorch alone."""

    norm = staticmethod(norms.instance_norm)


class Batch(Stateful):
    """Batch norm."""

    norm = staticmethod(norms.batch_norm)
    train = staticmethod(running.batch_norm_train)


def _but_for_training(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that inference has, too."""
    return {name: value for name, value in options.items() if name not in {"momentum", "correction"}}


def along(a: Array | None, axes: int | slice | Shape, x: Array) -> Array | None:
    """Return a parameter that runs along some axes of x at x's rank, where it broadcasts."""
    if a is None:
        return None
    xp, ndim = library(a), library(x) and x.ndim
    held = (
        range(ndim)[axes]
        if isinstance(axes, slice)
        else [axis_of("a preset", "an axis", i, ndim) for i in as_tuple(axes)]
    )
    shape = tuple(x.shape[i] if i in held else 1 for i in range(ndim))
    if math.prod(a.shape) != math.prod(shape):
        message = f"a preset needs a parameter along axes {tuple(held)} of {tuple(x.shape)}: got shape {tuple(a.shape)}"
        raise ValueError(message)
    return reshape(xp, a, shape)


def groups(x: Array, number: int, option: str = "num_groups", axis: int = -1) -> int:
    """Return how often a number of groups, or of channels in one, divides the channels."""
    if number < 1 or x.shape[axis] % number:
        message = f"GroupNorm needs {option} to divide the {x.shape[axis]} channels: got {number}"
        raise ValueError(message)
    return int(x.shape[axis]) // number


def library(a: Array) -> Any:
    """Return the namespace of an array; anything else is refused."""
    xp = namespace_of(a)
    if xp is None:
        message = f"presets need arrays: got {type(a).__module__}.{type(a).__qualname__}; make one of it"
        raise TypeError(message)
    return xp


def as_tuple(axes: Any) -> Shape:
    """Return one integer or several as several."""
    return tuple(axes) if isinstance(axes, Iterable) else (integer("a preset", "an axis or size", axes),)


def arrays(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return what lies at a path in a mapping, nested or flat, whose steps are separated by dots."""
    found: Any = tree
    for name in path.split(".") if path else ():
        found = branches(found).get(name)
    if not isinstance(found, Mapping):  # then the names are flat, or there is no such path
        found = {str(name).removeprefix(f"{path}."): a for name, a in tree.items() if str(name).startswith(f"{path}.")}
    inner = (Mapping, list, tuple)
    own = {name: a for name, a in found.items() if not isinstance(a, inner) and "." not in str(name)}
    if not own:
        names = ", ".join([*map(str, tree)][:8])
        message = f"arrays needs the path of a layer, such as 'block.norm': got {path!r}, where there is {names}"
        raise ValueError(message)
    return own


def branches(tree: Any) -> dict[str, Any]:
    """Return what a mapping or a list holds, by names, which numbers are too; an array has no branches."""
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {str(name): value for name, value in pairs}


def arrays_of_all(trees: Mapping[str, Mapping[str, Any]], path: str) -> dict[str, Any]:
    """Return what lies at a path in any of several mappings."""
    flat = {".".join(map(str, names)): a for tree in trees.values() for names, a in leaves(tree)}
    return arrays(flat, path)


def leaves(tree: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of whatever is no mapping."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from (((name, *rest), leaf) for rest, leaf in leaves(value))
        else:
            yield (name,), value
