"""Every transformation of PyTorch, of every norm and of its pullback."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

import anynorm
from anynorm import RunningStats
from oracles import NORMS, assert_near, data, gradient

pytestmark = [
    pytest.mark.library("torch"),
    # torch's own, in what it differentiates forward with
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]

F32 = np.float32
SHAPE = (6, 4, 3, 5)
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)
TRAIN = ("batch_norm_train", "instance_norm_train")


@pytest.fixture
def x():
    return data("offset 100", SHAPE)


@pytest.fixture
def g(rng):
    return rng.standard_normal(SHAPE).astype(F32)


def tensors(*arrays, **options):
    import torch

    return [torch.tensor(a, **options) for a in arrays]


@each_norm
def test_gradcheck_and_gradgradcheck(norm, rng):
    import torch

    own = tuple((2, 4, 3)[i] for i in norm.runs_along(3))
    inputs = tensors(*(rng.standard_normal(s) for s in ((2, 4, 3), own, own)), requires_grad=True)

    def call(a, w, b):
        return norm.call(a, weight=w, bias=b)

    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, inputs, check_batched_grad=True)


@each_norm
def test_autograd_grad(norm, x, g):
    import torch

    a, dy = tensors(x, g)
    (dx,) = torch.autograd.grad(norm.call(a.requires_grad_()), a, dy)
    assert_near(dx, norm.gradient(x, g))


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["channels first", "channels last"])
def test_what_needs_no_gradient_gets_none(needed, order, rng):
    import torch

    x = rng.standard_normal((6, 16, 20, 20)).astype(F32).transpose(order)
    channel = order.index(1)
    arrays = tensors(x, *rng.standard_normal((2, 16)).astype(F32))
    (dy,) = tensors(rng.standard_normal(x.shape).astype(F32))

    def gradients(wanted):
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(arrays)]
        anynorm.batch_norm(leaves[0], weight=leaves[1], bias=leaves[2], channel_axis=channel).backward(dy)
        return [leaf.grad for leaf in leaves]

    for i, (got, whole) in enumerate(zip(gradients(needed), gradients((0, 1, 2)), strict=True)):
        assert (got is not None) == (i in needed)
        assert got is None or torch.equal(got, whole)


@each_norm
def test_a_gradient_of_the_pullback_is_that_of_the_gradient(norm, rng):
    import torch

    x, g, h = tensors(*rng.standard_normal((3, 2, 4, 3)))
    x.requires_grad_()
    (by_pullback,) = torch.autograd.grad((norm.vjp(x)[1](g)[0] * h).sum(), x)
    (dx,) = torch.autograd.grad(norm.call(x), x, g, create_graph=True)
    (by_torch,) = torch.autograd.grad((dx * h).sum(), x)
    assert_near(by_pullback, by_torch.numpy(), 1e-12)


@each_norm
def test_functional_gradients(norm, x, g):
    import torch

    a, dy = tensors(x, g)
    exact = norm.gradient(x, g)
    assert_near(torch.func.grad(lambda t: (norm.call(t) * dy).sum())(a), exact)
    assert_near(torch.func.vjp(norm.call, a)[1](dy)[0], exact)
    assert_near(torch.func.jvp(norm.call, (a,), (dy,))[1], exact)  # the derivative is a symmetric matrix


@each_norm
@pytest.mark.parametrize("axis", [0, 2])
def test_vmap(norm, axis, rng):
    import torch

    x, g = rng.standard_normal((2, 3, 4, 2, 5)).astype(F32)

    def both(a, dy):
        y, pullback = norm.vjp(a)
        return y, pullback(dy)[0], torch.func.grad(lambda t: (norm.call(t) * dy).sum())(a)

    moved = tensors(*(np.moveaxis(a, 0, axis) for a in (x, g)))
    y, dx, also = torch.func.vmap(both, in_dims=axis)(*moved)
    exact = np.stack([norm.gradient(*pair) for pair in zip(x, g, strict=True)])
    assert_near(y, np.stack([norm.oracle(one) for one in x]))
    assert_near(dx, exact)
    assert_near(also, exact)


@each_norm
def test_hessian(norm, rng):
    import torch

    x, g = tensors(*rng.standard_normal((2, 2, 2, 2)))

    def loss(a):
        return (norm.call(a) ** 3 * g).sum()

    matrix = torch.func.hessian(loss)(x).reshape(8, 8)
    assert_near(matrix, matrix.T.numpy(), 1e-12)
    step = 1e-5
    differences = torch.stack(
        [
            (torch.func.grad(loss)(x + step * e) - torch.func.grad(loss)(x - step * e)).reshape(8) / (2 * step)
            for e in torch.eye(8, dtype=x.dtype).reshape(8, 2, 2, 2)
        ]
    )
    assert_near(matrix, differences.numpy(), 1e-7)


@pytest.mark.parametrize(
    "norm",
    [n if n.name in ("layer_norm", "batch_norm") else pytest.param(n, marks=pytest.mark.slow) for n in NORMS],
    ids=str,
)
def test_compile_breaks_no_graph_and_compiles_again_once_for_other_batch_sizes(norm, rng):
    import torch
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    call = torch.compile(norm.call, fullgraph=True, backend=counter)
    for size in (4, 6, 7, 9):
        x, g = rng.standard_normal((2, size, 4, 3)).astype(F32)
        a, dy = tensors(x, g)
        (dx,) = torch.autograd.grad(call(a.requires_grad_()), a, dy)
        assert_near(dx, norm.gradient(x, g))
    assert counter.frame_count <= 2


COMPILED_FIRST = """
import sys, types, torch, anynorm
from torch._dynamo.testing import CompileCounter
count = CompileCounter()
step = torch.compile(lambda x, s: anynorm.batch_norm_train(x, s, momentum=0.1), backend=count, fullgraph=True)
x = torch.randn(4, 6)
for name in ("one", "another"):
    step(x, anynorm.RunningStats(torch.zeros(6), torch.ones(6), torch.tensor(0)))
    sys.modules[name] = types.ModuleType(name)
    anynorm.batch_norm(x)
