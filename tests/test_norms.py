"""Every norm on every library against float64."""

from __future__ import annotations

import numpy as np
import pytest

from oracles import KINDS, NORMS, assert_within, data, tolerance

SHAPE = (6, 8, 9, 10)
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)


@each_norm
@pytest.mark.parametrize("kind", KINDS)
def test_float32_keeps_the_promise(xp, norm, kind):
    x = data(kind, SHAPE)
    exact = norm.oracle(x)
    assert_within(xp.numpy(xp.run(norm.call, xp.array(x))), exact, tolerance(x, exact, "float32"))
