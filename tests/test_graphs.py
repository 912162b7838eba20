"""Gradients on graphs whose arguments depend on one another, against the formula of each norm in float64.

Where x, weight, bias, state or dy are functions of one another, every path between them has to count, and to count
once. Independent leaves do not show whether it does.
"""

from __future__ import annotations

import math
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats
from oracles import NORMS, Norm, assert_near, data

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (4, 6, 8)


def trained(name, axes):
    """Return a training form as a norm, which returns its state beside its result."""

    def call(x, of=anynorm, stats=None, **parameters):
        return getattr(of, name)(x, stats or anynorm.running_stats(x.shape[1], like=x), **parameters)

    return Norm(name, call, axes)


TRAIN = (
    trained("batch_norm_train", lambda n: (0, *range(2, n))),
    trained("instance_norm_train", lambda n: tuple(range(2, n))),
)

# ---------------------------------------------------------------------------------- a norm, and its formula


@dataclass(frozen=True)
class Ours:
    """A norm of anynorm, as graphs use it."""

    norm: Norm

    def __call__(self, x, **arguments):
        made = self.norm.call(x, **arguments)
        return made[0] if self.norm in TRAIN else made

    def train(self, x, stats, **parameters):
        return self.norm.call(x, stats=stats, **parameters)

    def pull(self, x, weight, bias, dy):
        return self.norm.vjp(x, weight=weight, bias=bias)[1](dy)

    def own(self, a):
        """Return the mean of an array of x's shape over all axes but those of the parameters."""
        return a.mean(axis=tuple(i for i in range(a.ndim) if i not in self.norm.runs_along(a.ndim)))

    def laid(self, parameter, x):
        """Return a parameter as it broadcasts to x."""
        along = range(x.ndim) if parameter.ndim == x.ndim else self.norm.runs_along(x.ndim)
        return parameter.reshape([size if i in along else 1 for i, size in enumerate(x.shape)])


@dataclass(frozen=True)
class Formula(Ours):
    """The norm as a textbook has it, for its library to differentiate."""

    vjp: Callable[..., Any]

    def __call__(self, x, weight=None, bias=None, stats=None):
        mean, var = self.statistics(x) if stats is None else (self.laid(part, x) for part in stats[:2])
        y = ((x.reshape(self.norm.split(x.shape)) - mean) / (var + 1e-5) ** 0.5).reshape(x.shape)
        y = y if weight is None else y * self.laid(weight, x)
        return y if bias is None else y + self.laid(bias, x)

    def statistics(self, x):
        split, axes = x.reshape(self.norm.split(x.shape)), self.norm.axes(x.ndim)
        mean = 0.0 if self.norm.rms else split.mean(axis=axes, keepdims=True)
        return mean, ((split - mean) ** 2).mean(axis=axes, keepdims=True)

    def train(self, x, stats, **parameters):
        mean, var = self.statistics(x)
        count = math.prod(x.shape[i] for i in self.norm.axes(x.ndim))
        pairs = ((stats.mean, mean), (stats.var, var * count / (count - 1)))
        new = RunningStats(*(0.9 * old + 0.1 * part.mean(axis=(0, 2)) for old, part in pairs))
        return self(x, **parameters), new

    def pull(self, x, weight, bias, dy):
        return self.vjp(lambda x, weight, bias: self(x, weight, bias), x, weight, bias)[1](dy)


# ---------------------------------------------------------------------------------- graphs of x and w


def one_weight_twice(f, x, w):
    return f((1 + f(x, weight=w)) ** 3, weight=w)


def weight_is_bias(f, x, w):
    return f(x, weight=w, bias=w)


def weight_from_x(f, x, w):
    return f(x, weight=f.own(x * x), bias=w)


def weight_from_result(f, x, w):
    return f(x, weight=f.own(f(x, weight=w) ** 2), bias=w)


def x_from_weight(f, x, w):
    return f(x + x * x * f.laid(w, x), weight=w)


def x_is_weight(f, x, w):
    return f(x, weight=x, bias=w)


def x_is_bias(f, x, w):
    return f(x, weight=w, bias=x)


def x_is_residual(f, x, w):
    return f(x + f(x, weight=w) ** 2, weight=w)


def dy_from_x(f, x, w):
    return f(x, weight=w) * x * x


def pullback_of_x_from_weight(f, x, w):
    return f.pull(x + x * x * f.laid(w, x), w, w, x * x)


def pullback_of_weight_from_x(f, x, w):
    return f.pull(x, f.own(x * x), w, f(x, weight=w) ** 3)


GRAPHS = (
    one_weight_twice,
    weight_is_bias,
    weight_from_x,
    weight_from_result,
    x_from_weight,
    x_is_weight,
    x_is_bias,
    x_is_residual,
    dy_from_x,
    pullback_of_x_from_weight,
    pullback_of_weight_from_x,
)


def stats_from_x(f, x, w):
    return f(x, stats=RunningStats(f.own(x) / 2, f.own(x * x)), weight=w)


def stats_from_weight(f, x, w):
    return f(x, stats=RunningStats(w, w * w + 1), weight=w)


