"""The array libraries under test, each with the ways it is used: eager, jitted, compiled, lazy, read-only."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLOATS = ("float64", "float32")
HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Backend:
    """NumPy; and what the others do otherwise."""

    name: str = "numpy"
    library: str = "numpy"
    floats: tuple[str, ...] = (*FLOATS, "float16")
    default_float: str = "float64"
    variant: bool = False  # a library that is also under test in its plain, eager use
    exhaustive: bool = False  # runs what another use runs too, and compiles it: where a test says so, and with --slow

    def array(self, a: Any, dtype: str | None = None) -> Any:
        """Return an array of the library; dtype may be one that NumPy lacks."""
        return np.array(a, dtype=dtype)

    def numpy(self, y: Any) -> Any:
        """Return results as NumPy arrays, halves widened, whatever tuples they come in."""
        if isinstance(y, tuple):
            parts = [self.numpy(part) for part in y]
            return type(y)(*parts) if hasattr(y, "_fields") else tuple(parts)
        return y if y is None or isinstance(y, int) else self._numpy(y)

    def _numpy(self, y: Any) -> np.ndarray:
        return np.asarray(y)

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """Call a function of arrays the way the library is used."""
        return function(*arrays)

    def dtype(self, y: Any) -> str:
        return str(y.dtype).rpartition(".")[2]

    def owns(self, y: Any) -> bool:
        """Whether y is an array of the library."""
        return isinstance(y, np.ndarray)

    def place(self, y: Any) -> Any:
        """Return y's device, None where there is but one."""
        return None

    @contextlib.contextmanager
    def using(self, dtype: str) -> Iterator[None]:
        """Make dtype available, where that is a setting."""
        yield


class ReadOnly(Backend):
    def array(self, a: Any, dtype: str | None = None) -> Any:
        a = np.array(a, dtype=dtype)
        a.flags.writeable = False
        return a


class Strict(Backend):
    """array-api-strict, on a device that is not the default."""

    device = "device1"

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import array_api_strict as xp

        a = np.asarray(a)
        if self.device == "no_float64" and a.dtype == np.float64:
            a = a.astype(np.float32)
        return xp.asarray(a, device=xp.Device(self.device), dtype=dtype and getattr(xp, dtype))

    def _numpy(self, y: Any) -> np.ndarray:
        import array_api_strict as xp

        return np.asarray(y.to_device(xp.Device("CPU_DEVICE")))

    def owns(self, y: Any) -> bool:
        return type(y).__module__.startswith("array_api_strict")

    def place(self, y: Any) -> Any:
        return str(y.device)


class NoFloat64(Strict):
    device = "no_float64"


class Torch(Backend):
    def array(self, a: Any, dtype: str | None = None) -> Any:
        import torch

        return torch.tensor(np.array(a, order="C"), dtype=dtype and getattr(torch, dtype))

    def _numpy(self, y: Any) -> np.ndarray:
        import torch

        return (y.float() if y.dtype == torch.bfloat16 else y).detach().cpu().numpy()

    def owns(self, y: Any) -> bool:
        import torch

        return isinstance(y, torch.Tensor)

    def place(self, y: Any) -> Any:
        return y.device


class Compiled(Torch):
    """torch.compile without its code generator, which would take seconds a call."""

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import torch

        with torch._dynamo.config.patch(recompile_limit=10_000):  # many tests call one function
            return torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")(*arrays)


class Jax(Backend):
    """JAX op by op, under strict dtype promotion."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import jax.numpy as jnp

        a = np.asarray(a)
        if dtype is None and a.dtype in (np.float64, np.int64) and not self._x64():
            dtype = {"f": "float32", "i": "int32"}[a.dtype.kind]
        return jnp.asarray(a, dtype=dtype)

    def _x64(self) -> bool:
        import jax

        return bool(jax.config.jax_enable_x64)

    def _numpy(self, y: Any) -> np.ndarray:
        return np.asarray(y.astype("float32") if y.dtype == "bfloat16" else y)

    def owns(self, y: Any) -> bool:
        import jax

        return isinstance(y, jax.Array)

    @contextlib.contextmanager
    def using(self, dtype: str) -> Iterator[None]:
        import jax

        with jax.enable_x64(dtype == "float64"):
            yield


class Jitted(Jax):
    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import jax

        return jax.jit(function)(*arrays)


class Dask(Backend):
    """Dask in uneven chunks; a compute before the result is asked for is an error."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import dask.array as da

        a = np.array(a, dtype=dtype)
        return da.from_array(a, chunks=tuple(max(1, (2 * size + 2) // 3) for size in a.shape))

    def numpy(self, y: Any) -> Any:
        import dask

        (y,) = dask.compute(y, scheduler="sync")  # all at once, since results have most of their graphs in common
        return super().numpy(y)

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import dask

        def refuse(*_: Any, **__: Any) -> None:
            message = "a norm computed a Dask array"
            raise AssertionError(message)

        with dask.config.set(scheduler=refuse):
            return function(*arrays)

    def owns(self, y: Any) -> bool:
        import dask.array as da

        return isinstance(y, da.Array)


class Cupy(Backend):
    def array(self, a: Any, dtype: str | None = None) -> Any:
        import cupy

        return cupy.array(a, dtype=dtype)

    def _numpy(self, y: Any) -> np.ndarray:
        return y.get()

    def owns(self, y: Any) -> bool:
        import cupy

        return isinstance(y, cupy.ndarray)

    def place(self, y: Any) -> Any:
        return y.device


class Mlx(Backend):
    """MLX, whose float64 no GPU has; NumPy's become its float32, as its own conversions make them."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import mlx.core as mx

        a = np.array(a, order="C")
        name = dtype or {"float64": "float32", "int64": "int32", "bool": "bool_"}.get(str(a.dtype), str(a.dtype))
        return mx.array(a, dtype=getattr(mx, {"bool": "bool_"}.get(name, name)))

    def _numpy(self, y: Any) -> np.ndarray:
        return np.array(y.astype(self._core().float32) if self.dtype(y) == "bfloat16" else y)

    def owns(self, y: Any) -> bool:
        return isinstance(y, self._core().array)

    def _core(self) -> Any:
        import mlx.core

        return mlx.core


_HALF = (*FLOATS, *HALVES)
BACKENDS = (
    Backend(),
    ReadOnly("numpy-readonly", variant=True),
    Strict("strict", "array_api_strict", FLOATS),
    NoFloat64("strict-no-float64", "array_api_strict", ("float32",), "float32"),
    Torch("torch", "torch", _HALF, "float32"),
    Compiled("torch-compiled", "torch", _HALF, "float32", variant=True, exhaustive=True),
    Jax("jax", "jax", _HALF, "float32", exhaustive=True),
    Jitted("jax-jit", "jax", _HALF, "float32", variant=True),
    Dask("dask", "dask"),
    Cupy("cupy", "cupy"),
    Mlx("mlx", "mlx", ("float32", *HALVES), "float32"),
)


def settled(results: Any) -> Any:
    """Return results that other threads may use: what MLX has not computed yet, no other thread can compute."""
    if "mlx.core" in sys.modules:
        sys.modules["mlx.core"].eval(results)
    return results


def usable(library: str) -> bool:
    """Whether the library is installed; CuPy also needs a GPU."""
    if importlib.util.find_spec(library) is None:
        return False
    if library == "cupy":
        import cupy

        try:
            cupy.empty(0)
        except Exception:  # noqa: BLE001  CuPy raises several kinds where there is no driver, device or memory
            return False
    return True
