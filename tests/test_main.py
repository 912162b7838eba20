"""The command line: what it measures, how it says so, and which status it exits with."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import anynorm
import anynorm._cli as cli
from anynorm import _report as printing
from anynorm._cli import check, data, findings
from anynorm._install import install
from anynorm.testing import _reference as reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIBRARIES = [pytest.param(name, marks=pytest.mark.library(name)) for name in reference.LIBRARIES]
RENDERERS = ["plain", *(["rich"] if importlib.util.find_spec("rich") else [])]
KEYS = {
    "library", "norm", "offset", "dtype", "error", "bound", "native_error", "difference", "kept", "engine", "seconds",
    "native_seconds", "note",
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SHAPE", (4, 6, 5, 5))
    monkeypatch.setenv("TERM", "dumb")  # has no colours, which a terminal shows under pytest -s


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leave these of the array libraries importable, and NumPy."""

    def hide(*kept: str) -> None:
        def load(name: str) -> Any:
            root = name.partition(".")[0]
            if root in reference.LIBRARIES and root not in ("numpy", *kept):
                message = f"No module named {root!r}"
                raise ModuleNotFoundError(message, name=root)
            return import_module(name)

        monkeypatch.setattr(reference, "import_module", load)

    return hide


def rendered(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test once a way of rendering."""
    marks = pytest.mark.usefixtures("renderer"), pytest.mark.parametrize("renderer", RENDERERS, indirect=True)
    return marks[0](marks[1](test))


@pytest.fixture
def renderer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, only: Callable[..., None]) -> None:
    """Render NumPy's report in the way named."""
    only("numpy")
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "rich", None)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    def write(x: Any, **options: Any) -> str:
        file = tmp_path / "x.npy"
        np.save(file, x, **options)
        return str(file)

    return write


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Run the check, and return its status and its JSON."""
    status = cli.main(["check", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run what has to be refused, and return what is said."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["check", *arguments])
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert not out
    return str(err)


# ------------------------------------------------------------------------------------------------ the promises


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--gradients",),
        pytest.param(("--compiled",), marks=pytest.mark.slow),
        pytest.param(("--gradients", "--compiled"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_every_promise_is_kept(
    library: str,
    options: tuple[str, ...],
    only: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(library)
    if library == "torch":  # without its code generator, which takes seconds a norm
        compiler = import_module("torch").compiler
        monkeypatch.setattr(compiler, "compile", functools.partial(compiler.compile, backend="aot_eager"))
    status, document = report(capsys, *options)
    assert status == 0
    assert [document["gradients"], document["compiled"]] == ["--gradients" in options, "--compiled" in options]
    assert document["kept"] is True
    rows = [row for row in document["rows"] if row["library"] == library]
    assert [(row["norm"], row["offset"]) for row in rows] == [(n, o) for n in check.OURS for o in (0, 1e4)]
    for row in rows:
        assert row["error"] <= row["bound"] == pytest.approx(reference.ERROR)
        assert row["kept"] is True
        assert row["note"] is None
        assert row["dtype"] == "float32"
        together = row["error"] + row["native_error"]
        assert row["difference"] <= (1e-5 if row["offset"] == 0 else together * (1 + 1e-6))  # float32 has it rounded


def test_json_has_the_documented_structure(only: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    only()
    _, document = report(capsys)
    assert set(document) == {
        "anynorm", "kept", "summary", "gradients", "compiled", "data", "libraries", "engines", "rows",
    }  # fmt: skip
    assert document["summary"].startswith("Every promise is kept. On this machine anynorm's layer norm ")
    assert document["anynorm"] == anynorm.__version__
    assert document["data"] == {"file": None, "dtype": "float32", "shape": [4, 6, 5, 5], "channel_axis": 1}
    assert [library["name"] for library in document["libraries"]] == list(reference.LIBRARIES)
    assert all(set(library) == {"name", "version", "problem", "native"} for library in document["libraries"])
    assert all(set(row) == KEYS for row in document["rows"])


def test_the_command_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "anynorm", "check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    document = json.loads(done.stdout)
    assert done.returncode == 0, [row for row in document["rows"] if not row["kept"]] or done.stderr
    usable = [library["name"] for library in document["libraries"] if library["problem"] is None]
    assert [(r["library"], r["norm"], r["offset"]) for r in document["rows"]] == [
        (library, norm, offset) for library in usable for norm in check.OURS for offset in data.OFFSETS
    ]


@rendered
def test_a_norm_that_is_off_misses_its_promise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = anynorm.layer_norm
    monkeypatch.setattr(anynorm, "layer_norm", lambda x, **k: right(x, **k) + x.dtype.type(1e-3))
    assert cli.main(["check"]) == 1
    out = capsys.readouterr().out
    assert out.count("MISSED") == 3  # two rows and the verdict
    assert "2 of 10 promises MISSED." in out
    status, document = report(capsys)
    assert status == 1
    assert document["kept"] is False
    assert [row["norm"] for row in document["rows"] if not row["kept"]] == ["layer", "layer"]


@rendered
def test_a_gradient_that_is_off_misses_its_promise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = anynorm.vjp.Pullback.__call__

    def off(pullback: anynorm.vjp.Pullback, dy: Any) -> Any:
        dx, *rest = right(pullback, dy)
        return dx * dx.dtype.type(1 + 1e-5), *rest

    monkeypatch.setattr(anynorm.vjp.Pullback, "__call__", off)
    assert cli.main(["check", "--gradients"]) == 1
    out = capsys.readouterr().out
    assert "gradients on float32" in out
    assert "10 of 10 promises MISSED." in out
    assert cli.main(["check"]) == 0


@pytest.mark.parametrize(
    ("dtype", "axis"), [("float16", "1"), ("float32", "1"), ("float32", "-1"), ("float64", "1"), ("uint8", "1")]
)
def test_the_gradients_at_the_users_own_array(
    dtype: str, axis: str, save: Callable[..., str], only: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    only()
    x = (np.random.default_rng(0).standard_normal((3, 5, 4, 6)) * 9 + 100).astype(dtype)
    status, document = report(capsys, "--gradients", "--input", save(x), "--channel-axis", axis)
    assert status == 0, document["rows"]
    assert {row["dtype"] for row in document["rows"]} == {"float64" if dtype == "uint8" else dtype}
    assert all(row["difference"] < 1e-2 for row in document["rows"])


@rendered
def test_a_norm_that_raises_misses_its_promise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(anynorm, "rms_norm")
    assert cli.main(["check"]) == 1
    out = capsys.readouterr().out
    assert out.count("numpy, rms: failed: AttributeError") == 1
    assert "2 of 10 promises MISSED." in out


def test_a_norm_that_gives_nan_misses_its_promise(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only()
    monkeypatch.setattr(anynorm, "batch_norm", lambda x, **_: x * x.dtype.type(np.nan))
    status, document = report(capsys)
    assert status == 1
    missed = [row for row in document["rows"] if not row["kept"]]
    assert [(row["norm"], row["error"]) for row in missed] == [("batch", None)] * 2


def beside(rival: Callable[[Any], Any], offset: float | None) -> check.Row:
    """Measure NumPy's batch norm beside a rival."""
    x = (np.random.default_rng(0).standard_normal((4, 6, 5, 5)) + (offset or 0)).astype("float32")
    return check.measure(np, reference.Found("numpy", xp=np, rivals={"batch": rival}), "batch", offset, x)


