"""Likelihood of counts: the sparse loss with its own gradient, and autograd through the dense formula.

    python tests/benchmarks/likelihood.py [--rounds 9] [--features 3000 13000] [--density 0.07] [--cells 256]

Forward and backward from logits and dispersion, element-wise work only. CPU seconds on one thread;
contenders alternate in random order within each round. The sparse loss must first agree with float64.
Prints a table and one JSON line. Target: at least 4 times less at 3,000 features.
"""

import argparse
import statistics

import measure

measure.one_thread()

import numpy as np  # noqa: E402 - threads are set first
import torch  # noqa: E402

from mocli.nn import likelihoods  # noqa: E402
from mocli.nn.likelihoods import negative_binomial_loss, nonzeros_of  # noqa: E402

torch.set_num_threads(1)


def problem(n, p, density):
    rng = np.random.default_rng(0)
    x = rng.geometric(0.4, size=(n, p)) * (rng.random((n, p)) < density)
    tensors = {
        "logits": torch.tensor(rng.normal(size=(n, p)), dtype=torch.float32, requires_grad=True),
        "log_r": torch.tensor(rng.normal(size=p), dtype=torch.float32, requires_grad=True),
        "dropout": torch.tensor(rng.normal(size=(n, p)), dtype=torch.float32, requires_grad=True),
    }
    x = torch.tensor(x, dtype=torch.float32)
    return x, tensors, torch.log(x.sum(1) + 1)


def sparse_step(x, tensors, library, *, inflated):
    loss = negative_binomial_loss(
        x, tensors["logits"], tensors["log_r"], library, tensors["dropout"] if inflated else None
    )
    return finish(loss, tensors, inflated=inflated)


def dense_step(x, tensors, library, *, inflated):
    mean = torch.exp(library.unsqueeze(1) + torch.log_softmax(tensors["logits"], 1))
    r = tensors["log_r"].exp()
    value = likelihoods.negative_binomial(x, mean, r)
    if inflated:
        value = likelihoods.zero_inflated(x, value, -r * torch.log1p(mean / r), tensors["dropout"])
    return finish(-value.sum(1).mean(), tensors, inflated=inflated)


def finish(loss, tensors, *, inflated):
    names = ["logits", "log_r", *(["dropout"] if inflated else [])]
    return loss.detach(), *torch.autograd.grad(loss, [tensors[k] for k in names])


def compare(n, p, density, rounds, *, inflated):
    data = problem(n, p, density)
    x, tensors, library = data
    exact = {k: v.detach().double().requires_grad_() for k, v in tensors.items()}
    pairs = zip(
        sparse_step(*data, inflated=inflated),
        dense_step(x.double(), exact, library.double(), inflated=inflated),
        strict=True,
    )
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
    assert max(errors) < 1e-5, errors
    # minibatches give the non-zeros, so that they need not be searched
    filled = (nonzeros_of(x), tensors, library)
    contenders = {
        "sparse": (lambda: sparse_step(*filled, inflated=inflated), 4),
        "autograd": (lambda: dense_step(*data, inflated=inflated), 2),
    }
    seconds, user = measure.alternate(contenders, rounds=rounds)
    return {
        "likelihood": "zinb" if inflated else "nb",
        "cells": n,
        "features": p,
        "density": density,
        "sparse_ms": round(1e3 * statistics.median(seconds["sparse"]), 2),
        "autograd_ms": round(1e3 * statistics.median(seconds["autograd"]), 2),
        "ratio": measure.ratio(seconds["autograd"], seconds["sparse"]),
        # without the kernel's time, which goes into fresh pages
        "ratio_user": measure.ratio(user["autograd"], user["sparse"]),
        "largest_relative_difference": max(errors),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--features", type=int, nargs="+", default=[3000])
    parser.add_argument("--density", type=float, default=0.07)
    options = parser.parse_args()
    rows = [
        compare(options.cells, p, options.density, options.rounds, inflated=inflated)
        for p in options.features
        for inflated in (False, True)
    ]
    columns = ["likelihood", "features", "sparse_ms", "autograd_ms", "ratio", "ratio_user"]
    measure.show("forward and backward, CPU milliseconds", rows, columns)
    measure.emit("likelihood", {"rows": rows})


if __name__ == "__main__":
    main()
