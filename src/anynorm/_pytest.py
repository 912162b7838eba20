"""The plugin of pytest: a fixture xp that is every use of every array library, and an option that chooses among them.

A project that has a fixture xp keeps its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import Use

OPTION = "anynorm_library"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option, of a name that no project has."""
    parser.addoption("--anynorm-library", action="append", help="test this array library alone, for xp")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and refuse libraries that are not there before anything is run."""
    libraries(config, only_asked=True)
    config.addinivalue_line("markers", "dtypes(*names): runs with each of them that xp's library has, as dtype")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Make the hook known that a conftest may have."""
    pluginmanager.add_hookspecs(Hooks)


class Hooks:
    """What a project may say of xp."""

    @pytest.hookspec(firstresult=True)
    def pytest_anynorm_uses(self, metafunc: pytest.Metafunc, uses: list[Use]) -> list[Use]:
        """Return those of the uses that a test is to have: all, unless a conftest says otherwise."""
        raise NotImplementedError


@pytest.fixture
def xp() -> Any:
    """Return a use of an array library: array and numpy convert, run calls, and name says which it is."""
    raise NotImplementedError  # it is always parametrised


def libraries(config: pytest.Config, *, only_asked: bool = False) -> list[str]:
    """Return the libraries to test: those asked for, or those that can be used."""
    asked: list[str] = config.getoption(OPTION, None) or []
    if only_asked and not asked:
        return []
    from .testing import USES, usable

    missing = [library for library in asked if not usable(library)]
    if missing:
        message = f"not usable here: {', '.join(missing)}"
        raise pytest.UsageError(message)
    known = {use.library for use in USES}
    if asked and not known.intersection(asked):
        message = f"--anynorm-library needs an array library, of {', '.join(sorted(known))}: got {', '.join(asked)}"
        raise pytest.UsageError(message)
    return asked or [library for library in dict.fromkeys(use.library for use in USES) if usable(library)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes xp in each use of each library."""
    if not _is_ours(metafunc):
        return
    from .testing import USES

    under_test = libraries(metafunc.config)
    uses = [use for use in USES if use.library in under_test]
    chosen = metafunc.config.hook.pytest_anynorm_uses(metafunc=metafunc, uses=uses)
    uses = uses if chosen is None else chosen
    dtypes = metafunc.definition.get_closest_marker("dtypes")
    if dtypes is None:
        metafunc.parametrize("xp", uses, ids=[use.name for use in uses])
    else:
        unknown = set(dtypes.args).difference(*(use.floats for use in USES))
        if unknown:
            message = f"{metafunc.definition.nodeid}: no library has {', '.join(sorted(unknown))}, which dtypes names"
            raise pytest.UsageError(message)
        pairs = [(use, dtype) for use in uses for dtype in dtypes.args if dtype in use.floats]
        metafunc.parametrize(("xp", "dtype"), pairs, ids=[f"{use.name}-{dtype}" for use, dtype in pairs])


def _is_ours(metafunc: pytest.Metafunc) -> bool:
    """Whether a test takes this module's xp: neither a project's fixture nor a parameter of that name."""
    if "xp" not in metafunc.fixturenames:
        return False
    found = metafunc._arg2fixturedefs.get("xp")  # noqa: SLF001  which of several it is, pytest tells in no other way
    return bool(found) and found[-1].func.__module__ == __name__
