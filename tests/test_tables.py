"""The pages say what their tables show, and the tables what the code and the presets say."""

from __future__ import annotations

import pytest

from bench.figures import figures
from tables import README, Claim, accuracy, conventions, libraries, pasted, said, speed, standing, text


@pytest.mark.parametrize(("name", "module"), [("libraries", libraries), ("conventions", conventions)])
def test_a_page_shows_the_table_that_is_drawn(name, module):
    for page, drawn in module.drawn().items():
        assert text(page) == pasted(text(page), name, drawn), f"python -m tables {name} writes it anew"


@pytest.mark.parametrize("claim", [*accuracy.claims(), *speed.claims()], ids=lambda claim: claim.page)
def test_a_sentence_repeats_what_its_table_shows(claim):
    assert text(claim.page) == said(text(claim.page), claim)


@pytest.mark.parametrize("page", [README, accuracy.GRADIENTS])
def test_our_errors_are_within_the_promise(page):
    assert "under 2e-6" in text(page)
    assert all(ours < 2e-6 for ours, _ in accuracy.errors(standing(text(page), "accuracy")).values())


@pytest.mark.parametrize("page", [README, accuracy.GRADIENTS])
def test_every_norm_of_every_library_is_in_the_table_of_errors(page):
    offsets = accuracy.OFFSETS.values()
    wanted = {(norm, at, column) for norm in accuracy.NORMS for at in offsets for column in accuracy.COLUMNS.values()}
    assert set(accuracy.errors(standing(text(page), "accuracy"))) == wanted


def test_every_figure_to_reach_is_in_the_tables_of_speed():
    assert set(speed.ratios(standing(text(speed.PAGE), "speed"))) == {speed.place(figure) for figure in figures()}


def test_what_was_measured_is_drawn_and_read_again():
    rows = [
        {"library": library, "norm": norm, "offset": offset, "error": 5e-7, "native_error": 1.5e3}
        for library in accuracy.COLUMNS
        for norm in accuracy.NORMS
        for offset in accuracy.OFFSETS
    ]
    versions = [{"name": name, "version": "1.0+cpu", "native": "flax.linen 0.1"} for name in accuracy.COLUMNS]
    drawn = accuracy.drawn({"gradients": True, "rows": rows, "libraries": versions})[accuracy.GRADIENTS]
    assert set(accuracy.errors(drawn).values()) == {(5e-7, 1.5e3)}
    assert "NumPy 1.0, JAX 1.0, PyTorch 1.0, Dask 1.0 and Flax 0.1" in drawn


def test_what_took_a_time_is_drawn_and_read_again():
    found = [{"case": one.case.name, "figure": one.ratio, "measured": i / 10} for i, one in enumerate(figures(), 1)]
    extra = [{"case": "", "figure": "extra bytes", "measured": 7.0e4}]
    where = {"cpu": "a processor", "cores": 2, "python": "3.11.7", "versions": {"torch": "2.13.0+cpu"}}
    slow = [row | {"measured": 1e3} for row in found]
    drawn = speed.drawn(*({"figures": rows + extra, "machine": where} for rows in (found, slow, found)))[speed.PAGE]
    assert speed.ratios(drawn) == {speed.place(one): i / 10 for i, one in enumerate(figures(), 1)}
    assert "70 kB at most (1 MB). a processor, 2 cores; Python 3.11.7, PyTorch 2.13.0." in drawn


def test_a_table_is_pasted_between_its_comments_alone():
    page = "before\n\n<!-- some table: from `x` -->\n\n| a |\n\n<!-- end of some table -->\n\nafter"
    assert standing(page, "some") == "| a |"
    assert pasted(page, "some", "| b |\n\nmore") == page.replace("| a |", "| b |\n\nmore")
    with pytest.raises(ValueError, match="a page needs `<!-- other table"):
        pasted(page, "other", "| b |")


def test_numbers_are_put_into_their_sentence_wherever_its_lines_break():
    claim = Claim("page.md", "errs by {} to {}, at most", ("3e-4", "12"))
    assert said("It errs\nby 1e-5 to\n1.5e3, at most.", claim) == "It errs\nby 3e-4 to\n12, at most."
    with pytest.raises(ValueError, match="page.md needs the sentence .* once: found it 0 times"):
        said("It is exact.", claim)
