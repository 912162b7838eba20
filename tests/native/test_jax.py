"""JAX's own standardize, and Flax's norms in their own conventions: ours agree with them, and are never the worse.

Flax: eps 1e-6 but for batch norm, channels last, weight and bias along the last axis alone, momentum the weight of the
old value, the running variance biased. Both take E[x^2] - E[x]^2 unless told otherwise, which makes no oracle.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import anynorm
from backends import BACKENDS
from native.comparison import SMALL, assert_native, assert_never_worse
from oracles import GROUPS, KINDS, data, standardized, tolerance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jax import Array

    from backends import Jax

pytestmark = pytest.mark.library("jax")

C = 24
SHAPES = {"2-D": (16, C), "3-D": (4, 17, C), "4-D": (3, 6, 16, C)}
DTYPES = ("float64", "float32", "bfloat16", "float16")
STEPS = 10

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_shape = pytest.mark.parametrize("rank", SHAPES)
each_small_kind = pytest.mark.parametrize("kind", SMALL)
plain_and_affine = pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
both_apis = pytest.mark.parametrize("api", [linen, nnx], ids=["linen", "nnx"])


@pytest.fixture(params=[b for b in BACKENDS if b.library == "jax"], ids=lambda b: b.name)
def lib(request: pytest.FixtureRequest) -> Jax:
    """JAX op by op, and jitted."""
    return request.param


@pytest.fixture(autouse=True)
def precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """Switch float64 on for the tests of it."""
    callspec = getattr(request.node, "callspec", None)
    with jax.enable_x64(callspec is not None and callspec.params.get("dtype") == "float64"):
        yield


def array(kind: str, rank: str, dtype: str, seed: int = 0) -> Array:
    return jnp.asarray(data(kind, SHAPES[rank], "float64", seed)).astype(dtype)


def double(x: Array) -> np.ndarray:
    return np.asarray(x.astype("float32") if x.dtype == "bfloat16" else x).astype(np.float64)


def assert_same(ours: Array, native: Array) -> None:
    assert ours.dtype == native.dtype
    assert_native(double(ours), double(native), str(native.dtype))


# -------------------------------------------------------------------------------- jax.nn.standardize


@each_dtype
@each_small_kind
@each_shape
@pytest.mark.parametrize("first", [-1, 1], ids=["the last axis", "all but the samples"])
def test_layer_norm_gives_what_jax_nn_standardize_gives(lib, first, rank, kind, dtype):
    x = array(kind, rank, dtype)
    axis = tuple(range(first % x.ndim, x.ndim))
    ours = lib.run(partial(anynorm.layer_norm, axis=axis), x)
    # in halves it would take its statistics in halves: 5 ulp
    wide = x if dtype == "float64" else x.astype("float32")
    native = lib.run(lambda a: jax.nn.standardize(a, axis, algorithm="stable"), wide).astype(x.dtype)
    assert_same(ours, native)


# -------------------------------------------------------------------------------- Flax


def parameters(affine: bool, dtype: str) -> tuple[Array | None, Array | None]:
    if not affine:
        return None, None
    rng = np.random.default_rng(7)
    wide = jnp.float64 if dtype == "float64" else jnp.float32
    return jnp.asarray(rng.uniform(0.5, 1.5, C)).astype(wide), jnp.asarray(rng.uniform(-1, 1, C)).astype(wide)


def flax_norm(api: Any, name: str, w: Array | None, b: Array | None, **settings: Any) -> Callable[[Array], Array]:
    """Return Flax's norm of that name as a function of x: in Flax's own defaults, but for the exact variance."""

    def call(x: Array) -> Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        options = {
            "use_fast_variance": False,
            "use_scale": w is not None,
            "dtype": x.dtype,  # else halves come out as float32
            "param_dtype": wide,
            "scale_init": lambda *_: w,
            **settings,
        }
        if name != "RMSNorm":
            options |= {"use_bias": b is not None, "bias_init": lambda *_: b}
        with jax.numpy_dtype_promotion("standard"):
            if api is nnx:
                return getattr(nnx, name)(C, rngs=nnx.Rngs(0), **options)(x)
            y, _ = getattr(linen, name)(**options).init_with_output(jax.random.key(0), x)
            return y

    return call
