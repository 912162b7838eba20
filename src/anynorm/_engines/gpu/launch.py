"""Launching kernels by CUDA's own bindings: compiled by NVRTC when first needed, and kept on disk as machine code."""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..choice import report

if TYPE_CHECKING:
    from .plan import Case

SOURCE = Path(__file__).with_name("norms.cu")
OPTIONS = ("-std=c++17", "--fmad=false")  # no operation but IEEE's: so every GPU gives the bits of the emulator


@cache
def source() -> str:
    """Return the kernels' source."""
    return SOURCE.read_text(encoding="utf-8")


@cache
def usable() -> bool:
    """Whether kernels can be compiled and launched; what is installed and cannot be used is said once."""
    try:
        from cuda.bindings import driver, nvrtc

        done(nvrtc.nvrtcVersion())
        done(driver.cuInit(0))
    except Exception as error:  # noqa: BLE001  a driver or a library that is half there raises anything
        report("gpu", error)
        return False
    return True


def done(result: tuple[Any, ...]) -> Any:
    """Return what a call of CUDA returned, or raise what it says went wrong."""
    error, *values = result
    if int(error):
        message = f"CUDA says {error.name}"
        raise RuntimeError(message)
    return values[0] if len(values) == 1 else values


# ---------------------------------------------------------------------------------- compiling


def machine_code(case: Case, capability: str) -> bytes:
    """Return a case as machine code for a compute capability, such as 90: compiled now, or by an earlier process.

    A file is named by all that it is made of, and holds its own checksum; it is written under another name first, so
    nobody reads half of one. Where it is damaged, or none can be written, the code is compiled in memory.
    """
    from cuda.bindings import nvrtc

    made_of = repr((source(), OPTIONS, case, capability, done(nvrtc.nvrtcVersion())))
    path = folder() / f"{hashlib.sha256(made_of.encode()).hexdigest()}.cubin"
    with suppress(OSError):
        kept = path.read_bytes()
        if hashlib.sha256(kept[32:]).digest() == kept[:32]:
            return kept[32:]
    code = compiled(case, capability)[0]
    with suppress(OSError):
        keep(path, hashlib.sha256(code).digest() + code)
    return code


def keep(path: Path, content: bytes) -> None:
    """Write a file, which others see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as own:
        new = Path(own) / path.name
        new.write_bytes(content)
        new.replace(path)


def folder() -> Path:
    """Return where machine code is kept."""
    asked = os.environ.get("ANYNORM_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(asked) if asked else Path(home).expanduser() / "anynorm"


def compiled(case: Case, capability: str, *options: str) -> tuple[bytes, str]:
    """Compile a case for a compute capability; return the machine code, and what the compiler says."""
    from cuda.bindings import nvrtc

    program = done(nvrtc.nvrtcCreateProgram(source().encode(), b"norms.cu", 0, [], []))
    told = [f"--gpu-architecture=sm_{capability}", *OPTIONS, *options, *case.macros()]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(told), [option.encode() for option in told])
    log = b" " * done(nvrtc.nvrtcGetProgramLogSize(program))
    done(nvrtc.nvrtcGetProgramLog(program, log))
    if int(error):
        message = f"NVRTC does not compile {case} for sm_{capability}: {log.decode(errors='replace')}"
        raise RuntimeError(message)
    code = b" " * done(nvrtc.nvrtcGetCUBINSize(program))
    done(nvrtc.nvrtcGetCUBIN(program, code))
    done(nvrtc.nvrtcDestroyProgram(program))
    return code, log.decode(errors="replace").rstrip("\0 ")


# ---------------------------------------------------------------------------------- launching


@cache
def kernel(case: Case, device: int) -> Any:
    """Return a case as a kernel of a device, whose context is current; it may be loaded while a graph is captured."""
    from cuda.bindings import driver

    named = driver.CUdevice_attribute
    parts = (named.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, named.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
    major, minor = (done(driver.cuDeviceGetAttribute(part, device)) for part in parts)
    code = machine_code(case, f"{major}{minor}")
    before = done(driver.cuThreadExchangeStreamCaptureMode(driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
    try:
        return done(driver.cuModuleGetFunction(done(driver.cuModuleLoadData(code)), b"kernel"))
    finally:
        done(driver.cuThreadExchangeStreamCaptureMode(before))


def launch(function: Any, grid: int, block: int, stream: int, arguments: bytes) -> None:
    """Launch a kernel on a stream; it is told its arguments as the bytes of one structure."""
    from cuda.bindings import driver

    told = ctypes.create_string_buffer(arguments, len(arguments))  # which CUDA copies before it returns
    table = (ctypes.c_void_p * 1)(ctypes.addressof(told))
    done(driver.cuLaunchKernel(function, grid, 1, 1, block, 1, 1, 0, stream, ctypes.addressof(table), 0))
