"""Nothing beside anynorm that is broken breaks a norm: neither what it is fast by, nor what bears a library's name.

Every case is a fresh interpreter, since an import is tried once, in an empty folder that it may fill.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

numba = pytest.mark.library("numba")
MAY_ALL = not hasattr(os, "geteuid") or os.geteuid() == 0

PRELUDE = """
import importlib.machinery, json, os, pathlib, sys, types, unittest.mock, warnings

not_installed = set()


class Here:
    # Looks for these in the working directory alone, as where they are not installed.
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in not_installed:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, [os.getcwd()])
        if found is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found


sys.meta_path.insert(0, Here)
hide = not_installed.add


def put(name, source=None):
    # A package in the working directory, or an empty folder.
    hide(name)
    pathlib.Path(name).mkdir()
    if source is not None:
        pathlib.Path(name, "__init__.py").write_text(source)
    importlib.invalidate_caches()


def caught(function, *arguments):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function(*arguments)
    return [f"{w.category.__name__}: {w.message}" for w in found]
"""

RIGHT = """
import numpy as np, anynorm
from anynorm import _engines
from oracles import NORMS, assert_within

large, small = (np.random.default_rng(0).standard_normal(shape).astype("f4") for shape in ((64, 4096), (4, 6, 5)))


def right(x=small, norms=NORMS):
    # Norms and their gradients are what NumPy says in float64.
    for norm in norms:
        if x.ndim > 2 or norm.name.startswith("layer"):
            assert_within(norm.call(x), norm.oracle(x), 2e-6)
            assert_within(norm.vjp(x)[1](x[::-1])[0], norm.gradient(x, x[::-1]), 1e-5)
"""


def python(folder, code, **environment):
    """Run code in a fresh interpreter with folder as its working directory, and return what it prints last."""
    ours = ("ANYNORM_", "NUMBA_", "OMP_", "PYTHONSAFEPATH")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + code],
        cwd=folder, env={**inherited, "PYTHONPATH": str(Path(__file__).parent), **environment},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------------ the engine's packages


REPORT = """
with anynorm.engine("array-api"):
    silent = caught(right)
first, again = caught(right), caught(right)
try:
    with anynorm.engine("numba"):
        named = None
except ImportError as error:
    named = [type(error).__name__, str(error)]
print(json.dumps([silent, first, again, named, _engines.problems()]))
"""

BROKEN = {  # what is done before anynorm is imported, the environment, and the reason that has to be said
    "filelock is not installed": ('hide("filelock")', {}, "ModuleNotFoundError: No module named 'filelock'"),
    "llvmlite cannot be loaded": (
        """put("llvmlite", "raise OSError('libLLVM.so: cannot open shared object file')")""", {},
        "OSError: libLLVM.so: cannot open shared object file",
    ),
    "Numba compiles nothing": ("", {"NUMBA_DISABLE_JIT": "1"}, "ImportError: .* since NUMBA_DISABLE_JIT is 1"),
    "Numba is too old for NumPy": (
        """put("numba", "raise ImportError('Numba needs NumPy 2.2 or less. Got NumPy 2.4.')")""", {},
        r"ImportError: Numba needs NumPy 2\.2 or less\. Got NumPy 2\.4\.",
    ),
    "a folder is called numba": ('put("numba")', {}, "ImportError: cannot import name .* from 'numba'"),
    "a folder is called numba, where nothing of it is installed": (
        'put("numba"); hide("llvmlite"); hide("filelock")', {}, "ImportError: cannot import name .* from 'numba'",
    ),
    "a stub is called numba": (
        'sys.modules["numba"] = types.ModuleType("numba")', {}, "ImportError: cannot import name .* from 'numba'",
    ),
    "Numba is mocked": (
        'sys.modules["numba"] = unittest.mock.MagicMock()', {},
        "ModuleNotFoundError: No module named 'numba.core'",
    ),
    "Numba is mocked with its modules": (
        'sys.modules["numba"] = sys.modules["numba.extending"] = unittest.mock.MagicMock()', {},
        "ModuleNotFoundError: No module named 'numba.core'",
    ),
}  # fmt: skip
OFTEN = ("filelock is not installed", "a folder is called numba")


@numba
@pytest.mark.parametrize(
    ("prepare", "environment", "reason"),
    [pytest.param(*BROKEN[name], id=name, marks=() if name in OFTEN else pytest.mark.slow) for name in BROKEN],
)
def test_an_engine_that_is_broken_is_said_once_and_done_without(tmp_path, prepare, environment, reason):
    silent, first, again, named, problems = python(tmp_path, prepare + RIGHT + REPORT, **environment)
    assert list(problems) == ["numba"]
    problem = problems["numba"]
    said = rf"it is installed but cannot be used \({reason}.*\); mend that, where a package is missing or too old with "
    said += r'pip install --upgrade .*"numba>=[^"]*".*'
    assert re.fullmatch(rf"{said}, or do without it by ANYNORM_ENGINE=array-api", problem)
    assert first == [
        f"RuntimeWarning: anynorm runs array-API code, which is slower, in place of its engine numba: {problem}"
    ]
    assert silent == again == []
    assert named == ["ImportError", f"engine needs numba: {problem}"]


@numba
@pytest.mark.library("torch")
def test_an_engine_that_is_broken_is_said_once_for_all_its_libraries(tmp_path):
    code = """
