"""The engine for JAX: array-API code compiled as one function, where JAX would dispatch operation after operation."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import jax

from .. import _standardize as array_api
from .._call import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._arrays import Array
    from .._call import Call


def normalize(call: Call) -> tuple[Array, Statistics] | None:
    """Return the normalised array, and the statistics of its slices."""
    if call.sync is not None:  # it may be another function in every call, each to be compiled for
        return None
    y, s = compose(_normalize, call)
    return y, call.given or _counted(call, s)


def statistics(call: Call) -> Statistics | None:
    """Return the statistics of the slices."""
    return None if call.sync is not None else _counted(call, compose(_statistics, call))


def pull(call: Call, s: Statistics, dy: Array) -> tuple[Array, Array | None, Array | None] | None:
    """Return the gradients of x, weight and bias, given that of the result."""
    if call.sync is not None:
        return None
    done: tuple[Array, Array | None, Array | None] = compose(array_api.pull, call, s, dy)
    return done


def _normalize(call: Call) -> tuple[Array, Statistics]:
    y, s = array_api.normalize(call)
    return y, _arrays_of(s)


def _statistics(call: Call) -> Statistics:
    return _arrays_of(array_api.statistics(call))


def _arrays_of(s: Statistics) -> Statistics:
    """Return statistics without a count that is known: compiled code would make an array of it."""
    return s._replace(count=None) if isinstance(s.count, int) else s


def _counted(call: Call, s: Statistics) -> Statistics:
    if s.count is not None or s.mean is None:
        return s
    return s._replace(count=math.prod(call.x.shape) // max(1, math.prod(s.var.shape)))


def compose(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function compiled for everything in its arguments, which are nested tuples, but arrays and floats."""
    leaves, tree = jax.tree.flatten(arguments)
    varying = [leaf for leaf in leaves if isinstance(leaf, (jax.Array, float))]
    fixed = tuple(_VARIES if isinstance(leaf, (jax.Array, float)) else leaf for leaf in leaves)
    return _compiled(function, tree, fixed, varying)


_VARIES = object()


@partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _compiled(function: Callable[..., Any], tree: Any, fixed: tuple[Any, ...], varying: list[Any]) -> Any:
    values = iter(varying)
    return function(*jax.tree.unflatten(tree, [next(values) if leaf is _VARIES else leaf for leaf in fixed]))
