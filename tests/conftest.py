"""One fixture gives every test every array library."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from anynorm._pytest import OPTION, libraries
from anynorm.testing import USES, Use, usable
from backends import ABOUT, EXHAUSTIVE, FEATURES, SLOW

# JAX and Keras read these when they are imported; eight devices on one host are what the tests of replicas need.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("KERAS_BACKEND", "jax")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--library", dest=OPTION, action="append", help="as --anynorm-library")
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow, and every test in every use")


def pytest_configure(config: pytest.Config) -> None:
    # A library other than NumPy takes its time for every new shape, JAX most: few examples for each, of many libraries.
    under_test = libraries(config)
    examples = 100 if under_test == ["numpy"] else 3 if "jax" in under_test else 10
    settings.register_profile(
        "anynorm", max_examples=examples, deadline=None, derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )  # fmt: skip
    settings.load_profile("anynorm")
    if usable("jax"):
        import jax

        jax.config.update("jax_numpy_dtype_promotion", "strict")
        # Most of the time goes into compiling small functions: workers share them, and so does the next run.
        if config.pluginmanager.has_plugin("cacheprovider"):
            jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_anynorm_uses(metafunc: pytest.Metafunc, uses: list[Use]) -> list[Use]:
    """Leave out the uses that would show nothing more of a test."""
    mark = metafunc.definition.get_closest_marker
    eager, slow = mark("eager") is not None, metafunc.config.getoption("--slow")
    under_test = {use.library for use in uses}
    every = under_test if eager or slow else set()  # the libraries to test in every use
    if (every_use := mark("every_use")) and not every:
        every = set(every_use.args) or under_test
    left_out = set() if slow or not (slow_on := mark("slow_on")) else set(slow_on.args)
    shows = metafunc.module.__name__.rpartition(".")[2] in FEATURES.values()
    return [
        use
        for use in uses
        if not (eager and use.variant)
        and (use.library in every or use.name not in EXHAUSTIVE)
        and use.library not in left_out
        and (shows or not ABOUT[use.library].few)
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs an array library that is not under test, or a helper that is not installed."""
    chosen, arrays = libraries(config), set(ABOUT)

    def wanted(item: pytest.Item) -> bool:
        called_with = item.callspec.params if hasattr(item, "callspec") else {}
        if not isinstance(called_with.get("xp", USES[0]), Use):
            return False  # no library under test is one of the test's
        needs = [name for mark in item.iter_markers("library") for name in mark.args]
        if "xp" not in item.fixturenames and not arrays.intersection(needs):  # the same whichever libraries there are
            needs.append("numpy")
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            return False
        if os.environ.get("ANYNORM_ENGINE") == "array-api" and (item.get_closest_marker("engine") or "numba" in needs):
            return False
        return all(name in chosen if name in arrays else usable(name) for name in needs)

    left_out = [item for item in items if not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if wanted(item)]
    for item in items:
        expect_what_is_lacking(item)


def expect_what_is_lacking(item: pytest.Item) -> None:
    """Let a test fail that needs what its library lacks, with the reason; some of its cases may do without."""
    needed = {name for mark in item.iter_markers("needs") for name in mark.args}
    if needed:
        own = [name for mark in item.iter_markers("library") for name in mark.args if name in ABOUT]
        tested = [item.callspec.params["xp"].library] if "xp" in item.fixturenames else own
        for name, reason in [
            found for library in tested for found in ABOUT[library].lacks.items() if found[0] in needed
        ]:
            item.add_marker(pytest.mark.xfail(reason=f"{name}: {reason}", run=name not in SLOW, strict=False))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)  # not the seed of oracles.data
