"""Two revisions of the package, timed in turn: whether one is slower by more than the noise."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anynorm

from . import _bench_cases as bench

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from ._bench_cases import Case

PAUSE = 0.01  # seconds in which the threads of the last worker stop spinning
SIGMAS = 3.0

# --------------------------------------------------------------------------------------------------
# The revisions
# --------------------------------------------------------------------------------------------------


def commit_of(revision: str) -> str:
    """Return the commit that a revision is in the checkout here; what is wrong is a ValueError."""
    if shutil.which("git") is None:
        message = f"--against needs git, which is not installed, to find the revision {revision}"
        raise ValueError(message)
    if git("rev-parse", "--is-inside-work-tree").returncode:
        message = f"--against needs a git checkout of anynorm: {Path.cwd()} is in none; run it in one"
        raise ValueError(message)
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if found.returncode:
        message = f"--against needs a revision of the checkout, a commit, branch or tag: got {revision!r}"
        raise ValueError(message)
    commit = found.stdout.decode().strip()
    if git("cat-file", "-e", f"{commit}:src/anynorm/__init__.py").returncode:
        message = f"--against needs a revision that holds src/anynorm: got {revision!r}, which does not"
        raise ValueError(message)
    return commit


def unpack(commit: str, into: Path) -> Path:
    """Unpack the sources of a commit, and return where Python finds them."""
    top = git("rev-parse", "--show-toplevel").stdout.decode().strip()
    packed = git("-C", top, "archive", "--format=tar", commit, "src")
    packed.check_returncode()
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(into, filter="data")
    return into / "src"


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run git, and return what came of it."""
    return subprocess.run(["git", *arguments], capture_output=True, check=False)  # noqa: S603, S607


# --------------------------------------------------------------------------------------------------
# The workers
# --------------------------------------------------------------------------------------------------


class Worker:
    """A process that times the calls of the anynorm in a folder."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-P", bench.__file__]
        self.process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8"
        )
        file = Path(self.answer()["file"])
        if not file.resolve().is_relative_to(folder.resolve()):
            self.close()
            message = f"the worker was to import anynorm from {folder}: it has {file}"
            raise RuntimeError(message)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, and return the answer."""
        assert self.process.stdin is not None  # noqa: S101 (it is a pipe)
        with suppress(BrokenPipeError):  # the answer says it better
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return what the worker says next."""
        assert self.process.stdout is not None  # noqa: S101
        line = self.process.stdout.readline()
        if not line:
            message = f"a worker ended before it answered, with status {self.process.wait()}; it says why above"
            raise RuntimeError(message)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def seconds(self, times: int) -> float:
        """Return how long the call of the case that is open takes."""
        time.sleep(PAUSE)
        return float(self.ask(times=times)["seconds"])

    def close(self) -> None:
        """Have the process end."""
        with suppress(BrokenPipeError), self.process:  # it may have ended before what was said to it was written
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def installed_at() -> Path:
    """Return the folder that holds the anynorm that runs."""
    return Path(anynorm.__file__).parents[1]


# --------------------------------------------------------------------------------------------------
# The verdict
# --------------------------------------------------------------------------------------------------


class Compared(NamedTuple):
    """One case of both revisions."""

    case: Case
    ours: float | None = None  # the median, in seconds
    theirs: float | None = None
    ratio: float | None = None  # ours / theirs
    apart: float = 0.0  # by how much two workers of one revision differ
    error: float = 0.0  # what the scatter of the rounds leaves uncertain in the ratio
    noise: float = 0.0  # how far from 1 the ratio may be by chance
    verdict: str = "failed"  # or "slower", "faster", "same", "new"
    note: str | None = None


def compare(case: Case, workers: Mapping[str, Worker], rounds: int | None) -> Compared:
    """Time a case in every worker in turn: "ours", "theirs" and "theirs again"."""
    opened = {name: worker.ask(open=case) for name, worker in workers.items()}
    for name, answer in opened.items():
        if "error" in answer:
            ours = name == "ours"
            return Compared(case, verdict="failed" if ours else "new", note=f"{name}: {answer['error']}")
    times = opened["ours"]["times"]
    calls = {name: partial(worker.seconds, times) for name, worker in workers.items()}
    return weigh(case, bench.interleaved(calls, rounds))


def weigh(case: Case, measured: Mapping[str, Sequence[float]]) -> Compared:
    """Return how a case compares, the verdict left open."""
    first, second = (statistics.median(measured[name]) for name in ("theirs", "theirs again"))
    ours, theirs = statistics.median(measured["ours"]), math.sqrt(first * second)
    error = math.hypot(uncertainty(measured["ours"]), uncertainty([*measured["theirs"], *measured["theirs again"]]))
    apart = max(first, second) / min(first, second) - 1
    return Compared(case, ours, theirs, ours / theirs, apart, error, verdict="open")


def uncertainty(times: Sequence[float]) -> float:
    """Return the relative standard error of a median, as the quartiles of normal data give it."""
    return math.sqrt(math.pi / 2 / len(times)) * bench.quartile_range(times) / 1.349 / statistics.median(times)


def judge(rows: Iterable[Compared]) -> list[Compared]:
    """Return the cases with their noise, and whether they differ by more than that.

    The noise is the largest of three: by how much two workers of one revision differ in this case; three standard
    errors of the ratio, by the scatter of the rounds; and three standard deviations of the ratio from worker to worker,
    by how much the two of one revision differ over all the cases.
    """
    rows = list(rows)
    apart = [row.apart for row in rows if row.ratio is not None]
    # 1.4826 turns a median deviation into a standard one; three workers are in a ratio by 1 and 1/2, two in apart by 1.
    usual = 1.4826 * statistics.median(apart) * math.sqrt(1.5 / 2) if apart else 0.0
    return [row if row.ratio is None else judged(row, row.ratio, usual) for row in rows]


def judged(row: Compared, ratio: float, usual: float) -> Compared:
    """Return a case with its noise and its verdict, given what workers usually differ by."""
    noise = max(row.apart, SIGMAS * row.error, SIGMAS * usual)
    verdict = "slower" if ratio > 1 + noise else "faster" if ratio * (1 + noise) < 1 else "same"
    return row._replace(noise=noise, verdict=verdict)


def run(commit: str, cases: Iterable[Case], rounds: int | None) -> list[Compared]:
    """Time the cases of the anynorm that runs, and of a commit, in processes that take turns."""
    with tempfile.TemporaryDirectory(prefix="anynorm-", ignore_cleanup_errors=True) as folder:
        theirs = unpack(commit, Path(folder))
        with Worker(installed_at()) as mine, Worker(theirs) as one, Worker(theirs) as two:
            workers = {"ours": mine, "theirs": one, "theirs again": two}
            return judge([compare(case, workers, rounds) for case in cases])
