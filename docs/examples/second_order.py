"""Two losses made of gradients, in PyTorch: MAML, and the critic of WGAN-GP.

MAML learns to learn, and the critic has a slope of 1. Every step takes the gradient of
the loss twice from the same parameters, through the norm of anynorm and through that of
torch.nn.functional, and stops with an error where they are apart.
"""

from __future__ import annotations

import math
from statistics import fmean

import torch
import torch.nn.functional as F  # noqa: N812

import anynorm

STEPS, APART = 50, 1e-5
TASKS, POINTS, WIDTH, RATE = 4, 10, 32, 0.05
IMAGES, SIZE, CHANNELS, GROUPS, PENALTY = 16, 8, 8, 2, 10.0


def minimise(loss, p, batches, ours, native):
    """Return the losses of all steps, each gradient checked by PyTorch's own norm."""
    losses = []
    for batch in batches:
        value = loss(p, batch, ours)
        gradients, expected = (
            torch.autograd.grad(value, p),
            torch.autograd.grad(loss(p, batch, native), p),
        )
        apart = max(
            (g - e).abs().max() for g, e in zip(gradients, expected, strict=True)
        )
        assert apart < APART * max(e.abs().max() for e in expected)
        p = [
            (a - RATE * g).detach().requires_grad_()
            for a, g in zip(p, gradients, strict=True)
        ]
        losses.append(value.item())
    return losses


def start(*shapes, generator):
    """Return layers of these shapes, and the weight and bias that all norms share."""
    layers = [
        torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        for shape in shapes
    ]
    return [
        p.requires_grad_()
        for p in (*layers, torch.ones(shapes[0][0]), torch.zeros(shapes[0][0]))
    ]


# -------------------------------------------------- MAML


def network(p, x, layer_norm):
    w1, b1, w2, w3, weight, bias = p
    h1 = layer_norm(F.linear(x, w1, b1), weight, bias).tanh()
    h2 = layer_norm(F.linear(h1, w2), weight, bias).tanh()
    return F.linear(h2, w3)


def loss_after_a_step(p, tasks, layer_norm):
    """Return the loss at new points of each task, after one step on the points given.

    The step depends on p, so its gradient is differentiated in turn. The weight of the
    second norm also made its input: both paths count, each once.
    """
    total = 0
    for (x, new_x), (y, new_y) in tasks:
        loss = F.mse_loss(network(p, x, layer_norm), y)
        gradients = torch.autograd.grad(loss, p, create_graph=True)
        learned = [a - RATE * g for a, g in zip(p, gradients, strict=True)]
        total += F.mse_loss(network(learned, new_x, layer_norm), new_y)
    return total / TASKS


def sinusoids(generator):
    """Yield each step's tasks: a sinusoid, at points to learn from and at new ones."""
    for _ in range(STEPS):
        x = 10 * torch.rand(TASKS, 2, POINTS, 1, generator=generator) - 5
        height, phase = torch.rand(2, TASKS, 1, 1, 1, generator=generator)
        yield list(zip(x, (0.5 + height) * torch.sin(x + math.pi * phase), strict=True))


def native_layer_norm(x, weight, bias):
    return F.layer_norm(x, weight.shape, weight, bias)


def maml():
    generator = torch.Generator().manual_seed(0)
    p = start((WIDTH, 1), (WIDTH,), (WIDTH, WIDTH), (1, WIDTH), generator=generator)
    return minimise(
        loss_after_a_step,
        p,
        sinusoids(generator),
        anynorm.layer_norm,
        native_layer_norm,
    )


# -------------------------------------------------- WGAN-GP


def critic(p, images, group_norm):
    w1, w2, w3, weight, bias = p
    h1 = F.silu(
        group_norm(F.conv2d(images, w1, stride=2, padding=1), GROUPS, weight, bias)
    )
    h2 = F.silu(group_norm(F.conv2d(h1, w2, stride=2, padding=1), GROUPS, weight, bias))
    return F.linear(h2.mean(dim=(2, 3)), w3)


def loss_of_critic(p, batch, group_norm):
    """Return how much higher the critic rates fakes, and the penalty on its slope.

    The slope is the length of the critic's gradient at an image between a real one and
    a fake. A batch norm would make it depend on other images; a group norm does not.
    """
    real, fake, share = batch
    between = (share * real + (1 - share) * fake).requires_grad_()
    (gradients,) = torch.autograd.grad(
        critic(p, between, group_norm).sum(), between, create_graph=True
    )
    penalty = (gradients.flatten(1).norm(dim=1) - 1).square().mean()
    return (
        critic(p, fake, group_norm).mean()
        - critic(p, real, group_norm).mean()
        + PENALTY * penalty
    )


def waves_and_noise(generator):
    """Yield each step's images: waves, noise, and how much of a wave is in between."""
    along = torch.linspace(0, 2 * math.pi, SIZE)
    for _ in range(STEPS):
        phase, share = torch.rand(2, IMAGES, 1, 1, 1, generator=generator)
        waves = torch.sin(along + 2 * math.pi * phase).expand(IMAGES, 1, SIZE, SIZE)
        yield waves, torch.randn(waves.shape, generator=generator), share


def wgan():
    generator = torch.Generator().manual_seed(0)
    p = start(
        (CHANNELS, 1, 3, 3),
        (CHANNELS, CHANNELS, 3, 3),
        (1, CHANNELS),
        generator=generator,
    )
    return minimise(
        loss_of_critic, p, waves_and_noise(generator), anynorm.group_norm, F.group_norm
    )


def main():
    for name, train in (("MAML", maml), ("WGAN-GP", wgan)):
        losses = train()
        print(
            f"{name}: the loss went from {fmean(losses[:10]):.2f} "
            f"to {fmean(losses[-10:]):.2f}"
        )


if __name__ == "__main__":
    main()
