"""The benchmark: what competes, how it is weighed, and what is printed. No timing decides a test."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import anynorm
import bench.__main__ as cli
from anynorm._engines.choice import choice
from anynorm._install import install
from anynorm.testing._reference import Found, exact, shared
from bench import arguments as options
from bench import calls, figures, plot, report, revisions, rivals
from bench import clock as clocks
from bench import verdict as verdicts
from bench.cases import HALF, LIBRARIES, Case, cases_of, of_sizes
from bench.results import Result, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INSTALLED = [pytest.param(name, marks=pytest.mark.library(name)) for name in LIBRARIES]
HERE = Path(anynorm.__file__).parents[1]
QUICK = ("--quick", "--rounds", "1", "--library", "numpy", "--only", "numpy rms 8x64 float32 first forward all nothing")
TESTS = Path(__file__).parent
CHECKOUT = TESTS.parent


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run what has to be refused, and return what is said."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([*arguments])
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert not out
    return str(err)


def shrunk(case: Case) -> Case:
    """Return a case of the same kind on a small array, in float32."""
    if len(case.shape) == 2:
        return case._replace(shape=(4, 16), dtype="float32")
    shape = (2, 3, 5, 16) if case.layout == "last" and case.library != "torch" else (2, 16, 3, 5)
    return case._replace(shape=shape, dtype="float32")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have array-API code do the work, here and in workers: it takes no compiling."""
    monkeypatch.setenv("ANYNORM_ENGINE", "array-api")
    with anynorm.engine("array-api"):
        yield


@pytest.fixture(autouse=True)
def plain_promotion() -> Iterator[None]:
    """Have JAX promote as it does by default, and not as the other tests want it."""
    jax = sys.modules.get("jax")
    if jax is None:
        yield
        return
    with jax.numpy_dtype_promotion("standard"):
        yield


# ------------------------------------------------------------------------------------------------ the cases


def results(case: Case) -> dict[str, Any]:
    """Return what every call of a case returns, as NumPy arrays of ours' shape."""
    given = calls.draw(case)
    others, missing = rivals.rivals(case, given)
    assert all(line.endswith("is not installed") for line in missing), missing
    with calls.threads(case):
        found = {name: call() for name, call in {"anynorm": calls.ours(case, given), **others}.items()}
    return {name: [as_numpy(a) for a in (y if isinstance(y, tuple) else (y,))] for name, y in found.items()}


COUNTS = {("both", "nothing"): 2, ("both", "affine"): 4, ("forward", "train"): 3}  # y, gradients, mean and variance


def as_numpy(a: Any) -> Any:
    return np.asarray(a.detach() if hasattr(a, "detach") else a)


