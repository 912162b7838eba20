"""Norms as ONNX graphs of sizes that only a run knows: built by ndonnx, run by onnxruntime, against float64."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import anynorm
from oracles import GROUPS, NORMS, assert_near, assert_within, data, tolerance

pytestmark = pytest.mark.library("ndonnx", "onnxruntime")

CHANNELS = 6
SHAPES = ((4, CHANNELS, 5, 7), (1, CHANNELS, 3, 2), (0, CHANNELS, 4, 4))
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
each_offset = pytest.mark.parametrize("offset", ["0", "1e4"])


def exported(function, dtype="float32", shapes=(("N", CHANNELS, "H", "W"),)):
    """Return what runs the graph of a function of arrays of these shapes, in which a name is a size to come."""
    import ndonnx
    import onnxruntime

    arguments = {f"x{i}": ndonnx.argument(shape=shape, dtype=getattr(ndonnx, dtype)) for i, shape in enumerate(shapes)}
    results = function(*arguments.values())
    results = results if isinstance(results, tuple) else (results,)
    model = ndonnx.build(arguments, {f"y{i}": result for i, result in enumerate(results)})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda *arrays: session.run(None, dict(zip(arguments, arrays, strict=True)))


@each_norm
@each_offset
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_graph_of_any_batch_and_image_keeps_the_promise(norm, offset, dtype):
    run = exported(norm.call, dtype)
    for shape in SHAPES:
        x = data(f"offset {offset}", shape, dtype)
        exact = norm.oracle(x) if x.size else x
        assert_within(run(x)[0], exact, tolerance(x, exact, dtype) if x.size else 0.0)


@each_norm
def test_a_constant_slice_of_a_graph_is_zero(norm):
    x = np.full((2, CHANNELS, 5, 3), 1e6 / 3, np.float32)
    (y,) = exported(norm.call)(x)
    assert norm.rms or not y.any()


@each_norm
def test_weights_are_arguments_of_a_graph_too(norm, rng):
    x = data("offset 1e4", (4, CHANNELS, 5, 7))
    axes = norm.runs_along(x.ndim)
    shape = tuple(("N", CHANNELS, "H", "W")[axis] for axis in axes)
    run = exported(lambda a, w, b: norm.call(a, weight=w, bias=b), shapes=(("N", CHANNELS, "H", "W"), shape, shape))
    weight, bias = rng.standard_normal((2, *(x.shape[axis] for axis in axes))).astype(np.float32)
    laid = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    exact = norm.oracle(x) * weight.reshape(laid) + bias.reshape(laid)
    assert_within(run(x, weight, bias)[0], exact, tolerance(x, exact, "float32") * (1 + np.abs(weight).max()))


@each_norm
def test_a_pullback_is_a_graph_of_any_size_too(norm, rng):
    run = exported(lambda a, g: norm.vjp(a)[1](g)[0], shapes=(("N", CHANNELS, "H", "W"),) * 2)
    x, g = data("offset 1e4", (4, CHANNELS, 5, 7)), rng.standard_normal((4, CHANNELS, 5, 7)).astype(np.float32)
    assert_near(run(x, g)[0], norm.gradient(x, g))


@each_offset
def test_training_and_inference_are_graphs_of_any_size(offset):
    def train(a, mean, var):
        y, stats = anynorm.batch_norm_train(a, anynorm.RunningStats(mean, var), momentum=1.0)
        return y, stats.mean, stats.var, anynorm.batch_norm(a, stats=stats)

    x = data(f"offset {offset}", (4, CHANNELS, 5, 7))
    run = exported(train, shapes=(("N", CHANNELS, "H", "W"), (CHANNELS,), (CHANNELS,)))
    _, mean, var, y = run(x, np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32))
    wide = x.astype(np.float64)
    assert_within(mean, wide.mean((0, 2, 3)), np.spacing(np.float32(1 + float(offset))))
    assert_near(var, wide.var((0, 2, 3), ddof=1))
    exact = (wide - mean.reshape(-1, 1, 1)) / np.sqrt(var.astype(np.float64).reshape(-1, 1, 1) + 1e-5)
    assert_within(y, exact, 2e-6)


def test_moments_of_any_size_merge():
    def both(a, b):
        merged = anynorm.merge(anynorm.moments(a, axis=0), anynorm.moments(b, axis=0))
        return tuple(merged)

    run = exported(both, shapes=(("N", CHANNELS), ("M", CHANNELS)))
    parts = [data("offset 100", (size, CHANNELS), seed=size) for size in (4, 9)]
    whole = np.concatenate(parts).astype(np.float64)
    count, mean, m2, rest = run(*parts)
    assert np.array_equal(count, np.full(CHANNELS, 13))
    assert_within(mean.astype(np.float64) + rest, whole.mean(axis=0), np.spacing(np.float32(1)))
    assert_near(m2, 13 * whole.var(axis=0), 1e-5)
    count, _, m2, _ = run(parts[0][:0], parts[0][:0])
    assert not count.any()
    assert not m2.any()


def test_norms_stand_in_a_row_and_keep_the_channels():
    import ndonnx

    x = ndonnx.argument(shape=("N", CHANNELS, "H", "W"), dtype=ndonnx.float32)
    y = anynorm.group_norm(x, GROUPS)
    assert y.shape == x.shape
    assert anynorm.group_norm(y, 3).shape == x.shape


def test_unknown_channels_do_not_split_into_groups():
    import ndonnx

    x = ndonnx.argument(shape=("N", "C", 5), dtype=ndonnx.float32)
    with pytest.raises(
        ValueError, match=r"needs to know the number of channels.* \(None, None, 5\); give axis 1 a size"
    ):
        anynorm.group_norm(x, 2)
    assert anynorm.batch_norm(x, weight=ndonnx.ones(3, dtype=ndonnx.float32)).shape[2] == 5


def test_the_example_in_the_docs_runs():
    example = Path(__file__).parents[1] / "docs/examples/ndonnx_export.py"
    run = subprocess.run([sys.executable, example], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[1:] == ["(16, 6, 32, 32) True", "(1, 6, 7, 9) True"]
