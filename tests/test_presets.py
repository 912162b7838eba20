"""Presets beside the frameworks themselves: names, defaults, results, ten steps, inference, and a network each."""

from __future__ import annotations

import inspect
from dataclasses import fields

import numpy as np
import pytest

from anynorm import presets
from oracles import assert_near

F32 = np.float32


SHAPE, CHANNELS = (6, 5, 4, 8), 8  # channels last; the first where a framework has them in axis 1
STEPS = 10
torch, flax = pytest.mark.library("torch"), pytest.mark.library("flax")
haiku, equinox, mlx, onnx = (pytest.mark.library(name) for name in ("haiku", "equinox", "mlx.nn", "onnx"))
jax = pytest.mark.library("jax")
OLD = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # Keras's


def keras(test):
    return pytest.mark.library("keras")(OLD(test))


def batches(axis=-1, seed=0, steps=STEPS):
    """Return batches whose channels differ in mean and spread."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((steps, *SHAPE)) * np.linspace(0.5, 3, CHANNELS) + np.linspace(-2, 2, CHANNELS)
    return np.ascontiguousarray(np.moveaxis(x, -1, axis if axis < 0 else axis + 1)).astype(F32)


WEIGHT, BIAS = np.linspace(0.5, 1.5, CHANNELS, dtype=F32), np.linspace(-1, 1, CHANNELS, dtype=F32)


def and_of_halves(cases):
    """Return cases of float32, and some of float16."""
    return [*((*case, "float32") for case in cases), *((*case, "float16") for case in cases[::3])]


def as_numpy(arrays):
    return {name: np.asarray(a) for name, a in arrays.items()}


def same_state(ours, theirs):
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (ours[name], value)), strict=True):
            assert_near(np.asarray(a, dtype=float), np.asarray(b, dtype=float), 3e-6)


def ten_steps(norm, native, training, inference, parameters, axis=-1, seed=0):
    """Hold a preset against a function of (x, training) that returns what the framework does, and its state."""
    state = {}
    for x in batches(axis, seed):
        y, state = norm(x, **training, **parameters, **state)
        expected, kept = native(x, True)
        assert_near(y, expected, 5e-6)
        same_state(state, kept)
    x = batches(axis, seed + 1)[0]
    y, unchanged = norm(x, **inference, **parameters, **state)
    assert_near(y, native(x, False)[0], 5e-6)
    same_state(unchanged, state)


# ---------------------------------------------------------------------------------- names and defaults

SEEN = {  # where a framework's constructor is, and what of it is none of a preset's
    "torch": lambda name: getattr(__import__("torch.nn").nn, name),
    "flax": lambda name: getattr(__import__("flax.linen").linen, name),
    "keras": lambda name: getattr(__import__("keras").layers, name),
    "haiku": lambda name: getattr(__import__("haiku"), name),
    "equinox": lambda name: getattr(__import__("equinox").nn, name),
    "mlx": lambda name: getattr(__import__("mlx.nn").nn, name),
}
MARKS = {
    "flax": [flax, jax],
    "keras": [pytest.mark.library("keras"), jax],
    "haiku": [haiku, jax],
    "equinox": [equinox, jax],
}
MARKS |= {"torch": [torch], "mlx": [mlx], "onnx": [onnx, torch]}


def classes(framework):
    module = getattr(presets, framework)
    found = inspect.getmembers(module, inspect.isclass)
    return [name for name, a in found if a.__module__ == module.__name__ and not name.startswith("_")]


EACH = [pytest.param(f, name, marks=MARKS[f], id=f"{f}.{name}") for f in SEEN for name in classes(f)]


@pytest.mark.parametrize(("framework", "name"), EACH)
def test_options_have_the_names_the_order_and_the_defaults_of_the_framework(framework, name):
    own = {f.name: f for f in fields(getattr(getattr(presets, framework), name))}
    theirs = inspect.signature(SEEN[framework](name)).parameters
    assert [n for n in theirs if n in own] == list(own)  # none of another name, and the order is theirs
    for option, f in own.items():
        default = theirs[option].default
        if option == "mode":  # "legacy" is "ema" with a warning
            assert (f.default, default) == ("ema", "legacy")
        elif default is inspect.Parameter.empty:
            assert f.default.__class__.__name__ == "_MISSING_TYPE"
        else:
            assert f.default == default
    positional = [n for n, f in own.items() if not f.kw_only]
    assert list(theirs)[: len(positional)] == positional


@onnx
@torch
@pytest.mark.parametrize("name", classes("onnx"))
def test_operators_have_the_inputs_the_attributes_and_the_defaults_of_onnx(name):
    import onnx

    preset, schema = getattr(presets.onnx, name), onnx.defs.get_schema(name)
    inputs = list(inspect.signature(preset.__call__).parameters)[1:]
    assert inputs == [one.name for one in schema.inputs]
    own = {f.name: f.default for f in fields(preset)}
    assert set(own) <= set(schema.attributes)
    assert set(schema.attributes) - set(own) <= {"stash_type"}  # of ONNX's own arithmetic
    for option, default in own.items():
        theirs = onnx.helper.get_attribute_value(schema.attributes[option].default_value)
        if schema.attributes[option].required:
            assert default.__class__.__name__ == "_MISSING_TYPE"
        else:
            assert np.allclose(default, theirs)


# ---------------------------------------------------------------------------------- PyTorch


def in_torch(module, x):
    import torch

    with torch.no_grad():
        return module(torch.from_numpy(x)).numpy()


def torch_module(name, *arguments, **options):
    import torch

    module = getattr(torch.nn, name)(*arguments, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) + 0.5
    return module


INSTANCE = {"track_running_stats": True, "affine": True}


@torch
@pytest.mark.parametrize(
    ("name", "options", "momentum"),
    [
        *(("BatchNorm2d", {}, momentum) for momentum in (0.1, 0.3, None)),
        *(("InstanceNorm2d", INSTANCE, momentum) for momentum in (0.1, 0.3, None)),
    ],
)
def test_ten_steps_of_torch(name, options, momentum):
    module = torch_module(name, CHANNELS, momentum=momentum, **options)

    def native(x, training):
        y = in_torch(module.train(training), x)
        kept = {key: a.clone() for key, a in module.state_dict().items() if key not in {"weight", "bias"}}
        return y, kept

    norm = getattr(presets.torch, name)(CHANNELS, momentum=momentum, **options)
    parameters = {key: module.state_dict()[key].numpy().copy() for key in ("weight", "bias")}
    ten_steps(norm, native, {"training": True}, {}, parameters, axis=1)


@torch
@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("BatchNorm1d", (8,), (6, 8)),
        ("BatchNorm3d", (8,), (2, 8, 3, 4, 2)),
        ("InstanceNorm1d", (8,), (6, 8, 5)),
        ("InstanceNorm2d", (8,), (8, 5, 4)),  # without a batch axis
        ("InstanceNorm3d", (8, 1e-3), (2, 8, 3, 4, 2)),
        ("LayerNorm", ((5, 8),), (6, 5, 8)),
        ("LayerNorm", (8, 1e-2), (6, 5, 8)),
        ("RMSNorm", (8,), (6, 5, 8)),
        ("GroupNorm", (4, 8), (6, 8, 5)),
    ],
)
def test_modules_of_torch(name, arguments, shape, rng):
    module, x = torch_module(name, *arguments).train(), (rng.standard_normal(shape) * 2 + 1).astype(F32)
    expected = in_torch(module, x)
    norm = getattr(presets.torch, name)(*arguments)
    parameters = {key: a.detach().numpy() for key, a in module.named_parameters()}
    y = norm(x, training=True, **parameters)[0] if name.startswith("Batch") else norm(x, **parameters)
    assert_near(y, expected, 5e-6)
    assert y.dtype == x.dtype


@torch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_rms_norm_of_torch_has_the_eps_of_the_dtype_that_it_computes_in(dtype):
    import torch

    x = (torch.linspace(-1, 1, 12).reshape(2, 6) * 1e-4).to(getattr(torch, dtype))
    y = presets.torch.RMSNorm(6)(x)
    expected = torch.nn.RMSNorm(6, dtype=x.dtype)(x).detach()
    assert torch.allclose(y, expected, rtol={"float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-13}[dtype], atol=0)


TRAINED = [
    ("BatchNorm2d", (8,), (6, 8, 5, 4)),
    ("InstanceNorm2d", (8, 1e-5, 0.1, True, True), (6, 8, 5, 4)),
    ("InstanceNorm1d", (8, 1e-5, 0.1, True), (6, 8, 5)),
    ("LayerNorm", ((5, 4),), (6, 8, 5, 4)),
    ("RMSNorm", (4,), (6, 8, 5, 4)),
    ("GroupNorm", (4, 8), (6, 8, 5)),
]


def in_training(name, arguments, shape):
    """Return a module, an x, and a function of x and the parameters that is its preset, all in float64."""
    import torch

    module = torch_module(name, *arguments).double().train()
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 1
    norm = getattr(presets.torch, name)(*arguments)
    options = {"training": True} if name.startswith(("Batch", "Instance")) else {}

    def run(x, parameters):
        found = norm(x, **parameters, **options)
        return found if isinstance(found, tuple) else (found, {})

    return module, x, run


@torch
@pytest.mark.parametrize("made", ["apart", "of x"])
@pytest.mark.parametrize(("name", "arguments", "shape"), TRAINED)
def test_gradients_are_those_of_the_module(name, arguments, shape, made):
    import torch

    module, x, run = in_training(name, arguments, shape)
    own = {key: a.detach().clone().requires_grad_() for key, a in module.named_parameters()}
    leaves = (x.requires_grad_(), *own.values())

    def parameters():  # of x: the gradient of x has a part by way of them
        return own if made == "apart" else {key: a * x.square().mean() for key, a in own.items()}

    expected = torch.func.functional_call(module, parameters(), x)
    y, _ = run(x, parameters())
    g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    pairs = zip(*(torch.autograd.grad(result, leaves, g) for result in (y, expected)), strict=True)
    assert all(torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10) for ours, theirs in pairs)


@torch
@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [*TRAINED[:3], *(pytest.param(*case, marks=pytest.mark.slow) for case in TRAINED[3:])],
)
def test_a_compiled_step_is_the_step(name, arguments, shape):
    import torch

    module, x, run = in_training(name, arguments, shape)
    parameters = dict(module.named_parameters())
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    leaves, found = (x.requires_grad_(), *parameters.values()), []
    for call in (run, compiled):
        y, state = call(x, parameters)
        found.append([y, *map(torch.as_tensor, state.values()), *torch.autograd.grad(y.pow(3).sum(), leaves)])
    eager, traced = found
    assert len(eager) == len(traced)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(eager, traced, strict=True))


# ---------------------------------------------------------------------------------- Flax


@flax
@jax
@pytest.mark.parametrize("options", [{}, {"momentum": 0.7, "epsilon": 0.1}])
def test_ten_steps_of_flax(options):
    import flax.linen as nn

    module, kept = nn.BatchNorm(use_running_average=None, **options), {"mean": np.zeros(8, F32), "var": np.ones(8, F32)}

    def native(x, training):
        variables = {"params": {"scale": WEIGHT, "bias": BIAS}, "batch_stats": kept}
        y, new = module.apply(variables, x, use_running_average=not training, mutable=["batch_stats"])
        kept.update(new["batch_stats"])
        return y, dict(kept)

    training, inference = {"use_running_average": False}, {"use_running_average": True}
    norm = presets.flax.BatchNorm(**options)
    ten_steps(norm, native, training, inference, {"scale": WEIGHT, "bias": BIAS})


@flax
@jax
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LayerNorm", {}),
        ("LayerNorm", {"reduction_axes": (1, 2, 3)}),
        ("LayerNorm", {"reduction_axes": (1, 2), "feature_axes": (2, 3), "epsilon": 0.1}),
        ("LayerNorm", {"use_bias": False}),
        ("RMSNorm", {}),
        ("RMSNorm", {"reduction_axes": (2, 3)}),
        ("GroupNorm", {"num_groups": 4}),
        ("GroupNorm", {"num_groups": None, "group_size": 4}),
        ("InstanceNorm", {}),
        ("InstanceNorm", {"feature_axes": 2}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_modules_of_flax(name, options, dtype, rng):
    import flax.linen as nn
    import jax

    x = batches()[0].astype(dtype)
    module = getattr(nn, name)(**options)
    with jax.numpy_dtype_promotion("standard"):
        shapes = module.init(jax.random.key(0), x)["params"]
        params = {key: (rng.random(a.shape) + 0.5).astype(F32) for key, a in shapes.items()}
        expected = np.asarray(module.apply({"params": params}, x))
    y = getattr(presets.flax, name)(**options)(x, **presets.flax.arrays({"params": params}))
    assert y.dtype == expected.dtype == F32
    assert_near(y, expected, 5e-6)


# ---------------------------------------------------------------------------------- Keras


@keras
@jax
@pytest.mark.parametrize(
    ("axis", "options"), [(-1, {}), (-1, {"momentum": 0.6, "epsilon": 0.1}), (1, {}), (-1, {"scale": False})]
)
def test_ten_steps_of_keras(axis, options):
    import keras

    layer = keras.layers.BatchNormalization(axis=axis, **options)
    layer.build((None, *batches(axis)[0].shape[1:]))
    parameters = {"beta": BIAS} if options.get("scale") is False else {"gamma": WEIGHT, "beta": BIAS}
    for key, a in parameters.items():
        getattr(layer, key).assign(a)

    def native(x, training):
        y = layer(x, training=training)
        return y, {key: a for key, a in presets.keras.arrays(layer).items() if key.startswith("moving")}

    ten_steps(presets.keras.BatchNormalization(axis, **options), native, {"training": True}, {}, parameters, axis=axis)


@keras
@jax
def test_masked_statistics_of_keras():
    import keras

    layer = keras.layers.BatchNormalization()
    x, mask = batches()[0][:, :, 0], np.arange(30).reshape(6, 5) % 3 > 0
    expected = np.asarray(layer(x, training=True, mask=mask))
    y, state = presets.keras.BatchNormalization()(x, training=True, mask=mask)
    assert_near(y[mask], expected[mask], 5e-6)
    assert not y[~mask].any()
    kept = presets.keras.arrays(layer)
    same_state(state, {key: kept[key] for key in state})


@keras
@jax
@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    and_of_halves(
        [
            ("LayerNormalization", {}),
            ("LayerNormalization", {"axis": (1, 2, 3), "epsilon": 0.1}),
            ("LayerNormalization", {"center": False}),
            ("RMSNormalization", {}),
            ("RMSNormalization", {"axis": (2, 3)}),
            ("GroupNormalization", {"groups": 4}),
            ("GroupNormalization", {"groups": -1, "scale": False}),
            ("GroupNormalization", {"groups": 5, "axis": 1}),
        ]
    ),
)
def test_layers_of_keras(name, options, dtype, rng):
    import keras

    layer, x = getattr(keras.layers, name)(**options), batches()[0].astype(dtype)
    layer.build(x.shape)
    for weight in layer.weights:
        weight.assign((rng.random(weight.shape) + 0.5).astype(F32))
    expected = np.asarray(layer(x))
    y = getattr(presets.keras, name)(**options)(x, **presets.keras.arrays(layer))
    assert y.dtype == expected.dtype == F32
    assert_near(y, expected, 5e-6 if dtype == "float32" else 2**-10)  # Keras's has been float16 in between


# ---------------------------------------------------------------------------------- Haiku


@haiku
@jax
@pytest.mark.parametrize(("axis", "data_format"), [(-1, "channels_last"), (1, "NC...")])
def test_ten_steps_of_haiku(axis, data_format):
    import haiku as hk
    import jax

    options = {"data_format": data_format}
    run = hk.transform_with_state(lambda x, training: hk.BatchNorm(True, True, 0.9, **options)(x, training))
    params, state = run.init(jax.random.key(0), batches(axis)[0], True)
    (name,) = params
    for key, a in (("scale", WEIGHT), ("offset", BIAS)):
        params[name][key] = a.reshape(params[name][key].shape)
    held = [jax.tree.map(np.zeros_like, state)]

    def native(x, training):
        y, held[0] = run.apply(params, held[0], None, x, training)
        return y, flat(presets.haiku.arrays({}, name, held[0]))

    norm = presets.haiku.BatchNorm(True, True, 0.9, **options)

    def flattening(x, training, mean_ema=None, var_ema=None, **parameters):
        kept = {} if mean_ema is None else {"mean_ema": nested(mean_ema), "var_ema": nested(var_ema)}
        y, new = norm(x, training, **kept, **parameters)
        return y, flat(new)

    ten_steps(flattening, native, {"training": True}, {"training": False}, params[name], axis=axis)


def flat(state):
    """Return averages as tuples, in one order."""
    return {key: tuple(ema[part] for part in ("hidden", "average", "counter")) for key, ema in state.items()}


def nested(values):
    return dict(zip(("hidden", "average", "counter"), values, strict=True))


@haiku
@jax
@pytest.mark.parametrize(
    ("name", "arguments", "options", "dtype"),
    and_of_halves(
        [
            ("LayerNorm", (-1, True, True), {}),
            ("LayerNorm", (slice(1, None), True, True), {"param_axis": -1, "eps": 0.1}),
            ("LayerNorm", ((1, 2), True, False), {"param_axis": (1, 2)}),
            ("RMSNorm", (-1,), {}),
            ("RMSNorm", ((2, 3),), {"param_axis": (2, 3)}),
            ("GroupNorm", (4,), {}),
            ("GroupNorm", (5,), {"data_format": "channels_first"}),
            ("InstanceNorm", (True, True), {}),
            ("InstanceNorm", (True, True), {"data_format": "NC..."}),
        ]
    ),
)
def test_modules_of_haiku(name, arguments, options, dtype, rng):
    import haiku as hk
    import jax

    x = batches()[0]
    run = hk.without_apply_rng(hk.transform(lambda x: getattr(hk, name)(*arguments, **options)(x)))
    params = jax.tree.map(lambda a: (rng.random(a.shape) + 0.5).astype(F32), run.init(jax.random.key(0), x))
    with jax.numpy_dtype_promotion("standard"):
        expected = np.asarray(run.apply(params, x.astype(dtype)))
    y = getattr(presets.haiku, name)(*arguments, **options)(x.astype(dtype), **presets.haiku.arrays(params, *params))
    assert y.dtype == expected.dtype == F32
    assert_near(y, expected, 5e-6 if dtype == "float32" else 2**-9)  # Haiku's has been float16 in between


# ---------------------------------------------------------------------------------- Equinox


@equinox
@jax
@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_ten_steps_of_equinox(mode):
    import equinox as eqx
    import jax

    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(CHANNELS, "batch", mode=mode)
    layer = eqx.tree_at(lambda a: (a.weight, a.bias), layer, (jax.numpy.asarray(WEIGHT), jax.numpy.asarray(BIAS)))
    held = [state]

    def native(x, training):
        def one(sample, kept):
            return layer(sample, kept, inference=not training)

        y, held[0] = jax.vmap(one, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, held[0])
        kept = presets.equinox.arrays(layer, held[0])
        return y, {key: a for key, a in kept.items() if key not in {"weight", "bias"}}

    norm = presets.equinox.BatchNorm(CHANNELS, "batch", mode=mode)
    parameters = {"weight": WEIGHT, "bias": BIAS}
    ten_steps(norm, native, {"inference": False}, {"inference": True}, parameters, axis=1)


@equinox
@jax
@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [("LayerNorm", ((8, 5),), (6, 8, 5)), ("RMSNorm", (5, 0.1), (6, 5)), ("GroupNorm", (4, 8), (6, 8, 5))],
)
def test_layers_of_equinox(name, arguments, shape, rng):
    import equinox as eqx
    import jax

    layer, x = getattr(eqx.nn, name)(*arguments), (rng.standard_normal(shape) * 2 + 1).astype(F32)
    new = tuple(jax.numpy.asarray(rng.random(a.shape) + 0.5, dtype=F32) for a in (layer.weight, layer.bias))
    layer = eqx.tree_at(lambda a: (a.weight, a.bias), layer, new)
    norm, parameters = getattr(presets.equinox, name)(*arguments), as_numpy(presets.equinox.arrays(layer))
    assert_near(norm(x, **parameters), np.asarray(jax.vmap(layer)(x)), 5e-6)
    if name != "GroupNorm":
        assert_near(norm(x[0], **parameters), np.asarray(layer(x[0])), 5e-6)


# ---------------------------------------------------------------------------------- JAX's transformations


def jitted(preset, arrays, state, x, **options):
    """Hold two steps of a preset under jit, and a gradient, against those of NumPy arrays in float64."""
    import jax

    def step(x, arrays, state):
        return preset(x, **options, **arrays, **state)

    def loss(x):
        y, _ = step(x, arrays, {})
        return (y**3).sum()

    wide = jax.tree.map(lambda a: np.asarray(a, dtype=np.float64), arrays)
    exact, kept = preset(x.astype(np.float64), **options, **wide, **state)
    exact, kept = preset(2 * x.astype(np.float64), **options, **wide, **kept)
    y, traced = jax.jit(step)(x, arrays, state)
    y, traced = jax.jit(step)(2 * x, arrays, traced)
    assert_near(y, exact, 5e-6)
    assert jax.tree.structure(traced) == jax.tree.structure(kept)
    for a, b in zip(jax.tree.leaves(traced), jax.tree.leaves(kept), strict=True):
        assert_near(np.asarray(a, dtype=float), np.asarray(b, dtype=float), 5e-6)
    assert np.isfinite(jax.grad(loss)(x)).all()


@jax
def test_state_is_traced():
    x = batches()[0]
    affine = {"scale": WEIGHT, "offset": BIAS}
    jitted(presets.haiku.BatchNorm(True, True, 0.9), affine, {}, x, is_training=True)
    jitted(presets.flax.BatchNorm(), {"scale": WEIGHT, "bias": BIAS}, {}, x, use_running_average=False)
    jitted(presets.keras.BatchNormalization(), {"gamma": WEIGHT, "beta": BIAS}, {}, x, training=True)
    for mode in ("ema", "batch"):
        jitted(presets.equinox.BatchNorm(5, "b", mode=mode), {}, {}, x)


def of_flax(name, **options):
    import flax.linen as nn

    module, preset = getattr(nn, name)(**options), getattr(presets.flax, name)(**options)
    kept = {"mean": np.zeros(CHANNELS, F32), "var": np.ones(CHANNELS, F32)} if name == "BatchNorm" else {}

    def native(x, scale, bias):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": kept}
        return module.apply(variables, x, mutable=["batch_stats"])[0]

    return native, lambda x, scale, bias: first(preset(x, scale=scale, bias=bias))


def of_keras():
    import keras

    layer = keras.layers.BatchNormalization()
    layer.build((None, *SHAPE[1:]))
    kept = [a.value for a in layer.non_trainable_variables]

    def native(x, gamma, beta):
        return layer.stateless_call([gamma, beta], kept, x, training=True)[0]

    preset = presets.keras.BatchNormalization()
    return native, lambda x, gamma, beta: first(preset(x, gamma=gamma, beta=beta, training=True))


def first(found):
    return found[0] if isinstance(found, tuple) else found


@jax
@pytest.mark.parametrize("made", ["apart", "of x"])
@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(lambda: of_flax("BatchNorm", use_running_average=False), marks=flax, id="flax.BatchNorm"),
        pytest.param(lambda: of_flax("LayerNorm"), marks=[flax, pytest.mark.slow], id="flax.LayerNorm"),
        pytest.param(lambda: of_flax("GroupNorm", num_groups=4), marks=[flax, pytest.mark.slow], id="flax.GroupNorm"),
        pytest.param(lambda: of_flax("InstanceNorm"), marks=[flax, pytest.mark.slow], id="flax.InstanceNorm"),
        pytest.param(of_keras, marks=[pytest.mark.library("keras"), OLD], id="keras.BatchNormalization"),
    ],
)
def test_gradients_are_those_of_the_framework(pair, made):
    import jax

    def gradients(norm):
        def loss(x, weight, bias):  # of x: the gradient of x has a part by way of them
            by = (x**2).mean() if made == "of x" else 1.0
            return (norm(x, weight * by, bias * by) ** 3).sum()

        arrays = (jax.numpy.asarray(a) for a in (batches()[0], WEIGHT, BIAS))
        return jax.grad(loss, argnums=(0, 1, 2))(*arrays)

    native, preset = pair()
    for ours, theirs in zip(gradients(preset), gradients(native), strict=True):
        assert_near(ours, theirs, 1e-5 * float(abs(theirs).max()))


# ---------------------------------------------------------------------------------- MLX


@mlx
@pytest.mark.parametrize("options", [{}, {"momentum": 0.3, "eps": 0.1}])
def test_ten_steps_of_mlx(options):
    import mlx.core as mx
    from mlx import nn

    module = nn.BatchNorm(CHANNELS, **options)
    module.update({"weight": mx.array(WEIGHT), "bias": mx.array(BIAS)})

    def native(x, training):
        y = module.train(training)(mx.array(x))
        kept = presets.mlx.arrays(module.parameters())
        return np.array(y), {key: np.array(kept[key]) for key in ("running_mean", "running_var")}

    parameters = {"weight": WEIGHT, "bias": BIAS}
    ten_steps(presets.mlx.BatchNorm(CHANNELS, **options), native, {"training": True}, {}, parameters)


@mlx
@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("LayerNorm", (8,), {}),
        ("LayerNorm", (8, 0.1), {"bias": False}),
        ("RMSNorm", (8,), {}),
        ("InstanceNorm", (8,), {}),
        ("InstanceNorm", (8,), {"affine": True}),
        ("GroupNorm", (4, 8), {}),
        ("GroupNorm", (4, 8), {"pytorch_compatible": True}),
    ],
)
def test_modules_of_mlx(name, arguments, options, rng):
    import mlx.core as mx
    from mlx import nn

    module, x = getattr(nn, name)(*arguments, **options), batches()[0]
    module.update({key: mx.array((rng.random(a.shape) + 0.5).astype(F32)) for key, a in module.parameters().items()})
    parameters = {key: np.array(a) for key, a in module.parameters().items()}
    y = getattr(presets.mlx, name)(*arguments, **options)(x, **parameters)
    assert_near(y, np.array(module(mx.array(x))), 5e-6)


# ---------------------------------------------------------------------------------- ONNX


def in_onnx(operator, arrays, attributes, opset=23, outputs=("y",), run=None):
    """Return what a node makes of arrays, by onnxruntime, or by another function of the model and what it is fed."""
    import onnxruntime
    from onnx import TensorProto, helper

    feed = {f"x{i}": a for i, a in enumerate(arrays)}
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name, a in feed.items()]
    shapes = (arrays[0].shape, *(a.shape for a in arrays[3:]))  # of y, and of a mean and a variance
    made = [helper.make_tensor_value_info(*one) for one in zip(outputs, [TensorProto.FLOAT] * 3, shapes, strict=False)]
    node = helper.make_node(operator, list(feed), list(outputs), **attributes)
    graph = helper.make_graph([node], "one", given, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if run is not None:
        return run(model, feed)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)


@onnx
@torch
@pytest.mark.parametrize(
    ("name", "attributes", "parameters", "opset"),
    [
        ("LayerNormalization", {}, (WEIGHT[:4], BIAS[:4]), 17),
        ("LayerNormalization", {"axis": 2, "epsilon": 0.1}, (WEIGHT[:4], np.ones((5, 1), F32)), 17),
        ("LayerNormalization", {"axis": 1}, (np.ones((8, 5, 4), F32) / 2,), 17),
        ("RMSNormalization", {}, (WEIGHT[:4],), 23),
        ("RMSNormalization", {"axis": -2}, (np.full((5, 4), 0.5, F32),), 23),
        ("GroupNormalization", {"num_groups": 4}, (WEIGHT, BIAS), 21),
        ("GroupNormalization", {"num_groups": 4, "epsilon": 0.1}, (WEIGHT[:4], BIAS[:4]), 18),
        ("InstanceNormalization", {}, (WEIGHT, BIAS), 17),
        ("MeanVarianceNormalization", {}, (), 13),
        ("MeanVarianceNormalization", {"axes": (2, 3)}, (), 13),
        ("BatchNormalization", {}, (WEIGHT, BIAS, BIAS, WEIGHT), 17),
    ],
)
def test_operators_of_onnx(name, attributes, parameters, opset):
    x = batches(1)[0]
    (expected,) = in_onnx(name, (x, *parameters), attributes, opset)
    y = getattr(presets.onnx, name)(**attributes)(x, *parameters)
    assert_near(y, expected, 1e-5)


@onnx
@torch
@pytest.mark.parametrize("attributes", [{}, {"momentum": 0.6, "epsilon": 0.1}])
def test_ten_steps_of_onnx(attributes):
    from onnx.reference import ReferenceEvaluator

    held = {"mean": np.zeros(8, F32), "var": np.ones(8, F32)}
    steps = {mode: presets.onnx.BatchNormalization(training_mode=mode, **attributes) for mode in (0, 1)}

    def native(x, training):
        options, state = {"training_mode": int(training), **attributes}, tuple(held.values())
        names = ("y", "mean", "var") if training else ("y",)
        y, *new = in_onnx(
            "BatchNormalization", (x, WEIGHT, BIAS, *state), options, outputs=names,
            run=lambda model, feed: ReferenceEvaluator(model).run(None, feed),
        )  # fmt: skip
        held.update(zip(("mean", "var"), new, strict=False))
        return y, dict(held)

    def norm(x, training, mean=held["mean"], var=held["var"]):
        result = steps[int(training)](x, WEIGHT, BIAS, mean, var)
        y, *new = result if training else (result, mean, var)
        return y, dict(zip(("mean", "var"), new, strict=True))

    ten_steps(norm, native, {"training": True}, {"training": False}, {}, axis=1)


# ---------------------------------------------------------------------------------- any library, and refusals


@pytest.mark.eager
def test_a_preset_takes_the_arrays_of_any_library(xp):
    x = batches()[0]
    norm = presets.keras.BatchNormalization()
    wide = norm(x.astype(np.float64), training=True, gamma=WEIGHT.astype(np.float64))
    y, state = xp.run(lambda *a: norm(a[0], training=True, gamma=a[1]), xp.array(x), xp.array(WEIGHT))
    assert xp.owns(y)
    assert_near(xp.numpy(y), wide[0], 2e-6)
    assert_near(xp.numpy(state["moving_variance"]), wide[1]["moving_variance"], 2e-6)
    groups = presets.mlx.GroupNorm(4, CHANNELS)
    assert_near(xp.numpy(groups(xp.array(x))), groups(x.astype(np.float64)), 2e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: presets.torch.BatchNorm1d(2)(x),
        lambda x: presets.torch.LayerNorm(2)(x),
        lambda x: presets.flax.LayerNorm()(np.ones((2, 2)), scale=x),
        lambda x: presets.keras.GroupNormalization(1)(x),
        lambda x: presets.onnx.LayerNormalization()(x, np.ones(2)),
    ],
)
def test_what_is_no_array_is_refused(call):
    with pytest.raises(TypeError, match=r"presets need arrays: got builtins.list; make one of it"):
        call([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.library("torch")
@pytest.mark.library("numpy")
def test_arrays_of_two_libraries_are_refused_as_by_the_norms():
    import torch

    with pytest.raises(TypeError, match="layer_norm needs all arrays from one library"):
        presets.keras.LayerNormalization()(torch.ones(2, 8), gamma=WEIGHT)


def test_names_that_are_numbers_are_steps_of_a_path():
    assert presets.torch.arrays({0: {"weight": 1}}, "0") == {"weight": 1}
    assert presets.flax.arrays({"state": {"layers": {0: {}, 1: {"scale": 2}}}}, "layers.1") == {"scale": 2}


def test_haiku_has_channels_of_two_axes_on_the_second(rng):
    x = rng.standard_normal((2, 3, 4, 6))
    norm = presets.haiku.InstanceNorm(False, False, data_format="NC")
    assert_near(norm(x), presets.haiku.InstanceNorm(False, False, data_format="channels_first")(x), 1e-12)


def test_layers_in_a_list_are_found_by_their_number():
    parameters = {"layers": [{}, {"weight": 1}, {"norm": {"weight": 2, "bias": 3}}]}
    assert presets.mlx.arrays(parameters, "layers.1") == {"weight": 1}
    assert presets.mlx.arrays(parameters, "layers.2.norm") == {"weight": 2, "bias": 3}


def test_a_widening_preset_takes_the_wider_dtype_and_others_take_that_of_x():
    x = batches()[0].astype(np.float16)
    assert presets.flax.LayerNorm()(x, scale=WEIGHT).dtype == np.float32
    assert presets.flax.LayerNorm()(x).dtype == np.float16
    assert presets.equinox.LayerNorm(CHANNELS)(x[0, 0], weight=WEIGHT).dtype == np.float16


X = batches(1)[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: presets.torch.BatchNorm1d(8)(X), r"BatchNorm1d needs x of rank 2 or 3: got 4"),
        (lambda: presets.torch.BatchNorm2d(7)(X), r"needs x of num_features=7 in axis 1: got shape \(6, 8, 5, 4\)"),
        (lambda: presets.torch.GroupNorm(3, 8)(X), r"group_norm needs num_groups"),
        (lambda: presets.torch.LayerNorm((5, 3))(X), r"LayerNorm needs x whose shape ends in \(5, 3\): got"),
        (
            lambda: presets.torch.BatchNorm2d(8, affine=False)(X, weight=WEIGHT),
            r"BatchNorm2d\(affine=False\) has no weight",
        ),
        (lambda: presets.flax.BatchNorm()(X), r"use_running_average once, .*: got None and None"),
        (lambda: presets.flax.BatchNorm(True)(X, False), r"use_running_average once, .*: got True and False"),
        (lambda: presets.flax.GroupNorm(4, 2)(X), r"num_groups or group_size, and None for the other"),
        (lambda: presets.flax.GroupNorm(None, 3)(X), r"group_size to divide the 4 channels: got 3"),
        (lambda: presets.keras.BatchNormalization(center=False)(X, beta=BIAS), r"\(center=False\) has no beta"),
        (lambda: presets.haiku.GroupNorm(2, data_format="CHW")(X), r"data_format to be channels_last, .*: got 'CHW'"),
        (lambda: presets.haiku.BatchNorm(True, True, 0.9)(X, False), r"needs mean_ema and var_ema"),
        (lambda: presets.equinox.BatchNorm(8, "b", mode="batched")(X), r"mode to be ema or batch: got 'batched'"),
        (lambda: presets.equinox.BatchNorm(8, "b")(X, inference=True), r"needs ema_state for inference: got None"),
        (lambda: presets.equinox.LayerNorm((5, 4))(X), r"needs a sample of shape \(5, 4\), or a batch: got"),
        (lambda: presets.mlx.GroupNorm(3, 4)(X), r"num_groups to divide the 4 channels: got 3"),
        (lambda: presets.torch.LayerNorm(4, elementwise_affine=False)(X, bias=BIAS), r"elementwise_affine=False"),
        (lambda: presets.torch.BatchNorm2d(8, track_running_stats=False)(X, running_var=BIAS), r"has no running_var"),
        (lambda: presets.torch.GroupNorm(2, 8)(X[0, 0, 0]), r"num_channels=8 in axis 1: got shape \(4,\)"),
        (lambda: presets.flax.GroupNorm(None, 0)(X), r"group_size to divide the 4 channels: got 0"),
        (lambda: presets.flax.LayerNorm(feature_axes=5)(X, scale=WEIGHT), r"an axis .*: got 5"),
        (lambda: presets.flax.LayerNorm()(X, scale=WEIGHT), r"a parameter along axes \(3,\) of .*: got shape \(8,\)"),
        (lambda: presets.flax.BatchNorm(True, momentum=1.5)(X), r"BatchNorm needs momentum .* from 0 to 1: got 1.5"),
        (lambda: presets.haiku.BatchNorm(True, True, 1.5)(X, True), r"needs decay_rate .* from 0 to 1: got 1.5"),
        (lambda: presets.haiku.BatchNorm(True, True, 0.9)(X, True, mean_ema={}), r"or in training neither"),
        (lambda: presets.onnx.LayerNormalization(axis=-9)(X, BIAS), r"LayerNormalization needs axis .*: got -9"),
        (lambda: presets.torch.arrays({"a.weight": 1}, "b"), r"path of a layer, .*: got 'b', where there is a.weight"),
        (lambda: presets.haiku.arrays({"net/a": {}}, "net/b"), r"name to be of net/a: got 'net/b'"),
        (lambda: presets.torch.arrays({"layers": [{"weight": 1}]}, "layers"), r"got 'layers', where there is layers"),
        (
            lambda: presets.torch.arrays({"norm": {"weight": X}}, "norm.weight"),
            r"got 'norm.weight', where there is norm",
        ),
        (lambda: presets.torch.arrays({"layers": [{"weight": 1}]}, "layers.\N{SUPERSCRIPT TWO}"), r"got 'layers.²'"),
        (lambda: presets.keras.BatchNormalization(axis=4)(X), r"BatchNormalization needs the channel axis .*: got 4"),
        (lambda: presets.flax.BatchNorm(False, axis=4)(X), r"BatchNorm needs the channel axis .*: got 4"),
        (lambda: presets.keras.GroupNormalization(-1, axis=4)(X), r"GroupNormalization needs axis .*: got 4"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
