"""The plugin of pytest as another project meets it, and the lines of nox that the docs show."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[1] / "docs/guide/testing.md"
TEST = """
import numpy as np

import anynorm


def test_norm(xp):
    x = np.asarray([[1.0, 3.0], [5.0, 5.0]], dtype=np.float32)
    y = xp.run(lambda a: anynorm.layer_norm(a, eps=0), xp.array(x))
    assert xp.owns(y)
    assert xp.numpy(y).tolist() == [[-1, 1], [0, 0]]
"""


pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester):
    """Return a function that runs pytest on files, as another project does, and returns its status and output."""

    def run(*options, files):
        for name, text in files.items():
            (pytester.path / name).parent.mkdir(exist_ok=True)
            (pytester.path / name).write_text(text)
        options = ("-v", "-p", "no:cacheprovider", "-p", "no:xdist", *options)
        done = pytester.runpytest_subprocess(*options)  # what it imports in this process would be imported twice
        return done.ret, done.stdout.str() + done.stderr.str()

    return run


def test_a_test_that_takes_xp_runs_in_every_use_of_the_library_asked_for(run):
    status, out = run("--anynorm-library", "numpy", files={"test_mine.py": TEST})
    assert status == 0, out
    assert re.findall(r"test_norm\[(.*?)\] PASSED", out) == ["numpy", "numpy-readonly"]


def test_without_the_option_every_usable_library_is_run(run):
    status, out = run(files={"test_mine.py": TEST})
    assert status == 0, out
    assert "test_norm[numpy] PASSED" in out


def test_a_library_that_is_not_there_is_an_error(run):
    status, out = run("--anynorm-library", "pandora", files={"test_mine.py": TEST})
    assert (status, "not usable here: pandora" in out) == (4, True), out


def test_what_is_no_array_library_is_an_error(run):
    status, out = run("--anynorm-library", "json", files={"test_mine.py": TEST})
    assert (status, "--anynorm-library needs an array library" in out) == (4, True), out


def test_a_dtype_that_no_library_has_is_an_error(run):
    text = "import pytest\n\n@pytest.mark.dtypes('flaot32')\ndef test(xp, dtype):\n    pass\n"
    status, out = run("--anynorm-library", "numpy", files={"test_mine.py": text})
    assert status != 0
    assert "no library has flaot32" in out


def test_a_test_that_does_not_take_xp_never_asks_for_libraries(run):
    text = "import sys\n\ndef test():\n    assert 'anynorm.testing' not in sys.modules\n"
    status, out = run(files={"test_mine.py": text})
    assert status == 0, out


def test_a_conftest_may_choose_among_the_uses(run):
    conftest = "def pytest_anynorm_uses(metafunc, uses):\n    return [use for use in uses if not use.variant]\n"
    status, out = run("--anynorm-library", "numpy", files={"conftest.py": conftest, "test_mine.py": TEST})
    assert (status, out.count("PASSED")) == (0, 1), out


def test_a_conftest_may_want_no_use_at_all(run):
    conftest = "def pytest_anynorm_uses(metafunc, uses):\n    return []\n"
    status, out = run("--anynorm-library", "numpy", files={"conftest.py": conftest, "test_mine.py": TEST})
    assert (status, out.count("PASSED"), out.count("SKIPPED")) == (0, 0, 1), out


def test_a_marker_runs_every_dtype_that_the_library_has(run):
    text = (
        "import pytest\n\n@pytest.mark.dtypes('float32', 'bfloat16')\n"
        "def test(xp, dtype):\n    assert dtype in xp.floats\n"
    )
    status, out = run("--strict-markers", "--anynorm-library", "numpy", files={"test_mine.py": text})
    assert status == 0, out
    assert re.findall(r"test\[(.*?)\] PASSED", out) == ["numpy-float32", "numpy-readonly-float32"]


SEVEN = "    assert xp == 7\n"
PARAMETER = "import pytest\n\n@pytest.mark.parametrize"


@pytest.mark.parametrize(
    "files",
    [
        {
            "conftest.py": "import pytest\n\n@pytest.fixture\ndef xp():\n    return 7\n",
            "test_mine.py": f"def test(xp):\n{SEVEN}",
        },
        {"test_mine.py": f"{PARAMETER}('xp', [7])\ndef test(xp):\n{SEVEN}"},
        {"test_mine.py": f"{PARAMETER}(argnames='xp', argvalues=[7])\ndef test(xp):\n{SEVEN}"},
        {"test_mine.py": f"{PARAMETER}(('a', 'xp'), [(1, 7)])\ndef test(a, xp):\n{SEVEN}"},
    ],
)
def test_a_projects_own_xp_is_left_alone(run, files):
    status, out = run(files=files)
    assert (status, out.count("PASSED")) == (0, 1), out


@pytest.mark.parametrize("place", ["conftest.py", "inside/conftest.py"])
def test_a_projects_own_option_is_left_alone(run, place):
    conftest = "def pytest_addoption(parser):\n    parser.addoption('--library', default='mine')\n"
    text = "def test(pytestconfig):\n    assert pytestconfig.getoption('--library') == 'mine'\n"
    status, out = run(files={place: conftest, place.replace("conftest", "test_mine"): text})
    assert (status, out.count("PASSED")) == (0, 1), out


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.mark.library("nox")
def test_the_lines_of_nox_in_the_docs_make_one_session_a_library(tmp_path):
    (noxfile,) = [block for block in blocks("python") if "import nox" in block]
    (tmp_path / "noxfile.py").write_text(noxfile)
    command = [sys.executable, "-m", "nox", "-f", tmp_path / "noxfile.py", "--list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [session["session"] for session in json.loads(done.stdout)]
    assert names == [f"norms(library='{name}')" for name in ("numpy", "torch", "jax", "dask")]


def test_the_test_of_the_docs_runs_with_the_option_of_its_session(run):
    (text,) = [block for block in blocks("python") if "(xp)" in block]
    mine = "from anynorm import layer_norm as my_norm\n"
    status, out = run("--anynorm-library", "numpy", files={"mypackage.py": mine, "test_mine.py": text})
    assert (status, out.count("PASSED")) == (0, 2), out
