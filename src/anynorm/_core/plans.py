"""Calls of a kind that has been met before: what their types decide is decided once.

Types, dtypes, shapes, strides, axes and options make a kind. That its arguments fit one another was checked when it was
first met, and an engine left its plan with it. A library takes part once its engine has told how its arrays are
described; nothing that is traced, batched, symbolic, a subclass or a stranger is described at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .libraries import is_compiling

if TYPE_CHECKING:
    from collections.abc import Callable

    from .call import Call, Layout
    from .libraries import Array, Namespace, Shape

MOST = 1024  # kinds that are kept: then all are met anew


class Known(NamedTuple):
    """What is known of the calls of a kind."""

    layout: Layout
    xp: Namespace
    dtype: Any
    computing: Any
    along: Shape | None  # the shape of given statistics at x's rank
    plan: Any  # the engine's


_known: dict[Any, Known | None] = {}
_described: dict[type, Callable[..., tuple[Any, ...] | None]] = {}


def describe(kind: type, described: Callable[..., tuple[Any, ...] | None]) -> None:
    """Tell how arrays of a type are described but for their elements; by None where one of them is something else."""
    _described[kind] = described


def kind_of(rule: Callable[..., Layout], options: tuple[Any, ...], x: Array, *arrays: Any) -> Any:
    """Return the kind of a call by a rule of axes and its options, None where it has none."""
    if is_compiling():
        return None
    described = _described.get(type(x))
    parts = None if described is None else described(x, *arrays)
    return None if parts is None or not all(map(_exact, options)) else (rule, options, parts)


def _exact(option: Any) -> bool:
    """Whether an option says by its value all that a check asks: True equals 1, and is no axis."""
    return option is None or type(option) is int or (type(option) is tuple and all(type(i) is int for i in option))


def checked(call: Call, dy: Array, check: Callable[[], Array]) -> Array:
    """Return the gradient of a call's result, checked at the first of its kind."""
    described = None if call.plan is None else _described.get(type(dy))
    parts = None if described is None else described(dy)
    if parts is None:
        return check()
    kind = call.kind, "pull", parts
    if kind not in _known:
        check()
        _remember(kind, None)
    return dy


def find(kind: Any) -> Known | None:
    """Return what is known of a kind."""
    return None if kind is None else _known.get(kind)


def keep(call: Call, plan: Any) -> Any:
    """Remember an engine's plan for the calls of a kind, and return it."""
    if plan is not None:
        remember(call, plan)
    return plan


def remember(call: Call, plan: Any = None) -> None:
    """Remember that the calls of a kind are checked, and how an engine does them."""
    if call.kind is not None:
        along = None if call.given is None or call.given.mean is None else tuple(call.given.mean.shape)
        _remember(call.kind, Known(call.layout, call.xp, call.dtype, call.computing, along, plan))


def _remember(kind: Any, known: Known | None) -> None:
    if len(_known) >= MOST:
        _known.clear()
    _known[kind] = known
