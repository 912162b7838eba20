"""Machine code and launches, by bindings that are none: what is kept on disk, and what a kernel is told."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import pytest

from anynorm._engines import choice
from anynorm._engines.gpu import launch
from anynorm._engines.gpu.plan import Case

CASE = Case("rows", 0, 0, 0, 4, 8, 32, 4, 0)


class Code(int):
    """A code of CUDA's, 0 where nothing went wrong."""

    name = "CUDA_ERROR_OF_THE_TEST"


@pytest.fixture
def bindings(monkeypatch, tmp_path):
    """Stand in for cuda.bindings, count what is compiled, and keep it in a folder of the test."""
    compiled, launched = [], []
    module = ModuleType("cuda.bindings")
    module.nvrtc = SimpleNamespace(nvrtcVersion=lambda: (Code(0), 13, 0))
    module.driver = SimpleNamespace(
        cuInit=lambda _: (Code(0),),
        cuLaunchKernel=lambda *told: launched.append((told, read(told[-2]))) or (Code(0),),
    )
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", module)
    monkeypatch.setenv("ANYNORM_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(launch, "compiled", lambda *made_of: compiled.append(made_of) or (repr(made_of).encode(), ""))
    launch.usable.cache_clear()
    yield SimpleNamespace(module=module, compiled=compiled, launched=launched, folder=tmp_path / "kept")
    launch.usable.cache_clear()


def read(table):
    """Return the bytes that the first entry of a table of arguments points to."""
    return ctypes.string_at(ctypes.c_void_p.from_address(table).value, 8)


def test_what_was_compiled_is_read_from_disk(bindings):
    first = launch.machine_code(CASE, "90")
    assert launch.machine_code(CASE, "90") == first
    assert len(bindings.compiled) == 1
    assert len(list(bindings.folder.iterdir())) == 1


def test_another_case_capability_source_or_compiler_is_another_file(bindings, monkeypatch):
    launch.machine_code(CASE, "90")
    launch.machine_code(CASE._replace(per=4), "90")
    launch.machine_code(CASE, "80")
    monkeypatch.setattr(launch, "source", lambda: "another")
    launch.machine_code(CASE, "90")
    bindings.module.nvrtc.nvrtcVersion = lambda: (Code(0), 13, 1)
    launch.machine_code(CASE, "90")
    assert len(bindings.compiled) == len(list(bindings.folder.iterdir())) == 5


@pytest.mark.parametrize("damage", [b"", b"half", b"x" * 500])
def test_a_damaged_file_is_compiled_anew(bindings, damage):
    code = launch.machine_code(CASE, "90")
    (file,) = bindings.folder.iterdir()
    file.write_bytes(damage)
    assert launch.machine_code(CASE, "90") == code
    assert launch.machine_code(CASE, "90") == code
    assert len(bindings.compiled) == 2


def test_without_a_place_to_write_to_it_is_compiled_in_memory(bindings, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANYNORM_CACHE_DIR", str(tmp_path / "file"))
    assert launch.machine_code(CASE, "90") == launch.machine_code(CASE, "90")
    assert len(bindings.compiled) == 2


def test_a_full_disk_leaves_nothing_behind(bindings, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launch.Path, "write_bytes", full)
    assert launch.machine_code(CASE, "90")
    assert list(bindings.folder.iterdir()) == []


def test_many_threads_at_once_leave_one_whole_file(bindings):
    with ThreadPoolExecutor(8) as pool:
        codes = set(pool.map(lambda _: launch.machine_code(CASE, "90"), range(64)))
    assert len(codes) == 1
    assert len(list(bindings.folder.iterdir())) == 1


def test_a_kernel_is_loaded_once_for_a_device_and_its_capability(bindings):
    modes, driver = [], bindings.module.driver
    driver.CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor"
    )
    driver.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED="relaxed")
    driver.cuDeviceGetAttribute = lambda part, device: (Code(0), {"major": 9 + device, "minor": 0}[part])
    driver.cuThreadExchangeStreamCaptureMode = lambda mode: modes.append(mode) or (Code(0), "as it was")
    driver.cuModuleLoadData = lambda code: (Code(0), code)
    driver.cuModuleGetFunction = lambda module, name: (Code(0), (name, module))
    launch.kernel.cache_clear()
    first = launch.kernel(CASE, 0)
    assert launch.kernel(CASE, 0) is first
    assert first[0] == b"kernel"
    assert launch.kernel(CASE, 1) != first
    assert [capability for _, capability in bindings.compiled] == ["90", "100"]
    assert modes == ["relaxed", "as it was"] * 2
    launch.kernel.cache_clear()


def test_a_kernel_is_told_the_bytes_of_its_arguments(bindings):
    launch.launch("kernel", 7, 128, 42, b"8 bytes!")
    ((told, given),) = bindings.launched
    assert told[:8] == ("kernel", 7, 1, 1, 128, 1, 1, 0)
    assert told[8] == 42
    assert given == b"8 bytes!"


def test_what_cuda_says_went_wrong_is_raised():
    with pytest.raises(RuntimeError, match="CUDA says CUDA_ERROR_OF_THE_TEST"):
        launch.done((Code(1),))
    assert launch.done((Code(0), 3)) == 3
    assert launch.done((Code(0), 3, 4)) == [3, 4]


def test_without_a_driver_it_is_said_once(bindings, monkeypatch):
    monkeypatch.setattr(choice, "_problems", {})
    bindings.module.driver.cuInit = lambda _: (Code(100),)
    with pytest.warns(RuntimeWarning, match="in place of its engine gpu: .*CUDA says CUDA_ERROR_OF_THE_TEST.*"):
        assert not launch.usable()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        launch.usable.cache_clear()
        assert not launch.usable()


@pytest.mark.usefixtures("bindings")
def test_without_bindings_nothing_is_said(monkeypatch):
    monkeypatch.setattr(choice, "_problems", {})
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    assert not launch.usable()
    assert choice.problems() == {}


def test_machine_code_is_kept_where_caches_are(monkeypatch):
    monkeypatch.delenv("ANYNORM_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", os.path.join("a", "cache"))  # noqa: PTH118
    assert launch.folder() == launch.Path("a", "cache", "anynorm")
