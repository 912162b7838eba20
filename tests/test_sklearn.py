"""The scaler of scikit-learn: its own checks of estimators, and its own scaler beside ours."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from anynorm import presets
from oracles import assert_within, data

pytestmark = pytest.mark.library("sklearn")
CHECK = """
import warnings
from sklearn.utils.estimator_checks import check_estimator
from anynorm import presets

warnings.simplefilter("ignore")
results = check_estimator(presets.sklearn.StandardScaler(), on_skip=None, on_fail=None)
failed = [f"{r['check_name']}: {r['exception']!r}" for r in results if r["status"] == "failed"]
passed = [r["check_name"] for r in results if r["status"] == "passed"]
assert not failed, failed
print(len(passed), passed.count("check_array_api_input"))
"""


def test_scikit_learns_own_checks_pass_with_the_dispatch_of_arrays():
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}  # read when SciPy is imported: so in a process of its own
    command = [sys.executable, "-c", CHECK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    passed, dispatched = map(int, done.stdout.split())
    assert passed > 40
    assert dispatched > 1


def fitted(x, **options):
    return presets.sklearn.StandardScaler(**options).fit(x)


@pytest.mark.parametrize("options", [{}, {"with_mean": False}, {"with_std": False}])
def test_it_does_what_scikit_learns_does(options, rng):
    from sklearn.preprocessing import StandardScaler

    x, other = rng.normal(3, 2, (50, 4)), rng.normal(3, 2, (5, 4))
    x[:, 2] = 7  # constant: what comes later is no further from it than it is
    x[3, 1] = other[0, 0] = np.nan
    ours, theirs = fitted(x, **options), StandardScaler(**options).fit(x)
    for a in (x, other):
        assert np.allclose(ours.transform(a), theirs.transform(a), rtol=0, atol=1e-12, equal_nan=True)
    assert np.allclose(ours.inverse_transform(ours.transform(x)), x, equal_nan=True)
    assert np.allclose(ours.mean_, theirs.mean_)
    assert list(ours.n_samples_seen_) == list(theirs.n_samples_seen_) == [50, 49, 50, 50]
    if theirs.var_ is not None:
        assert np.allclose(ours.var_, theirs.var_)
        assert np.allclose(ours.scale_, theirs.scale_)


@pytest.mark.parametrize("offset", [0, 1e4, 1e6])
def test_a_stream_of_float32_loses_nothing_to_an_offset(offset):
    x = data(f"offset {offset:g}", (600, 5))
    scaler = presets.sklearn.StandardScaler()
    for part in np.split(x, [1, 100, 101, 350]):
        scaler = scaler.partial_fit(part)
    wide = x.astype(np.float64)
    z = scaler.transform(x)
    back = scaler.inverse_transform(z.astype(np.float64))
    assert_within(back, wide, 2e-6 * wide.std(axis=0).max() + 1e-6)
    assert z.dtype == np.float32
    assert_within(z, (wide - wide.mean(axis=0)) / wide.std(axis=0), 2e-6)


def test_fitting_again_forgets_and_integers_become_floats():
    scaler = fitted(np.asarray([[1e3], [2e3]]))
    assert scaler.fit([[1], [3]]).mean_.tolist() == [2]
    assert scaler.transform([[1], [3]]).tolist() == [[-1], [1]]


def test_presets_without_scikit_learn_are_whole(monkeypatch):
    monkeypatch.delattr(presets, "sklearn")  # imports it first, whatever ran before
    monkeypatch.setitem(sys.modules, "anynorm.presets.sklearn", None)
    assert presets.torch.LayerNorm(2) is not None
    with pytest.raises(ImportError):
        presets.sklearn  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'pandas'"):
        presets.pandas  # noqa: B018


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32"), ("int64", "float32")])
def test_parts_of_several_dtypes_are_taken_as_by_scikit_learn(dtypes, rng):
    from sklearn.preprocessing import StandardScaler

    parts = [(rng.normal(5, 3, (20, 3))).astype(dtype) for dtype in dtypes]
    ours, theirs = presets.sklearn.StandardScaler(), StandardScaler()
    for part in parts:
        ours, theirs = ours.partial_fit(part), theirs.partial_fit(part)
    assert_within(ours.mean_.astype(float), theirs.mean_, 1e-6)
    assert_within(ours.var_.astype(float), theirs.var_, 1e-5)


@pytest.mark.parametrize("options", [{}, {"with_std": False}, {"with_mean": False}])
def test_a_feature_that_was_nan_alone_stays_unknown(options, rng):
    from sklearn.preprocessing import StandardScaler

    x, later = rng.normal(5, 3, (2, 20, 2))
    x[:, 1] = np.nan
    ours = presets.sklearn.StandardScaler(**options).fit(x).transform(later)
    with np.errstate(invalid="ignore"):
        theirs = StandardScaler(**options).fit(x).transform(later)
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    assert_within(ours[:, 0], theirs[:, 0], 1e-12)
