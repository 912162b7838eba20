"""Each kernel with a barrier, a bound or a merge taken out of its source: the emulator, or float64, catches it."""

from __future__ import annotations

import numpy as np
import pytest

from anynorm import RunningStats, vjp
from anynorm._engines.gpu import launch
from oracles import assert_near, assert_within, data, gradient, standardized

F32 = np.float32


def check(cupy, shape, axis, *, along=None, rms=False):
    """Compare a norm over an axis, with weights along another or the same, and its gradients with float64's."""
    rng = np.random.default_rng(7)  # not that of the data
    along = axis if along is None else along
    x, g, own = data("offset 1000", shape), rng.standard_normal(shape), tuple(np.where(np.arange(2) == along, shape, 1))
    w, b = rng.uniform(0.5, 2, (2, *own)).astype(F32)
    norm = vjp.rms_norm if rms else vjp.layer_norm
    y, pull = norm(cupy.array(x), cupy.array(w), cupy.array(b), axis=axis)
    exact = standardized(x, (axis,), 1e-5, rms=rms)
    assert_within(cupy.numpy(y), exact * w + b, 2e-6 * w.max() + 1e-6)  # and the roundings of the affine
    dx, dweight, dbias = map(cupy.numpy, pull(cupy.array(g.astype(F32))))
    assert_near(dx, gradient(x, g.astype(F32) * w.astype(float), (axis,), rms=rms))
    assert_near(dweight, (g * exact).sum(axis=1 - along, keepdims=True))
    assert_near(dbias, g.sum(axis=1 - along, keepdims=True))


def infinite(cupy):
    """An infinity in a mean square, which spreads to its slice as 0."""
    x = np.ones((2, 40000), F32)
    x[1, 20000] = np.inf
    y = cupy.numpy(vjp.rms_norm(cupy.array(x))[0])
    assert_within(y[0], np.ones(40000), 1e-4)
    assert np.all(np.delete(y[1], 20000) == 0)


def spread(cupy):
    """A ramp, whose parts have means far from one another, beside statistics of float64."""
    x = np.linspace(0, 1000, 80000).reshape(2, 40000).astype(F32)
    for a in (x, np.ascontiguousarray(x.T)):
        axis = int(a is x)
        y = cupy.numpy(vjp.layer_norm(cupy.array(a), axis=axis)[0])
        assert_within(y, standardized(a, (axis,), 1e-5), 2e-6)


SCENARIOS = {
    "short rows": lambda cupy: check(cupy, (37, 100), 1),
    "rows": lambda cupy: check(cupy, (5, 1501), 1),
    "long rows": lambda cupy: check(cupy, (3, 40003), 1),
    "columns": lambda cupy: check(cupy, (20011, 5), 0, along=1),
    "rows of one weight": lambda cupy: check(cupy, (5, 1501), 1, along=0),
    "infinite": infinite,
    "spread": spread,
}
BARRIER = "  __syncthreads();\n", ""
BOUND_OF_ROW = "return at(i) < n;", "return true;"
NO_ROW = "there = row < call.a;", "there = true;"
BOUND = "return v < high && (", "return v <= high && ("
EDGE = "} else if (walk.column < walk.length) {", "} else {"
END = " && v * length + column < size)", ")"
LOOP = "i < call.share; i += TPR", "i < call.share - 1; i += TPR"
LANES = "for (int lane = LANES / 2; lane; lane /= 2)", "for (int lane = LANES / 2; lane > 1; lane /= 2)"
CASES = [  # a kernel, what is changed in its source, and what shows it
    ("rows", BARRIER, "rows"),
    ("rows", BOUND_OF_ROW, "short rows"),
    ("rows", NO_ROW, "short rows"),
    ("rows", LANES, "short rows"),
    ("rows", ("s.rest = left - (s.mean - near);", "s.rest = 0.0f;"), "short rows"),
    ("rows_pull", BARRIER, "rows"),
    ("rows_pull", BOUND_OF_ROW, "short rows"),
    ("rows_pull", NO_ROW, "short rows"),
    ("rows_pull", (" - y[i][k] * scale", ""), "rows"),
    ("partial", BARRIER, "long rows"),
    ("partial", BOUND, "long rows"),
    ("partial", EDGE, "columns"),
    ("partial", END, "columns"),
    ("partial", ("own + squared(apart) * (have * many / (have + many))", "own"), "spread"),
    ("partial", ("all[0].squares + squared(apart) * all[0].have", "all[0].squares"), "spread"),
    ("partial", ("total(all[0].infinite, 2)", "0.0f"), "infinite"),
    ("combine", BARRIER, "columns"),
    ("combine", LOOP, "long rows"),
    ("combine", (" + parts[i].count * apart * apart", ""), "spread"),
    ("combine", ("else infinite += parts[i].rest;", ""), "infinite"),
    ("apply", BOUND, "long rows"),
    ("apply", END, "columns"),
    ("products", BARRIER, "rows of one weight"),
    ("products", BOUND, "long rows"),
    ("products", EDGE, "columns"),
    ("products", END, "columns"),
    ("products", ("lost += (sum - (next - part)) + (a - part);", "lost += 1e-3f;"), "columns"),
    ("combine_products", BARRIER, "columns"),
    ("combine_products", ("i < many; i += TPR", "i < many - 1; i += TPR"), "columns"),
    ("apply_pull", BOUND, "long rows"),
    ("apply_pull", END, "columns"),
]


def in_orders(cupy, device, scenario):
    """Run a scenario with the threads forwards, backwards and shuffled."""
    for device.order in (0, 1, 2):
        scenario(cupy)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_the_kernels_as_they_are_pass(cupy, device, scenario):
    in_orders(cupy, device, scenario)


FIRST = [case for i, case in enumerate(CASES) if case[0] not in [kernel for kernel, *_ in CASES[:i]]]  # of each kernel


@pytest.mark.parametrize(
    ("kernel", "change", "scenario"),
    [
        pytest.param(*case, id=f"{case[0]}, {case[1][0].strip()[:30]}", marks=() if case in FIRST else pytest.mark.slow)
        for case in CASES
    ],
)
def test_what_is_taken_out_of_a_kernel_is_caught(cupy, device, kernel, change, scenario):
    source = launch.source()
    assert change[0] in source
    device.changed = kernel, source.replace(*change)
    with pytest.raises((AssertionError, RuntimeError)):
        in_orders(cupy, device, SCENARIOS[scenario])
    assert kernel in device.kernels


def test_a_barrier_or_a_shuffle_that_some_do_not_reach_is_caught(cupy, device):
    x, source, start = (
        cupy.array(data("offset 0", (5, 1501))),
        launch.source(),
        "INLINE void rows(const Call& call) {\n",
    )
    changes = {
        ("  __syncthreads();", "  if (threadIdx.x < 64) __syncthreads();"): "a barrier that not every thread",
        (start, start + "  if (threadIdx.x == 5) return;\n"): "a shuffle that not every lane",
    }
    for (old, new), words in changes.items():
        assert old in source
        device.changed = "rows", source.replace(old, new)
        with pytest.raises(RuntimeError, match=words):
            vjp.layer_norm(x)


def test_given_statistics_reach_every_element(cupy):
    x = data("offset 3", (1500, 21))
    stats = RunningStats(cupy.array(np.full(21, 3, F32)), cupy.array(np.full(21, 4, F32)))
    y = cupy.numpy(vjp.batch_norm(cupy.array(x), stats=stats, eps=0.0)[0])
    assert np.array_equal(y, (x - 3) / 2)
