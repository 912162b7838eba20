"""What the docs say of the libraries is what the tests ask of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from anynorm.testing import USES
from backends import ABOUT, FEATURES
from libraries_table import PLACES, ROOT, needs, written

TESTS = Path(__file__).parent


@pytest.mark.parametrize("place", PLACES)
def test_the_docs_show_the_table_of_the_tests(place):
    page = (ROOT / place).read_text()
    assert page == written(page, PLACES[place]()), "python tests/libraries_table.py writes it anew"


def test_what_a_library_lacks_is_what_some_test_needs_and_the_other_way_round():
    lacking = {name for about in ABOUT.values() for name in about.lacks}
    assert lacking == set().union(*(needs(module) for module in TESTS.glob("test_*.py")))


def test_there_is_something_to_say_of_every_library():
    assert {use.library for use in USES} == set(ABOUT)


@pytest.mark.parametrize("module", FEATURES.values())
def test_a_feature_is_shown_by_tests_of_every_library(module):
    assert "(xp" in (TESTS / f"{module}.py").read_text()
