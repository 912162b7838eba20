"""The GPU that is none, as arrays of each library that it serves."""

from __future__ import annotations

import pytest

from backends import usable
from gpu.device import COMPILER, Arrays, Device, Tensors


@pytest.fixture
def device():
    if COMPILER is None:
        pytest.skip("no g++ here: no kernel was emulated")
    return Device()


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
