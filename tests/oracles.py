"""What is right, and how near to it a result has to be: the float64 oracle, and every tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import anynorm
from anynorm.testing._check import KINDS, OFFSETS, data  # noqa: F401
from anynorm.testing._reference import centred, exact, shared, widen  # noqa: F401 (the tests have these from here)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# ------------------------------------------------------------------------------------------------ the oracle


def standardized(x: np.ndarray, axes: tuple[int, ...], eps: float, *, rms: bool = False) -> np.ndarray:
    """Return x with mean 0 and variance 1 over axes; constant slices are 0."""
    return exact(x, axes, eps=eps, rms=rms)[0]


def gradient(
    x: np.ndarray, g: np.ndarray, axes: tuple[int, ...], eps: float = 1e-5, *, rms: bool = False, mask: Any = True
) -> np.ndarray:
    """Return the gradient of sum(standardized(x) * g), of what the mask shows and 0 elsewhere."""
    return exact(x, axes, g, eps=eps, rms=rms, mask=mask)[0]


@dataclass(frozen=True)
class Norm:
    """A norm of x with channels on axis 1, and the axes that share statistics after x is reshaped to `split`."""

    name: str
    call: Callable[..., Any]
    axes: Callable[[int], tuple[int, ...]]
    groups: int | None = None
    rms: bool = False

    def split(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in which the axes are those that share statistics."""
        return shape if self.groups is None else (shape[0], self.groups, shape[1] // self.groups, *shape[2:])

    def oracle(self, x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
        split = x.reshape(self.split(x.shape))
        return standardized(split, self.axes(x.ndim), eps, rms=self.rms).reshape(x.shape)

    def gradient(self, x: np.ndarray, g: np.ndarray, eps: float = 1e-5, mask: Any = True) -> np.ndarray:
        """Return the gradient of sum(norm(x) * g)."""
        split, mask = self.split(x.shape), np.broadcast_to(mask, x.shape)
        a, b, shown = (part.reshape(split) for part in (x, g, mask))
        return gradient(a, b, self.axes(x.ndim), eps, rms=self.rms, mask=shown).reshape(x.shape)

    def vjp(self, x: Any, **arguments: Any) -> Any:
        """Return what the norm's namesake in anynorm.vjp returns."""
        return self.call(x, of=anynorm.vjp, **arguments)

    def runs_along(self, ndim: int) -> tuple[int, ...]:
        """Return the axes that weight and bias run along."""
        return self.axes(ndim) if self.rms or self.name.startswith("layer") else (1,)

    def parameter_gradients(self, x: np.ndarray, g: np.ndarray, eps: float = 1e-5) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients of weight and bias of sum(norm(x) * g)."""
        others = tuple(i for i in range(x.ndim) if i not in self.runs_along(x.ndim))
        y = self.oracle(x, eps)
        return (g * y).sum(axis=others), g.astype(y.dtype).sum(axis=others)

    def __str__(self) -> str:
        return self.name


GROUPS = 2
NORMS = (
    Norm(
        "layer_norm",
        lambda x, of=anynorm, **k: of.layer_norm(x, axis=tuple(range(1, x.ndim)), **k),
        partial(shared, "layer"),
    ),
    Norm("layer_norm last axis", lambda x, of=anynorm, **k: of.layer_norm(x, **k), lambda n: (n - 1,)),
    Norm("rms_norm", lambda x, of=anynorm, **k: of.rms_norm(x, **k), lambda n: (n - 1,), rms=True),
    Norm(
        "group_norm",
        lambda x, of=anynorm, **k: of.group_norm(x, GROUPS, **k),
        lambda n: shared("group", n + 1),
        GROUPS,
    ),
    Norm("instance_norm", lambda x, of=anynorm, **k: of.instance_norm(x, **k), partial(shared, "instance")),
    Norm("batch_norm", lambda x, of=anynorm, **k: of.batch_norm(x, **k), partial(shared, "batch")),
)

# ------------------------------------------------------------------------------------------------ tolerances

UNIT = 8.0  # the outputs of data of unit spread stay below


def tolerance(x: np.ndarray, exact: np.ndarray, dtype: str) -> Any:
    """Return how far a result of dtype may be from the exact one."""
    largest = float(np.max(np.abs(exact), initial=0.0))
    if dtype == "float32":
        return 2e-6 * max(1.0, largest / UNIT)  # larger outputs have coarser last places
    if dtype == "float64":
        # At an offset x itself is rounded, to a few of its own last places in units of its deviation.
        deviation = float(np.std(widen(x))) or 1.0
        return max(
            1e-14 * (1 + largest), 4 * np.finfo(np.float64).eps * float(np.max(np.abs(x), initial=0.0)) / deviation
        )
    return ulp(exact, dtype)


BITS = {"float16": (11, -14), "bfloat16": (8, -126)}  # digits of the significand, least normal exponent


def ulp(exact: np.ndarray, dtype: str) -> np.ndarray:
    """Return one unit in the last place of every element, as dtype has it."""
    digits, least = BITS[dtype]
    _, exponent = np.frexp(np.abs(exact).astype(np.float64))
    return np.ldexp(1.0, np.maximum(exponent - 1, least) - (digits - 1))


NATIVE = {"float64": 1e-12, "float32": 1e-5}  # on data of small offset; halves: two ulp


def native_tolerance(exact: np.ndarray, dtype: str) -> Any:
    """Return how far a result may be from the native norm's, on data of small offset."""
    return NATIVE[dtype] if dtype in NATIVE else 2 * ulp(exact, dtype)


def assert_within(actual: np.ndarray, exact: np.ndarray, bound: Any) -> None:
    """Fail, with the largest error, unless actual is finite and within bound of exact everywhere."""
    assert actual.shape == exact.shape
    assert np.all(np.isfinite(actual)), "not finite"
    error = np.abs(actual.astype(exact.dtype) - exact)
    assert np.all(error <= bound), f"largest error {np.max(error):.3g}, bound {np.max(bound):.3g}"


def in_memory(a: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Return the array with its axes, from the outermost in memory to the innermost, in an order."""
    return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))


def assert_near(actual: Any, exact: np.ndarray, bound: float = 2e-6) -> None:
    """Fail unless actual is within bound of exact everywhere, in units of the largest element."""
    assert_within(np.asarray(actual), exact, bound * np.abs(exact).max(initial=0.0))
