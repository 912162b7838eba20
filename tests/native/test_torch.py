"""PyTorch's own norms: ours agree with them on data of small offset, and are never the worse elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import anynorm
from anynorm.testing._uses import Torch
from native.comparison import SMALL, assert_native, assert_never_worse
from oracles import GROUPS, KINDS, NORMS, data, native_tolerance, tolerance, widen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

pytestmark = pytest.mark.library("torch")

lib = Torch()
C = 24
SHAPES = {
    "2-D": (16, C),
    "3-D": (4, C, 17),
    "4-D": (3, C, 6, 16),
    "channels_last": (3, C, 6, 16),
    "channels_last_3d": (2, C, 3, 4, 16),
}
FORMATS = {"channels_last": torch.channels_last, "channels_last_3d": torch.channels_last_3d}
SPATIAL = [layout for layout, shape in SHAPES.items() if len(shape) > 2]
HALVES = ("bfloat16", "float16")
DTYPES = ("float64", "float32", *HALVES)
STEPS = 10

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_layout = pytest.mark.parametrize("layout", SHAPES)
each_spatial_layout = pytest.mark.parametrize("layout", SPATIAL)
each_small_kind = pytest.mark.parametrize("kind", SMALL)
plain_and_affine = pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, which is quicker on arrays so small, and sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensor(kind: str, layout: str, dtype: str, seed: int = 0, samples: int | None = None) -> Tensor:
    n, *rest = SHAPES[layout]
    x = lib.array(data(kind, (samples or n, *rest), "float64", seed), dtype)
    return x.contiguous(memory_format=FORMATS.get(layout, torch.contiguous_format))


def double(x: Tensor) -> np.ndarray:
    return x.double().numpy()


def at_least_float32(dtype: str) -> torch.dtype:
    """The dtype of running statistics: PyTorch's float16 batch norm is only right with float32 ones."""
    return torch.float64 if dtype == "float64" else torch.float32