hide("filelock")
import numpy as np, torch, anynorm
print(len(caught(lambda: [anynorm.layer_norm(x) for x in (np.ones((2, 3)), torch.ones(2, 3))])))
"""
    assert python(tmp_path, code) == 1


FAST = 'for name in ("numba", "llvmlite", "filelock"):\n    hide(name)\n'


def test_an_engine_that_is_not_installed_is_not_missed(tmp_path):
    silent, first, again, named, problems = python(tmp_path, FAST + RIGHT + REPORT)
    assert silent == first == again == []
    assert problems == {}
    assert named[0] == "ModuleNotFoundError"
    assert re.fullmatch(r'engine needs numba, which is not installed: pip install .*"numba>=[^"]*".*', named[1])


@pytest.mark.library("torch")
@pytest.mark.parametrize("absent", ["", 'hide("numpy")'], ids=["with NumPy", "without NumPy"])
def test_an_engine_that_is_not_installed_is_not_missed_by_torch(tmp_path, absent):
    code = f"""
{FAST}{absent}
warnings.simplefilter("ignore")  # PyTorch's own, of NumPy
import torch, anynorm
said = caught(lambda: anynorm.layer_norm(torch.tensor([0.0, 2.0])))
print(json.dumps([said, anynorm.layer_norm(torch.tensor([0.0, 2.0]), eps=0).tolist()]))
"""
    assert python(tmp_path, code) == [[], [-1, 1]]


# ------------------------------------------------------------------------------------------------ libraries' names


NAMES = 'for name in ("torch", "jax", "cupy", "dask"):\n    '
FALSE = {
    "folders": "put(name); __import__(name)",
    "stubs": "sys.modules[name] = types.ModuleType(name)",
    "mocks": "sys.modules[name] = unittest.mock.MagicMock()",
}


@pytest.mark.parametrize("false", FALSE.values(), ids=FALSE)
def test_what_bears_the_name_of_a_library_is_no_concern_of_numpy(tmp_path, false):
    code = NAMES + false + RIGHT + "print(json.dumps(caught(right)))"
    assert python(tmp_path, code, ANYNORM_ENGINE="array-api") == []  # the library is found before any engine


@pytest.mark.parametrize(
    "library", [pytest.param(name, marks=pytest.mark.library(name)) for name in ("jax", "array_api_strict")]
)
def test_a_false_torch_is_no_concern_of_other_libraries(tmp_path, library):
    code = f"""
put("torch"); import torch
from anynorm.testing import USES
{RIGHT}
backend = next(b for b in USES if b.library == {library!r})
y = NORMS[-1].call(backend.array(small))
assert backend.owns(y)
assert_within(backend.numpy(y), NORMS[-1].oracle(small), 2e-6)
print(json.dumps(caught(right, small, NORMS[:1])))
"""
    assert python(tmp_path, code) == []


@pytest.mark.library("jax")
def test_an_array_of_float0_does_not_make_numpy_arrays_of_jax(tmp_path):
    code = """
import jax, numpy as np, anynorm
try:
    anynorm.layer_norm(np.zeros((2, 3), jax.dtypes.float0))  # array-api-compat, which caches by type, says: JAX's
except TypeError as error:
    print(json.dumps([str(error), type(anynorm.layer_norm(np.ones((2, 3)))).__module__]))
"""
    refusal, module = python(tmp_path, code, ANYNORM_ENGINE="array-api")
    assert "needs x to hold real numbers: got dtype" in refusal
    assert module == "numpy"


# ------------------------------------------------------------------------------------------------ the cache on disk


CACHE = """
from numba import types
from anynorm._engines.cpu import compiled, kernels

folder = pathlib.Path(compiled.cache_folder())
assert pathlib.Path(os.environ["NUMBA_CACHE_DIR"]) in folder.parents
said = []


def call():
    # The kernel that takes the least to compile, as in a process that has compiled nothing yet.
    compiled.address.cache_clear()
    said.extend(caught(lambda: compiled.address(kernels.advance, *[types.float32] * 3, masked=False)))
    assert compiled._kept[-1].address


def norm():
    with _engines.watch() as ran:
        said.extend(caught(lambda: assert_within(anynorm.layer_norm(small), NORMS[1].oracle(small), 2e-6)))
    assert ran == {{"numba"}}


{prepare}
call()
print(json.dumps(said))
"""

DAMAGED = """
call()
(index,) = folder.glob("kernels.advance-*.nbi")
index.write_bytes(b"")
call()
index.write_bytes(b"garbage")
call()
index.unlink()
call()
(data,) = folder.glob("kernels.advance-*.nbc")
data.write_bytes(data.read_bytes()[:1000])
"""

HELD = """
import subprocess

