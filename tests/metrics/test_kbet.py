"""kBET against scipy's chi-square test cell by cell."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import chisquare

from mocli.metrics.embedding import Embedding
from mocli.metrics.mixing import kbet, kbet_batch, neighborhood_size


def brute(z):
    x = np.concatenate(list(z.values())).astype(float)
    of = np.repeat(np.arange(len(z)), [len(v) for v in z.values()])
    share = np.bincount(of) / len(x)
    k = min(max(10, int(len(x) / len(z) // 4)), 300)
    d = cdist(x, x)
    np.fill_diagonal(d, np.inf)
    accepted = []
    for i in range(len(x)):
        near = of[np.argsort(d[i])[:k]]
        accepted.append(chisquare(np.bincount(near, minlength=len(z)), k * share).pvalue >= 0.05)
    return np.mean(accepted)


@pytest.mark.parametrize("sizes", [(60, 90), (100, 50, 70)])
def test_equals_scipy(sizes):
    rng = np.random.default_rng(0)
    z = {f"m{i}": rng.normal(0.7 * i, 1, size=(n, 2)).astype("f4") for i, n in enumerate(sizes)}
    (score,) = kbet(Embedding(z=z))
    assert 0.05 < score.value < 0.95
    assert score.value == pytest.approx(brute(z), abs=1e-9)
    assert (score.n, score.of) == (sum(sizes), None)


def test_batches_are_tested_as_modalities_are():
    rng = np.random.default_rng(0)
    parts = [rng.normal(0.7 * i, 1, size=(n, 2)).astype("f4") for i, n in enumerate((60, 90))]
    whole = np.concatenate(parts)
    order = rng.permutation(len(whole))
    batch = np.repeat([0, 1], (60, 90))[order]
    (score,) = kbet_batch(Embedding(z={"cells": whole[order]}, batch={"cells": batch}))
    assert score.value == pytest.approx(brute({"a": parts[0], "b": parts[1]}), abs=1e-9)


def test_random_modalities_are_accepted():
    x = np.random.default_rng(1).normal(size=(1600, 5)).astype("f4")
    assert kbet(Embedding(z={"a": x[:1000], "b": x[1000:]}))[0].value >= 0.9


def test_separated_modalities_are_rejected():
    x = np.random.default_rng(2).normal(size=(1600, 5)).astype("f4")
    assert kbet(Embedding(z={"a": x[:1000], "b": x[1000:] + 50}))[0].value <= 0.1


def test_replicates_are_drawn_by_the_seed():
    x = np.random.default_rng(3).normal(size=(1500, 1)).astype("f4")
    z = {"a": x[:700], "b": x[700:] + 0.5}
    values = [kbet(Embedding(z=z, seed=seed))[0].value for seed in (0, 0, 1)]
    assert values[0] == values[1]
    assert values[2] == pytest.approx(values[0], abs=0.02)


def test_neighborhood_size():
    sizes = [np.array([4, 6]), np.array([400, 200]), np.array([6000, 6000])]
    assert [neighborhood_size(s) for s in sizes] == [10, 75, 300]


def test_too_few_cells_to_tell():
    x = np.arange(10.0)[:, None]
    assert np.isnan(kbet(Embedding(z={"a": x[:5], "b": x[5:]}))[0].value)
