"""The calls that anynorm is compared with in a case."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from anynorm._report import say
from anynorm.testing import _reference as reference

from .calls import Given, calling, jax_call, ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from .calls import Array, Call, Norm
    from .cases import Case


def rivals(case: Case, given: Given) -> tuple[dict[str, Call], list[str]]:
    """Return the calls that anynorm is compared with, and a line for each that is missing."""
    found: dict[str, Call] = {}
    missing: list[str] = []
    for name, make in makers(case).items():
        try:
            found[name] = make(case, given)
        except ModuleNotFoundError as error:
            missing.append(f"{case.library} has no {name}: {str(error.name).split('.')[0]} is not installed")
        except Exception as error:
            missing.append(f"{case.library} has no {name}: {say(error)}")
    found["copy"] = found["copy again"] = copying(case, given.x)
    return found, missing


def makers(case: Case) -> dict[str, Callable[[Case, Given], Call]]:
    """Return what makes the calls that anynorm is compared with, but for the copy."""
    if case.masked:
        return {"unmasked": unmasked}
    found: dict[str, Callable[[Case, Given], Call]] = {"native": native}
    if case.given in ("nothing", "affine"):
        found["textbook"] = textbook
    if (case.library, case.norm, case.work, case.given) == ("numpy", "layer", "forward", "nothing"):
        found["onnxruntime"] = onnxruntime
    return found


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
        fast = case.mode == "eager"  # as Flax is by default; under jit the variance that anynorm holds to
        nn = import_module("flax.linen")
        return jax_call(case, reference.flax_norm(nn, case.norm, case.shape, case.channel_axis, fast=fast), given)
    torch = import_module("torch")
    if case.library == "numpy":
        given = Given(*(a if a is None else torch.from_numpy(a) for a in given))
        if case.channel_axis == -1:
            x, dy = (a if a is None else a.movedim(-1, 1) for a in given[:2])
            given = given._replace(x=x, dy=dy)
    norm = reference.torch_norm(torch.nn.functional, case.norm, given.x.shape)
    call = partial(calling, case._replace(library="torch"), norm, given)
    if given.mean is None:
        return call()
    mean, var = given.mean.clone(), given.var.clone()  # which training writes to
    normed = call(running_mean=mean, running_var=var, training=case.given == "train")
    return (lambda: (normed(), mean, var)) if case.given == "train" else normed


def textbook(case: Case, given: Given) -> Call:
    """Return the call of the textbook's lines, in the library's own mean and variance."""
    of = import_module(reference.LIBRARIES[case.library]), case.norm, case.shape, case.channel_axis
    if case.library == "numpy" and case.work == "both":
        both = reference.textbook_both(*of)
        return partial(layer_both(both) if given.parameters else both, *given[:2], **given.parameters)
    norm = reference.textbook(*of)
    return calling(case, affine(case, norm) if given.parameters else norm, given)


def affine(case: Case, norm: Norm) -> Callable[[Array, Array, Array], Array]:
    """Return a norm, then times the weight, plus the bias."""
    over = () if case.norm == "layer" else (-1, *(1 for _ in case.shape[2:]))

    def scaled(x: Array, weight: Array, bias: Array) -> Array:
        if over:
            weight, bias = weight.reshape(over), bias.reshape(over)
        return norm(x) * weight + bias

    return scaled


def layer_both(both: Callable[[Array, Array], tuple[Array, Array]]) -> Callable[..., tuple[Array, ...]]:
    """Return a layer norm with weight and bias, and the gradients of x and of those, given one without."""

    def scaled(x: Array, dy: Array, weight: Array, bias: Array) -> tuple[Array, ...]:
        y, dx = both(x, dy * weight)
        return y * weight + bias, dx, (dy * y).sum(0), dy.sum(0)

    return scaled


def unmasked(case: Case, given: Given) -> Call:
    """Return the call of anynorm without the mask."""
    return ours(case._replace(given="nothing"), given._replace(mask=None))


def onnxruntime(case: Case, given: Given) -> Call:
    """Return the call of onnxruntime's layer norm."""
    onnx, runtime = import_module("onnx"), import_module("onnxruntime")
    helper, shape = import_module("onnx.helper"), list(case.shape)
    kind = onnx.TensorProto.FLOAT if case.dtype == "float32" else onnx.TensorProto.FLOAT16
    values = [helper.make_tensor_value_info(name, kind, sizes) for name, sizes in (("x", shape), ("y", shape))]
    scale = import_module("onnx.numpy_helper").from_array(given.x[0] * 0 + 1, "scale")
    node = helper.make_node("LayerNormalization", ["x", "scale"], ["y"], axis=1, epsilon=reference.EPS)
    graph = helper.make_graph([node], "layer", values[:1], values[1:], [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1 if case.mode == "one" else 0
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads would take the others' time
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": given.x})[0]
