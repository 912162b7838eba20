"""The array libraries, each with the ways it is used: eager, jitted, compiled, lazy, read-only."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLOATS = ("float64", "float32")
HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Use:
    """A library, and how it is used: this one is NumPy, and the others say what they do otherwise."""

    name: str = "numpy"
    library: str = "numpy"
    floats: tuple[str, ...] = (*FLOATS, "float16")  # the dtypes that it has
    default_float: str = "float64"
    variant: bool = False  # another use of a library that has a plain, eager one
    how: str = "eager"

    def array(self, a: Any, dtype: str | None = None) -> Any:
        """Return an array of the library; dtype may be one that NumPy lacks."""
        import numpy as np

        return np.array(a, dtype=dtype)

    def numpy(self, y: Any) -> Any:
        """Return results as NumPy arrays, bfloat16 widened, whatever tuples they come in."""
        if isinstance(y, tuple):
            return _rebuilt(y, [self.numpy(part) for part in y])
        return y if y is None or isinstance(y, int) else self._numpy(y)

    def _numpy(self, y: Any) -> Any:
        import numpy as np

        return np.asarray(y)

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """Call a function of arrays the way the library is used."""
        return function(*arrays)

    def dtype(self, y: Any) -> str:
        """Return the name of y's dtype."""
        return str(y.dtype).rpartition(".")[2]

    def owns(self, y: Any) -> bool:
        """Whether y is an array of the library."""
        import numpy as np

        return isinstance(y, np.ndarray)

    def place(self, y: Any) -> Any:
        """Return y's device, or None where there is only one."""
        return None

    @contextmanager
    def using(self, dtype: str) -> Iterator[None]:
        """Make dtype available, if that is a setting."""
        yield


class ReadOnly(Use):
    def array(self, a: Any, dtype: str | None = None) -> Any:
        import numpy as np

        a = np.array(a, dtype=dtype)
        a.flags.writeable = False
        return a


class Strict(Use):
    """array-api-strict, on a device that is not the default."""

    device = "device1"

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import array_api_strict as xp
        import numpy as np

        a = np.asarray(a)
        if self.device == "no_float64" and a.dtype == np.float64:
            a = a.astype(np.float32)
        return xp.asarray(a, device=xp.Device(self.device), dtype=dtype and getattr(xp, dtype))

    def _numpy(self, y: Any) -> Any:
        import array_api_strict as xp
        import numpy as np

        return np.asarray(y.to_device(xp.Device("CPU_DEVICE")))

    def owns(self, y: Any) -> bool:
        return type(y).__module__.startswith("array_api_strict")

    def place(self, y: Any) -> Any:
        return str(y.device)


class NoFloat64(Strict):
    device = "no_float64"


class Torch(Use):
    def array(self, a: Any, dtype: str | None = None) -> Any:
        import numpy as np
        import torch

        return torch.tensor(np.array(a, order="C"), dtype=dtype and getattr(torch, dtype))

    def _numpy(self, y: Any) -> Any:
        import torch

        return (y.float() if y.dtype == torch.bfloat16 else y).detach().cpu().numpy()

    def owns(self, y: Any) -> bool:
        import torch

        return isinstance(y, torch.Tensor)

    def place(self, y: Any) -> Any:
        return y.device


@dataclass(frozen=True)
class Compiled(Torch):
    """torch.compile, without its code generator unless told, which takes seconds a call."""

    backend: str = "aot_eager"

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import torch

        with torch._dynamo.config.patch(recompile_limit=10_000):  # many tests call one function
            return torch.compile(function, fullgraph=True, dynamic=False, backend=self.backend)(*arrays)


