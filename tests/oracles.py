"""What is right, and how near to it a result has to be: the float64 oracle, the data, and every tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import anynorm

if TYPE_CHECKING:
    from collections.abc import Callable

# ------------------------------------------------------------------------------------------------ data

OFFSETS = (0.0, 1e2, 1e4, 1e6)
KINDS = (*(f"offset {offset:g}" for offset in OFFSETS), "outlier first", "ramp", "heavy tails", "small spread")


def data(kind: str, shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Return data of a kind that breaks some norm."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape)
    if kind.startswith("offset"):
        x = noise + float(kind.split()[1])
    elif kind == "outlier first":
        x = noise
        x.flat[0] = 1e4
    elif kind == "ramp":
        x = np.linspace(1e3, 1e3 + 4, noise.size).reshape(shape)
    elif kind == "heavy tails":
        x = rng.standard_t(1.5, shape)
    else:
        x = 1e3 + 1e-3 * noise
    return x.astype(dtype)


# ------------------------------------------------------------------------------------------------ the oracle


def widen(x: np.ndarray) -> np.ndarray:
    """Return x in a dtype with digits to spare."""
    return x.astype(np.longdouble if x.dtype.itemsize > 4 else np.float64)


def centred(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return x less its mean, exactly: the offset goes first, since the widest float too has a last place."""
    d = widen(x)
    d = d - d.mean(axis=axes, keepdims=True)
    return d - d.mean(axis=axes, keepdims=True)


def standardized(x: np.ndarray, axes: tuple[int, ...], eps: float, *, rms: bool = False) -> np.ndarray:
    """Return x with mean 0 and variance 1 over axes; constant slices are 0."""
    d = widen(x) if rms else centred(x, axes)
    deviation = np.sqrt((d * d).mean(axis=axes, keepdims=True) + eps)
    return d / np.where(deviation > 0, deviation, 1)


@dataclass(frozen=True)
class Norm:
    """A norm of x with channels on axis 1, and the axes that share statistics after x is reshaped to `split`."""

    name: str
    call: Callable[..., Any]
    axes: Callable[[int], tuple[int, ...]]
    groups: int | None = None
    rms: bool = False

    def oracle(self, x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
        shape = x.shape
        if self.groups is not None:
            x = x.reshape(shape[0], self.groups, shape[1] // self.groups, *shape[2:])
        return standardized(x, self.axes(len(shape)), eps, rms=self.rms).reshape(shape)

    def __str__(self) -> str:
        return self.name


GROUPS = 2
NORMS = (
    Norm(
        "layer_norm",
        lambda x, **k: anynorm.layer_norm(x, axis=tuple(range(1, x.ndim)), **k),
        lambda n: tuple(range(1, n)),
    ),
    Norm("layer_norm last axis", lambda x, **k: anynorm.layer_norm(x, **k), lambda n: (n - 1,)),
    Norm("rms_norm", lambda x, **k: anynorm.rms_norm(x, **k), lambda n: (n - 1,), rms=True),
    Norm("group_norm", lambda x, **k: anynorm.group_norm(x, GROUPS, **k), lambda n: tuple(range(2, n + 1)), GROUPS),
    Norm("instance_norm", lambda x, **k: anynorm.instance_norm(x, **k), lambda n: tuple(range(2, n))),
    Norm("batch_norm", lambda x, **k: anynorm.batch_norm(x, **k), lambda n: (0, *range(2, n))),
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
