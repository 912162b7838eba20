"""Libraries that do not follow the standard: a type and a namespace for it, with no more than anynorm calls."""

from __future__ import annotations

import re
from pathlib import Path

import array_api_compat.numpy as standard
import numpy as np
import pytest

import anynorm
from anynorm import RunningStats
from anynorm._core.libraries import NEEDED
from oracles import KINDS, NORMS, assert_near, assert_within, data, tolerance

SHAPE = (6, 4, 5, 3)
each_norm = pytest.mark.parametrize("norm", NORMS, ids=str)


class Boxed(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of NumPy's that has operators, an index and three attributes, and nothing else of an array."""

    def __init__(self, array):
        self.inside, self.dtype, self.ndim, self.shape = array, array.dtype, array.ndim, array.shape

    def __getitem__(self, index):
        return type(self)(self.inside[index])

    def __array_ufunc__(self, function, method, *arrays, **options):
        assert (method, options) == ("__call__", {})
        return type(self)(np.asarray(function(*map(unboxed, arrays))))

    __array__ = None  # nobody is to convert it


class Kept(Boxed):
    """A subclass that counts as what it is."""


def unboxed(a):
    return [unboxed(part) for part in a] if isinstance(a, (list, tuple)) else a.inside if isinstance(a, Boxed) else a


def boxing(function):
    def of_boxes(*arguments, **options):
        kind = next((type(a) for a in arguments if isinstance(a, Boxed)), Boxed)
        result = function(*map(unboxed, arguments), **options)
        return kind(np.asarray(result)) if isinstance(result, (np.ndarray, np.generic)) else result

    return of_boxes


class Namespace(type):
    """The type of a namespace that says which of its names were asked for."""

    asked: set[str] = set()  # noqa: RUF012

    def __getattribute__(cls, name):
        if not name.startswith("__") or name in NEEDED:
            Namespace.asked.add(name)
        return type.__getattribute__(cls, name)


def namespace(*names, called="boxes"):
    made = {name: getattr(standard, name) for name in names}
    for name in set(names) - {"float32", "finfo", "isdtype", "__array_namespace_info__"}:
        made[name] = staticmethod(boxing(getattr(standard, name)))
    return Namespace(called, (), made)


anynorm.register(Boxed, namespace(*NEEDED))


def boxed(a, dtype=None):
    return Boxed(np.asarray(a, dtype=dtype))


# ------------------------------------------------------------------------------------------------ what is computed


@each_norm
@pytest.mark.parametrize("kind", KINDS)
def test_norms_of_registered_arrays_keep_the_promise(norm, kind):
    x = data(kind, SHAPE)
    exact = norm.oracle(x)
    y = norm.call(boxed(x))
    assert type(y) is Boxed
    assert_within(y.inside, exact, tolerance(x, exact, "float32"))


@each_norm
def test_pullbacks_of_registered_arrays_keep_the_promise(norm, rng):
    x, dy = data("offset 1e+06", SHAPE), rng.standard_normal(SHAPE).astype(np.float32)
    dx, _, _ = norm.vjp(boxed(x))[1](boxed(dy))
    assert_near(dx.inside, norm.gradient(x, dy))


def everything(x, mask, half):
    """Call every function that takes arrays, in every way that takes other code."""
    w, state = x[0, :, 0, 0], anynorm.running_stats(SHAPE[1], like=x)
    results = [norm.call(a, where=where) for norm in NORMS for a in (x, half) for where in (None, mask)]
    results += [norm.vjp(x, where=where, eps=0)[1](x)[0] for norm in NORMS for where in (None, mask)]
    results += anynorm.vjp.batch_norm(x, weight=w, bias=w)[1](x)
    results += [anynorm.batch_norm(x, sync=lambda part: part + part, eps=w[0])]
    for where in (None, mask):
        for train in (anynorm.batch_norm_train, anynorm.instance_norm_train):
            y, new = train(x, state, where=where, momentum=None)
            results += [y, *new, train(x, RunningStats(new.mean, new.var), where=where)[0]]
        results += [anynorm.zscore(x, where=where), anynorm.minmax_scale(x, where=where)]
        m = anynorm.moments(x, axis=0, where=where)
        results += [*anynorm.merge(m, m), anynorm.variance(m)]
    return [*results, *anynorm.population_stats(anynorm.moments(x, axis=(0, 2, 3)))]


def arguments(rng):
    x = rng.standard_normal(SHAPE).astype(np.float32)
    return x, rng.random((6, 1, 5, 3)) < 0.7, x.astype(np.float16)


def test_everything_is_what_it_is_of_numpys_arrays(rng):
    given = arguments(rng)
    with anynorm.engine("array-api"):
        expected = everything(*given)
    for got, exact in zip(everything(*map(boxed, given)), expected, strict=True):
        assert type(got) is Boxed
        assert got.dtype == exact.dtype
        bound = 1e-3 if got.dtype == np.float16 else 4e-6
        assert_near(got.inside.astype(np.float64), exact.astype(np.float64), bound)


def test_what_a_namespace_needs_is_what_is_called_and_what_the_guide_lists(rng):
    Namespace.asked.clear()
    everything(*map(boxed, arguments(rng)))
    anynorm.moments(boxed(rng.standard_normal(321)))  # which no blocks divide, and nothing is wider than
    assert Namespace.asked ^ set(NEEDED) == set()
    guide = (Path(__file__).parents[1] / "docs/guide/register.md").read_text()
    listed = guide.split("<!-- needed -->")[1]
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(NEEDED)


# ------------------------------------------------------------------------------------------------ what is registered


def test_a_type_that_was_refused_is_taken_once_it_is_registered():
    class Late(Boxed):
        pass

    class Stranger:
        dtype, ndim, shape = np.dtype("float32"), 1, (3,)

    with pytest.raises(
        TypeError, match=r"got Stranger; convert it first.*or make its library known by anynorm.register"
    ):
        anynorm.layer_norm(Stranger())
    anynorm.register(Stranger, namespace(*NEEDED, called="strangers"))
    with pytest.raises(TypeError, match="got x from strangers and weight from boxes; convert one of them"):
        anynorm.layer_norm(Stranger(), boxed([1.0, 2.0, 3.0]))
    assert type(anynorm.layer_norm(Late(np.ones(3)))) is Late


def test_a_subclass_counts_as_its_base_unless_it_is_registered():
    x = data("offset 0", (3, 4))
    assert type(anynorm.layer_norm(Kept(x))) is Kept
    assert type(anynorm.layer_norm(Kept(x), boxed(x[0]))) is Kept  # of one library
    anynorm.register(Kept, namespace(*NEEDED, called="keepers"))
    with pytest.raises(TypeError, match="got x from keepers and weight from boxes"):
        anynorm.layer_norm(Kept(x), boxed(x[0]))
    anynorm.register(Kept, namespace(*NEEDED, called="others"))  # anew
    with pytest.raises(TypeError, match="got x from others and weight from boxes"):
        anynorm.layer_norm(Kept(x), boxed(x[0]))


def test_what_is_registered_comes_before_what_an_array_says_itself():
    class Partial(Boxed):
        def __array_namespace__(self):
            return np  # which knows nothing of it

    own = namespace(*NEEDED)
    for _ in range(2):  # the same again does no harm
        anynorm.register(Partial, own)
    x = data("offset 0", (3, 4))
    y = anynorm.layer_norm(Partial(x))
    assert type(y) is Partial
    assert_within(y.inside, NORMS[1].oracle(x), 2e-6)


class OfNumpy(np.ndarray):
    pass


@pytest.mark.parametrize(
    ("array_type", "made", "error", "words"),
    [
        (np.zeros(3), np, TypeError, r"register needs array_type to be a class: got array.*; pass type\(x\)"),
        (np.ndarray, np, ValueError, "anynorm does not know by itself: got ndarray of numpy; leave the registration"),
        (np.float64, np, ValueError, "got float64 of numpy"),
        (OfNumpy, np, ValueError, "got OfNumpy of numpy"),
        (Boxed, namespace(*NEEDED[:-2]), TypeError, r"got <class '.*boxes'> without zeros, zeros_like; add them"),
        (
            Boxed,
            object(),
            TypeError,
            "a module or a class with the functions.*without __name__, __array_namespace_info",
        ),
    ],
    ids=["array", "numpy", "scalar", "subclass", "functions", "object"],
)
def test_what_cannot_be_registered_is_refused(array_type, made, error, words):
    with pytest.raises(error, match=words):
        anynorm.register(array_type, made)