class Jax(Use):
    """JAX op by op, under strict dtype promotion."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import jax.numpy as jnp
        import numpy as np

        a = np.asarray(a)
        if dtype is None and a.dtype in (np.float64, np.int64) and not self._x64():
            dtype = {"f": "float32", "i": "int32"}[a.dtype.kind]
        return jnp.asarray(a, dtype=dtype)

    def _x64(self) -> bool:
        import jax

        return bool(jax.config.jax_enable_x64)

    def _numpy(self, y: Any) -> Any:
        import numpy as np

        return np.asarray(y.astype("float32") if y.dtype == "bfloat16" else y)

    def owns(self, y: Any) -> bool:
        import jax

        return isinstance(y, jax.Array)

    @contextmanager
    def using(self, dtype: str) -> Iterator[None]:
        import jax

        with jax.enable_x64(dtype == "float64"):
            yield


class Jitted(Jax):
    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import jax

        return jax.jit(function)(*arrays)


class Dask(Use):
    """Dask in uneven chunks; a compute before the result is asked for is an error."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import dask.array as da
        import numpy as np

        a = np.array(a, dtype=dtype)
        return da.from_array(a, chunks=tuple(max(1, (2 * size + 2) // 3) for size in a.shape))

    def numpy(self, y: Any) -> Any:
        import dask

        (y,) = dask.compute(y, scheduler="sync")  # all at once, since results have most of their graphs in common
        return super().numpy(y)

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import dask

        def refuse(*_: Any, **__: Any) -> None:
            message = "it computed a Dask array"
            raise AssertionError(message)

        with dask.config.set(scheduler=refuse):
            return function(*arrays)

    def owns(self, y: Any) -> bool:
        import dask.array as da

        return isinstance(y, da.Array)


class Cupy(Use):
    def array(self, a: Any, dtype: str | None = None) -> Any:
        import cupy

        return cupy.array(a, dtype=dtype)

    def _numpy(self, y: Any) -> Any:
        return y.get()

    def owns(self, y: Any) -> bool:
        import cupy

        return isinstance(y, cupy.ndarray)

    def place(self, y: Any) -> Any:
        return y.device


class Mlx(Use):
    """MLX, whose float64 no GPU has; NumPy's become its float32, as its own conversions make them."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import mlx.core as mx
        import numpy as np

        a = np.array(a, order="C")
        name = dtype or {"float64": "float32", "int64": "int32", "bool": "bool_"}.get(str(a.dtype), str(a.dtype))
        return mx.array(a, dtype=getattr(mx, {"bool": "bool_"}.get(name, name)))

    def _numpy(self, y: Any) -> Any:
        import numpy as np

        return np.array(y.astype(self._core().float32) if self.dtype(y) == "bfloat16" else y)

    def owns(self, y: Any) -> bool:
        return isinstance(y, self._core().array)

    def _core(self) -> Any:
        import mlx.core

        return mlx.core


class Dpnp(Use):
    """dpnp on a CPU, whose arrays belong to queues as those of a GPU do; a copy to host memory is an error."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import dpnp
        import numpy as np

        return dpnp.asarray(np.asarray(a), dtype=dtype, sycl_queue=_queue())

    def _numpy(self, y: Any) -> Any:
        return y.asnumpy()

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import dpnp

        def refuse(*_: Any, **__: Any) -> None:
            message = "it copied a dpnp array to host memory"
            raise AssertionError(message)

        methods = ("asnumpy", "__array__", "__bool__", "__float__", "__int__", "__index__", "item", "tolist")
        with ExitStack() as patches:
            for owner, name in ((dpnp, "asnumpy"), (dpnp.tensor, "asnumpy"), *((dpnp.ndarray, m) for m in methods)):
                patches.enter_context(patch.object(owner, name, refuse, create=True))
            return function(*arrays)

    def owns(self, y: Any) -> bool:
        import dpnp

        return isinstance(y, dpnp.ndarray)

    def place(self, y: Any) -> Any:
        return y.device


@cache
def _queue() -> Any:
    """Return a queue that is not the default: what is made without saying where lies elsewhere."""
    import dpctl

    return dpctl.SyclQueue("cpu")


class Ndonnx(Use):
    """A graph that ndonnx makes of a call, run by onnxruntime; outside of run() what it computes as it makes one."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import ndonnx
        import numpy as np

        return ndonnx.asarray(np.array(a, dtype=dtype))

    def _numpy(self, y: Any) -> Any:
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
        return _rebuilt(result, [_with_arrays(part, values) for part in result])
    return next(values) if hasattr(result, "dtype") else result


class Sparse(Use):
    def array(self, a: Any, dtype: str | None = None) -> Any:
        import numpy as np
        import sparse

        return sparse.COO.from_numpy(np.array(a, dtype=dtype))

    def _numpy(self, y: Any) -> Any:
        import numpy as np

        return y.todense() if hasattr(y, "todense") else np.asarray(y)

    def owns(self, y: Any) -> bool:
        import sparse

        return isinstance(y, sparse.SparseArray)


class Cubed(Use):
    """Cubed in uneven chunks, with a specification of its own; a compute before the result is asked for is an error."""

    def array(self, a: Any, dtype: str | None = None) -> Any:
        import cubed
        import numpy as np

        a = np.array(a, dtype=dtype)
        chunks = tuple(max(1, (2 * size + 2) // 3) for size in a.shape)
        return cubed.from_array(a, chunks=chunks, spec=_spec())

    def numpy(self, y: Any) -> Any:
        import cubed
        import numpy as np

        arrays = list(_arrays(y))
        values = iter(cubed.compute(*arrays) if arrays else ())
        return _with_arrays(y, map(np.asarray, values))

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        import cubed

        def refuse(*_: Any, **__: Any) -> None:
            message = "it computed a Cubed array"
            raise AssertionError(message)

        with patch.object(cubed.core.plan.FinalizedPlan, "execute", refuse):
            return function(*arrays)

    def owns(self, y: Any) -> bool:
        import cubed

        return isinstance(y, cubed.Array)


@cache
def _spec() -> Any:
    import cubed

    return cubed.Spec(allowed_mem="500MB", reserved_mem="1MB", executor_name="single-threaded")


def _rebuilt(like: tuple[Any, ...], parts: list[Any]) -> tuple[Any, ...]:
    """Return parts in a tuple of the type of another."""
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


_HALF = (*FLOATS, *HALVES)
USES = (
    Use(),
    ReadOnly("numpy-readonly", variant=True, how="read-only"),
    Strict("strict", "array_api_strict", FLOATS),
    NoFloat64("strict-no-float64", "array_api_strict", ("float32",), "float32"),
    Torch("torch", "torch", _HALF, "float32"),
    Compiled("torch-compiled", "torch", _HALF, "float32", variant=True, how="compiled"),
    Jax("jax", "jax", _HALF, "float32"),
    Jitted("jax-jit", "jax", _HALF, "float32", variant=True, how="jitted"),
    Dask("dask", "dask", how="lazy"),
    Cupy("cupy", "cupy"),
    Mlx("mlx", "mlx", ("float32", *HALVES), "float32"),
    Dpnp("dpnp", "dpnp", FLOATS),
    Ndonnx("ndonnx", "ndonnx", FLOATS, how="exported"),
    Sparse("sparse", "sparse", FLOATS),
    Cubed("cubed", "cubed", FLOATS, how="lazy"),
)


@cache
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
