"""Train one classifier of digits three times: in NumPy, in JAX and in PyTorch.

In NumPy it is trained by the pullbacks of anynorm.vjp. The parameters to start from
and the batches are the same, so the losses have to be.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from array_api_compat import array_namespace
from sklearn.datasets import load_digits

import anynorm
from anynorm import vjp

STEPS, COMPARED, BATCH, RATE = 200, 50, 64, 0.1
WIDTH = 48


def digits():
    """Return images and one-hot digits: 1500 to train on, 297 to test on."""
    images, labels = load_digits(return_X_y=True)
    x = anynorm.zscore(images.astype(np.float32))
    return (
        x[:1500],
        np.eye(10, dtype=np.float32)[labels[:1500]],
        x[1500:],
        labels[1500:],
    )


def start():
    """Return the parameters to start from."""
    rng = np.random.default_rng(0)

    def matrix(rows, columns):
        return (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    return {
        "w1": matrix(64, WIDTH),
        "weight1": ones,
        "bias1": zeros,
        "w2": matrix(WIDTH, WIDTH),
        "weight2": ones,
        "bias2": zeros,
        "w3": matrix(WIDTH, 10),
        "b3": np.zeros(10, np.float32),
    }


def batches(x, y):
    """Yield the batches of every step."""
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        chosen = rng.choice(len(x), BATCH, replace=False)
        yield x[chosen], y[chosen]


def log_softmax(logits):
    xp = array_namespace(logits)
    z = logits - xp.max(logits, axis=1, keepdims=True)
    return z - xp.log(xp.sum(xp.exp(z), axis=1, keepdims=True))


# -------------------------------------------------- forward: written once


def loss(p, state, x, y):
    """Return the cross-entropy and the new running statistics, for any library."""
    xp = array_namespace(x)
    n1, state = anynorm.batch_norm_train(
        x @ p["w1"], state, weight=p["weight1"], bias=p["bias1"]
    )
    n2 = anynorm.layer_norm(
        xp.where(n1 > 0, n1, 0.0) @ p["w2"], p["weight2"], p["bias2"]
    )
    logits = xp.where(n2 > 0, n2, 0.0) @ p["w3"] + p["b3"]
    return -xp.sum(y * log_softmax(logits)) / BATCH, state


def predict(p, state, x):
    """Return the digits, by the running statistics."""
    n1 = anynorm.batch_norm(
        x @ p["w1"], stats=state, weight=p["weight1"], bias=p["bias1"]
    )
    n2 = anynorm.layer_norm(np.maximum(n1, 0) @ p["w2"], p["weight2"], p["bias2"])
    return np.argmax(np.maximum(n2, 0) @ p["w3"] + p["b3"], axis=1)


# -------------------------------------------------- backward: by hand, in NumPy


def gradients(p, state, x, y):
    """Return the loss, the running statistics, and the gradient of every parameter."""
    (n1, state), pullback1 = vjp.batch_norm_train(
        x @ p["w1"], state, weight=p["weight1"], bias=p["bias1"]
    )
    h1 = np.maximum(n1, 0)
    n2, pullback2 = vjp.layer_norm(h1 @ p["w2"], p["weight2"], p["bias2"])
    h2 = np.maximum(n2, 0)
    z = log_softmax(h2 @ p["w3"] + p["b3"])

    dz = (np.exp(z) - y) / BATCH
    da2, dweight2, dbias2 = pullback2(np.where(n2 > 0, dz @ p["w3"].T, 0))
    da1, dweight1, dbias1 = pullback1(np.where(n1 > 0, da2 @ p["w2"].T, 0))
    of_parameters = {
        "w1": x.T @ da1,
        "weight1": dweight1,
        "bias1": dbias1,
        "w2": h1.T @ da2,
        "weight2": dweight2,
        "bias2": dbias2,
        "w3": h2.T @ dz,
        "b3": dz.sum(axis=0),
    }
    return -(y * z).sum() / BATCH, state, of_parameters


def train_in_numpy(x, y):
    """Return the losses, the parameters and the running statistics."""
    p, state, losses = start(), anynorm.running_stats(WIDTH, like=x), []
    for batch in batches(x, y):
        value, state, g = gradients(p, state, *batch)
        p = {name: p[name] - np.float32(RATE) * g[name] for name in p}
        losses.append(float(value))
    return losses, p, state


# -------------------------------------------------- by the frameworks


def train_in_jax(x, y):
    """Return the losses."""
    import jax

    @jax.jit
    def step(p, state, x, y):
        (value, state), g = jax.value_and_grad(loss, has_aux=True)(p, state, x, y)
        return jax.tree.map(lambda a, da: a - RATE * da, p, g), state, value

    p, losses = jax.tree.map(jax.numpy.asarray, start()), []
    state = anynorm.running_stats(WIDTH, like=p["w1"])
    for batch in batches(x, y):
        p, state, value = step(p, state, *batch)
        losses.append(float(value))
    return losses


def train_in_torch(x, y):
    """Return the losses."""
    import torch

    p, losses = {name: torch.tensor(a) for name, a in start().items()}, []
    state = anynorm.running_stats(WIDTH, like=p["w1"])
    differentiate = torch.func.grad_and_value(loss, has_aux=True)
    for batch in batches(x, y):
        g, (value, state) = differentiate(p, state, *map(torch.tensor, batch))
        p = {name: p[name] - RATE * g[name] for name in p}
        losses.append(float(value))
    return losses


def main():
    x, y, x_test, labels = digits()
    by_numpy, p, state = train_in_numpy(x, y)
    curves = {
        "NumPy, by anynorm.vjp": by_numpy,
        "JAX": train_in_jax(x, y),
        "PyTorch": train_in_torch(x, y),
    }
    apart = np.ptp([curve[:COMPARED] for curve in curves.values()], axis=0).max()
    accuracy = np.mean(predict(p, state, x_test) == labels)
    print(
        f"loss {by_numpy[0]:.3f} to {by_numpy[-1]:.3f}; "
        f"{accuracy:.1%} of the test digits are right"
    )
    print(f"over the first {COMPARED} steps the losses are at most {apart:.1e} apart")
    assert apart < 1e-4
    plot(curves)


def plot(curves):
    """Draw the curves, each thinner than the one below, since they are the same."""
    _, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for (name, curve), width in zip(curves.items(), (6, 3, 1), strict=True):
        axes.semilogy(curve, label=name, linewidth=width)
    axes.set(
        xlabel="step", ylabel="cross-entropy", title="One network, trained three times"
    )
    axes.legend()


if __name__ == "__main__":
    main()
