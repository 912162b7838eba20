"""Every norm on every library against float64."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm
from oracles import GROUPS, KINDS, NORMS, OFFSETS, assert_within, data, standardized, tolerance

SHAPE = (6, 8, 9, 10)
CHANNELS = SHAPE[1]
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
each_centred_norm = pytest.mark.parametrize("norm", [n for n in NORMS if not n.rms], ids=str)
each_channel_norm = pytest.mark.parametrize("norm", [n for n in NORMS if "layer" not in n.name and not n.rms], ids=str)


# ------------------------------------------------------------------------------------------------ accuracy


@each_norm
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.every_use
def test_float32_keeps_the_promise(xp, norm, kind):
    x = data(kind, SHAPE)
    exact = norm.oracle(x)
    assert_within(xp.numpy(xp.run(norm.call, xp.array(x))), exact, tolerance(x, exact, "float32"))


@each_norm
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.dtypes("float64")
def test_float64_keeps_the_promise(xp, dtype, norm, kind):
    x = data(kind, SHAPE, dtype)
    exact = norm.oracle(x)
    with xp.using(dtype):
        assert_within(xp.numpy(xp.run(norm.call, xp.array(x))), exact, tolerance(x, exact, dtype))


@each_norm
@pytest.mark.dtypes("float16", "bfloat16")
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.every_use("torch")
def test_halves_are_rounded_once(xp, dtype, norm, offset):
    x = xp.array(data(f"offset {offset:g}", SHAPE), dtype)
    exact = norm.oracle(xp.numpy(x).astype(np.float32))
    y = xp.run(norm.call, x)
    assert xp.dtype(y) == dtype
    assert_within(xp.numpy(y), exact, tolerance(x, exact, dtype))


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("axis", [0, 1])
def test_long_slices_keep_the_promise(xp, axis, offset):
    x = data(f"offset {offset:g}", (300_001, 3) if axis == 0 else (3, 300_001))
    exact = standardized(x, (axis,), 1e-5)
    y = xp.run(lambda a: anynorm.layer_norm(a, axis=axis), xp.array(x))
    assert_within(xp.numpy(y), exact, tolerance(x, exact, "float32"))


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own, while it compiles
@pytest.mark.parametrize(  # the others are compiled as one of these is
    "norm",
    [n if n.name in ("layer_norm last axis", "batch_norm") else pytest.param(n, marks=pytest.mark.slow) for n in NORMS],
    ids=str,
)
def test_inductor_keeps_the_promise(norm, rng):
    import torch

    torch._dynamo.reset()
    compiled = torch.compile(norm.call, fullgraph=True)
    g = rng.standard_normal((16, 32, 28, 28)).astype(np.float32)
    for kind in (*KINDS, "constant"):
        x = np.full(g.shape, 1e6 / 3, np.float32) if kind == "constant" else data(kind, g.shape)
        exact = norm.oracle(x)
        leaf = torch.tensor(x).requires_grad_()
        y = compiled(leaf)
        assert_within(y.detach().numpy(), exact, tolerance(x, exact, "float32"))
        assert [t.numel() for t in y.grad_fn.saved_tensors if t.numel() > 16 * 32 * 28] == [g.size]  # x, and small ones
        y.backward(torch.tensor(g))
        exact = norm.gradient(x, g)
        assert_within(leaf.grad.numpy(), exact, 4e-6 * max(1.0, float(np.abs(exact).max())))
        assert kind != "constant" or norm.rms or not y.any()


@each_centred_norm
@pytest.mark.parametrize("eps", [0, 1e-5])
@pytest.mark.every_use("torch")
def test_constant_slices_are_exactly_zero(xp, norm, eps):
    def call(a):
        return norm.call(a, eps=eps)

    for value in (0.0, 1 / 3, -1e5 / 3, 1e6 / 3):
        x = np.full((3, 4, 7, 11), value, dtype=np.float32)
        assert np.array_equal(xp.numpy(xp.run(call, xp.array(x))), np.zeros_like(x))


@pytest.mark.parametrize("size", [2, 3, 1000])
def test_one_step_of_one_element_is_no_constant_slice(xp, size):
    x = np.full((1, size), 1e6 / 3, dtype=np.float32)
    x[0, 0] = np.nextafter(x[0, 0], np.float32(np.inf))
    y = xp.numpy(xp.run(lambda a: anynorm.layer_norm(a, eps=0), xp.array(x)))
    exact = standardized(x, (1,), 0)
    assert_within(y, exact, tolerance(x, exact, "float32"))


def test_zeros_of_rms_norm_are_zeros(xp):
    y = xp.run(lambda a: anynorm.rms_norm(a, eps=0), xp.array(np.zeros((2, 3), dtype=np.float32)))
    assert np.array_equal(xp.numpy(y), np.zeros((2, 3)))


# ------------------------------------------------------------------------------------------------ layouts, axes, ranks


def layouts(x):
    """Return views of x's values in memory orders that norms meet."""
    padded = np.repeat(x, 2, axis=-1)
    return {
        "Fortran": np.asfortranarray(x),
        "channels last": np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
        "strided": padded[..., ::2],
        "reversed": np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1],
        "transposed": np.ascontiguousarray(x.T).T,
    }


