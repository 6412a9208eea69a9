"""Encoder and decoder of one modality (Litinetskaya et al., Table 5)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from mocli.nn import sampling
from mocli.nn.count_loss import negative_binomial_loss, poisson_loss
from mocli.nn.layers import Block, InputLinear
from mocli.nn.likelihoods import bernoulli, zero_inflated_log_normal
from mocli.types import COUNT_LIKELIHOODS, NonZeros

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator

    from mocli.models.multigrate.params import MultigrateParams

LEAST_SHARE = 1e-2
"""Share of all counts, spread evenly, below which no feature begins."""

LOG_SD = -0.5 * math.log(2)
"""Of values whose loss is the squared error: the variance 1/2 makes it a normal likelihood."""

LOG_VARIANCE = 10.0
"""Bound of the log variance of a posterior: beyond it, exponentials are of no use."""


def _blocks(
    widths: Sequence[int], n_side: int, params: MultigrateParams, *, sparse: bool = False
) -> nn.ModuleList:
    return nn.ModuleList(
        Block(
            a,
            b,
            n_side=n_side if i == 0 else 0,
            sparse=sparse and i == 0,
            normalization=params.normalization,
            activation=params.activation,
            dropout=params.dropout,
        )
        for i, (a, b) in enumerate(pairwise(widths))
    )


def totals(x: Tensor | NonZeros) -> Tensor:
    """Sum of each row, `(B,)`."""
    return x.sum(1) if isinstance(x, Tensor) else x.totals


class Encoder(nn.Module):
    """Features and covariates to the mean and log variance of a Gaussian.

    Parameters
    ----------
    n_components
        Fixed components that the layers see instead of the features; 0 for the features.
    """

    def __init__(self, n_vars: int, n_side: int, params: MultigrateParams, n_components: int = 0) -> None:
        super().__init__()
        p = params
        self.projection = InputLinear(n_vars, n_components) if n_components else None
        if self.projection is not None:
            self.projection.requires_grad_(requires_grad=False)
        widths = [n_components or n_vars, *[p.n_hidden] * p.n_layers, p.n_latent]
        self.blocks = _blocks(widths, n_side, params, sparse=not n_components)
        self.mean = nn.Linear(p.n_latent, p.n_latent)
        self.log_variance = nn.Linear(p.n_latent, p.n_latent)

    def forward(self, x: Tensor | NonZeros, side: Tensor | None) -> tuple[Tensor, Tensor]:
        """`(B, p)` to two tensors `(B, d)`."""
        return self.leave(self.enter(x, side))

    @property
    def first(self) -> Block:
        """The layer that sees the features, or their components."""
        return cast("Block", self.blocks[0])

    def enter(self, x: Tensor | NonZeros, side: Tensor | None) -> Tensor:
        """Linear part of the first layer, `(B, n_hidden)`."""
        return self.first.enter(x if self.projection is None else self.projection(x), side)

    def entry_weights(self) -> Tensor:
        """Return what one unit of each feature adds to the linear part, `(p, n_hidden)`."""
        if self.projection is None:
            return cast("InputLinear", self.first.linear).weight
        return self.projection.weight @ cast("nn.Linear", self.first.linear).weight.T

    def leave(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return what follows the linear part of the first layer."""
        h = self.first.leave(h)
        for block in self.blocks[1:]:
            h = block(h)
        return self.mean(h), self.log_variance(h).clamp(-LOG_VARIANCE, LOG_VARIANCE)


