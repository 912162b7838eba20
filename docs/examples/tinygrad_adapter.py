"""The array API standard as far as anynorm calls it, for tinygrad. Run by itself, it checks every norm in float64."""

import sys
from types import SimpleNamespace

from tinygrad import Tensor, dtypes

import anynorm

float32 = dtypes.float32
isinf, reshape, sqrt, where = Tensor.isinf, Tensor.reshape, Tensor.sqrt, Tensor.where
ones, zeros, zeros_like = Tensor.ones, Tensor.zeros, Tensor.zeros_like
KINDS = {
    "bool": dtypes.is_bool,
    "integral": dtypes.is_int,
    "real floating": dtypes.is_float,
}


class __array_namespace_info__:  # noqa: N801
    def default_dtypes(self, *, device=None):
        return {"real floating": float32, "integral": dtypes.int32}

    def dtypes(self, *, kind, device=None):
        return {
            "float32": float32,
            "float64": dtypes.float64,
        }  # of kind "real floating": sums are taken in the widest


def finfo(dtype):
    return SimpleNamespace(
        bits=8 * dtype.itemsize, eps=2.0**-23, smallest_normal=2.0**-126
    )  # those of float32


def isdtype(dtype, kind):
    kinds = (kind,) if isinstance(kind, str) else kind
    return bool([k for k in kinds if KINDS[k](dtype)])


def astype(x, dtype, *, copy=True):
    return x.cast(dtype)


def concat(arrays, *, axis=0):
    return Tensor.cat(*arrays, dim=axis)


def stack(arrays, *, axis=0):
    return Tensor.stack(*arrays, dim=axis)


def expand_dims(x, *, axis):
    return x.unsqueeze(axis)


def squeeze(x, *, axis):
    return x.reshape([size for i, size in enumerate(x.shape) if i not in axis])


def sum(x, *, axis=None, dtype=None, keepdims=False):
    return x.sum(axis, keepdim=keepdims, dtype=dtype)


def any(x, *, axis=None, keepdims=False):
    return x.any(axis, keepdim=keepdims)


def max(x, *, axis=None, keepdims=False):
    return x.max(axis, keepdim=keepdims)


def min(x, *, axis=None, keepdims=False):
    return x.min(axis, keepdim=keepdims)


anynorm.register(Tensor, sys.modules[__name__])  # this module


def gradient(norm, x, dy):
    return (norm(x) * dy).sum().gradient(x)[0]


if __name__ == "__main__":
    from check_adapter import check

    check(Tensor, Tensor.numpy, gradient)
