"""The day a GPU is lent: everything that no emulator shows, in one go of some minutes.

    PYTHONPATH=tests python -m gpu.day            print it
    PYTHONPATH=tests python -m gpu.day --write    and write it to docs/verified.md, if all of it is as it should be

For PyTorch and for CuPy, whichever can use a GPU here: whether its results are the emulator's, bit for bit; the
errors against float64; terabytes a second, beside a copy on the device and PyTorch's own norms; and the time of a
small call.
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import re
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import anynorm
from anynorm._engines import watch
from anynorm.testing import usable
from gpu.device import COMPILER, Arrays, Device
from oracles import NORMS, data

F32 = np.float32
VERIFIED = Path(__file__).parents[2] / "docs" / "verified.md"
SHAPES = ((4, 6, 5, 8), (16, 32, 28, 28), (2, 8, 100, 101))
BOUND = 2e-6
BYTES = 2**28  # of an array that is timed


class OnTorch:
    """Tensors of PyTorch on a GPU."""

    def __init__(self):
        import torch

        self.torch, self.name = torch, f"PyTorch {version('torch')}"
        self.device = torch.cuda.get_device_name()

    def array(self, a, dtype=None):
        return self.torch.from_numpy(np.array(a, order="C")).to("cuda", dtype and getattr(self.torch, dtype))

    def numpy(self, y):
        return y.detach().cpu().numpy()

    def wait(self):
        self.torch.cuda.synchronize()

    def rivals(self, x, weight, bias):
        """Return what else does a layer norm of rows."""
        norm = self.torch.nn.functional.layer_norm
        own = (x.shape[-1],)
        found = {"torch": lambda: norm(x, own, weight, bias)}
        found["torch.compile"] = self.torch.compile(lambda: anynorm.layer_norm(x, weight, bias))
        with suppress(ImportError):
            from quack import layernorm

            found["Quack"] = lambda: layernorm(x, weight.float(), bias.float())
        return found

    def copy(self, x):
        return x.clone()

    def replays(self):
        """Whether a graph that holds a norm, captured before any such kernel was loaded, does it with new data."""
        x = self.array(data("offset 3", (7, 777)))
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            y = anynorm.layer_norm(x)
        x.copy_(self.array(data("offset 3", (7, 777), seed=1)))
        graph.replay()
        return bool(self.torch.equal(y, anynorm.layer_norm(x)))


class OnCupy:
    """Arrays of CuPy."""

    def __init__(self):
        import cupy

        self.cupy, self.name = cupy, f"CuPy {cupy.__version__}"
        self.device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()

    def array(self, a, dtype=None):
        return self.cupy.asarray(np.asarray(a, dtype=dtype))

    def numpy(self, y):
        return y.get()

    def wait(self):
        self.cupy.cuda.Device().synchronize()

    def rivals(self, x, weight, bias):
        return {}

    def copy(self, x):
        return x.copy()

    def replays(self):
        """Whether a captured graph does a norm again with new data; the kernel is loaded before."""
        x = self.array(data("offset 3", (7, 777)))
        with self.cupy.cuda.Stream(non_blocking=True) as stream:
            anynorm.layer_norm(x)
            stream.begin_capture()
            y = anynorm.layer_norm(x)
            graph = stream.end_capture()
            x[...] = self.array(data("offset 3", (7, 777), seed=1))
            graph.launch(stream)
            stream.synchronize()
            return bool((y == anynorm.layer_norm(x)).all())


def libraries():
    """Return the libraries that can use a GPU here."""
    found = []
    if usable("torch"):
        import torch

        found += [OnTorch()] if torch.cuda.is_available() and torch.version.cuda else []
    return found + ([OnCupy()] if usable("cupy") else [])


# ------------------------------------------------------------------------------------------------ bits and errors


def last(x):
    """Return an array whose channels, on axis 1, are the last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def results(library, shapes=SHAPES):
    """Yield every norm and its gradients, with a name, and the float64 norm of the same x."""
    rng = np.random.default_rng(5)
    for shape in shapes:
        for norm in NORMS:
            own = rng.standard_normal((2, *(shape[i] for i in norm.runs_along(len(shape))))).astype(F32)
            g = rng.standard_normal(shape).astype(F32)
            for kind, dtype in (("offset 0", "float32"), ("offset 1e6", "float32"), ("offset 3", "float16")):
                x = data(kind, shape, dtype)
                for channels, a in (("first", x), ("last", np.moveaxis(last(x), 1, -1))):
                    if channels == "last" and norm.runs_along(len(shape)) == (3,):
                        continue  # no kernel sums the gradients of weights that change along rows which lie apart
                    given = library.array(a)
                    given = given if channels == "first" else given.transpose(0, 3, 1, 2)
                    w, b = map(library.array, own)
                    y, pull = norm.vjp(given, weight=w, bias=b)
                    plain = norm.call(given)
                    found = [library.numpy(one) for one in (plain, y, *pull(library.array(g.astype(dtype))))]
                    yield f"{norm.name} {shape}, {kind}, {dtype}, channels {channels}", found, (norm, x)


