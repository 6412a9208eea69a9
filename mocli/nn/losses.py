"""Loss terms on minibatches, and the adversarial game about which modality a latent came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.nn.layers import Dropout
from mocli.nn.threads import total
from mocli.types import FloatArray, IntArray


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances `(n_a, n_b)` by ||a||^2 + ||b||^2 - 2ab, never below 0."""
    norms = a.square().sum(1)[:, None] + b.square().sum(1)[None, :]
    # in place: two more matrices of this size would be the peak of a search
    return norms.addmm_(a, b.T, alpha=-2).clamp_min_(0)


def gaussian_kernel(x: Tensor) -> Tensor:
    """exp(-||x_i - x_j||^2 / 2p), `(B, B)`; diagonal 1 (scMODAL, Eqs. 4-5)."""
    distances = squared_distances(x, x)
    # rounding leaves a residue where the distance is 0 by definition
    distances = distances * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    return torch.exp(distances * (-0.5 / x.shape[1]))


def geometry_loss(kernel_x: Tensor, kernel_z: Tensor, cap: float) -> Tensor:
    """-mean_b min(cos(K_x[b], K_z[b]), cap) (scMODAL, Eq. 6); no gradient for rows above the cap."""
    cosine = F.cosine_similarity(kernel_x, kernel_z, dim=1, eps=1e-6)
    return -cosine.clamp_max(cap).mean()


def mutual_neighbors(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Mutual k-nearest neighbours by cosine, exact.

    A pair (i, j) is mutual if j is among the k rows of `b` nearest to `a[i]` and
    i among the k rows of `a` nearest to `b[j]`. A zero row has no direction and
    is never a neighbour.

    Args:
        a, b: `(n_a, s)` and `(n_b, s)`.
        k: Capped at the number of rows.

    Returns:
        Boolean mask `(n_a, n_b)`.
    """
    similarity = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    usable = (a.any(1)[:, None]) & (b.any(1)[None, :])
    similarity = similarity.masked_fill(~usable, -torch.inf)
    mask = torch.zeros_like(similarity, dtype=torch.bool)
    forward = mask.scatter(1, similarity.topk(min(k, b.shape[0]), dim=1).indices, value=True)
    backward = mask.scatter(0, similarity.topk(min(k, a.shape[0]), dim=0).indices, value=True)
    return forward & backward & usable


def anchor_loss(z_a: Tensor, z_b: Tensor, mask: Tensor, reduction: str) -> Tensor:
    """Mean over latent dimensions of squared distances, mean or sum over anchors (scMODAL, Eq. 3).

    `mask` is boolean, or holds weights of soft anchors that sum to 1.

    Zero, with a zero gradient, when there is no anchor.
    """
    distance = total(squared_distances(z_a, z_b) * mask) / z_a.shape[1]
    return distance / total(mask).clamp_min(1) if reduction == "mean" else distance


def discriminator_loss(
    logit_first: Tensor, logit_second: Tensor, weights: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Cross-entropy with label 1 for the first modality and 0 for the second (scMODAL, Eq. 1 negated).

    `weights` are those of the cells of each modality, `(B,)`; means are weighted by them.
    """
    if weights is not None:
        first, second = (w / w.sum().clamp_min(1e-12) for w in weights)
        return (F.softplus(-logit_first).squeeze(1) * first).sum() + (
            F.softplus(logit_second).squeeze(1) * second
        ).sum()
    return (F.softplus(-logit_first) + F.softplus(logit_second)).mean()


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
