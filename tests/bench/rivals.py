"""The calls that anynorm is compared with in a case."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from anynorm._cli import reference
from anynorm._cli.report import say

from .calls import Given, calling, jax_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from .calls import Array, Call
    from .cases import Case


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
        except Exception as error:
            missing.append(f"{case.library} has no {name}: {say(error)}")
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
        fast = case.mode == "eager"  # as Flax is by default; under jit the variance that anynorm holds to
        nn = import_module("flax.linen")
        return jax_call(case, reference.flax_norm(nn, case.norm, case.shape, case.channel_axis, fast=fast), given)
    torch = import_module("torch")
    if case.library == "numpy":
        given = Given(*(torch.from_numpy(a) for a in given if a is not None))
        if case.channel_axis == -1:
            given = Given(*(tensor.movedim(-1, 1) for tensor in given if tensor is not None))
    norm = reference.torch_norm(torch.nn.functional, case.norm, given.x.shape)
    return calling(case._replace(library="torch"), norm, given)


def textbook(case: Case, given: Given) -> Call:
    """Return the call of the textbook's lines, in the library's own mean and variance."""
    of = import_module(reference.LIBRARIES[case.library]), case.norm, case.shape, case.channel_axis
    if case.library == "numpy" and case.work == "both":
        return partial(reference.textbook_both(*of), *given)
    return calling(case, reference.textbook(*of), given)


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
