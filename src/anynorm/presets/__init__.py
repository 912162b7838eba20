"""The norms of other frameworks under their own names, argument names and defaults, on arrays of any library.

A preset takes its options when it is made, as the framework's layer does, and its arrays when it is called, by the
names that they have there. It holds no arrays itself: what is left out is 1 or 0, as in a new layer. Presets that keep
running statistics return ``(y, state)``, with the state by its names; the others return y.

>>> import numpy as np
>>> from anynorm import presets
>>> norm, x = presets.keras.BatchNormalization(momentum=0.9), np.asarray([[1.0], [3.0]])
>>> y, state = norm(x, training=True)
>>> y.round(3).ravel(), state
(array([-1.,  1.]), {'moving_mean': array([0.2]), 'moving_variance': array([1.])})
>>> y, state = norm(x, training=True, **state)  # the next step

Presets have no options for how parameters are initialised, constrained or placed, since they make none. Options that
say which parameters there are (``affine``, ``center``, ``use_bias``) refuse those that they rule out.
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
