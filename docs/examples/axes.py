"""Draw which elements share a mean, for every norm and both places of the channels: the norms themselves are asked.

An element of an array becomes NaN, and so does whatever shares its statistics, and nothing else. Run by itself, it
writes the file that it is given: `python docs/examples/axes.py docs/axes.svg`.
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

import anynorm

N, C, H, W = 4, 6, 2, 2  # samples, channels, and an image
GROUPS = 2

FIRST = {  # channels first: (N, C, H, W)
    "batch_norm(x)": anynorm.batch_norm,
    "layer_norm(x,\naxis=(1, 2, 3))": lambda x: anynorm.layer_norm(x, axis=(1, 2, 3)),
    "instance_norm(x)": anynorm.instance_norm,
    "group_norm(x, 2)": lambda x: anynorm.group_norm(x, GROUPS),
    "rms_norm(x,\naxis=(1, 2, 3))": lambda x: anynorm.rms_norm(x, axis=(1, 2, 3)),
}
LAST = {  # channels last: (N, H, W, C)
    "batch_norm(x,\nchannel_axis=-1)": lambda x: anynorm.batch_norm(x, channel_axis=-1),
    "layer_norm(x)": anynorm.layer_norm,
    "instance_norm(x,\nchannel_axis=-1)": lambda x: anynorm.instance_norm(
        x, channel_axis=-1
    ),
    "group_norm(x, 2,\nchannel_axis=-1)": lambda x: anynorm.group_norm(
        x, GROUPS, channel_axis=-1
    ),
    "rms_norm(x)": anynorm.rms_norm,
}

BLUE, PALE, INK = "#2f7fd0", "#dfe4ea", "#333333"
SHADES = {"front": 1.0, "top": 1.05, "side": 0.85}  # of a cube's faces
SLANT = np.asarray([0.45, 0.32])  # how far a sample lies behind the one before it


def sharing(norm, shape, element):
    """Return which elements of an array share statistics with one of them."""
    x = np.random.default_rng(0).normal(size=shape)
    x[element] = np.nan
    return np.isnan(norm(x))


def boxed(shared, channel_axis):
    """Return an array as a box: samples, channels, and the elements of an image in one axis."""
    return np.moveaxis(shared, channel_axis, 1).reshape(N, C, H * W)


def draw(axes, box):
    """Draw a box of cubes, of which three sides are seen: channels to the right, images upwards, samples behind."""
    rows = box.shape[2]
    faces = (
        ("front", box[0].T, lambda i, j: square((j, i), (1, 0), (0, 1))),
        (
            "top",
            box[:, :, -1],
            lambda i, j: square((j, rows) + i * SLANT, (1, 0), SLANT),
        ),
        (
            "side",
            box[:, -1, :].T,
            lambda i, j: square((C, i) + j * SLANT, SLANT, (0, 1)),
        ),
    )
    for name, cells, corners in faces:
        places = [corners(i, j) for i, j in np.ndindex(*cells.shape)]
        colours = [
            shade(BLUE if shared else PALE, SHADES[name]) for shared in cells.flat
        ]
        axes.add_collection(
            PolyCollection(
                places, facecolors=colours, edgecolors="white", linewidths=0.8
            )
        )
    axes.set(
        xlim=(-1, C + N * SLANT[0]), ylim=(-0.9, rows + N * SLANT[1]), aspect="equal"
    )
    axes.axis("off")


def square(corner, right, up):
    corner, right, up = map(np.asarray, (corner, right, up))
    return [corner, corner + right, corner + right + up, corner + up]


def shade(colour, factor):
    return np.clip(np.asarray(to_rgb(colour)) * factor, 0, 1)


def label(axes):
    """Name the sides of a box."""
    rows = H * W
    style = {"fontsize": 8, "color": INK, "ha": "center", "va": "center"}
    axes.text(C / 2, -0.5, "C", **style)
    axes.text(-0.55, rows / 2, "H·W", rotation=90, **style)
    axes.text(*((0, rows) + N / 2 * SLANT + (-0.4, 0.25)), "N", **style)


def figure():
    """Return the figure: a row of norms for channels first, and one for channels last."""
    whole = plt.figure(figsize=(10, 4.3), layout="constrained")
    above, below = whole.subfigures(2)
    # The same element twice, at a corner that is seen.
    draw_row(
        above,
        "x of shape (N, C, H, W)",
        FIRST,
        (N, C, H, W),
        1,
        (0, C - 1, H - 1, W - 1),
    )
    draw_row(
        below,
        "x of shape (N, H, W, C)",
        LAST,
        (N, H, W, C),
        -1,
        (0, H - 1, W - 1, C - 1),
    )
    return whole


def draw_row(row, title, norms, shape, channel_axis, element):
    row.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    for axes, (call, norm) in zip(
        row.subplots(1, len(norms)), norms.items(), strict=True
    ):
        draw(axes, boxed(sharing(norm, shape, element), channel_axis))
        label(axes)
        axes.set_title(call, fontsize=8, family="monospace", color=INK)


if __name__ == "__main__":
    figure()
    if sys.argv[1:]:
        plt.rcParams |= {
            "svg.hashsalt": "axes",
            "svg.fonttype": "none",
        }  # the same file every time
        plt.savefig(sys.argv[1], metadata={"Date": None})
