"""One of two torch processes that train batch norm on unequal shards: run by test_replicas.py."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_reduce

import anynorm

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)

calls = 0


def sync(part: torch.Tensor) -> torch.Tensor:
    global calls  # noqa: PLW0603
    calls += 1
    return all_reduce(part)


whole = np.load(folder / "in.npz")
x, g = (torch.tensor(whole[name][:2] if rank == 0 else whole[name][2:]) for name in "xg")
x.requires_grad_()
y, stats = anynorm.batch_norm_train(x, anynorm.running_stats(3, like=x), sync=sync)
forward = calls
(y * g).sum().backward()
np.savez(
    folder / f"out{rank}.npz", y=y.detach(), dx=x.grad, mean=stats.mean.detach(), var=stats.var.detach(), calls=forward
)
dist.destroy_process_group()
