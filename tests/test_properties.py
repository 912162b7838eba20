"""What holds of a norm whatever the array: hypothesis draws shapes, layouts and values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import anynorm
from oracles import centred

pytestmark = [pytest.mark.eager, pytest.mark.slow_on("jax", "dask")]

sizes = st.sampled_from([0, 1, 2, 3, 4])


@st.composite
def arrays(draw, min_rank=1, max_rank=5, min_size=0):
    """Draw an array of spread about 1 at some offset, in some memory order."""
    shape = draw(st.lists(sizes.filter(lambda n: n >= min_size), min_size=min_rank, max_size=max_rank))
    seed, offset = draw(st.integers(0, 2**16)), draw(st.sampled_from([0.0, 0.0, 100.0]))
    x = (np.random.default_rng(seed).standard_normal(shape) + offset).astype(np.float32)
    layout = draw(st.sampled_from(["C", "F", "reversed", "strided"]))
    if layout == "F":
        return np.asfortranarray(x)
    if layout == "reversed":
        return x[tuple(slice(None, None, -1) for _ in shape)]
    return np.repeat(x, 2, axis=-1)[..., ::2] if layout == "strided" else x


def axes_of(draw, x):
    axes = draw(st.lists(st.integers(0, x.ndim - 1), min_size=1, max_size=x.ndim, unique=True))
    return tuple(axes)


@st.composite
def arrays_and_axes(draw, **options):
    x = draw(arrays(**options))
    return x, axes_of(draw, x)


def close(a, b, bound=4e-6):
    """Fail unless a and b are equal to within what float32 can tell of results of unit spread."""
    assert a.shape == b.shape
    assert np.all(np.abs(a.astype(np.float64) - b) <= bound * np.maximum(1, np.abs(b)))


@given(drawn=arrays_and_axes())
def test_the_result_has_xs_shape_dtype_library_and_device(xp, drawn):
    x, axes = drawn
    a = xp.array(x)
    for y in (anynorm.layer_norm(a, axis=axes), anynorm.rms_norm(a, axis=axes), anynorm.zscore(a, axis=axes)):
        assert (tuple(y.shape), y.dtype, xp.owns(y), xp.place(y)) == (x.shape, a.dtype, True, xp.place(a))


@given(drawn=arrays_and_axes(min_size=1))
def test_mean_is_0_and_variance_1_unless_the_slice_is_constant(xp, drawn):
    x, axes = drawn
    y = xp.numpy(anynorm.layer_norm(xp.array(x), axis=axes, eps=0)).astype(np.float64)
    constant = np.all(centred(x, axes) == 0, axis=axes)
    assert np.all(np.abs(y.mean(axis=axes)) <= 2e-6)
    assert np.all(np.abs(y.var(axis=axes) - np.where(constant, 0, 1)) <= 1e-5)


@given(x=arrays(min_size=1), power=st.integers(-8, 8), shift=st.integers(-3, 3))
def test_shifting_and_scaling_x_change_nothing_at_eps_0(xp, x, power, shift):
    # Steps and scales that float32 holds exactly, so that nothing but the norm is under test.
    grid = np.round(x * 64).astype(np.float32)
    y, z = (
        xp.numpy(anynorm.layer_norm(xp.array(a), eps=0))
        for a in (grid, (grid + np.float32(shift * 4096)) * np.float32(2.0**power))
    )
    close(y, z)


@given(x=arrays(min_rank=2), seed=st.integers(0, 99))
def test_samples_and_channels_may_be_permuted(xp, x, seed):
    rng = np.random.default_rng(seed)
    samples, channels = rng.permutation(x.shape[0]), rng.permutation(x.shape[1])
    for norm in (anynorm.batch_norm, anynorm.instance_norm):
        y, z = (xp.numpy(norm(xp.array(a))) for a in (x, x[samples][:, channels]))
        close(y[samples][:, channels], z)


@given(x=arrays(min_rank=2, min_size=1), i=st.integers(0, 3))
def test_samples_are_independent_where_no_statistics_are_shared_over_the_batch(xp, x, i):
    i %= x.shape[0]
    norms = (
        lambda a: anynorm.layer_norm(a, axis=tuple(range(1, a.ndim))),
        lambda a: anynorm.rms_norm(a, axis=tuple(range(1, a.ndim))),
        lambda a: anynorm.group_norm(a, 1),
        anynorm.instance_norm,
    )
    for norm in norms:
        whole, alone = xp.numpy(norm(xp.array(x)))[i : i + 1], xp.numpy(norm(xp.array(x[i : i + 1])))
        if xp.name in ("numpy", "strict"):
            assert np.array_equal(whole, alone)
        else:  # a sum in the precision of x rounds as the shape around it has it
            close(whole, alone)


@given(x=arrays(min_rank=2, min_size=1), seed=st.integers(0, 99))
def test_the_affine_is_linear(xp, x, seed):
    w, b = np.random.default_rng(seed).standard_normal((2, x.shape[1])).astype(np.float32)
    laid = (1, -1, *[1] * (x.ndim - 2))
    plain = xp.numpy(anynorm.batch_norm(xp.array(x))).astype(np.float64)
    y = xp.numpy(anynorm.batch_norm(xp.array(x), weight=xp.array(w), bias=xp.array(b)))
    close(y, plain * w.reshape(laid) + b.reshape(laid))


@given(x=arrays(min_rank=2), groups=st.integers(1, 4))
@example(x=np.empty((3, 0), np.float32), groups=2)
@example(x=np.empty((0, 0, 3), np.float32), groups=2)
def test_channels_first_and_last_agree(xp, x, groups):
    last = np.moveaxis(x, 1, -1)
    calls = [anynorm.batch_norm, anynorm.instance_norm]
    if x.shape[1] % groups == 0:
        calls.append(lambda a, **k: anynorm.group_norm(a, groups, **k))
    for norm in calls:
        y, z = xp.numpy(norm(xp.array(x))), xp.numpy(norm(xp.array(last), channel_axis=-1))
        close(y, np.moveaxis(z, -1, 1))


@given(drawn=arrays_and_axes(min_size=1), seed=st.integers(0, 99))
def test_a_mask_selects(xp, drawn, seed):
    x, axes = drawn
    mask = np.random.default_rng(seed).random(x.shape) < 0.6
    m = xp.numpy(anynorm.moments(xp.array(np.where(mask, x, np.nan)), axis=axes, where=xp.array(mask)))
    wide = np.where(mask, x.astype(np.float64), 0)
    count = mask.sum(axis=axes)
    mean = wide.sum(axis=axes) / np.maximum(count, 1)
    d = np.where(mask, x - np.expand_dims(mean, axes), 0)
    assert np.array_equal(m.count, count)
    close(m.mean, mean)
    close(m.m2, (d * d).sum(axis=axes), 1e-5)


@given(x=arrays(min_size=0), cut=st.integers(0, 4), dtype=st.sampled_from(["float32", "float64"]))
def test_merging_is_concatenating_in_any_order(xp, x, cut, dtype):
    if dtype not in xp.floats:
        dtype = "float32"
    with xp.using(dtype):
        parts = [xp.array(part.astype(dtype)) for part in (x[:cut], x[cut : cut + 1], x[cut + 1 :])]
        a, b, c = (anynorm.moments(part, axis=0) for part in parts)
        whole = xp.numpy(anynorm.moments(xp.array(x.astype(dtype)), axis=0))
        merged = (anynorm.merge(a, b, c), anynorm.merge(c, anynorm.merge(b, a)), anynorm.merge(anynorm.merge(a, b), c))
        for m in xp.numpy(merged):
            assert np.array_equal(m.count, whole.count)
            close(m.mean, whole.mean, 1e-6)
            # A mean of one float32 is off by half a last place, and so is what lies between the parts.
            close(m.m2, whole.m2, 1e-4 if dtype == "float32" else 1e-10)


# Neither they nor what they deviate from one another by is so small that its square leaves float32.
SIZES = st.builds(lambda n, exponent: n * 2.0**exponent, st.integers(-(2**23), 2**23), st.integers(-50, 33))


@given(x=hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6), elements=SIZES))
def test_finite_values_of_any_size_give_finite_results(xp, x):
    a = xp.array(x)
    for y in (anynorm.layer_norm(a), anynorm.rms_norm(a, eps=0), anynorm.zscore(a), anynorm.minmax_scale(a)):
        assert np.all(np.isfinite(xp.numpy(y)))


@pytest.mark.library("numba")
@given(x=hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
                    elements=st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=False)))  # fmt: skip
def test_by_a_kernel_normal_numbers_of_any_size_give_finite_results(x):
    for y in (anynorm.layer_norm(x), anynorm.rms_norm(x, eps=0)):
        assert np.all(np.isfinite(y))