def exact(x: np.ndarray) -> np.ndarray:
    return reference.exact(x, reference.shared("batch", x.ndim))[0].astype("float32")


@pytest.mark.parametrize(("offset", "kept"), [(0.0, False), (1e4, True), (None, True)])
def test_the_native_norm_has_to_be_near_at_offset_0_alone(offset: float | None, kept: bool) -> None:
    row = beside(lambda x: exact(x) + np.float32(1e-4), offset)
    assert row.difference == pytest.approx(1e-4, rel=0.1)
    assert row.kept is kept


@pytest.mark.parametrize(("offset", "kept"), [(0.0, True), (1e4, False), (None, True)])
def test_at_an_offset_ours_has_to_be_the_better(
    offset: float | None, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(check.OURS, "batch", lambda x: exact(x) + np.float32(1.2e-6))
    row = beside(exact, offset)
    assert row.error is not None
    assert row.native_error is not None
    assert row.native_error < row.error < reference.ERROR
    assert row.kept is kept


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # check has none of them reach anybody
def test_a_native_norm_may_refuse_or_give_nan() -> None:
    def refuse(_: np.ndarray) -> np.ndarray:
        message = "no\nsecond line"
        raise ValueError(message)

    row = beside(refuse, 0.0)
    assert row.kept
    assert row.native_error is row.difference is None
    assert row.note == "the native norm refuses: ValueError: no"
    assert beside(lambda x: (x - x) / (x - x), 1e4).kept  # its NaN is its own


def test_the_bound_grows_with_results_above_8(
    save: Callable[..., str], only: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    only()
    x = np.zeros((1, 1, 1024), np.float32)
    x[0, 0, 0] = 1
    status, document = report(capsys, "--input", save(x))
    assert status == 0
    # One element of n that differs standardises to sqrt(n - 1), but for eps.
    assert document["rows"][0]["bound"] == pytest.approx(2e-6 * np.sqrt(1023) / 8, rel=0.01)


# ------------------------------------------------------------------------------------------------ the table


@rendered
@pytest.mark.parametrize("columns", ["80", "200", "60", "40"])
def test_the_table_is_aligned_and_uncut(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["check"]) == 0
    out, err = capsys.readouterr()
    assert not err
    lines = out.splitlines()
    assert max(len(line) for line in lines if "pip install" not in line) <= 60
    assert "\x1b" not in out
    title = next(line for line in lines if line.startswith("library"))
    rows = [line for line in lines if line.rstrip().endswith("kept")]
    assert len(rows) == 10
    assert {line.index("kept") for line in rows} == {title.index("promise")}
    assert [line.split()[-6] for line in rows[::2]] == list(check.OURS)
    assert [line.split()[-5] for line in rows] == ["0", "1e4"] * 5
    *_, ending = out.partition("Every promise is kept.\n")
    assert " ".join(ending.split()).startswith("On this machine anynorm's layer norm ")


def test_both_tables_say_the_same(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only()
    monkeypatch.setattr(check, "timed", lambda *_: [1.0, 2.0])
    said = []
    for renderer in RENDERERS:
        with monkeypatch.context() as patch:
            if renderer == "plain":
                patch.setitem(sys.modules, "rich", None)
            cli.main(["check"])
        said.append([word for word in capsys.readouterr().out.split() if word.strip("-─")])
    assert all(words == said[0] for words in said)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (float("nan"), "nan"),
        (1.5e-7, "1.5e-7"),
        (1489.0, "1.5e3"),
        (2.74, "2.7"),
        (5e-7, "5.0e-7"),
    ],
)
def test_numbers_are_short(number: float | None, text: str) -> None:
    assert printing.short(number) == text


# ------------------------------------------------------------------------------------------------ the summary


def layer(library: str, offset: float | None = 1e4, **numbers: Any) -> check.Row:
    """Return what was found of layer norm, of which nothing else than this is known."""
    return check.Row(library, "layer", offset, kept=numbers.pop("kept", True), **numbers)


NATIVE = {
    "numpy": "the textbook formula",
    "jax": "Flax",
    "torch": "torch.nn.functional",
    "dask": "the textbook formula",
}


def found(*rows: check.Row, gradients: bool = False, compiled: bool = False) -> findings.Report:
    file = "x.npy" if rows[-1].offset is None else None
    libraries = [reference.Found(name, native=native) for name, native in NATIVE.items()]
    given = data.Data(file, "float32", (2, 3), 1, ())
    return findings.Report(given, gradients, compiled, libraries, list(rows), {})


ERRORS, SPEEDS = {"error": 5e-7, "native_error": 6.17e-4}, {"seconds": 2.0, "native_seconds": 4.2}
EXACT = "1,200 times as exact as the textbook formula"
SAID = {
    "one library": ([layer("numpy", **ERRORS, **SPEEDS)], f"on numpy {EXACT}, and 2.1 times as fast."),
    "several": (
        [
            layer("numpy", **ERRORS, **SPEEDS),
            layer("jax", error=4e-7, native_error=1e3, seconds=1.0, native_seconds=0.0844),
            layer("torch", error=4e-7, native_error=3.6e-7, seconds=1.0, native_seconds=1.0),
        ],
        (
            f"on numpy {EXACT}, and 2.1 times as fast; on jax 2,500,000,000 times as exact as Flax, and 0.084 times as "
            f"fast; on torch 0.90 times as exact as torch.nn.functional, and 1.0 times as fast. The slowest there is "
            f"layer norm on jax, 0.084 times as fast."
        ),
    ),
    "another norm is the slowest": (
        [layer("numpy", **ERRORS, **SPEEDS), layer("numpy", seconds=1.0, native_seconds=0.5)._replace(norm="group")],
        f"on numpy {EXACT}, and 2.1 times as fast. The slowest there is group norm on numpy, 0.50 times as fast.",
    ),
    "the array with the last offset alone": (
        [layer("dask", 0.0, error=1.0, native_error=1.0), layer("numpy", **ERRORS)], f"on numpy {EXACT}."
    ),
    "an error of 0": (
        [layer("numpy", error=0.0, native_error=1.0, **SPEEDS)], "on numpy 2.1 times as fast as the textbook formula."
    ),
    "native NaN": (
        [layer("numpy", error=5e-7, native_error=np.nan), layer("dask", **ERRORS)], f"on dask {EXACT}."
    ),
    "native infinite": ([layer("numpy", error=5e-7, native_error=np.inf)], ""),
    "no native": ([layer("numpy", error=5e-7)], ""),
    "missed": (
        [layer("numpy", **ERRORS, **SPEEDS, kept=False), layer("dask", **ERRORS)], f"on dask {EXACT}."
    ),
    "failed": ([layer("numpy", note="failed: ...", kept=False)], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_the_last_sentence_says_what_was_measured_and_no_more(case: str) -> None:
    rows, said = SAID[case]
    whole = f"On this machine anynorm's layer norm of data around 1e4 is {said}" if said else ""
    assert findings.comparison(found(*rows)) == whole


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([layer("numpy", None, **ERRORS)], {}, "layer norm of x.npy is on numpy "),
        ([layer("numpy", **SPEEDS)], {"gradients": True}, "gradient of layer norm of data around 1e4 is on numpy "),
        ([layer("torch", **SPEEDS)], {"compiled": True}, "layer norm, compiled where that can be, of data around 1e4 "),
    ],
)
def test_the_last_sentence_says_of_what(rows: list[check.Row], options: dict[str, Any], said: str) -> None:
    assert findings.comparison(found(*rows, **options)).startswith(f"On this machine anynorm's {said}")


def test_the_summary_is_the_verdict_and_the_comparison() -> None:
    missed = layer("numpy", **ERRORS, kept=False)
    assert json.loads(findings.as_json(found(missed)))["summary"] == "1 of 1 promises MISSED."
    both = json.loads(findings.as_json(found(missed, layer("dask", **ERRORS))))["summary"]
    assert both.startswith("1 of 2 promises MISSED. On this machine anynorm's layer norm ")


def test_calls_take_turns_and_the_least_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept, ran = [0.0], {"a": iter([0.03, 0.01, *[0.02] * 50]), "b": iter([0.04] * 50)}, []
    monkeypatch.setattr(check, "perf_counter", lambda: clock[0])

    def call(name: str) -> None:
        ran.append(name)
        clock[0] += next(slept[name])

    assert check.timed(lambda: call("a"), lambda: call("b")) == pytest.approx([0.01, 0.04])
    assert ran == ["a", "b"] * 4  # after which 0.2 seconds are over
    clock[0], slept["a"], slept["b"] = 0.0, iter([1.0]), iter([1.0])
    assert check.timed(lambda: call("a"), lambda: call("b")) == [1.0, 1.0]


def test_the_times_are_of_ours_and_of_the_native_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "timed", lambda mine, native: [float(mine()[0, 0, 0, 0]), float(native()[0, 0, 0, 0])])
    monkeypatch.setitem(check.OURS, "batch", lambda x: x * 0 + 1)
    row = beside(lambda x: x * 0 + 2, 0.0)
    assert (row.seconds, row.native_seconds) == (1.0, 2.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rich", [name == "rich" for name in RENDERERS])
@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_progress_bar_shows_on_a_terminal_alone(
    rich: bool, stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setenv("TERM", "xterm")
    if not rich:
        monkeypatch.setitem(sys.modules, "rich", None)
    assert list(printing.watched([1, 2], "job {}".format)) == [1, 2]
    assert ("job 2" in sys.stderr.getvalue()) is (rich and stream is Terminal)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------ the libraries


@rendered
def test_with_numpy_alone_it_works_and_names_the_extras(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("cupy", "jax", "torch", "dask"):
        assert f"{name:<7}not installed ({install(name)})" in lines
    assert any(line.startswith(f"numpy  {np.__version__}") for line in lines)


def importing(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    """Import these in place of what is installed; an exception is raised."""

    def load(name: str) -> Any:
        module = modules.get(name.partition(".")[0])
        if isinstance(module, Exception):
            raise module
        return module or import_module(name)

    monkeypatch.setattr(reference, "import_module", load)


def test_a_library_that_does_not_import_is_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    importing(
        monkeypatch, torch=OSError("libtorch.so: no such file\nmore"), jax=ModuleNotFoundError("x", name="jaxlib")
    )
    assert reference.find("torch").problem == "installed but broken: OSError: libtorch.so: no such file"
    assert reference.find("jax").problem == "installed but broken: ModuleNotFoundError: x"


def test_a_library_that_makes_no_array_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(_: int) -> None:
        message = "cudaErrorNoDevice"
        raise RuntimeError(message)

    module = SimpleNamespace(__version__="14.0", empty=empty)
    importing(monkeypatch, cupy=module, torch=module)
    assert reference.find("cupy").problem == "installed, but no usable GPU"
    assert reference.find("torch").problem == "installed, but broken: RuntimeError: cudaErrorNoDevice"
    assert reference.find("cupy").version == "14.0"


def test_without_numpy_there_is_nothing_to_measure_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    importing(monkeypatch, numpy=ModuleNotFoundError("No module named 'numpy'", name="numpy"))
    assert 'NumPy, which is not installed (pip install "numpy>=2.0")' in refusal(capsys)


@pytest.mark.library("jax")
def test_jax_without_flax_is_compared_with_its_own_standardize(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [name for name in reference.LIBRARIES if name not in ("numpy", "jax")] + ["flax"]
    importing(monkeypatch, **{name: ModuleNotFoundError(name=name) for name in missing})
    status, document = report(capsys)
    assert status == 0
    assert "jax.nn.standardize" in next(found["native"] for found in document["libraries"] if found["name"] == "jax")


def test_the_module_itself_imports_no_array_library() -> None:
    code = f"import sys, anynorm.__main__; print(*{set(reference.LIBRARIES) | {'rich', 'flax'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


# ------------------------------------------------------------------------------------------------ --input


FLOATS = {"numpy": "float64", "cupy": "float64", "dask": "float64", "torch": "float32", "jax": "float32"}


ARRAYS = [("float32", "F"), ("uint8", "C"), ("float16", "C"), ("float64", "C")]
FURTHER = [(dtype, "C") for dtype in ("bool", "int64", "float32", ">f4")]  # which NumPy makes others of for the rest
OWN = [
    pytest.param(name, *array, marks=[pytest.mark.library(name), *[pytest.mark.slow] * slow])
    for name in reference.LIBRARIES
    for arrays, slow in ((ARRAYS, False), (FURTHER, name != "numpy"))
    for array in arrays
]


@pytest.mark.parametrize(("library", "dtype", "order"), OWN)
def test_the_users_own_array(
    library: str,
    dtype: str,
    order: str,
    save: Callable[..., str],
    only: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(library)
    x = np.random.default_rng(0).uniform(0, 200, data.SHAPE).astype(dtype, order=order)
    file = save(x)
    status, document = report(capsys, "--input", file)
    assert status == 0
    assert document["data"] == {"file": file, "dtype": x.dtype.name, "shape": [*data.SHAPE], "channel_axis": 1}
    rows = [row for row in document["rows"] if row["library"] == library]
    assert [(row["norm"], row["offset"]) for row in rows] == [(norm, None) for norm in check.OURS]
    narrows = library == "jax" and dtype == "float64"
    expected = x.dtype.name if x.dtype.kind == "f" and not narrows else FLOATS[library]
    for row in rows:
        assert row["dtype"] == expected
        assert row["error"] <= row["bound"]
        assert row["kept"] is True


@rendered
def test_the_table_of_an_input_has_one_row_a_norm(save: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    file = save(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    assert cli.main(["check", "--input", file]) == 0
    out = capsys.readouterr().out
    title, _, _ = out.partition("\n\n")
    on = f"{file}: uint8 of shape (2, 3, 4), channels on axis 1"
    assert " ".join(title.split()) == f"anynorm {anynorm.__version__} on {on}"
    rows = [line.split() for line in out.splitlines() if line.rstrip().endswith("kept")]
    assert [row[-6:-4] for row in rows] == [[norm, "float64"] for norm in check.OURS]
    assert "1e-14 times 1 + the largest" in out
    assert "in float32" not in out


@pytest.mark.parametrize(
    "shape", [(1, 1), *(pytest.param(s, marks=pytest.mark.slow) for s in ((3, 4), (2, 6, 3, 3, 2)))]
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_any_rank_from_2_and_any_number_of_channels(
    library: str,
    shape: tuple[int, ...],
    save: Callable[..., str],
    only: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(library)
    status, _ = report(capsys, "--input", save(np.random.default_rng(0).standard_normal(shape).astype("float32")))
    assert status == 0


def test_float64_at_an_offset(
    save: Callable[..., str], only: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    only()
    x = 1e8 + np.random.default_rng(0).standard_normal((4, 6, 50))
    status, document = report(capsys, "--input", save(x))
    assert status == 0
    layer = document["rows"][0]
    assert layer["bound"] == pytest.approx(4 * 2.2e-16 * 1e8, rel=0.3)
    assert layer["native_error"] > 100 * layer["error"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("dtype", "spread"), [("float32", 1e25), ("float64", 1e200)])
@pytest.mark.parametrize("options", [(), ("--gradients",)], ids=" ".join)
def test_squares_beyond_the_dtype_are_said(
    library: str,
    dtype: str,
    spread: float,
    options: tuple[str, ...],
    save: Callable[..., str],
    only: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(library)
    x = np.random.default_rng(0).standard_normal((4, 6, 5, 5)) * spread
    with anynorm.engine("array-api"):
        status, document = report(capsys, "--input", save(x.astype(dtype)), *options)
    assert status == 1
    for row in [row for row in document["rows"] if row["library"] == library]:
        top = np.finfo(row["dtype"])
        said = f"x reaches {abs(x).max():.1e}, and its squares leave {top.dtype}, which ends at {top.max:.1e}"
        assert row["note"] == f"{said}: scale x down"
        assert not row["kept"]


@rendered
def test_a_limit_is_said_once_a_library(save: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).standard_normal((4, 6, 5, 5)) * 1e25
    with anynorm.engine("array-api"):
        assert cli.main(["check", "--input", save(x.astype("float32"))]) == 1
    out, err = capsys.readouterr()
    assert not err
    said = " ".join(out.split())
    assert said.count("and its squares leave float32") == 1
    assert "numpy, layer, rms, group, instance, batch: x reaches 3.9e+25" in said


def test_a_miss_of_another_kind_is_no_limit() -> None:
    x = np.full((2, 3, 4), 1e18, np.float32)
    x[0, 0, 0] = 0
    assert check.limit(np, x, x.dtype, np.full((2, 1, 1), 5e18)) is None
    assert "leave float32" in str(check.limit(np, x, x.dtype, np.full((2, 1, 1), 6e18)))  # squared, of 12
    assert check.limit(np, x, np.dtype("float16"), np.full((2, 1, 1), 6e4)) is None
    assert "leave float32" in str(check.limit(np, x, x.dtype, np.full((2, 1, 1), np.nan)))  # x itself has left it


def test_the_channels_are_moved_in_view_alone(save: Callable[..., str]) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    (_, last), *_ = data.loaded(np, save(x), -1).arrays
    assert np.array_equal(last, np.moveaxis(x, -1, 1))
    assert last.strides == np.moveaxis(x, -1, 1).strides
    (_, first), *_ = data.loaded(np, save(x), 0).arrays
    assert np.array_equal(first, x[None])  # channels on axis 0 leave no samples: it is one


def test_the_channel_axis_reaches_the_report(
    save: Callable[..., str], only: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    only()
    status, document = report(capsys, "--input", save(np.ones((2, 5, 5, 3), np.uint8)), "--channel-axis", "-1")
    assert status == 0
    assert document["data"]["channel_axis"] == 3


BAD = {
    "complex": (np.ones((2, 2), complex), "needs real numbers of at most 64 bits: {} holds complex128"),
    "text": (np.asarray([["a"]]), "needs real numbers of at most 64 bits: {} holds <U1"),
    "rank 1": (np.ones(3), "needs an array of rank 2 or more, for samples and channels: {} has shape (3,)"),
    "rank 0": (np.asarray(3.0), "needs an array of rank 2 or more, for samples and channels: {} has shape ()"),
    "empty": (np.ones((2, 0)), "needs an array of at least one element: {} has shape (2, 0)"),
    "NaN": (np.asarray([[1, np.nan, np.inf]]), "needs finite numbers: {} holds 2 that are NaN or infinite"),
    "objects": (
        np.asarray([[None]]),
        "needs a .npy file of plain numbers: {} cannot be read (ValueError: Object arrays",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_arrays_are_refused(kind: str, save: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    x, message = BAD[kind]
    file = save(x)
    assert "error: --input " + message.format(file) in refusal(capsys, "--input", file)


FILES = {
    "text": (b"1,2,3\n", "needs a .npy file"),
    "nothing": (b"", "needs a .npy file"),
    "pickle": (b"\x80\x04]\x94K\x01a.", "needs a .npy file"),
    "archive": (b"PK\x03\x04", "needs a .npy file"),
    "magic alone": (b"\x93NUMPY", "needs a .npy file of plain numbers"),
    "cut short": (b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4',", "needs a .npy file of plain numbers"),
}


@pytest.mark.parametrize("kind", FILES)
def test_bad_files_are_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = FILES[kind]
    file = tmp_path / "x.npy"
    file.write_bytes(content)
    said = refusal(capsys, "--input", str(file))
    assert f"error: --input {message}" in said
    assert str(file) in said


def test_a_missing_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "error: --input cannot be opened: " in refusal(capsys, "--input", str(tmp_path / "none.npy"))
    assert "error: --input cannot be opened: " in refusal(capsys, "--input", str(tmp_path))


def test_a_channel_axis_has_to_be_one_of_the_inputs(
    save: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(np.ones((2, 3)))
    said = refusal(capsys, "--input", file, "--channel-axis", "2")
    assert f"--channel-axis needs an axis of {file}, -2 to 1: got 2" in said
    assert "--channel-axis says where --input has its channels" in refusal(capsys, "--channel-axis", "1")


# ------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"]])
def test_the_help_fits_a_terminal(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_the_help_documents_every_key(only: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    only()
    _, document = report(capsys)
    keys = {*document, *document["data"], *document["libraries"][0], *document["rows"][0]}
    assert [key for key in keys if key not in cli.DETAILS] == []


@pytest.mark.parametrize("arguments", [["nothing"], ["check", "--nothing"]])
def test_other_commands_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "usage: anynorm [-h]" in capsys.readouterr().err


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    bare = capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert bare == capsys.readouterr()
    assert "check" in bare.out


def test_the_script_is_the_command() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    ((name, module_and_function),) = project["scripts"].items()
    module, function = module_and_function.split(":")
    assert name == "anynorm"
    assert getattr(import_module(module), function) is cli.main


@pytest.mark.parametrize("arguments", [["check"], ["check", "--norm", "anynorm:layer_norm", "--library", "numpy"]])
@pytest.mark.parametrize("name", ["ANYNORM_NUM_THREADS", "ANYNORM_ENGINE"])
def test_a_wrong_environment_is_refused(name: str, arguments: list[str]) -> None:
    done = spoken("plain", *arguments, **{name: "x"})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {name} needs to be " in done.stderr


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"anynorm {anynorm.__version__}\n"


# ------------------------------------------------------------------------------------------------ the engines


@pytest.mark.parametrize("engine", ["array-api", pytest.param("numba", marks=pytest.mark.library("numba"))])
def test_the_engine_that_ran_is_said(capsys, only, engine):
    only()
    with anynorm.engine(engine):
        assert cli.main(["check"]) == 0
        assert f"\nengines that ran: {engine} (numpy)\n" in capsys.readouterr().out
        assert cli.main(["check", "--json"]) == 0
    assert {row["engine"] for row in json.loads(capsys.readouterr().out)["rows"]} == {engine}


@rendered
def test_an_engine_that_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "problems", lambda: {"numba": "it is broken; mend it", "jax": "so is it"})
    assert cli.main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("engine numba: it is broken; mend it") - 1].startswith("engines that ran: ")
    assert lines[lines.index("engine numba: it is broken; mend it") + 1] == "engine jax: so is it"
    assert report(capsys)[1]["engines"] == {"numba": "it is broken; mend it", "jax": "so is it"}


def test_the_warning_of_a_broken_engine_is_in_the_report_alone(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('no llvm here')")
    done = spoken("plain", "check", "--json", PYTHONPATH=str(tmp_path), ANYNORM_ENGINE="")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert list(document["engines"]) == ["numba"]
    assert "ImportError: no llvm here" in document["engines"]["numba"]
    assert {row["engine"] for row in document["rows"]} == {"array-api"}


# ------------------------------------------------------------------------------------------------ where it is written


PATH = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))  # for the benchmark
SMALL = """
import sys
from importlib import import_module
from anynorm._cli import data

sys.modules.update(dict.fromkeys({hidden!r}))  # not to be imported
data.SHAPE = (4, 6, 5, 5)
raise SystemExit(import_module({module!r}).main())
"""


def spoken(
    renderer: str,
    *arguments: str,
    module: str = "anynorm._cli",
    stdout: Any = subprocess.PIPE,
    stderr: Any = subprocess.PIPE,
    **environment: str,
) -> Any:
    """Run the command, or another module's, on NumPy alone, in a process of its own."""
    hidden = [name for name in reference.LIBRARIES if name != "numpy"] + ["rich"] * (renderer == "plain")
    return subprocess.run(
        [sys.executable, "-c", SMALL.format(hidden=hidden, module=module), *arguments],
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": PATH, "ANYNORM_ENGINE": "array-api", **environment},
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture
def unread() -> Iterator[int]:
    """Open a pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


BENCH = ("--quick", "--rounds=1", "--library=numpy", "--only=numpy rms 8x64 float32 first forward all")
COMMANDS = {"anynorm._cli": ("check",), "bench.__main__": BENCH}
OUTPUTS = [
    *((renderer, *command) for renderer in RENDERERS for command in COMMANDS.items()),
    *(
        ("plain", "anynorm._cli", (*command,))
        for command in (["check", "--json"], ["--help"], ["check", "--help"], ["--version"])
    ),
]
# Each is a process of its own: without a buffer, which they share, one is enough.
WRITTEN = [
    *((*output, "") for output in OUTPUTS),
    (*OUTPUTS[0], "1"),
    *(pytest.param(*output, "1", marks=pytest.mark.slow) for output in OUTPUTS[1:]),
]
each_output = pytest.mark.parametrize(("renderer", "module", "arguments", "unbuffered"), WRITTEN)


@each_output
def test_a_reader_that_has_left_is_no_error(
    renderer: str, module: str, arguments: tuple[str, ...], unbuffered: str, unread: int
) -> None:
    done = spoken(renderer, *arguments, module=module, stdout=unread, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@each_output
def test_a_report_that_cannot_be_written_is_an_error_in_a_line(
    renderer: str, module: str, arguments: tuple[str, ...], unbuffered: str
) -> None:
    with Path("/dev/full").open("w") as full:
        done = spoken(renderer, *arguments, module=module, stdout=full, PYTHONUNBUFFERED=unbuffered)
    said = "anynorm: cannot write the report: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_where_standard_error_is_full_too_the_status_says_it() -> None:
    with Path("/dev/full").open("w") as full:
        assert spoken("plain", "--help", stdout=full, stderr=full).returncode == 2
