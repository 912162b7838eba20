"""What is done with the arrays of a library otherwise: what is made beside them, reshaped, summed and kept together."""

from __future__ import annotations

import math
import operator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from .libraries import library_name, namespace_of, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .libraries import Array, Namespace, Shape

# ---------------------------------------------------------------------------------- dtypes and devices


def device_of(xp: Namespace, x: Array) -> Any:
    """Return x's device, or None where there is nothing to choose."""
    return getattr(x, "device", None) if record(xp).has_devices else None  # a registered array may have none


def written(place: Any) -> str:
    """Return a device as it is written; of a part of one dpctl refuses to."""
    try:
        return str(place)
    except ValueError:
        return "a part of a device"


def beside(xp: Namespace, x: Array) -> dict[str, Any]:
    """Return what an array that is made anew needs to be told to lie beside x: its device, and in Cubed its spec."""
    return {"device": device_of(xp, x)} | {name: getattr(x, name) for name in record(xp).made_as}


def default_dtype(xp: Namespace, x: Array, kind: str) -> Any:
    """Return the dtype that the library has on x's device for "real floating" or "integral" numbers."""
    return xp.__array_namespace_info__().default_dtypes(device=device_of(xp, x))[kind]


def double(xp: Namespace, x: Array) -> Any:
    """Return float64 where it is wider than x; JAX has it where it was asked for, and then for all arrays."""
    library = record(xp)
    if x.dtype != xp.float32 or library.rounds_anew:
        return None
    if library.always_float64:
        return xp.float64
    # Asking the namespace for the attribute is not enough.
    known = xp.__array_namespace_info__().dtypes(kind="real floating", device=device_of(xp, x))
    return known.get("float64")


def smallest_square(xp: Namespace, dtype: Any) -> float:
    """Return the least mean square that is known in a dtype."""
    return float(xp.finfo(dtype).smallest_normal) * (2.0**9 if record(xp).rounds_anew else 4.0)


# ---------------------------------------------------------------------------------- arrays


def quiet(xp: Namespace, **also: Any) -> AbstractContextManager[Any]:
    """Keep NumPy from warning that infinities have no mean: their slice becomes NaN, as in every other library."""
    if not record(xp).has_scalars:
        return nullcontext()
    import numpy as np

    return np.errstate(invalid="ignore", **also)


def as_array(value: Any) -> Any:
    """Return an array of what NumPy turned into a scalar because it has no axes."""
    xp = None if isinstance(value, int) else namespace_of(value)
    return xp.asarray(value) if xp is not None and record(xp).has_scalars else value


_IN_PLACE = {operator.add: operator.iadd, operator.mul: operator.imul, operator.sub: operator.isub}


def reuse(xp: Namespace, operate: Callable[[Any, Any], Any], own: Array, other: Array) -> Array:
    """Return operate(own, other), written over own, which nobody else has, where arrays are plain memory."""
    if record(xp).is_memory:
        operate = _IN_PLACE[operate]
    return operate(own, other)


def has_sizes(xp: Namespace, sizes: Shape | list[Any]) -> bool:
    """Whether all the sizes are known: some of a Dask array may be NaN."""
    return not record(xp).is_lazy or all(size == size for size in sizes)  # noqa: PLR0124


def check_sizes(xp: Namespace, shape: Shape, axes: Iterable[int]) -> None:
    """Refuse axes of unknown size, whose elements nobody can count, or split."""
    if not has_sizes(xp, [shape[i] for i in axes]):
        message = (
            f"anynorm needs to know the sizes of the axes {tuple(axes)}, whose elements it counts or splits: got x of "
            f"shape {tuple(shape)}; call x.compute_chunk_sizes() first"
        )
        raise ValueError(message)


def unknown(shape: tuple[Any, ...]) -> int:
    """Return how many sizes are unknown."""
    return sum(1 for size in shape if size is None)


def reshape(xp: Namespace, a: Array, shape: Shape) -> Array:
    """Return an array in another shape, of which a size that is unknown, None in the standard, is what is left.

    Where several are, the two shapes have to differ in axes of size 1 alone.
    """
    if unknown(shape) < 2:
        return xp.reshape(a, tuple(-1 if size is None else size for size in shape))  # type: ignore[redundant-expr]
    a = xp.squeeze(a, axis=tuple(i for i, size in enumerate(a.shape) if size == 1))
    return a[tuple(None if size == 1 else slice(None) for size in shape)]


