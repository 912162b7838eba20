"""A process that times the calls of whichever anynorm Python finds, as it is told to, a line a request."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .calls import draw, ours, threads
from .cases import Case
from .clock import seconds, warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .calls import Call


def answers(requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield which anynorm this is, and an answer to each request: to open a case, or to time its call so many times."""
    yield {"file": import_module("anynorm").__file__}
    case = Case("", "", ())
    call: Call = nothing
    for request in requests:
        try:
            if "open" in request:
                library, norm, shape, *rest = request["open"]
                case, call = Case(library, norm, tuple(shape), *rest), nothing  # frees the arrays of the last one
                call = ours(case, draw(case))
                answer: dict[str, Any] = {"times": within(case, partial(warm, call))}
            else:
                answer = {"seconds": within(case, partial(timed, call, request["times"]))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        yield answer


def nothing() -> None:
    """Be the call of no case."""


def within(case: Case, function: Callable[[], Any]) -> Any:
    """Call with the threads of a case."""
    with threads(case):
        return function()


def timed(call: Call, times: int) -> float:
    """Return how long a call takes, after one that wakes up its threads."""
    call()
    return seconds(call, times)


def work() -> None:
    """Answer the requests that come in, one line each; whatever else is printed goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        for answer in answers(map(json.loads, sys.stdin)):
            print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    work()
