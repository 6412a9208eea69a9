"""Seurat alignment score against brute force."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mocli.metrics.embedding import Embedding
from mocli.metrics.mixing import seurat_alignment


def brute(parts):
    """Of modalities of one size."""
    x, of = np.concatenate(parts).astype(float), np.repeat(np.arange(len(parts)), len(parts[0]))
    d = cdist(x, x)
    np.fill_diagonal(d, np.inf)
    k = max(1, round(0.01 * len(x)))
    near = np.argsort(d, axis=1, kind="stable")[:, :k]
    same = (of[near] == of[:, None]).sum(1).mean()
    chance = k / len(parts)
    return min(1.0, 1 - (same - chance) / (k - chance))


@pytest.mark.parametrize("n_modalities", [2, 3])
def test_equals_brute_force(n_modalities):
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(200, 2)) + 0.6 * i).astype("f4") for i in range(n_modalities)]
    (score,) = seurat_alignment(Embedding(z=dict(zip("abc", parts, strict=False))))
    assert 0.1 < score.value < 1
    assert score.value == pytest.approx(brute(parts))
    assert score.n == 200 * n_modalities


def test_sizes_are_balanced():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1500, 2)).astype("f4"), rng.normal(size=(150, 2)).astype("f4") + 0.5
    drawn = [brute([a[rng.choice(1500, 150, replace=False)], b]) for _ in range(40)]
    (score,) = seurat_alignment(Embedding(z={"a": a, "b": b}))
    assert score.n == 300
    assert abs(score.value - np.mean(drawn)) < 3 * np.std(drawn) / 2  # of four draws
    assert seurat_alignment(Embedding(z={"a": a, "b": b}, seed=1))[0].value != score.value


def test_shuffled_and_apart():
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype("f4")
    assert seurat_alignment(Embedding(z={"a": x[:500], "b": x[500:]}))[0].value > 0.9
    assert seurat_alignment(Embedding(z={"a": x[:500], "b": x[500:] + 90}))[0].value == 0.0


def test_an_empty_modality_is_undefined():
    x = np.random.default_rng(0).normal(size=(9, 3))
    assert math.isnan(seurat_alignment(Embedding(z={"a": x, "b": x[:0]}))[0].value)
