"""Silhouettes against scikit-learn and against the definition."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples, silhouette_score

from mocli.metrics import embedding
from mocli.metrics.clusters import silhouette, silhouette_modality
from mocli.metrics.embedding import Embedding


def sample(n=80):
    rng = np.random.default_rng(0)
    label = {"a": rng.integers(0, 3, n), "b": rng.integers(0, 3, n)}
    z = {m: (1.5 * c[:, None] + rng.normal(size=(n, 3))).astype("f4") for m, c in label.items()}
    z["b"] += 0.5
    return z, label


def by_definition(x, groups):
    d, widths = cdist(x, x), []
    for i, own in enumerate(groups):
        same = [j for j in range(len(x)) if groups[j] == own and j != i]
        a = np.mean(d[i, same])
        b = min(np.mean(d[i, groups == g]) for g in np.unique(groups) if g != own)
        widths.append((b - a) / max(a, b))
    return np.array(widths)


def test_label_silhouette():
    z, label = sample()
    x, groups = np.concatenate(list(z.values())).astype(float), np.concatenate(list(label.values()))
    (score,) = silhouette(Embedding(z=z, label=label))
    assert score.value == pytest.approx(silhouette_score(x, groups), abs=1e-6)
    assert score.value == pytest.approx(by_definition(x, groups).mean(), abs=1e-6)
    assert score.n == 160


def test_unknown_labels_are_left_out():
    z, label = sample()
    label["a"][:20] = -1
    x, groups = np.concatenate(list(z.values())), np.concatenate(list(label.values()))
    (score,) = silhouette(Embedding(z=z, label=label))
    assert score.value == pytest.approx(silhouette_score(x[groups >= 0], groups[groups >= 0]), abs=1e-6)
    assert score.n == 140


def test_far_from_the_origin():
    z, label = sample()
    (near,) = silhouette(Embedding(z=z, label=label))
    (far,) = silhouette(Embedding(z={m: v + np.float32(4096) for m, v in z.items()}, label=label))
    assert far.value == pytest.approx(near.value, abs=1e-3)


def test_modality_silhouette():
    z, label = sample()
    label["b"][label["b"] == 2] = 1  # label 2 is in one modality only: it does not count
    x, groups = np.concatenate(list(z.values())), np.concatenate(list(label.values()))
    modality = np.repeat([0, 1], 80)
    means = [
        np.mean(1 - np.abs(silhouette_samples(x[groups == g].astype(float), modality[groups == g])))
        for g in (0, 1)
    ]
    (score,) = silhouette_modality(Embedding(z=z, label=label))
    assert score.value == pytest.approx(np.mean(means), abs=1e-6)
    assert score.n == int((groups < 2).sum())


def test_many_cells_are_sampled(monkeypatch):
    z, label = sample(600)
    exact = silhouette(Embedding(z=z, label=label))[0]
    monkeypatch.setattr(embedding, "MAX_CELLS", 500)
    drawn = silhouette(Embedding(z=z, label=label))[0]
    assert (exact.n, drawn.n) == (1200, 500)
    assert drawn.value == pytest.approx(exact.value, abs=0.03)
