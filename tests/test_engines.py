"""The engines: which of them does a call, that it does what array-API code does, and that it lives with others."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anynorm
from anynorm import RunningStats, vjp
from anynorm._engines import choice, watch
from drawn import norm_of
from oracles import NORMS, assert_near, assert_within, data, in_memory, standardized

F32 = np.float32
numba = pytest.mark.library("numba")
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)


def who(function, *arguments):
    """Return the engines that run in a call."""
    with watch() as ran:
        function(*arguments)
    return ran


def python(code, **environment):
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ------------------------------------------------------------------------------------------------ who runs


@numba
def test_numba_does_what_is_plain_and_array_api_code_the_rest():
    x = np.random.default_rng(0).standard_normal((4, 6, 5)).astype(F32)
    stats = RunningStats(np.zeros(6), np.ones(6))
    calls = {
        lambda: anynorm.layer_norm(x): "numba",
        lambda: anynorm.group_norm(x, 3, np.ones(6)): "numba",
        lambda: anynorm.batch_norm(x, stats=stats): "numba",
        lambda: anynorm.batch_norm_train(x, stats): "numba",
        lambda: anynorm.moments(x): "numba",
        lambda: anynorm.zscore(x): "numba",
        lambda: vjp.instance_norm(x)[1](x): "numba",
        lambda: anynorm.layer_norm(x > 0): "numba",
        lambda: anynorm.layer_norm(x[::-1, ::2]): "numba",
        lambda: anynorm.layer_norm(x, where=x > 0): "numba",
        lambda: vjp.batch_norm(x, where=x > 0)[1](x): "numba",
        lambda: anynorm.layer_norm(x, sync=lambda a: a): "array-api",
        lambda: anynorm.layer_norm(x[:0]): "array-api",
        lambda: anynorm.layer_norm(x.astype(">f4")): "array-api",
        lambda: anynorm.layer_norm(x.astype(np.longdouble)): "array-api",
        lambda: anynorm.layer_norm(x.view(np.recarray)): "array-api",
    }
    for call, engine in calls.items():
        assert who(call) == {engine}


@pytest.mark.library("jax")
def test_jax_compiles_calls_as_one():
    import jax.numpy as jnp

    x = jnp.ones((4, 6, 5))
    assert who(anynorm.layer_norm, x) == {"jax"}
    assert who(lambda: anynorm.layer_norm(x, where=x > 0)) == {"jax"}
    assert who(lambda: anynorm.layer_norm(x, sync=lambda a: a)) == {"array-api"}
    assert who(lambda: vjp.batch_norm(x)[1](x)) == {"jax"}


@pytest.mark.library("jax")
def test_jax_compiles_once_for_what_it_has_seen():
    import jax.numpy as jnp

    from anynorm._engines import jax as engine

    x = jnp.ones((4, 6, 5))
    state = anynorm.running_stats(6, like=x)
    _, state = anynorm.batch_norm_train(x, state, weight=jnp.ones(6), momentum=0.5, eps=1e-5)
    before = engine._compiled._cache_size()
    for momentum, eps in ((0.1, 1e-5), (0.2, 1e-3), (0.3, 1e-3)):
        _, state = anynorm.batch_norm_train(x + 1, state, weight=jnp.zeros(6), momentum=momentum, eps=eps)
    assert engine._compiled._cache_size() == before


@pytest.mark.library("jax")
def test_jax_compiles_a_norm_once_under_all_its_names():
    import jax.numpy as jnp

    from anynorm._engines import jax as engine

    x = jnp.ones((4, 6, 7))
    anynorm.layer_norm(x, axis=(0, 2), eps=1e-5)
    before = engine._compiled._cache_size()
    vjp.layer_norm(x, axis=(0, 2), eps=1e-5)
    anynorm.moments(x, axis=(0, 2))
    after = engine._compiled._cache_size()
    assert after == before + 1  # the statistics alone
    anynorm.zscore(x, axis=(0, 2))
    assert engine._compiled._cache_size() == after + 1  # the norm by statistics given


@numba
@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_numba_does_what_torch_neither_traces_nor_transforms():
    import torch
    from torch.autograd import forward_ad

    x = torch.randn(4, 6, 5)
    for plain in (x, x.double(), x.half(), x.bfloat16(), x.clone().requires_grad_(), torch.nn.Parameter(x), x.mT):
        assert who(anynorm.batch_norm, plain) == {"numba"}
    assert who(lambda: anynorm.batch_norm(x.clone().requires_grad_()).sum().backward()) == {"numba"}
    assert who(torch.func.vmap(anynorm.layer_norm), x) == {"array-api"}
    assert who(torch.func.grad(lambda a: anynorm.layer_norm(a).sum()), x) == {"array-api"}
    assert who(lambda: torch.func.jvp(anynorm.layer_norm, (x,), (x,))) == {"array-api"}
    with forward_ad.dual_level():
        assert who(anynorm.layer_norm, forward_ad.make_dual(x, x)) == {"array-api"}
    assert who(anynorm.layer_norm, torch.empty(2, 3, device="meta")) == {"array-api"}
    make_fx = torch.fx.experimental.proxy_tensor.make_fx
    assert who(lambda: make_fx(lambda a: anynorm.layer_norm(a))(x)) == {"array-api"}


# ------------------------------------------------------------------------------------------------ the choice


def test_an_engine_is_chosen_for_a_block():
    x = np.ones((2, 3))
    fastest = who(anynorm.layer_norm, x)
    with anynorm.engine("array-api"):
        assert who(anynorm.layer_norm, x) == {"array-api"}
        with anynorm.engine(threads=1):
            assert who(anynorm.layer_norm, x) == {"array-api"}
    assert who(anynorm.layer_norm, x) == fastest


def test_the_choice_is_of_this_thread_and_this_task_alone():
    x = np.ones((2, 3))
    fastest = who(anynorm.layer_norm, x)
    with anynorm.engine("array-api"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(who, anynorm.layer_norm, x).result() == fastest
        inherited = contextvars.copy_context()
    assert inherited.run(who, anynorm.layer_norm, x) == {"array-api"}


def test_the_environment_chooses(monkeypatch):
    x = np.ones((2, 3))
    monkeypatch.setattr(choice, "_environment", choice._environment.__wrapped__)  # which is read once
    monkeypatch.setenv("ANYNORM_ENGINE", "array-api")
    assert who(anynorm.layer_norm, x) == {"array-api"}
    monkeypatch.setenv("ANYNORM_ENGINE", "cuda")
    with pytest.raises(
        ValueError, match="ANYNORM_ENGINE needs to be one of array-api, numba, jax, dask, gpu: got 'cuda'"
    ):
        anynorm.layer_norm(x)


@pytest.mark.eager
@pytest.mark.parametrize("wrong", ["0", "two", "-1", "²"])
def test_a_wrong_number_of_threads_in_the_environment_is_refused_on_every_library(xp, wrong, monkeypatch):
    monkeypatch.setattr(choice, "_environment", choice._environment.__wrapped__)  # which is read once
    monkeypatch.setenv("ANYNORM_NUM_THREADS", wrong)
    x = xp.array(np.ones((2, 3), F32))  # of which no engine would take a second thread
    refused = pytest.raises(ValueError, match=f"ANYNORM_NUM_THREADS needs to be a positive integer: got '{wrong}'")
    with refused:
        anynorm.layer_norm(x)
    with refused:
        anynorm.moments(x)
    with refused, anynorm.engine("array-api"):
        anynorm.layer_norm(x)


def test_what_is_no_engine_is_refused():
    with (
        pytest.raises(ValueError, match="engine needs to be one of array-api, numba, jax, dask, gpu: got 'numpy'"),
        anynorm.engine("numpy"),
    ):
        pass
    for threads, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="engine needs threads to be"), anynorm.engine(threads=threads):
            pass


def test_a_generator_that_another_task_closes_leaves_no_engine_behind():
    x = np.ones((2, 3))
    fastest = who(anynorm.layer_norm, x)

    async def numbers():
        with anynorm.engine("array-api"):
            yield who(anynorm.layer_norm, x)

    async def main():
        values = numbers()
        assert await values.__anext__() == {"array-api"}
        await asyncio.create_task(close(values))
        return who(anynorm.layer_norm, x)

    async def close(values):
        await values.aclose()

    assert asyncio.run(main()) == fastest


def test_blocks_closed_out_of_order_leave_no_engine_behind():
    x = np.ones((2, 3))
    fastest = who(anynorm.layer_norm, x)
    outer, inner = anynorm.engine("array-api"), anynorm.engine(threads=1)
    outer.__enter__()
    contextvars.copy_context().run(outer.__exit__, None, None, None)
    with inner:
        assert who(anynorm.layer_norm, x) == fastest
    assert who(anynorm.layer_norm, x) == fastest


@numba
@pytest.mark.library("torch")
@pytest.mark.parametrize("name", [None, "array-api"])
def test_backward_runs_by_the_engine_chosen_around_it(name):
    import torch

    x = torch.randn(4, 6, requires_grad=True)
    with anynorm.engine():
        y = anynorm.layer_norm(x)
    with anynorm.engine(name), watch() as ran:
        y.sum().backward()
    assert ran == {name or "numba"}


# ------------------------------------------------------------------------------------------------ the same result


LAYOUTS = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: x[::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
}


@st.composite
def calls(draw):
    """Draw a norm with its arguments, as a function of the module, and an array."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=5)))
    dtype = draw(st.sampled_from(["float16", "float32", "float64"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    spread = rng.standard_normal(shape) + draw(st.sampled_from([0.0, 3.0, 100.0]))
    x = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](spread.astype(dtype))
    norm, keywords = norm_of(draw, rng, shape, ("float32", "float64"))
    return norm, x, keywords, rng.standard_normal(shape).astype(dtype)


def both(function, *arguments, **keywords):
    """Return the result, and that of array-API code."""
    y = function(*arguments, **keywords)
    with anynorm.engine("array-api"):
        return y, function(*arguments, **keywords)


@numba
@given(calls())
def test_numba_does_what_array_api_code_does_in_every_layout(call):
    name, x, keywords, dy = call
    ours, theirs = both(getattr(anynorm, name), x, **keywords)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    last = np.finfo(x.dtype).eps * (1 + np.abs(theirs).max())
    assert_within(ours.astype(np.float64), theirs.astype(np.float64), 8 * last)
    (_, pull), (_, pull_) = both(getattr(vjp, name), x, **keywords)
    with anynorm.engine("array-api"):
        expected = pull_(dy)
    for g, g_ in zip(pull(dy), expected, strict=True):
        assert (g is None) == (g_ is None)
        if g is not None:
            assert (g.dtype, g.shape) == (g_.dtype, g_.shape)
            assert_within(g.astype(np.float64), g_.astype(np.float64), 64 * last * (1 + np.abs(g_).max()))


@numba
@each_norm
@pytest.mark.parametrize("layout", ["C", "channels last"])
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_many_cores_keep_the_promise(norm, layout, offset):
    x = LAYOUTS[layout](data(f"offset {offset:g}", (16, 32, 28, 28)))
    exact = norm.oracle(x)
    for threads in (1, 2, 3):
        with anynorm.engine(threads=threads):
            assert_within(norm.call(x), exact, 2e-6)


@numba
@pytest.mark.parametrize("shape", [(1, 400_001), (2, 300_000), (3, 40, 70, 70), (1, 200_000, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_few_long_slices_keep_the_promise(shape, dtype):
    x = data("offset 10000", shape, dtype)
    axes = tuple(range(1, len(shape)))
    bound = 2e-6 if dtype == "float32" else 1e-11  # at this offset the last place of float64 data of unit spread
    for threads in (1, 2):
        with anynorm.engine(threads=threads):
            assert_within(anynorm.layer_norm(x, axis=axes), standardized(x, axes, 1e-5), bound)
            last = np.moveaxis(x, 0, -1)
            assert_within(
                anynorm.layer_norm(last, axis=tuple(a - 1 for a in axes)),
                np.moveaxis(standardized(x, axes, 1e-5), 0, -1),
                bound,
            )


@numba
def test_the_kernels_know_every_half():
    import numba as nb

    from anynorm._engines.cpu import half

    @nb.njit
    def convert(source, target, scratch):
        for i in range(0, source.size, 1024):
            block = half.load(source[i : i + 1024], scratch)
            out = half.room(target[i : i + 1024], scratch)
            out[:] = block
            half.store(out, target[i : i + 1024])

    scratch, halves = np.empty(1024, F32), np.arange(2**16, dtype=np.uint16)
    floats = np.empty(2**16, F32)
    convert(halves, floats, scratch)
    assert np.array_equal(floats, halves.view(np.float16).astype(F32), equal_nan=True)
    with np.errstate(over="ignore", invalid="ignore"):
        between = np.concatenate(
            [floats, np.nextafter(floats, F32(0)), (floats[1:] + floats[:-1]) / 2, F32(1e5) * floats]
        )
        expected = between.astype(np.float16)
    narrow = np.empty(between.size, np.uint16)
    convert(between, narrow, scratch)
    assert np.array_equal(narrow.view(np.float16), expected, equal_nan=True)
    back = np.empty(2**16, F32)
    convert(halves.view(np.int16), back, scratch)
    assert np.array_equal(back, (halves.astype(np.uint32) << 16).view(F32), equal_nan=True)
    # bfloat16 rounds to the nearest, ties to even: as adding half a last place less what is odd does for integers.
    numbers = between[np.abs(between) < 1e38]
    rounded = np.empty(numbers.size, np.int16)
    convert(numbers, rounded, scratch)
    wide = (rounded.view(np.uint16).astype(np.uint32) << 16).view(F32).astype(np.float64)
    gap = np.spacing(np.abs(numbers).astype(np.float64)) * 2**45  # of bfloat16, which has 45 bits less
    gap = np.maximum(gap, 2.0**-133)
    assert np.all(np.abs(wide - numbers) <= gap / 2)
    ties = np.abs(wide - numbers) == gap / 2
    assert not np.any(rounded[ties] & 1)


# ------------------------------------------------------------------------------------------------ memory


@numba
@each_norm
@pytest.mark.parametrize("library", ["numpy", pytest.param("torch", marks=pytest.mark.library("torch"))])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_call_takes_its_output_and_less_than_a_megabyte(norm, library, dtype):
    x = data("offset 3", (16, 64, 56, 56), dtype)
    parameters = {name: np.ones([x.shape[i] for i in norm.runs_along(4)], F32) for name in ("weight", "bias")}
    if library == "torch":
        import torch

        x, *rest = map(torch.from_numpy, (x, *parameters.values()))
        parameters = dict(zip(parameters, rest, strict=True))
    norm.call(x, **parameters)
    tracemalloc.start()
    y = norm.call(x, **parameters)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - y.nbytes < 1e6


# ------------------------------------------------------------------------------------------------ cores and processes


@numba
def test_a_call_takes_the_cores_that_no_other_has(monkeypatch):
    from anynorm._engines.cpu import threads as cores

    monkeypatch.setattr(cores, "allowed", lambda: 4)
    with cores.cores(cores.SMALL - 1) as threads:
        assert threads == 1
    with cores.cores(cores.SMALL) as threads, cores.cores(cores.SMALL) as others:
        assert (threads, others) == (4, 1)
    with cores.cores(cores.SMALL, most=2) as threads:
        assert threads == 2


@numba
def test_threads_are_limited_by_argument_and_environment(monkeypatch):
    import numba as nb

    from anynorm._engines.cpu import threads as cores

    monkeypatch.setattr(nb.config, "NUMBA_NUM_THREADS", 16)
    for name in ("ANYNORM_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(choice, "_environment", choice._environment.__wrapped__)  # which is read once
    assert cores.allowed() == 16
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert cores.allowed() == 8
    monkeypatch.setenv("ANYNORM_NUM_THREADS", "5")
    assert cores.allowed() == 5
    with anynorm.engine(threads=3):
        assert cores.allowed() == 3
    monkeypatch.delenv("ANYNORM_NUM_THREADS")
    monkeypatch.setattr("multiprocessing.parent_process", object)
    assert cores.allowed() == 1
    with anynorm.engine(threads=3):
        assert cores.allowed() == 3
        monkeypatch.setattr(cores, "_forked", True)
        assert cores.allowed() == 1


@numba
def test_the_environment_is_read_once():
    code = """
import os, numpy as np, anynorm
from anynorm._engines.cpu import threads
x = np.ones((512, 512))
anynorm.layer_norm(x)
asked = threads.allowed()
os.environ.update(ANYNORM_NUM_THREADS="x", ANYNORM_ENGINE="x")
anynorm.layer_norm(x)
print(asked == threads.allowed() == 1)
"""
    assert python(code, ANYNORM_NUM_THREADS="1", ANYNORM_ENGINE="numba") == "True"


POOL = """
import concurrent.futures, multiprocessing, sys, warnings, numpy as np, anynorm

def work(seed):
    from anynorm._engines.cpu import threads
    x = np.random.default_rng(seed).standard_normal((32, 8, 28, 28)).astype(np.float32)
    y, pull = anynorm.vjp.batch_norm(x)
    return threads.allowed(), float(np.abs(y).sum()), float(np.abs(pull(x)[0]).sum())

if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
    alone, *_ = here = [work(seed) for seed in range(4)]  # so Numba's threads run before any fork
    context = multiprocessing.get_context(sys.argv[1])
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        there = list(pool.map(work, range(4)))
    assert alone[0] > 1, alone
    assert [threads for threads, *_ in there] == [1] * 4, there
    assert np.allclose([sums for _, *sums in there], [sums for _, *sums in here], rtol=1e-6), (here, there)
    assert work(0) == here[0]
    print("alive")
"""


@numba
@pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=pytest.mark.slow)])  # forks have tests below
def test_processes_of_a_pool_run_on_one_core_each(method, tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    for name in ("ANYNORM_NUM_THREADS", "OMP_NUM_THREADS"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, script, method], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout.strip(), done.returncode) == ("alive", 0), done.stderr


@numba
@pytest.mark.library("dask")
@pytest.mark.library("distributed")
def test_workers_of_a_cluster_run_on_one_core_each():
    from distributed import Client, LocalCluster

    def work(seed):
        import numpy as np

        import anynorm
        from anynorm._engines import watch
        from anynorm._engines.cpu import threads

        x = np.random.default_rng(seed).standard_normal((32, 8, 28, 28)).astype(np.float32)
        with watch() as ran:
            y = anynorm.batch_norm(x)
        return threads.allowed(), ran, y

    with LocalCluster(2, threads_per_worker=2, dashboard_address=":0") as cluster, Client(cluster) as client:
        for seed, (threads, ran, y) in enumerate(client.gather(client.map(work, range(6)))):
            assert (threads, ran) == (1, {"numba"})
            assert_within(y, work(seed)[2].astype(np.float64), 1e-6)


LIBRARIES = Path(sys.prefix) / "lib"  # where pip puts TBB, and where no loader looks

TOGETHER = """
import os, sys, threading, numpy as np, numba, anynorm
from concurrent.futures import ThreadPoolExecutor
x = np.random.default_rng(0).standard_normal((32, 8, 28, 28)).astype(np.float32)
with anynorm.engine("array-api"):
    exact = anynorm.batch_norm(x)
def right(_):
    return np.abs(anynorm.batch_norm(x) - exact).max() < 1e-5
with anynorm.engine(threads=2):
    assert right(0)
assert numba.threading_layer() == os.environ["NUMBA_THREADING_LAYER"], numba.threading_layer()
with ThreadPoolExecutor(8) as pool:
    assert all(pool.map(right, range(200)))
child = os.fork()
if child == 0:
    os._exit(0 if right(0) and all(map(right, range(5))) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert right(0)
print("alive")
"""


@numba
@pytest.mark.parametrize(
    "layer",
    [
        pytest.param("omp", marks=pytest.mark.slow),
        "workqueue",
        *(["tbb"] if list(LIBRARIES.glob("libtbb.so*")) else []),
    ],
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_threads_and_forks_live_on_every_threading_layer(layer):
    code = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + TOGETHER  # of forks with threads
    environment = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2", "LD_LIBRARY_PATH": str(LIBRARIES)}
    environment["OMP_NUM_THREADS"] = ""  # which distributed, where it is imported, sets to 1
    assert python(code, **environment).splitlines()[-1] == "alive"  # TBB says that it does not like forks


EIGHT = """
import sys, numpy as np, anynorm
x = np.arange(12.0).reshape(3, 4).astype(sys.argv[1])
y = anynorm.layer_norm(x, eps=0).astype(float)
exact = (np.arange(4) - 1.5) / 1.25**0.5
assert np.abs(y - exact).max() < 1e-3, y
"""


@numba
@pytest.mark.slow
def test_eight_processes_may_fill_the_cache_at_once(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for _ in range(2):  # to write it, and to read it
        start = [
            subprocess.Popen([sys.executable, "-c", EIGHT, dtype], env=environment)
            for dtype in ("float16", "float32", "float64", "int32") * 2
        ]
        assert [process.wait(timeout=300) for process in start] == [0] * 8
    kept = list(tmp_path.rglob("kernels.rows-*.nbc"))
    assert len(kept) == 3  # a file for each dtype, none written twice


@numba
def test_an_installation_that_cannot_be_written_to_works(tmp_path):
    package = tmp_path / "anynorm"
    subprocess.run(["cp", "-r", str(Path(anynorm.__file__).parent), str(package)], check=True)
    for cache in package.rglob("__pycache__"):
        subprocess.run(["rm", "-r", str(cache)], check=True)
    (package / "_engines" / "__pycache__").touch()  # no folder can be made there, nor in the user's
    nowhere = tmp_path / "file"
    nowhere.touch()
    code = "import numpy as np, anynorm; print(anynorm.__file__, anynorm.rms_norm(np.asarray([3.0, 4.0, 5.0])).size)"
    out = python(
        code, PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE="1", HOME=str(nowhere), XDG_CACHE_HOME=str(nowhere)
    )
    assert out == f"{package / '__init__.py'} 3"


@numba
def test_no_kernel_is_compiled_that_is_not_called():
    code = """
import numpy as np, anynorm, json
anynorm.layer_norm(np.ones((3, 4)))
from anynorm._engines.cpu import compiled
print(json.dumps([len(compiled._kept), compiled._kept[0].__name__, len(compiled.together.signatures)]))
"""
    assert json.loads(python(code)) == [1, "rows", 0]


@numba
def test_a_norm_is_one_kernel_call_wherever_one_suffices(monkeypatch, rng):
    from anynorm._engines.cpu import plan

    called = []
    for name in ("piece", "launch"):
        original = getattr(plan, name)
        monkeypatch.setattr(plan, name, lambda *arguments, run=original: called.append(1) or run(*arguments))
    x, (w, b) = rng.standard_normal((8, 16, 4, 4)).astype(F32), np.ones((2, 16), F32)
    stats, mask = anynorm.running_stats(16, like=x), x > 0
    pull = vjp.group_norm(x, 4, w, b)[1]
    calls = {
        lambda: anynorm.layer_norm(x): 1,
        lambda: anynorm.group_norm(x, 4, w, b): 1,
        lambda: anynorm.instance_norm(x, weight=w, bias=b): 1,
        lambda: anynorm.batch_norm(x, weight=w, bias=b): 1,
        lambda: anynorm.batch_norm(x, weight=w, bias=b, where=mask): 1,
        lambda: anynorm.batch_norm(x, weight=w, bias=b, stats=stats): 1,
        lambda: anynorm.batch_norm_train(x, stats, weight=w, bias=b): 2,
        lambda: anynorm.moments(x, axis=(0, 2, 3)): 1,
        lambda: anynorm.zscore(x): 2,
        lambda: pull(x): 1,
    }
    for call, expected in calls.items():
        called.clear()
        call()
        assert len(called) == expected


# ------------------------------------------------------------------------------------------------ lowering


def lowered(rule, x, *options):
    from anynorm._engines.lowering import lower

    return lower(rule("", x, *options), x.shape, x.strides, x.itemsize)


def test_the_norms_lower_to_four_axes():
    from anynorm._norms import batch, group, instance, layer

    first = np.empty((4, 6, 5, 7))
    last = np.moveaxis(np.empty((4, 5, 7, 6)), -1, 1)
    expected = {
        (batch, 1): ((1, 4, 6, 35), (1, 140, 6, 1)),
        (layer, (1, 2, 3)): ((4, 1, 1, 210), (4, 1, 1, 210)),
        (instance, 1): ((24, 1, 1, 35), (4, 35, 6, 1)),
        (group, 1, 3): ((12, 1, 1, 70), (4, 35, 3, 2)),
    }
    for (rule, *options), (of_first, of_last) in expected.items():
        assert lowered(rule, first, *options).shape == of_first
        assert lowered(rule, last, *options).shape == of_last


def test_axes_that_alternate_more_often_do_not_lower():
    from anynorm._norms import layer

    x = np.empty((2, 2, 2, 2, 2, 2))
    assert lowered(layer, x, (1, 3, 5)) is None
    assert lowered(layer, x, (0, 3)) is None
    assert lowered(layer, x[:, :, 0, :, 0], (1, 3)) is None  # it has holes


# ------------------------------------------------------------------------------------------------ parameters in memory

X_SHAPE = (3, 6, 4, 5)
PARAMETERS = {
    "full": X_SHAPE,
    "sample and channel": (3, 6, 1, 1),
    "pixel": (1, 1, 4, 5),
    "in part": (1, 6, 1, 5),
    "row": (1, 6, 4, 5),
}
ORDERS = {"C": (0, 1, 2, 3), "channels last": (0, 2, 3, 1), "Fortran": (3, 2, 1, 0), "turned": (1, 0, 3, 2)}


@each_norm
@pytest.mark.parametrize(
    "library", [pytest.param(name, marks=pytest.mark.library(name)) for name in ("numpy", "torch")]
)
@pytest.mark.parametrize("of_x", ["C", "channels last", "turned"])
@pytest.mark.parametrize("of_weight", ORDERS)
@pytest.mark.parametrize(
    "dtypes", [("float32", "float32"), ("float32", "float16"), ("float16", "float16"), ("float64", "float32")], ids=str
)
def test_parameters_of_xs_rank_lie_in_memory_as_they_like(norm, library, of_x, of_weight, dtypes, rng):
    dtype, of = dtypes
    x, dy = (in_memory(a.astype(dtype), ORDERS[of_x]) for a in rng.standard_normal((2, *X_SHAPE)))
    plain, g = norm.oracle(x.astype(float)), dy.astype(float)
    error = {"float16": 2e-3, "float32": 4e-6, "float64": 4e-6 if of == "float32" else 1e-12}
    for shape in PARAMETERS.values():
        w, b = (in_memory(a.astype(of), ORDERS[of_weight]) for a in rng.uniform(0.5, 1.5, (2, *shape)))
        wide, hidden = w.astype(float), tuple(i for i in range(4) if shape[i] == 1)
        right = (
            plain * wide + b,
            norm.gradient(x.astype(float), g * wide),
            (g * plain).sum(axis=hidden, keepdims=True),
            g.sum(axis=hidden, keepdims=True),
        )
        if library == "numpy":
            y, pullback = norm.vjp(x, weight=w, bias=b)
            made = y, *pullback(dy)
        else:
            import torch

            leaves = [torch.from_numpy(a).requires_grad_() for a in (x, w, b)]
            y = norm.call(leaves[0], weight=leaves[1], bias=leaves[2])
            made = [a.detach().numpy() for a in (y, *torch.autograd.grad(y, leaves, torch.from_numpy(dy)))]
        for got, exact, kind in zip(made, right, (dtype, dtype, of, of), strict=True):
            assert got.dtype == kind
            assert_near(got.astype(float), exact, error[kind])
