"""Kernels as machine code: compiled once for the dtypes they meet, kept on disk, and called by address.

A kernel is called with the addresses of its arrays, alone or piece by piece on several cores. What calls it is compiled
once for all kernels. Of NumPy's arrays the address is read where it stands, behind the head of the object, since asking
for it takes as long as a small norm.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from llvmlite import ir
from numba import cfunc, config, njit, prange, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from .masks import BYTES, NOTHING
from .threads import safe_beside_others, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable

if config.DISABLE_JIT:
    message = f"Numba compiles nothing, since NUMBA_DISABLE_JIT is {config.DISABLE_JIT}"
    raise ImportError(message)

PATIENCE = 60.0  # seconds to wait for another process that compiles: a kernel takes less than ten
POINTERS = 14  # parameters of a kernel before eps, pieces and p


# ---------------------------------------------------------------------------------- compiling


def signature(stored: Any, gradient: Any, computing: Any, *, masked: bool) -> Any:
    """Return the signature of a kernel for x and its result, dy, and weight, bias and means of these dtypes."""
    x, dy, own, wide = (types.CPointer(t) for t in (stored, gradient, computing, types.float64))
    mask = BYTES if masked else NOTHING
    return types.void(
        x, dy, x, own, own, own, own, wide, wide, mask, wide, wide, wide, types.CPointer(types.int64),
        types.float64, types.int64, types.int64,
    )  # fmt: skip


_kept: list[Any] = []  # what has been compiled, which goes when nobody refers to it


@cache
def address(kernel: Callable[..., None], stored: Any, gradient: Any, computing: Any, *, masked: bool) -> int:
    """Return the address of a kernel, compiled for these dtypes or taken from the cache on disk."""
    compiled = _compile(kernel, signature(stored, gradient, computing, masked=masked))
    _kept.append(compiled)
    found: int = compiled.address
    return found


def _compile(kernel: Callable[..., None], types_: Any) -> Any:
    """Compile a kernel beside no other process: those that save different signatures at once would give both one file.

    A full disk, a damaged file, somebody else's lock, no place to write to: a norm can do without the cache.
    """
    folder = cache_folder()
    if folder is not None:
        with suppress(Exception), _lock(folder):
            compiled = CFunc(
                kernel, (types_.args, types_.return_type), locals={}, options={"nopython": True, "error_model": "numpy"}
            )
            compiled.enable_caching()
            compiled.compile()
            return compiled
    return cfunc(types_, error_model="numpy")(kernel)


@cache
def _lock(folder: str) -> FileLock:
    return FileLock(Path(folder) / "anynorm.lock", timeout=PATIENCE)


def _with_cache(function: Callable[..., Any], **options: Any) -> Any:
    """Compile what calls kernels when it is first called, or take it from the cache on disk."""
    try:
        compiled = njit(cache=True, nogil=True, **options)(function)
    except (OSError, RuntimeError):  # neither the package's folder nor the user's can be written to
        return njit(nogil=True, **options)(function)
    compile_ = compiled.compile

    def compile_alone(signature: Any) -> Any:
        with suppress(Exception), _lock(compiled.stats.cache_path):
            return compile_(signature)
        compiled._cache.disable()  # noqa: SLF001  Numba has no public way to
        return compile_(signature)

    compiled.compile = compile_alone
    return compiled


# ---------------------------------------------------------------------------------- calling


@intrinsic
def _call(_, kernel, x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p):
    def generate(context, builder, signature, args):
        function = ir.FunctionType(ir.VoidType(), [arg.type for arg in args[1:]])
        builder.call(builder.inttoptr(args[0], function.as_pointer()), args[1:])
        return context.get_dummy_value()

    whole = types.int64
    return types.void(*[whole] * (1 + POINTERS), types.float64, whole, whole), generate


@intrinsic
def _read(_, place):
    def generate(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), generate


@njit(nogil=True)
def _memory(array, head):
    """Return the address of an array's memory: it is given, or stands behind the head of the object that is given."""
    return array if head == 0 or array == 0 else _read(array + head)


def _piece(
    kernel, head, x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces, p
):  # fmt: skip
    """Do one piece of a kernel's work."""
    _call(
        kernel, _memory(x, head), _memory(dy, head), _memory(out, head), _memory(weight, head), _memory(bias, head),
        _memory(mean, head), _memory(rest, head), _memory(var, head), _memory(count, head), _memory(mask, head),
        _memory(one, head), _memory(two, head), _memory(three, head), geometry, eps, pieces, p,
    )  # fmt: skip


_do = njit(nogil=True)(_piece)


def _together(
    kernel, head, x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps, pieces
):  # fmt: skip
    """Do all pieces of a kernel's work, side by side."""
    for p in prange(pieces):
        _do(
            kernel, head, x, dy, out, weight, bias, mean, rest, var, count, mask, one, two, three, geometry, eps,
            pieces, p,
        )  # fmt: skip


piece, together = _with_cache(_piece), _with_cache(_together, parallel=True)


@cache
def cache_folder() -> str | None:
    """Return where compiled code is kept, None where there is no place for it."""
    return getattr(piece.stats, "cache_path", None)


def launch(kernel: int, pieces: int, *arguments: Any) -> None:
    """Run a kernel in pieces side by side, or on this thread."""
    if pieces == 1:
        piece(kernel, *arguments, 1, 0)
    elif not safe_beside_others():
        take_turns(lambda p: piece(kernel, *arguments, pieces, p), pieces)
    else:
        together(kernel, *arguments, pieces)


HEAD = object.__basicsize__  # of a Python object: what follows is the first field of the array, its address

_probe = np.empty(1)
if ctypes.c_void_p.from_address(id(_probe) + HEAD).value != _probe.ctypes.data:
    message = "the address of a NumPy array does not stand where NumPy's headers have it"
    raise ImportError(message)
