"""The array libraries under test, each with the ways it is used: eager, jitted, compiled, lazy, read-only."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

FEATURES = {  # what a library may have, and the module of tests that shows it
    "norms, masks": "test_norms",
    "training forms": "test_running",
    "moments, merge": "test_moments",
    "gradients": "test_vjp",
    "scaling": "test_scaling",
}
FLOATS = ("float64", "float32")
HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Backend:
    """NumPy; and what the others do otherwise."""

    name: str = "numpy"
    library: str = "numpy"
    floats: tuple[str, ...] = (*FLOATS, "float16")
    default_float: str = "float64"
    used: str = "eagerly"  # as the docs say it
    tested: str = ""  # the version that last passed, none where the tests have not run yet
    lacks: Mapping[str, str] = field(default_factory=dict, hash=False)  # what tests need by this name, and why not
    few: bool = False  # runs the modules of FEATURES alone
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


class Dpnp(Backend):
    """dpnp on a CPU, whose arrays belong to queues as those of a GPU do; a copy to host memory is an error."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import dpnp

        return dpnp.asarray(np.asarray(a), dtype=dtype, sycl_queue=_queue())

    def _numpy(self, y: Any) -> np.ndarray:
        return y.asnumpy()

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import dpnp

        def refuse(*_: Any, **__: Any) -> None:
            message = "a norm copied a dpnp array to host memory"
            raise AssertionError(message)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dpnp, "asnumpy", refuse)
            patch.setattr(dpnp.tensor, "asnumpy", refuse)
            for name in ("asnumpy", "__array__", "__bool__", "__float__", "__int__", "__index__", "item", "tolist"):
                patch.setattr(dpnp.ndarray, name, refuse, raising=False)
            return function(*arrays)

    def owns(self, y: Any) -> bool:
        import dpnp

        return isinstance(y, dpnp.ndarray)

    def place(self, y: Any) -> Any:
        return y.device


@functools.cache
def _queue() -> Any:
    """Return a queue that is not the default: what is made without saying where lies elsewhere."""
    import dpctl

    return dpctl.SyclQueue("cpu")


