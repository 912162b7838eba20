"""One of two torch processes that hold the shards of a DTensor: run by test_replicas.py."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from oracles import NORMS, assert_within, data, tolerance

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
shape = (8, 6, 5, 4)
x, g = data("offset 1e+04", shape), np.random.default_rng(1).standard_normal(shape).astype(np.float32)
constant = np.full(shape, 1e6 / 3, np.float32)
for norm in NORMS:
    for eps in (1e-5, 0):
        exact, slope = norm.oracle(x, eps), norm.gradient(x, g, eps)
        for axis in range(4):  # of which the third is shared unevenly
            shards, dy, alike = (distribute_tensor(torch.tensor(a), mesh, [Shard(axis)]) for a in (x, g, constant))
            shards.requires_grad_()
            y = norm.call(shards, eps=eps)
            assert y.placements == shards.placements
            (dx,) = torch.autograd.grad(y, shards, dy)
            assert_within(y.full_tensor().detach().numpy(), exact, tolerance(x, exact, "float32"))
            assert_within(dx.full_tensor().numpy(), slope, 4e-6 * np.abs(slope).max())
            assert norm.rms or not norm.call(alike, eps=eps).full_tensor().any()
(folder / f"done{rank}").touch()
dist.destroy_process_group()
