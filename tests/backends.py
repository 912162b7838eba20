"""What the tests say of the array libraries: how far each is under test, and what it lacks."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


FEATURES = {  # what a library may have, and the module of tests that shows it
    "norms, masks": "test_norms",
    "training forms": "test_running",
    "moments, merge": "test_moments",
    "gradients": "test_vjp",
    "scaling": "test_scaling",
}


@dataclass(frozen=True)
class About:
    """What there is to say of a library."""

    tested: str = ""  # the version that last passed, none where the tests have not run yet
    used: str = "eagerly"  # as the docs say it
    lacks: Mapping[str, str] = field(default_factory=dict)  # what tests need by this name, and why not
    few: bool = False  # runs the modules of FEATURES alone


SLOW = ("many small calls", "millions of elements")  # what is lacking because it would take minutes
ABOUT = {
    "numpy": About("2.4.6"),
    "array_api_strict": About("2.6.1", "eagerly, on a second device"),
    "torch": About("2.13.0", "eagerly, compiled, exported"),
    "jax": About("0.10.2", "eagerly, jitted, exported"),
    "dask": About("2026.8.0", "lazily, in chunks"),
    "cupy": About(used="eagerly, on a GPU: not run on one yet"),
    "mlx": About("0.32.4", "eagerly, compiled, on a CPU"),
    "dpnp": About(
        "0.20.0", "eagerly, on a queue of a CPU",
        {"pickling": "its arrays can be pickled, but not the queues they name, so no pullback can"}, few=True,
    ),
    "ndonnx": About(
        "0.23.0", "as an ONNX graph, run by onnxruntime",
        {"pickling": "the nodes of its graphs refuse it, and so does a pullback that holds one"}, few=True,
    ),
    "sparse": About(
        "0.19.3", "eagerly, as COO and GCXS", few=True,
        lacks={
            "moments of GCXS": "arrays in that form have no squeeze; keepdims=True does without",
            "millions of elements": "it sorts the places of all that it stores, after every step",
        },
    ),
    "cubed": About(
        "0.27.0", "lazily, in chunks", few=True,
        lacks={
            "empty arrays": "its any() of no elements is one False, whatever the axes, without the spec of x",
            "many small calls": "the time of a chain of them grows faster than its length; merge many at once",
            "pickling": "its plans hold nested functions, which pickle refuses",
        },
    ),
}  # fmt: skip
EXHAUSTIVE = {"torch-compiled", "jax"}  # run what another use runs too, and compile it: where a test says so, or --slow


def settled(results: Any) -> Any:
    """Return results that other threads may use: what MLX has not computed yet, no other thread can compute."""
    if "mlx.core" in sys.modules:
        sys.modules["mlx.core"].eval(results)
    return results
