"""The critic's cross-entropy and noise by hand."""

import numpy as np
import pytest
import torch

from mocli.nn.losses import Critic, label_weights, noise_scale, source_entropy


def test_every_source_counts_the_same():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    source = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    p = torch.softmax(logits, 1).numpy()
    each = -np.log(p[np.arange(7), source.numpy()])
    wanted = np.mean([each[:4].mean(), each[4:6].mean(), each[6]])
    assert float(source_entropy(logits, source)) == pytest.approx(wanted, rel=1e-5)


def test_weights_enter_and_constant_ones_change_nothing():
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    source = torch.tensor([0, 0, 0, 1, 1, 1])
    plain = float(source_entropy(logits, source))
    assert float(source_entropy(logits, source, torch.full((6,), 3.0))) == pytest.approx(plain, rel=1e-6)
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 4.0])
    each = torch.nn.functional.cross_entropy(logits, source, reduction="none")
    wanted = ((each * weight)[:3].sum() / 3 + (each * weight)[3:].sum() / 6) / 2
    assert float(source_entropy(logits, source, weight)) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize(("step", "wanted"), [(0, 1.5), (50, 0.75), (100, 0.0), (150, 0.0)])
def test_noise_fades_in_a_straight_line(step, wanted):
    assert noise_scale(step, 100) == pytest.approx(wanted)


def test_without_burn_in_there_is_no_noise():
    assert noise_scale(0, 0) == 0.0


def test_a_critic_has_a_logit_for_every_source():
    assert Critic(5, 8, 2, 4, 0.2)(torch.zeros(3, 5)).shape == (3, 4)


def test_every_cell_may_count_the_same_instead_of_every_source():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    source = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    plain = torch.nn.functional.cross_entropy(logits, source)
    assert float(source_entropy(logits, source, by_source=False)) == pytest.approx(float(plain), rel=1e-6)
    weight = torch.full((7,), 0.2)
    found = source_entropy(logits, source, weight, by_source=False)
    assert float(found) == pytest.approx(float(plain), rel=1e-6)


def test_label_weights_are_the_root_of_the_ratio_of_shares_and_make_compositions_equal():
    rng = np.random.default_rng(0)
    own, other = rng.choice(3, 300, p=[0.7, 0.2, 0.1]), rng.choice(4, 200, p=[0.2, 0.3, 0.1, 0.4])
    weights = [
        label_weights(torch.from_numpy(a), [torch.from_numpy(b)]).double().numpy()
        for a, b in ((own, other), (other, own))
    ]
    shares = [np.bincount(codes, minlength=4) / len(codes) for codes in (own, other)]
    by_hand = np.sqrt(shares[1][own] / shares[0][own])
    np.testing.assert_allclose(weights[0], by_hand / by_hand.mean(), rtol=1e-5)
    # what one source alone holds is not judged
    assert (weights[1][other == 3] == 0).all()
    totals = [np.bincount(c, w, minlength=4) / w.sum() for c, w in zip((own, other), weights, strict=True)]
    np.testing.assert_allclose(*totals, atol=1e-6)


def test_label_weights_of_equal_compositions_or_without_labels_are_one():
    codes, none = torch.tensor([0, 0, 1, 2]), torch.full((4,), -1)
    for own, others in ((codes, [codes.repeat(3)]), (none, [codes]), (codes, [none]), (codes, [])):
        torch.testing.assert_close(label_weights(own, others), torch.ones(4))
    partly = label_weights(torch.tensor([0, 0, 1, -1]), [torch.tensor([0, 1, 1, 1])])
    assert partly[2] > partly[3] > partly[0]
    three = label_weights(codes, [torch.tensor([0, 1]), torch.tensor([0, 2])])
    np.testing.assert_allclose(three**2 / three[0] ** 2, [1, 1, 1, 1])
