"""Multigrate (Litinetskaya et al., bioRxiv 2022.03.16.484643): posteriors and losses.

Each modality has an encoder to a Gaussian over the latent and a decoder to the parameters of its
likelihood; a cell's Gaussians are multiplied, with the prior (Methods, "Product of experts"), or averaged.
Absent modalities cost nothing: encoders and decoders see the rows that were measured. Different from the
authors' code: presence is known and not read from the values; counts have a library size of their own
modality; the log variance is bounded; the Jeffreys divergence takes groups of any size; encoders see counts
at equal depth (`encoder_input`); kernels are made once for all pairs. Different by default (`--preset
paper` undoes it): encoders see principal components, and posterior means of cells with all modalities are
pulled towards joint components (`anchor`), since likelihoods alone leave latents diffuse. Symbols: x input,
z latent, m modality, B cells of a minibatch, p features, d latent dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.data.bundle import Minibatch
from mocli.models.base import Conditions, Spec
from mocli.models.multigrate.networks import Covariates, Decoder, Encoder, Levels
from mocli.models.multigrate.params import MultigrateParams
from mocli.nn.heads import totals
from mocli.nn.layers import InputLinear
from mocli.nn.mixture import (
    group_jeffreys,
    group_mmd,
    jeffreys,
    kl_to_prior,
    mean_of_experts,
    product_of_experts,
)
from mocli.types import NonZeros


@dataclass(frozen=True, kw_only=True)
class Shape(Spec):
    """What the networks are built from.

    Attributes:
        has_batch: Whether the first covariate is the batch.
        patterns: Sets of modalities that occur together, as bits.
        components: Fixed components that encoders see instead of features, by modality; modalities that are
            left out have none.
        added: How many of the last levels of each covariate a query added; keys that are left out have none.
    """

    has_batch: bool
    patterns: tuple[int, ...]
    components: Mapping[str, int] = field(default_factory=dict)
    added: Mapping[str, int] = field(default_factory=dict)

    def n_levels(self, key: str) -> tuple[int, int]:
        """Return the numbers of known and of added levels."""
        added = self.added.get(key, 0)
        return len(self.levels[key]) - added, added

    @property
    def batch(self) -> str | None:
        """Key of the batch."""
        return next(iter(self.levels)) if self.has_batch else None


@dataclass(frozen=True)
class Step:
    """What the loss of one minibatch needs.

    Attributes:
        mean, log_variance: Joint posterior, `(B, d)`.
        experts: Means and log variances of single modalities, `(M, B, d)` each.
        present: Which cells have which modality, `(M, B)`.
    """

    batch: Minibatch
    mean: Tensor
    log_variance: Tensor
    experts: tuple[Tensor, Tensor]
    present: Tensor


class MultigrateModule(nn.Module):
    """Encoders, decoders and embeddings of covariates."""

    depth: Tensor
    group_of_pattern: Tensor
    anchors: Tensor
    anchor_weight: Tensor

    def __init__(self, shape: Shape, params: MultigrateParams) -> None:
        super().__init__()
        self._fixed = self.keeps_anchors = False
        self.shape, self.params = shape, params
        self.names = list(shape.widths)
        self.covariates = Covariates(
            {key: shape.n_levels(key) for key in shape.levels},
            len(shape.continuous),
            params.n_covariate,
            params.continuous_response,
        )
        width = self.covariates.width
        n_groups = (1, 0)
        if params.dispersion == "batch" and shape.batch is not None:
            n_groups = shape.n_levels(shape.batch)
        # module names must be identifiers, a user's modality names need not be
        self.encoders = nn.ModuleList(
            Encoder(p, width if params.encoder_covariates else 0, params, shape.components.get(name, 0))
            for name, p, _ in shape.modalities
        )
        self.decoders = nn.ModuleList(
            Decoder(p, width, taken_for, n_groups, params) for _, p, taken_for in shape.modalities
        )
        self.register_buffer("depth", torch.ones(len(self.names)))
        groups = torch.full((2 ** len(self.names),), -1, dtype=torch.int64)
        groups[list(shape.patterns)] = torch.arange(len(shape.patterns))
        self.register_buffer("group_of_pattern", groups)
        _initialise(self, params.init)

    def keep_anchors(self, anchors: Tensor, weight: Tensor) -> None:
        """Keep the anchors of training cells, `(n_cells, d)`, and their weights, `(n_cells,)`; not saved."""
        self.keeps_anchors = True
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("anchor_weight", weight, persistent=False)

    def anchor(self, step: Step) -> Tensor:
        """Squared distance of posterior means from their anchors, mean over cells."""
        cells = step.batch.cells
        distance = (step.mean - self.anchors[cells]).square().sum(1)
        return (distance * self.anchor_weight[cells]).mean()

    @property
    def added(self) -> list[nn.Parameter]:
        """Return what a query adds: rows of embeddings, and of dispersions."""
        rows = [cast("Levels", table).added for table in self.covariates.tables]
        rows += [self.decoder(name).added_scale for name in self.names]
        return [row for row in rows if row is not None]

    def extend(self, smaller: MultigrateModule) -> None:
        """Copy all weights of a module with fewer levels, and freeze them."""
        state = self.state_dict()
        same = {k: v for k, v in smaller.state_dict().items() if k in state and v.shape == state[k].shape}
        self.load_state_dict(same, strict=False)
        for table, old in zip(self.covariates.tables, smaller.covariates.tables, strict=True):
            cast("Levels", table).extend(cast("Levels", old))
        for name in self.names:
            self.decoder(name).extend(smaller.decoder(name))
        new = set(map(id, self.added))
        for parameter in self.parameters():
            parameter.requires_grad = id(parameter) in new
        self._fixed = True

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - as in torch
        """Switch dropout on; the statistics of a reference do not change when a query is added."""
        super().train(mode)
        for part in self.modules():
            if self._fixed and isinstance(part, nn.BatchNorm1d):
                part.eval()
        return self

    def encode(self, name: str, x: Tensor | NonZeros, conditions: Conditions | None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of one modality's posterior, `(B, d)` each."""
        return self.encoder(name).leave(self.enter(name, x, conditions))

    def enter(self, name: str, x: Tensor | NonZeros, conditions: Conditions | None = None) -> Tensor:
        """Linear part of a modality's first layer, `(B, n_hidden)`."""
        return self.encoder(name).enter(self._input(name, x), self.side(x.shape[0], conditions))

    def encoder(self, name: str) -> Encoder:
        """Return the encoder of a modality."""
        return cast("Encoder", self.encoders[self.names.index(name)])

    def _input(self, name: str, x: Tensor | NonZeros) -> Tensor | NonZeros:
        """Return what the encoder sees: counts at equal depth and their logarithm, unless asked otherwise."""
        see, form = self.decoder(name).likelihood.encoder_input, self.params.encoder_input
        factor = self.depth_of(name) / totals(x).clamp_min(1)
        if isinstance(x, Tensor):
            return see(x, form, factor.unsqueeze(1))
        return x._replace(values=see(x.values, form, factor[x.row]))

    def depth_of(self, name: str) -> Tensor:
        """Return the median library size of training."""
        return self.depth[self.names.index(name)]

    def project(self, name: str, loadings: Tensor, mean: Tensor) -> None:
        """Fix the components that an encoder sees, `(p, k)`, and the mean of its input, `(p,)`."""
        projection = self.encoder(name).projection
        if projection is None:
            raise ValueError(f"the encoder of {name} sees features")
        with torch.no_grad():
            projection.weight.copy_(loadings)
            projection.bias.copy_(-mean @ loadings)

    def decoder(self, name: str) -> Decoder:
        """Return the decoder of a modality."""
        return cast("Decoder", self.decoders[self.names.index(name)])

    def side(self, n: int, conditions: Conditions | None) -> Tensor | None:
        """Return the networks' input from the covariates of cells, `(B, width)`, or nothing."""
        return self.covariates(n, conditions) if self.covariates.width else None

    def posterior(self, batch: Minibatch) -> Step:
        """Joint and single posteriors of the cells of a minibatch."""
        if batch.cells is None:
            raise ValueError("cells must be drawn, not rows of each modality")
        n = len(batch.cells)
        means, log_variances, present = [], [], []
        for name in self.names:
            positions = batch.positions[name]
            mean, log_variance = self.encode(name, batch.values(name), conditions_at(batch, positions))
            blank = mean.new_zeros(n, mean.shape[1])
            means.append(blank.index_copy(0, positions, mean))
            log_variances.append(blank.index_copy(0, positions, log_variance))
            present.append(
                torch.zeros(n, dtype=torch.bool, device=positions.device).index_fill(0, positions, value=True)
            )
        experts = (torch.stack(means), torch.stack(log_variances))
        shown = measured = torch.stack(present)
        if self.training and self.params.modality_dropout:
            shown = self._hide(measured)
        combine = product_of_experts if self.params.mix == "product" else mean_of_experts
        return Step(batch, *combine(*experts, shown), experts, measured)

    def _hide(self, present: Tensor) -> Tensor:
        """Hide all but one modality, chosen at random, of some cells."""
        score = torch.rand(present.shape, device=present.device) * present
        chosen = F.one_hot(score.argmax(0), len(present)).T.bool() & present
        alone = torch.rand(present.shape[1], device=present.device) < (self.params.modality_dropout or 0)
        return torch.where(alone, chosen, present)

    def reconstruction(self, step: Step, z: Tensor) -> Tensor:
        """Weighted sum of the modalities' negative log-likelihoods, mean over the cells drawn."""
        batch, total = step.batch, z.new_zeros(())
        for name in self.names:
            positions, x = batch.positions[name], batch.values(name)
            if not len(positions):
                continue
            conditions = conditions_at(batch, positions)
            decoder = self.decoder(name)
            output = decoder.parameters_at(
                z[positions], self.side(len(positions), conditions), self.dispersion_of(conditions)
            )
            weight = z.new_full((len(positions),), self.params.modality_weights.get(name, 1.0) / len(z))
            total = total + decoder.likelihood.loss(x, output, weight)
        return total

    def dispersion_of(self, conditions: Conditions) -> Tensor | None:
        """Return the batch whose dispersion a cell has; None if all cells share one."""
        key = self.shape.batch
        if self.params.dispersion != "batch" or key is None or key not in conditions.codes:
            return None
        # a missing batch borrows the first one's dispersion
        return conditions.codes[key].clamp_min(0)

    def draw(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Draw one sample while training, else return the mean."""
        return mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance) if self.training else mean

    def groups(self, step: Step) -> tuple[Tensor, int]:
        """Return the group of every cell that `align_on` names, and their number."""
        if self.params.align_on == "batch" and self.shape.has_batch:
            key = self.covariates.keys[0]
            return step.batch.codes[key], len(self.shape.levels[key])
        bits = 2 ** torch.arange(len(self.names), device=step.present.device)
        pattern = (step.present.long() * bits.unsqueeze(1)).sum(0)
        return self.group_of_pattern[pattern], len(self.shape.patterns)

    def latent_alignment(self, step: Step, z: Tensor) -> Tensor:
        """Divergence between the joint latents of groups of cells."""
        group, n = self.groups(step)
        if self.params.alignment == "mmd":
            return group_mmd(z, group, n)
        return group_jeffreys(step.mean, step.log_variance, group, n)

    def marginal_alignment(self, step: Step) -> Tensor:
        """Divergence between modalities over cells that have both, and between groups within each."""
        means, log_variances = step.experts
        mmd = self.params.alignment == "mmd"
        z = self.draw(means, log_variances)
        group, n = self.groups(step)
        total = means.new_zeros(())
        for a in range(len(self.names)):
            for b in range(a):
                both = step.present[a] & step.present[b]
                if mmd:
                    side = torch.cat([torch.where(both, m, -1) for m in (0, 1)])
                    total = total + group_mmd(torch.cat([z[a], z[b]]), side, 2)
                else:
                    pairs = jeffreys(means[a], log_variances[a], means[b], log_variances[b])
                    n_both = both.sum()
                    total = total + (pairs * both).sum() / n_both.clamp_min(1) * (n_both > 1)
            group_here = torch.where(step.present[a], group, -1)
            if mmd:
                total = total + group_mmd(z[a], group_here, n)
            else:
                total = total + group_jeffreys(means[a], log_variances[a], group_here, n)
        return total

    @staticmethod
    def kl(step: Step) -> Tensor:
        """KL of the joint posterior, mean over cells."""
        return kl_to_prior(step.mean, step.log_variance).mean()


def conditions_at(batch: Minibatch, positions: Tensor) -> Conditions:
    """Covariates of the cells at some positions."""
    continuous = None if batch.continuous is None else batch.continuous[positions]
    return Conditions({key: codes[positions] for key, codes in batch.codes.items()}, continuous)


def _initialise(module: nn.Module, form: str) -> None:
    if form == "default":
        return
    for part in module.modules():
        if isinstance(part, nn.Linear | InputLinear) and part.weight.requires_grad:
            weight = part.weight if isinstance(part, nn.Linear) else part.weight.T
            if form == "xavier":
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.kaiming_normal_(weight)
