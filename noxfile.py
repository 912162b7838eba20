#!/usr/bin/env -S python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9", "virtualenv"]
# ///
"""Every check of the project: `nox` runs them all, `nox -s "tests(torch)"` one of them, `nox -l` lists them."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"

PROJECT = nox.project.load_toml("pyproject.toml")
WORKERS = ("-n", "auto", "--maxprocesses", "8", "--dist", "worksteal")  # more than there are cores take longer
ARRAY_API = {"ANYNORM_ENGINE": "array-api"}
PLAIN = "not compiled and not inductor and not jit and not bench and not engine"  # where there is a choice of engine


def install(session: nox.Session, *groups: str) -> None:
    """Install the package, as it stands here, beside dependency groups of pyproject.toml."""
    # Python compiles what is imported; pip would compile everything. Sessions that share the source share its kernels.
    session.install("--no-compile", *nox.project.dependency_groups(PROJECT, *groups), "-e", ".")


def test(session: nox.Session, library: str, helpers: tuple[str, ...], *options: str) -> None:
    """Run the tests of one array library."""
    install(session, "test", library)
    needed = [f"--library={name}" for name in (library, *helpers)]
    session.run("pytest", *WORKERS, *needed, *options, *session.posargs)


LIBRARIES = [  # an array library, and what else its tests need
    nox.param("numpy", ("numba", "matplotlib", "sklearn", "PIL", "scipy", "rich", "mlx.nn", "nox"), id="numpy"),
    nox.param("array_api_strict", (), id="strict"),
    nox.param("torch", ("numba", "onnxscript", "onnxruntime", "safetensors"), id="torch"),
    nox.param("jax", ("flax", "haiku", "equinox", "keras"), id="jax"),
    nox.param("dask", ("distributed", "numba"), id="dask"),
]


@nox.session
@nox.parametrize(("library", "helpers"), LIBRARIES)
def tests(session: nox.Session, library: str, helpers: tuple[str, ...]) -> None:
    """Test one array library, against float64 and against its own norms."""
    test(session, library, helpers)


@nox.session(default=False, tags=["full"])
@nox.parametrize(("library", "helpers"), LIBRARIES)
def full(session: nox.Session, library: str, helpers: tuple[str, ...]) -> None:
    """Test everything of one array library, in every use, by its engine and by array-API code: before a release."""
    test(session, library, helpers, "--slow")
    session.run("pytest", *WORKERS, f"--library={library}", "-k", PLAIN, *session.posargs, env=ARRAY_API)


@nox.session(name="tests(cupy)")
def cupy(session: nox.Session) -> None:
    """Test CuPy, and CUDA tensors, which takes a GPU; then measure both, and write docs/verified.md."""
    if shutil.which("nvidia-smi") is None:
        session.warn("NO GPU HERE: NOTHING OF CUPY WAS TESTED. docs/verified.md says when and where it last was.")
        return
    install(session, "test", "cupy", "cuda")
    session.run("pytest", "--library", "cupy", *session.posargs)
    if shutil.which("g++") is not None:  # which compiles the emulator
        session.install("torch>=2.7")
        session.run("python", "-m", "gpu.day", "--write", env={"PYTHONPATH": "tests"})


@nox.session(name="tests(mlx)", default=False)
def mlx(session: nox.Session) -> None:
    """Test MLX on a CPU: `nox -s "tests(mlx)"`."""
    test(session, "mlx", ())


MORE = ("dpnp", "ndonnx", "sparse", "cubed")


@nox.session(name="tests(more)", default=False)
def more(session: nox.Session) -> None:
    """Test the libraries that have nothing of their own here: dpnp on a CPU, ndonnx, pydata/sparse and Cubed."""
    install(session, "test", "more")
    driver = {"OCL_ICD_FILENAMES": f"{session.virtualenv.location}/lib/libintelocl.so"}  # which makes the CPU a device
    needed = [f"--library={name}" for name in (*MORE, "onnxruntime")]
    session.run("pytest", *WORKERS, *needed, *session.posargs, env=driver)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Time every norm beside the native ones, or with `-- --against REVISION` beside another revision."""
    install(session, "bench")
    session.run("python", "-m", "bench", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session(default=False)
def clusters(session: nox.Session) -> None:
    """Test and time Dask on worker processes: killed, larger than their memory, and beside the textbook."""
    install(session, "test", "clusters")
    needed = ("--library", "dask", "--library", "distributed")
    session.run("pytest", "-rP", "--slow", "tests/test_cluster.py", *needed, *session.posargs)
    session.run("python", "-m", "bench.clusters", env={"PYTHONPATH": "tests"})


@nox.session(default=False)
def figures(session: nox.Session) -> None:
    """Measure what the README and the docs say of errors and speed, and write it there: minutes of a quiet machine."""
    install(session, "test", "bench", "clusters")
    tests = {"PYTHONPATH": "tests"}
    commands = (  # of which table, run how often, printed as what
        ("accuracy", 1, "json", "anynorm", "check", "--json"),
        ("accuracy", 1, "json", "anynorm", "check", "--gradients", "--json"),
        ("speed", 3, "json", "bench", "--figures", "--rounds", "25", "--json"),
        ("first", 1, "txt", "bench.first"),
        ("clusters", 1, "txt", "bench.clusters"),
    )
    for table in ("libraries", "conventions"):
        session.run("python", "-m", "tables", table, env=tests)
    for table, times, suffix, *command in commands:
        found = [Path(session.create_tmp(), f"{table}{i}.{suffix}") for i in range(times)]
        for file in found:
            with file.open("w") as out:
                session.run("python", "-m", *command, env=tests, stdout=out)
        session.run("python", "-m", "tables", table, *map(str, found), env=tests)


@nox.session(default=False)
def xla_gpu(session: nox.Session) -> None:
    """Count the kernels that XLA makes of the norms for a GPU, which takes none."""
    install(session, "test", "jax")
    session.install("--no-compile", "--no-deps", *nox.project.dependency_groups(PROJECT, "xla_gpu"))
    settings = {"JAX_PLATFORMS": "cpu,cuda", "CUDA_VISIBLE_DEVICES": "-1", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    settings |= {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    session.run("pytest", "-rP", "tests/xla_gpu.py", "--library", "jax", *session.posargs, env=settings)


@nox.session(default=False)
def nvrtc(session: nox.Session) -> None:
    """Compile every kernel for GPUs, which takes none: `nox -s nvrtc -- --architectures 90` for one of them."""
    install(session, "cuda")
    session.run("python", "-m", "gpu.nvrtc", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Call everything with random arguments, right and wrong: `nox -s fuzz -- --seconds 600` for ten minutes."""
    install(session, "test", "torch", "jax")
    libraries = ("--library", "numpy", "--library", "torch", "--library", "jax")
    session.run("python", "-W", "error", "tests/fuzz.py", *libraries, *session.posargs)


@nox.session
def bare(session: nox.Session) -> None:
    """The package with its runtime dependencies alone."""
    session.install(".")
    session.run("python", "-W", "error", "tests/bare.py")


@nox.session
def minimums(session: nox.Session) -> None:
    """Test the lowest versions that the package says it supports."""
    install(session, "test", "minimums")
    session.run("pytest", *WORKERS, "--library", "numpy", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Read the code for mistakes and its layout."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check the types."""
    install(session, "typecheck")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the docs, and run every example in them, in the docstrings and in the README."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-E", "-d", "docs/_build/read", "docs", "docs/_build/html")
    session.run("python", "docs/doctests.py")  # of what has been read
    session.run("python", "-W", "error", "-m", "doctest", "README.md")


@nox.session(default=False)
def links(session: nox.Session) -> None:
    """Follow every link of the docs and the docstrings, those to other hosts too, which takes a network."""
    install(session, "docs")
    session.run("sphinx-build", "-b", "linkcheck", "-E", "-d", "docs/_build/read", "docs", "docs/_build/links")
