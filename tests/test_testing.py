"""anynorm.testing tells a norm that is right from one that is wrong, and says what is wrong with it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import anynorm
from anynorm import _cli, testing
from anynorm.testing import _reference as reference
from oracles import assert_within

RIGHT = {
    "layer": lambda x: anynorm.layer_norm(x, axis=(1, 2, 3)),
    "last axis": anynorm.layer_norm,
    "rms": lambda x: anynorm.rms_norm(x, axis=(1, 2, 3)),
    "group": lambda x: anynorm.group_norm(x, 8),
    "instance": anynorm.instance_norm,
    "batch": anynorm.batch_norm,
}


each_library = pytest.mark.parametrize(
    "library", [pytest.param(name, marks=pytest.mark.library(name)) for name in reference.LIBRARIES]
)


@pytest.mark.parametrize(
    ("norm", "library"),
    [
        pytest.param(
            norm, name, marks=[pytest.mark.library(name), *([pytest.mark.slow] if name == "jax" and seldom else [])]
        )
        for name in reference.LIBRARIES
        for norm, seldom in zip(RIGHT, (True, False, True, False, True, True), strict=True)
    ],
)
def test_ours_are_right(library, norm):
    report = testing.check_norm(RIGHT[norm], norm, libraries=[library])
    assert report.kept, str(report)
    uses = {"numpy": {"eager", "read-only"}, "jax": {"eager", "jitted"}, "dask": {"lazy"}}.get(library, {"eager"})
    assert {(f.use, f.data) for f in report.findings} == {
        (use, kind) for use in uses for kind in (*testing.KINDS, "constant", "empty")
    }
    assert ("gradient" in {f.of for f in report.findings}) == (library in {"jax", "torch"})


@each_library
@pytest.mark.parametrize("norm", RIGHT)
def test_every_norm_is_told_from_the_others(library, norm):
    for other, function in RIGHT.items():
        if other != norm:
            with pytest.raises(AssertionError, match=f"the {norm} norm misses"):
                testing.assert_norm(function, norm, libraries=[library], gradients=False)


def offset_lost(x):
    """The textbook, in one pass."""
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt((x * x).mean(axis=-1, keepdims=True) - mean * mean + np.float32(1e-5))


def written_over(x):
    x -= x.mean(axis=-1, keepdims=True)
    return x


def narrowed(x):
    return anynorm.layer_norm(x).astype("float16")


def turned(x):
    return anynorm.layer_norm(x).T


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (offset_lost, r"at \[.*\], where x is .*, it gives .*; exact is "),
        (written_over, "failed: ValueError: .*read-only"),
        (narrowed, "the result is of dtype float16 and shape"),
        (turned, r"shape \(6, 7, 16, 4\), x of float32 and \(4, 16, 7, 6\)"),
        (lambda x: x.tolist(), "the result is a builtins.list, no array of numpy"),
        (lambda x: x.no_such_method(), "failed: AttributeError"),
    ],
)
def test_what_is_wrong_is_said(function, said):
    with pytest.raises(AssertionError, match=said):
        testing.assert_norm(function, "last axis", libraries=["numpy"])


def test_the_worst_element_is_where_it_is_worst():
    def one_wrong(x):
        y = anynorm.layer_norm(x)
        y[2, 3, 4, 5] += 1
        return y

    report = testing.check_norm(one_wrong, "last axis", libraries=["numpy"])
    notes = [f.note for f in report.findings if f.data in testing.KINDS and f.use == "eager"]
    assert len(notes) == len(testing.KINDS)
    assert all(note.startswith("at [2, 3, 4, 5], where x is ") for note in notes)
    assert np.allclose([f.error for f in report.findings if f.error], 1, atol=1e-4)


@pytest.mark.library("torch")
def test_the_table_fits_60_columns():
    finding = testing.Finding("torch", "compiled", "outlier first", "gradient", 1.2e-5, 2e-6, 1e-3, kept=False)
    kept = testing.Finding("numpy", "read-only", "small spread", "result", 1e-7, 2e-6, None, kept=True)
    lines = str(testing.Report("layer", (finding, kept, finding._replace(data="ramp")))).splitlines()
    assert max(map(len, lines)) <= 60
    assert [line.split() for line in lines[2:]] == [
        ["torch", "compiled", "dx", "outlier", "first", "1.2e-5", "1.0e-3", "2", "MISSED"],
        ["numpy", "read-only", "y", "small", "spread", "1.0e-7", "-", "kept"],
    ]


def test_an_error_may_be_allowed():
    def coarse(x):
        return anynorm.layer_norm(x) + np.float32(1e-4) * (x != x[..., :1])

    assert not testing.check_norm(coarse, "last axis", libraries=["numpy"]).kept
    assert testing.check_norm(coarse, "last axis", libraries=["numpy"], within=2e-4).kept


@pytest.mark.library("torch")
def test_a_gradient_that_is_wrong_is_found_where_the_result_is_right():
    import torch

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            return anynorm.layer_norm(x)

        @staticmethod
        def backward(_, dy):
            return dy

    report = testing.check_norm(Wrong.apply, "last axis", libraries=["torch"])
    assert all(f.kept for f in report.findings if f.of == "result")
    assert not any(f.kept for f in report.findings if f.of == "gradient" and f.data != "constant")


@pytest.mark.library("torch")
def test_tensors_that_are_written_to_are_found():
    def written(x):
        return x.detach().sub_(x.mean(-1, keepdim=True))

    report = testing.check_norm(written, "last axis", libraries=["torch"], gradients=False)
    assert {f.note for f in report.findings if f.data != "empty"} == {"it writes to x"}


@pytest.mark.library("torch")
def test_the_articles_group_norm_is_found_by_itself():
    def torch_gn(x, num_groups):
        rows = x.view(x.shape[0], num_groups, -1)
        mu, std = rows.mean(dim=-1, keepdim=True), rows.std(dim=-1, keepdim=True)
        return ((rows - mu) / std).reshape(x.shape)

    report = testing.check_norm(lambda x: torch_gn(x, 8), "group", libraries=["torch"], eps=0)
    plain = next(f for f in report.findings if f.data == "offset 0" and f.of == "result")
    n = 2 * 7 * 6  # elements of a group, of which it divides by one less
    x = testing.data("offset 0", (4, 16, 7, 6)).astype(np.float64).reshape(4, 8, -1)
    largest = np.abs((x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)).max()
    assert_within(np.asarray(plain.error), np.asarray(largest * (1 - ((n - 1) / n) ** 0.5)), 1e-5)


@pytest.mark.library("dask")
def test_what_computes_too_early_is_found():
    def eager(x):
        return x.map_blocks(lambda a: a) * float(x.sum().compute())

    report = testing.check_norm(eager, "layer", libraries=["dask"])
    assert all("it computed a Dask array" in f.note for f in report.findings)


def test_what_cannot_be_tested_is_refused():
    with pytest.raises(ValueError, match="check_norm needs norm to be one of layer, .*: got 'power'"):
        testing.check_norm(anynorm.layer_norm, "power")
    with pytest.raises(ValueError, match="check_norm needs libraries to be of numpy, .*: got pandas"):
        testing.check_norm(anynorm.layer_norm, libraries=["pandas"])
    with pytest.raises(ValueError, match="check_norm needs dtype of float32, .*: got int32"):
        testing.check_norm(anynorm.layer_norm, dtype="int32")
    with pytest.raises(ValueError, match=r"and shape \(N, C, \*S\): got float32 and \(0, 3\)"):
        testing.check_norm(anynorm.layer_norm, shape=(0, 3))
    with pytest.raises(ValueError, match="check_norm needs a library that has float32: got none$"):
        testing.check_norm(anynorm.layer_norm, libraries=[])
    for kind in ("noise", "offset", "offset far", "offsets 7"):
        with pytest.raises(ValueError, match=f"data needs kind to be one of offset 0, .*: got '{kind}'"):
            testing.data(kind, (2,))


def without(monkeypatch, missing):
    """Let a library be missing."""
    find = reference.find
    gone = reference.Found(missing, problem=f"not installed (pip install {missing})")
    monkeypatch.setattr(reference, "find", lambda name: gone if name == missing else find(name))


def test_a_library_that_is_asked_for_and_missing_is_said(monkeypatch):
    without(monkeypatch, "torch")
    with pytest.raises(ValueError, match=r"libraries that can be used: torch is not installed \(pip install torch\)"):
        testing.check_norm(anynorm.layer_norm, libraries=["torch"])
    report = testing.check_norm(anynorm.layer_norm, "last axis", gradients=False)
    assert "numpy" in {f.library for f in report.findings}
    assert "torch" not in {f.library for f in report.findings}


def test_without_numpy_there_is_nothing_to_measure_with(monkeypatch):
    without(monkeypatch, "numpy")
    with pytest.raises(ValueError, match="check_norm measures with NumPy, which is not installed"):
        testing.check_norm(anynorm.layer_norm)


# ------------------------------------------------------------------------------------------------ the command


def written(folder, monkeypatch):
    (folder / "mine.py").write_text("import anynorm\n\ndef norm(x):\n    return anynorm.instance_norm(x)\n")
    monkeypatch.syspath_prepend(folder)


def test_the_command_checks_a_norm_of_ones_own(tmp_path, monkeypatch, capsys):
    written(tmp_path, monkeypatch)
    own = ["check", "--norm", "mine:norm", "--library", "numpy"]
    assert _cli.main([*own, "--as", "instance"]) == 0
    assert "kept" in capsys.readouterr().out
    assert _cli.main([*own, "--as", "batch", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["norm"], document["kept"], len(document["findings"])) == ("batch", False, 20)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--norm", "mine:none"], "--norm needs MODULE:FUNCTION, to be imported from here: mine:none is none"),
        (["--norm", "nowhere:norm"], "nowhere:norm is none (ModuleNotFoundError"),
        (["--norm", "mine:norm", "--as", "grou"], "check_norm needs norm to be one of"),
        (["--norm", "mine:norm", "--input", "x.npy"], "leave --input and --channel-axis out"),
        (["--as", "group"], "give --norm, too"),
    ],
)
def test_the_command_refuses_what_is_no_norm(tmp_path, monkeypatch, capsys, arguments, said):
    written(tmp_path, monkeypatch)
    with pytest.raises(SystemExit) as stop:
        _cli.main(["check", *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
