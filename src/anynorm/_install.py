"""What to install for each extra: anynorm is on no index, so a hint names what pip finds on one."""

from __future__ import annotations

REQUIREMENTS = {
    "numpy": ("numpy>=2.0",),
    "jax": ("jax>=0.6",),
    "torch": ("torch>=2.7",),
    "cupy": ("cupy-cuda13x>=14",),
    "cuda": ("cuda-bindings>=13", "nvidia-cuda-nvrtc>=13"),
    "dask": ("dask[array]>=2025.1", "numpy>=2.0"),
    "mlx": ("mlx>=0.32.1",),
    "fast": ("filelock>=3.13", "numba>=0.61", "numpy>=2.0"),
    "cli": ("rich>=13",),
}  # as in pyproject.toml


def install(extra: str, *options: str) -> str:
    """Return the command that installs what an extra brings."""
    return " ".join(["pip install", *options, *(f'"{requirement}"' for requirement in REQUIREMENTS[extra])])
