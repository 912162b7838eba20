"""What an adapter is good for: every norm of float32 arrays, and its pullback, against float64."""

from __future__ import annotations

import numpy as np

import anynorm
from anynorm import vjp

SHAPE, GROUPS, EPS, BOUND = (8, 6, 10, 12), 3, 1e-5, 2e-6
NORMS = {  # each with the axes that share statistics, in x with its channels split into groups
    "layer_norm": (
        lambda of, x, **k: of.layer_norm(x, axis=(1, 2, 3), **k),
        (1, 2, 3, 4),
    ),
    "rms_norm": (lambda of, x, **k: of.rms_norm(x, axis=(1, 2, 3), **k), (1, 2, 3, 4)),
    "group_norm": (lambda of, x, **k: of.group_norm(x, GROUPS, **k), (2, 3, 4)),
    "instance_norm": (lambda of, x, **k: of.instance_norm(x, **k), (3, 4)),
    "batch_norm": (lambda of, x, **k: of.batch_norm(x, **k), (0, 3, 4)),
}


def exact(name, x, dy):
    """Return the norm and the gradient of x in float64."""
    axes = NORMS[name][1]
    x, dy = (a.astype(np.float64).reshape(8, GROUPS, 2, 10, 12) for a in (x, dy))
    if name == "batch_norm":  # of a channel, which a group has two of
        axes = (0, 3, 4)

    def mean(a):
        return a.mean(axis=axes, keepdims=True)

    d = x if name == "rms_norm" else x - mean(x)
    rstd = 1 / np.sqrt(mean(d * d) + EPS)
    y = d * rstd
    lost = 0 if name == "rms_norm" else mean(dy)
    return y.reshape(SHAPE), (rstd * (dy - lost - y * mean(dy * y))).reshape(SHAPE)


def distance(actual, exact):
    """Return the largest error; elements beyond 8 have coarser last places."""
    return np.abs(actual - exact).max() / max(1, np.abs(exact).max() / 8)


def check(to_array, to_numpy, gradient=None):
    """Stop with an error where a norm, its pullback or the library's own gradient of it is not exact."""
    rng = np.random.default_rng(0)
    dy = rng.standard_normal(SHAPE).astype(np.float32)
    for offset in (0.0, 1e4, 1e6):
        x = (rng.standard_normal(SHAPE) + offset).astype(np.float32)
        for name, (norm, _) in NORMS.items():
            y, pullback = norm(vjp, to_array(x))
            got = [y, pullback(to_array(dy))[0], norm(anynorm, to_array(x))]
            y, dx = exact(name, x, dy)
            expected = [y, dx, y]
            if gradient is not None:
                got.append(
                    gradient(
                        lambda a, norm=norm: norm(anynorm, a), to_array(x), to_array(dy)
                    )
                )
                expected.append(dx)
            apart = [
                np.abs(to_numpy(a) - b).max() / max(1, np.abs(b).max() / 8)
                for a, b in zip(got, expected, strict=True)
            ]
            print(f"{name} at offset {offset:g}: {max(apart):.1e}")
            assert max(apart) < BOUND, apart
    mask = rng.random((8, 1, 10, 12)) < 0.7
    state = anynorm.running_stats(SHAPE[1], like=to_array(x))
    _, stats = anynorm.batch_norm_train(
        to_array(x), state, where=to_array(mask), momentum=1
    )
    shown = np.where(mask, x.astype(np.float64), np.nan)
    assert (
        np.abs(to_numpy(stats.mean) / np.nanmean(shown, axis=(0, 2, 3)) - 1).max()
        < 1e-7
    )
    assert (
        np.abs(to_numpy(stats.var) / np.nanvar(shown, axis=(0, 2, 3), ddof=1) - 1).max()
        < 1e-6
    )
    merged = anynorm.merge(
        *(anynorm.moments(to_array(part), axis=(0, 2, 3)) for part in (dy[:3], dy[3:]))
    )
    assert (
        np.abs(
            to_numpy(anynorm.variance(merged))
            / dy.var(axis=(0, 2, 3), dtype=np.float64)
            - 1
        ).max()
        < 1e-6
    )
    scaled = to_numpy(anynorm.minmax_scale(to_array(x), axis=(0, 2, 3)))
    assert (scaled.min(), scaled.max()) == (0, 1)
