"""MLX: what its own namespace lacks of the standard, and a float64 less, which it has on no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable

    from anynorm._core.libraries import Array


def __getattr__(name: str) -> Any:
    """Return what MLX has as the standard has it."""
    return getattr(mx, name)


class Info:
    """The dtypes of arrays on every device."""

    def default_dtypes(self, *, device: None = None) -> dict[str, mx.Dtype]:
        """Return the dtype of numbers that say none."""
        return {"real floating": mx.float32, "integral": mx.int32}

    def dtypes(self, *, kind: str, device: None = None) -> dict[str, mx.Dtype]:
        """Return the dtypes of a kind, which is "real floating"."""
        return {"float32": mx.float32}


__array_namespace_info__ = Info


def astype(a: Array, dtype: mx.Dtype, /, *, copy: bool = True) -> Array:
    """Return an array in a dtype; arrays are never written to, so a copy is as good as none."""
    return a.astype(dtype)


def zeros(shape: tuple[int, ...], *, dtype: mx.Dtype, device: None = None) -> Array:
    """Return zeros."""
    return mx.zeros(shape, dtype)


def ones(shape: tuple[int, ...], *, dtype: mx.Dtype, device: None = None) -> Array:
    """Return ones."""
    return mx.ones(shape, dtype)


def _of_none_too(reduction: Callable[..., Array]) -> Callable[..., Array]:
    """Make a reduction 0 where it has no elements: now and then MLX 0.32 never returns from that on a CPU."""

    def reduced(a: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
        result = reduction(a, axis=axis, keepdims=keepdims)
        return result if a.size else mx.zeros_like(result)

    return reduced


sum, any = _of_none_too(mx.sum), _of_none_too(mx.any)