def emulated(shapes=SHAPES):
    """Return the same by the emulator."""
    with pytest.MonkeyPatch.context() as patch, Arrays(Device()).lent(patch) as arrays:
        return {name: found for name, found, _ in results(arrays, shapes)}


def check_bits(library, shapes=SHAPES):
    """Return what differs from the emulator in a bit, and the largest error of float32 against float64."""
    expected, differing, worst = emulated(shapes), [], 0.0
    with watch() as ran:
        for name, found, (norm, x) in results(library, shapes):
            if not all(np.array_equal(a, b) for a, b in zip(found, expected[name], strict=True)):
                differing.append(name)
            if x.dtype == F32:
                worst = max(worst, float(np.abs(found[0] - norm.oracle(x)).max()))
    return differing, worst, len(expected), ran


# ------------------------------------------------------------------------------------------------ times


def seconds(library, function, many=20):
    """Return the least time of a call, of five times many."""
    function()
    best = float("inf")
    for _ in range(5):
        library.wait()
        start = time.perf_counter()
        for _ in range(many):
            function()
        library.wait()
        best = min(best, (time.perf_counter() - start) / many)
    return best


def rates(library):
    """Yield terabytes a second of layer norms of rows, beside a copy and what else does them."""
    for dtype, size in (("float32", 4), ("float16", 2)):
        for n in (64, 1000, 1024, 4096, 16384, 32768, 50000):
            x = library.array(np.ones((BYTES // size // n, n), F32), dtype)
            w, b = library.array(np.ones(n), dtype), library.array(np.zeros(n), dtype)
            calls = {"copy": lambda x=x: library.copy(x), "anynorm": lambda x=x, w=w, b=b: anynorm.layer_norm(x, w, b)}
            calls |= library.rivals(x, w, b)
            yield (
                f"layer, {dtype}, rows of {n}",
                {name: 2 * x.nbytes / seconds(library, call) / 1e12 for name, call in calls.items()},
            )


def small(library):
    """Return the microseconds of a small call, queued one after another."""
    x = library.array(np.ones((8, 64), F32))
    return seconds(library, lambda: anynorm.layer_norm(x), 1000) * 1e6


# ------------------------------------------------------------------------------------------------ what is written


def report(library):
    """Return the lines of a library, and whether all is as it should be."""
    differing, worst, count, ran = check_bits(library)
    lines = [f"**{library.name}, {library.device}**", ""]
    lines += [f"* {count - len(differing)} of {count} calls give the emulator's bits, their gradients included."]
    lines += [f"  Not: {name}" for name in differing[:5]]
    lines += [f"* The largest error in float32, at offsets 0 and 1e6, is {worst:.1e}; run by {', '.join(sorted(ran))}."]
    replays = library.replays()
    lines += [f"* A captured graph {'replays' if replays else 'DOES NOT REPLAY'} a norm."]
    lines += [f"* A small call takes {small(library):.0f} µs.", ""]
    table = list(rates(library))
    names = list(table[0][1])
    lines += [f"| TB/s | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
    lines += [f"| {what} | {' | '.join(f'{rate[name]:.2f}' for name in names)} |" for what, rate in table]
    return [*lines, ""], not differing and replays and worst < BOUND and ran == {"gpu"}


def record(text, found, lines, today):
    """Return docs/verified.md with what was found today."""
    row = ["NVIDIA GPU, CUDA", f"gpu.day, {today}", platform.python_version()]
    titles = re.search(r"\| kind \|(.*)\|\n", text).group(1).split("|")[2:]
    packages = {"Flax": "flax", "PyTorch": "torch", "array-api-strict": "array_api_strict"}
    for title in map(str.strip, titles):
        try:
            row.append(version(packages.get(title, title.lower())))
        except Exception:  # noqa: BLE001  what is not installed has no version
            row.append("")
    text = re.sub(r"\| NVIDIA GPU, CUDA \|.*\n", f"| {' | '.join(row)} |\n", text)
    text = re.sub(r"\*\*Not run on a GPU yet\.\*\*.*?\n(?=\n|\Z)", "", text, flags=re.DOTALL).rstrip()
    text = re.sub(r"\n## On a GPU\n.*", "", text, flags=re.DOTALL).rstrip()
    devices = ", ".join(dict.fromkeys(library.device for library in found))
    return "\n".join(
        [text, "", "## On a GPU", "", f"{today}, {devices}, as `gpu.day` of the tests wrote it.", "", *lines]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/verified.md")
    arguments = parser.parse_args()
    found = libraries()
    if not found or COMPILER is None:
        print("NO GPU OR NO g++ HERE: NOTHING WAS MEASURED.")
        return 0
    lines, right = [], True
    for library in found:
        more, kept = report(library)
        lines, right = lines + more, right and kept
        print("\n".join(more), flush=True)
    if arguments.write and right:
        today = dt.datetime.now(tz=dt.UTC).date().isoformat()
        VERIFIED.write_text(record(VERIFIED.read_text(), found, lines, today))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
