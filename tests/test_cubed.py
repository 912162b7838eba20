"""Cubed: nothing is computed while a plan is made, results keep x's chunks, and what is made keeps x's spec."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm
from anynorm.testing._uses import Cubed
from oracles import GROUPS, NORMS, assert_near, assert_within, data, tolerance

pytestmark = pytest.mark.library("cubed")

SHAPE = (6, 8, 9, 10)
lib = Cubed()


def chunked(x, chunks):
    import cubed

    return cubed.from_array(x, chunks=chunks, spec=lib.array(np.zeros(1)).spec)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("chunks", [(4, 3, 5, 10), (6, 8, 9, 10), (1, 5, 2, 3)])
def test_a_norm_keeps_the_chunks_and_the_promise(norm, chunks):
    x = data("offset 1e4", SHAPE)
    a = chunked(x, chunks)
    y = lib.run(norm.call, a)
    assert y.chunks == a.chunks
    exact = norm.oracle(x)
    assert_within(lib.numpy(y), exact, tolerance(x, exact, "float32"))


def test_a_group_may_lie_in_several_chunks():
    x = data("offset 1e4", SHAPE)
    exact = next(norm for norm in NORMS if norm.groups == GROUPS).oracle(x)
    for channels in (1, 3, 5):  # of groups of four
        y = lib.run(lambda a: anynorm.group_norm(a, GROUPS), chunked(x, (2, channels, 9, 10)))
        assert_within(lib.numpy(y), exact, tolerance(x, exact, "float32"))


def test_a_state_and_its_successors_keep_the_spec():
    import cubed

    x = chunked(data("offset 100", SHAPE), (4, 3, 9, 10))
    assert x.spec != cubed.spec.spec_from_config(cubed.config)
    stats = anynorm.running_stats(8, like=x)
    y, after = lib.run(lambda a: anynorm.batch_norm_train(a, stats), x)
    m = anynorm.moments(x, axis=(0, 2, 3))
    made = (*stats, y, *after, *m, *anynorm.merge(m, m), *anynorm.population_stats(m))
    assert all(array.spec == x.spec for array in made)
    wide = data("offset 100", SHAPE).astype(np.float64)
    assert_near(lib.numpy(after.mean), 0.1 * wide.mean((0, 2, 3)))
    assert_near(lib.numpy(after.var), 0.9 + 0.1 * wide.var((0, 2, 3), ddof=1))


def test_moments_of_other_chunks_merge():
    x = data("offset 100", (9, 10))
    parts = [chunked(x[:4], (4, 10)), chunked(x[4:], (2, 3))]
    merged = lib.run(lambda *many: anynorm.merge(*(anynorm.moments(part, axis=0) for part in many)), *parts)
    count, mean, m2, rest = lib.numpy(merged)
    wide = x.astype(np.float64)
    assert np.array_equal(count, np.full(10, 9))
    assert_within(mean.astype(np.float64) + rest, wide.mean(axis=0), np.spacing(np.float32(1)))
    assert_near(m2, 9 * wide.var(axis=0), 1e-5)


def test_a_computation_inside_a_norm_would_be_seen():
    with pytest.raises(AssertionError, match="computed a Cubed array"):
        lib.run(lambda a: a.compute(), chunked(data("offset 0", SHAPE), (4, 3, 9, 10)))
