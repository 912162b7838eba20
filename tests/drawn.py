"""Norms and their arguments, drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from oracles import in_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


def norm_of(
    draw: Callable[..., Any], rng: np.random.Generator, shape: tuple[int, ...], dtypes: tuple[str, ...]
) -> tuple[str, dict[str, Any]]:
    """Draw a norm of an array of a shape: its name, and its arguments, whose weight and bias have one of the dtypes."""
    norm = draw(st.sampled_from(["layer", "rms", "group", "instance", "batch"]))
    channel = draw(st.integers(0, len(shape) - 1))
    if norm in ("layer", "rms"):
        axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
        own, keywords = tuple(shape[i] for i in axes), {"axis": axes}
    else:
        own, keywords = (shape[channel],), {"channel_axis": channel}
    if norm == "group":
        keywords["num_groups"] = draw(st.sampled_from([n for n in range(1, 10) if shape[channel] % n == 0]))
    wide = tuple(draw(st.sampled_from([1, size])) for size in shape)
    for name in ("weight", "bias"):
        form = draw(st.sampled_from([None, own, wide, shape]))
        if form is not None:
            a = rng.uniform(0.5, 2, form).astype(draw(st.sampled_from(dtypes)))
            orders = range(a.ndim), range(a.ndim)[::-1], (*range(a.ndim)[:1], *range(a.ndim)[2:], *range(a.ndim)[1:2])
            order = draw(st.sampled_from(orders))  # of its axes in memory: C, Fortran, channels last
            keywords[name] = in_memory(a, order)
    return f"{norm}_norm", keywords
