"""dpnp has devices and queues as a GPU has: what lies on two of them does not meet, and nothing leaves its own."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import anynorm
from anynorm.testing._uses import Dpnp
from oracles import NORMS, data

pytestmark = pytest.mark.library("dpnp")

SHAPE = (4, 6, 5, 7)


@functools.cache  # every part of a device compiles kernels of its own
def queues():
    """Return pairs of queues that share no arrays: two of one device, and those of two of its parts."""
    import dpctl

    device = dpctl.SyclDevice("cpu")
    pairs = [(dpctl.SyclQueue(device), dpctl.SyclQueue(device))]
    if device.max_compute_units > 1:
        halves = device.create_sub_devices(partition=[1, 1])
        pairs.append(tuple(map(dpctl.SyclQueue, halves)))
    return pairs


def arrays(pair, *values):
    import dpnp

    return [dpnp.asarray(a, sycl_queue=queue) for a, queue in zip(values, pair, strict=True)]


def test_arrays_of_two_queues_or_parts_of_a_device_are_refused():
    refused = pytest.raises(
        ValueError, match="needs all arrays on one device: got x on .* and .* on .*; move one of them"
    )
    for pair in queues():
        x, weight = arrays(pair, data("offset 0", SHAPE), np.ones(6, np.float32))
        mask = weight.reshape((6, 1, 1)) > 0
        _, like = arrays(pair, np.zeros(1, np.float32), np.zeros(1, np.float32))
        _, pullback = anynorm.vjp.batch_norm(x)
        _, dy = arrays(pair, np.zeros(1, np.float32), data("offset 0", SHAPE))
        for call in (
            lambda x=x, weight=weight: anynorm.group_norm(x, 2, weight),
            lambda x=x, weight=weight: anynorm.batch_norm(x, bias=weight),
            lambda x=x, mask=mask: anynorm.layer_norm(x, where=mask),
            lambda x=x, like=like: anynorm.batch_norm_train(x, anynorm.running_stats(6, like=like)),
            lambda x=x, like=like: anynorm.merge(anynorm.moments(x), anynorm.moments(like)),
            lambda pullback=pullback, dy=dy: pullback(dy),
        ):
            with refused:
                call()


def test_two_queues_that_are_written_alike_are_told_apart():
    x, weight = arrays(queues()[0], data("offset 0", SHAPE), np.ones(7, np.float32))
    with pytest.raises(ValueError, match="got x on Device.* and weight on another queue or part of Device"):
        anynorm.layer_norm(x, weight)


def test_everything_is_made_on_the_queue_of_x():
    for pair in queues():
        for queue in pair:
            (x,) = arrays((queue,), data("offset 1e4", SHAPE))
            for norm in NORMS:
                y, pullback = norm.vjp(x)
                assert y.sycl_queue == pullback(y)[0].sycl_queue == queue
            stats = anynorm.running_stats(6, like=x)
            _, stats = anynorm.batch_norm_train(x, stats)
            made = (*stats, *anynorm.moments(x), *anynorm.population_stats(anynorm.moments(x, axis=(0, 2, 3))))
            assert {array.sycl_queue for array in made} == {queue}


def test_a_copy_to_host_memory_would_be_seen():
    lib = Dpnp()
    x = lib.array(data("offset 0", SHAPE))
    for copy in (lambda a: a.asnumpy(), np.asarray, lambda a: bool(a.sum() > 0), lambda a: float(a[0, 0, 0, 0])):
        with pytest.raises(AssertionError, match="copied a dpnp array to host memory"):
            lib.run(copy, x)
