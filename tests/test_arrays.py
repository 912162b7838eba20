"""Bad input ends in an error that says the rule, what was given and what to do, before any arithmetic."""

from __future__ import annotations

import re

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats
from anynorm._core.mean import BLOCK, sum_over

SHAPE = (6, 4, 5)
F32 = np.float32


def zeros(*shape):
    return np.zeros(shape, dtype=F32)


def refused(xp, call, error, words, *arrays):
    with pytest.raises(error, match=words):
        # A compiled function would wrap the error in one of torch's own.
        call(*map(xp.array, arrays))


SHAPES = {
    "weight too long": (lambda x, w: anynorm.layer_norm(x, w), zeros(6), r"weight of shape \(5,\).*got \(6,\)"),
    "weight too short": (lambda x, w: anynorm.batch_norm(x, weight=w), zeros(3), r"weight of shape \(4,\).*got \(3,\)"),
    "weight of length 1": (
        lambda x, w: anynorm.batch_norm(x, weight=w),
        zeros(1),
        r"weight of shape \(4,\).*got \(1,\)",
    ),
    "weight empty": (lambda x, w: anynorm.group_norm(x, 2, w), zeros(0), r"weight of shape \(4,\).*got \(0,\)"),
    "weight transposed": (lambda x, w: anynorm.layer_norm(x, w, axis=(1, 2)), zeros(5, 4), r"\(4, 5\).*got \(5, 4\)"),
    "bias enlarges": (
        lambda x, b: anynorm.layer_norm(x, bias=b),
        zeros(7, 4, 5),
        r"bias.*\(6, 4, 5\).*got \(7, 4, 5\)",
    ),
    "bias of higher rank": (lambda x, b: anynorm.layer_norm(x, bias=b), zeros(1, 6, 4, 5), r"got \(1, 6, 4, 5\)"),
    "scalar weight": (lambda x, w: anynorm.layer_norm(x, w), zeros(), r"got \(\); reshape"),
    "stats of the wrong length": (
        lambda x, m: anynorm.batch_norm(x, stats=RunningStats(m, m)),
        zeros(5),
        r"mean of shape \(4,\).*x.shape\[1\].*got \(5,\); make .* running_stats\(4, like=x\), or name axis 2 of x",
    ),
    "stats of no axis": (
        lambda x, m: anynorm.batch_norm(x, stats=RunningStats(m, m)),
        zeros(7),
        r"running_stats\(4, like=x\)$",
    ),
    "weight of channels last": (
        lambda x, w: anynorm.batch_norm(x, weight=w),
        zeros(5),
        r"weight of shape \(4,\).*got \(5,\); reshape it, or name axis 2 of x, whose size it has$",
    ),
    "weight of no axis": (lambda x, w: anynorm.batch_norm(x, weight=w), zeros(7), r"got \(7,\); reshape it$"),
    "stats of length 1": (lambda x, m: anynorm.batch_norm(x, stats=RunningStats(m, m)), zeros(1), r"got \(1,\)"),
    "stats of rank 2": (lambda x, m: anynorm.batch_norm_train(x, RunningStats(m, m)), zeros(1, 4), r"got \(1, 4\)"),
    "mask that enlarges": (
        lambda x, m: anynorm.layer_norm(x, where=m),
        np.ones((6, 4, 6), dtype=bool),
        r"where.*\(6, 4, 5\).*got \(6, 4, 6\); give it x's rank",
    ),
    "mask without the last axis": (
        lambda x, m: anynorm.layer_norm(x, where=m),
        np.ones((6, 4), dtype=bool),
        r"where.*\(6, 4, 5\).*got \(6, 4\); pass where\[..., None\]$",
    ),
    "mask of the samples": (
        lambda x, m: anynorm.layer_norm(x, where=m),
        np.ones(6, dtype=bool),
        r"where.*\(6, 4, 5\).*got \(6,\); pass where\[..., None, None\]$",
    ),
    "mask of higher rank": (
        lambda x, m: anynorm.layer_norm(x, where=m),
        np.ones((1, 6, 4, 5), dtype=bool),
        r"where.*got \(1, 6, 4, 5\)",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_that_do_not_fit_are_refused(xp, case):
    call, value, words = SHAPES[case]
    refused(xp, call, ValueError, words, zeros(*SHAPE), value)


ARGUMENTS = {
    "no group": (lambda x: anynorm.group_norm(x, 0), ValueError, r"num_groups=0; use 1, 2 or 4"),
    "negative groups": (lambda x: anynorm.group_norm(x, -2), ValueError, "num_groups=-2; use 1, 2 or 4"),
    "groups that do not divide": (
        lambda x: anynorm.group_norm(x, 3),
        ValueError,
        r"needs num_groups to divide the channels: got 4 channels \(x.shape\[1\]\) and num_groups=3; use 1, 2 or 4",
    ),
    "fractional groups": (
        lambda x: anynorm.group_norm(x, 2.0),
        ValueError,
        "num_groups to be an integer: got 2.0 of type float",
    ),
    "groups as bool": (lambda x: anynorm.group_norm(x, True), ValueError, "num_groups to be an integer: got True"),
    "no groups": (lambda x: anynorm.group_norm(x, None), ValueError, "num_groups to be an integer: got None"),
    "axis too large": (lambda x: anynorm.layer_norm(x, axis=3), ValueError, "rank 3: got 3; use -3 to 2"),
    "axis too small": (lambda x: anynorm.rms_norm(x, axis=(-4,)), ValueError, "rank 3: got -4; use -3 to 2"),
    "axis repeated": (lambda x: anynorm.layer_norm(x, axis=(2, -1)), ValueError, r"each axis once: got axis=\(2, -1\)"),
    "no axis": (lambda x: anynorm.layer_norm(x, axis=()), ValueError, r"at least one axis: got axis=\(\)"),
    "axis of a float": (lambda x: anynorm.layer_norm(x, axis=1.0), TypeError, "axis to be an integer: got 1.0"),
    "channel axis out of range": (lambda x: anynorm.batch_norm(x, channel_axis=5), ValueError, "channel_axis.*got 5"),
    "eps negative": (
        lambda x: anynorm.layer_norm(x, eps=-1e-5),
        ValueError,
        r"eps to be a number from 0 to 1e\+38: got -1e-05",
    ),
    "eps NaN": (lambda x: anynorm.batch_norm(x, eps=float("nan")), ValueError, "eps.*got nan"),
    "eps infinite": (lambda x: anynorm.batch_norm(x, eps=float("inf")), ValueError, "eps.*got inf"),
    "eps as text": (lambda x: anynorm.layer_norm(x, eps="small"), TypeError, "eps to be a number: got str"),
    "weight as a number": (
        lambda x: anynorm.layer_norm(x, 2.0),
        TypeError,
        "weight to be an array of x's library.*got float",
    ),
    "weight as a list": (lambda x: anynorm.layer_norm(x, [1.0] * 5), TypeError, "weight.*got list; convert it"),
    "stats as a pair": (
        lambda x: anynorm.batch_norm(x, stats=(0, 1)),
        TypeError,
        r"RunningStats\(mean, var\): got tuple",
    ),
    "no stats in training": (lambda x: anynorm.batch_norm_train(x, None), TypeError, "got stats=None; start with"),
    "steps of rank 1": (
        lambda x: anynorm.batch_norm_train(x, anynorm.running_stats(4, like=x)._replace(steps=x[0, 0, :])),
        ValueError,
        r"stats.steps to be one integer: got shape \(5,\)",
    ),
    "momentum too large": (
        lambda x: anynorm.batch_norm_train(x, anynorm.running_stats(4, like=x), momentum=1.5),
        ValueError,
        "momentum to be a number from 0 to 1: got 1.5",
    ),
    "correction negative": (
        lambda x: anynorm.batch_norm_train(x, anynorm.running_stats(4, like=x), correction=-1),
        ValueError,
        "correction",
    ),
    "range reversed": (
        lambda x: anynorm.minmax_scale(x, feature_range=(1, 0)),
        ValueError,
        r"lower first: got \(1, 0\)",
    ),
    "range of three": (lambda x: anynorm.minmax_scale(x, feature_range=(0, 1, 2)), ValueError, "feature_range"),
    "range with NaN": (lambda x: anynorm.minmax_scale(x, feature_range=(0, float("nan"))), ValueError, "feature_range"),
    "channels negative": (lambda x: anynorm.running_stats(-1, like=x), ValueError, "channels.*got -1"),
    "no Moments": (lambda x: anynorm.variance(x), TypeError, r"needs Moments: got \w+; make them with moments\(x\)"),
    "Moments of two shapes": (
        lambda x: anynorm.merge(anynorm.moments(x, axis=0), anynorm.moments(x, axis=1)),
        ValueError,
        "one shape and dtype",
    ),
    "population of rank 2": (
        lambda x: anynorm.population_stats(anynorm.moments(x, axis=0)),
        ValueError,
        r"shape \(C,\)",
    ),
    "sync that is no function": (lambda x: anynorm.layer_norm(x, sync="batch"), TypeError, "sync to be a function"),
    "sync with stats": (
        lambda x: anynorm.batch_norm(x, stats=anynorm.running_stats(4, like=x), sync=sum),
        ValueError,
        "nothing to sync",
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_make_no_sense_are_refused(xp, case):
    call, error, words = ARGUMENTS[case]
    refused(xp, call, error, words, zeros(*SHAPE))


@pytest.mark.parametrize("value", [[1.0, 2.0], 3.0, "text", None, (1, 2), {"a": 1}], ids=repr)
@pytest.mark.parametrize("norm", [anynorm.layer_norm, anynorm.batch_norm, anynorm.moments, anynorm.zscore])
def test_what_is_no_array_is_refused(norm, value):
    with pytest.raises(TypeError, match=f"needs x to be an array.*got {type(value).__name__}; convert it"):
        norm(value)


@pytest.mark.parametrize("dtype", ["complex64", "U3", "object", "datetime64[s]"])
def test_what_holds_no_real_numbers_is_refused(dtype):
    with pytest.raises(TypeError, match="needs x to hold real numbers: got dtype"):
        anynorm.layer_norm(np.zeros((2, 3), dtype=dtype))


def test_complex_is_refused_everywhere(xp):
    with pytest.raises(TypeError, match="real numbers: got dtype .*complex64"):
        anynorm.layer_norm(xp.array(np.zeros((2, 3), dtype=np.complex64)))


def test_complex_parameters_are_refused(xp):
    with pytest.raises(TypeError, match="weight to hold real numbers"):
        anynorm.layer_norm(xp.array(zeros(2, 3)), xp.array(np.zeros(3, dtype=np.complex64)))


def test_a_mask_that_is_not_boolean_is_refused(xp):
    with pytest.raises(TypeError, match="where to be a boolean mask: got dtype .*float32"):
        anynorm.layer_norm(xp.array(zeros(2, 3)), where=xp.array(zeros(2, 3)))


@pytest.mark.library("jax")
def test_bfloat16_of_ml_dtypes_in_numpy_is_refused():
    import ml_dtypes

    with pytest.raises(TypeError, match="real numbers: got dtype bfloat16 of numpy; convert it to float32"):
        anynorm.layer_norm(np.zeros((2, 3), dtype=ml_dtypes.bfloat16))


def test_masked_arrays_are_refused():
    with pytest.raises(TypeError, match=re.escape("where=~numpy.ma.getmaskarray(x)")):
        anynorm.layer_norm(np.ma.masked_array(zeros(2, 3)))


@pytest.mark.library("torch")
@pytest.mark.parametrize("mix", ["weight", "state"])
def test_mixed_libraries_are_refused_by_name(mix):
    import torch

    x, alien = torch.zeros(2, 4), zeros(4)
    calls = {
        "weight": lambda: anynorm.batch_norm(x, weight=alien),
        "state": lambda: anynorm.batch_norm(x, stats=RunningStats(alien, alien)),
    }
    with pytest.raises(TypeError, match="one library: got x from torch and .* from numpy; convert one"):
        calls[mix]()


@pytest.mark.library("torch")
def test_mixed_devices_are_refused_by_name():
    import torch

    x, stats = torch.zeros(2, 4), anynorm.running_stats(4, like=torch.zeros(1, device="meta"))
    with pytest.raises(ValueError, match="one device: got x on cpu and stats.mean on meta; move one"):
        anynorm.batch_norm(x, stats=stats)


@pytest.mark.library("array_api_strict")
def test_mixed_devices_of_the_strict_library_are_refused():
    import array_api_strict as st

    x, w = (st.zeros((4,), device=st.Device(name)) for name in ("device1", "device2"))
    with pytest.raises(ValueError, match="one device"):
        anynorm.layer_norm(x, w)


@pytest.mark.library("dask")
@pytest.mark.engine
def test_unknown_chunk_sizes_work_or_say_what_to_do():
    import dask
    import dask.array as da

    x = da.from_array(np.arange(24.0).reshape(6, 4), chunks=3)
    x = x[x[:, 0] > 3]
    calls = anynorm.layer_norm, anynorm.batch_norm, anynorm.zscore, lambda a: anynorm.group_norm(a, 2)
    calls += (lambda a: anynorm.variance(anynorm.moments(a)),)
    for norm in calls:
        assert np.allclose(norm(x).compute(), norm(x.compute()), atol=1e-12)
    _, stats = anynorm.batch_norm_train(x, anynorm.running_stats(4, like=x))
    exact = anynorm.batch_norm_train(x.compute(), anynorm.running_stats(4, like=x.compute()))[1]
    assert all(np.allclose(ours, theirs) for ours, theirs in zip(dask.compute(*stats[:3]), exact, strict=False))
    for norm in calls[1:]:
        with anynorm.engine("array-api"), pytest.raises(ValueError, match="compute_chunk_sizes"):
            norm(x)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        anynorm.group_norm(x.T, 2)  # the channels themselves


@pytest.mark.library("jax")
def test_traced_numbers_pass():
    import jax
    import jax.numpy as jnp

    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), dtype="float32")
    stats = anynorm.running_stats(4, like=x)
    for eps in (jnp.asarray(1e-3), jnp.asarray(1e-3, dtype="bfloat16")):
        y = jax.jit(lambda a, e: anynorm.layer_norm(a, eps=e))(x, eps)
        assert np.allclose(y, anynorm.layer_norm(x, eps=float(eps)), atol=1e-6)
    _, new = jax.jit(lambda a, s, m: anynorm.batch_norm_train(a, s, momentum=m))(x, stats, jnp.asarray(0.25))
    assert np.allclose(new.mean, anynorm.batch_norm_train(x, stats, momentum=0.25)[1].mean, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_an_array_without_axes_gives_one(xp, dtype):
    x = xp.array(np.ones((), dtype))
    for norm in (anynorm.layer_norm, anynorm.rms_norm, anynorm.zscore, anynorm.minmax_scale):
        y = norm(x, axis=None)
        assert xp.owns(y)
        assert y.shape == ()
    y, pullback = anynorm.vjp.layer_norm(x, axis=None)
    dx, _, _ = pullback(y)
    assert xp.owns(dx)
    assert xp.numpy(dx) == 0


def test_numpy_scalars_do_as_numbers(xp):
    x = xp.array(np.random.default_rng(0).standard_normal((3, 4)).astype(F32))
    y = anynorm.layer_norm(x, axis=np.int64(1), eps=np.float64(1e-3))
    assert xp.dtype(y) == "float32"
    assert np.array_equal(xp.numpy(y), xp.numpy(anynorm.layer_norm(x, eps=1e-3)))


def test_what_is_refused_changes_nothing(xp):
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(F32)
    x, stats = xp.array(values), anynorm.running_stats(4, like=xp.array(values))
    with pytest.raises(ValueError, match="momentum"):
        anynorm.batch_norm_train(x, stats, momentum=-1)
    assert np.array_equal(xp.numpy(x), values)
    assert np.array_equal(xp.numpy(stats.mean), np.zeros(4))


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, BLOCK**2 + 7, 5 * BLOCK**2])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_sums_in_blocks_are_sums(size, axes, rng):
    import array_api_compat.numpy as xp

    a = rng.integers(0, 9, (size, 3) if axes[0] == 0 else (3, size)).astype(np.float64)
    assert np.array_equal(sum_over(xp, a, axes, None), a.sum(axis=axes, keepdims=True))


# ------------------------------------------------------------------------------------------------ kinds of array


def sparse_tensor():
    import torch

    return torch.eye(3).to_sparse()


def mkldnn_tensor():
    import torch

    return torch.eye(3).to_mkldnn()


def nested_tensor():
    import torch

    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


def masked_blocks():
    import dask.array as da

    return da.ma.masked_greater(da.ones((4, 3), chunks=2), 3)


def zero_gradient():
    import jax

    return np.zeros((2, 3), jax.dtypes.float0)


FOREIGN = {
    "a matrix": (lambda: np.matrix([[1.0, 2.0]]), r"takes no matrices: got one; pass numpy\.asarray\(x\)", ()),
    "a sparse tensor": (sparse_tensor, r"dense tensor: .* layout torch\.sparse_coo; pass x\.to_dense\(\)", "torch"),
    "an mkldnn tensor": (mkldnn_tensor, r"dense tensor: .* layout torch\._mkldnn; pass x\.to_dense\(\)", "torch"),
    "a nested tensor": (nested_tensor, r"dense tensor: .* nested; pass x\.to_padded_tensor", "torch"),
    "masked blocks": (masked_blocks, r"takes no masked arrays: got one; pass its \.data, and where=", "dask"),
    "float0": (zero_gradient, "needs x to hold real numbers: got dtype", "jax"),
}


@pytest.mark.parametrize("call", [anynorm.layer_norm, anynorm.batch_norm, anynorm.moments, anynorm.zscore])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(make, words, id=name, marks=[pytest.mark.library(library)] if library else [])
        for name, (make, words, library) in FOREIGN.items()
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_kinds_of_array_whose_arithmetic_is_another_are_refused(call, make, words):
    with pytest.raises(TypeError, match=words):
        call(make())
    assert type(anynorm.layer_norm(np.ones((2, 3)))) is np.ndarray


@pytest.mark.library("torch")
def test_a_weight_of_another_kind_is_refused():
    import torch

    with pytest.raises(TypeError, match=r"needs weight to be a dense tensor: .* pass weight\.to_dense\(\)"):
        anynorm.layer_norm(torch.ones(2, 3), torch.ones(3).to_sparse())


# ------------------------------------------------------------------------------------------------ sizes not known


@pytest.mark.library("dask")
def test_unknown_chunk_sizes_need_no_count_where_statistics_are_given(rng):
    import dask.array as da

    whole = rng.standard_normal((9, 4, 5)).astype(F32)
    shown = whole[:, 0, 0] > 0
    x = da.from_array(whole, chunks=(2, 4, 5))[da.from_array(shown, chunks=2)]
    stats = RunningStats(np.linspace(-1, 1, 4).astype(F32), np.linspace(1, 2, 4).astype(F32))
    for norm in (anynorm.batch_norm, anynorm.instance_norm):
        expected = (whole[shown] - stats.mean[:, None]) / np.sqrt(stats.var[:, None] + 1e-5)
        assert np.allclose(norm(x, stats=stats).compute(), expected, atol=1e-6)


@pytest.mark.library("dask")
def test_a_mask_made_of_an_array_of_unknown_chunk_sizes_fits_it(rng):
    import dask.array as da

    whole = rng.standard_normal((9, 20))
    shown = whole[:, 0] > 0
    x = da.from_array(whole, chunks=(2, 10))[da.from_array(shown, chunks=2)]
    expected = anynorm.layer_norm(whole[shown], where=whole[shown] > 0.1)
    y, pullback = anynorm.vjp.layer_norm(x, where=x > 0.1)
    assert np.allclose(y.compute(), expected, atol=1e-12)
    exact = anynorm.vjp.layer_norm(whole[shown], where=whole[shown] > 0.1)[1](expected**2)[0]
    assert np.allclose(pullback(y**2)[0].compute(), exact, atol=1e-10)
