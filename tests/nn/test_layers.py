"""Layers that models share."""

import pytest
import torch

from mocli.nn.layers import Dropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999999])
def test_as_many_units_are_dropped_as_asked_and_the_others_scaled(share):
    torch.manual_seed(0)
    x = torch.ones(401, 333, requires_grad=True)
    y = Dropout(share).train()(x)
    y.sum().backward()
    y = y.detach()
    kept = (y > 0).float().mean()
    assert float(kept) == pytest.approx(1 - share, abs=0.005)
    assert float(y.max()) == pytest.approx(1 / (1 - share), rel=1e-4) or share > 0.99
    assert torch.equal(x.grad, y)


def test_units_are_dropped_each_by_itself():
    torch.manual_seed(0)
    kept = (Dropout(0.5).train()(torch.ones(2000, 64)) > 0).double()
    together = torch.corrcoef(kept.T) - torch.eye(64)
    assert together.abs().max() < 0.1
    assert kept.mean(0).sub(0.5).abs().max() < 0.05


def test_the_same_seed_drops_the_same_units():
    def drawn():
        torch.manual_seed(3)
        return Dropout(0.3).train()(torch.ones(7, 5))

    assert torch.equal(drawn(), drawn())


def test_nothing_is_dropped_outside_training_nor_of_a_share_of_nothing():
    x = torch.randn(6, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)
