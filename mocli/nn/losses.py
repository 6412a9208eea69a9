"""Loss terms on minibatches, written with Gram products: nothing is B x B x p."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mocli.nn.threads import total


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
