"""What `python -m anynorm bench` times: the cases, the calls that compete in each, and the clock.

Run by its path it is a worker, which times the calls of whichever anynorm Python finds: that of another revision, which
may have nothing of this module. So it imports nothing of the package but the public names, and those inside functions.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import sys
import time
import tracemalloc
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Array: TypeAlias = Any
Norm: TypeAlias = "Callable[[Array], Array]"
Call: TypeAlias = "Callable[[], Any]"

LIBRARIES = ("numpy", "torch", "jax")
GROUPS = 8
EPS = 1e-5

# --------------------------------------------------------------------------------------------------
# The cases
# --------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A norm of one library, on arrays of one kind, run one way."""

    library: str
    norm: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "first"  # where the channels are; of torch, what the memory format is: its shape has them on axis 1
    work: str = "forward"  # or "both": forward, and the gradient of x
    mode: str = "all"  # threads; or "one" thread; of JAX, "eager" or "jit"

    @property
    def name(self) -> str:
        """What it is called, in one line."""
        library, norm, shape, *rest = self
        return " ".join((library, norm, by(shape), *rest))

    @property
    def bytes(self) -> int:
        """How many bytes x has."""
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 2)

    @property
    def channel_axis(self) -> int:
        """Where x has its channels."""
        return -1 if self.layout == "last" and self.library != "torch" else 1

    @property
    def split(self) -> tuple[int, ...]:
        """The shape with the channels split into groups, for group norm."""
        if self.norm != "group":
            return self.shape
        axis = self.channel_axis % len(self.shape)
        return (*self.shape[:axis], GROUPS, self.shape[axis] // GROUPS, *self.shape[axis + 1 :])

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the split shape whose elements share their statistics."""
        kept = self.channel_axis % len(self.shape)
        of = {"batch": (kept,), "instance": (0, kept), "group": (0, kept)}.get(self.norm, (0,))
        return tuple(axis for axis in range(len(self.split)) if axis not in of)


def by(shape: Sequence[int]) -> str:
    """Return a shape as 32x64x56x56."""
    return "x".join(map(str, shape))


TINY = (8, 64)
IMAGES, TOKENS = (32, 64, 56, 56), (4096, 1024)  # 26 and 17 MB in float32
SMALL_IMAGES, SMALL_TOKENS = (8, 64, 28, 28), (256, 1024)  # that a cache holds: 2 and 1 MB
EAGER_IMAGES = (4, 16, 8, 8)
SIZES = {  # from 2 kB to 256 MB
    "layer": (TINY, (64, 256), (512, 1024), TOKENS, (16384, 4096)),
    "batch": (TINY, (8, 16, 16, 16), (16, 32, 32, 32), IMAGES, (64, 256, 64, 64)),
}
HALF = {"numpy": "float16", "torch": "bfloat16", "jax": "bfloat16"}


def last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape with the channels of axis 1 moved last."""
    return (shape[0], *shape[2:], shape[1])


def cases(library: str) -> list[Case]:
    """Return everything that is timed of a library."""
    return list(dict.fromkeys(of_jax() if library == "jax" else of_arrays(library)))


def of_arrays(library: str) -> Iterator[Case]:
    """Yield the cases of NumPy or of torch."""
    single = [*arrays(library, IMAGES, TOKENS), *arrays(library, SMALL_IMAGES, SMALL_TOKENS)]
    single += [Case(library, norm, TINY) for norm in ("layer", "rms", "batch")]
    half = [case for case in arrays(library, IMAGES, TOKENS) if case.norm in ("batch", "layer", "rms")]
    for mode in ("all", "one"):
        for work in ("forward", "both"):
            yield from (case._replace(work=work, mode=mode) for case in single)
    for work in ("forward", "both"):
        yield from (case._replace(work=work, dtype=HALF[library]) for case in half)
    yield from of_sizes(library)


def of_sizes(library: str) -> list[Case]:
    """Return the cases that the plot shows."""
    return [Case(library, norm, shape) for norm, shapes in SIZES.items() for shape in shapes]


def arrays(library: str, images: tuple[int, ...], tokens: tuple[int, ...]) -> Iterator[Case]:
    """Yield every norm, with the channels first, and with them last."""
    for norm in ("batch", "instance", "group"):
        yield Case(library, norm, images)
        yield Case(library, norm, images if library == "torch" else last(images), layout="last")
    yield Case(library, "layer", images)
    yield from (Case(library, norm, tokens) for norm in ("layer", "rms"))


def of_jax() -> Iterator[Case]:
    """Yield the cases of JAX: the channels last, as Flax has them."""
    eager = [Case("jax", norm, TINY, mode="eager") for norm in ("layer", "rms", "batch")]
    eager += [case._replace(mode="eager") for case in jax_arrays(EAGER_IMAGES, TINY)]
    jit = [case._replace(mode="jit") for case in (*jax_arrays(IMAGES, TOKENS), *jax_arrays(SMALL_IMAGES, SMALL_TOKENS))]
    jit += [case._replace(dtype=HALF["jax"]) for case in jit if case.shape in (last(IMAGES), TOKENS)]
    for work in ("forward", "both"):
        yield from (case._replace(work=work) for case in (*eager, *jit))


def jax_arrays(images: tuple[int, ...], tokens: tuple[int, ...]) -> Iterator[Case]:
    """Yield every norm with the channels last."""
    yield from (Case("jax", norm, last(images), layout="last") for norm in ("batch", "instance", "group", "layer"))
    yield from (Case("jax", norm, tokens) for norm in ("layer", "rms"))


# --------------------------------------------------------------------------------------------------
# What competes in a case
# --------------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """The arrays of a case: x, and the gradient of the result where one is asked for."""

    x: Array
    dy: Array = None


def draw(case: Case) -> Given:
    """Return normal data as arrays of the library."""
    np = import_module("numpy")
    count = 2 if case.work == "both" else 1
    return Given(*(give(case, np.random.default_rng(i).standard_normal(case.shape, "float32")) for i in range(count)))


def give(case: Case, a: Array) -> Array:
    """Return a NumPy array as the library's, in the case's dtype and memory format."""
    if case.library == "numpy":
        return a.astype(case.dtype, copy=False)
    if case.library == "jax":
        jnp = import_module("jax.numpy")
        return jnp.asarray(a, dtype=getattr(jnp, case.dtype))
    torch = import_module("torch")
    tensor = torch.from_numpy(a).to(getattr(torch, case.dtype))
    return tensor.contiguous(memory_format=torch.channels_last) if case.layout == "last" else tensor


def ours(case: Case, given: Given) -> Call:
    """Return the call of anynorm."""
    anynorm = import_module("anynorm")
    options: dict[str, Any] = {}
    if case.norm in ("layer", "rms"):
        if len(case.shape) > 2:
            options["axis"] = tuple(range(1, len(case.shape)))
    elif case.channel_axis != 1:
        options["channel_axis"] = case.channel_axis
    if case.norm == "group":
        options["num_groups"] = GROUPS
    if case.library == "numpy" and case.work == "both":
        return partial(pulled, partial(getattr(anynorm.vjp, f"{case.norm}_norm"), **options), *given)
    return calling(case, getattr(anynorm, f"{case.norm}_norm"), given, **options)


def pulled(norm: Callable[[Array], Any], x: Array, dy: Array) -> tuple[Array, Array]:
    """Return a norm of anynorm.vjp, and the gradient of x."""
    y, pullback = norm(x)
    return y, pullback(dy)[0]


def calling(case: Case, norm: Callable[..., Array], given: Given, **options: Any) -> Call:
    """Return the call of a norm, or of it and its gradient by the library's differentiation."""
    if case.library == "jax":
        return jax_call(case, partial(norm, **options), given)
    if case.work == "both":
        return torch_both(import_module("torch"), partial(norm, **options), *given)
    return partial(norm, given.x, **options)


def jax_call(case: Case, norm: Norm, given: Given) -> Call:
    """Return a call that waits for its result."""
    jax = import_module("jax")

    def both(x: Array, dy: Array) -> tuple[Array, Array]:
        y, pull = jax.vjp(norm, x)
        return y, pull(dy)[0]

    function: Callable[..., Any] = both if case.work == "both" else norm
    run = jax.jit(function) if case.mode == "jit" else function
    arguments = given if case.work == "both" else given[:1]
    return lambda: jax.block_until_ready(run(*arguments))


def torch_both(torch: Any, norm: Norm, x: Array, dy: Array) -> Call:
    """Return the call of a norm and of its gradient."""
    x = x.detach().requires_grad_()

    def both() -> tuple[Array, Array]:
        y = norm(x)
        return y, torch.autograd.grad(y, x, dy)[0]

    return both


def rivals(case: Case, given: Given) -> tuple[dict[str, Call], list[str]]:
    """Return the calls that anynorm is compared with, and a line for each that is missing."""
    found: dict[str, Call] = {}
    missing: list[str] = []
    makers: dict[str, Callable[[Case, Given], Call]] = {"native": native, "textbook": textbook}
    if case.library == "numpy" and case.norm == "layer" and case.work == "forward":
        makers["onnxruntime"] = onnxruntime
    for name, make in makers.items():
        try:
            found[name] = make(case, given)
        except ModuleNotFoundError as error:
            missing.append(f"{case.library} has no {name}: {str(error.name).split('.')[0]} is not installed")
        except Exception as error:  # noqa: BLE001 (broken installations raise anything)
            missing.append(f"{case.library} has no {name}: {type(error).__name__}: {error}".splitlines()[0])
    found["copy"] = found["copy again"] = copying(case, given.x)
    return found, missing


def copying(case: Case, x: Array) -> Call:
    """Return the call that copies x."""
    if case.library == "numpy":
        return partial(x.copy, "K")
    if case.library == "torch":
        call: Call = x.clone
        return call
    jax = import_module("jax")
    return lambda: jax.block_until_ready(jax.numpy.copy(x))


def native(case: Case, given: Given) -> Call:
    """Return the call of the library's own norm: torch's for NumPy, Flax's for JAX."""
    if case.library == "jax":
        return jax_call(case, flax_norm(case, import_module("flax.linen")), given)
    norm = torch_norm(case, import_module("torch").nn.functional)
    if case.library == "torch":
        return calling(case, norm, given)
    torch = import_module("torch")
    tensors = (torch.from_numpy(a) for a in given if a is not None)
    if case.layout == "last":
        tensors = (tensor.movedim(-1, 1) for tensor in tensors)
    return calling(case._replace(library="torch"), norm, Given(*tensors))


def torch_norm(case: Case, functional: Any) -> Norm:
    """Return the norm of torch.nn.functional."""
    shape = case.shape[1:]
    norms: dict[str, Norm] = {
        "batch": lambda x: functional.batch_norm(x, None, None, training=True, eps=EPS),
        "instance": lambda x: functional.instance_norm(x, eps=EPS),
        "group": lambda x: functional.group_norm(x, GROUPS, eps=EPS),
        "layer": lambda x: functional.layer_norm(x, shape, eps=EPS),
        "rms": lambda x: functional.rms_norm(x, shape, eps=EPS),
    }
    return norms[case.norm]


def flax_norm(case: Case, nn: Any) -> Norm:
    """Return the norm of flax.linen: eager as it is by default, under jit with the variance that anynorm holds to."""
    options: dict[str, Any] = {"epsilon": EPS, "use_scale": False, "use_fast_variance": case.mode == "eager"}
    if case.norm != "rms":
        options["use_bias"] = False
    if case.norm == "batch":
        norm = nn.BatchNorm(use_running_average=False, **options)
        return lambda x: norm.apply({}, x, mutable=["batch_stats"])[0]
    layers: dict[str, Callable[..., Any]] = {
        "instance": nn.InstanceNorm,
        "group": partial(nn.GroupNorm, GROUPS),
        "layer": partial(nn.LayerNorm, reduction_axes=case.axes),
        "rms": partial(nn.RMSNorm, reduction_axes=case.axes),
    }
    return partial(layers[case.norm](**options).apply, {})


def textbook(case: Case, given: Given) -> Call:
    """Return the call of the textbook's lines, in the library's own mean and variance."""
    sqrt = import_module({"numpy": "numpy", "torch": "torch", "jax": "jax.numpy"}[case.library]).sqrt
    if case.library == "numpy" and case.work == "both":
        return partial(by_hand, case, sqrt, *given)
    return calling(case, lines(case, sqrt), given)


def lines(case: Case, sqrt: Norm) -> Norm:
    """Return the norm that the textbook's lines are."""
    axes = case.axes if len(case.axes) > 1 else case.axes[0]
    biased = {"correction": 0} if case.library == "torch" else {}

    def standardize(x: Array) -> Array:
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True, **biased)
        return (x - mean) / sqrt(var + EPS)

    def rms(x: Array) -> Array:
        return x / sqrt((x * x).mean(axes, keepdims=True) + EPS)

    def group(x: Array) -> Array:
        return standardize(x.reshape(case.split)).reshape(x.shape)

    return {"rms": rms, "group": group}.get(case.norm, standardize)


