"""Loss terms against brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from mocli.nn import losses

torch.manual_seed(0)


def brute_mutual(a, b, k):
    """Mutual cosine neighbours by sorting every row."""
    similarity = 1 - cdist(a, b, "cosine")
    forward = {(i, j) for i in range(len(a)) for j in np.argsort(-similarity[i], kind="stable")[:k]}
    backward = {(i, j) for j in range(len(b)) for i in np.argsort(-similarity[:, j], kind="stable")[:k]}
    return forward & backward


@pytest.mark.parametrize("k", [1, 5, 30, 1000])
@pytest.mark.parametrize("shape", [(40, 40, 3), (17, 60, 8), (60, 17, 50)])
def test_mutual_neighbors_equal_brute_force(shape, k):
    rng = np.random.default_rng(1)
    n, m, s = shape
    a, b = rng.normal(size=(n, s)), rng.normal(size=(m, s))
    mask = losses.mutual_neighbors(torch.from_numpy(a), torch.from_numpy(b), k)
    assert {tuple(p) for p in mask.nonzero().tolist()} == brute_mutual(a, b, k)


def test_zero_rows_are_never_neighbors():
    a, b = torch.randn(6, 4), torch.randn(5, 4)
    a[2] = 0
    b[:2] = 0
    mask = losses.mutual_neighbors(a, b, 10)
    assert not mask[2].any()
    assert not mask[:, :2].any()
    assert mask.sum() == 5 * 3
    assert losses.mutual_neighbors(torch.zeros(3, 4), b, 2).sum() == 0


def test_no_anchor_gives_zero_loss_and_zero_gradient():
    z = torch.randn(4, 3, requires_grad=True)
    loss = losses.anchor_loss(z, torch.randn(5, 3), torch.zeros(4, 5, dtype=torch.bool), "mean")
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_anchor_loss_equals_the_sum_over_pairs(reduction):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(7, 4)), rng.normal(size=(6, 4))
    mask = rng.random((7, 6)) < 0.3
    expected = sum(((a[i] - b[j]) ** 2).sum() / 4 for i, j in zip(*mask.nonzero(), strict=True))
    expected /= mask.sum() if reduction == "mean" else 1
    got = losses.anchor_loss(torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(mask), reduction)
    assert got.item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 12),
    p=st.integers(1, 30),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    seed=st.integers(0, 9),
)
def test_gram_kernel_equals_broadcast(n, p, scale, seed):
    x = np.random.default_rng(seed).normal(size=(n, p)) * scale
    expected = np.exp(-((x[:, None] - x[None]) ** 2).sum(2) / (2 * p))
    got = losses.gaussian_kernel(torch.from_numpy(x).float()).numpy()
    # float32 products lose what large norms cancel; standardised data have norms near sqrt(p)
    np.testing.assert_allclose(got, expected, atol=1e-5 if scale <= 1 else 5e-3)
    assert (np.diag(got) == 1).all()


def test_geometry_loss_is_capped_cosine_and_its_gradient_stops_above():
    kx, kz = torch.rand(5, 5, dtype=torch.float64), torch.rand(5, 5, dtype=torch.float64)
    kz[0] = kx[0]  # cosine 1, above the cap
    kz.requires_grad_()
    loss = losses.geometry_loss(kx, kz, 0.975)
    a, b = kx.numpy(), kz.detach().numpy()
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    assert loss.item() == pytest.approx(-np.minimum(cosine, 0.975).mean(), rel=1e-12)
    loss.backward()
    assert torch.equal(kz.grad[0], torch.zeros(5, dtype=torch.float64))
    assert kz.grad[1].abs().sum() > 0


def test_discriminator_loss_is_binary_cross_entropy():
    first, second = torch.randn(9, 1, dtype=torch.float64), torch.randn(9, 1, dtype=torch.float64)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(first, torch.ones_like(first)) + bce(second, torch.zeros_like(second))
    torch.testing.assert_close(losses.discriminator_loss(first, second), expected)


def test_weights_of_a_discriminator_enter_its_means_and_constant_ones_change_nothing():
    torch.manual_seed(0)
    first, second = torch.randn(9, 1, dtype=torch.float64), torch.randn(9, 1, dtype=torch.float64)
    plain = losses.discriminator_loss(first, second)
    constant = losses.discriminator_loss(first, second, (torch.full((9,), 0.3), torch.full((9,), 7.0)))
    assert float(constant) == pytest.approx(float(plain), rel=1e-6)
    a, b = torch.rand(9, dtype=torch.float64), torch.rand(9, dtype=torch.float64)
    wanted = np.average(np.log1p(np.exp(-first[:, 0].numpy())), weights=a.numpy())
    wanted += np.average(np.log1p(np.exp(second[:, 0].numpy())), weights=b.numpy())
    assert float(losses.discriminator_loss(first, second, (a, b))) == pytest.approx(wanted, rel=1e-12)