class Decoder(nn.Module):
    """Latent and covariates to the parameters of a likelihood."""

    def __init__(
        self,
        n_vars: int,
        n_side: int,
        likelihood: str,
        n_groups: tuple[int, int],
        params: MultigrateParams,
    ) -> None:
        super().__init__()
        p = params
        widths = [p.n_latent, *[p.n_hidden] * (p.n_layers + 1)]
        self.likelihood = likelihood
        self.blocks = _blocks(widths, n_side, params)
        self.head = nn.Linear(p.n_hidden, n_vars)
        self.zeros = nn.Linear(p.n_hidden, n_vars) if likelihood in {"zinb", "ziln"} else None
        # log inverse dispersion of counts, or log standard deviation of logs
        self.log_scale: nn.Parameter | None = None
        self.added_scale: nn.Parameter | None = None  # of groups that a query adds
        if likelihood in {"nb", "zinb", "ziln"}:
            known, added = n_groups
            start = torch.zeros(1, n_vars) if likelihood == "ziln" else torch.randn(known, n_vars)
            self.log_scale = nn.Parameter(start)
            if added and likelihood != "ziln":
                self.added_scale = nn.Parameter(torch.zeros(added, n_vars))

    def start(self, mean: Tensor) -> None:
        """Let the head begin at the mean of each feature, `(p,)`.

        Else the first hundreds of steps go into finding it, while encoders already learn noise by heart.
        """
        mean = mean.double()
        if self.likelihood in COUNT_LIKELIHOODS:
            bias = torch.log(mean.clamp_min(0) / mean.sum().clamp_min(1e-12) + LEAST_SHARE / len(mean))
        elif self.likelihood == "bernoulli":
            bias = torch.logit(mean, eps=1e-4)
        elif self.likelihood == "normal":
            bias = mean
        else:
            return
        with torch.no_grad():
            self.head.bias.copy_(bias)

    def forward(self, z: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`(B, d)` to the head's output and the logit of an extra zero, `(B, p)`."""
        for i, block in enumerate(self.blocks):
            z = block(z, side if i == 0 else None)
        return self.head(z), None if self.zeros is None else self.zeros(z)

    def loss(
        self,
        x: Tensor | NonZeros,
        output: tuple[Tensor, Tensor | None],
        group: Tensor | None,
        weight: Tensor,
    ) -> Tensor:
        """Negative log-likelihood summed over features, and by weight over cells."""
        head, zeros = output
        if self.likelihood in COUNT_LIKELIHOODS:
            library = torch.log(totals(x).clamp_min(1))
            if self.likelihood == "poisson":
                return poisson_loss(x, head, library, weight)
            return negative_binomial_loss(x, head, self._scale(group), library, zeros, weight)
        x = x if isinstance(x, Tensor) else x.dense
        if self.likelihood == "normal":  # with variance 1/2 and without its constant: the squared error
            return weight @ (head - x).square().sum(1)
        if self.likelihood == "bernoulli":
            return -weight @ bernoulli((x > 0).to(head.dtype), head).sum(1)
        if zeros is None:
            raise ValueError(f"no likelihood '{self.likelihood}'")
        return -weight @ zero_inflated_log_normal(x, head, self._scale(None), zeros).sum(1)

    def extend(self, known: Decoder) -> None:
        """Take the dispersions of a decoder that knows fewer groups; new ones start at the mean."""
        if self.log_scale is None or known.log_scale is None:
            return
        with torch.no_grad():
            rows: Tensor = known.log_scale
            if known.added_scale is not None:
                rows = torch.cat([rows, known.added_scale])
            self.log_scale.copy_(rows)
            if self.added_scale is not None:
                self.added_scale.copy_(rows.mean(0).expand_as(self.added_scale))

    def _scale(self, group: Tensor | None) -> Tensor:
        if self.log_scale is None:
            raise ValueError(f"{self.likelihood} has no scale")
        scale: Tensor = self.log_scale
        if self.added_scale is not None:
            scale = torch.cat([scale, self.added_scale])
        if group is None or len(scale) == 1:
            return scale.mean(0)
        return scale[group]

    def expected(self, output: tuple[Tensor, Tensor | None], library: Tensor) -> Tensor:
        """Mean of the likelihood, `(B, p)`."""
        head, zeros = output
        if self.likelihood == "normal":
            return head
        if self.likelihood == "bernoulli":
            return torch.sigmoid(head)
        if self.likelihood == "ziln":
            mean = torch.exp(head + 0.5 * torch.exp(2 * self._scale(None)))
        else:
            mean = torch.softmax(head, 1) * library.unsqueeze(1)
        return mean if zeros is None else mean * torch.sigmoid(-zeros)

    def draw(
        self,
        output: tuple[Tensor, Tensor | None],
        library: Tensor,
        group: Tensor | None,
        generator: Generator,
    ) -> Tensor:
        """Draw from the likelihood, `(B, p)`; `group` as in `loss`."""
        head, zeros = output
        if self.likelihood == "normal":
            return sampling.normal(head, head.new_tensor(LOG_SD), generator=generator)
        if self.likelihood == "bernoulli":
            return sampling.bernoulli(head, generator=generator)
        if self.likelihood == "ziln" and zeros is not None:
            return sampling.zero_inflated_log_normal(head, self._scale(None), zeros, generator=generator)
        mean = torch.softmax(head, 1) * library.unsqueeze(1)
        if self.likelihood == "poisson":
            return sampling.poisson(mean, generator=generator)
        counts = sampling.negative_binomial(mean, self._scale(group).exp(), generator=generator)
        return counts if zeros is None else sampling.zero_inflated(counts, zeros, generator=generator)
