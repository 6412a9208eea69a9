"""multiDGD (Schuster et al., Nat. Commun. 15:10031, 2024): a table of cells, mixtures, a decoder; losses.

There is no encoder: the coordinates z of a cell and, for each categorical covariate, coordinates c are
parameters, a row of one table. The decoder is that of Methods, "Decoder" and "Count modeling". z has a
Gaussian mixture as prior (Eq. 4, 6-9), c a mixture with one isotropic component for each level, which is
known (Eq. 10). Different from the authors' code: any number of covariates; a cell whose level is missing has
the plain mixture as prior; means are library * softmax exactly, without a small number inside logarithms; a
cell's modalities that were not measured cost nothing. Symbols: z basal and c covariate coordinates, d and q
their dimensions, K components, B cells of a minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.data.bundle import Minibatch
from mocli.models.base import Conditions, Spec
from mocli.models.multidgd.params import MultiDGDParams
from mocli.nn.gaussian_mixture import GaussianMixture, start_spread
from mocli.nn.heads import Parameters, likelihood_named, totals
from mocli.nn.layers import MLP
from mocli.types import NonZeros


@dataclass(frozen=True, kw_only=True)
class Shape(Spec):
    """What the networks are built from; `n_cells` are the rows of the table of cells."""

    n_cells: int


@dataclass(frozen=True)
class Step:
    """The cells of one minibatch: basal coordinates `(B, d)` and covariate coordinates, `(B, q)` each."""

    batch: Minibatch
    z: Tensor
    c: tuple[Tensor, ...]


class MultiDGDModule(nn.Module):
    """Table of cells, mixtures and decoder."""

    depth: Tensor
    continuous_mean: Tensor
    continuous_sd: Tensor

    def __init__(self, shape: Shape, params: MultiDGDParams) -> None:
        super().__init__()
        self.shape, self.params = shape, params
        p, k = params, params.n_components or 1
        self.names, self.keys = list(shape.widths), list(shape.levels)
        width = p.n_latent + p.n_covariate * len(self.keys)
        self.cells = nn.Parameter(torch.zeros(shape.n_cells, width))
        self.mixture = GaussianMixture(
            k,
            p.n_latent,
            spread=start_spread(k, share=p.spread, scale=p.radius),
            radius=p.radius,
            hardness=p.hardness,
            concentration=p.concentration,
        )
        self.covariates = nn.ModuleList(
            GaussianMixture(
                len(levels),
                p.n_covariate,
                spread=start_spread(len(levels), share=p.spread_covariate, scale=p.radius),
                isotropic=True,
                radius=p.radius,
                hardness=p.hardness,
                concentration=p.concentration_covariate,
            )
            for levels in shape.levels.values()
        )
        self.shared = MLP([width + len(shape.continuous), *[p.n_hidden] * p.n_layers])
        # module names must be identifiers, a user's modality names need not be
        self.branches = nn.ModuleList(Branch(n, taken_for, p) for _, n, taken_for in shape.modalities)
        self.register_buffer("depth", torch.ones(len(self.names)))
        self.register_buffer("continuous_mean", torch.zeros(len(shape.continuous)))
        self.register_buffer("continuous_sd", torch.ones(len(shape.continuous)))

    def depth_of(self, name: str) -> Tensor:
        """Return the median library size of training."""
        return self.depth[self.names.index(name)]

    def branch(self, name: str) -> Branch:
        """Return the decoder's part for one modality."""
        return cast("Branch", self.branches[self.names.index(name)])

    def covariate(self, position: int) -> GaussianMixture:
        """Return the mixture of one covariate."""
        return cast("GaussianMixture", self.covariates[position])

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Return weights and biases of all layers, and the likelihoods' scales."""
        return [*self.shared.parameters(), *self.branches.parameters()]

    def places(self, batch: Minibatch) -> Step:
        """Look up the cells of a minibatch; the gradient is sparse."""
        if batch.cells is None:
            raise ValueError("cells must be drawn, not rows of each modality")
        rows = F.embedding(batch.cells, self.cells, sparse=True)
        sizes = [self.params.n_latent, *[self.params.n_covariate] * len(self.keys)]
        z, *c = torch.split(rows, sizes, dim=1)
        return Step(batch, z, tuple(c))

    def hidden(self, z: Tensor, c: tuple[Tensor, ...], continuous: Tensor | None) -> Tensor:
        """Map coordinates and continuous covariates (None: mean) to the shared hidden layer, `(B, h)`."""
        parts = [z, *c]
        if len(self.continuous_mean):
            values = self.continuous_mean.expand(len(z), -1) if continuous is None else continuous
            parts.append((values - self.continuous_mean) / self.continuous_sd)
        return F.relu(self.shared(torch.cat(parts, 1)))

    def at_levels(self, n: int, conditions: Conditions | None) -> tuple[Tensor, ...]:
        """Return covariate coordinates of given levels: the components' means, else the mixtures' mean."""
        codes = {} if conditions is None else conditions.codes
        places = []
        for position, key in enumerate(self.keys):
            mixture = self.covariate(position)
            middle = (mixture.log_weights.exp() @ mixture.mean).expand(n, -1)
            if key in codes:
                known_codes = self.known(position, codes[key])
                middle = torch.where(
                    known_codes.unsqueeze(1) >= 0, mixture.mean[known_codes.clamp_min(0)], middle
                )
            places.append(middle)
        return tuple(places)

    def places_at_levels(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return covariate coordinates of cells by the codes of their levels, side by side, `(B, q)`."""
        n = len(next(iter(codes.values()))) if codes else len(self.cells)
        places = self.at_levels(n, Conditions(codes))
        return torch.cat([self.cells.new_zeros(n, 0), *places], 1)

    def known(self, position: int, codes: Tensor) -> Tensor:
        """Return the codes of levels that have a component, -1 for others."""
        return torch.where(codes < self.covariate(position).n_components, codes, -1)

    def reconstruction(self, step: Step) -> Tensor:
        """Negative log-likelihood of the measured values, summed over cells and modalities (Eq. 5)."""
        batch, total = step.batch, step.z.new_zeros(())
        shared = self.hidden(step.z, step.c, batch.continuous)
        for name in self.names:
            positions = batch.positions[name]
            if len(positions):
                seen = shared if len(positions) == len(shared) else shared[positions]
                branch = self.branch(name)
                total = total + branch.loss(batch.values(name), seen)
        return total

    def mixture_loss(self, step: Step) -> Tensor:
        """-log p(z), summed over cells (Eq. 6)."""
        return -self.mixture.log_density(step.z).sum()

    def covariate_loss(self, step: Step) -> Tensor:
        """-log p(c) of known levels (Eq. 10) and of the mixture where they are missing, summed over cells."""
        total = step.z.new_zeros(())
        for position, (key, c) in enumerate(zip(self.keys, step.c, strict=True)):
            mixture = self.covariate(position)
            density = mixture.log_density(c, self.known(position, step.batch.codes[key])).sum()
            weight = mixture.n_components if self.params.covariate_density == "levels" else 1
            total = total - weight * density
        return total

    def prior_loss(self) -> Tensor:
        """-log p of the mixtures' parameters (Eq. 7)."""
        mixtures = [self.mixture, *(self.covariate(i) for i in range(len(self.keys)))]
        return -torch.stack([mixture.log_prior() for mixture in mixtures]).sum()

    def l1(self) -> Tensor:
        """Sum of the absolute weights of all layers, without biases."""
        weights = [w for w in self.decoder_parameters() if w.dim() > 1]
        return torch.stack([w.abs().sum() for w in weights]).sum()


LEAST_LOG_SD = -5.0
"""Bound of the log standard deviation of values that are no counts."""


class Branch(nn.Module):
    """The part of the decoder that belongs to one modality, and its likelihood.

    Counts are negative binomial with mean library * softmax(head) (Eq. 3) and inverse dispersion
    r = 1 + exp(rho), 2 at the start; other values are normal with a standard deviation by feature.
    """

    def __init__(self, n_vars: int, likelihood: str, params: MultiDGDParams) -> None:
        super().__init__()
        self.likelihood = likelihood_named(likelihood)
        if self.likelihood.scale is None or self.likelihood.has_zeros:
            raise ValueError(f"multiDGD does not take values for {likelihood}")
        hidden, last = params.n_hidden, max(params.n_hidden, round(math.sqrt(n_vars)))
        self.hidden = MLP([hidden, *[hidden] * (params.n_layers - 1), last])
        self.head = nn.Linear(last, n_vars)
        # rho of counts, log standard deviation of other values
        self.log_scale = nn.Parameter(torch.zeros(n_vars))

    @property
    def log_dispersion(self) -> Tensor:
        """Log of r of counts, `(p,)`."""
        return F.softplus(self.log_scale)

    @property
    def log_sd(self) -> Tensor:
        """Log standard deviation of other values, `(p,)`."""
        return self.log_scale.clamp_min(LEAST_LOG_SD)

    def forward(self, shared: Tensor) -> Tensor:
        """`(B, n_hidden)` to the head's output `(B, p)`: logits of proportions, or means."""
        return self.head(F.relu(self.hidden(shared)))

    def parameters_at(self, shared: Tensor) -> Parameters:
        """`(B, n_hidden)` to the parameters of the likelihood."""
        return Parameters(self(shared), self.log_dispersion if self.likelihood.is_counts else self.log_sd)

    def loss(self, x: Tensor | NonZeros, shared: Tensor) -> Tensor:
        """Negative log-likelihood, summed over features and cells (Eq. 5)."""
        # a cell without counts has the mean 0 and says nothing
        weight = (totals(x) > 0).to(shared.dtype) if self.likelihood.is_counts else None
        return self.likelihood.loss(x, self.parameters_at(shared), weight)