@pytest.mark.library("numpy")
@each_norm
@pytest.mark.parametrize("layout", ["Fortran", "channels last", "strided", "reversed", "transposed"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_memory_layouts_keep_the_promise_in_numpy(norm, layout, offset):
    x = data(f"offset {offset:g}", SHAPE)
    view = layouts(x)[layout]
    assert np.array_equal(view, x)
    exact = norm.oracle(x)
    assert_within(norm.call(view), exact, tolerance(x, exact, "float32"))


@pytest.mark.library("torch")
@each_norm
@pytest.mark.parametrize("layout", ["channels last", "transposed", "expanded"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_memory_layouts_keep_the_promise_in_torch(norm, layout, offset):
    import torch

    x = data(f"offset {offset:g}", SHAPE)
    if layout == "expanded":
        x = np.ascontiguousarray(np.broadcast_to(x[:1], SHAPE))
    view = {
        "channels last": lambda t: t.to(memory_format=torch.channels_last),
        "transposed": lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "expanded": lambda t: t[:1].expand(SHAPE),
    }[layout](torch.tensor(x))
    exact = norm.oracle(x)
    assert_within(norm.call(view).numpy(), exact, tolerance(x, exact, "float32"))


@each_channel_norm
@pytest.mark.parametrize("channel_axis", [-1, 2, -3])
def test_channels_may_be_on_any_axis(xp, norm, channel_axis):
    x = data("offset 100", SHAPE)
    moved = np.moveaxis(x, 1, channel_axis)
    y = xp.numpy(xp.run(lambda a: norm.call(a, channel_axis=channel_axis), xp.array(moved)))
    exact = norm.oracle(x)
    assert_within(np.moveaxis(y, channel_axis, 1), exact, tolerance(x, exact, "float32"))


@pytest.mark.parametrize(
    ("call", "axes"),
    [
        (lambda a: anynorm.batch_norm(a, channel_axis=0), (1, 2)),
        (lambda a: anynorm.instance_norm(a, channel_axis=0), (1, 2)),
        (lambda a: anynorm.layer_norm(a, axis=[2, 0]), (0, 2)),
        (lambda a: anynorm.layer_norm(a, axis=(-1, 1)), (1, 2)),
        (lambda a: anynorm.layer_norm(a, axis=(2, 1, 0)), (0, 1, 2)),
        (lambda a: anynorm.group_norm(a, 1, channel_axis=0), (0, 1, 2)),
    ],
)
def test_axes_are_those_named(xp, call, axes):
    x = data("offset 100", (4, 5, 6))
    exact = standardized(x, axes, 1e-5)
    assert_within(xp.numpy(xp.run(call, xp.array(x))), exact, tolerance(x, exact, "float32"))


@each_channel_norm
@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 5), (3, 4, 5, 2, 3), (1, 4, 5)])
def test_every_rank_with_channels_works(xp, norm, shape):
    x = data("offset 100", shape)
    exact = norm.oracle(x)
    assert_within(xp.numpy(xp.run(norm.call, xp.array(x))), exact, tolerance(x, exact, "float32"))


@each_norm
@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3), (0, 4), (2, 4, 0)])
@pytest.mark.needs("empty arrays")
def test_empty_arrays_stay_empty(xp, norm, shape):
    y = xp.run(norm.call, xp.array(np.zeros(shape, dtype=np.float32)))
    assert (tuple(y.shape), xp.dtype(y)) == (shape, "float32")


# ------------------------------------------------------------------------------------------------ affine


def affine_shapes(norm):
    own = {"layer_norm": SHAPE[1:], "layer_norm last axis": SHAPE[-1:], "rms_norm": SHAPE[-1:]}.get(
        norm.name, (CHANNELS,)
    )
    return own, (SHAPE[0], CHANNELS, 1, 1), (1, 1, *SHAPE[2:]), SHAPE


