"""Link concordance against a loop with scipy's correlation."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import pearsonr

from mocli.metrics.embedding import Embedding
from mocli.metrics.matching import link_concordance, pearson


def sample(s=70):
    rng = np.random.default_rng(0)
    z = {"rna": rng.normal(size=(50, 3)).astype("f4"), "prot": rng.normal(size=(64, 3)).astype("f4")}
    w = rng.normal(size=(3, s))
    x, y = ((v @ w + rng.normal(size=(len(v), s))).astype("f4") for v in z.values())
    return z, x, y


def brute(z, x, y, k=15):
    d = cdist(z["rna"].astype(float), z["prot"].astype(float))
    columns = []
    for j in range(x.shape[1]):
        forth = [np.mean(y[np.argsort(d[i])[:k], j]) for i in range(len(x))]
        back = [np.mean(x[np.argsort(d[:, i])[:k], j]) for i in range(len(y))]
        columns.append((pearsonr(x[:, j], forth)[0] + pearsonr(y[:, j], back)[0]) / 2)
    return np.median(columns)


def test_equals_a_loop():
    z, x, y = sample()
    names = tuple(map(str, range(70)))
    (score,) = link_concordance(Embedding(z=z, linked={("rna", "prot"): (x, y, names)}))
    assert score.value == pytest.approx(brute(z, x, y), abs=1e-5)
    assert (score.n, score.of) == (70, "rna-prot")


def test_constant_columns_do_not_count():
    z, x, y = sample(5)
    want = brute(z, x[:, :3], y[:, :3])
    x[:, 3], y[:, 3], x[:, 4], y[:, 4] = 0.1, 0.1, 0.0, 0.7
    (score,) = link_concordance(Embedding(z=z, linked={("rna", "prot"): (x, y, tuple("abcde"))}))
    assert score.value == pytest.approx(want, abs=1e-5)
    assert score.n == 3


def test_fewer_cells_than_neighbours():
    z, x, y = sample(3)
    few = {m: v[:20] for m, v in z.items()}
    few["prot"] = few["prot"][:4]  # every cell has the same four neighbours: no variation to correlate
    (score,) = link_concordance(Embedding(z=few, linked={("rna", "prot"): (x[:20], y[:4], tuple("abc"))}))
    assert score.n == 3
    assert -1 <= score.value <= 1


def test_pearson():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 30, 4)).astype("f4")
    x[:, 2] = np.float32(0.1)
    got = pearson(x, y)
    assert np.isnan(got[2])
    for j in (0, 1, 3):
        assert got[j] == pytest.approx(pearsonr(x[:, j], y[:, j])[0], abs=1e-6)
    tenth = np.full((30, 1), 0.1)  # whose mean is not 0.1 in float64
    assert np.isnan(pearson(tenth, x[:, :1].astype(float)))
    np.testing.assert_allclose(pearson(x[:, :2], -x[:, :2]), -1)