GIVEN = (stats_from_x, stats_from_weight)


def result_and_state(f, x, w):
    y, new = f.train(x + x * x * f.laid(w, x), RunningStats(0 * w, 0 * w + 1), weight=w)
    return y, new.mean, new.var


def state_from_x(f, x, w):
    y, new = f.train(x, RunningStats(f.own(x) / 2, f.own(x * x)), weight=w)
    return y, new.mean, new.var


def two_steps(f, x, w):
    y, state = f.train(x, RunningStats(w, w * w), weight=w)
    z, state = f.train(x + y, state, weight=w)
    return z, state.mean, state.var


STEPS = (result_and_state, state_from_x, two_steps)


def graphs_of(norm):
    """Return the graphs that a norm takes part in."""
    return (*GRAPHS, *(GIVEN if norm.name in ("batch_norm", "instance_norm") else STEPS if norm in TRAIN else ()))


def loss_of(graph, f):
    """Return a function of x and w whose gradient depends on all that a graph returns."""

    def loss(x, w):
        made = graph(f, x, w)
        return sum((part**3).sum() for part in (made if isinstance(made, tuple) else (made,)))

    return loss


each_graph = pytest.mark.parametrize(
    ("norm", "graph"),
    [(norm, graph) for norm in (*NORMS, *TRAIN) for graph in graphs_of(norm)],
    ids=lambda part: getattr(part, "__name__", str(part)),
)

# ---------------------------------------------------------------------------------- data and bounds

FIRST = {"float32": 2e-6, "float64": 1e-12}
SECOND = 1e-10  # in float64


def leaves(norm, kind="offset 0"):
    """Return x and w in float32, and a direction for each."""
    rng = np.random.default_rng(1)
    own = tuple(SHAPE[i] for i in norm.runs_along(len(SHAPE)))
    drawn = rng.uniform(0.5, 2, own), rng.standard_normal(SHAPE), rng.standard_normal(own)
    w, *directions = (a.astype(np.float32) for a in drawn)
    return (data(kind, SHAPE), w), tuple(directions)


def assert_all_near(actual, exact, bound):
    for one, other in zip(actual, exact, strict=True):
        assert_near(one, np.asarray(other), bound)


# ---------------------------------------------------------------------------------- PyTorch


def tensors(arrays, dtype, **options):
    import torch

    return tuple(torch.tensor(a, dtype=getattr(torch, dtype), **options) for a in arrays)


def exact_in_torch(graph, norm, points):
    """Return the gradient of the formula in float64."""
    import torch

    loss = loss_of(graph, Formula(norm, torch.func.vjp))
    return torch.func.grad(loss, argnums=(0, 1))(*tensors(points, "float64"))


def by_autograd(loss, points, **options):
    import torch

    return [g.detach() for g in torch.autograd.grad(loss(*points), points, **options)]


def by_autograd_with_a_graph(loss, points):
    return by_autograd(loss, points, create_graph=True)


def by_autograd_from_a_checkpoint(loss, points):
    from torch.utils.checkpoint import checkpoint

    return by_autograd(lambda x, w: checkpoint(loss, x, w, use_reentrant=False), points)


def by_functions(loss, points):
    import torch

    return [g.detach() for g in torch.func.grad(loss, argnums=(0, 1))(*points)]


@each_graph
@pytest.mark.library("torch")
@pytest.mark.parametrize(
    "differentiate", [by_autograd, by_autograd_with_a_graph, by_autograd_from_a_checkpoint, by_functions]
)
def test_first_gradients_in_torch_count_every_path_once(norm, graph, differentiate):
    points, _ = leaves(norm)
    exact = exact_in_torch(graph, norm, points)
    for dtype, bound in FIRST.items():
        actual = differentiate(loss_of(graph, Ours(norm)), tensors(points, dtype, requires_grad=True))
        assert_all_near(actual, exact, bound)


@pytest.mark.library("torch")
@pytest.mark.parametrize("norm", [*NORMS, *TRAIN], ids=str)
@pytest.mark.parametrize("graph", [weight_is_bias, weight_from_result])
def test_first_gradients_to_be_differentiated_keep_the_promise_at_an_offset(norm, graph):
    points, _ = leaves(norm, "offset 1e6")
    actual = by_autograd_with_a_graph(loss_of(graph, Ours(norm)), tensors(points, "float32", requires_grad=True))
    assert_all_near(actual, exact_in_torch(graph, norm, points), FIRST["float32"])


def hvp(loss, points, directions):
    import torch

    return torch.autograd.functional.hvp(loss, points, directions)[1]


def vhp(loss, points, directions):
    import torch

    return torch.autograd.functional.vhp(loss, points, directions)[1]


def reverse_over_reverse(loss, points, directions):
    import torch

    gradients = torch.autograd.grad(loss(*points), points, create_graph=True)
    return torch.autograd.grad(gradients, points, directions)


def reverse_over_reverse_from_a_checkpoint(loss, points, directions):
    from torch.utils.checkpoint import checkpoint

    return reverse_over_reverse(lambda x, w: checkpoint(loss, x, w, use_reentrant=False), points, directions)


