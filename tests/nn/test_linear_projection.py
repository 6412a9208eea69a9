"""Projections: the same for a cell in training and later, linear after their form, by brute force."""

import numpy as np
import pytest
import torch
from scipy import sparse

from mocli.nn.likelihoods import nonzeros_of
from mocli.nn.principal import Projection, fit_projection, smoothed


def counts(n=60, p=40, seed=0):
    rng = np.random.default_rng(seed)
    profile = rng.gamma(0.5, 2.0, size=(3, p))
    return sparse.csr_matrix(rng.poisson(profile[np.arange(n) % 3]).astype(np.float32))


@pytest.mark.parametrize("form", ["lognorm", "tfidf", "clr", "binary"])
def test_sparse_and_dense_cells_are_projected_alike(form):
    x = counts()
    made = fit_projection(x, form, 10, seed=0)
    dense = torch.from_numpy(x.toarray())
    torch.testing.assert_close(made(dense), made(nonzeros_of(dense)), rtol=1e-4, atol=1e-5)


def test_components_are_those_of_standardised_log_counts():
    x = counts()
    made = fit_projection(x, "lognorm", 5, seed=0)
    raw = x.toarray().astype(np.float64)
    total = raw.sum(1, keepdims=True)
    logs = np.log1p(raw / np.maximum(total, 1) * np.median(total))
    sd = logs.std(0)
    z = np.divide(logs - logs.mean(0), sd, out=np.zeros_like(logs), where=sd > 1e-9)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    expected = u[:, :5] * s[:5]
    expected /= np.sqrt(np.square(expected).mean())
    found = made(torch.from_numpy(x.toarray())).numpy()
    # the last components of noise lie close together, and a randomised fit tells them less sharply
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-2, atol=2e-2)


def test_clr_centres_every_cell():
    x = counts(p=12)
    made = fit_projection(x, "clr", 12, seed=0)
    raw = np.log1p(x.toarray().astype(np.float64))
    z = raw - raw.mean(1, keepdims=True)
    z = (z - z.mean(0)) / z.std(0)
    z /= np.sqrt(np.square(z).mean())
    np.testing.assert_allclose(made(torch.from_numpy(x.toarray())).numpy(), z, rtol=1e-3, atol=1e-3)


def test_set_scores_are_sums_over_members_and_project_training_cells_exactly():
    x = counts()
    sets = sparse.csr_matrix((np.random.default_rng(1).random((40, 9)) < 0.3).astype(np.float32))
    made = fit_projection(x, "lognorm", 4, seed=0, sets=sets, n_sets=3)
    assert made.weight.shape == (40, 7)
    raw = x.toarray().astype(np.float64)
    total = raw.sum(1, keepdims=True)
    logs = np.log1p(raw / np.maximum(total, 1) * np.median(total))
    sd = logs.std(0)
    z = np.divide(logs - logs.mean(0), sd, out=np.zeros_like(logs), where=sd > 1e-9)
    scores = z @ sets.toarray() / np.sqrt(sets.toarray().sum(0))
    u, s, _ = np.linalg.svd(scores - scores.mean(0), full_matrices=False)
    expected = u[:, :3] * s[:3]
    expected /= np.sqrt(np.square(expected).mean())
    found = made(torch.from_numpy(x.toarray())).numpy()[:, 4:]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-2, atol=2e-3)


def test_few_features_stand_for_themselves():
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    made = fit_projection(x, "identity", 10, seed=0)
    found = made(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, (x - x.mean(0)) / x.std(0), rtol=1e-3, atol=1e-4)


def test_constant_features_and_empty_cells_stay_finite():
    x = sparse.csr_matrix(np.zeros((6, 30), np.float32))
    for form in ("lognorm", "tfidf", "clr"):
        assert torch.isfinite(fit_projection(x, form, 5, seed=0)(torch.zeros(3, 30))).all()


def test_smoothing_is_the_mean_over_nearest_reference_cells():
    rng = np.random.default_rng(0)
    reference = torch.from_numpy(rng.normal(size=(50, 6)).astype(np.float32))
    got = smoothed(reference, reference, 7, 0.5)
    unit = reference / reference.norm(dim=1, keepdim=True)
    for i in range(50):
        near = (unit @ unit[i]).argsort(descending=True)[:7]
        assert i in near
        torch.testing.assert_close(got[i], 0.5 * reference[i] + 0.5 * reference[near].mean(0))
    assert smoothed(reference, reference, 7, 0.0) is reference


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="no form"):
        Projection(3, 2, "sqrt")