print(count.frame_count)
"""


def test_what_is_imported_or_called_later_compiles_nothing_again():
    done = subprocess.run(
        [sys.executable, "-c", COMPILED_FIRST], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout.strip() == "1", done.stderr


@each_norm
def test_checkpoint(norm, x, g):
    import torch
    from torch.utils.checkpoint import checkpoint

    a, dy = tensors(x, g)
    (dx,) = torch.autograd.grad(checkpoint(norm.call, a.requires_grad_(), use_reentrant=False), a, dy)
    assert_near(dx, norm.gradient(x, g))


@each_norm
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_autocast_changes_nothing(norm, dtype, x, g):
    import torch

    a, dy = (t.to(getattr(torch, dtype)) for t in tensors(x, g))
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = norm.call(a.requires_grad_())
            results.append((y, *torch.autograd.grad(y, a, dy)))
    for plain, cast in zip(*results, strict=True):
        assert cast.dtype == a.dtype
        assert torch.equal(plain, cast)


# ------------------------------------------------------------------------------------------------ state


@pytest.mark.parametrize("name", TRAIN)
def test_an_ensemble_of_states_is_trained_at_once(name, rng):
    import torch

    train, models = getattr(anynorm, name), 3
    x, g = rng.standard_normal((2, models, *SHAPE)).astype(F32)
    states = RunningStats(rng.standard_normal((models, 4)).astype(F32), np.ones((models, 4), F32), np.arange(models))

    def loss(a, dy, state):
        y, state = train(a, state, momentum=None)
        return (y * dy).sum(), state

    step = torch.func.vmap(torch.func.grad(loss, has_aux=True))
    dx, new = step(*tensors(x, g), RunningStats(*tensors(*states)))
    assert isinstance(new, RunningStats)
    axes = (0, 2, 3) if name.startswith("batch") else (2, 3)
    for i in range(models):
        assert_near(dx[i], gradient(x[i], g[i], axes))
        _, exact = train(x[i].astype(np.float64), RunningStats(*(part[i] for part in states)), momentum=None)
        assert_near(new.mean[i], exact.mean, 1e-6)
        assert_near(new.var[i], exact.var, 1e-6)
        assert int(new.steps[i]) == i + 1


def test_models_with_batch_norm_are_stacked_and_called_as_functions(rng):
    import torch

    class Model(torch.nn.Module):
        """A linear layer and a batch norm that keeps its state outside itself."""

        def __init__(self):
            super().__init__()
            self.linear, self.weight = torch.nn.Linear(5, 4), torch.nn.Parameter(torch.rand(4))

        def forward(self, a, state):
            return anynorm.batch_norm_train(self.linear(a), state, weight=self.weight)

    models = [Model() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    (x,) = tensors(rng.standard_normal((8, 5)).astype(F32))
    start = anynorm.running_stats(4, like=x)

    def call(parameters, buffers, state):
        return torch.func.functional_call(models[0], (parameters, buffers), (x, state))

    states = RunningStats(*(torch.stack([part] * 3) for part in start))
    ys, new = torch.func.vmap(call)(parameters, buffers, states)
    for i, model in enumerate(models):
        y, state = model(x, start)
        assert torch.allclose(ys[i], y, atol=1e-6)
        assert torch.allclose(new.var[i], state.var, atol=1e-6)
        assert torch.allclose(new.mean[i], state.mean, atol=1e-6)


def test_torchs_own_batch_norm_refuses_an_ensemble_of_states(rng):
    import torch

    (x,) = tensors(rng.standard_normal((3, 8, 4)).astype(F32))

    def train(a):
        return torch.nn.functional.batch_norm(a, torch.zeros(4), torch.ones(4), training=True)

    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(train)(x)


# ------------------------------------------------------------------------------------------------ sizes as symbols


def everything(x):
    """Return what every function makes of x, of shape (N, 4, H, W)."""
    stats = RunningStats(x.new_zeros(4), x.new_ones(4), 0)
    y, new = anynorm.batch_norm_train(x, stats)
    z, also = anynorm.instance_norm_train(x, stats, where=x > 0)
    return (
        *(norm.call(x) for norm in NORMS if norm.name != "layer_norm last axis"),
        anynorm.batch_norm(x, stats=stats), anynorm.batch_norm(x, where=x > 0), anynorm.zscore(x),
        anynorm.minmax_scale(x), *anynorm.moments(x, axis=(0, 2, 3))[:3], anynorm.vjp.batch_norm(x)[1](x.sin())[0],
        y, *new[:2], z, *also[:2],
    )  # fmt: skip


def exported(how, x):
    """Return everything as a program with sizes that are symbols."""
    import torch
    from torch.export import Dim

    if how == "trace":
        return torch.jit.trace(everything, x)

    class Module(torch.nn.Module):
        def forward(self, x):
            return everything(x)

    sizes = {"x": {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}}
    file = io.BytesIO()
    torch.export.save(torch.export.export(Module(), (x,), dynamic_shapes=sizes, strict=how == "strict"), file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", [pytest.param("strict", marks=pytest.mark.slow), "not strict", "trace"])
def test_what_is_exported_takes_other_sizes(how, rng):
    first, other = (torch_normal(rng, shape) for shape in ((6, 4, 5, 3), (9, 4, 7, 8)))
    program = exported(how, first)
    for x in (first, other):
        for part, exact in zip(program(x), everything(x.double()), strict=True):
            assert_near(part, exact.numpy())


@pytest.mark.parametrize(
    "norm",
    [n if n.name.startswith(("batch", "group")) else pytest.param(n, marks=pytest.mark.slow) for n in NORMS],
    ids=str,
)
@pytest.mark.library("onnxscript")
@pytest.mark.library("onnxruntime")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # torch's own
def test_a_norm_becomes_onnx_of_any_batch_size(norm, tmp_path):
    import onnxruntime
    import torch

    class Module(torch.nn.Module):
        def forward(self, x):
            return norm.call(x)

    sizes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(Module(), (torch.randn(6, 4, 9, 8),), dynamo=True, dynamic_shapes=sizes, verbose=False)
    program.save(tmp_path / "norm.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "norm.onnx")
    for size in (6, 11):
        for kind in ("offset 0", "offset 10000"):
            x = data(kind, (size, 4, 9, 8))
            assert_near(session.run(None, {session.get_inputs()[0].name: x})[0], norm.oracle(x))


def torch_normal(rng, shape):
    (x,) = tensors(rng.normal(3, 1, shape).astype(F32))
    return x