@each_norm
def test_affine_is_the_norms_own_or_broadcasts(xp, norm, rng):
    x, shapes = data("offset 100", SHAPE), affine_shapes(norm)
    pairs = [rng.standard_normal((2, *shape)).astype(np.float32) for shape in shapes]

    def call(a, *pairs):
        return tuple(norm.call(a, weight=pair[0, ...], bias=pair[1, ...]) for pair in pairs)

    ys = xp.numpy(xp.run(call, *map(xp.array, (x, *pairs))))
    for shape, y, (weight, bias) in zip(shapes, ys, pairs, strict=True):
        laid = (1, CHANNELS, 1, 1) if shape == (CHANNELS,) else shape
        exact = norm.oracle(x) * weight.reshape(laid) + bias.reshape(laid)
        assert_within(y, exact, tolerance(x, exact, "float32") * (1 + np.abs(weight).max()))


def test_affine_of_axes_apart_keeps_their_order(xp, rng):
    x, weight = data("offset 0", (2, 3, 4)), rng.standard_normal((2, 4)).astype(np.float32)
    y = xp.run(lambda a, w: anynorm.layer_norm(a, w, axis=(2, 0)), xp.array(x), xp.array(weight))
    exact = standardized(x, (0, 2), 1e-5) * weight[:, None, :]
    assert_within(xp.numpy(y), exact, tolerance(x, exact, "float32") * (1 + np.abs(weight).max()))


@pytest.mark.dtypes("float64", "float32", "float16", "bfloat16")
def test_the_result_has_the_dtype_of_x(xp, dtype):
    with xp.using("float64"):
        x = xp.array(data("offset 0", (3, 4)), dtype)
        for parameter in xp.floats:
            w = xp.array(np.full(4, 0.5), parameter)
            assert xp.dtype(xp.run(lambda a, w: anynorm.layer_norm(a, w, w), x, w)) == dtype


@pytest.mark.dtypes("float16", "bfloat16")
def test_halves_are_rounded_after_the_affine(xp, dtype, rng):
    x = xp.array(data("offset 0", (3, 400)), dtype)
    weight, bias = (rng.standard_normal(400).astype(np.float32) for _ in "wb")
    exact = standardized(xp.numpy(x).astype(np.float32), (1,), 1e-5) * weight + bias
    y = xp.run(lambda a, w, b: anynorm.layer_norm(a, w, b), x, xp.array(weight), xp.array(bias))
    # A bias may cancel the product: what is left is as exact as float32 made it.
    assert_within(xp.numpy(y), exact, tolerance(x, exact, dtype) + 2e-6)


# ------------------------------------------------------------------------------------------------ what comes back


@each_norm
def test_the_result_is_of_xs_library_shape_dtype_and_device(xp, norm):
    x = xp.array(data("offset 0", SHAPE))
    y = xp.run(norm.call, x)
    assert xp.owns(y)
    assert (tuple(y.shape), y.dtype, xp.place(y)) == (SHAPE, x.dtype, xp.place(x))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_integers_become_the_default_float(xp, dtype):
    x = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 200, SHAPE).astype(dtype)
    ys = xp.run(lambda a: tuple(norm.call(a) for norm in NORMS), xp.array(x, dtype))
    assert {xp.dtype(y) for y in ys} == {xp.default_float}
    for norm, y in zip(NORMS, xp.numpy(ys), strict=True):
        assert_within(y, norm.oracle(x.astype(np.float64)), 2e-6)


@pytest.mark.library("dask")
@each_norm
@pytest.mark.parametrize("chunks", [(4, 5, 6, 7), (6, 3, 9, 10), (1, 8, 1, 1)])
def test_dask_keeps_its_chunks(norm, chunks):
    import dask.array as da

    x = da.from_array(data("offset 0", SHAPE), chunks=chunks)
    assert norm.call(x).chunks == x.chunks


@pytest.mark.library("dask")
def test_numpy_parameters_are_welcome_on_dask():
    import dask.array as da

    x = data("offset 0", SHAPE)
    weight = np.arange(CHANNELS, dtype=np.float32)
    y = anynorm.group_norm(da.from_array(x, chunks=(2, 3, 9, 4)), GROUPS, weight, weight)
    assert y.chunks[1] == (3, 3, 2)
    with anynorm.engine("array-api"):
        assert np.array_equal(y.compute(), anynorm.group_norm(x, GROUPS, weight, weight))


@each_norm
def test_the_input_is_never_written_to(xp, norm):
    values = data("offset 100", SHAPE)
    x = xp.array(values)
    xp.run(norm.call, x)
    assert np.array_equal(xp.numpy(x), values)


# ------------------------------------------------------------------------------------------------ masks