def by_hand(case: Case, sqrt: Norm, x: Array, dy: Array) -> tuple[Array, Array]:
    """Return the textbook's lines, and the gradient of x in closed form."""
    x, dy = x.reshape(case.split), dy.reshape(case.split)
    if case.norm == "rms":
        deviation, shift = sqrt((x * x).mean(case.axes, keepdims=True) + EPS), 0
        y = x / deviation
    else:
        deviation, shift = sqrt(x.var(case.axes, keepdims=True) + EPS), dy.mean(case.axes, keepdims=True)
        y = (x - x.mean(case.axes, keepdims=True)) / deviation
    dx = (dy - shift - y * (dy * y).mean(case.axes, keepdims=True)) / deviation
    return y.reshape(case.shape), dx.reshape(case.shape)


def onnxruntime(case: Case, given: Given) -> Call:
    """Return the call of onnxruntime's layer norm."""
    onnx, runtime = import_module("onnx"), import_module("onnxruntime")
    helper, shape = import_module("onnx.helper"), list(case.shape)
    kind = onnx.TensorProto.FLOAT if case.dtype == "float32" else onnx.TensorProto.FLOAT16
    values = [helper.make_tensor_value_info(name, kind, sizes) for name, sizes in (("x", shape), ("y", shape))]
    scale = import_module("onnx.numpy_helper").from_array(given.x[0] * 0 + 1, "scale")
    node = helper.make_node("LayerNormalization", ["x", "scale"], ["y"], axis=1, epsilon=EPS)
    graph = helper.make_graph([node], "layer", values[:1], values[1:], [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1 if case.mode == "one" else 0
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads would take the others' time
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": given.x})[0]


@contextmanager
def threads(case: Case) -> Iterator[None]:
    """Use one thread inside the block, where the case is of one."""
    if case.mode != "one":
        yield
        return
    with ExitStack() as stack:
        engine = getattr(import_module("anynorm"), "engine", None)  # which early revisions lack
        if engine is not None:
            stack.enter_context(engine(threads=1))
        torch = sys.modules.get("torch")
        if torch is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        yield


# --------------------------------------------------------------------------------------------------
# The clock
# --------------------------------------------------------------------------------------------------

clock = time.perf_counter

SHORTEST = 1e-3  # seconds that a measurement takes: a quicker call is repeated inside
ROUNDS, FEWEST, SECONDS = 15, 5, 5.0  # rounds a case; or the fewest, once they have taken so many seconds


def seconds(call: Call, times: int) -> float:
    """Return how long a call takes, on average of so many."""
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / times


def enough(once: float) -> int:
    """Return how often to repeat a call that takes so long."""
    return max(1, math.ceil(SHORTEST / max(once, 1e-9)))


def warm(call: Call) -> int:
    """Call until everything is compiled and cached, and return how often to repeat it in a measurement."""
    call()
    return enough(min(seconds(call, 1) for _ in range(3)))


def interleaved(calls: Mapping[str, Callable[[], float]], rounds: int | None) -> dict[str, list[float]]:
    """Measure every call once a round, in an order that changes, and return what each round has measured."""
    names, order = list(calls), random.Random(0)  # noqa: S311 (nothing is secret)
    measured: dict[str, list[float]] = {name: [] for name in names}
    start, done = clock(), 0
    while not over(done, clock() - start, rounds):
        for name in order.sample(names, len(names)):
            measured[name].append(calls[name]())
        done += 1
    return measured


def over(done: int, elapsed: float, rounds: int | None) -> bool:
    """Whether so many rounds are enough: as many as asked for, or else as fit into the time."""
    if rounds is not None:
        return done >= rounds
    return done >= ROUNDS or (done >= FEWEST and elapsed >= SECONDS)


def race(calls: Mapping[str, Call], rounds: int | None) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return the seconds that each call takes, round by round, and what those raise that fail."""
    ready: dict[str, Callable[[], float]] = {}
    failed: dict[str, str] = {}
    for name, call in calls.items():
        try:
            ready[name] = partial(seconds, call, warm(call))
        except Exception as error:  # noqa: BLE001 (a norm may refuse a dtype or a shape in any way)
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return interleaved(ready, rounds), failed


def quartile_range(times: Sequence[float]) -> float:
    """Return the distance between the quartiles."""
    if len(times) < 2:
        return 0.0
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return high - low


def extra_bytes(call: Call) -> int | None:
    """Return the most memory that a call takes besides its results; None where NumPy is not the one that takes it."""
    tracemalloc.start()
    try:
        result = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    results = sum(a.nbytes for a in (result if isinstance(result, tuple) else (result,)))
    return peak - results if peak >= results else None


# --------------------------------------------------------------------------------------------------
# The worker
# --------------------------------------------------------------------------------------------------


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
        except Exception as error:  # noqa: BLE001 (the revision may not know it, or fail)
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
