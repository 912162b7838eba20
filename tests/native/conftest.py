"""Leave out, silently, the comparisons whose library is not under test or whose reference is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anynorm.testing import usable

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# the array library first; with it installed the modules import what they need at their top
NEEDS = {
    "test_cupy.py": ("cupy",),
    "test_dask.py": ("dask", "scipy", "sklearn"),
    "test_jax.py": ("jax", "flax"),
    "test_jax_masks.py": ("jax", "flax"),
    "test_mlx.py": ("mlx",),
    "test_numpy.py": ("numpy", "scipy", "sklearn"),
    "test_torch.py": ("torch",),
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    needs = NEEDS.get(collection_path.name)
    if needs is None:
        return None
    asked = config.getoption("--library")
    wanted = not asked or needs[0] in asked
    return None if wanted and all(usable(name) for name in needs) else True
