"""One of two torch processes that hold the shards of a DTensor: run by test_replicas.py."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor, init_device_mesh

import anynorm
from anynorm import RunningStats, vjp
from oracles import NORMS, assert_near, assert_within, data, exact, tolerance

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
shape = (8, 6, 5, 4)
x, g = data("offset 1e+04", shape), np.random.default_rng(1).standard_normal(shape).astype(np.float32)
constant = np.full(shape, 1e6 / 3, np.float32)
w, mask = np.linspace(0.5, 1.5, 6, dtype=np.float32), np.random.default_rng(2).random(shape) < 0.7
axes = {"batch": (0, 2, 3), "instance": (2, 3)}


def whole(a):
    return a.full_tensor().detach().numpy()


def is_the_whole(norm, axis, eps):
    """Compare a norm of shards with the oracle."""
    y, dx = norm.oracle(x, eps), norm.gradient(x, g, eps)
    shards, dy, alike = (distribute_tensor(torch.tensor(a), mesh, [Shard(axis)]) for a in (x, g, constant))
    shards.requires_grad_()
    ours = norm.call(shards, eps=eps)
    assert ours.placements == shards.placements
    (slope,) = torch.autograd.grad(ours, shards, dy)
    assert_within(whole(ours), y, tolerance(x, y, "float32"))
    assert_within(whole(slope), dx, 4e-6 * np.abs(dx).max())
    assert norm.rms or not norm.call(alike, eps=eps).full_tensor().any()


def is_welcome_beside_shards(name, axis):
    """Compare what comes as a plain tensor, the same on every process: a weight, a mask, the gradient."""
    shards, norm = distribute_tensor(torch.tensor(x), mesh, [Shard(axis)]), f"{name}_norm"
    weight, where, dy = torch.tensor(w, requires_grad=True), torch.tensor(mask), torch.tensor(g)
    y = exact(x, axes[name], mask=mask)[0]
    square, channels = (w.astype(np.float64) ** 2)[:, None, None], (0, 2, 3)
    dx = exact(x, axes[name], g * square, mask=mask)[0]

    # One weight in two places, each of them a function of it.
    ours = getattr(anynorm, norm)(shards, weight=weight**2, bias=weight, where=where)
    assert_near(whole(ours), y * square + w[:, None, None])
    (slope,) = torch.autograd.grad((ours * distribute_tensor(dy, mesh, [Shard(axis)])).sum(), weight)
    assert type(slope) is torch.Tensor
    assert_near(slope, 2 * w * (g * y).sum(axis=channels) + g.astype(np.float64).sum(axis=channels), 4e-6)

    ours, pullback = getattr(vjp, norm)(shards, weight=weight.detach() ** 2, where=where)
    slope, dweight, _ = pullback(dy)
    assert_near(whole(slope), dx, 4e-6)
    assert_near(whole(dweight), (g * y).sum(axis=channels), 4e-6)


def is_added_first(norm):
    """Compare a norm of a sum that is still in parts, as a matrix product over shards leaves it, with the oracle."""
    parts = torch.tensor(x - 5 if rank else np.full(shape, 5, np.float32)).requires_grad_()
    added = x - np.float32(5) + np.float32(5)
    ours = norm.call(DTensor.from_local(parts, mesh, [Partial()]))
    y, dx = norm.oracle(added), norm.gradient(added, g)
    assert_within(whole(ours), y, tolerance(added, y, "float32"))
    (slope,) = torch.autograd.grad((ours.full_tensor() * torch.tensor(g)).sum(), parts)
    assert_near(slope, dx, 4e-6)


def trains(name, axis):
    """Compare the state after two batches, started plain and as running_stats has it, with that of float64."""
    shards, train = distribute_tensor(torch.tensor(x), mesh, [Shard(axis)]), getattr(anynorm, f"{name}_norm_train")
    start = anynorm.running_stats(6, like=shards)
    assert all(isinstance(part, type(shards)) for part in start)
    per_slice = x.astype(np.float64)
    mean, var = (f(per_slice, axis=axes[name], keepdims=True) for f in (np.mean, lambda a, **k: a.var(ddof=1, **k)))
    mean, var = (part.mean(axis=(0, 2, 3)) for part in (mean, var))
    kept = 0.9**2
    for state in (start, RunningStats(torch.zeros(6), torch.ones(6), torch.tensor(0))):
        _, stats = train(shards, state)
        ours, stats = train(shards, stats)
        assert_near(whole(stats.mean), (1 - kept) * mean, 1e-6)
        assert_near(whole(stats.var), kept + (1 - kept) * var, 1e-6)
        assert int(stats.steps.full_tensor()) == 2
        assert_within(whole(ours), exact(x, axes[name])[0], tolerance(x, x - 1e4, "float32"))
    used = anynorm.batch_norm(shards, stats=RunningStats(torch.tensor(mean), torch.tensor(var)))
    assert_near(whole(used), (per_slice - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None])


for norm in NORMS:
    is_added_first(norm)
for axis in range(4):  # of which the third is shared unevenly
    for norm in NORMS:
        for eps in (1e-5, 0):
            is_the_whole(norm, axis, eps)
    for name in axes:
        is_welcome_beside_shards(name, axis)
        trains(name, axis)
(folder / f"done{rank}").touch()
dist.destroy_process_group()
