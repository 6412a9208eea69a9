"""Start of training: cells at their principal components, the mixture at k-means of these.

The authors start cells at the origin and means at random, and clusterings differ between runs; a start that
follows the data removes most of this chance and saves many epochs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mocli.data.bundle import MultiOmics
from mocli.models.multidgd.module import MultiDGDModule
from mocli.nn.gaussian_mixture import LEAST_SPREAD
from mocli.nn.kmeans import Partition, kmeans
from mocli.nn.neighbors import drawn_rows
from mocli.nn.principal import FIT_CELLS, Measured, joint_components

CANDIDATES = (2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20, 25, 30)
"""Numbers of components to choose from."""

CHOOSE_CELLS = 3_000


def start_places(bundle: MultiOmics, n_latent: int, radius: float, seed: int) -> Tensor:
    """Principal components of all modalities side by side, `(n_cells, n_latent)`, within a ball."""
    modalities = [
        Measured(
            m.features.values,
            np.arange(m.n_obs),
            bundle.cells_of(name),
            m.features.median_total() if m.is_counted else None,
        )
        for name, m in bundle.modalities.items()
    ]
    batch = None if bundle.batch is None else bundle.batch.codes
    z = joint_components(modalities, bundle.n_cells, n_latent, batch=batch, seed=seed)
    reach = float(np.quantile(np.linalg.norm(z, axis=1), 0.99))
    return torch.from_numpy((z * (radius / reach if reach > 0 else 0)).astype(np.float32))


def start_mixture(module: MultiDGDModule, z: Tensor, seed: int) -> None:
    """Put components at the centres of k-means, with the variances and shares found there."""
    mixture = module.mixture
    sample = z[_sample(len(z), FIT_CELLS, seed)]
    generator = torch.Generator().manual_seed(seed)
    partition = kmeans(sample, mixture.n_components, generator=generator, restarts=20)
    prior = torch.full((z.shape[1],), math.exp(-float(mixture.prior_log_precision)), dtype=torch.float64)
    size, variance = _within(sample, partition, prior)
    with torch.no_grad():
        mixture.mean.copy_(partition.centres)
        mixture.log_precision.copy_(-torch.log(variance.clamp_min(LEAST_SPREAD**2)))
        mixture.logit.copy_(torch.log((size + 1.0) / (size + 1.0).mean()))


def choose_components(z: Tensor, seed: int) -> int:
    """Choose how many clusters cells have: the best BIC of k-means with a diagonal Gaussian in each."""
    sample = z[_sample(len(z), CHOOSE_CELLS, seed)]
    n, d = sample.shape
    whole = sample.var(0, correction=0).double() if n else torch.zeros(1)
    if float(whole.max()) == 0:
        return 1
    best, chosen = -math.inf, 1
    for k in (1, *(k for k in CANDIDATES if k <= n // 10)):
        partition = kmeans(sample, k, generator=torch.Generator().manual_seed(seed), restarts=5)
        size, variance = _within(sample, partition, whole.clamp_min(1e-6 * float(whole.max())))
        filled = size > 0
        size, variance = size[filled], variance[filled]
        likelihood = float((size * torch.log(size / n)).sum() - 0.5 * (size @ torch.log(variance)).sum())
        bic = likelihood - 0.5 * k * (2 * d + 1) * math.log(n)
        if bic > best:
            best, chosen = bic, k
    return chosen


def _within(z: Tensor, partition: Partition, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Cell numbers and variances `(K, d)` of clusters; the prior counts as a cell, so that none is 0."""
    size = torch.bincount(partition.nearest, minlength=len(partition.centres)).double()
    off = (z - partition.centres[partition.nearest]).square().double()
    total = torch.zeros(len(size), z.shape[1], dtype=torch.float64).index_add_(0, partition.nearest, off)
    return size, (total + prior) / (size + 1).unsqueeze(1)


def start_heads(module: MultiDGDModule, bundle: MultiOmics) -> None:
    """Set the last bias to the features' means, and the spread of values that are not counts."""
    for m in bundle.modalities.values():
        branch = module.branch(m.name)
        values = m.features.values
        mean = np.asarray(values.mean(axis=0), dtype=np.float64).ravel()
        if branch.likelihood.is_counts:
            total = mean.sum()
            # a feature without counts starts as if it had half a count
            least = 0.5 / max(m.n_obs, 1)
            bias = np.log(np.maximum(mean, least) / max(total, least))
        else:
            bias = mean
            square = values.multiply(values) if not isinstance(values, np.ndarray) else np.square(values)
            variance = np.asarray(square.mean(axis=0), dtype=np.float64).ravel() - mean**2
            with torch.no_grad():
                branch.log_scale.copy_(torch.from_numpy(0.5 * np.log(np.maximum(variance, 1e-4))))
        with torch.no_grad():
            branch.head.bias.copy_(torch.from_numpy(bias))


def _sample(n: int, most: int, seed: int) -> Tensor:
    return torch.from_numpy(drawn_rows(n, most, seed=seed))
