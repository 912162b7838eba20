"""Who does the work: array-API code, which defines it, or an engine that does the same faster.

An engine is a module with three functions of a checked call, each of which may return None to refuse it:

* ``normalize(call)`` returns the normalised array and the statistics of its slices,
* ``statistics(call)`` returns those alone,
* ``pull(call, statistics, dy)`` returns the gradients of x, weight and bias, given that of the result.

It is told by axes what to do, never by the name of a norm.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .. import _standardize as array_api
from .._arrays import integer, library_name
from .._mean import is_compiling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from .._arrays import Array
    from .._call import Call, Statistics

ARRAY_API = "array-api"
ENGINES = ("numba", "jax")  # by the package that each of them needs
_SERVED = {"numpy": ("numba", "_numba"), "torch": ("numba", "_torch"), "jax": ("jax", "_jax")}  # libraries, by whom

_name: ContextVar[str | None] = ContextVar("anynorm_engine", default=None)
threads_asked: ContextVar[int | None] = ContextVar("anynorm_threads", default=None)
_watched: ContextVar[set[str] | None] = ContextVar("anynorm_watched", default=None)


@contextmanager
def engine(name: str | None = None, /, *, threads: int | None = None) -> Iterator[None]:
    """Choose the engine, and how many threads it may use, for the calls of this thread or task inside the block.

    Parameters
    ----------
    name : str, optional
        "array-api" for the code written in the array API standard, which everything else is measured against; "numba"
        or "jax" for that engine, where it serves x's library. An engine may refuse a call, which array-API code then
        takes. Without a name it is chosen by x's library, and by the environment variable ANYNORM_ENGINE.
    threads : int, optional
        The most threads that a call may use; without it ANYNORM_NUM_THREADS says so, or else they are as many as the
        process has cores, and one in a process of a pool.

    Raises
    ------
    ValueError
        There is no such engine, or threads is not positive.
    ModuleNotFoundError
        The engine is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import anynorm
    >>> with anynorm.engine("array-api"):
    ...     y = anynorm.layer_norm(np.asarray([1.0, 3.0]), eps=0)
    >>> y
    array([-1.,  1.])
    """
    if name is not None:
        _check(name, "engine")
    if threads is not None and integer("engine", "threads", threads) < 1:
        message = f"engine needs threads to be positive: got {threads}"
        raise ValueError(message)
    tokens = (
        (_name, _name.set(_name.get() if name is None else name)),
        (threads_asked, threads_asked.set(threads_asked.get() if threads is None else threads)),
    )
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)  # type: ignore[arg-type]


def _check(name: str, what: str) -> None:
    """Refuse what is no engine, or is not installed."""
    if name not in (ARRAY_API, *ENGINES):
        message = f"{what} needs to be one of {', '.join((ARRAY_API, *ENGINES))}: got {name!r}"
        raise ValueError(message)
    if name != ARRAY_API and find_spec(name) is None:
        extra = "fast" if name == "numba" else name
        message = f"{what} needs {name}, which is not installed: pip install 'anynorm[{extra}]'"
        raise ModuleNotFoundError(message)


@contextmanager
def watch() -> Iterator[set[str]]:
    """Yield the set of the engines that run inside the block."""
    ran: set[str] = set()
    token = _watched.set(ran)
    try:
        yield ran
    finally:
        _watched.reset(token)


def normalize(call: Call) -> tuple[Array, Statistics]:
    """Return the normalised array, and the statistics of its slices."""
    done: tuple[Array, Statistics] = _run("normalize", call)
    return done


def statistics(call: Call) -> Statistics:
    """Return the statistics of the slices."""
    done: Statistics = _run("statistics", call)
    return done


def pull(call: Call, s: Statistics, dy: Array) -> tuple[Array, Array | None, Array | None]:
    """Return the gradients of x, weight and bias, given that of the result."""
    done: tuple[Array, Array | None, Array | None] = _run("pull", call, s, dy)
    return done


def compose(function: Callable[..., Any], call: Call, *arguments: Any) -> Any:
    """Return a function of a call and of small arrays, compiled as one where that is the engine's way."""
    module = _chosen("jax")[1] if library_name(call.xp) == "jax" and call.sync is None else None
    return function(call, *arguments) if module is None else module.compose(function, call, *arguments)


def _run(work: str, call: Call, *arguments: Any) -> Any:
    """Have the engine that is chosen do it, or the array-API code."""
    if library_name(call.xp) == "torch" and is_compiling():  # and neither context nor environment compiles
        return getattr(array_api, work)(call, *arguments)
    name, module = _chosen(library_name(call.xp))
    done = None if module is None else getattr(module, work)(call, *arguments)
    ran = _watched.get()
    if ran is not None:
        ran.add(ARRAY_API if done is None else name)
    return getattr(array_api, work)(call, *arguments) if done is None else done


_modules: dict[str, ModuleType | None] = {}


def _chosen(library: str) -> tuple[str, ModuleType | None]:
    """Return the engine for a library: its name and its module, which is None for array-API code."""
    name, module = _SERVED.get(library, (ARRAY_API, None))
    asked = _name.get() or _from_environment()
    if module is None or (asked is not None and asked != name):
        return ARRAY_API, None
    if module not in _modules:
        _modules[module] = None if find_spec(name) is None else import_module(f"{__name__}.{module}")
    return name, _modules[module]


def _from_environment() -> str | None:
    asked = os.environ.get("ANYNORM_ENGINE") or None
    if asked is not None:
        _check(asked, "ANYNORM_ENGINE")
    return asked
