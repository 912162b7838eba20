"""Jagged nested tensors: samples of different lengths, whose rows are normalised where they lie."""

from __future__ import annotations

import re

import numpy as np
import pytest

import anynorm
from anynorm import vjp
from oracles import OFFSETS, assert_near, assert_within, data, gradient, standardized, tolerance

pytestmark = [
    pytest.mark.library("torch"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    # torch's own, where it compiles
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]

LENGTHS = (3, 0, 5, 1)  # of the samples
NORMS = {"layer": (anynorm.layer_norm, vjp.layer_norm), "rms": (anynorm.rms_norm, vjp.rms_norm)}
each_norm = pytest.mark.parametrize("name", NORMS)


def rows(kind="offset 100", *features):
    return data(kind, (sum(LENGTHS), *(features or (7,))))


def jagged(values, *, requires_grad=False):
    import torch

    offsets = torch.tensor(np.cumsum([0, *LENGTHS]))
    made = torch.nested.nested_tensor_from_jagged(torch.tensor(values), offsets)
    return made.detach().requires_grad_(requires_grad)


@each_norm
@pytest.mark.parametrize("offset", OFFSETS)
def test_every_row_is_normalised_by_itself(name, offset):
    norm, _ = NORMS[name]
    values = rows(f"offset {offset:g}")
    x = jagged(values)
    y = norm(x)
    assert y.is_nested
    assert y.shape == x.shape
    exact = standardized(values, (1,), 1e-5, rms=name == "rms")
    assert_within(y.values().numpy(), exact, tolerance(values, exact, "float32"))
    assert (y + x).shape == x.shape  # torch takes both for alike: no offsets are compared


@each_norm
def test_gradients_are_as_jagged_as_x(name, rng):
    import torch

    norm, with_pullback = NORMS[name]
    values, g, w = rows(), rng.standard_normal((9, 7)).astype(np.float32), np.linspace(0.5, 1.5, 7, dtype=np.float32)
    x, weight = jagged(values, requires_grad=True), torch.tensor(w, requires_grad=True)
    y = norm(x, weight, weight)
    dx, dweight = torch.autograd.grad((y.values() * torch.tensor(g)).sum(), (x, weight))
    _, pullback = with_pullback(x.detach(), weight.detach(), weight.detach())
    pulled, dw, db = pullback(x.detach() * 0 + jagged_as(x, g))
    exact, straight = (
        standardized(values, (1,), 1e-5, rms=name == "rms"),
        gradient(values, g * w, (1,), rms=name == "rms"),
    )
    for slope in (dx, pulled):
        assert slope.shape == x.shape
        assert_near(slope.values(), straight)
    for total in (dweight, dw + db):
        assert_near(total, (g * exact + g).sum(axis=0))


def jagged_as(x, values):
    import torch

    return torch.nested.nested_tensor_from_jagged(torch.tensor(values), x.offsets())


def test_several_axes_and_other_layouts_share_no_row(rng):
    values = rows("offset 100", 2, 4)
    exact = standardized(values, (1, 2), 1e-5)
    weight = rng.standard_normal((2, 4))
    import torch

    y = anynorm.layer_norm(jagged(values), torch.tensor(weight), axis=(2, 3))
    assert_near(y.values(), exact * weight)
    wide = jagged(rows())
    turned = anynorm.layer_norm(wide.transpose(1, 2), axis=1)  # channels before the ragged axis
    assert torch.equal(turned.transpose(1, 2).values(), anynorm.layer_norm(wide).values())


def test_rows_with_gaps_between_samples_are_left_in_place(rng):
    import torch

    batch = torch.tensor(rng.normal(100, 1, (3, 6, 5)).astype(np.float32))
    starts, lengths = torch.tensor([0, 2, 1]), torch.tensor([2, 4, 0])
    x = torch.nested.narrow(batch, 1, starts, lengths, layout=torch.jagged)
    y = anynorm.layer_norm(x)
    assert y.shape == x.shape
    for start, length, part, whole in zip(starts, lengths, y.unbind(), batch.numpy(), strict=True):
        assert_near(part, standardized(whole[start : start + length], (1,), 1e-5))


def test_a_mask_of_x_hides_and_other_offsets_are_refused():
    values = rows()
    x = jagged(values)
    mask = values > 100
    y = anynorm.layer_norm(x, where=x > 100)
    with anynorm.engine("array-api"):
        assert_near(y.values(), anynorm.layer_norm(values.astype(np.float64), where=mask))
    for other in (jagged(values), jagged(values[::-1].copy())):
        with pytest.raises(
            TypeError, match=r"needs where, where it is nested, to have x's own offsets: .* of x, or by"
        ):
            anynorm.layer_norm(x, where=other > 100)
        with pytest.raises(TypeError, match="pullback needs dy, where it is nested, to have x's own offsets"):
            vjp.layer_norm(x)[1](other)


PADDED = (
    r"needs x to be a dense tensor: got one that is nested; pass x\.to_padded_tensor\(0\.0\) and where=, or its values"
)
REFUSED = {
    "batch_norm": lambda x: anynorm.batch_norm(x, channel_axis=-1),
    "instance_norm": lambda x: anynorm.instance_norm(x, channel_axis=-1),
    "group_norm": lambda x: anynorm.group_norm(x, 2, channel_axis=-1),
    "group_norm of ragged channels": lambda x: anynorm.group_norm(x, 2),
    "layer_norm over the axes (1, 2)": lambda x: anynorm.layer_norm(x, axis=(1, 2)),
    "rms_norm over the axes (0,)": lambda x: anynorm.rms_norm(x, axis=0),
    "zscore": anynorm.zscore,
    "minmax_scale": lambda x: anynorm.minmax_scale(x, axis=-1),
    "moments": lambda x: anynorm.moments(x, axis=-1),
    "batch_norm_train": lambda x: anynorm.batch_norm_train(x, anynorm.running_stats(7, like=x.values())),
}


@pytest.mark.parametrize("name", REFUSED)
def test_statistics_over_samples_of_different_lengths_are_refused(name):
    with pytest.raises(TypeError, match=f"^{re.escape(name.split(' of')[0])} {PADDED}"):
        REFUSED[name](jagged(rows()))


def test_what_the_refusal_says_to_do_is_batch_norm():
    import torch

    values = rows()
    x = jagged(values)
    exact = standardized(values, (0,), 1e-5)
    assert_near(anynorm.batch_norm(x.values(), channel_axis=-1), exact)
    padded = x.to_padded_tensor(0.0)
    where = torch.arange(padded.shape[1]) < torch.tensor(LENGTHS)[:, None]
    assert_near(anynorm.batch_norm(padded, channel_axis=-1, where=where[..., None])[where], exact)


@each_norm
def test_jagged_tensors_compile_whole(name):
    import torch

    norm, _ = NORMS[name]
    values = rows()
    x, weight = jagged(values, requires_grad=True), torch.linspace(0.5, 1.5, 7)
    y = torch.compile(lambda a, w: norm(a, w) * a, fullgraph=True, backend="aot_eager")(x, weight)
    (dx,) = torch.autograd.grad(y.values().sum(), x)
    exact, w = standardized(values, (1,), 1e-5, rms=name == "rms"), weight.numpy()
    assert_near(y.values().detach(), exact * w * values)
    assert_near(dx.values(), exact * w + gradient(values, w * values, (1,), rms=name == "rms"))
