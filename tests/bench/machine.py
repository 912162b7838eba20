"""What the figures are measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def machine() -> dict[str, Any]:
    """Return what the figures are measured on, and how busy it is before."""
    packages = ("numpy", "torch", "jax", "flax", "numba", "onnxruntime")
    return {
        "cpu": processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := version(name))},
        "engines": [],
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "threads": os.environ.get("ANYNORM_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or str(cores()),
    }


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def cores() -> int:
    """Return how many cores the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(name: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return version_of(name)
    except Exception:  # a broken installation raises anything
        return None


def on(found: Mapping[str, Any]) -> str:
    """Return the machine in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    engines = f"; engines that ran: {', '.join(found['engines'])}" if found["engines"] else ""
    what = f"{found['cpu']}, cores: {found['cores']}, threads: {found['threads']}, load before: {found['load']}"
    return f"{what}; Python {found['python']}, {versions}{engines}"
