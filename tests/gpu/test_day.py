"""The day a GPU is lent, rehearsed on the one that is none."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gpu import day
from gpu.device import Device

SMALL = ((4, 6, 5, 8),)


@pytest.fixture
def lent(cupy):
    """Pass the emulated arrays for those of a GPU."""
    cupy.name, cupy.wait, cupy.copy, cupy.rivals = "CuPy 0", lambda: None, np.copy, lambda *_: {}
    return cupy


@pytest.mark.slow
def test_the_emulator_gives_its_own_bits_and_keeps_the_promise(lent, monkeypatch):
    expected = {name: found for name, found, _ in day.results(lent, SMALL)}
    monkeypatch.setattr(day, "emulated", lambda _: expected)
    differing, worst, count, ran = day.check_bits(lent, SMALL)
    assert (differing, count) == ([], 30)
    assert worst < 2e-6
    assert ran == {"gpu"}


@pytest.mark.slow
def test_a_bit_that_differs_is_told(lent, monkeypatch):
    expected = {name: found for name, found, _ in day.results(lent, SMALL)}
    name = next(iter(expected))
    expected[name] = [np.nextafter(expected[name][0], np.float32(9)), *expected[name][1:]]
    monkeypatch.setattr(day, "emulated", lambda _: expected)
    assert day.check_bits(lent, SMALL)[0] == [name]


def test_what_was_found_is_written_in_place_of_what_was_not():
    text, library = day.VERIFIED.read_text(), SimpleNamespace(device="A GPU")
    once = day.record(text, [library], ["* found", ""], "2026-12-01")
    assert "gpu.day, 2026-12-01" in once
    assert "Not run on a GPU yet" not in once
    assert once.count("## On a GPU") == 1
    twice = day.record(once, [library], ["* found again", ""], "2026-12-02")
    assert "2026-12-01" not in twice
    assert "* found\n" not in twice
    assert twice.endswith("* found again\n")
    assert [line.count("|") for line in twice.splitlines() if line.startswith("|")] == [
        line.count("|") for line in text.splitlines() if line.startswith("|")
    ]


def test_rates_are_of_what_was_moved(lent, monkeypatch):
    monkeypatch.setattr(day, "BYTES", 2**16)
    monkeypatch.setattr(day, "seconds", lambda _, function: function() is not None and 1e-6)
    rows = dict(day.rates(lent))
    assert set(rows["layer, float32, rows of 1024"]) == {"copy", "anynorm"}
    assert rows["layer, float32, rows of 1024"]["anynorm"] == pytest.approx(2 * 2**16 / 1e-6 / 1e12)


def test_without_a_gpu_it_says_so_and_passes(monkeypatch, capsys):
    monkeypatch.setattr(day, "libraries", list)
    monkeypatch.setattr(day.sys, "argv", ["day"])
    assert day.main() == 0
    assert "NO GPU" in capsys.readouterr().out
    assert Device().kernels == []
