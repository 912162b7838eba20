"""The table of conventions, drawn from the presets."""

from __future__ import annotations

from dataclasses import MISSING, fields

import numpy as np

from anynorm import presets

from . import table

MINUS = "\N{MINUS SIGN}"
X = np.zeros((2, 4, 3, 32), dtype=np.float16)
FRAMEWORKS = {  # its batch, layer, group, instance and RMS norm, made with what has no default
    "PyTorch": (
        presets.torch.BatchNorm2d(4), presets.torch.LayerNorm(32), presets.torch.GroupNorm(2, 4),
        presets.torch.InstanceNorm2d(4), presets.torch.RMSNorm(32),
    ),
    "Flax": (
        presets.flax.BatchNorm(), presets.flax.LayerNorm(), presets.flax.GroupNorm(),
        presets.flax.InstanceNorm(), presets.flax.RMSNorm(),
    ),
    "Keras": (
        presets.keras.BatchNormalization(), presets.keras.LayerNormalization(), presets.keras.GroupNormalization(),
        None, presets.keras.RMSNormalization(),
    ),
    "Haiku": (
        presets.haiku.BatchNorm(True, True, 0.9), presets.haiku.LayerNorm(-1, True, True), presets.haiku.GroupNorm(2),
        presets.haiku.InstanceNorm(True, True), presets.haiku.RMSNorm(-1),
    ),
    "Equinox": (
        presets.equinox.BatchNorm(4, "batch"), presets.equinox.LayerNorm((4, 3, 32)), presets.equinox.GroupNorm(2, 4),
        None, presets.equinox.RMSNorm((4, 3, 32)),
    ),
    "ONNX": (
        presets.onnx.BatchNormalization(), presets.onnx.LayerNormalization(), presets.onnx.GroupNormalization(2),
        presets.onnx.InstanceNormalization(), presets.onnx.RMSNormalization(),
    ),
    "MLX": (
        presets.mlx.BatchNorm(32), presets.mlx.LayerNorm(32), presets.mlx.GroupNorm(2, 32),
        presets.mlx.InstanceNorm(32), presets.mlx.RMSNorm(32),
    ),
}  # fmt: skip
ROWS = {
    "channel axis": lambda batch, *_: signed(batch.options(X)["channel_axis"]),
    "axes of layer norm": lambda _, layer, *__: axes(layer),
    "eps of batch norm": lambda batch, *_: eps(batch),
    "eps of layer norm": lambda _, layer, *__: eps(layer),
    "eps of group norm": lambda _, __, group, *___: eps(group),
    "eps of instance norm": lambda _, __, ___, instance, ____: eps(instance),
    "eps of RMS norm": lambda *five: eps(five[-1]),
    "momentum": lambda batch, *_: default(batch, "momentum", "decay_rate"),
    "what momentum weighs": lambda batch, *_: weighed(batch),
    "correction of the running variance": lambda batch, *_: str(batch.options(X)["correction"]),
    "groups": lambda _, __, group, *___: default(group, "num_groups", "groups"),
    "parameters of instance norm": lambda _, __, ___, instance, ____: affine(instance),
    "float16 x, float32 weight of layer norm": lambda _, layer, *__: "float32" if layer.widens else "float16",
}
OURS = ["1", f"{MINUS}1", *["1e-5"] * 5, "0.1", "the new batch", "1", "to be given", "if given", "float16"]


def signed(number: int) -> str:
    return str(number).replace("-", MINUS)


def default(preset, *names):
    """Return the default of the option that has one of the names, as the framework's users write it."""
    (found,) = (f for f in fields(preset) if f.name in names)
    return "to be given" if found.default is MISSING else f"{found.default}"


def eps(preset):
    if preset is None:
        return "none there"
    written = default(preset, "eps", "epsilon")
    return "that of the dtype" if written == "None" else f"{float(written):.0e}".replace("e-0", "e-")


def axes(layer):
    option = next((f for f in fields(layer) if f.name in {"axis", "reduction_axes"}), None)
    if option is not None:
        after = " and all after it" if "onnx" in type(layer).__module__ else ""
        return "to be given" if option.default is MISSING else f"{signed(option.default)}{after}"
    return {"normalized_shape": "those of the shape given", "shape": "all of a sample", "dims": signed(-1)}[
        fields(layer)[0].name
    ]


def weighed(batch):
    """Return what momentum weighs: the new batch, if it is anynorm's."""
    if not hasattr(batch, "momentum"):
        return "the old value, without its start"
    return "the new batch" if batch.options(X)["momentum"] == batch.momentum else "the old value"


def affine(instance):
    if instance is None:
        return "none there"
    flags = [f for f in fields(instance) if f.name in {"affine", "use_scale", "create_scale"}]
    return "yes" if not flags else {True: "yes", False: "no", MISSING: "to be given"}[flags[0].default]


def drawn() -> dict[str, str]:
    """Return the table of its page."""
    rows = [
        (name, own, *(draw(*five) for five in FRAMEWORKS.values()))
        for (name, draw), own in zip(ROWS.items(), OURS, strict=True)
    ]
    return {"docs/guide/conventions.md": table([("", "anynorm", *FRAMEWORKS), *rows])}