def forward_over_reverse(loss, points, directions):
    import torch

    return [g.detach() for g in torch.func.jvp(torch.func.grad(loss, argnums=(0, 1)), points, directions)[1]]


@each_graph
@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, in its jvp
@pytest.mark.parametrize(
    "differentiate",
    [hvp, vhp, reverse_over_reverse, reverse_over_reverse_from_a_checkpoint, forward_over_reverse],
)
def test_second_gradients_in_torch_count_every_path_once(norm, graph, differentiate):
    import torch

    points, directions = leaves(norm)
    directions = tensors(directions, "float64")
    formula = loss_of(graph, Formula(norm, torch.func.vjp))
    exact = forward_over_reverse(formula, tensors(points, "float64"), directions)
    actual = differentiate(loss_of(graph, Ours(norm)), tensors(points, "float64", requires_grad=True), directions)
    assert_all_near(actual, exact, SECOND)


# ---------------------------------------------------------------------------------- JAX


UNOPTIMIZED = {"xla_backend_optimization_level": 0}  # for code that is small and runs once


def of_graphs(differentiate, norm, f, graphs):
    """Return the gradients of all graphs as one compiled function: compiling is what takes the time."""
    import jax

    gradients = [jax.grad(loss_of(graph, f(norm)), argnums=(0, 1)) for graph in graphs]
    return jax.jit(
        lambda points, directions: [differentiate(g, points, directions) for g in gradients],
        compiler_options=UNOPTIMIZED,
    )


def first(gradient, points, _):
    return gradient(*points)


def forward_and_reverse_over_reverse(gradient, points, directions):
    import jax

    return (*jax.jvp(gradient, points, directions)[1], *jax.vjp(gradient, *points)[1](directions))


def formula(norm):
    import jax

    return Formula(norm, jax.vjp)


def all_near_in_jax(differentiate, norm, graphs, dtype, bound):
    import jax

    arrays = leaves(norm)
    with jax.enable_x64(True):
        exact = of_graphs(differentiate, norm, formula, graphs)(*arrays_of_jax(arrays, "float64"))
    with jax.enable_x64(dtype == "float64"):
        actual = of_graphs(differentiate, norm, Ours, graphs)(*arrays_of_jax(arrays, dtype))
    for one, other in zip(actual, exact, strict=True):
        assert_all_near(one, other, bound)


def arrays_of_jax(arrays, dtype):
    import jax

    return jax.tree.map(lambda a: jax.numpy.asarray(a, dtype=dtype), arrays)


PATHS = (weight_from_x, x_from_weight, pullback_of_x_from_weight)  # one of each kind
OTHERS = tuple(graph for graph in GRAPHS if graph not in PATHS)


def slow_but(**quick):
    """Mark all norms and graphs as slow but a few, since JAX differentiates them all by one rule and compiles each."""
    cases = [
        pytest.param(norm, part, marks=[] if part in quick.get(norm.name, ()) else pytest.mark.slow, id=f"{norm}-{i}")
        for norm in (*NORMS, *TRAIN)
        for i, part in enumerate((PATHS, OTHERS, graphs_of(norm)[len(GRAPHS) :]))
        if part
    ]
    return pytest.mark.parametrize(("norm", "graphs"), cases)


@slow_but(rms_norm=(PATHS, OTHERS), batch_norm=(PATHS, GIVEN), batch_norm_train=(STEPS,))
@pytest.mark.library("jax")
def test_first_gradients_in_jax_count_every_path_once(norm, graphs):
    all_near_in_jax(first, norm, graphs, "float32", FIRST["float32"])


@slow_but(rms_norm=(PATHS,))
@pytest.mark.library("jax")
def test_second_gradients_in_jax_count_every_path_once(norm, graphs):
    all_near_in_jax(forward_and_reverse_over_reverse, norm, graphs, "float64", SECOND)


# ---------------------------------------------------------------------------------- MLX


def vjp_in_mlx(function, *primals):
    """Return what a function returns, and its pullback."""
    import mlx.core as mx

    return function(*primals), lambda dy: tuple(mx.vjp(function, primals, (dy,))[1])


@each_graph
@pytest.mark.library("mlx")
def test_first_gradients_in_mlx_count_every_path_once(norm, graph):
    import mlx.core as mx

    points, _ = leaves(norm)
    exact, actual = (
        mx.grad(loss_of(graph, f), argnums=(0, 1))(*(mx.array(a, dtype=dtype) for a in points))
        for f, dtype in ((Formula(norm, vjp_in_mlx), mx.float64), (Ours(norm), mx.float32))
    )
    assert_all_near(actual, exact, FIRST["float32"])


# ---------------------------------------------------------------------------------- the example of the docs


@pytest.mark.slow
@pytest.mark.library("torch")
def test_the_example_of_gradients_of_gradients_runs():
    runpy.run_path(str(Path(__file__).parents[1] / "docs/examples/second_order.py"), run_name="__main__")
