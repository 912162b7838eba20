"""Show two photographs as min-max scaling and every norm leave them: one batch, channels last."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images

import anynorm

x = np.stack(load_sample_images().images)[
    :, ::2, ::2
]  # bytes of shape (2, 214, 320, 3)
x[1] = x[1] // 3 + 20  # the second is underexposed
PANELS = {
    "as they are": x,
    "minmax_scale(x, axis=None)": anynorm.minmax_scale(x, axis=None),
    "batch_norm": anynorm.batch_norm(x, channel_axis=-1),
    "layer_norm, axis=(1, 2, 3)\nand group_norm of one group": anynorm.layer_norm(
        x, axis=(1, 2, 3)
    ),
    "instance_norm\nand group_norm of three groups": anynorm.instance_norm(
        x, channel_axis=-1
    ),
    "rms_norm, axis=(1, 2, 3)": anynorm.rms_norm(x, axis=(1, 2, 3)),
    "layer_norm, axis=-1": anynorm.layer_norm(x),
    "rms_norm, axis=-1": anynorm.rms_norm(x),
}


def shown(y):
    """Return what a screen can show: around 0 two deviations to either side, and of what is positive up to 3."""
    if y.dtype == np.uint8 or y.max() <= 1:
        return y
    return np.clip((y + 2) / 4 if y.min() < 0 else y / 3, 0, 1)


_, places = plt.subplots(2, 4, figsize=(10, 7.4), layout="constrained")
for axes, (name, y) in zip(places.flat, PANELS.items(), strict=True):
    axes.imshow(np.concatenate(shown(y)))  # one below the other
    axes.set_title(name, fontsize=9)
    axes.axis("off")
