"""The norms of other frameworks under their own names, argument names and defaults, on the arrays of any library.

A preset takes its options where the framework's layer takes them, and its arrays, by the names that they have there,
where it is called. It holds none itself: what is left out is 1 or 0, as in a new layer. What keeps running statistics
returns ``(y, state)``, the state by its names; the rest returns y.

>>> import numpy as np
>>> from anynorm import presets
>>> norm, x = presets.keras.BatchNormalization(momentum=0.9), np.asarray([[1.0], [3.0]])
>>> y, state = norm(x, training=True)
>>> y.round(3).ravel(), state
(array([-1.,  1.]), {'moving_mean': array([0.2]), 'moving_variance': array([1.])})
>>> y, state = norm(x, training=True, **state)  # the next step

Options that say how parameters begin, are constrained or placed are none of a preset's, since it makes none; those that
say which there are (``affine``, ``center``, ``use_bias``) refuse what they rule out.
"""

from importlib import import_module
from typing import Any

from . import equinox, flax, haiku, keras, mlx, onnx, torch

__all__ = ["equinox", "flax", "haiku", "keras", "mlx", "onnx", "torch"]  # and sklearn, which needs scikit-learn


def __getattr__(name: str) -> Any:
    """Import the one preset that needs what it is named after."""
    if name == "sklearn":
        return import_module(f"{__name__}.sklearn")
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
