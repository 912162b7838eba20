"""Masks in the kernels: every shape of a mask, over every layout of x, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm
from anynorm._engines import watch
from oracles import NORMS, assert_within, data, in_memory, standardized, tolerance

numba = pytest.mark.library("numba")
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)

SIZES = {
    "small": (4, 6, 5, 7),
    "rows longer than a block": (3, 4, 30, 40),
    "on several cores": (8, 8, 32, 36),
    "few slices": (2, 2, 160, 250),
    "walked down": (6, 24, 20, 20),
}
MASKS = {  # which axes it varies along
    "full": (0, 1, 2, 3),
    "samples": (0,),
    "space": (2, 3),
    "samples and space": (0, 2, 3),
    "a part of space": (3,),
    "columns of samples": (0, 2),
    "channels": (1,),
    "nothing": (),
}
LAYOUTS = {"channels first": (0, 1, 2, 3), "channels last": (0, 2, 3, 1), "samples last": (1, 2, 3, 0)}


def mask_of(rng, shape, axes):
    """Return a mask that varies along axes; it hides one slice of most norms, and the first element of another."""
    mask = rng.random([size if i in axes else 1 for i, size in enumerate(shape)]) < 0.7
    if axes:
        mask[(0,) * 4] = False
        mask[tuple(1 if i in axes[:1] else slice(None) for i in range(4))] = False
    return mask


@pytest.mark.parametrize("kind", ["offset 1e+06", "heavy tails"])
def test_a_mask_of_long_rows_keeps_the_promise(xp, kind):
    x = data(kind, (1, 2, 70_001))  # whose sums XLA adds in fewer chains than those of two axes
    hidden = np.arange(x.shape[-1]) % 7 == 0
    y = xp.numpy(xp.run(lambda a, mask: anynorm.layer_norm(a, where=mask), xp.array(x), xp.array(~hidden)))
    exact = standardized(x[..., ~hidden], (2,), 1e-5)
    assert_within(y[..., ~hidden], exact, tolerance(x, exact, "float32"))
    assert not y[..., hidden].any()


@numba
@each_norm
@pytest.mark.parametrize("axes", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("order", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_kernels_see_what_a_mask_shows(norm, axes, order, shape, rng):
    x, mask = data("offset 1e+04", shape), mask_of(rng, shape, axes)
    dy = rng.standard_normal(shape).astype(np.float32)
    full = np.broadcast_to(mask, shape)
    along = [size if i in norm.runs_along(4) else 1 for i, size in enumerate(shape)]
    w, b = rng.standard_normal((2, *along)).astype(np.float32)
    weight, bias = (p.reshape([n for n in along if n > 1]) for p in (w, b))
    parameters = {"weight": weight} if norm.rms else {"weight": weight, "bias": bias}
    x[~full] = np.nan
    with watch() as ran:
        y, pull = norm.vjp(in_memory(x, order), where=mask, **parameters)
        dx, dweight, *rest = pull(in_memory(dy, order))
    assert ran == {"numba"}
    clean = np.where(full, x, np.float32(1e4))
    standard = masked(norm, clean, full)
    shift = 0 if norm.rms else b
    exact = standard * w + shift
    assert_within(y, exact, tolerance(clean, exact, "float32") * 2)
    assert np.all(y[~full] == np.broadcast_to(shift, shape)[~full])
    exact = norm.gradient(clean, dy.astype(np.float64) * w, mask=full)
    assert_within(dx, exact, tolerance(clean, exact, "float32") * 4)
    assert np.all(dx[~full] == 0)
    others = tuple(i for i in range(4) if i not in norm.runs_along(4))
    terms = [dy.astype(np.float64) * standard, dy.astype(np.float64)]
    for got, term in zip((dweight,) if norm.rms else (dweight, *rest), terms, strict=False):
        scale = np.sqrt((term**2).sum(axis=others).max())
        assert_within(got, term.sum(axis=others), 4e-6 * max(1.0, scale))


def masked(norm, x, mask):
    """Return x standardised by what the mask shows, 0 elsewhere, in float64."""
    a, shown, axes = x.astype(np.float64).reshape(norm.split(x.shape)), mask.reshape(norm.split(x.shape)), norm.axes(4)
    n = np.maximum(shown.sum(axis=axes, keepdims=True), 1)
    mean = 0 if norm.rms else np.where(shown, a, 0).sum(axis=axes, keepdims=True) / n
    d = np.where(shown, a - mean, 0)
    return (d / np.sqrt((d * d).sum(axis=axes, keepdims=True) / n + 1e-5)).reshape(x.shape)


@numba
@each_norm
@pytest.mark.slow  # the kernels of each dtype are compiled for it
@pytest.mark.parametrize("dtype", ["float16", "float64"])  # whose kernels differ
@pytest.mark.parametrize("order", LAYOUTS.values(), ids=LAYOUTS)
def test_kernels_see_it_in_every_dtype(norm, dtype, order, rng):
    x, mask = data("offset 100", (6, 24, 20, 20), dtype), mask_of(rng, (6, 24, 20, 20), (0, 2, 3))
    full = np.broadcast_to(mask, x.shape)
    dy = rng.standard_normal(x.shape).astype(dtype)
    clean = np.where(full, x, x.dtype.type(100))
    x[~full] = np.inf
    with watch() as ran:
        y, pull = norm.vjp(in_memory(x, order), where=mask)
        dx = pull(in_memory(dy, order))[0]
    assert ran == {"numba"}
    exact = masked(norm, clean, full)
    assert_within(y, exact, tolerance(clean, exact, dtype))
    exact = norm.gradient(clean, dy, mask=full)
    assert_within(dx, exact, 2 * tolerance(clean, exact, dtype))


@numba
@pytest.mark.parametrize("order", LAYOUTS.values(), ids=LAYOUTS)
def test_a_hidden_gradient_counts_for_the_bias_alone(order, rng):
    shape = (6, 24, 20, 20)
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    mask = mask_of(rng, shape, (0, 2, 3))
    full = np.broadcast_to(mask, shape)
    weight, bias = np.ones((2, 24), np.float32)

    def gradients(dy):
        pull = anynorm.vjp.batch_norm(in_memory(x, order), weight=weight, bias=bias, where=mask)[1]
        return pull(in_memory(dy, order))

    dx, dweight, dbias = gradients(dy)
    other_dx, other_dweight, other_dbias = gradients(np.where(full, dy, dy + 1).astype(np.float32))
    assert np.array_equal(dx, other_dx)
    assert np.array_equal(dweight, other_dweight)
    hidden = (~full).sum(axis=(0, 2, 3))
    assert_within(other_dbias - dbias, hidden.astype(np.float64), 1e-3)


@numba
def test_counts_are_whole_numbers_of_every_slice(rng):
    x, mask = data("offset 3", (4, 6, 5, 7)), mask_of(rng, (4, 6, 5, 7), (0, 2, 3))
    with watch() as ran:
        m = anynorm.moments(x, axis=(2, 3), where=mask)
    assert ran == {"numba"}
    assert np.array_equal(m.count, np.broadcast_to(mask, x.shape).sum(axis=(2, 3)))
    state = anynorm.running_stats(6, like=x)
    y, new = anynorm.instance_norm_train(x, state, where=mask)
    with anynorm.engine("array-api"):
        other, expected = anynorm.instance_norm_train(x, state, where=mask)
    assert_within(y, other.astype(np.float64), 1e-6)
    for got, right in zip(new, expected, strict=True):
        assert_within(got, np.asarray(right, np.float64), 1e-6)


@numba
def test_bytes_that_are_no_0_or_1_show_as_bools_do(rng):
    x = rng.standard_normal((8, 64)).astype(np.float32)
    numbers = rng.integers(0, 3, (8, 64)).astype(np.uint8)
    y = anynorm.layer_norm(x, where=numbers.view(bool))
    assert np.array_equal(y, anynorm.layer_norm(x, where=numbers > 0))


@numba
@pytest.mark.engine
@pytest.mark.library("torch")
def test_torch_differentiates_a_masked_norm_by_kernels(rng):
    import torch

    x = torch.from_numpy(rng.standard_normal((6, 24, 20, 20)).astype(np.float32)).requires_grad_()
    w, b = (torch.ones(24).requires_grad_() for _ in range(2))
    mask = torch.from_numpy(rng.random((6, 1, 20, 20)) < 0.7)
    dy = torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))
    with watch() as ran:
        y = anynorm.batch_norm(x, weight=w, bias=b, where=mask)
        got = torch.autograd.grad(y, (x, w, b), dy)
    assert ran == {"numba"}
    with anynorm.engine("array-api"):
        right = torch.autograd.grad(anynorm.batch_norm(x, weight=w, bias=b, where=mask), (x, w, b), dy)
    for a, exact in zip(got, right, strict=True):
        assert_within(a.numpy(), exact.numpy().astype(np.float64), 2e-6 * max(1.0, float(exact.abs().max())))


@numba
@pytest.mark.library("torch")
def test_parameters_made_of_x_have_their_part_in_the_gradient(rng):
    import torch

    values, dy = rng.standard_normal((2, 6, 24, 20, 20)).astype(np.float32)
    mask = torch.from_numpy(rng.random((6, 1, 20, 20)) < 0.7)

    def gradient(dtype):
        x = torch.from_numpy(values).to(dtype).requires_grad_()
        weight, bias = x.mean((0, 2, 3)) + 1, x.amax((0, 2, 3))
        y = anynorm.batch_norm(x, weight=weight, bias=bias, where=mask)
        return torch.autograd.grad(y, x, torch.from_numpy(dy).to(dtype))[0].numpy()

    with anynorm.engine("array-api"):
        exact = gradient(torch.float64)
    assert_within(gradient(torch.float32), exact, 2e-6 * np.abs(exact).max())


@numba
@pytest.mark.library("torch")
def test_torch_refuses_a_mask_that_was_written_to_since(rng):
    import torch

    x = torch.from_numpy(rng.standard_normal((8, 64)).astype(np.float32)).requires_grad_()
    mask = torch.from_numpy(rng.random((8, 64)) < 0.7)
    y = anynorm.layer_norm(x, where=mask)
    mask[0] = False
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