@each_norm
@pytest.mark.parametrize(
    "shape", [SHAPE, (SHAPE[0], 1, *SHAPE[2:]), SHAPE[-1:]], ids=["full", "per sample", "trailing"]
)
@pytest.mark.every_use("torch")
def test_a_mask_selects_before_the_statistics(xp, norm, shape, rng):
    x, mask = data("offset 1e+06", SHAPE), rng.random(shape) < 0.7
    full = np.broadcast_to(mask, SHAPE)
    x[~full] = np.nan
    split = (SHAPE[0], GROUPS, CHANNELS // GROUPS, *SHAPE[2:]) if norm.groups else SHAPE
    exact = masked_oracle(x.reshape(split), full.reshape(split), norm.axes(len(SHAPE)), rms=norm.rms).reshape(SHAPE)
    y = xp.numpy(xp.run(lambda a, m: norm.call(a, where=m), xp.array(x), xp.array(mask)))
    assert_within(y, exact, tolerance(np.nan_to_num(x), exact, "float32"))


def masked_oracle(x, mask, axes, *, rms):
    """Return the float64 norm of the selected elements, slice by slice."""
    kept = tuple(i for i in range(x.ndim) if i not in axes)
    y = np.zeros(x.shape)
    for index in np.ndindex(*(x.shape[i] for i in kept)):
        where = [slice(None)] * x.ndim
        for i, k in zip(kept, index, strict=True):
            where[i] = k
        part, chosen = x[tuple(where)].astype(np.float64), mask[tuple(where)]
        if chosen.any():
            y[tuple(where)][chosen] = standardized(part[chosen].astype(np.float32), (0,), 1e-5, rms=rms)
    return y


@each_norm
def test_what_a_mask_hides_wholly_is_zero(xp, norm):
    x = data("offset 100", SHAPE)
    x[0] = np.inf
    mask = np.arange(SHAPE[0]).reshape(-1, 1, 1, 1) > 0
    y = xp.numpy(xp.run(lambda a, m: norm.call(a, where=m), xp.array(x), xp.array(mask)))
    assert np.array_equal(y[0], np.zeros_like(x[0]))
    exact = norm.oracle(x[1:])
    assert_within(y[1:], exact, tolerance(x[1:], exact, "float32"))


# ------------------------------------------------------------------------------------------------ identities


def test_group_norm_of_one_group_is_layer_norm_over_the_sample(xp):
    x = xp.array(data("offset 1e+04", SHAPE))
    one, other = (
        xp.numpy(xp.run(call, x))
        for call in (lambda a: anynorm.group_norm(a, 1), lambda a: anynorm.layer_norm(a, axis=(1, 2, 3)))
    )
    assert_within(one, other.astype(np.float64), 1e-6)


def test_group_norm_of_as_many_groups_as_channels_is_instance_norm_affine_included(xp, rng):
    x, weight = xp.array(data("offset 1e+04", SHAPE)), xp.array(rng.standard_normal(CHANNELS).astype(np.float32))
    one, other = (
        xp.numpy(xp.run(call, x, weight))
        for call in (
            lambda a, w: anynorm.group_norm(a, CHANNELS, w, w),
            lambda a, w: anynorm.instance_norm(a, weight=w, bias=w),
        )
    )
    assert_within(one, other.astype(np.float64), 1e-6 * (1 + np.abs(xp.numpy(weight)).max()))


def test_batch_norm_of_one_sample_is_instance_norm_of_it(xp):
    x = xp.array(data("offset 1e+04", (1, *SHAPE[1:])))
    one, other = (xp.numpy(xp.run(call, x)) for call in (anynorm.batch_norm, anynorm.instance_norm))
    assert_within(one, other.astype(np.float64), 1e-6)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("size", "offset", "outlier"), [(1000, 1e4, 1e5), (10_000, 1e6, 1e6), (100_000, 1e2, 1e6)])
def test_an_outlier_at_an_offset_keeps_the_promise_in_array_api_code(xp, axis, size, offset, outlier, rng):
    if "float64" not in xp.floats:
        pytest.skip("sums in float32 alone are another promise")
    x = rng.standard_normal((size, 3))
    x[0] = outlier
    x = (x + offset).astype(np.float32)
    x = x if axis == 0 else np.ascontiguousarray(x.T)
    exact = standardized(x, (axis,), 1e-5)
    with anynorm.engine("array-api"):
        y = xp.numpy(xp.run(lambda a: anynorm.layer_norm(a, axis=axis), xp.array(x)))
    assert_within(y, exact, tolerance(x, exact, "float32"))


@pytest.mark.parametrize("norm", [anynorm.layer_norm, anynorm.rms_norm], ids=["layer", "rms"])
def test_no_axis_named_is_all_of_them(xp, norm):
    x = xp.array(data("offset 3", (3, 4, 5)))
    everywhere, named = (xp.numpy(xp.run(lambda a, k=axis: norm(a, axis=k), x)) for axis in (None, (0, 1, 2)))
    assert np.array_equal(everywhere, named)
