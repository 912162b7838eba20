"""The GPU that is none, as arrays of each library that it serves."""

from __future__ import annotations

import functools

import pytest

from anynorm.testing import usable
from gpu.device import COMPILER, Arrays, Device, Tensors
from gpu.nvrtc import cases


@pytest.fixture
def device():
    if COMPILER is None:
        pytest.skip("no g++ here: no kernel was emulated")
    device = Device()
    yield device
    assert device.launched <= known()  # so what runs here is what `nox -s nvrtc` compiles


@functools.cache
def known():
    return {tuple(case.macros()) for case in cases()}


@pytest.fixture
def cupy(device, monkeypatch):
    with Arrays(device).lent(monkeypatch) as arrays:
        yield arrays


@pytest.fixture
def torch(device, monkeypatch):
    if not usable("torch"):
        pytest.skip("no torch here")
    with Tensors(device).lent(monkeypatch) as tensors:
        yield tensors
