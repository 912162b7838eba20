"""The README says no more than its tables show."""

from __future__ import annotations

from accuracy_table import COLUMNS, NORMS, OFFSETS, README, claimed, drawn, read

PAGE = README.read_text()


def test_every_norm_of_every_library_is_in_the_table():
    wanted = {(norm, offset, column) for norm in NORMS for offset in OFFSETS.values() for column in COLUMNS.values()}
    assert set(read(PAGE)) == wanted


def test_our_errors_are_within_the_promise():
    assert "under 2e-6" in PAGE
    assert all(ours < 2e-6 for ours, _ in read(PAGE).values())


def test_what_native_norms_are_said_to_err_by_is_what_the_table_shows():
    theirs = [theirs for (norm, offset, _), (_, theirs) in read(PAGE).items() if offset == "1e4" and norm != "rms"]
    least, largest = claimed(PAGE)
    assert f"{min(theirs):.0e}" == f"{least:.0e}"
    assert max(theirs) == largest


def test_a_table_that_is_drawn_is_read_as_it_was():
    rows = [
        {"library": library, "norm": norm, "offset": offset, "error": 5e-7, "native_error": 1.5e3}
        for library in COLUMNS
        for norm in NORMS
        for offset in OFFSETS
    ]
    page = PAGE.replace(
        PAGE.split("check` -->")[1].split("<!-- end of accuracy")[0], f"\n\n{drawn({'rows': rows})}\n\n"
    )
    assert set(read(page).values()) == {(5e-7, 1.5e3)}
