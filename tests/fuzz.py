"""Random calls of every public function, right and wrong: each must end in a right result or in a documented exception.

`python tests/fuzz.py --seconds 60 --seed 0 --library numpy --library torch` fuzzes; `--replay SEED:INDEX` repeats one
call. Every call is drawn from its seed and index alone.

What a call may raise is a TypeError or a ValueError in anynorm's own words. What it returns has the right shape, dtype
and library, and no NaN where every number given is finite and below 1e18, and no array so small that its squares leave
float32. No warning escapes, and no input is written to. The library looks at no array's values, so variances and
counts, and eps and its like as arrays, are never negative.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import math
import random
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

import anynorm
from anynorm.testing import USES, Use, usable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LIMIT = 1e18  # above, squares leave float32: infinities and NaN are documented
LEAST = 1e-15  # below, squares leave it too, and where eps is 0 there is no result but NaN
HALF_LIMIT = 100.0  # of numbers in a call with parameters in 16 bits: its result may not fit them
FUNCTIONS = tuple(
    name
    for name in anynorm.__all__
    if inspect.isfunction(getattr(anynorm, name)) and name not in ("engine", "register")
)

# ------------------------------------------------------------------------------------------------ what there is to draw

# Channels are mostly 4, so that parameters fit. JAX compiles every operation for every shape, and gets few.
SHAPES = (
    *(
        (),
        (0,),
        (1,),
        (4,),
        (3, 4),
        (1, 4),
        (0, 4),
        (4, 0),
        (2, 1),
        (260, 4),
        (2, 4, 3),
        (2, 4, 0),
        (0, 4, 3),
        (1, 4, 1),
    ),
    *((2, 3, 4), (2, 4, 3, 2), (0, 4, 3, 2), (3, 4, 1, 1), (2, 4, 1, 3, 2), (1, 4, 2, 1, 1)),
)
FEW = ((), (4,), (0, 4), (3, 4), (2, 4, 3), (2, 4, 0), (1, 4, 1), (2, 4, 3, 2))
INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = {
    "numpy": (
        *INTEGERS,
        "float16",
        "float32",
        "float64",
        "longdouble",
        ">f4",
        "complex64",
        "complex128",
        "object",
        "U3",
    ),
    "array_api_strict": (*INTEGERS, "float32", "float64", "complex64", "complex128"),
    "torch": (*INTEGERS, "float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    "jax": (*INTEGERS, "float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    "dask": (*INTEGERS, "float16", "float32", "float64", "complex64"),
    "cupy": (*INTEGERS, "float16", "float32", "float64", "complex64"),
    "mlx": (*INTEGERS, "float16", "bfloat16", "float32", "complex64"),
}
REAL = ("float16", "bfloat16", "float32", "float64", "longdouble", ">f4")
VALUES = ("noise", "offset", "constant", "zeros", "huge", "tiny", "ramp")
LAYOUTS = {
    "numpy": ("plain", "Fortran", "reversed", "strided", "read-only", "zero-stride"),
    "torch": ("plain", "transposed", "strided", "expanded", "channels_last", "requires_grad"),
    "array_api_strict": ("plain", "transposed", "reversed"),
    "jax": ("plain",),
    "dask": ("plain", "transposed", "reversed"),
    "cupy": ("plain", "transposed", "reversed"),
    "mlx": ("plain", "transposed", "reversed"),
}
LAZY = ("dask", "cupy", "jax")
BIG = 10**400  # no float holds it


def identity(a: Any) -> Any:
    """Sum over one replica."""
    return a


def junk(draw: Draw) -> Any:
    """Return what nobody should pass."""
    return draw.pick(
        None, "text", "", b"x", 3, 0, -1, 2.5, True, 1j, math.nan, math.inf, -math.inf, BIG, Fraction(1, 2), Ellipsis,
        [], [1.0, 2.0], [[1.0], [2.0]], (), (1.0,), (1, 0), {}, {1}, range(3), slice(None), object, identity,
        np.ma.masked_array([1.0, 2.0], mask=[True, False]), np.ndarray,
        np.array(["a", None], dtype=object), np.zeros(3, "datetime64[s]"), np.zeros(2, [("a", "f4")]),
        anynorm.RunningStats(None, None), anynorm.Moments(1, 2, 3),
    )  # fmt: skip


@dataclass
class Draw:
    """One call's source of chance."""

    backend: Use
    seed: int
    index: int
    x64: bool = field(init=False)
    careful: bool = field(init=False)  # every argument is meant to be right

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.seed}:{self.index}")
        self.rng = np.random.default_rng((self.seed, self.index))
        self.x64 = self.chance(0.1 if self.backend.library == "jax" else 0.25)
        self.careful = self.chance(0.5)

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def wrong(self) -> bool:
        """Whether the next argument is to be wrong."""
        return not self.careful and self.chance(0.2)

    # -------------------------------------------------------------------------------------------- arrays

    def array(self, shape: tuple[int, ...], dtype: str, values: str = "noise", *, least: float | None = None) -> Any:
        """Return an array of the library, in some layout; least bounds its elements from below."""
        a = np.asarray(self.values(shape, values))
        if least is not None:
            a = np.abs(a) + least
        return self.lay_out(self.as_dtype(a, dtype), dtype)

    def values(self, shape: tuple[int, ...], values: str) -> np.ndarray:
        """Return float64 data of a kind."""
        noise = self.rng.standard_normal(shape)
        if values == "offset":
            noise += self.pick(1e2, 1e4, 1e6)
        elif values == "constant":
            noise = np.full(shape, self.pick(1.0, 0.1, -3.7e5))
        elif values == "zeros":
            noise = np.zeros(shape)
        elif values == "huge":
            noise = np.clip(noise, -9, 9) * self.pick(1e4, 1e10, 1e17)
        elif values == "tiny":
            noise = noise * self.pick(1e-5, 1e-19, 1e-30, 1e-44, 1e-300)
        elif values == "ramp":
            noise = np.linspace(1e3, 1e3 + 4, noise.size).reshape(shape)
        elif values == "broken" and noise.size:
            noise = np.array(noise)
            noise.flat[int(self.rng.integers(noise.size))] = self.pick(math.nan, math.inf, -math.inf, 1e18, 1e30, 1e300)
        return noise

    @staticmethod
    def as_dtype(a: np.ndarray, dtype: str) -> np.ndarray:
        """Return a in the dtype, or, where NumPy lacks that, in one it is made from; what does not fit is clipped."""
        if dtype == "bfloat16":
            return a.astype("float32")
        kind = np.dtype(dtype)
        if kind.kind in "iu":
            info = np.iinfo(kind)
            a = np.clip(np.nan_to_num(a), max(info.min, -(2.0**62)), min(info.max, 2.0**62) // 2)
        elif kind == np.float16:
            a = np.where(np.isfinite(a), np.clip(a, -6e4, 6e4), a)
        return np.asarray(a).astype(kind)

    def lay_out(self, a: np.ndarray, dtype: str) -> Any:
        """Return a as the library's array, in one of its layouts."""
        layout = self.pick("plain", *LAYOUTS[self.backend.library])
        name = None if dtype in ("object", "U3", ">f4", "longdouble") else dtype
        if self.backend.library == "torch":
            return _torch_layout(self.backend, a, name, layout)
        if self.backend.library == "numpy":
            return _numpy_layout(a, layout)
        if layout == "transposed" and a.ndim >= 2:
            return self._permuted(self.backend.array(a.T, name))
        if layout == "reversed" and a.ndim:
            return self.backend.array(a[::-1], name)[::-1, ...]
        return self.backend.array(a, name)

    def _permuted(self, a: Any) -> Any:
        """Reverse the order of the axes."""
        xp = anynorm._core.libraries.namespace_of(a)
        return xp.permute_dims(a, tuple(range(a.ndim))[::-1])

    def foreign(self, shape: tuple[int, ...] = (2, 4)) -> Any:
        """Return an array of another library, but not of one that is lazy or compiles."""
        others = [b for b in PLAIN if b.library not in (self.backend.library, *LAZY) and usable_here(b.library)]
        return self.pick(*others).array(np.ones(shape), "float32") if others else [1.0] * 4

    def dtype(self) -> str:
        """Return any dtype of the library, mostly a floating one."""
        own = [d for d in DTYPES[self.backend.library] if self.x64 or self.backend.library != "jax" or "64" not in d]
        own = [d for d in own if d != "float64" or "float64" in self.backend.floats or self.backend.library == "jax"]
        own = [d for d in own if d in self.backend.floats or d not in ("float64", "complex128") or self.x64]
        good = [d for d in own if not d.startswith(("complex", "object", "U"))]
        floats = [d for d in own if d in REAL]
        if self.backend.library == "jax" and self.chance(0.6):
            return "float32"
        return self.pick(*(own if self.wrong() else good if self.chance(0.3) else floats))

    def x(self, *, least_rank: int = 1) -> Any:
        """Return something to normalise."""
        if self.wrong():
            return self.pick(self.foreign(), junk(self), junk(self))
        shapes = [s for s in (FEW if self.backend.library == "jax" else SHAPES) if len(s) >= least_rank or self.wrong()]
        values = "broken" if self.chance(0.05) else self.pick("noise", *VALUES)
        return self.array(self.pick(*shapes), self.dtype(), values)

    def parameter(self, x: Any, own: tuple[int, ...], *, least: float | None = None) -> Any:
        """Return what comes with x in the shape own."""
        if self.wrong():
            wrong = (*own, 2), own[:-1], tuple(s + 1 for s in own), (0,), (1,) * 6, (7, *shape_of(x)), (4, 4)
            shape = self.pick(*wrong)
            kinds = junk(self), self.foreign(shape), self.array(shape, self.dtype(), least=least)
            return self.pick(*kinds)
        values = "broken" if self.chance(0.02) else self.pick("noise", "noise", "zeros", "constant")
        if values == "constant":  # large constants would add to what x may be
            values = "noise"
        return self.array(own, self.dtype(), values, least=least)

    def affine(self, x: Any, axes: tuple[int, ...]) -> Any:
        """Return weight or bias: mostly None, else of the shape of the axes or of x's rank."""
        if self.chance(0.6):
            return None
        shape = shape_of(x)
        own = tuple(shape[i] for i in axes)
        at_rank = tuple(s if self.chance(0.5) else 1 for s in shape)
        return self.parameter(x, self.pick(own, own, at_rank))

    def where(self, x: Any) -> Any:
        """Return a mask: mostly None."""
        if self.chance(0.5):
            return None
        if self.wrong():
            return self.parameter(x, shape_of(x))
        shape = tuple(s if self.chance(0.7) else 1 for s in shape_of(x))[self.pick(0, 0, 0, 1) :]
        mask = self.rng.random(shape) < self.pick(0.0, 0.5, 0.9, 1.0)
        return self.lay_out(mask, "bool")

    # -------------------------------------------------------------------------------------------- numbers

    def number(self, *good: Any) -> Any:
        """Return one of the numbers, in one of the forms of a number, or junk."""
        if self.wrong():
            return self.pick(junk(self), -1e-3, 1e300, self.foreign(()), self.array((), self.dtype(), least=0.0))
        value = self.pick(*good)
        if value is None or self.chance(0.8):
            return value
        forms: list[Callable[[Any], Any]] = [np.float64, np.float32, lambda v: self.backend.array(v, "float32")]
        return self.pick(*forms)(value)

    def eps(self) -> Any:
        return self.number(1e-5, 0, 0.0, 1e-12, 1e-40, 1e-3, 1)

    def axis(self, x: Any) -> Any:
        """Return one axis, or several."""
        n = len(shape_of(x))
        if self.wrong() or not n:
            return self.pick(junk(self), n, -n - 1, (0, 0), (n,), (0, -n), [0], None)
        some = self.random.sample(range(n), self.random.randint(1, n))
        return self.pick(-1, 0, some[0], tuple(some), [i - n for i in some], tuple(range(n)))

    def channel(self, x: Any) -> Any:
        """Return a channel axis."""
        n = len(shape_of(x))
        if self.wrong() or not n:
            return self.pick(junk(self), n, -n - 1, 1)
        return self.pick(min(1, n - 1), min(1, n - 1), -1, 0)

    def groups(self, channels: int) -> Any:
        if self.wrong():
            return self.pick(junk(self), 0, -1, 3, channels + 1)
        return self.pick(*[g for g in range(1, max(channels, 1) + 1) if channels % g == 0])

    def sync(self) -> Any:
        """Return a sum, or what cannot be called: what a wrong function would do is no business of the library's."""
        wrong = junk(self) if self.chance(0.3) and self.wrong() else None
        return wrong if wrong is not None and not callable(wrong) else self.pick(None, None, None, identity)

    # -------------------------------------------------------------------------------------------- tuples of arrays

    def stats(self, x: Any, channels: int) -> Any:
        """Return a state."""
        if self.wrong():
            return self.pick(junk(self), None, (np.zeros(channels), np.ones(channels)))
        mean = self.parameter(x, (channels,))
        var = self.parameter(x, (channels,), least=self.pick(*(() if narrow(x) else (0.0,)), 1e-3, 1.0))
        steps = self.pick(0, 3, self.backend.array(self.pick(0, 7), "int32"))
        steps = junk(self) if self.wrong() else steps
        if self.pick(True, False, False, False):
            return anynorm.PopulationStats(mean, var, steps, self.parameter(x, (channels,)))
        return anynorm.RunningStats(mean, var, steps)

    def moments(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return moments as the library makes them, or put together by hand."""
        if self.wrong():
            return self.pick(junk(self), self.foreign(), (1.0, 2.0, 3.0))
        if self.wrong():
            return anynorm.Moments(*(self.parameter(None, shape, least=0.0) for _ in range(self.pick(3, 4))))
        return anynorm.moments(self.array((self.pick(0, 1, 3), *shape), dtype, self.pick(*VALUES)), axis=0)


PLAIN = tuple(b for b in USES if not b.variant)
usable_here = functools.cache(usable)


def owner_of(value: Any) -> Use | None:
    """Return the backend whose array a value is; no library is imported to find out."""
    return next((b for b in PLAIN if b.library in sys.modules and b.owns(value)), None)


def narrow(a: Any) -> bool:
    """Whether a is a 16-bit array."""
    return str(getattr(a, "dtype", "")).endswith("float16")


def shape_of(x: Any) -> tuple[int, ...]:
    """Return x's shape, or one to go on with where it has none."""
    shape = getattr(x, "shape", None)
    return tuple(shape) if isinstance(shape, tuple) else (2, 4)


def _numpy_layout(a: np.ndarray, layout: str) -> np.ndarray:
    """Return the values of a in a layout, zero-stride keeping the first along the last axis alone."""
    if layout == "Fortran":
        return np.asfortranarray(a)
    if layout == "reversed" and a.ndim:
        return np.flip(np.ascontiguousarray(np.flip(a, -1)), -1)
    if layout == "strided" and a.ndim:
        return np.repeat(a, 2, axis=-1)[..., ::2]
    if layout == "zero-stride" and a.ndim:
        return np.broadcast_to(a[..., :1], a.shape) if a.shape[-1] else a
    if layout == "read-only":
        a = np.array(a)
        a.flags.writeable = False
    return a


def _torch_layout(backend: Use, a: np.ndarray, dtype: str | None, layout: str) -> Any:
    """Return a tensor in a layout, an expanded one keeping the first along the last axis alone."""
    import torch

    t = backend.array(a, dtype)
    if layout == "transposed" and t.ndim >= 2:
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided" and t.ndim:
        return torch.stack([t, t], dim=-1)[..., 0]
    if layout == "expanded" and t.ndim and t.shape[-1]:
        return t[..., :1].expand(t.shape)
    if layout == "channels_last" and t.ndim == 4:
        return t.contiguous(memory_format=torch.channels_last)
    if layout == "requires_grad" and t.is_floating_point():
        return t.requires_grad_()
    return t


# ------------------------------------------------------------------------------------------------ the calls


@dataclass
class Call:
    """A public function with arguments."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        return getattr(anynorm, self.name)(*self.args, **self.kwargs)

    def __str__(self) -> str:
        given = [describe(a) for a in self.args] + [f"{name}={describe(a)}" for name, a in self.kwargs.items()]
        return f"anynorm.{self.name}({', '.join(given)})"

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Yield every argument with its name, those in tuples one by one."""
        for name, value in (*((str(i), a) for i, a in enumerate(self.args)), *self.kwargs.items()):
            if isinstance(value, tuple):
                yield from ((name, part) for part in value)
            else:
                yield name, value


def describe(value: Any) -> str:
    """Return an argument as it can be built again."""
    if isinstance(value, tuple):
        name = type(value).__name__ if hasattr(value, "_fields") else ""
        return f"{name}({', '.join(describe(part) for part in value)}{',' if len(value) == 1 else ''})"
    if not hasattr(value, "dtype"):
        return repr(value) if value is not BIG else "10**400"
    owner = owner_of(value)
    if owner is None:
        return repr(value)
    strides = value.stride() if hasattr(value, "stride") else getattr(value, "strides", None)
    held = owner.numpy(value)
    values = held.tolist() if held.size <= 64 else f"<{held.size} values>"
    return f"{owner.library}.array({values}, dtype={value.dtype}, shape={tuple(value.shape)}, strides={strides})"


def draw_call(draw: Draw) -> Call:
    """Draw a public function and its arguments."""
    name = draw.pick(*FUNCTIONS)
    if name in ("layer_norm", "rms_norm"):
        return _layer(draw, name)
    if name in ("moments", "zscore", "minmax_scale"):
        return _data(draw, name)
    if name in ("merge", "variance", "population_stats"):
        return _of_moments(draw, name)
    if name in ("weight_standardize", "unit_norm", "local_response_norm", "spectral_norm"):
        return _relative(draw, name)
    if name == "running_stats":
        size = draw.pick(0, 1, 4, np.int64(3), True, -1, 2.0, junk(draw)) if draw.wrong() else draw.pick(0, 1, 4)
        return Call(name, (0 if size is BIG else size,), {"like": draw.x(least_rank=0)})
    return _channels(draw, name)


def _layer(draw: Draw, name: str) -> Call:
    x = draw.x()
    axis = draw.axis(x)
    try:
        axes = anynorm._core.arguments.axes_of("", axis, len(shape_of(x)))
    except (TypeError, ValueError, OverflowError):
        axes = ()
    kwargs = {"axis": axis, "eps": draw.eps(), "where": draw.where(x), "sync": draw.sync()}
    return Call(name, (x, draw.affine(x, axes), draw.affine(x, axes)), kwargs)


def _data(draw: Draw, name: str) -> Call:
    x = draw.x()
    kwargs = {"axis": draw.axis(x), "where": draw.where(x)}
    if name == "moments":
        kwargs["keepdims"] = draw.pick(True, False)
    elif name == "zscore":
        kwargs["correction"] = draw.number(0, 1, 0.5, 3)
    elif draw.chance(0.5):
        bounds = draw.number(-1, 0.0, -2.5), draw.number(1, 2.0, 255)
        kwargs["feature_range"] = junk(draw) if draw.wrong() else bounds
    return Call(name, (x,), kwargs)


def _of_moments(draw: Draw, name: str) -> Call:
    shape, dtype = draw.pick((), (4,), (4,), (0,), (2, 4)), draw.dtype()
    if name == "population_stats" and not draw.wrong():
        shape = draw.pick((4,), (0,))
    if any(kind in dtype for kind in ("complex", "object", "U3")):
        dtype = "float32"
    if name == "merge":
        return Call(name, tuple(draw.moments(shape, dtype) for _ in range(draw.pick(1, 2, 3))), {})
    return Call(name, (draw.moments(shape, dtype),), {"correction": draw.number(0, 1, 1, 0.5)})


def _channels(draw: Draw, name: str) -> Call:
    x = draw.x(least_rank=1 if name.startswith("batch") else 2)
    channel = draw.channel(x)
    shape = shape_of(x)
    index = channel if isinstance(channel, int) and -len(shape) <= channel < len(shape) else 0
    channels = shape[index] if shape else 1
    axes = (index % len(shape),) if shape else ()
    args: tuple[Any, ...] = (x,)
    kwargs = {"weight": draw.affine(x, axes), "bias": draw.affine(x, axes), "channel_axis": channel}
    kwargs |= {"eps": draw.eps(), "where": draw.where(x), "sync": draw.sync()}
    if name == "group_norm":
        args += (draw.groups(channels),)
    elif name.endswith("train"):
        args += (draw.stats(x, channels),)
        kwargs |= {"momentum": draw.number(0.1, 0, 1, None), "correction": draw.number(0, 1, 0.5)}
        if name == "batch_renorm_train":
            kwargs |= {"r_max": draw.number(1, 3.0, 1e3), "d_max": draw.number(0, 5.0, 1e3)}
    elif draw.chance(0.5):
        kwargs["stats"] = draw.stats(x, channels)
        kwargs["sync"] = None if draw.chance(0.8) else kwargs["sync"]
    controls = {"switchable_norm": ((3,), (3,)), "batch_instance_norm": ((channels,),)}
    args += tuple(draw.parameter(x, shape) for shape in controls.get(name.removesuffix("_train"), ()))
    return Call(name, args, kwargs)


def _relative(draw: Draw, name: str) -> Call:
    x = draw.x()
    if name == "unit_norm":
        return Call(name, (x,), {"p": draw.number(1, 2, 2.5, math.inf), "axis": draw.axis(x), "eps": draw.eps()})
    channel = draw.channel(x)
    args: tuple[Any, ...] = (x,)
    kwargs = {"channel_axis": channel}
    if name == "local_response_norm":
        args += (draw.groups(4) if draw.chance(0.8) else draw.pick(3, 9),)
        kwargs |= {"alpha": draw.number(1e-4, 0, 2.0), "beta": draw.number(0.75, 0, 1), "k": draw.number(1.0, 2)}
    else:
        kwargs["eps"] = draw.eps()
    if name == "spectral_norm":
        shape = shape_of(x)
        channels = shape[channel] if isinstance(channel, int) and -len(shape) <= channel < len(shape) else 1
        args += (draw.parameter(x, (channels,)),)
        kwargs["steps"] = draw.pick(junk(draw), -1) if draw.wrong() else draw.pick(0, 1, 3)
        kwargs["steps"] = 1 if kwargs["steps"] is BIG else kwargs["steps"]  # it would take them all
    return Call(name, args, kwargs)


# ------------------------------------------------------------------------------------------------ what must hold


def check(backend: Use, call: Call, outcome: Any) -> str:
    """Fail unless the outcome of a call is right; return what kind of outcome it is."""
    if isinstance(outcome, Exception):
        return check_exception(outcome)
    first = call.kwargs["like"] if call.name == "running_stats" else call.args[0]
    backend = (
        owner_of(first[1] if isinstance(first, tuple) else first) or backend
    )  # foreign arrays alone are welcome, too
    for given, right in zip(flatten(outcome), expected(backend, call), strict=True):
        check_array(backend, given, *right)
    if tame(call):
        for given in flatten(outcome):
            check_values(backend, call, given)
    return "result"


def check_exception(error: Exception) -> str:
    """Fail unless an exception is a documented one, in anynorm's own words."""
    words = str(error).replace("()", "").split()
    if type(error) not in (TypeError, ValueError) or not words or words[0] not in (*FUNCTIONS, "anynorm"):
        raise error
    return f"{type(error).__name__}: {' '.join(words[1:4])}"


def flatten(outcome: Any) -> list[Any]:
    """Return the arrays of a result; a state counts as three."""
    if isinstance(outcome, tuple):
        return [leaf for part in outcome for leaf in flatten(part)]
    return [outcome]


def expected(backend: Use, call: Call) -> list[tuple[Any, Any]]:
    """Return the shape and the dtype of each array of a result; None for a dtype that is free."""
    first = call.args[0]
    if call.name in ("merge", "variance", "population_stats"):
        one = (first.mean.shape, first.mean.dtype)
        return {"merge": [one] * 4, "variance": [one], "population_stats": [one, one, ((), None), one]}[call.name]
    if call.name == "running_stats":
        computed = computing(backend, call.kwargs["like"])
        return [((first,), computed)] * 2 + [((), None)]
    if call.name == "moments":
        return [(reduced(first.shape, call.kwargs), computing(backend, first))] * 4
    y = [(first.shape, floating(backend, first))]
    if call.name == "spectral_norm":
        return [*y, (call.args[1].shape, call.args[1].dtype)]
    if not call.name.endswith("train"):
        return y
    stats = call.args[1]
    rest = [(part.shape, part.dtype) for part in stats[3:]]
    return [*y, *((part.shape, part.dtype) for part in stats[:2]), (getattr(stats.steps, "shape", ()), None), *rest]


def floating(backend: Use, x: Any) -> str:
    """Return the name of the result's dtype."""
    name = backend.dtype(x)
    if name in (*REAL, "float128"):
        return name
    return "float64" if wide_default(backend) else "float32"


def wide_default(backend: Use) -> bool:
    """Whether the default float is float64 here."""
    if backend.library == "jax":
        import jax

        return bool(jax.config.jax_enable_x64)
    return backend.default_float == "float64"


def computing(backend: Use, x: Any) -> str:
    """Return the name of the dtype of statistics."""
    name = floating(backend, x)
    return "float32" if name in ("float16", "bfloat16", ">f4") else name


def reduced(shape: tuple[int, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    """Return the shape after a reduction."""
    axes = anynorm._core.arguments.axes_of("", kwargs["axis"], len(shape))
    if kwargs["keepdims"]:
        return tuple(1 if i in axes else s for i, s in enumerate(shape))
    return tuple(s for i, s in enumerate(shape) if i not in axes)


def check_array(backend: Use, y: Any, shape: Any, dtype: Any) -> None:
    """Fail unless y is an array of the library, of the shape and the dtype."""
    if dtype is None and isinstance(y, int):
        return  # steps that were an int
    assert backend.owns(y), f"a {type(y).__name__} is returned"
    assert tuple(y.shape) == tuple(shape), f"shape {tuple(y.shape)}, not {tuple(shape)}"
    if dtype is not None:
        name = dtype if isinstance(dtype, str) else str(dtype).rpartition(".")[2]
        assert same_dtype(backend.dtype(y), name), f"dtype {y.dtype}, not {name}"


def same_dtype(one: str, other: str) -> bool:
    """Whether two names are of one dtype, in whichever byte order."""
    return {">f4": "float32"}.get(one, one) == {">f4": "float32"}.get(other, other)


def tame(call: Call) -> bool:
    """Whether every number given is finite and small enough that nothing can overflow."""
    parts = list(call.leaves())
    narrow = (
        any("16" in str(getattr(a, "dtype", "")) for _, a in parts) and len([a for _, a in parts if a is not None]) > 2
    )
    limit = HALF_LIMIT if narrow else LIMIT
    return all(magnitude(a) < limit for _, a in parts) and not any(0 < magnitude(a) < LEAST for _, a in parts)


def magnitude(a: Any) -> float:
    """Return the largest magnitude in an argument, inf for NaN and 0 for what holds no numbers."""
    if isinstance(a, (bool, str, bytes)) or a is None:
        return 0.0
    if isinstance(a, (int, float, Fraction)):
        return math.inf if a is BIG or math.isnan(a) else abs(float(a))
    owner = owner_of(a)
    if owner is None:
        return 0.0
    held = owner.numpy(a)
    if held.dtype.kind not in "biuf" or not held.size:
        return 0.0
    largest = float(np.max(np.abs(held.astype(np.float64))))
    return math.inf if math.isnan(largest) else largest


def check_values(backend: Use, call: Call, y: Any) -> None:
    """Fail where y holds a NaN that is not documented: the variance of too few elements alone is one."""
    if isinstance(y, int):
        return
    broken = np.isnan(backend.numpy(y))
    if call.name == "variance":
        correction = call.kwargs["correction"]
        few = backend.numpy(call.args[0].count) <= float(correction)
        broken = broken & ~few
    assert not np.any(broken), "NaN from finite input"


def snapshot(call: Call) -> list[bytes]:
    """Return every input, bit for bit."""
    kept = []
    for _, value in call.leaves():
        owner = owner_of(value)
        held = owner.numpy(value) if owner else None
        kept.append(held.tobytes() if held is not None and held.dtype != object else repr(value).encode())
    return kept


# ------------------------------------------------------------------------------------------------ running


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let drawing and looking warn as they like: they are not under test."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def strict(call: Call) -> Iterator[None]:
    """Make every warning an error, but for NumPy's about numbers where those given are bad or huge."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.nullcontext() if tame(call) else np.errstate(all="ignore"):
            yield


def attempt(backend: Use, call: Call) -> Any:
    """Make a call, and compute what is lazy: return the result or the exception."""
    with strict(call):
        try:
            outcome = call()
            if backend.library == "dask":
                for part in filter(backend.owns, flatten(outcome)):
                    backend.numpy(part)
        except Exception as error:  # noqa: BLE001  whatever it is, check_exception judges it
            return error
    return outcome


def one(backend: Use, seed: int, index: int) -> str:
    """Draw a call, make it and check it; return the kind of outcome."""
    draw = Draw(backend, seed, index)
    with backend.using("float64" if draw.x64 else "float32"):
        with quiet():
            call = draw_call(draw)
            before = snapshot(call)
        outcome = attempt(backend, call)
        with quiet():
            try:
                kind = check(backend, call, outcome)
                assert snapshot(call) == before, "an input was written to"
            except Exception as error:
                message = f"seed {seed}, index {index}, {backend.name}: {call}"
                raise BrokenRuleError(message) from error
    return f"{call.name}: {kind}"


class BrokenRuleError(AssertionError):
    """A rule was broken; the message repeats the call."""


def fuzz(
    backend: Use, seed: int, indices: Iterable[int], seconds: float = math.inf, broken: list[str] | None = None
) -> Counter[str]:
    """Make the calls until the time is over; return how many ended how. Broken rules are raised, or go in the list."""
    end, kinds = time.monotonic() + seconds, Counter[str]()
    for index in indices:
        if time.monotonic() > end:
            break
        try:
            kinds[one(backend, seed, index)] += 1
        except BrokenRuleError as error:
            if broken is None:
                raise
            broken.append(say(error))
    return kinds


def say(error: BrokenRuleError) -> str:
    """Return a broken rule with the call that broke it."""
    return f"{type(error.__cause__).__name__}: {error.__cause__}\n  {error}"


def report(backend: Use, kinds: Counter[str]) -> None:
    """Print how many calls were made and how they ended."""
    total, results = sum(kinds.values()), sum(n for kind, n in kinds.items() if kind.endswith(": result"))
    print(f"{backend.name}: {total} calls, {results} results, {total - results} documented exceptions")
    raised: Counter[str] = Counter()
    for kind, n in kinds.items():
        raised[kind.partition(": ")[2]] += n
    for kind, n in raised.most_common():
        if kind != "result":
            print(f"  {n:7d}  {kind}")


def main() -> int:
    """Fuzz the libraries asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for all the libraries together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", action="append", help="fuzz this library (default: all that are usable)")
    parser.add_argument("--replay", metavar="SEED:INDEX", help="repeat one call alone")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first call that breaks a rule")
    arguments = parser.parse_args()
    chosen = arguments.library or [b.library for b in PLAIN if usable(b.library)]
    backends = [next(b for b in PLAIN if b.library == name) for name in dict.fromkeys(chosen)]
    prepare(backends)
    broken: list[str] = []
    for backend in backends:
        seed, indices = arguments.seed, range(sys.maxsize)
        if arguments.replay:
            seed, index = map(int, arguments.replay.split(":"))
            indices = range(index, index + 1)
        seconds, met = arguments.seconds / len(backends), []
        try:
            report(backend, fuzz(backend, seed, indices, seconds, met if arguments.keep_going else None))
        except BrokenRuleError as error:
            met = [say(error)]
        broken += met
        if met and not arguments.keep_going:
            break
    if broken:
        print(*broken, f"{len(broken)} calls broke a rule", sep="\n", file=sys.stderr)
    return 1 if broken else 0


def prepare(backends: Iterable[Use]) -> None:
    """Make JAX as strict as it can be, and its compiler quick."""
    if any(b.library == "jax" for b in backends):
        import jax

        jax.config.update("jax_numpy_dtype_promotion", "strict")
        jax.config.update("jax_disable_most_optimizations", True)


if __name__ == "__main__":
    raise SystemExit(main())
