"""Who does the work: array-API code, which defines it, or an engine that does the same faster.

An engine is a module with functions of a checked call, each of which may return None to refuse it:

* ``normalize(call, keep=...)`` returns the normalised array, and the statistics of its slices if they are to be kept,
* ``statistics(call)`` returns those alone,
* ``pull(call, statistics, dy)`` returns the gradients of x, weight and bias, given that of the result,
* ``advance(call, statistics, stats, momentum, correction)``, which it need not have, returns the running mean and
  variance after a batch.

It is told by axes what to do, never by the name of a norm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core import standardize as array_api
from .._core.libraries import is_compiling, library_name
from .choice import ask, chosen, engine, problems, watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.call import Call, Statistics
    from .._core.libraries import Array

__all__ = ["compose", "engine", "normalize", "problems", "pull", "statistics", "watch"]


def normalize(call: Call, *, keep: bool = False) -> tuple[Array, Statistics]:
    """Return the normalised array, and the statistics of its slices: where they are not to be kept they may be None."""
    y, s = _run("normalize", call, keep=keep)
    return call.jagged(y), s


def statistics(call: Call) -> Statistics:
    """Return the statistics of the slices."""
    done: Statistics = _run("statistics", call)
    return done


def pull(call: Call, s: Statistics, dy: Array) -> tuple[Array, Array | None, Array | None]:
    """Return the gradients of x, weight and bias, given that of the result."""
    dx, dweight, dbias = _run("pull", call, s, dy)
    return call.jagged(dx), dweight, dbias


def advance(call: Call, s: Statistics, *arguments: Any) -> tuple[Array, Array] | None:
    """Return the running mean and variance after a batch of the statistics s, None where the engine does not do it."""
    if call.plan is None and is_compiling():
        return None
    for _, module in chosen(library_name(call.xp)):
        done: tuple[Array, Array] | None = module.advance(call, s, *arguments) if hasattr(module, "advance") else None
        if done is not None:
            return done
    return None


def compose(function: Callable[..., Any], call: Call, *arguments: Any) -> Any:
    """Return a function of a call and of small arrays, compiled as one where that is the engine's way."""
    if library_name(call.xp) == "jax" and call.sync is None:
        for _, module in chosen("jax"):
            return module.compose(function, call, *arguments)
    return function(call, *arguments)


def _run(work: str, call: Call, *arguments: Any, **keywords: Any) -> Any:
    """Have the engine that is chosen do it, or the array-API code."""
    if call.plan is None and is_compiling():  # neither context nor environment compiles
        return getattr(array_api, work)(call, *arguments)
    done = ask(library_name(call.xp), work, call, *arguments, **keywords)
    return getattr(array_api, work)(call.alone(), *arguments) if done is None else done
