"""Which engine runs a call: chosen by hand, by the environment or by x's library; and those that cannot be used."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .._core.arguments import integer
from .._install import install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ARRAY_API = "array-api"
EXTRAS = {"numba": "fast", "jax": "jax", "dask": "dask", "gpu": "cuda"}  # which brings the package of each engine
PACKAGES = {"gpu": "cuda"}  # where that goes by another name than the engine
_MODULES = {  # of each, by library
    "numba": {"numpy": "cpu.numpy", "torch": "cpu.torch"},
    "jax": {"jax": "jax"},
    "dask": {"dask": "dask"},
    "gpu": {"torch": "gpu.torch", "cupy": "gpu.cupy"},
}


class Choice:
    """What a block or the environment chose: an engine and a number of threads, each None where it is left open."""

    __slots__ = ("closed", "name", "outer", "threads")

    def __init__(self, name: str | None, threads: int | None, outer: Choice | None) -> None:
        self.name, self.threads, self.outer, self.closed = name, threads, outer, False


_innermost: ContextVar[Choice | None] = ContextVar("anynorm_engine", default=None)
_watched: ContextVar[set[str] | None] = ContextVar("anynorm_watched", default=None)
_pooled: ContextVar[bool] = ContextVar("anynorm_pooled", default=False)


def choice() -> Choice:
    """Return what the innermost open block of this thread or task chose, and the environment outside of all."""
    found = _innermost.get()
    while found is not None and found.closed:
        found = found.outer
    return _environment() if found is None else found


@cache
def _environment() -> Choice:
    """Return what the environment chooses, which is read once; what it must not hold is refused in every call."""
    name, threads = (os.environ.get(f"ANYNORM_{what}") or None for what in ("ENGINE", "NUM_THREADS"))
    if name is not None:
        _check(name, "ANYNORM_ENGINE")
    if threads is not None and not (threads.isdecimal() and int(threads)):
        message = f"ANYNORM_NUM_THREADS needs to be a positive integer: got {threads!r}"
        raise ValueError(message)
    return Choice(name, None if threads is None else int(threads), None)


@contextmanager
def engine(name: str | None = None, /, *, threads: int | None = None) -> Iterator[None]:
    """Choose the engine, and how many threads it may use, for the calls of this thread or task inside the block.

    Parameters
    ----------
    name : str, optional
        "array-api" for the code written in the array API standard, which everything else is measured against; or
        "numba", "jax", "dask" or "gpu" for that engine, where it serves x's library. An engine may refuse a call, which
        array-API code then takes. Without a name it is chosen by x's library, and by the environment variable
        ANYNORM_ENGINE.
    threads : int, optional
        The most threads that a call may use. By default ANYNORM_NUM_THREADS says so; without it, there are as many as
        the process has cores, and one in a process of a pool. The environment is read once.

    Raises
    ------
    ValueError
        There is no such engine, or threads is not positive; so every call says of what the environment holds.
    ImportError
        The engine is not installed (then it is a ModuleNotFoundError), or cannot be imported. Without a name that is no
        error: array-API code runs in its place, and where the engine is installed but broken, a RuntimeWarning says so.

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
    outer = choice()
    inside = Choice(name or outer.name, threads or outer.threads, _innermost.get())
    token = _innermost.set(inside)
    try:
        yield
    finally:
        try:
            _innermost.reset(token)
        except (
            ValueError
        ):  # a generator was closed by another task or thread: the context it was set in is out of reach
            inside.closed = True


@contextmanager
def beside_others() -> Iterator[None]:
    """Tell the calls inside the block that others run beside them, which have the cores already."""
    token = _pooled.set(True)
    try:
        yield
    finally:
        _pooled.reset(token)


def is_beside_others() -> bool:
    """Whether calls run beside others: on the threads of a pool, or in one of its processes."""
    return _pooled.get() or multiprocessing.parent_process() is not None