compiled.PATIENCE = 0.1
hold = "import filelock, sys\\nwith filelock.FileLock(sys.argv[1]): print(flush=True); sys.stdin.read()"
holder = subprocess.Popen([sys.executable, "-c", hold, folder / "anynorm.lock"], stdin=-1, stdout=-1)
assert holder.stdout.readline()
"""

FULL = """
import resource

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # bytes a file: for who writes it is a full disk
norm()
"""

HAZARDS = {
    "its files are damaged": DAMAGED,
    "its folder is gone": "folder.rmdir()",
    "its lock cannot be opened": pytest.param('(folder / "anynorm.lock").mkdir()', marks=pytest.mark.slow),
    "another process holds its lock": pytest.param(HELD, marks=pytest.mark.slow),
    "the disk is full": pytest.param(
        FULL, marks=[pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="no limits of files")]
    ),
    **{
        name: pytest.param(prepare, marks=pytest.mark.skipif(MAY_ALL, reason="the superuser may open everything"))
        for name, prepare in {
            "its lock is somebody else's": '(folder / "anynorm.lock").touch(0)',
            "its folder is somebody else's": "folder.chmod(0o500)",
        }.items()
    },
}


@numba
@pytest.mark.parametrize("prepare", HAZARDS.values(), ids=HAZARDS)
def test_kernels_can_do_without_their_cache(tmp_path, prepare):
    assert python(tmp_path, RIGHT + CACHE.format(prepare=prepare), NUMBA_CACHE_DIR=str(tmp_path)) == []


# ------------------------------------------------------------------------------------------------ threads


@numba
@pytest.mark.parametrize(("layer", "missing"), [("tbb", "No threading layer could be loaded"), ("threads", "unknown")])
def test_without_threads_the_norms_run_on_one(tmp_path, layer, missing):
    code = """
sys.modules["numba.np.ufunc.tbbpool"] = None  # as where TBB is not installed
from anynorm._engines.cpu import threads
few, many, again = caught(right), caught(right, large), caught(right, large)
with _engines.watch() as ran, threads.cores(large.size) as many_threads:
    anynorm.layer_norm(large)
print(json.dumps([few, many, again, many_threads, sorted(ran)]))
"""
    environment = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    few, many, again, threads, ran = python(tmp_path, RIGHT + code, **environment)
    assert few == again == []
    (warning,) = many
    start, end = "RuntimeWarning: anynorm's norms run on one thread", rf"unset NUMBA_THREADING_LAYER \({layer}\)"
    assert re.match(f"{start}, .*{missing}.*: {end}, or", warning)
    assert (threads, ran) == (1, ["numba"])


WORKQUEUE = {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}  # it bears one launch at a time

BESIDE = """
import numba, time
from concurrent.futures import ThreadPoolExecutor

images = np.random.default_rng(1).standard_normal((32, 8, 28, 28)).astype("f4")
layer, batch = NORMS[1], NORMS[-1]


@numba.njit(parallel=True, nogil=True)
def total(a):
    s = 0.0
    for i in numba.prange(a.size):
        s += a[i]
    return s


ones = np.ones(100_000)
assert total(ones) == 100_000
right(large, [layer]), right(images, [batch])
assert numba.threading_layer() == "workqueue"
end = time.monotonic() + 1


def repeat(function, *arguments):
    times = 0
    while time.monotonic() < end:
        function(*arguments)
        times += 1
    return times


def loop():
    assert total(ones) == 100_000


with ThreadPoolExecutor(4) as pool:
    calls = (loop,), (right, large, [layer]), (right, images, [batch]), (right, large, [layer])
    print(json.dumps([job.result() for job in [pool.submit(repeat, *call) for call in calls]]))
"""


@numba
def test_norms_run_beside_a_parallel_loop_of_the_users(tmp_path):
    """Numba's workqueue aborts the process where two threads launch at once."""
    assert min(python(tmp_path, RIGHT + BESIDE, **WORKQUEUE)) > 1


LAST = """
import atexit, threading

warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads


def last():
    try:
        said = caught(right, large)
    except Exception as error:
        said = [repr(error)]
    print(json.dumps(said), flush=True)
    if said:
        os._exit(1)  # an error in an exit handler is none of the process


{prepare}
"""

FORK = """
right(large)
child = os.fork()
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
right(large)  # in the child too, which has none of the first one's threads
atexit.register(last)
"""

FIRST_OF_ALL = "threading.Thread(target=lambda: (threading.main_thread().join(), last())).start()"
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


@numba
@pytest.mark.parametrize(
    ("prepare", "environment"),
    [
        pytest.param(FORK, WORKQUEUE, marks=forks, id="after a fork, on workqueue"),
        pytest.param(FORK, {"NUMBA_NUM_THREADS": "2"}, marks=[forks, pytest.mark.slow], id="after a fork"),
        pytest.param("atexit.register(last)", WORKQUEUE, marks=pytest.mark.slow, id="for the first time, at exit"),
        pytest.param(FIRST_OF_ALL, WORKQUEUE, id="for the first time, in a thread that outlives the first one"),
    ],
)
def test_norms_run_while_the_interpreter_shuts_down(tmp_path, prepare, environment):
    """Then no thread can be started, nor a module be imported that may start one."""
    assert python(tmp_path, RIGHT + LAST.format(prepare=prepare), **environment) == []
