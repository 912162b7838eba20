"""Threads: the same call from many at once gives, bit for bit, what it gives alone; the first call of all included."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import anynorm
from oracles import NORMS, data

THREADS, ROUNDS = 8, 2


def at_once(function):
    """Return what each of the threads gets, which start together and call a few times; raise what any raises."""
    start, results, errors = threading.Barrier(THREADS), [], []

    def run():
        try:
            start.wait(60)
            for _ in range(ROUNDS):
                results.append(function())
        except BaseException as error:  # noqa: BLE001  it is raised below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    assert len(results) == THREADS * ROUNDS
    return results


def bits(xp, result):
    """Return the results of a call, however nested, as bytes."""

    def of(y):
        return tuple(map(of, y)) if isinstance(y, tuple) else np.asarray(y).tobytes()

    return of(xp.numpy(result))


def assert_same_from_threads(xp, function):
    """Fail unless every thread gets what the call gives alone."""
    alone = bits(xp, function())
    assert set(at_once(lambda: bits(xp, function()))) == {alone}


@pytest.mark.eager
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_norm_gives_every_thread_the_same(xp, norm):
    x = xp.array(data("offset 1e+04", (8, 4, 10, 5)), "float32")
    weight = xp.array(np.linspace(0.5, 2, 20).reshape(1, 4, 1, 5), "float32")
    assert_same_from_threads(xp, lambda: norm.call(x, weight=weight))


@pytest.mark.eager
@pytest.mark.parametrize("train", [anynorm.batch_norm_train, anynorm.instance_norm_train])
def test_training_gives_every_thread_the_same_state(xp, train):
    x = xp.array(data("offset 1e+04", (8, 4, 10, 5)), "float32")
    where = xp.array(data("offset 0", (8, 1, 10, 5)) > 0)
    stats = anynorm.running_stats(4, like=x)
    assert_same_from_threads(xp, lambda: train(x, stats, where=where))


@pytest.mark.eager
@pytest.mark.parametrize("scale", [anynorm.moments, anynorm.zscore, anynorm.minmax_scale])
def test_statistics_and_scalings_give_every_thread_the_same(xp, scale):
    x = xp.array(data("ramp", (300, 4)), "float32")
    assert_same_from_threads(xp, lambda: scale(x, axis=0))


@pytest.mark.eager
def test_threads_do_not_mix_up_dtypes(xp):
    arrays = [xp.array(data("offset 0", (6, 4)), dtype) for dtype in xp.floats if dtype != "float64"]
    arrays += [xp.array(np.arange(24).reshape(6, 4), "int32")]
    assert_same_from_threads(xp, lambda: tuple(anynorm.layer_norm(x) for x in arrays))


FIRST = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from anynorm.testing import USES
from backends import settled
xp = next(b for b in USES if b.name == {name!r})
x = xp.array(np.arange(24).reshape(6, 4), "float32")
import threading
import anynorm

start, results = threading.Barrier({threads}), []
def first():
    start.wait(60)
    results.append(settled(anynorm.layer_norm(x)))
threads = [threading.Thread(target=first) for _ in range({threads})]
for thread in threads: thread.start()
for thread in threads: thread.join()
alone = xp.numpy(anynorm.layer_norm(x)).tobytes()
print(len(results), {{xp.numpy(y).tobytes() for y in results}} == {{alone}})
"""


@pytest.mark.eager
def test_the_first_call_may_come_from_many_threads(xp):
    """In a fresh interpreter: the caches of namespaces and dtypes are empty, and array-api-compat is not imported."""
    code = FIRST.format(tests=str(Path(__file__).parent), name=xp.name, threads=THREADS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == ([str(THREADS), "True"], "")
