"""The array API standard as far as anynorm calls it, for Paddle. Run by itself, it checks every norm in float64."""

import sys

import paddle

import anynorm

float32, finfo = paddle.float32, paddle.finfo
concat, stack, reshape, squeeze, where = (
    paddle.concat,
    paddle.stack,
    paddle.reshape,
    paddle.squeeze,
    paddle.where,
)
isinf, sqrt, ones, zeros, zeros_like = (
    paddle.isinf,
    paddle.sqrt,
    paddle.ones,
    paddle.zeros,
    paddle.zeros_like,
)
expand_dims = paddle.unsqueeze
NAMES = {
    "bool": "bool",
    "integral": "int",
    "real floating": "float",
}  # what the names of its dtypes hold


class __array_namespace_info__:  # noqa: N801
    def default_dtypes(self, *, device=None):
        return {"real floating": float32, "integral": paddle.int64}

    def dtypes(self, *, kind, device=None):
        return {
            "float32": float32,
            "float64": paddle.float64,
        }  # of kind "real floating": sums are taken in the widest


def isdtype(dtype, kind):
    kinds = (kind,) if isinstance(kind, str) else kind
    return bool([k for k in kinds if NAMES[k] in str(dtype)])


def astype(x, dtype, *, copy=True):
    return x.astype(dtype)


def sum(x, *, axis=None, dtype=None, keepdims=False):
    return x.sum(axis, dtype=dtype, keepdim=keepdims)


def any(x, *, axis=None, keepdims=False):
    return x.any(axis, keepdim=keepdims)


def max(x, *, axis=None, keepdims=False):
    return x.max(axis, keepdim=keepdims)


def min(x, *, axis=None, keepdims=False):
    return x.min(axis, keepdim=keepdims)


anynorm.register(paddle.Tensor, sys.modules[__name__])  # this module


def gradient(norm, x, dy):
    x.stop_gradient = False
    (norm(x) * dy).sum().backward()
    return x.grad


if __name__ == "__main__":
    from check_adapter import check

    check(paddle.to_tensor, paddle.Tensor.numpy, gradient)
