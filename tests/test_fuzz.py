"""The fuzz of fuzz.py for a fixed number of calls, and what its checks catch."""

from __future__ import annotations

import numpy as np
import pytest

import fuzz
from anynorm.testing import USES

# How many calls: lazy libraries take their time.
FUZZED = {"numpy": 150, "torch": 100, "strict": 150, "mlx": 150, "dask": 30, "jax": 12}
SEED = 20


LIBRARIES = [
    pytest.param(b, marks=[pytest.mark.library(b.library), *[pytest.mark.slow] * (b.name == "jax")], id=b.name)
    for b in USES
    if b.name in FUZZED
]


@pytest.mark.parametrize("backend", LIBRARIES)
def test_random_calls_end_in_results_or_documented_exceptions(backend):
    calls = FUZZED[backend.name]
    kinds = fuzz.fuzz(backend, SEED, range(calls))
    results = sum(n for kind, n in kinds.items() if kind.endswith(": result"))
    assert sum(kinds.values()) == calls
    assert calls / 4 < results < calls * 19 / 20  # both kinds of call are drawn


@pytest.mark.eager
def test_a_call_is_drawn_from_its_seed_and_index_alone(xp):
    with fuzz.quiet():
        once, again = (
            [str(fuzz.draw_call(fuzz.Draw(xp, 1, i))) for i in order] for order in (range(9), range(8, -1, -1))
        )
    assert once == again[::-1]


def test_every_public_function_is_drawn():
    with fuzz.quiet():
        drawn = {fuzz.draw_call(fuzz.Draw(fuzz.PLAIN[0], 0, i)).name for i in range(400)}
    assert drawn == set(fuzz.FUNCTIONS)
    assert len(drawn) == 23


# ------------------------------------------------------------------------------------------------ the checks


def write(x):
    x[...] = 7.0
    return x


def outcomes_that_break_a_rule():
    return {
        "undocumented": lambda x: {x.ndim: x}["key"],
        "foreign words": lambda x: x.reshape(7, 7, 7),
        "warning": lambda x: np.log(-1.0 - x * x),
        "NaN": lambda x: x * np.float32("nan"),
        "shape": lambda x: x[None],
        "dtype": lambda x: x.astype("complex64"),
        "library": lambda x: x.tolist(),
        "written to": write,
    }


@pytest.mark.library("numpy")
@pytest.mark.parametrize("name", outcomes_that_break_a_rule())
def test_the_fuzz_catches(name, monkeypatch):
    broken = outcomes_that_break_a_rule()[name]
    x = np.arange(8.0, dtype=np.float32).reshape(2, 4)
    monkeypatch.setattr(fuzz, "draw_call", lambda _: fuzz.Call("zscore", (x,), {}))
    assert fuzz.one(fuzz.PLAIN[0], 0, 0) == "zscore: result"
    monkeypatch.setattr(fuzz.anynorm, "zscore", broken)
    with pytest.raises(fuzz.BrokenRuleError, match="seed 0, index 0, numpy: anynorm.zscore"):
        fuzz.one(fuzz.PLAIN[0], 0, 0)
