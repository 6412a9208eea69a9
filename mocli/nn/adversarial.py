"""An adversarial game about which modality a latent came from, among any number of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.nn.layers import Dropout
from mocli.types import FloatArray, IntArray


class Critic(nn.Module):
    """Maps a latent to one logit per modality: linear layers with LeakyReLU 0.2 and dropout in between."""

    def __init__(self, n_in: int, n_hidden: int, n_layers: int, n_out: int, dropout: float) -> None:
        super().__init__()
        widths = [n_in, *[n_hidden] * n_layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last = nn.Linear(widths[-1], n_out)
        self.dropout = Dropout(dropout)

    def forward(self, z: Tensor) -> Tensor:
        """`(B, d)` to `(B, K)`."""
        for layer in self.layers:
            z = self.dropout(F.leaky_relu(layer(z), 0.2))
        return self.last(z)


def source_entropy(
    logits: Tensor, source: Tensor, weight: Tensor | None = None, *, by_source: bool = True
) -> Tensor:
    """Cross-entropy of predicting each latent's source, weighted mean over cells.

    Args:
        logits: `(B, K)`.
        source: `(B,)`, from 0 to K - 1.
        weight: Weight of each cell, `(B,)`, or None for equal weights.
        by_source: Whether every source counts the same however many of its cells are drawn, else every cell.
    """
    if weight is None:
        weight = torch.ones(len(logits), dtype=logits.dtype, device=logits.device)
    each = F.cross_entropy(logits, source, reduction="none")
    if not by_source:
        return (each * weight).sum() / weight.sum().clamp_min(1e-12)
    total = weight.new_zeros(logits.shape[1]).index_add_(0, source, weight)
    share = weight / total[source].clamp_min(1e-12) / (total > 0).sum().clamp_min(1)
    return (each * share).sum()


def label_weights(codes_here: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Weights `(n,)` that give the labels of a source the same shares as in the other sources.

    The root of the share of a cell's label among the others (their mean) over its share among its own: so
    weighted, two sources have equal compositions, and labels that only one of them has are not judged
    (scCross, balancing of organs in its atlas). The mean is 1.

    Args:
        codes_here: Code of each cell's label, `(n,)`, -1 for none: of weight 1 before the scaling.
        others: The same of the other sources; those without any label are ignored.
    """
    labelled = [codes[codes >= 0] for codes in others]
    labelled = [codes for codes in labelled if len(codes)]
    labels = codes_here[codes_here >= 0]
    if not len(labels) or not labelled:
        return torch.ones(len(codes_here))
    n = int(max(codes.max() for codes in (labels, *labelled))) + 1
    elsewhere = torch.stack([torch.bincount(c, minlength=n) / len(c) for c in labelled]).mean(0)
    shares = torch.bincount(labels, minlength=n) / len(labels)
    weight = torch.ones(len(codes_here))
    weight[codes_here >= 0] = (elsewhere / shares.clamp_min(1e-12)).sqrt()[labels]
    return weight / weight.mean().clamp_min(1e-12)


def cell_weights(
    name: str, others: Sequence[str], codes: Mapping[str, IntArray], own_weights: Mapping[str, FloatArray]
) -> Tensor:
    """Weights of a source's cells, `(n,)`: those of their labels, their own, or the product of both.

    Args:
        codes: Codes of labels by source; none where labels do not weigh.
        own_weights: The user's weights by source; none where there are none.
    """
    weight = torch.from_numpy(own_weights[name]) if own_weights else torch.ones(())
    if codes:
        codes_here, *codes_elsewhere = (torch.from_numpy(codes[source]) for source in (name, *others))
        weight = weight * label_weights(codes_here, codes_elsewhere)
    return weight


def noise_scale(step: int, burn_in: int, start: float = 1.5) -> float:
    """Return the standard deviations of noise on a critic's input: from `start` straight down to 0."""
    return start * max(0.0, 1 - step / burn_in) if burn_in > 0 else 0.0
