"""What the docs say of the libraries is what the tests ask of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from anynorm.testing import USES
from backends import ABOUT, FEATURES
from tables.libraries import needs

TESTS = Path(__file__).parent


def test_what_a_library_lacks_is_what_some_test_needs_and_the_other_way_round():
    lacking = {name for about in ABOUT.values() for name in about.lacks}
    assert lacking == set().union(*(needs(module.stem) for module in TESTS.glob("test_*.py")))


def test_there_is_something_to_say_of_every_library():
    assert {use.library for use in USES} == set(ABOUT)


@pytest.mark.parametrize("module", FEATURES.values())
def test_a_feature_is_shown_by_tests_of_every_library(module):
    assert "(xp" in (TESTS / f"{module}.py").read_text()
