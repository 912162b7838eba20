"""Moments, their merging and their variance against float64."""

from __future__ import annotations

import numpy as np
import pytest

import anynorm
from oracles import KINDS, assert_within, centred, data, standardized, widen


@pytest.mark.parametrize(("axis", "keepdims"), [(None, False), ((2, 0), False), (-1, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_float64(xp, kind, axis, keepdims):
    x = data(kind, (5, 6, 7))
    m = xp.numpy(xp.run(lambda a: anynorm.moments(a, axis=axis, keepdims=keepdims), xp.array(x)))
    axes = {None: (0, 1, 2), -1: (2,)}.get(axis, axis)
    exact = widen(x)
    assert_within(m.mean, exact.mean(axis=axes, keepdims=keepdims), np.spacing(np.float32(np.abs(x).max())))
    m2 = (centred(x, axes) ** 2).sum(axis=axes, keepdims=keepdims)
    assert_within(m.m2, m2, 1e-6 * m2)
    count = np.prod([x.shape[i] for i in axes])
    assert np.array_equal(m.count, np.full(m.mean.shape, count))
    assert {part.dtype for part in m} == {np.dtype(np.float32)}
    assert len({part.shape for part in m}) == 1


@pytest.mark.needs("millions of elements")
def test_variance_of_a_million_rows_at_offset_1e4_is_within_1e_5(xp):
    x = data("offset 1e+04", (1_000_000, 16))
    exact = x.astype(np.float64).var(axis=0)
    var = xp.run(lambda a: anynorm.variance(anynorm.moments(a, axis=0)), xp.array(x))
    assert_within(xp.numpy(var), exact, 1e-5)
    _, stats = xp.run(
        lambda a, m, v: anynorm.batch_norm_train(a, anynorm.RunningStats(m, v), momentum=1.0, correction=0),
        xp.array(x),
        xp.array(np.zeros(16, np.float32)),
        xp.array(np.ones(16, np.float32)),
    )
    assert_within(xp.numpy(stats.var), exact, 1e-5)


def test_a_mask_counts_what_it_shows(xp, rng):
    x, mask = data("offset 100", (5, 6)), rng.random((5, 1)) < 0.6
    x[~mask[:, 0]] = np.nan
    m = xp.numpy(xp.run(lambda a, w: anynorm.moments(a, axis=0, where=w), xp.array(x), xp.array(mask)))
    kept = x[mask[:, 0]]
    assert np.array_equal(m.count, np.full(6, len(kept)))
    assert_within(m.mean, widen(kept).mean(axis=0), 1e-5)
    assert_within(m.m2, (centred(kept, (0,)) ** 2).sum(axis=0), 1e-5)


@pytest.mark.needs("empty arrays")
def test_moments_of_nothing_are_zeros(xp):
    m = xp.numpy(xp.run(lambda a: anynorm.moments(a, axis=0), xp.array(np.zeros((0, 3), dtype=np.float32))))
    assert all(np.array_equal(part, np.zeros(3)) for part in m)


holes = pytest.mark.needs("empty arrays")


def merged_moments(*parts):
    return anynorm.merge(*(anynorm.moments(part, axis=0) for part in parts))


@pytest.mark.parametrize(
    "sizes", [(3, 4), (5,), *(pytest.param(sizes, marks=holes) for sizes in [(1, 0, 9, 2), (0, 0)])]
)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_merged_moments_are_those_of_the_whole(xp, sizes, offset):
    parts = [data(f"offset {offset:g}", (size, 3), seed=size) for size in sizes]
    merged = xp.numpy(xp.run(merged_moments, *map(xp.array, parts)))
    whole = np.concatenate(parts)
    assert np.array_equal(merged.count, np.full(3, len(whole)))
    if len(whole):
        mean, m2 = widen(whole).mean(axis=0), (centred(whole, (0,)) ** 2).sum(axis=0)
        assert_within(merged.mean, mean, 0.51 * np.spacing(np.float32(1 + offset)))
        assert_within(widen(merged.mean) + merged.rest, mean, 1e-6)
        assert_within(merged.m2, m2, 1e-6 * m2)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_a_stream_of_pieces_is_standardised_as_the_whole_is(xp, offset):
    pieces = [data(f"offset {offset:g}", (size, 3), seed=size) for size in (40, 1, 17, 30)]

    def streamed(*pieces):
        m = anynorm.moments(pieces[0], axis=0)
        for piece in pieces[1:]:
            m = anynorm.merge(m, anynorm.moments(piece, axis=0))
        stats = anynorm.population_stats(m, correction=0)
        kept = anynorm.batch_norm_train(pieces[0], stats, momentum=0.0)[1]  # which keeps what it was given
        return tuple(anynorm.batch_norm(piece, stats=state) for state in (stats, kept) for piece in pieces)

    ours = xp.numpy(xp.run(streamed, *map(xp.array, pieces)))
    exact = standardized(np.concatenate(pieces), (0,), 1e-5)
    for twice in (ours[:4], ours[4:]):
        assert_within(np.concatenate(twice), exact, 2e-6)


@pytest.mark.parametrize("train", [anynorm.batch_norm_train, anynorm.instance_norm_train])
def test_a_state_in_two_parts_keeps_the_promise_through_training(xp, train):
    batches = [data("offset 1e+06", (4, 3, 20), seed=seed) for seed in range(5)]

    def trained(first, *batches):
        stats = anynorm.population_stats(anynorm.moments(first, axis=(0, 2)))
        for x in batches:
            _, stats = train(x, stats, momentum=None, correction=0)
        return stats

    stats = xp.numpy(xp.run(trained, *map(xp.array, batches)))
    exact = np.mean([widen(x).mean(axis=(0, 2)) for x in batches], axis=0)
    assert_within(widen(stats.mean) + stats.rest, exact, 1e-6)


def test_variance_has_no_value_where_the_count_is_not_above_the_correction(xp):
    m = anynorm.moments(xp.array(np.ones((1, 2), dtype=np.float32)), axis=0)
    assert np.array_equal(xp.numpy(anynorm.variance(m)), np.zeros(2))
    assert np.all(np.isnan(xp.numpy(anynorm.variance(m, correction=1))))


@pytest.mark.slow_on("dask")
@pytest.mark.eager
@pytest.mark.needs("many small calls")
@pytest.mark.dtypes("float64", "float32")
def test_many_merges_at_offset_1e6_keep_the_mean_and_the_variance(xp, dtype):
    pieces = data("offset 1e+06", (30, 50), dtype)
    with xp.using(dtype):
        m = anynorm.moments(xp.array(pieces[0]))
        for piece in pieces[1:]:
            m = anynorm.merge(m, anynorm.moments(xp.array(piece)))
        merged = xp.numpy(m)
    exact = widen(pieces)
    assert abs(merged.mean - exact.mean()) <= 0.51 * np.spacing(np.asarray(1e6, dtype=dtype))
    assert abs(widen(merged.mean) + merged.rest - exact.mean()) <= 1e-6
    assert abs(merged.m2 / merged.count / exact.var() - 1) <= 1e-6


@pytest.mark.needs("empty arrays")
def test_merging_with_nothing_changes_nothing(xp):
    x = xp.array(data("offset 100", (7, 3)))
    m = anynorm.moments(x, axis=0)
    nothing = anynorm.moments(x[:0, :], axis=0)
    for merged in (anynorm.merge(nothing, m), anynorm.merge(m, nothing, nothing)):
        assert_within(xp.numpy(merged.mean), xp.numpy(m.mean), np.spacing(np.float32(100)))
        assert_within(xp.numpy(merged.m2), xp.numpy(m.m2), 1e-4)
        assert np.array_equal(xp.numpy(merged.count), xp.numpy(m.count))


@pytest.mark.eager
@pytest.mark.parametrize("junk", ["text", None, (1.0,)])
def test_a_mean_that_is_no_array_is_refused_whatever_the_rest(xp, junk):
    m = anynorm.moments(xp.array(np.ones(3, np.float32)))
    with pytest.raises(TypeError, match="merge needs the parts of Moments to be an array of x's library"):
        anynorm.merge(m, m._replace(mean=junk, rest=0.0))


def test_many_moments_merged_at_once_keep_their_digits():
    x = (1e6 + np.random.default_rng(0).normal(size=(20_000, 2))).astype(np.float32)
    m = anynorm.merge(*(anynorm.moments(row[None], axis=0) for row in x))
    wide = x.astype(np.float64)
    assert np.array_equal(m.count, [20_000, 20_000])
    assert np.allclose(m.mean.astype(float) + m.rest, wide.mean(axis=0), rtol=0, atol=1e-4)
    assert np.allclose(anynorm.variance(m), wide.var(axis=0), rtol=1e-5)


@pytest.mark.parametrize(("dtype", "value"), [("float32", 1e20), ("float64", 1.7e308)])
def test_merged_squares_beyond_the_dtype_are_no_number_and_never_a_silent_0(dtype, value):
    parts = (anynorm.moments(np.asarray([a], dtype)) for a in (value, -value))
    assert not np.isfinite(anynorm.variance(anynorm.merge(*parts)))
