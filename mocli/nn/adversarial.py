"""An adversarial game about which modality a latent came from, among any number of them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Critic(nn.Module):
    """Latent to the logit of every modality: linear layers with LeakyReLU 0.2 and dropout between."""

    def __init__(self, n_in: int, n_hidden: int, n_layers: int, n_out: int, dropout: float) -> None:
        super().__init__()
        widths = [n_in, *[n_hidden] * n_layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last = nn.Linear(widths[-1], n_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: Tensor) -> Tensor:
        """`(B, d)` to `(B, K)`."""
        for layer in self.layers:
            z = self.dropout(F.leaky_relu(layer(z), 0.2))
        logits: Tensor = self.last(z)
        return logits


def source_entropy(logits: Tensor, source: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of telling where each latent came from, weighted mean over cells.

    Every source counts the same however many of its cells are drawn.

    Parameters
    ----------
    logits
        `(B, K)`.
    source
        `(B,)`, from 0 to K - 1.
    weight
        Of each cell, `(B,)`, or None for equal ones.
    """
    if weight is None:
        weight = torch.ones(len(logits), dtype=logits.dtype, device=logits.device)
    total = weight.new_zeros(logits.shape[1]).index_add_(0, source, weight)
    share = weight / total[source].clamp_min(1e-12) / (total > 0).sum().clamp_min(1)
    return (F.cross_entropy(logits, source, reduction="none") * share).sum()


def noise_scale(step: int, burn_in: int, start: float = 1.5) -> float:
    """Return the standard deviations of noise on a critic's input: from `start` straight down to 0."""
    return start * max(0.0, 1 - step / burn_in) if burn_in > 0 else 0.0
