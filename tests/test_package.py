"""What a user of the package meets beside its numbers: names, import time, memory."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
import tracemalloc
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

import anynorm
from anynorm._install import REQUIREMENTS, install
from oracles import NORMS


def python(code):
    """Run code in a fresh interpreter and return what it prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_public_names_are_all_of_them():
    public = {name for name, value in vars(anynorm).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert sorted({*public, "vjp"}) == anynorm.__all__


@pytest.mark.parametrize("name", [name for name in anynorm.vjp.__all__ if name != "Pullback"])
def test_vjp_takes_the_arguments_of_the_norms(name):
    ours, norms = (inspect.signature(getattr(module, name)) for module in (anynorm.vjp, anynorm))
    assert ours.parameters == norms.parameters


def test_every_norm_has_a_pullback():
    norms = {name for name in anynorm.__all__ if "norm" in name} | {"weight_standardize"}
    assert norms == set(anynorm.vjp.__all__) - {"Pullback"}


def test_the_packages_beside_the_norms_are_imported_when_they_are_used():
    assert python("import sys, anynorm; print('anynorm.presets' in sys.modules)") == "False\n"
    assert python("import anynorm; print(anynorm.presets.keras.LayerNormalization().epsilon)") == "0.001\n"
    assert python("import anynorm; print(anynorm.testing.KINDS[0])") == "offset 0\n"
    assert {"presets", "testing"} < set(dir(anynorm))
    with pytest.raises(AttributeError, match="module 'anynorm' has no attribute 'nothing'"):
        _ = anynorm.nothing


def test_importing_anynorm_imports_no_array_library():
    heavy = "{'numpy', 'torch', 'jax', 'cupy', 'dask', 'mlx', 'numba', 'array_api_strict', 'rich'}"
    assert python(f"import sys, anynorm; print(sorted({heavy} & set(sys.modules)))").strip() == "[]"


SIGNATURES = {
    "layer_norm": "x, /, weight=None, bias=None, *, axis=-1, eps=1e-05, where=None, sync=None",
    "rms_norm": "x, /, weight=None, bias=None, *, axis=-1, eps=1e-05, where=None, sync=None",
    "group_norm": "x, /, num_groups, weight=None, bias=None, *, channel_axis=1, eps=1e-05, where=None, sync=None",
    "instance_norm": "x, /, *, stats=None, weight=None, bias=None, channel_axis=1, eps=1e-05, where=None, sync=None",
    "batch_norm": "x, /, *, stats=None, weight=None, bias=None, channel_axis=1, eps=1e-05, where=None, sync=None",
    "running_stats": "channels, /, *, like",
    "population_stats": "m, /, *, correction=1",
    "batch_norm_train": "x, stats, /, *, weight=None, bias=None, momentum=0.1, correction=1, channel_axis=1, "
    "eps=1e-05, where=None, sync=None",
    "instance_norm_train": "x, stats, /, *, weight=None, bias=None, momentum=0.1, correction=1, channel_axis=1, "
    "eps=1e-05, where=None, sync=None",
    "batch_renorm_train": "x, stats, /, *, r_max=3.0, d_max=5.0, weight=None, bias=None, momentum=0.1, correction=1, "
    "channel_axis=1, eps=1e-05, where=None, sync=None",
    "weight_standardize": "x, /, *, channel_axis=0, eps=1e-05",
    "unit_norm": "x, /, *, p=2, axis=-1, eps=1e-12",
    "local_response_norm": "x, /, size, *, alpha=0.0001, beta=0.75, k=1.0, channel_axis=1",
    "spectral_norm": "x, u, /, *, channel_axis=0, steps=1, eps=1e-12",
    "moments": "x, /, *, axis=None, where=None, keepdims=False",
    "merge": "first, /, *others",
    "variance": "m, /, *, correction=0",
    "register": "array_type, namespace, /",
    "zscore": "x, /, *, axis=0, correction=0, where=None",
    "minmax_scale": "x, /, *, axis=0, feature_range=(0.0, 1.0), where=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_the_design(name):
    signature = inspect.signature(getattr(anynorm, name))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[name]})"


def start(x):
    return anynorm.running_stats(x.shape[1], like=x)


MEMORY = {
    **{norm.name: norm.call for norm in NORMS},
    "batch_norm in training": lambda x: anynorm.batch_norm_train(x, start(x)),
    "instance_norm in training": lambda x: anynorm.instance_norm_train(x, start(x)),
    "batch_renorm in training": lambda x: anynorm.batch_renorm_train(x, start(x)),
    "batch_norm in inference": lambda x: anynorm.batch_norm(x, stats=start(x)),
    "weight_standardize": anynorm.weight_standardize,
    "unit_norm": anynorm.unit_norm,
    "zscore": anynorm.zscore,
}


@pytest.mark.parametrize("call", MEMORY.values(), ids=MEMORY)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(16, 32, 64, 64), (64, 32, 1024)])
def test_no_norm_of_slices_of_many_elements_takes_more_than_three_times_its_input(call, dtype, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    call(x)  # imports and compiles what it needs
    tracemalloc.start()
    call(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 3 * x.nbytes, f"{peak / x.nbytes:.2f} times the input"


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_affine_takes_no_more(norm):
    x = np.random.default_rng(0).standard_normal((16, 32, 64, 64)).astype(np.float32)
    parameter = np.ones((1, 32, 1, 64), dtype=np.float32)
    norm.call(x, weight=parameter, bias=parameter)
    tracemalloc.start()
    norm.call(x, weight=parameter, bias=parameter)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 3 * x.nbytes, f"{peak / x.nbytes:.2f} times the input"


def test_hints_install_what_the_extras_bring():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert {extra: list(found) for extra, found in REQUIREMENTS.items()} == project["optional-dependencies"]


def test_a_hint_is_a_command_for_a_shell():
    assert install("jax") == 'pip install "jax>=0.6"'
    assert install("dask") == 'pip install "dask[array]>=2025.1" "numpy>=2.0"'
    assert install("fast", "--upgrade") == 'pip install --upgrade "filelock>=3.13" "numba>=0.61" "numpy>=2.0"'


def test_the_package_holds_no_benchmark():
    package = Path(anynorm.__file__).parent
    modules = [file.relative_to(package) for file in package.rglob("*.py")]
    assert Path("_cli/check.py") in modules
    assert [file for file in modules if "bench" in str(file)] == []


# ------------------------------------------------------------------------------------------------ the README

README = Path(__file__).parents[1] / "README.md"
LINK = r"\[[^\]]*\]\(([^)]*)\)"


@pytest.mark.parametrize("link", sorted(set(re.findall(LINK, README.read_text()))))
def test_a_link_of_the_readme_leads_to_a_page_of_the_docs(link):
    file, _, heading = link.partition("#")
    if link.startswith("https://"):
        return
    page = README.parent / file
    assert page.is_file()
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE) if heading else [""]
    assert heading in {title.lower().replace(" ", "-") for title in titles}


def test_a_page_of_an_index_has_no_link_to_files_that_it_does_not_have():
    _, _, description = distribution("anynorm").read_text("METADATA").partition("\n\n# anynorm\n")
    assert '`python -m nox -s "tests(numpy)"`' in description
    assert [link for link in re.findall(LINK, description) if not link.startswith("https://")] == []
