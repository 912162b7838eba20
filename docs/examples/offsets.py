"""Draw the error of a layer norm of (64, 1024) float32 values against their offset: of anynorm, and of others."""

from __future__ import annotations

import dask.array
import flax.linen
import jax
import matplotlib.pyplot as plt
import numpy as np
import torch

import anynorm

OFFSETS = (0, *np.logspace(0, 6, 13))
EPS = np.float32(1e-5)


def two_lines(x):
    """The textbook, in NumPy."""
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(
        x.var(axis=-1, keepdims=True) + EPS
    )


def by_flax(x):
    return flax.linen.LayerNorm(epsilon=1e-5, use_bias=False, use_scale=False).apply(
        {}, jax.numpy.asarray(x)
    )


OURS = {
    "anynorm on NumPy": anynorm.layer_norm,
    "anynorm on PyTorch": lambda x: anynorm.layer_norm(torch.tensor(x)),
    "anynorm on JAX": lambda x: anynorm.layer_norm(jax.numpy.asarray(x)),
    "anynorm on Dask": lambda x: anynorm.layer_norm(
        dask.array.from_array(x, chunks=(16, 512))
    ),
}
OTHERS = {
    "two lines of NumPy": two_lines,
    "torch.nn.functional.layer_norm": lambda x: torch.nn.functional.layer_norm(
        torch.tensor(x), x.shape[-1:], eps=1e-5
    ),
    "jax.nn.standardize, stable": lambda x: jax.nn.standardize(
        jax.numpy.asarray(x), epsilon=1e-5, algorithm="stable"
    ),
    "flax.linen.LayerNorm": by_flax,
}


def errors(norm):
    """Return the largest error at each offset."""
    return [
        error(
            norm,
            np.random.default_rng(0).normal(offset, 1, (64, 1024)).astype(np.float32),
        )
        for offset in OFFSETS
    ]


def error(norm, x):
    wide = x.astype(np.float64)
    exact = (wide - wide.mean(axis=-1, keepdims=True)) / np.sqrt(
        wide.var(axis=-1, keepdims=True) + 1e-5
    )
    return abs(np.asarray(norm(x)) - exact).max()


_, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
for name, norm in OTHERS.items():
    axes.plot(OFFSETS, errors(norm), label=name, linewidth=1.2)
for (name, norm), width in zip(OURS.items(), (7, 5, 3, 1), strict=True):
    axes.plot(OFFSETS, errors(norm), label=name, linewidth=width)
axes.axhline(2e-6, color="gray", linestyle=":", linewidth=1)
axes.text(
    1e6, 2.4e-6, "the promise: 2e-6", ha="right", va="bottom", color="gray", fontsize=8
)
axes.set_xscale("symlog", linthresh=1)
axes.set(
    yscale="log",
    xlim=(0, 1e6),
    xlabel="offset of the data, whose spread is 1",
    ylabel="largest error",
)
axes.legend(fontsize=8, ncols=2, loc="upper left")
