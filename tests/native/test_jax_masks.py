"""Masked norms of JAX and Flax agree with ours at the positions that the mask shows, where they are right."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import anynorm
from native.comparison import assert_native
from oracles import data

pytestmark = pytest.mark.library("jax")

SHAPE = (6, 5, 8)


@pytest.fixture
def masked(rng):
    x, mask = data("offset 3", SHAPE), rng.random(SHAPE) < 0.6
    mask[..., 0] = True
    return jnp.asarray(x), jnp.asarray(mask)


def assert_equal_where_shown(ours, native, mask):
    shown = np.asarray(mask)
    assert_native(np.asarray(ours)[shown], np.asarray(native)[shown], "float32")
    assert np.all(np.asarray(ours)[~shown] == 0)


def test_layer_norm_agrees_with_jax_nn_standardize(masked):
    x, mask = masked
    native = jax.nn.standardize(x, axis=-1, where=mask, epsilon=1e-5, algorithm="stable")
    assert_equal_where_shown(anynorm.layer_norm(x, where=mask), native, mask)


def test_layer_norm_agrees_with_linen(masked):
    x, mask = masked
    module = linen.LayerNorm(epsilon=1e-5, use_fast_variance=False, use_bias=False, use_scale=False)
    assert_equal_where_shown(anynorm.layer_norm(x, where=mask), module.apply({}, x, mask=mask), mask)


def test_batch_norm_and_its_state_agree_with_linen(masked):
    x, mask = masked
    module = linen.BatchNorm(use_running_average=False, use_fast_variance=False, use_bias=False, use_scale=False)
    start = {"batch_stats": {"mean": jnp.zeros(8), "var": jnp.ones(8)}}
    native, state = module.apply(start, x, mask=mask, mutable=["batch_stats"])
    ours, stats = anynorm.batch_norm_train(
        x, anynorm.RunningStats(jnp.zeros(8), jnp.ones(8)), momentum=0.01, correction=0, channel_axis=-1, where=mask
    )
    assert_equal_where_shown(ours, native, mask)
    assert_native(np.asarray(stats.mean), np.asarray(state["batch_stats"]["mean"]), "float32")
    assert_native(np.asarray(stats.var), np.asarray(state["batch_stats"]["var"]), "float32")


def test_where_all_is_masked_ours_keeps_the_state_that_linens_loses(masked):
    x, nothing = masked[0], jnp.zeros(SHAPE, dtype=bool)
    module = linen.BatchNorm(use_running_average=False, use_bias=False, use_scale=False)
    start = {"batch_stats": {"mean": jnp.zeros(8), "var": jnp.ones(8)}}
    _, state = module.apply(start, x, mask=nothing, mutable=["batch_stats"])
    assert np.all(np.isnan(state["batch_stats"]["mean"]))
    _, stats = anynorm.batch_norm_train(
        x, anynorm.RunningStats(jnp.zeros(8), jnp.ones(8)), channel_axis=-1, where=nothing
    )
    assert np.array_equal(stats.mean, np.zeros(8))
    assert np.array_equal(stats.var, np.ones(8))
