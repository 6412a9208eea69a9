"""The critic's cross-entropy and noise by hand."""

import numpy as np
import pytest
import torch

from mocli.nn.adversarial import Critic, noise_scale, source_entropy


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