def _check(name: str, what: str) -> None:
    """Refuse what is no engine, or cannot be used."""
    if name not in (ARRAY_API, *EXTRAS):
        message = f"{what} needs to be one of {', '.join((ARRAY_API, *EXTRAS))}: got {name!r}"
        raise ValueError(message)
    found = [] if name == ARRAY_API else [_load(module) for module in _MODULES[name].values()]
    loaded = found[0] if found and all(isinstance(one, Exception) for one in found) else None
    if isinstance(loaded, Exception) and _is_missing(name, loaded):
        message = f"{what} needs {name}, which is not installed: {install(EXTRAS[name])}"
        raise ModuleNotFoundError(message)
    if isinstance(loaded, Exception):
        message = f"{what} needs {name}: {_problem(name, loaded)}"
        raise ImportError(message) from loaded  # noqa: TRY004  what was loaded is the reason


# ---------------------------------------------------------------------------------- engines that cannot be imported


@cache
def _load(module: str) -> ModuleType | Exception:
    """Import an engine once; return whatever that raises: an engine is there to be faster, not to be needed."""
    try:
        return import_module(f"{__package__}.{module}")
    except Exception as error:  # noqa: BLE001  a package that is half there raises anything
        return error.with_traceback(None)


def _is_missing(name: str, error: Exception) -> bool:
    """Whether the engine's package is simply not installed, whichever of its modules was missed first."""
    if not isinstance(error, ModuleNotFoundError):
        return False
    try:
        package = PACKAGES.get(name, name)
        return error.name == package or find_spec(package) is None
    except ImportError:  # somebody blocks it
        return True
    except ValueError:  # a stub without a specification
        return False


def _problem(name: str, error: Exception) -> str:
    """Return what is wrong with an engine, and how to mend it."""
    lines = str(error).strip().splitlines() or [""]
    return (
        f"it is installed but cannot be used ({type(error).__name__}: {lines[0]}); mend that, where a package is "
        f"missing or too old with {install(EXTRAS[name], '--upgrade')}, or do without it by ANYNORM_ENGINE={ARRAY_API}"
    )


_problems: dict[str, str] = {}


def problems() -> dict[str, str]:
    """Return the engines that were to be used and could not, each with what is wrong with it."""
    return dict(_problems)


def report(name: str, error: Exception) -> None:
    """Warn of an engine that cannot be used, once; that one is not installed is nothing to warn of."""
    if name not in _problems and not _is_missing(name, error):
        _problems[name] = _problem(name, error)
        message = f"anynorm runs array-API code, which is slower, in place of its engine {name}: {_problems[name]}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


# ---------------------------------------------------------------------------------- which one runs


def chosen(library: str) -> tuple[tuple[str, ModuleType], ...]:
    """Return the engines for a library, each with its module: the first that takes a call runs it."""
    return _chosen(library, choice().name)


@cache
def _chosen(library: str, asked: str | None) -> tuple[tuple[str, ModuleType], ...]:
    found = []
    for name, modules in _MODULES.items():
        if library in modules and asked in (None, name):
            loaded = _load(modules[library])
            if isinstance(loaded, Exception):
                report(name, loaded)
            else:
                found.append((name, loaded))
    return tuple(found)


def ask(library: str, work: str, *arguments: Any, **keywords: Any) -> Any:
    """Have the first engine do it that takes the call; None where array-API code is to."""
    for name, module in chosen(library):
        done = getattr(module, work)(*arguments, **keywords)
        if done is not None:
            ran(name)
            return done
    ran(ARRAY_API)
    return None


@contextmanager
def watch() -> Iterator[set[str]]:
    """Yield the set of the engines that run inside the block."""
    ran: set[str] = set()
    token = _watched.set(ran)
    try:
        yield ran
    finally:
        _watched.reset(token)


def ran(name: str) -> None:
    """Tell whoever watches that an engine has run."""
    names = _watched.get()
    if names is not None:
        names.add(name)
