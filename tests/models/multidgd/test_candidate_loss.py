"""Scores of candidates by the sparse split against the dense likelihood."""

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from mocli.models.multidgd import module
from mocli.models.multidgd.module import count_candidates, normal_candidates


def dense(x, logits, log_r):
    """Negative log-likelihood by scipy, `(n, K)`."""
    r = np.exp(log_r)
    y = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    mean = x.sum(1)[:, None, None] * y
    return -stats.nbinom.logpmf(x[:, None], r, r / (r + mean)).sum(2)


@pytest.mark.parametrize("block", [1 << 22, 50])
def test_differences_between_candidates_are_those_of_scipy(block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(0)
    depth = np.exp(rng.uniform(0, 7, size=30))
    x = rng.poisson(depth[:, None] * rng.dirichlet(np.full(40, 0.3), size=30)).astype(np.float32)
    x[4] = 0
    logits, log_r = rng.normal(size=(6, 40)), np.log1p(np.exp(rng.normal(size=40)))
    found = count_candidates(sparse.csr_matrix(x), torch.from_numpy(logits), torch.from_numpy(log_r)).numpy()
    expected = dense(np.delete(x, 4, 0), logits, log_r)
    assert (found[4] == 0).all()
    found = np.delete(found, 4, 0)
    np.testing.assert_array_equal(found.argmin(1), expected.argmin(1))
    ours, theirs = (a - a[:, :1] for a in (found, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_normal_values_by_candidate():
    rng = np.random.default_rng(1)
    x, mean, log_sd = rng.normal(size=(7, 5)), rng.normal(size=(3, 5)), rng.normal(size=5)
    expected = -stats.norm.logpdf(x[:, None], mean, np.exp(log_sd)).sum(2)
    for values in (x, sparse.csr_matrix(x)):
        found = normal_candidates(values, torch.from_numpy(mean), torch.from_numpy(log_sd)).numpy()
        np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-9)
