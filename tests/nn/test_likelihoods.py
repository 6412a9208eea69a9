"""Log-densities against scipy, and the sparse count losses against float64 autograd of the dense formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from mocli.nn import likelihoods as lh
from mocli.nn.likelihoods import gamma_terms, negative_binomial_loss, nonzeros_of, poisson_loss

RNG = np.random.default_rng(0)
X = RNG.poisson(2.0, size=(40, 7)).astype(float)
MEAN = RNG.gamma(1.0, 3.0, size=(40, 7)) + 0.01
R = RNG.gamma(1.0, 2.0, size=(40, 7)) + 0.05
LOGIT = RNG.normal(size=(40, 7))


def t(x):
    return torch.as_tensor(np.asarray(x), dtype=torch.float64)


def test_poisson_equals_scipy():
    np.testing.assert_allclose(lh.poisson(t(X), t(MEAN)), stats.poisson.logpmf(X, MEAN), rtol=1e-10)


def test_negative_binomial_equals_scipy_and_its_mean_is_the_mean():
    expected = stats.nbinom.logpmf(X, R, R / (R + MEAN))
    np.testing.assert_allclose(lh.negative_binomial(t(X), t(MEAN), t(R)), expected, rtol=1e-9, atol=1e-12)
    counts = torch.arange(4000, dtype=torch.float64)
    p = lh.negative_binomial(counts, t(3.7), t(0.8)).exp()
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert (p * counts).sum() == pytest.approx(3.7, abs=1e-6)


def zero_inflated_counts(x, mean, r, logit):
    return lh.zero_inflated(x, lh.negative_binomial(x, mean, r), -r * torch.log1p(mean / r), logit)


def test_extra_zeros_equal_the_formula_and_the_expected_share():
    pi = 1 / (1 + np.exp(-LOGIT))
    plain = stats.nbinom.pmf(X, R, R / (R + MEAN))
    expected = np.log(np.where(X == 0, pi + (1 - pi) * plain, (1 - pi) * plain))
    found = zero_inflated_counts(t(X), t(MEAN), t(R), t(LOGIT))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    rng = np.random.default_rng(1)
    drawn = rng.negative_binomial(0.8, 0.8 / (0.8 + 2.0), 20_000) * (rng.random(20_000) > 0.3)
    zero = zero_inflated_counts(t(0.0), t(2.0), t(0.8), t(np.log(0.3 / 0.7))).exp()
    assert float(zero) == pytest.approx((drawn == 0).mean(), abs=0.02)


def test_normal_and_bernoulli_equal_scipy():
    np.testing.assert_allclose(
        lh.normal(t(X), t(MEAN), t(LOGIT)), stats.norm.logpdf(X, MEAN, np.exp(LOGIT)), rtol=1e-10
    )
    yes = (X > 1).astype(float)
    expected = stats.bernoulli.logpmf(yes, 1 / (1 + np.exp(-LOGIT)))
    np.testing.assert_allclose(lh.bernoulli(t(yes), t(LOGIT)), expected, rtol=1e-10)


def test_log_normal_with_zeros_integrates_to_one():
    x = RNG.lognormal(size=(40, 7)) * (RNG.random((40, 7)) < 0.6)
    delta = 1 / (1 + np.exp(-LOGIT))
    sd = np.exp(0.3 * LOGIT)
    with np.errstate(divide="ignore"):
        positive = np.log(1 - delta) + stats.lognorm.logpdf(x, sd, scale=np.exp(MEAN))
    found = lh.zero_inflated_log_normal(t(x), t(MEAN), t(0.3 * LOGIT), t(LOGIT))
    np.testing.assert_allclose(found, np.where(x > 0, positive, np.log(delta)), rtol=1e-9)

    def density(value):
        return float(lh.zero_inflated_log_normal(t(value), t(0.4), t(-0.2), t(-1.0)).exp())

    above = integrate.quad(density, 1e-12, 60, limit=200)[0]
    assert density(0.0) == pytest.approx(1 / (1 + np.e))
    assert above + density(0.0) == pytest.approx(1, abs=1e-5)


def test_gradients_are_finite_at_zero():
    x = torch.zeros(3, dtype=torch.float64)
    logit = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    mean = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    lh.zero_inflated_log_normal(x, mean, mean, logit).sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(logit.grad).all()


def problem(seed, n=9, p=31, *, dtype=torch.float64, per_cell=False, density=0.2, scale=1.0):
    rng = np.random.default_rng(seed)
    x = rng.poisson(3.0, size=(n, p)) * (rng.random((n, p)) < density)
    tensors = {
        "logits": torch.tensor(scale * rng.normal(size=(n, p)), dtype=dtype),
        "log_r": torch.tensor(rng.normal(size=(n, p) if per_cell else p), dtype=dtype),
        "dropout": torch.tensor(rng.normal(size=(n, p)), dtype=dtype),
    }
    library = torch.tensor(np.log(rng.gamma(5, 20, n) + 1), dtype=dtype)
    weight = torch.tensor(rng.normal(size=n), dtype=dtype)
    return torch.tensor(x, dtype=dtype), {k: v.requires_grad_() for k, v in tensors.items()}, library, weight


def dense_loss(x, tensors, library, *, inflated):
    mean = torch.exp(library.unsqueeze(1) + torch.log_softmax(tensors["logits"], 1))
    r = tensors["log_r"].exp().expand_as(mean)
    if inflated:
        return -zero_inflated_counts(x, mean, r, tensors["dropout"]).sum(1)
    return -lh.negative_binomial(x, mean, r).sum(1)


def both(seed, *, inflated, **kwargs):
    """Values and gradients of the sparse loss and of autograd through the dense formula in float64."""
    dtype = kwargs.get("dtype", torch.float64)
    x, tensors, library, weight = problem(seed, **kwargs)
    sparse = negative_binomial_loss(
        x, tensors["logits"], tensors["log_r"], library, tensors["dropout"] if inflated else None, weight
    )
    names = ["logits", "log_r", *(["dropout"] if inflated else [])]
    sparse_grads = torch.autograd.grad(sparse, [tensors[k] for k in names])
    exact = {k: v.detach().double().requires_grad_() for k, v in tensors.items()}
    dense = dense_loss(x.double(), exact, library.double(), inflated=inflated)
    dense = (dense * weight.double()).sum()
    dense_grads = torch.autograd.grad(dense, [exact[k] for k in names])
    assert sparse.dtype == dtype
    return (sparse, *sparse_grads), (dense, *dense_grads)


@pytest.mark.parametrize("inflated", [False, True])
@pytest.mark.parametrize("per_cell", [False, True])
@pytest.mark.parametrize("n", [1, 9])
def test_the_sparse_loss_and_its_gradients_are_those_of_the_dense_formula(inflated, per_cell, n):
    found, exact = both(0, inflated=inflated, per_cell=per_cell, n=n)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inflated", [False, True])
def test_in_single_precision_it_errs_by_rounding_only(inflated, monkeypatch):
    monkeypatch.setattr("mocli.nn.likelihoods.BLOCK", 900)  # several blocks, the last one short
    found, exact = both(3, inflated=inflated, dtype=torch.float32, n=64, p=400, density=0.07)
    for a, b in zip(found, exact, strict=True):
        error = (a.double() - b).abs().max() / b.abs().max()
        assert error < 1e-5


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.0, 1.0, 8.0]), inflated=st.booleans())
@settings(max_examples=30, deadline=None)
def test_extreme_proportions_change_nothing(seed, scale, inflated):
    found, exact = both(seed, inflated=inflated, scale=scale, n=4, p=12)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_nonzeros_say_all():
    x, tensors, library, _ = problem(4)
    x[3] = 0
    filled = nonzeros_of(x)
    assert torch.equal(filled.dense, x)
    assert torch.equal(filled.totals, x.sum(1))
    assert torch.equal(filled.at, x.reshape(-1).nonzero().squeeze(1))
    assert [int(s) for s in filled.starts] == np.r_[0, (x != 0).sum(1).cumsum(0).numpy()][:-1].tolist()
    for loss in (negative_binomial_loss, poisson_loss):
        more = [tensors["log_r"]] if loss is negative_binomial_loss else []
        assert torch.equal(*(loss(v, tensors["logits"], *more, library) for v in (x, filled)))


def test_the_outer_weight_of_the_loss_reaches_the_gradient():
    x, tensors, library, _ = problem(2)
    once, thrice = (
        torch.autograd.grad(
            factor * negative_binomial_loss(x, tensors["logits"], tensors["log_r"], library),
            tensors["logits"],
        )[0]
        for factor in (1.0, 3.0)
    )
    torch.testing.assert_close(3 * once, thrice)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gamma_terms_are_as_exact_as_their_type(dtype):
    z = torch.logspace(-6, 5, 400, dtype=torch.float64).to(dtype)
    for found, exact in zip(
        gamma_terms(z), (torch.lgamma(z.double()), torch.digamma(z.double())), strict=True
    ):
        tolerance = 3e-6 if dtype is torch.float32 else 1e-12
        assert ((found.double() - exact).abs() <= tolerance * (1 + exact.abs())).all()


def test_rows_without_counts_and_matrices_without_rows():
    x, tensors, library, _ = problem(0)
    loss = negative_binomial_loss(torch.zeros_like(x), tensors["logits"], tensors["log_r"], library)
    torch.testing.assert_close(loss, dense_loss(torch.zeros_like(x), tensors, library, inflated=False).mean())
    none = negative_binomial_loss(x[:0], tensors["logits"][:0], tensors["log_r"], library[:0])
    none.backward()
    assert float(none.detach()) == 0
    assert torch.count_nonzero(tensors["log_r"].grad) == 0


def test_poisson_of_proportions_equals_the_dense_formula():
    x, tensors, library, weight = problem(5)
    logits = tensors["logits"]
    mean = torch.exp(library.unsqueeze(1) + torch.log_softmax(logits, 1))
    exact = -(lh.poisson(x, mean).sum(1) * weight).sum()
    found = poisson_loss(x, logits, library, weight)
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, exact)))
    torch.testing.assert_close(poisson_loss(x, logits, library), -lh.poisson(x, mean).sum(1).mean())
