"""Half precision in kernels: float16 comes as uint16, bfloat16 as int16; both are widened to float32 block by block."""

from __future__ import annotations

import math
import platform

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic, overload

# LLVM calls a function for what the processor does not do, and Numba has none.
KNOWS_FLOAT16 = platform.machine() not in ("x86_64", "AMD64") or (
    bool(llvm.get_host_cpu_features().get("f16c")) and config.CPU_NAME is None and config.CPU_FEATURES is None
)


@intrinsic
def _as_float(_, bits):
    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _as_bits(_, value):
    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), generate


U = np.uint32


@intrinsic
def _widen_float16(_, bits):
    def generate(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _narrow_float16(_, value):
    def generate(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@njit(nogil=True, error_model="numpy")
def _widen_bfloat16(half):
    return _as_float(U(U(np.uint16(half)) << U(16)))


@njit(nogil=True, error_model="numpy")
def _narrow_bfloat16(value):
    bits = _as_bits(value)
    rounded = U(U(bits + U(0x7FFF) + U(U(bits >> U(16)) & U(1))) >> U(16))
    if math.isnan(value):  # rounding would carry some NaN to infinity
        rounded = U(U(bits >> U(16)) | U(0x40))
    return np.int16(np.uint16(rounded))


def load(block, scratch):
    """Return the floats of a block: itself, or in scratch."""


def room(block, scratch):
    """Return where the floats of a block are to be written: itself, or scratch."""


def store(values, block):
    """Bring what was written to room(block, scratch) to the block."""


@overload(load)
def _load(block, scratch):
    if block.dtype == types.uint16:

        def widen(block, scratch):
            for i in range(block.size):
                scratch[i] = _widen_float16(block[i])
            return scratch[: block.size]

        return widen
    if block.dtype == types.int16:

        def widen(block, scratch):
            for i in range(block.size):
                scratch[i] = _widen_bfloat16(block[i])
            return scratch[: block.size]

        return widen
    return lambda block, scratch: block


@overload(room)
def _room(block, scratch):
    if isinstance(block.dtype, types.Float):
        return lambda block, scratch: block
    return lambda block, scratch: scratch[: block.size]


@overload(store)
def _store(values, block):
    if block.dtype == types.uint16:

        def narrow(values, block):
            for i in range(block.size):
                block[i] = _narrow_float16(values[i])

        return narrow
    if block.dtype == types.int16:

        def narrow(values, block):
            for i in range(block.size):
                block[i] = _narrow_bfloat16(values[i])

        return narrow
    return lambda values, block: None