def weight_and_bias(affine: bool, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    if not affine:
        return None, None
    rng = np.random.default_rng(7)
    return torch.tensor(rng.uniform(0.5, 1.5, shape), dtype=dtype), torch.tensor(rng.uniform(-1, 1, shape), dtype=dtype)


def fresh_buffers(dtype: str) -> tuple[Tensor, Tensor]:
    return torch.zeros(C, dtype=at_least_float32(dtype)), torch.ones(C, dtype=at_least_float32(dtype))


def assert_same(ours: Tensor, native: Tensor) -> None:
    assert ours.dtype == native.dtype
    assert_native(double(ours), double(native), lib.dtype(native))


# -------------------------------------------------------------------------------- the norms, data of small offset


class Pair(NamedTuple):
    """A norm of ours and PyTorch's, as functions of x, weight and bias."""

    name: str
    ours: Callable[..., Tensor]
    native: Callable[..., Tensor]
    first: int | None = None  # weight and bias have the shape of the axes from here on; else that of the channels

    def __str__(self) -> str:
        return self.name


def over_trailing_axes(name: str, first: int) -> list[Pair]:
    def axes(x: Tensor) -> tuple[int, ...]:
        return tuple(range(first % x.ndim, x.ndim))

    return [
        Pair(
            f"layer_norm over {name}",
            lambda x, w, b: anynorm.layer_norm(x, w, b, axis=axes(x)),
            lambda x, w, b: F.layer_norm(x, x.shape[first:], w, b),
            first,
        ),
        Pair(
            f"rms_norm over {name}",
            lambda x, w, _: anynorm.rms_norm(x, w, axis=axes(x)),
            lambda x, w, _: F.rms_norm(x, x.shape[first:], w, eps=1e-5),
            first,
        ),
    ]


def in_groups(groups: int) -> Pair:
    return Pair(
        f"group_norm in {groups}",
        lambda x, w, b: anynorm.group_norm(x, groups, w, b),
        lambda x, w, b: F.group_norm(x, groups, w, b),
    )


BY_AXES = [*over_trailing_axes("the last axis", -1), *over_trailing_axes("all but the samples", 1)]
BY_GROUPS = [in_groups(groups) for groups in (1, 2, 3)]


def compare(pair: Pair, x: Tensor, affine: bool, parameters: torch.dtype) -> None:
    shape = (C,) if pair.first is None else x.shape[pair.first :]
    w, b = weight_and_bias(affine, shape, parameters)
    assert_same(pair.ours(x, w, b), pair.native(x, w, b))


@each_dtype
@each_small_kind
@plain_and_affine
@each_layout
@pytest.mark.parametrize("pair", BY_AXES, ids=str)
def test_layer_and_rms_norm_give_what_torch_gives(pair, layout, affine, kind, dtype):
    x = tensor(kind, layout, dtype)
    compare(pair, x, affine, x.dtype)


@each_dtype
@plain_and_affine
# Channels last PyTorch takes E[x^2] - E[x]^2, which in float32 errs by 2e-5 at offset 3 already: no oracle.
@pytest.mark.parametrize(
    ("layout", "kind"), [(a, k) for a in SHAPES for k in SMALL if k == SMALL[0] or a not in FORMATS]
)
@pytest.mark.parametrize("pair", BY_GROUPS, ids=str)
def test_group_norm_gives_what_torch_gives(pair, layout, kind, affine, dtype):
    x = tensor(kind, layout, dtype)
    compare(pair, x, affine, x.dtype)


@pytest.mark.parametrize("dtype", HALVES)
# PyTorch warns of an rms norm whose weight has another dtype than x
@pytest.mark.parametrize("pair", [p for p in (*BY_AXES, *BY_GROUPS) if "rms" not in p.name], ids=str)
def test_halves_with_float32_affine_stay_halves_as_in_torch(pair, dtype):
    compare(pair, tensor("offset 3", "4-D", dtype), True, torch.float32)


def native_instance_norm(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """PyTorch's; on halves it rounds its statistics to x's dtype, and errs by 17 ulp, unless weight is float32."""
    zeros, ones = fresh_buffers(lib.dtype(x))
    return F.instance_norm(x, weight=ones if w is None else w, bias=zeros if b is None else b)


def native_batch_norm(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """PyTorch's; on halves it rounds its statistics to x's dtype unless the running ones or weight are float32."""
    return F.batch_norm(x, *fresh_buffers(lib.dtype(x)), w, b, training=True)


@each_dtype
@each_small_kind
@plain_and_affine
@each_spatial_layout
def test_instance_norm_gives_what_torch_gives(layout, affine, kind, dtype):
    x = tensor(kind, layout, dtype)
    w, b = weight_and_bias(affine, (C,), at_least_float32(dtype))
    native = native_instance_norm(x, w, b)
    assert_same(anynorm.instance_norm(x, weight=w, bias=b), native)
    assert_same(anynorm.group_norm(x, C, w, b), native)


@each_dtype
@each_small_kind
@plain_and_affine
@each_layout
def test_batch_norm_gives_what_torch_gives(layout, affine, kind, dtype):
    x = tensor(kind, layout, dtype)
    w, b = weight_and_bias(affine, (C,), at_least_float32(dtype))
    native = native_batch_norm(x, w, b)
    assert_same(anynorm.batch_norm(x, weight=w, bias=b), native)


@pytest.mark.parametrize("eps", [0.5, 1e-3, 1e-12])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_eps_stands_where_torch_has_it(eps, dtype):
    x = tensor("offset 0", "4-D", dtype)
    shape = x.shape[1:]
    axes = (1, 2, 3)
    assert_same(anynorm.layer_norm(x, axis=axes, eps=eps), F.layer_norm(x, shape, eps=eps))
    assert_same(anynorm.rms_norm(x, axis=axes, eps=eps), F.rms_norm(x, shape, eps=eps))
    assert_same(anynorm.group_norm(x, 4, eps=eps), F.group_norm(x, 4, eps=eps))
    assert_same(anynorm.instance_norm(x, eps=eps), F.instance_norm(x, eps=eps))
    assert_same(anynorm.batch_norm(x, eps=eps), F.batch_norm(x, None, None, training=True, eps=eps))


@each_dtype
def test_rms_norm_takes_the_eps_that_torch_calls_none(dtype):
    x = tensor("offset 0", "2-D", dtype)
    eps = torch.finfo(at_least_float32(dtype)).eps
    assert_same(anynorm.rms_norm(x, eps=eps), F.rms_norm(x, (C,), eps=None))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("pair", BY_GROUPS, ids=str)
def test_group_norm_keeps_channels_last_as_torch_does(pair, layout):
    x = tensor("offset 0", layout, "float32")
    assert pair.native(x, None, None).stride() == x.stride(), "torch gives another layout: this test has no ground"
    assert pair.ours(x, None, None).stride() == x.stride()


@pytest.mark.parametrize("layout", FORMATS)
def test_batch_norm_keeps_channels_last_as_torch_does(layout):
    x = tensor("offset 0", layout, "float32")
    mean, var = fresh_buffers("float32")
    assert F.batch_norm(x, mean, var).stride() == x.stride(), "torch gives another layout: this test has no ground"
    state = anynorm.RunningStats(mean, var)
    assert anynorm.batch_norm(x).stride() == x.stride()
    assert anynorm.batch_norm(x, stats=state).stride() == x.stride()
    assert anynorm.batch_norm_train(x, state)[0].stride() == x.stride()


# -------------------------------------------------------------------------------- running statistics


def state_of(module: torch.nn.Module) -> anynorm.RunningStats:
    """A copy of a module's buffers, which training writes to."""
    return anynorm.RunningStats(
        module.running_mean.clone(), module.running_var.clone(), module.num_batches_tracked.clone()
    )


def assert_same_state(stats: anynorm.RunningStats, mean: Tensor, var: Tensor) -> None:
    assert_same(stats.mean, mean)
    assert_same(stats.var, var)


def batches(kind: str, layout: str, dtype: str) -> list[Tensor]:
    """Batches of several sizes, so that those count which the cumulative average and the correction need."""
    size = SHAPES[layout][0]
    return [tensor(kind, layout, dtype, seed=step, samples=size + step % 3) for step in range(STEPS)]


@each_dtype
@each_small_kind
@each_layout
def test_ten_steps_of_batch_norm_and_inference_go_as_in_torch(layout, kind, dtype):
    momentum = 0.3  # not the default, which the module has
    w, b = weight_and_bias(True, (C,), at_least_float32(dtype))
    mean, var = fresh_buffers(dtype)
    stats = anynorm.running_stats(C, like=tensor(kind, layout, dtype))
    for step, x in enumerate(batches(kind, layout, dtype), start=1):
        native = F.batch_norm(x, mean, var, w, b, training=True, momentum=momentum)
        y, stats = anynorm.batch_norm_train(x, stats, weight=w, bias=b, momentum=momentum)
        assert_same(y, native)
        assert_same_state(stats, mean, var)
        assert int(stats.steps) == step
    x = tensor(kind, layout, dtype, seed=STEPS)
    assert_same(anynorm.batch_norm(x, stats=stats, weight=w, bias=b), F.batch_norm(x, mean, var, w, b))


MODULES = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}


@each_dtype
@pytest.mark.parametrize("layout", ["2-D", "4-D", "channels_last"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_state_goes_where_the_batch_norm_module_goes(momentum, layout, dtype):
    module = MODULES[len(SHAPES[layout])](C, momentum=momentum, dtype=at_least_float32(dtype))
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.5, 1.5, C))
        module.bias.copy_(torch.linspace(-1, 1, C))
    w, b = module.weight.detach(), module.bias.detach()
    stats = anynorm.running_stats(C, like=tensor("offset 3", layout, dtype))
    for x in batches("offset 3", layout, dtype):
        native = module(x).detach()
        y, stats = anynorm.batch_norm_train(x, stats, weight=w, bias=b, momentum=momentum)
        assert_same(y, native)
        assert_same_state(stats, module.running_mean, module.running_var)
        assert stats.steps == module.num_batches_tracked
        assert stats.steps.dtype == module.num_batches_tracked.dtype
    x = tensor("offset 3", layout, dtype, seed=STEPS)
    native = module.eval()(x).detach()
    assert_same(anynorm.batch_norm(x, stats=stats, weight=w, bias=b), native)
    assert_same(anynorm.batch_norm(x, stats=state_of(module), weight=w, bias=b), native)


@each_dtype
@each_small_kind
@each_spatial_layout
def test_ten_steps_of_instance_norm_and_inference_go_as_in_torch(layout, kind, dtype):
    w, b = weight_and_bias(True, (C,), at_least_float32(dtype))
    mean, var = fresh_buffers(dtype)
    stats = anynorm.running_stats(C, like=tensor(kind, layout, dtype))
    for step, x in enumerate(batches(kind, layout, dtype), start=1):
        native = F.instance_norm(x, mean, var, w, b, use_input_stats=True)
        y, stats = anynorm.instance_norm_train(x, stats, weight=w, bias=b)
        assert_same(y, native)
        assert_same_state(stats, mean, var)
        assert int(stats.steps) == step
    x = tensor(kind, layout, dtype, seed=STEPS)
    native = F.instance_norm(x, mean, var, w, b, use_input_stats=False)
    assert_same(anynorm.instance_norm(x, stats=stats, weight=w, bias=b), native)


@each_dtype
@pytest.mark.parametrize("train", [anynorm.batch_norm_train, anynorm.instance_norm_train])
def test_training_keeps_the_states_dtypes_and_writes_to_nothing(train, dtype):
    x = tensor("offset 3", "4-D", dtype)
    for kept in (torch.float32, torch.float64):
        given = anynorm.RunningStats(torch.zeros(C, dtype=kept), torch.ones(C, dtype=kept), torch.tensor(3))
        before = x.clone()
        y, stats = train(x, given)
        assert (y.dtype, stats.mean.dtype, stats.var.dtype, stats.steps.dtype) == (x.dtype, kept, kept, torch.int64)
        assert torch.equal(x, before)
        assert not given.mean.any()
        assert given.var.eq(1).all()
        assert given.steps == 3


# -------------------------------------------------------------------------------- never the worse

NATIVE = {
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "layer_norm last axis": lambda x: F.layer_norm(x, x.shape[-1:]),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-5),
    "group_norm": lambda x: F.group_norm(x, GROUPS),
    "instance_norm": native_instance_norm,
    "batch_norm": native_batch_norm,
}
KINDS_OF = {dtype: [k for k in KINDS if (dtype, k) != ("float16", "offset 1e+06")] for dtype in DTYPES}  # beyond 65504

LAYOUTS = ("2-D", "4-D", "channels_last")

each_dtype_and_kind = pytest.mark.parametrize(("dtype", "kind"), [(d, k) for d in DTYPES for k in KINDS_OF[d]])


@each_dtype_and_kind
@pytest.mark.parametrize(
    ("norm", "layout"), [(n, a) for n in NORMS for a in LAYOUTS if n.name != "instance_norm" or a in SPATIAL], ids=str
)
def test_ours_is_never_further_from_float64_than_torchs(norm, layout, dtype, kind):
    x = tensor(kind, layout, dtype)
    exact = norm.oracle(double(x))
    bound = tolerance(double(x), exact, dtype)
    assert_never_worse(double(norm.call(x)), double(NATIVE[norm.name](x)), exact, bound)


@each_dtype_and_kind
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inference_is_never_further_from_float64_than_torchs(layout, dtype, kind):
    x = tensor(kind, layout, dtype)
    channels = widen(np.moveaxis(double(x), 1, -1).reshape(-1, C))
    mean, var = (
        torch.tensor(a.astype(np.float64), dtype=at_least_float32(dtype)) for a in (channels.mean(0), channels.var(0))
    )
    along = (1, C, *[1] * (x.ndim - 2))
    exact = (widen(double(x)) - double(mean).reshape(along)) / np.sqrt(widen(double(var)).reshape(along) + 1e-5)
    ours = anynorm.batch_norm(x, stats=anynorm.RunningStats(mean, var))
    assert_never_worse(double(ours), double(F.batch_norm(x, mean, var)), exact, tolerance(double(x), exact, dtype))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["4-D", "channels_last"])
def test_running_statistics_are_never_further_from_float64_than_torchs(layout, kind, dtype):
    x = tensor(kind, layout, dtype)
    spatial = tuple(range(2, x.ndim))
    for train, native, axes, samples in (
        (anynorm.batch_norm_train, F.batch_norm, (0, *spatial), ()),
        (anynorm.instance_norm_train, F.instance_norm, spatial, (0,)),
    ):
        buffers = fresh_buffers(dtype)
        native(x, *buffers, None, None, True, 1.0)
        _, stats = train(x, anynorm.running_stats(C, like=x), momentum=1)
        mean = widen(double(x)).mean(axes, keepdims=True)
        var = ((widen(double(x)) - mean) ** 2).mean(axes, keepdims=True)
        size = np.prod([x.shape[i] for i in axes])
        exact = mean.mean(samples).reshape(C), (var * size / (size - 1)).mean(samples).reshape(C)
        # the promise for a running variance is relative; a mean is held to what its spread allows
        bounds = tolerance(double(x), exact[0], dtype), native_tolerance(exact[1], dtype) * np.maximum(1, exact[1])
        for ours, theirs, right, bound in zip(stats[:2], buffers, exact, bounds, strict=True):
            assert_never_worse(double(ours), double(theirs), right, bound)
