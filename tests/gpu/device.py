"""A GPU that is none: its memory is the CPU's, and its kernels are compiled by g++ with the emulator.

It takes the place of launch(), so that everything else of the engine runs as it would.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

import anynorm
from anynorm._core import libraries, plans
from anynorm._engines import choice
from anynorm._engines.gpu import launch as launcher

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-w")
COMPILER = shutil.which("g++")


@cache
def emulated(macros, source):
    """Return a kernel as a function of the CPU; what was compiled is kept for the next run."""
    beside = b"".join((HERE / name).read_bytes() for name in ("emulate.h", "entry.cpp"))
    key = hashlib.sha256(repr((source, beside, FLAGS, macros)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"anynorm-emulated-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            Path(own, "norms.cu").write_text(source)
            command = [COMPILER, *FLAGS, *macros, f'-DSOURCE="{own}/norms.cu"', HERE / "entry.cpp", "-o"]
            subprocess.run([*command, f"{own}/built.so"], check=True)
            Path(own, "built.so").replace(library)
    loaded = ctypes.CDLL(str(library))
    loaded.launch.restype = ctypes.c_char_p
    loaded.launch.argtypes = [ctypes.c_uint] * 3 + [ctypes.c_char_p]
    loaded.size_of_call.restype = ctypes.c_ulonglong
    return loaded


GUARD = 1 << 14  # bytes around an array, which no kernel may write to
MARK = 0x5A


class Device:
    """What stands in for a GPU: it runs the threads of a block in an order, and remembers what was launched."""

    def __init__(self):
        self.order, self.kernels, self.launched, self.guarded = 0, [], set(), []
        self.changed = None  # a kernel, and what its source is in place of the engine's own

    def memory(self, shape, dtype):
        """Return an array of NumPy's between guards."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        whole = np.full(size + 2 * GUARD, MARK, np.uint8)
        start = GUARD - (whole.ctypes.data + GUARD) % 256  # where a GPU's arrays begin
        self.guarded.append((whole, start, start + size))
        return whole[start : start + size].view(dtype).reshape(shape)

    def launch(self, macros, grid, block, arguments):
        kernel = macros[0].removeprefix("-DKERNEL=")
        changed = self.changed is not None and self.changed[0] == kernel
        function = emulated(tuple(macros), self.changed[1] if changed else launcher.source())
        assert function.size_of_call() == len(arguments)
        self.kernels.append(kernel)
        self.launched.add(tuple(macros))
        wrong = function.launch(grid, block, self.order, arguments)
        if wrong is not None:
            raise RuntimeError(wrong.decode())
        for whole, start, end in self.guarded:
            if (whole[:start] != MARK).any() or (whole[end:] != MARK).any():
                message = f"{kernel} wrote beside an array"
                raise RuntimeError(message)


@contextmanager
def forgotten(monkeypatch):
    """Start, and end, with no engine loaded and no plan made."""
    monkeypatch.setattr(plans, "_known", {})
    for kept in (choice._load, choice._chosen):
        kept.cache_clear()
    yield
    for kept in (choice._load, choice._chosen):
        kept.cache_clear()


# ------------------------------------------------------------------------------------------------ tensors


class Tensors:
    """Tensors of the CPU that pass for those of a GPU."""

    def __init__(self, device):
        self.device = device

    def array(self, a, dtype=None):
        import torch

        return torch.from_numpy(np.array(a)).to(dtype and getattr(torch, dtype))

    def numpy(self, y):
        return (y.float() if y.element_size() == 2 else y).detach().numpy()

    @contextmanager
    def lent(self, monkeypatch):
        from anynorm._engines.gpu import torch as engine

        def launch(case, grid, block, arguments, like):
            assert like.is_cpu
            self.device.launch(case.macros(), grid, block, arguments)

        monkeypatch.setattr(engine, "on_gpu", lambda value: value.is_cpu)
        monkeypatch.setattr(launcher, "usable", lambda: True)
        monkeypatch.setattr(engine, "MEMORY", engine.MEMORY._replace(launch=launch))
        with forgotten(monkeypatch), anynorm.engine("gpu"):
            yield self


# ------------------------------------------------------------------------------------------------ arrays of CuPy


class Place(str):
    """The one device, which is entered as CuPy's are, and which NumPy's namespace knows by its name."""

    __slots__ = ()

    id = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


HERE_IT_IS = Place("cpu")


class Array(np.ndarray):
    """NumPy's memory with the attributes of CuPy's arrays."""

    __module__ = "cupy"
    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))
    device = HERE_IT_IS

    def __array_wrap__(self, a, context=None, return_scalar=False):
        return own(np.asarray(a))


def own(result):
    """Return what NumPy made as CuPy's: no scalars, no arrays of NumPy."""
    if isinstance(result, (np.ndarray, np.generic)):
        return np.asarray(result).view(Array)
    return tuple(map(own, result)) if type(result) is tuple else result


class Borrowed(ModuleType):
    """A module whose functions are another's, which make arrays of CuPy."""

    def __init__(self, name, functions, **more):
        super().__init__(name)
        self.functions = functions
        vars(self).update(more)

    def __getattr__(self, name):
        found = getattr(self.functions, name)
        callable_ = callable(found) and not isinstance(found, type) and not name.startswith("__")
        return (lambda *arguments, **keywords: own(found(*arguments, **keywords))) if callable_ else found


class Arrays:
    """A CuPy whose memory is NumPy's, and whose modules of kernels are the emulator's."""

    def __init__(self, device):
        self.device = device

    def array(self, a, dtype=None):
        a = np.asarray(a, dtype=dtype)
        copy = self.device.memory(a.shape, a.dtype)
        copy[...] = a
        return copy.view(Array)

    def empty_like(self, a, dtype=None):
        """Return memory in the order of another array's."""
        order = sorted(range(a.ndim), key=lambda i: -a.strides[i])
        memory = self.device.memory(tuple(a.shape[i] for i in order), dtype or a.dtype)
        return memory.transpose(np.argsort(order)).view(Array)

    def contiguous(self, a):
        return a if a.flags.c_contiguous else self.array(a)

    def empty(self, shape, dtype):
        return self.device.memory(shape, dtype).view(Array)

    def numpy(self, y):
        assert type(y) is Array
        return y.view(np.ndarray)

    def compile(self, code, options):
        assert code == launcher.source()
        macros = [option for option in options if option.startswith("-D")]

        def call(grid, block, arguments):
            self.device.launch(macros, *grid, *block, arguments[0].tobytes())

        return SimpleNamespace(get_function=lambda name: {"kernel": call}[name])

    @contextmanager
    def lent(self, monkeypatch):
        import array_api_compat.numpy

        cuda = SimpleNamespace(nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)), runtime=SimpleNamespace(is_hip=False))
        cupy = Borrowed("cupy", np, ndarray=Array, RawModule=self.compile, cuda=cuda)
        cupy.empty, cupy.empty_like, cupy.ascontiguousarray = self.empty, self.empty_like, self.contiguous
        namespace = Borrowed("array_api_compat.cupy", array_api_compat.numpy)
        namespace.__array_namespace_info__ = array_api_compat.numpy.__array_namespace_info__
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "array_api_compat.cupy", namespace)
        monkeypatch.delitem(sys.modules, "anynorm._engines.gpu.cupy", raising=False)
        monkeypatch.setattr(libraries, "_namespaces", {Array: namespace})  # its class is one of NumPy, too
        with forgotten(monkeypatch), anynorm.engine("gpu"):
            yield self
        sys.modules.pop("anynorm._engines.gpu.cupy", None)
