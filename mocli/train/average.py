"""A running mean of the weights: an adversarial game circles around its equilibrium, its mean lies nearer.

Polyak averaging as exponential moving average (Yazici et al. 2019, arXiv:1806.04498).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


class WeightAverage:
    """Mean of a module's weights with exponential forgetting; nothing is kept where `decay` is 0.

    Until 1 / (1 - decay) steps it is the plain mean, so that the start weighs nothing.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        learned = {name: w for name, w in module.named_parameters() if w.requires_grad}
        self.weights = learned if decay else {}
        self.mean = {name: w.detach().clone() for name, w in self.weights.items()}

    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 0."""
        if self.mean:
            decay = min(self.decay, step / (step + 1))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.mean.values()), list(self.weights.values()), 1 - decay)

    def replace_weights(self) -> None:
        """Put the mean in the place of the last weights."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.mean[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Means by name."""
        return dict(self.mean)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        for name, mean in self.mean.items():
            mean.copy_(state[name])