def shape_along(x: Array, axes: Shape) -> Shape:
    """Return the shape, of x's rank, of an array that varies along some axes of x alone."""
    return tuple(size if i in axes else 1 for i, size in enumerate(x.shape))


def as_number(xp: Namespace, count: Any, dtype: Any, *, least: int = 0) -> Any:
    """Return a count as a number that arrays of a dtype meet: one of Python's, or where it is a symbol, the library's.

    A symbol of torch has to stay what it is, or it is one number in what is exported; JAX takes no int of 2**31, and
    turns its symbols into arrays itself, but of integers.
    """
    name = library_name(xp)
    if isinstance(count, int):
        count = max(count, least)
        return count if name == "torch" else float(count)
    if hasattr(count, "dtype") and name != "torch":
        return xp.astype(count, dtype)
    return xp.asarray(count, dtype=dtype) if name == "jax" else count


def sharded_as(xp: Namespace, a: Array, like: Array) -> Array:
    """Return an array sharded as another is, where that is part of its type: on JAX's explicit meshes."""
    if library_name(xp) != "jax":
        return a
    import jax

    sharding, spec = jax.typeof(a).sharding, jax.typeof(like).sharding.spec
    if sharding.spec == spec:
        return a
    return jax.sharding.reshard(a, jax.sharding.NamedSharding(sharding.mesh, spec))


def complete(xp: Namespace, total: Array) -> Array:
    """Return a sum that is one on every process: torch's DTensor leaves it to be added, and rounds its parts apart."""
    placements = getattr(total, "placements", ()) if library_name(xp) == "torch" else ()
    if not any(placement.is_partial() for placement in placements):
        return total
    from torch.distributed.tensor import Replicate

    return total.redistribute(placements=[Replicate() if p.is_partial() else p for p in placements])


def constant(xp: Namespace, a: Array) -> Array:
    """Return an array that no derivative is taken through."""
    name = library_name(xp)
    if name == "jax":
        import jax

        return jax.lax.stop_gradient(a)
    return a.detach() if name == "torch" else a


def rounded_once(xp: Namespace, a: Array) -> Array:
    """Return a product or a quotient that every consumer rounds alike: a choice keeps it out of a multiply-add."""
    return xp.where(xp.abs(a) < math.inf, a, a + a) if record(xp).rounds_anew else a


def without_empty_chunks(xp: Namespace, x: Array) -> Array:
    """Return an array without the chunks that hold nothing, of which Dask finds no least element."""
    if not record(xp).is_lazy or 0 in x.shape:
        return x
    return x.rechunk(tuple(tuple(size for size in sizes if size != 0) for sizes in x.chunks))


def stack(xp: Namespace, arrays: list[Array]) -> Array:
    """Return small arrays of one shape as one: sparse ones of one fill value, those of Cubed in the first one's chunks.

    It takes them for those of all.
    """
    library = record(xp)
    if library.is_sparse:
        arrays = [xp.COO.from_numpy(a.todense(), fill_value=0) for a in arrays]
    if library.is_chunked:
        arrays = [chunked_as(xp, a, arrays[0]) for a in arrays]
    return xp.stack(arrays, axis=0)


def fills(xp: Namespace, a: Array | None) -> bool:
    """Whether adding an array to a sparse one fills that."""
    return a is not None and record(xp).is_sparse and bool(a.nnz or a.fill_value != 0)


def chunked_as(xp: Namespace, y: Array, x: Array) -> Array:
    """Return y in x's chunks: splitting channels into groups may have moved their boundaries."""
    return y.rechunk(x.chunks) if record(xp).is_chunked and y.chunks != x.chunks else y


def welcome(xp: Namespace, x: Array, value: Array) -> Array:
    """Return an array as x takes it beside itself: NumPy's as one of the library, a tensor beside a DTensor as that.

    Such a tensor is taken to be the same on every process. Its gradient is, too: that of the whole.
    """
    if namespace_of(value) is not xp:
        value = xp.asarray(value)
    mesh = getattr(x, "device_mesh", None) if library_name(xp) == "torch" else None
    if mesh is None or hasattr(value, "device_mesh"):
        return complete(xp, value)
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
