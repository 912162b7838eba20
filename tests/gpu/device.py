"""A GPU that is none: its memory is the CPU's, and its kernels are compiled by g++ with the emulator.

It takes the place of launch(), so that everything else of the engine runs as it would.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from anynorm._engines.gpu import launch as launcher

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-w")
COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no g++ here: no kernel was emulated")


@cache
def emulated(case, source=None):
    """Return a case, or one of another source, as a function of the CPU; what was compiled is kept for the next run."""
    text = launcher.source() if source is None else source
    beside = b"".join((HERE / name).read_bytes() for name in ("emulate.h", "entry.cpp"))
    key = hashlib.sha256(repr((text, beside, FLAGS, case)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"anynorm-emulated-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            (Path(own) / "norms.cu").write_text(text)
            command = [COMPILER, *FLAGS, *case.macros(), f'-DSOURCE="{own}/norms.cu"', HERE / "entry.cpp", "-o"]
            subprocess.run([*command, f"{own}/built.so"], check=True)
            Path(own, "built.so").replace(library)
    loaded = ctypes.CDLL(str(library))
    loaded.launch.restype = ctypes.c_char_p
    loaded.launch.argtypes = [ctypes.c_uint] * 3 + [ctypes.c_char_p]
    loaded.size_of_call.restype = ctypes.c_ulonglong
    return loaded


class Device:
    """What stands in for a GPU: it runs the threads in an order, and remembers what was launched."""

    def __init__(self):
        self.order, self.source, self.launched = 0, None, []

    def launch(self, case, grid, block, arguments, like):
        function = emulated(case, self.source)
        assert function.size_of_call() == len(arguments)
        self.launched.append(case)
        wrong = function.launch(grid, block, self.order, arguments)
        if wrong is not None:
            raise RuntimeError(wrong.decode())

    @property
    def kernels(self):
        """The names of the kernels that were launched."""
        return [case.kernel for case in self.launched]


@contextmanager
def torch_on(device, monkeypatch):
    """Have tensors of the CPU be tensors of a device."""
    import anynorm
    from anynorm._core import plans
    from anynorm._engines.gpu import torch as engine

    monkeypatch.setattr(plans, "_known", {})
    monkeypatch.setattr(engine, "on_gpu", lambda value: value.is_cpu)
    monkeypatch.setattr(launcher, "usable", lambda: True)
    monkeypatch.setattr(engine, "MEMORY", engine.MEMORY._replace(launch=device.launch))
    with anynorm.engine("gpu"):
        yield
