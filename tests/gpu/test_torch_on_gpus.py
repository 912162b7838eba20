"""CUDA tensors under autograd: the graphs of the CPU's engine, by the kernels for GPUs."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats
from anynorm._engines import watch
from oracles import NORMS, assert_near, data

pytestmark = pytest.mark.library("torch")
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
F32 = np.float32


def gradients(loss, *leaves):
    import torch

    return [g.numpy() for g in torch.autograd.grad(loss, leaves)]


def wide(function, *arrays):
    """Return the gradients of a function by array-API code in float64."""
    leaves = [a.detach().double().requires_grad_() for a in arrays]
    with anynorm.engine("array-api"):
        return gradients(function(*leaves), *leaves)


GRAPHS = {
    "a weight that is a function of x": lambda x, w: anynorm.layer_norm(x, w * x.mean(dim=0)),
    "the same weight twice": lambda x, w: anynorm.layer_norm(anynorm.layer_norm(x, w), w),
    "a weight that is the bias, too": lambda x, w: anynorm.layer_norm(x, w, w),
    "x twice": lambda x, w: anynorm.layer_norm(x, w) * anynorm.batch_norm(x, weight=w),
}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_arguments_may_depend_on_one_another(torch, rng, graph):
    x = torch.array(data("offset 10", (12, 40))).requires_grad_()
    w = torch.array(rng.uniform(0.5, 2, 40).astype(F32)).requires_grad_()
    g = torch.array(rng.standard_normal((12, 40)))
    with watch() as ran:
        found = gradients((graph(x, w) * g).sum(), x, w)
    assert ran == {"gpu"}
    for ours, exact in zip(found, wide(lambda x, w: (graph(x, w) * g).sum(), x, w), strict=True):
        assert_near(ours, exact, 4e-6)  # of two norms


@each_norm
def test_a_gradient_is_differentiated_in_its_turn(torch, rng, norm):
    import torch as library

    def twice(x, w):
        y = norm.call(x, weight=w)
        (dx,) = library.autograd.grad((y * y * g).sum(), x, create_graph=True)
        return (dx * dx).sum()

    shape = (4, 6, 5, 8)
    g = torch.array(rng.standard_normal(shape).astype(F32))
    x = torch.array(data("offset 1", shape)).requires_grad_()
    w = torch.array(rng.uniform(0.5, 2, [shape[i] for i in norm.runs_along(4)]).astype(F32)).requires_grad_()
    for ours, exact in zip(gradients(twice(x, w), x, w), wide(twice, x, w), strict=True):
        assert_near(ours, exact, 2e-5)


def test_only_what_is_asked_for_is_computed(torch, device):
    x, w = torch.array(data("offset 1", (12, 40))), torch.array(np.ones(40, F32))
    y = anynorm.layer_norm(x, w.requires_grad_())
    device.kernels.clear()
    y.sum().backward()
    assert device.kernels == ["products"]
    assert x.grad is None
    y = anynorm.layer_norm(x.requires_grad_(), w.detach())
    device.kernels.clear()
    y.sum().backward()
    assert device.kernels == ["rows_pull"]


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (1, 1, 5, 8), (1, 1, 5, 1), (4, 1, 1, 1), (4, 6, 5, 8), (1, 6, 1, 8)])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@each_norm
def test_a_weight_that_is_frozen_is_a_weight_of_the_gradient(torch, rng, norm, last, shape):
    import torch as library

    x = torch.array(data("offset 100", (4, 6, 5, 8)))
    x = (x.to(memory_format=library.channels_last) if last else x).requires_grad_()
    g = rng.standard_normal((4, 6, 5, 8)).astype(F32)
    w = rng.uniform(0.5, 2, shape).astype(F32)
    with watch() as ran:
        (dx,) = gradients((norm.call(x, weight=torch.array(w)) * torch.array(g)).sum(), x)
    assert_near(dx, norm.gradient(x.detach().numpy(), g * w.astype(float)))
    assert ran == {"gpu"} or not norm.name.startswith(("layer", "rms"))


def test_a_step_of_training_is_differentiated_through_its_state(torch):
    x = torch.array(data("offset 1", (12, 6))).requires_grad_()

    def state(x):
        stats = RunningStats(x.detach().new_zeros(6), x.detach().new_ones(6), 0)
        y, new = anynorm.batch_norm_train(x, stats)
        return (y**3).sum() + (new.mean * new.var).sum()

    assert_near(gradients(state(x), x)[0], wide(state, x)[0])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_what_torch_traces_and_transforms_is_composed(torch):
    import torch as library

    x = torch.array(data("offset 1", (4, 6)))
    for call in (
        lambda: library.func.vmap(anynorm.layer_norm)(x),
        lambda: library.func.grad(lambda a: anynorm.layer_norm(a).sum())(x),
        lambda: library.func.jvp(anynorm.layer_norm, (x,), (x,)),
    ):
        with watch() as ran:
            call()
        assert ran == {"array-api"}


def test_a_tensor_of_a_cpu_is_no_business_of_the_engine_for_gpus():
    import torch as library

    from anynorm._engines import choice

    assert [name for name, _ in choice.chosen("torch")][-1] == "gpu"
    with watch() as ran, anynorm.engine("gpu"):
        anynorm.layer_norm(library.ones(2, 3))
    assert ran == {"array-api"}


@pytest.mark.library("numba")
def test_tensors_of_a_cpu_and_of_a_gpu_each_go_to_their_engine(torch, monkeypatch):
    from anynorm._core import plans
    from anynorm._engines import choice
    from anynorm._engines.cpu import torch as on_cpu
    from anynorm._engines.gpu import torch as on_gpu

    monkeypatch.setattr(choice, "choice", lambda: choice.Choice(None, None, None))
    x = torch.array(data("offset 1", (4, 6))).requires_grad_()
    for module, where, engine in ((on_gpu, "on_gpu", "numba"), (on_cpu, "plain", "gpu")):
        with monkeypatch.context() as patch, watch() as ran:
            patch.setattr(module, where, lambda value: value is None)
            patch.setattr(plans, "_known", {})
            for _ in range(2):
                anynorm.layer_norm(x).sum().backward()
        assert ran == {engine}
