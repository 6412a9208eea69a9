"""LISI against a loop over cells with a root finder."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.spatial.distance import cdist

from mocli.metrics.embedding import Embedding
from mocli.metrics.mixing import clisi, ilisi_batch, ilisi_modality, lisi_around, perplexity_weights


def brute(x, group, k=90):
    """Effective number of groups around each cell."""
    d = cdist(x, x)
    np.fill_diagonal(d, np.inf)
    k = min(k, len(x) - 1)
    found = []
    for row in d:
        near = np.argsort(row, kind="stable")[:k]

        def weights(b, row=row, near=near):
            w = np.exp(-b * (row[near] - row[near].min()))
            return w / w.sum()

        def excess(b, weights=weights):
            p = weights(b)
            return -(p[p > 0] * np.log(p[p > 0])).sum() - math.log(k / 3)

        p = weights(brentq(excess, 1e-6, 1e4))
        shares = [p[group[near] == g].sum() for g in np.unique(group)]
        found.append(1 / np.square(shares).sum())
    return np.array(found)


def sample(n=(90, 70), shift=0.8):
    rng = np.random.default_rng(0)
    z = {f"m{i}": (rng.normal(size=(k, 3)) + shift * i).astype("f4") for i, k in enumerate(n)}
    return z, {m: rng.integers(0, 3, len(v)) for m, v in z.items()}


@pytest.mark.parametrize("sizes", [(90, 70), (60, 50, 40), (20, 12)])
def test_equals_a_loop_over_cells(sizes):
    z, _ = sample(sizes)
    x = np.concatenate(list(z.values())).astype(float)
    of = np.repeat(np.arange(len(sizes)), sizes)
    e = Embedding(z=z)
    np.testing.assert_allclose(lisi_around(e, of), brute(x, of), rtol=1e-4)
    (score,) = ilisi_modality(e)
    assert score.value == pytest.approx((np.median(brute(x, of)) - 1) / (len(sizes) - 1), abs=1e-5)
    assert score.n == sum(sizes)


def test_batches_are_scored_as_modalities_are():
    z, _ = sample()
    (of_modality,) = ilisi_modality(Embedding(z=z))
    whole = np.concatenate(list(z.values()))
    (of_batch,) = ilisi_batch(Embedding(z={"a": whole}, batch={"a": np.repeat([-1, 5], (90, 70))}))
    assert of_batch.value == pytest.approx(of_modality.value)


def test_labels():
    z, label = sample()
    x, group = np.concatenate(list(z.values())).astype(float), np.concatenate(list(label.values()))
    (score,) = clisi(Embedding(z=z, label=label))
    assert score.value == pytest.approx((3 - np.median(brute(x, group))) / 2, abs=1e-5)


def test_unknown_labels_have_no_weight():
    """Two labels and unknown cells between: around each only its own label is known."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (150, 2)), rng.normal(50, 1, (150, 2))]).astype("f4")
    label = np.repeat([0, 1], 150)
    label[::3] = -1
    (score,) = clisi(Embedding(z={"a": x}, label={"a": label}))
    assert (score.value, score.n) == (pytest.approx(1.0), 200)


def test_mixed_and_apart():
    x = np.random.default_rng(0).normal(size=(2000, 4)).astype("f4")
    assert ilisi_modality(Embedding(z={"a": x[:1000], "b": x[1000:]}))[0].value > 0.9
    assert ilisi_modality(Embedding(z={"a": x[:1000], "b": x[1000:] + 50}))[0].value == 0.0


def test_perplexity_of_weights():
    rng = np.random.default_rng(0)
    d = np.sort(rng.gamma(2.0, 3.0, size=(40, 90)), axis=1)
    p = perplexity_weights(d, 30)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(np.exp(-(p * np.log(p)).sum(1)), 30, rtol=1e-6)
    assert (np.diff(p, axis=1) <= 0).all()
    crowd = np.r_[np.zeros(50), np.ones(40)][None]  # more at distance 0 than the perplexity
    np.testing.assert_allclose(perplexity_weights(crowd, 30)[0, :50], 1 / 50)
    np.testing.assert_allclose(perplexity_weights(np.zeros((1, 9)), 3), 1 / 9)


def test_too_few_cells_to_tell():
    x = np.arange(6.0)[:, None]
    assert math.isnan(ilisi_modality(Embedding(z={"a": x[:3], "b": x[3:]}))[0].value)
