"""Draw the test error of batch norm and of group norm against the size of the batch, on scikit-learn's digits.

The shape of the figure is that of Wu and He, *Group Normalization*, https://arxiv.org/abs/1803.08494. It is drawn from
`batch_size.json`, which `python docs/examples/batch_size.py --measure` writes anew, in some minutes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import anynorm

KEPT = Path(sys.argv[0]).with_name("batch_size.json")  # beside this script
SIZES, SEEDS, EPOCHS, RATE = (32, 16, 8, 4, 2), range(3), 10, 0.2
WIDTH, GROUPS, TRAIN = 64, 4, 1200


def measure():
    """Return the test errors in per cent: by norm, batch size and seed."""
    return {
        name: {size: [error(name, size, seed) for seed in SEEDS] for size in SIZES}
        for name in ("batch", "group")
    }


def error(name, size, seed):
    """Train two linear layers, each normalised, and a third; return the error on the other digits."""
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x, labels = (
        torch.tensor(images[order] / 16, dtype=torch.float32),
        torch.tensor(labels[order]),
    )

    generator = torch.Generator().manual_seed(seed)
    first, second, last = (
        torch.randn(64, n, generator=generator) / 8 for n in (WIDTH, WIDTH, 10)
    )
    affines = [
        {"weight": torch.ones(WIDTH), "bias": torch.zeros(WIDTH)} for _ in range(2)
    ]
    states = [anynorm.running_stats(WIDTH, like=x) for _ in range(2)]
    parameters = [
        first,
        second,
        last,
        *(a for affine in affines for a in affine.values()),
    ]
    for a in parameters:
        a.requires_grad_()

    def normalised(x, i, training):
        if name == "group":
            return anynorm.group_norm(x, GROUPS, **affines[i])
        if not training:
            return anynorm.batch_norm(x, stats=states[i], **affines[i])
        y, state = anynorm.batch_norm_train(x, states[i], **affines[i])
        states[i] = anynorm.RunningStats(*(part.detach() for part in state))
        return y

    def logits(x, training):
        for i, kernel in enumerate((first, second)):
            x = torch.relu(normalised(x @ kernel, i, training))
        return x @ last

    optimiser = torch.optim.SGD(
        parameters, lr=RATE * size / 32, momentum=0.9
    )  # the rate goes with the batch, as in the paper
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(TRAIN, generator=generator).split(size):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(
                logits(x[chosen], training=True), labels[chosen]
            ).backward()
            optimiser.step()
        schedule.step()
    with torch.no_grad():
        wrong = logits(x[TRAIN:], training=False).argmax(dim=1) != labels[TRAIN:]
    return round(100 * wrong.float().mean().item(), 2)


def draw(errors):
    """Draw the median over the seeds, and the range."""
    _, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for (name, by_size), marker in zip(errors.items(), "os", strict=True):
        values = np.asarray(list(by_size.values()))
        places = np.arange(len(values))
        axes.plot(
            places, np.median(values, axis=1), marker=marker, label=f"{name} norm"
        )
        axes.fill_between(places, values.min(axis=1), values.max(axis=1), alpha=0.2)
    axes.set_xticks(places, list(by_size))
    axes.set(xlabel="batch size", ylabel="test error, per cent", ylim=(0, None))
    axes.legend()


if "--measure" in sys.argv:
    KEPT.write_text(json.dumps(measure(), indent=1) + "\n")
draw(json.loads(KEPT.read_text()))
