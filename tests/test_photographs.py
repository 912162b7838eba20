"""The norms on real photographs: uint8, channels last."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm
from oracles import assert_within, centred, widen

pytestmark = pytest.mark.library("sklearn", "PIL")

CALLS = {
    "layer": (lambda x: anynorm.layer_norm(x, axis=(1, 2, 3), eps=0), (1, 2, 3)),
    "instance": (lambda x: anynorm.instance_norm(x, channel_axis=-1, eps=0), (1, 2)),
    "batch": (lambda x: anynorm.batch_norm(x, channel_axis=-1, eps=0), (0, 1, 2)),
    "group": (lambda x: anynorm.group_norm(x, 1, channel_axis=-1, eps=0), (1, 2, 3)),
    "zscore": (lambda x: anynorm.zscore(x, axis=(0, 1, 2)), (0, 1, 2)),
}


@pytest.fixture(scope="module")
def photographs():
    from sklearn.datasets import load_sample_images

    images = np.stack(load_sample_images().images)
    assert (images.dtype, images.shape) == (np.uint8, (2, 427, 640, 3))
    return images


@pytest.mark.parametrize("name", CALLS)
def test_photographs_have_mean_0_and_variance_1_over_the_shared_axes(photographs, name):
    call, axes = CALLS[name]
    y = call(photographs)
    assert y.dtype == np.float64
    assert np.abs(widen(y).mean(axis=axes)).max() < 1e-14
    assert np.abs(widen(y).var(axis=axes) - 1).max() < 1e-12


@pytest.mark.parametrize("name", CALLS)
def test_photographs_in_float32_keep_the_promise(photographs, name):
    call, axes = CALLS[name]
    d = centred(photographs.astype(np.float32), axes)
    exact = d / np.sqrt((d * d).mean(axis=axes, keepdims=True))
    assert_within(call(photographs.astype(np.float32)), exact, 2e-6)


def test_photographs_in_float16_neither_overflow_nor_lose_a_place(photographs):
    y = anynorm.instance_norm(photographs.astype(np.float16), channel_axis=-1, eps=0)
    d = centred(photographs.astype(np.float32), (1, 2))
    exact = d / np.sqrt((d * d).mean(axis=(1, 2), keepdims=True))
    assert y.dtype == np.float16
    assert_within(y, exact, np.spacing(np.abs(exact).astype(np.float16)))


def test_photographs_scale_into_the_unit_range(photographs):
    y = anynorm.minmax_scale(photographs, axis=None)
    assert (y.min(), y.max()) == (0, 1)
    assert_within(y, (photographs - photographs.min()) / np.ptp(photographs), 1e-15)
