"""The kernels that XLA makes of the norms for an H100, which it compiles for where there is none: `nox -s xla_gpu`.

A kernel that reads a slice of x alone, for a number near its mean, reads no more than a few of its elements.
"""

from __future__ import annotations

import functools
import math
import re

import pytest

import anynorm

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.library("jax")

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@functools.cache
def one_device():
    """Return how an array lies on one H100."""
    from jax._src import xla_bridge
    from jax.experimental import topologies

    named = xla_bridge.canonicalize_platform  # which knows a platform by its devices, and there are none
    xla_bridge.canonicalize_platform = lambda platform: "cuda" if platform == "gpu" else named(platform)
    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    mesh = topologies.make_mesh(topology, (1,), ("device",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def compiled(function, dtype, *shapes):
    """Return what XLA makes of a function of arrays, as text."""
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=one_device()) for shape in shapes]
    return jax.jit(function).lower(*arrays).compile().as_text()


INSTRUCTION = re.compile(
    r"\s*(?:ROOT )?%(?P<name>\S+) = (?P<out>\(?.*?\)?) (?P<operation>\w[\w-]*)\((?P<operands>.*?)\)"
)
FREE = ("parameter", "constant", "bitcast", "get-tuple-element", "tuple")


def kernels(text, size):
    """Return of every kernel how many arrays of a size it reads, and how many it writes."""
    parts = {part.split()[0].lstrip("%"): part for part in re.split(r"\n(?=%|ENTRY)", text)}
    entry = text[text.index("\nENTRY") :]
    large, found = {}, []
    for line in entry.splitlines():
        instruction = INSTRUCTION.match(line)
        if instruction is None:
            continue
        shapes = re.findall(r"\w+\[([\d,]*)\]", instruction["out"])
        written = sum(math.prod(map(int, filter(None, shape.split(",")))) >= size for shape in shapes)
        large[instruction["name"]] = written
        if instruction["operation"] not in FREE:
            operands = re.findall(r"%([\w.-]+)", instruction["operands"])
            called = re.search(r"calls=%([\w.-]+)", line)
            whole = [
                i for i, name in enumerate(operands) if large.get(name) and not (called and sliced(parts[called[1]], i))
            ]
            found.append((len(whole), written))
    return found


def sliced(part, i):
    """Whether a fused computation takes nothing but slices of its parameter i."""
    names = [re.search(rf"%(\S+) = \S+ parameter\({i}\)", part)[1]]
    for name in names:
        for line in part.splitlines():
            user = re.search(r"%(\S+) = \S+ (\w+)\(.*[(%]" + re.escape(name) + r"[,)]", line)
            if user and user[2] in ("convert", "bitcast"):
                names.append(user[1])
            elif user and user[2] != "slice":
                return False
    return True


def traffic(function, dtype, *shapes):
    """Return the number of kernels, and how often they read and write x."""
    found = kernels(compiled(function, dtype, *shapes), math.prod(shapes[0]))
    return len(found), sum(read for read, _ in found), sum(written for _, written in found)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(8192, 1024), (2048, 16384)], ids=str)
def test_rows_are_read_once_and_written_once(dtype, shape):
    row = shape[1:]
    made, read, written = traffic(lambda x, w, b: anynorm.layer_norm(x, w, b), dtype, shape, row, row)
    assert (made <= 2, read, written) == (True, 1, 1)
    assert traffic(lambda x, w: anynorm.rms_norm(x, w), dtype, shape, row) == (1, 1, 1)


@pytest.mark.parametrize("axis", [1, -1], ids=["channels first", "channels last"])
@pytest.mark.parametrize("name", ["batch_norm", "group_norm", "instance_norm"])
def test_scattered_slices_are_read_twice_and_written_once(name, axis):
    groups = (32,) if name == "group_norm" else ()
    shape = (64, 256, 56, 56) if axis == 1 else (64, 56, 56, 256)
    made, read, written = traffic(lambda x: getattr(anynorm, name)(x, *groups, channel_axis=axis), "float32", shape)
    print(f"{name}, axis {axis}: {made} kernels")
    assert (read, written) == (2, 1)


def test_a_gradient_along_rows_reads_x_and_dy_as_often_as_flax_makes_it():
    def pulled(norm):
        return lambda x, w, b, dy: jax.vjp(norm, x, w, b)[1](dy)

    def flax(x, w, b):
        mean = x.mean(axis=1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(((x - mean) ** 2).mean(axis=1, keepdims=True) + 1e-5) * w + b

    shapes = (8192, 1024), (1024,), (1024,), (8192, 1024)
    ours, theirs = (traffic(pulled(norm), "float32", *shapes) for norm in (anynorm.layer_norm, flax))
    print(f"kernels, readings and writings: anynorm {ours}, textbook {theirs}")
    assert ours[0] <= theirs[0]
    assert ours[1] <= theirs[1]