@pytest.mark.parametrize(
    "library",
    [pytest.param(p.values[0], marks=[*p.marks, *[pytest.mark.slow] * (p.values[0] != "numpy")]) for p in INSTALLED],
)
def test_the_calls_of_a_case_compute_the_same(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "torch":  # without its code generator, which takes seconds a call
        torch = import_module("torch")
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    cases = dict.fromkeys(map(shrunk, cases_of(library)))
    # Compiling takes JAX its time: one way of running for each kind of work.
    for case in (case for case in cases if library != "jax" or (case.mode == "jit") == (case.work == "both")):
        found = results(case)
        mine = found.pop("anynorm")
        (x,) = found.pop("copy")
        assert np.array_equal(x, found.pop("copy again")[0])
        if case.masked:
            mask = as_numpy(calls.draw(case).mask)
            (unmasked,) = found.pop("unmasked")
            axes = shared(case.norm, x.ndim)
            assert 0 < mask.sum() < mask.size
            assert abs(unmasked - exact(x, axes)[0]).max() < 1e-5, case.name
            found["exact"] = [exact(x, axes, mask=mask)[0]]
        # Of NumPy's states the native norm alone makes something, which is torch's.
        assert set(found) & {"textbook", "native", "exact"} or (library == "numpy" and not find_spec("torch"))
        for name, arrays in found.items():
            assert len(arrays) == COUNTS.get((case.work, case.given), 1), (case.name, name)
            for ours, theirs in zip(mine, arrays, strict=True):
                # torch knows NumPy's arrays of channels last by a view, with the channels on axis 1.
                same = theirs if theirs.shape == ours.shape else np.moveaxis(theirs, 1, -1)
                assert abs(ours - same).max() < 1e-5, (case.name, name)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_cases_cover_what_is_promised(library: str) -> None:
    cases = cases_of(library)
    assert len(cases) == len({case.name for case in cases}) == len(set(cases))
    assert {case.norm for case in cases} == {"batch", "instance", "group", "layer", "rms"}
    assert {case.work for case in cases} == {"forward", "both"}
    assert {case.dtype for case in cases} == {"float32", HALF[library]}
    modes = {"numpy": {"all", "one"}, "torch": {"all", "one", "compiled"}, "jax": {"eager", "jit"}}
    assert {case.mode for case in cases} == modes[library]
    assert min(case.bytes for case in cases if case.dtype == "float32") == 8 * 64 * 4
    if library != "jax":
        assert max(case.bytes for case in cases) == 2**28
        assert {case.layout for case in cases} == {"first", "last"}
        assert {case.given for case in cases} == {"nothing", "affine", "stats", "train", "mask", "full mask"}


def test_every_figure_is_of_a_case_that_is_timed() -> None:
    timed = {case for library in LIBRARIES for case in cases_of(library)}
    assert [figure.case.name for figure in figures.figures() if figure.case not in timed] == []
    for case, above, below, _ in figures.figures():
        assert {above, below} <= {"anynorm", "copy", *rivals.makers(case)}


def test_figures_are_timed_alone() -> None:
    numpy = [Found("numpy", "2.0", None)]
    names = {figure.case.name for figure in figures.figures() if figure.case.library == "numpy"}
    assert {case.name for case in cli.chosen(numpy, None, quick=False, figured=True)} == names


@pytest.mark.library("torch")
def test_the_memory_of_channels_last_is_so() -> None:
    import torch

    (x, *_) = calls.draw(Case("torch", "batch", (2, 16, 3, 5), layout="last"))
    assert x.is_contiguous(memory_format=torch.channels_last)
    copy = rivals.copying(Case("torch", "batch", (2, 16, 3, 5), layout="last"), x)()
    assert copy.stride() == x.stride()


@pytest.mark.library("torch")
def test_one_thread_is_one_of_torch_and_of_ours_and_is_undone() -> None:
    import torch

    before = torch.get_num_threads()
    with calls.threads(Case("torch", "batch", (2, 2), mode="one")):
        assert torch.get_num_threads() == 1
        assert choice().threads == 1
    assert torch.get_num_threads() == before
    assert choice().threads is None


def test_extra_memory_is_what_the_result_does_not_hold() -> None:
    x = np.ones(10**6)
    assert clocks.extra_bytes(lambda: x + 1) < 10_000  # type: ignore[operator]
    assert 8e6 < clocks.extra_bytes(lambda: (x + 1) * (x + 2)) + 1e4 < 9e6  # type: ignore[operator]
    assert clocks.extra_bytes(lambda: x) is None


# ------------------------------------------------------------------------------------------------ the clock


class Clock:
    """A clock that goes forward only when a call takes its time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def call(self, *times: float) -> Callable[[], Any]:
        """Return a call that takes these times in turn, the last of them again and again."""
        left = list(times)

        def run() -> Any:
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return np.zeros(2)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(clocks, "clock", fake)
    return fake


WARM = (9.0,) * 5  # the calls before the first round, of which one is by the watch of the engines


@pytest.fixture
def faked(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have every case take the same fake times."""
    competing = {
        "native": clock.call(*WARM[1:], 0.3, 0.5, 9.0),
        "textbook": clock.call(*WARM[1:], 1.0),
        "copy": clock.call(*WARM[1:], 0.1),
        "copy again": clock.call(*WARM[1:], 0.125),
    }
    monkeypatch.setattr(rivals, "rivals", lambda *_: (dict(competing), ["numpy has no onnxruntime: not installed"]))
    monkeypatch.setattr(calls, "ours", lambda *_: clock.call(*WARM, 0.2, 7.0, 0.25))
    return clock


@pytest.mark.usefixtures("faked")
def test_every_ratio_is_of_the_medians(capsys: pytest.CaptureFixture[str]) -> None:
    name = "numpy layer 8x64 float32 first forward all nothing"
    only = ("--library", "numpy", "--only", name, "--rounds", "3")
    assert cli.main(["--json", *only]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["seconds"] == pytest.approx({"anynorm": 0.25, "native": 0.5, "textbook": 1, "copy": 0.1})
    assert case["ratios"] == {
        "native / anynorm": pytest.approx(2),
        "textbook / anynorm": pytest.approx(4),
        "onnxruntime / anynorm": None,
        "anynorm / copy": pytest.approx(2.5),
        "anynorm / unmasked": None,
    }
    assert case["noise"] == pytest.approx(0.2)
    assert case["rounds"] == 3


@pytest.mark.usefixtures("faked")
@pytest.mark.parametrize("rich", [False, pytest.param(True, marks=pytest.mark.library("rich"))])
def test_the_tables_say_what_was_measured(
    rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not rich:
        monkeypatch.setitem(sys.modules, "rich", None)
    name = "numpy layer 8x64 float32 first forward all nothing"
    assert cli.main(["--library", "numpy", "--only", name, "--rounds", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    case = ["numpy", "layer", "8x64", "float32"]
    wished = ["at", "least", "1", "4.00", "20.0%", "reached"]
    assert [*case, "first", "forward", "all", "nothing", "textbook", "/", "anynorm", *wished] in lines
    assert [*case, "-", "forward", "all", "nothing", "2.00", "4.00", "-", "2.50", "-", "20.0%"] in lines
    took = next(line for line in lines if line[:4] == case and "ms" in line)
    assert took[8:17] == ["250", "ms", "500", "ms", "1.00", "s", "-", "100", "ms"]
    assert ["numpy", "has", "no", "onnxruntime:", "not", "installed"] in lines
    assert lines.index(["figures"]) < lines.index(["ratios", "of", "medians"])


@pytest.mark.usefixtures("faked")
def test_a_figure_that_is_missed_is_said_and_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calls, "draw", lambda _: calls.Given(np.zeros(2)))
    only = (
        "--library",
        "numpy",
        "--only",
        "numpy batch 32x64x56x56 float32 first forward all nothing",
        "--rounds",
        "3",
    )
    assert cli.main([*only]) == 0
    out = capsys.readouterr().out
    assert "2 of 3 figures MISSED, 24 not measured." in out  # the extra memory of the fake is small


def test_quick_calls_are_repeated_inside_a_measurement(clock: Clock) -> None:
    calls = {"quick": clock.call(3e-4), "slow": clock.call(0.5)}
    assert clocks.warm(calls["quick"]) == 4
    assert clocks.warm(calls["slow"]) == 1
    measured, failed = clocks.race(calls, 4)
    assert measured == {"quick": [pytest.approx(3e-4)] * 4, "slow": [pytest.approx(0.5)] * 4}
    assert not failed


def test_rounds_end_with_their_number_or_with_the_time(clock: Clock) -> None:
    def rounds(seconds: float, asked: int | None = None) -> int:
        return len(clocks.race({"a": clock.call(seconds)}, asked)[0]["a"])

    assert rounds(1e-3) == clocks.ROUNDS
    assert rounds(100.0) == clocks.FEWEST
    assert rounds(100.0, 8) == 8


def test_every_call_runs_once_a_round_in_an_order_that_changes() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) or 1.0 for name in "abcd"}  # type: ignore[misc,func-returns-value]
    clocks.interleaved(calls, 6)
    rounds = ["".join(order[i : i + 4]) for i in range(0, 24, 4)]
    assert {"".join(sorted(each)) for each in rounds} == {"abcd"}
    assert len(set(rounds)) > 1


def test_a_rival_that_refuses_is_left_out_with_a_note() -> None:
    def refuse() -> None:
        message = "not for Half\nmore"
        raise RuntimeError(message)

    measured, failed = clocks.race({"native": refuse, "copy": lambda: None}, 2)
    assert list(measured) == ["copy"]
    assert failed == {"native": "RuntimeError: not for Half"}


@pytest.mark.parametrize("render", [report.tables, lambda r: report.as_json(r, [], {})], ids=["tables", "json"])
def test_a_case_that_fails_is_reported(render: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        message = "broken"
        raise ValueError(message)

    monkeypatch.setattr(calls, "ours", lambda *_: refuse)
    case = Case("numpy", "layer", (8, 64))
    result = measure(case, 1)
    assert result.notes == ("numpy layer 8x64 float32 first forward all nothing: anynorm fails: ValueError: broken",)
    assert result.ratio("native", "anynorm") is None
    assert render([result])


# ------------------------------------------------------------------------------------------------ the command


def test_json_has_the_documented_structure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--json", *QUICK]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"anynorm", "machine", "libraries", "figures", "cases"}
    (case,) = document["cases"]
    assert case["name"] == QUICK[-1]
    assert (case["library"], case["norm"], case["shape"], case["bytes"]) == ("numpy", "rms", [8, 64], 2048)
    assert case["seconds"]["anynorm"] > 0
    assert document["machine"]["engines"] == case["engines"] == ["array-api"]
    assert document["machine"]["versions"]["numpy"] == np.__version__
    keys = {*document, *case, *document["machine"], *document["libraries"][0], *document["figures"][0]}
    assert [key for key in keys if key not in options.DETAILS] == []


def test_the_report_starts_with_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*QUICK]) == 0
    title, where, *_ = capsys.readouterr().out.splitlines()
    assert title == f"anynorm {anynorm.__version__} bench"
    assert f"numpy {np.__version__}" in where
    assert "engines that ran: " in where


def test_the_help_fits_a_terminal_and_documents_every_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    assert [key for key in verdicts.Compared._fields if key not in options.DETAILS] == []


REFUSED = {
    "library": (("--library", "cupy"), "invalid choice: 'cupy'"),
    "rounds": (("--rounds", "0"), "argument --rounds: needs a positive whole number: got '0'"),
    "only": (
        ("--library", "numpy", "--only", "none"),
        "--only needs text that is in the name of a case, such as 'n",
    ),
    "suffix": (("--plot", "a.pdf"), "--plot needs a file that ends in .svg or .png, in a folder that is there: got a"),
    "folder": (("--plot", "none/a.svg"), "--plot needs a file that ends in .svg or .png, in a folder that is there"),
    "both": (
        ("--plot", "a.svg", "--against", "HEAD"),
        "--plot draws the times of one revision, and --against compares",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_arguments_are_refused(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = REFUSED[kind]
    assert message in " ".join(refusal(capsys, *arguments).split())


def test_a_plot_without_matplotlib_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(options, "version", lambda _: None)
    said = refusal(capsys, "--plot", str(tmp_path / "a.svg"))
    assert "--plot needs matplotlib, which is not installed: pip install matplotlib" in said


def missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_without_numpy_it_refuses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    missing(monkeypatch, "numpy")
    said = refusal(capsys)
    assert f"the bench draws its data with NumPy, which is not installed ({install('numpy')})" in said


def test_missing_libraries_are_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing(monkeypatch, "torch", "jax", "onnxruntime", "onnx")
    rounds = ("--rounds", "1", "--only", "layer 8x64 float32 first forward all nothing")
    assert cli.main([*rounds]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"torch  not installed ({install('torch')})" in lines
    assert f"jax    not installed ({install('jax')})" in lines
    assert "numpy has no native: torch is not installed" in lines
    assert "numpy has no onnxruntime: onnx is not installed" in lines


def test_a_library_that_is_asked_for_and_missing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing(monkeypatch, "jax")
    said = refusal(capsys, "--library", "numpy", "--library", "jax")
    assert f"--library needs libraries that can be used: jax is not installed ({install('jax')})" in said


def imported(module: str, names: set[str]) -> list[str]:
    """Return which of these the import of a module imports."""
    code = f"import sys; sys.path.append({str(TESTS)!r}); import {module}; print(*{names} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


def test_no_library_is_imported_before_it_is_needed() -> None:
    names = {"numpy", "torch", "jax", "flax", "numba", "matplotlib", "rich", "onnxruntime"}
    assert imported("bench.__main__", names) == []


def test_a_worker_meets_the_package_by_its_public_names_alone() -> None:
    assert imported("bench.worker", {"anynorm"}) == []  # another revision may have nothing of what this one has


@pytest.mark.library("matplotlib")
@pytest.mark.parametrize("suffix", ["svg", "png"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what matplotlib uses
def test_the_plot_is_of_time_per_byte_against_size(suffix: str, tmp_path: Path) -> None:
    timed = [case for library in ("numpy", "torch") for case in of_sizes(library)]
    measured = [Result(case, dict.fromkeys(plot.STYLES, case.bytes * 2e-9)) for case in timed]
    drawn = plot.drawn(measured)
    for panel in drawn.axes:
        assert panel.get_xscale() == panel.get_yscale() == "log"
        assert len(panel.lines) == len(plot.STYLES)
        for line in panel.lines:
            assert line.get_ydata() == pytest.approx([2.0] * 5)
            assert (min(line.get_xdata()), max(line.get_xdata())) == (2048, 2**28)
    file = tmp_path / f"speed.{suffix}"
    plot.plot(measured, str(file))
    assert file.stat().st_size > 1000


# ------------------------------------------------------------------------------------------------ two revisions

CASE = Case("numpy", "rms", (8, 64))


def weighed(ours: float, *theirs: float, scatter: float = 0.0) -> verdicts.Compared:
    """Return a case of these medians, whose rounds scatter by so much."""
    spread = (1 - scatter, 1 - scatter / 2, 1, 1 + scatter / 2, 1 + scatter)
    names = ("ours", "theirs", "theirs again")
    times = {name: [m * s for s in spread] for name, m in zip(names, (ours, *theirs), strict=True)}
    return verdicts.weigh(CASE, times)


@pytest.mark.parametrize(
    ("times", "scatter", "verdict"),
    [
        ((1.2, 1.0, 1.0), 0.0, "slower"),
        ((0.8, 1.0, 1.0), 0.0, "faster"),
        ((1.0, 1.0, 1.0), 0.0, "same"),
        ((1.2, 1.0, 1.3), 0.0, "same"),  # two workers of one revision differ by more
        ((1.2, 1.0, 1.0), 0.4, "same"),  # the rounds scatter too much to tell
        ((2.0, 1.0, 1.0), 0.4, "slower"),
    ],
)
def test_the_verdict_is_by_the_noise_measured(times: tuple[float, ...], scatter: float, verdict: str) -> None:
    (row,) = verdicts.judge([weighed(*times, scatter=scatter)])
    assert row.verdict == verdict
    assert row.ratio == pytest.approx(times[0] / (times[1] * times[2]) ** 0.5)
    assert row.noise >= row.apart == pytest.approx(times[2] / times[1] - 1)


def test_the_noise_of_the_other_cases_counts() -> None:
    quiet = weighed(1.2, 1.0, 1.0)
    assert verdicts.judge([quiet])[0].verdict == "slower"
    rows = verdicts.judge([quiet, weighed(1.0, 1.0, 1.3), weighed(1.0, 1.3, 1.0)])
    assert [row.verdict for row in rows] == ["same"] * 3


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a git checkout of the package."""
    if shutil.which("git") is None or not (CHECKOUT / ".git").exists():
        pytest.skip("there is no git checkout here")
    monkeypatch.chdir(CHECKOUT)


@pytest.mark.usefixtures("checkout")
def test_the_revision_and_what_runs_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["--json", "--against", "HEAD", *QUICK])
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"anynorm", "machine", "against", "slower", "cases"}
    assert document["against"]["revision"] == "HEAD"
    assert len(document["against"]["commit"]) == 40
    (case,) = document["cases"]
    assert case["name"] == QUICK[-1]
    assert case["note"] is None
    assert case["ratio"] == pytest.approx(case["ours"] / case["theirs"])
    assert case["verdict"] in ("slower", "faster", "same")
    assert status == document["slower"] == (case["verdict"] == "slower")


@pytest.mark.parametrize(("verdict", "status"), [("slower", 1), ("failed", 1), ("same", 0), ("faster", 0), ("new", 0)])
def test_the_exit_status_says_whether_anything_is_slower(
    verdict: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = verdicts.Compared(CASE, 1.0, 2.0, 0.5, verdict=verdict, note="said")
    monkeypatch.setattr(revisions, "commit_of", lambda _: "0" * 40)
    monkeypatch.setattr(revisions, "run", lambda *_: [row])
    assert cli.main(["--against", "main", *QUICK]) == status
    out = capsys.readouterr().out
    assert f"bench, against main ({'0' * 12})" in out
    assert f"Of 1 cases: 1 {verdict}." in out
    assert f"{CASE.name}: said" in out


@pytest.mark.usefixtures("checkout")
def test_what_is_no_revision_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for revision in ("no-such-revision", "--all"):
        said = refusal(capsys, f"--against={revision}")
        assert f"--against needs a revision of the checkout, a commit, branch or tag: got {revision!r}" in said


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_outside_of_a_checkout_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"--against needs a git checkout of anynorm: {tmp_path} is in none" in refusal(capsys, "--against", "HEAD")


def test_without_git_it_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "--against needs git, which is not installed" in refusal(capsys, "--against", "HEAD")


@pytest.mark.usefixtures("checkout")
def test_a_revision_is_unpacked_as_it_was(tmp_path: Path) -> None:
    folder = revisions.unpack(revisions.commit_of("HEAD"), tmp_path)
    shown = subprocess.run(["git", "show", "HEAD:src/anynorm/_norms.py"], capture_output=True, check=True)
    assert (folder / "anynorm" / "_norms.py").read_bytes() == shown.stdout


def test_a_worker_answers_one_measurement_at_a_time() -> None:
    with revisions.Worker(HERE) as worker:
        assert worker.ask(open=CASE)["times"] > 1
        assert worker.seconds(3) > 0
        assert "no_such_norm" in worker.ask(open=CASE._replace(norm="no_such"))["error"]
        assert worker.ask(open=CASE._replace(mode="one"))["times"] > 1
        assert worker.seconds(1) > 0
    assert worker.process.returncode == 0


def test_a_worker_of_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the worker was to import anynorm from"):
        revisions.Worker(tmp_path)


def test_a_worker_that_ends_says_so() -> None:
    worker = revisions.Worker(HERE)
    worker.process.kill()
    with pytest.raises(RuntimeError, match="a worker ended before it answered, with status -9"):
        worker.ask(open=CASE)
    worker.close()


def test_what_only_one_revision_does_is_new_or_failed() -> None:
    fine = SimpleNamespace(ask=lambda **_: {"times": 1}, seconds=lambda _: 1.0)
    broken = SimpleNamespace(ask=lambda **_: {"error": "AttributeError: none"})
    workers: dict[str, Any] = {"ours": fine, "theirs": broken, "theirs again": broken}
    row = revisions.compare(CASE, workers, 2)
    assert (row.verdict, row.note, row.ratio) == ("new", "theirs: AttributeError: none", None)
    row = revisions.compare(CASE, {**workers, "ours": broken}, 2)
    assert (row.verdict, row.note) == ("failed", "ours: AttributeError: none")
    assert revisions.compare(CASE, dict.fromkeys(workers, fine), 2).ratio == 1
    assert verdicts.judge([row]) == [row]