class Ndonnx(Backend):
    """A graph that ndonnx makes of a call, run by onnxruntime; outside of run() what it computes as it makes one."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import ndonnx

        return ndonnx.asarray(np.array(a, dtype=dtype))

    def _numpy(self, y: Any) -> np.ndarray:
        return y.unwrap_numpy()

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import ndonnx
        import onnxruntime

        given = {f"x{i}": a for i, a in enumerate(_arrays(arrays))}
        inputs = {name: ndonnx.argument(shape=a.shape, dtype=a.dtype) for name, a in given.items()}
        result = function(*_with_arrays(arrays, iter(inputs.values())))
        outputs = {f"y{i}": a for i, a in enumerate(_arrays(result))}
        model = ndonnx.build(inputs, outputs, drop_unused=True)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        feed = {one.name: given[one.name].unwrap_numpy() for one in session.get_inputs()}
        values = iter([ndonnx.asarray(value) for value in session.run(list(outputs), feed)])
        return _with_arrays(result, values)

    def dtype(self, y: Any) -> str:
        return str(y.dtype).lower()

    def owns(self, y: Any) -> bool:
        import ndonnx

        return isinstance(y, ndonnx.Array)


def _arrays(result: Any) -> Iterator[Any]:
    """Yield the arrays of a result, whatever tuples they come in."""
    if isinstance(result, tuple):
        for part in result:
            yield from _arrays(part)
    elif hasattr(result, "dtype"):
        yield result


def _with_arrays(result: Any, values: Iterator[Any]) -> Any:
    """Return a result with other arrays in place of its own."""
    if isinstance(result, tuple):
        parts = [_with_arrays(part, values) for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return next(values) if hasattr(result, "dtype") else result


class Sparse(Backend):
    def array(self, a: Any, dtype: str | None = None) -> Any:
        import sparse

        return sparse.COO.from_numpy(np.array(a, dtype=dtype))

    def _numpy(self, y: Any) -> np.ndarray:
        return y.todense() if hasattr(y, "todense") else np.asarray(y)

    def owns(self, y: Any) -> bool:
        import sparse

        return isinstance(y, sparse.SparseArray)


class Cubed(Backend):
    """Cubed in uneven chunks, with a specification of its own; a compute before the result is asked for is an error."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import cubed

        a = np.array(a, dtype=dtype)
        chunks = tuple(max(1, (2 * size + 2) // 3) for size in a.shape)
        return cubed.from_array(a, chunks=chunks, spec=_spec())

    def numpy(self, y: Any) -> Any:
        import cubed

        arrays = list(_arrays(y))
        values = iter(cubed.compute(*arrays) if arrays else ())
        return _with_arrays(y, map(np.asarray, values))

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import cubed

        def refuse(*_: Any, **__: Any) -> None:
            message = "a norm computed a Cubed array"
            raise AssertionError(message)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cubed.core.plan.FinalizedPlan, "execute", refuse)
            return function(*arrays)

    def owns(self, y: Any) -> bool:
        import cubed

        return isinstance(y, cubed.Array)


@functools.cache
def _spec() -> Any:
    import cubed

    return cubed.Spec(allowed_mem="500MB", reserved_mem="1MB", executor_name="single-threaded")


_HALF = (*FLOATS, *HALVES)
SLOW = ("many small calls", "millions of elements")  # what is lacking because it would take minutes
BACKENDS = (
    Backend(tested="2.4.6"),
    ReadOnly("numpy-readonly", variant=True),
    Strict("strict", "array_api_strict", FLOATS, used="eagerly, on a second device", tested="2.6.1"),
    NoFloat64("strict-no-float64", "array_api_strict", ("float32",), "float32"),
    Torch("torch", "torch", _HALF, "float32", used="eagerly, compiled, exported", tested="2.13.0"),
    Compiled("torch-compiled", "torch", _HALF, "float32", variant=True, exhaustive=True),
    Jax("jax", "jax", _HALF, "float32", used="eagerly, jitted, exported", tested="0.10.2", exhaustive=True),
    Jitted("jax-jit", "jax", _HALF, "float32", variant=True),
    Dask("dask", "dask", used="lazily, in chunks", tested="2026.8.0"),
    Cupy("cupy", "cupy", used="eagerly, on a GPU"),
    Mlx("mlx", "mlx", ("float32", *HALVES), "float32", used="eagerly, compiled, on a CPU", tested="0.32.4"),
    Dpnp(
        "dpnp", "dpnp", FLOATS, used="eagerly, on a queue of a CPU", tested="0.20.0", few=True,
        lacks={"pickles": "its arrays have them, but the queues that they name have none: no pullback is copied"},
    ),
    Ndonnx(
        "ndonnx", "ndonnx", FLOATS, used="as an ONNX graph, run by onnxruntime", tested="0.23.0", few=True,
        lacks={"pickles": "the nodes of its graphs refuse to be copied, and so does a pullback that holds one"},
    ),
    Sparse(
        "sparse", "sparse", FLOATS, used="eagerly, as COO and GCXS", tested="0.19.3", few=True,
        lacks={
            "moments of GCXS": "arrays in that form have no squeeze; keepdims=True does without",
            "millions of elements": "it sorts the places of all that it stores, after every step",
        },
    ),
    Cubed(
        "cubed", "cubed", FLOATS, used="lazily, in chunks", tested="0.27.0", few=True,
        lacks={
            "empty arrays": "its any() of no elements is one False, whatever the axes, without the spec of x",
            "many small calls": "the time of a chain of them grows faster than its length; merge many at once",
            "pickles": "its plans hold functions within functions, which pickle refuses",
        },
    ),
)  # fmt: skip


def settled(results: Any) -> Any:
    """Return results that other threads may use: what MLX has not computed yet, no other thread can compute."""
    if "mlx.core" in sys.modules:
        sys.modules["mlx.core"].eval(results)
    return results


def usable(library: str) -> bool:
    """Whether the library is installed; CuPy also needs a GPU, and dpnp a driver of the CPU."""
    try:
        found = importlib.util.find_spec(library)
    except ModuleNotFoundError:  # of the package that it would be a part of
        return False
    if found is None:
        return False
    if library == "dpnp":
        import dpctl

        return bool(dpctl.has_cpu_devices())
    if library == "cupy":
        import cupy

        try:
            cupy.empty(0)
        except Exception:  # noqa: BLE001  CuPy raises several kinds where there is no driver, device or memory
            return False
    return True
