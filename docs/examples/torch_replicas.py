"""Two processes train a batch norm on unequal shares of one batch."""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.nn.functional import all_reduce

import anynorm

SHARES = (3, 5)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch at an offset, and the gradient that comes back to its norm."""
    generator = torch.Generator().manual_seed(0)
    x = 1e4 + torch.randn(sum(SHARES), 4, 6, generator=generator)
    return x, torch.randn(x.shape, generator=generator)


def work(rank: int, folder: str) -> None:
    """Take a training step on this process's share; keep result and gradient."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=len(SHARES),
    )
    x, g = (part.split(SHARES)[rank] for part in batch())
    x = x.clone().requires_grad_()
    y, stats = anynorm.batch_norm_train(
        x, anynorm.running_stats(4, like=x), sync=all_reduce
    )
    y.backward(g)
    torch.save((y.detach(), x.grad, stats.var.detach()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def main() -> None:
    """Compare the two shares with the whole."""
    x, g = batch()
    x.requires_grad_()
    y, stats = anynorm.batch_norm_train(x, anynorm.running_stats(4, like=x))
    y.backward(g)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, args=(folder,), nprocs=len(SHARES))
        shares = [torch.load(Path(folder, f"{rank}.pt")) for rank in range(len(SHARES))]
    ys, gradients, variances = zip(*shares, strict=True)
    print("forward: ", bool((torch.cat(ys) - y).abs().max() < 2e-6))
    print("backward:", bool((torch.cat(gradients) - x.grad).abs().max() < 2e-6))
    print(
        "state:   ",
        all(bool((var - stats.var).abs().max() < 1e-5) for var in variances),
    )


if __name__ == "__main__":
    main()
