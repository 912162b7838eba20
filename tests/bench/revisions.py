"""Two revisions of the package, timed in turn, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anynorm

from .clock import interleaved
from .verdict import Compared, judge, weigh

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from .cases import Case

TREE = Path(__file__).parents[1]
PAUSE = 0.01  # seconds in which the threads of the last worker stop spinning

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
    return subprocess.run(["git", *arguments], capture_output=True, check=False)


# --------------------------------------------------------------------------------------------------
# The workers
# --------------------------------------------------------------------------------------------------


class Worker:
    """A process that times the calls of the anynorm in a folder."""

    def __init__(self, folder: Path) -> None:
        # The folder first; what is timed, and how, is of this tree whichever anynorm it is.
        path = os.pathsep.join(filter(None, (str(folder), str(TREE), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-P", "-m", "bench.worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8"
        )
        file = Path(self.answer()["file"])
        if not file.resolve().is_relative_to(folder.resolve()):
            self.close()
            message = f"the worker was to import anynorm from {folder}: it has {file}"
            raise RuntimeError(message)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, and return the answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the answer says it better
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return what the worker says next."""
        assert self.process.stdout is not None
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
# A case of both
# --------------------------------------------------------------------------------------------------


def compare(case: Case, workers: Mapping[str, Worker], rounds: int | None) -> Compared:
    """Time a case in every worker in turn: "ours", "theirs" and "theirs again"."""
    opened = {name: worker.ask(open=case) for name, worker in workers.items()}
    for name, answer in opened.items():
        if "error" in answer:
            ours = name == "ours"
            return Compared(case, verdict="failed" if ours else "new", note=f"{name}: {answer['error']}")
    times = opened["ours"]["times"]
    calls = {name: partial(worker.seconds, times) for name, worker in workers.items()}
    return weigh(case, interleaved(calls, rounds))


def run(commit: str, cases: Iterable[Case], rounds: int | None) -> list[Compared]:
    """Time the cases of the anynorm that runs, and of a commit, in processes that take turns."""
    with tempfile.TemporaryDirectory(prefix="anynorm-", ignore_cleanup_errors=True) as folder:
        theirs = unpack(commit, Path(folder))
        with Worker(installed_at()) as mine, Worker(theirs) as one, Worker(theirs) as two:
            workers = {"ours": mine, "theirs": one, "theirs again": two}
            return judge([compare(case, workers, rounds) for case in cases])
