"""scCross (Yang et al., Genome Biol 25:198, 2024): posteriors and losses.

A modality's values become components (a fitted projection), averaged over own neighbours; an encoder gives
its latent u, aligners map it to the common latent z and back, and a linear decoder gives the parameters of a
likelihood (Methods; sizes of the authors' code). Symbols: x values, u latent of a modality, z common latent
(the paper's z_k and z), G prior, D critic, p features, B cells. Different from the authors' code: the mean
of counts does not depend on their dispersion; components are fitted once, on training cells; a cell's
posteriors are averaged over its own modalities only, never over unrelated cells that share a row of a
minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.data.bundle import Edge, FeatureMatrix, Minibatch
from mocli.models.base import rebuilt, spec_of
from mocli.models.sccross.params import SccrossParams
from mocli.nn.alignment import soft_assignment
from mocli.nn.heads import Parameters, likelihood_named, totals
from mocli.nn.layers import Dropout
from mocli.nn.losses import Critic, anchor_loss, cell_weights, noise_scale, source_entropy
from mocli.nn.principal import Projection, smoothed
from mocli.nn.threads import BatchNorm
from mocli.types import FloatArray, IntArray, Json, NonZeros

LOG_SCALE = 8.0
"""Bound of log dispersions and log standard deviations: beyond it, likelihoods are of no use."""


class Hidden(nn.Module):
    """Linear layers, each with LeakyReLU 0.2, batch normalisation and dropout."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(BatchNorm(b) for b in widths[1:])
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, widths[0])` to `(B, widths[-1])`."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(layer(x), 0.2)
            # statistics of fewer than two rows mean nothing
            x = norm(x) if len(x) > 1 or not self.training else x
            x = self.dropout(x)
        return x


class Gaussian(nn.Module):
    """Any input to the mean and standard deviation of a Gaussian, through hidden layers if there are any."""

    def __init__(self, n_in: int, n_hidden: int, n_layers: int, n_out: int, dropout: float) -> None:
        super().__init__()
        widths = [n_in, *[n_hidden] * n_layers]
        self.hidden = Hidden(widths, dropout)
        self.mean = nn.Linear(widths[-1], n_out)
        self.spread = nn.Linear(widths[-1], n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, n_in)` to two tensors `(B, n_out)`."""
        h = self.hidden(x)
        return self.mean(h), F.softplus(self.spread(h)) + 1e-4


class LinearDecoder(nn.Module):
    """Latent to a likelihood: a linear map, then scale, bias and dispersion of the cell's batch.

    The mean of counts is `library * softmax(scale * W u + bias)` and does not depend on the dispersion; in
    the authors' code it is multiplied by it.
    """

    def __init__(self, n_latent: int, n_vars: int, likelihood: str, n_levels: int) -> None:
        super().__init__()
        self.likelihood = likelihood_named(likelihood)
        self.head = nn.Linear(n_latent, n_vars)
        n = max(n_levels, 1)
        self.scale = nn.Parameter(torch.zeros(n, n_vars))
        # with one batch the head's own bias says it all
        self.bias = nn.Parameter(torch.zeros(n, n_vars)) if n > 1 else None
        # log inverse dispersion of counts, or log standard deviation
        self.log_scale = nn.Parameter(torch.zeros(n, n_vars)) if self.likelihood.scale else None
        self.zeros = nn.Parameter(torch.full((n, n_vars), -2.0)) if self.likelihood.has_zeros else None

    def start(self, features: FeatureMatrix) -> None:
        """Let the head begin at the mean of each feature."""
        mean = torch.from_numpy(features.mean(binary=self.likelihood.is_binary))
        with torch.no_grad():
            self.head.bias.copy_(self.likelihood.start(mean.double()))

    def forward(self, u: Tensor, codes: Tensor | None) -> Tensor:
        """`(B, d)` to logits or means `(B, p)`; a batch of -1, or none, stands at the mean of batches."""
        scale = F.softplus(self.scale)
        if codes is None or len(scale) == 1:
            bias = self.head.bias if self.bias is None else self.head.bias + self.bias.mean(0)
            return F.linear(u, self.head.weight * scale.mean(0).unsqueeze(1), bias)
        logits = F.linear(u, self.head.weight) * _rows(scale, codes) + self.head.bias
        return logits if self.bias is None else logits + _rows(self.bias, codes)

    def parameters_at(self, u: Tensor, codes: Tensor | None) -> Parameters:
        """`(B, d)` to the parameters of the likelihood."""
        scale = None
        if self.log_scale is not None:
            scale = self._by_cell(self.log_scale, codes).clamp(-LOG_SCALE, LOG_SCALE)
        zeros = None if self.zeros is None else self._by_cell(self.zeros, codes)
        return Parameters(self(u, codes), scale, zeros)

    @staticmethod
    def _by_cell(table: Tensor, codes: Tensor | None) -> Tensor:
        """Return the rows of cells `(B, p)`, or one for all `(p,)`."""
        return table.mean(0) if codes is None or len(table) == 1 else _rows(table, codes)


def _rows(table: Tensor, codes: Tensor) -> Tensor:
    """Rows of a table by number, `(B, p)`; that of -1 is the mean of all."""
    rows = torch.cat([table, table.mean(0, keepdim=True)])
    return F.embedding(codes.remainder(len(rows)), rows)


@dataclass(frozen=True)
class ModalityPart:
    """One modality.

    Attributes:
        form, n_components: Transform of the values before the projection, and number of components.
        n_reference, n_neighbors: Training cells kept, and how many of them a cell is averaged over.
    """

    name: str
    width: int
    likelihood: str
    form: str
    n_components: int
    n_reference: int
    n_neighbors: int


@dataclass(frozen=True)
class Shape:
    """Modalities in order, pairs of them that links join, and the batch."""

    parts: tuple[ModalityPart, ...]
    edges: tuple[Edge, ...]
    batch: str | None
    levels: tuple[str, ...]

    def spec(self) -> dict[str, Json]:
        """Return the shape as plain values."""
        modalities: Any = [[part.name, part.width, part.likelihood] for part in self.parts]
        parts: Any = [asdict(part) for part in self.parts]
        return spec_of(self) | {"modalities": modalities, "parts": parts}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the shape that `spec` wrote."""
        return rebuilt(cls, {**spec, "parts": [ModalityPart(**part) for part in spec["parts"]]})


@dataclass(frozen=True)
class SeenModality:
    """One modality of a minibatch: mean and standard deviation of u and z, `(B_m, d)` each."""

    x: Tensor | NonZeros
    codes: Tensor | None
    positions: Tensor
    rows: Tensor
    u: tuple[Tensor, Tensor]
    z: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Step:
    """What the losses of one minibatch share; `n` cells, of which not every modality has all."""

    number: int
    n: int
    seen: Mapping[str, SeenModality] = field(default_factory=dict)


class SccrossModule(nn.Module):
    """Projections, encoders, aligners, decoders and critics."""

    depth: Tensor

    def __init__(self, shape: Shape, params: SccrossParams) -> None:
        super().__init__()
        self.shape, self.params = shape, params
        self.names = [part.name for part in shape.parts]
        self.n_levels = len(shape.levels)
        self.burn_in = 1
        # what is known of training cells only, kept by the methods below
        self.keeps_inputs = self.weighs_cells = self.keeps_prior = False
        self.evenness: list[float] = []
        self.has_pairs = True  # whether any training cell has several modalities
        p, d = params, params.n_latent
        # module names must be identifiers, a user's modality names need not be
        self.projections = nn.ModuleList(
            Projection(part.width, part.n_components, part.form) for part in shape.parts
        )
        self.encoders = nn.ModuleList(
            Gaussian(part.n_components, p.n_hidden, p.n_layers, d, p.dropout) for part in shape.parts
        )
        self.aligners = nn.ModuleList(self._aligner() for _ in shape.parts)
        self.realigners = nn.ModuleList(self._aligner() for _ in shape.parts)
        self.decoders = nn.ModuleList(
            LinearDecoder(d, part.width, part.likelihood, self.n_levels) for part in shape.parts
        )
        self.critic = Critic(d, p.n_hidden, p.n_layers, len(self.names), p.dropout)
        self.judges = nn.ModuleList(
            Critic(part.width, p.n_hidden, p.n_layers, 2, p.dropout)
            for part in (shape.parts if p.weight_generation else ())
        )
        self.register_buffer("depth", torch.ones(len(self.names)))
        for m, part in enumerate(shape.parts):
            self.register_buffer(f"reference_{m}", torch.zeros(part.n_reference, part.n_components))

    def _aligner(self) -> Gaussian:
        p = self.params
        return Gaussian(p.n_latent, p.n_hidden, p.n_aligner_layers, p.n_latent, p.dropout)

    def keep_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        """Keep the encoders' input of every training cell, `(n_obs, k)` each; not saved."""
        self.keeps_inputs = True
        for m, name in enumerate(self.names):
            self.register_buffer(f"input_{m}", inputs[name].to(self.depth.device), persistent=False)

    def keep_weights(self, codes: Mapping[str, IntArray], own_weights: Mapping[str, FloatArray]) -> None:
        """Keep the weight of every training cell in the critic, `(n_obs,)`; not saved.

        By codes of labels, by the user's own weights, or by both.
        """
        self.weighs_cells = True
        for m, name in enumerate(self.names):
            weight = cell_weights(name, [other for other in self.names if other != name], codes, own_weights)
            self.register_buffer(f"weight_{m}", weight, persistent=False)

    def keep_prior(self, prior: Mapping[Edge, tuple[Tensor, Tensor]], evenness: Sequence[float]) -> None:
        """Keep the prior of every training cell by pair of linked modalities, `(n_obs, k)`; not saved.

        `evenness` says for each pair how evenly its cells share partners.
        """
        self.keeps_prior, self.evenness = bool(prior), list(evenness)
        for e, edge in enumerate(self.shape.edges):
            for side in (0, 1):
                # the module is on its device by now
                values = prior[edge][side].to(self.depth.device)
                self.register_buffer(f"prior_{e}_{side}", values, persistent=False)

    def inputs_of(self, name: str) -> Tensor:
        """Return the encoders' input of every training cell, `(n_obs, k)`."""
        return getattr(self, f"input_{self.names.index(name)}")

    def inputs(self, name: str, x: Tensor | NonZeros) -> Tensor:
        """Return what the encoder of a modality takes, `(B, k)`: components averaged over training cells."""
        return self.averaged(name, self.projection(name)(x))

    def averaged(self, name: str, components: Tensor) -> Tensor:
        """Average components over the nearest training cells, `(B, k)`."""
        reference = self._reference(name)
        return smoothed(components, reference, self.part(name).n_neighbors, self.params.input_smoothing)

    def own_part(self, name: str) -> float:
        """Return the share of the cell itself in such an average."""
        averages = len(self._reference(name)) and self.part(name).n_neighbors
        return 1 - self.params.input_smoothing if averages else 1.0

    def _reference(self, name: str) -> Tensor:
        return getattr(self, f"reference_{self.names.index(name)}")

    def projection(self, name: str) -> Projection:
        """Return the fitted projection of a modality."""
        return cast("Projection", self.projections[self.names.index(name)])

    def encode(self, name: str, inputs: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Posteriors of u and z, each a mean and a standard deviation, `(B, d)`."""
        m = self.names.index(name)
        u = self.encoders[m](inputs)
        mean, sd = self.aligners[m](u[0])
        return u, (self.scaled(mean), sd)

    def scaled(self, z: Tensor) -> Tensor:
        """Scale latents to the length of a draw from N(0, 1), if they are read as directions."""
        if not self.params.unit_latent:
            return z
        return nn.functional.normalize(z, dim=1) * math.sqrt(z.shape[1])

    def see(self, batch: Minibatch) -> Step:
        """Encode a minibatch."""
        if batch.cells is None:
            raise ValueError("cells must be drawn, not rows of each modality")
        seen = {}
        for name in self.names:
            x, positions = batch.values(name), batch.positions[name]
            if not len(positions):
                continue
            if self.training and self.keeps_inputs:
                inputs = self.inputs_of(name)[batch.rows[name]]
            else:
                inputs = self.inputs(name, x)
            codes = batch.codes[self.shape.batch][positions] if self.shape.batch is not None else None
            seen[name] = SeenModality(x, codes, positions, batch.rows[name], *self.encode(name, inputs))
        return Step(batch.step, len(batch.cells), seen)

    def draw(self, gaussian: tuple[Tensor, Tensor]) -> Tensor:
        """Draw while training, else return the mean."""
        mean, sd = gaussian
        return mean + torch.randn_like(mean) * sd if self.training else mean

    def reconstruction(self, step: Step) -> Tensor:
        """Negative log-likelihoods, means over cells and features, summed over modalities."""
        return self._total({name: self._nll(name, s, self.draw(s.u)) for name, s in step.seen.items()})

    def kl(self, step: Step) -> Tensor:
        """KL(u | N(0, 1)) by feature."""
        return self._total(
            {name: self._per_feature(name, normal_kl(s.u).mean()) for name, s in step.seen.items()}
        )

    def joint(self, step: Step) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Average the posteriors of z over a cell's modalities, `(n, d)` each; count these, `(n,)`."""
        first = next(iter(step.seen.values())).z[0]
        mean, sd = (first.new_zeros(step.n, first.shape[1]) for _ in range(2))
        count = first.new_zeros(step.n)
        for s in step.seen.values():
            mean, sd = mean.index_add(0, s.positions, s.z[0]), sd.index_add(0, s.positions, s.z[1])
            count = count.index_add(0, s.positions, torch.ones_like(s.positions, dtype=first.dtype))
        size = count.clamp_min(1).unsqueeze(1)
        return (self.scaled(mean / size), sd / size), count

    def aligned_terms(self, step: Step) -> dict[str, Tensor]:
        """Terms of the second stage beside those of the first."""
        joint, count = self.joint(step)
        source = self._sources(step)
        realigned, kl, pairs = {}, {}, {}
        for name, s in step.seen.items():
            z = s.z[0] if source is None else source[s.positions]
            realigned[name] = self._nll(name, s, self.draw(self.realign(name, z)))
            several = (count[s.positions] > 1).unsqueeze(1)
            middle = torch.where(several, joint[0][s.positions], torch.zeros_like(s.z[0]))
            spread = torch.where(several, joint[1][s.positions], torch.ones_like(s.z[1]))
            kl[name] = self._per_feature(name, normal_kl(s.z, (middle, spread)).mean())
            pairs[name] = ((s.z[0] - middle).square() * several).mean()
        terms = {"realigned": self._total(realigned), "kl_aligned": self._total(kl)}
        if self.params.weight_pairs and self.has_pairs:
            terms["pairs"] = self._total(pairs)
        return terms

    def _sources(self, step: Step) -> Tensor | None:
        """Take for every cell the z of one of its modalities at random, `(n, d)`; None for each its own."""
        if not (self.params.share_pairs and self.training) or len(step.seen) < 2:
            return None
        first = next(iter(step.seen.values())).z[0]
        chosen, best = first.new_zeros(step.n, first.shape[1]), first.new_full((step.n,), -1.0)
        blank, none = torch.zeros_like(chosen), torch.full_like(best, -1.0)
        for s in step.seen.values():
            score = none.index_copy(0, s.positions, torch.rand(len(s.positions), device=first.device))
            wins = (score > best).unsqueeze(1)
            chosen = torch.where(wins, blank.index_copy(0, s.positions, s.z[0]), chosen)
            best = torch.maximum(best, score)
        return chosen

    def prior_term(self, step: Step, *, aligned: bool) -> Tensor | None:
        """Return the distance of latents from the prior of linked modalities; None without prior."""
        terms = []
        for e, (a, b) in enumerate(self.shape.edges):
            if not self.keeps_prior or a not in step.seen or b not in step.seen:
                continue
            first, second = step.seen[a], step.seen[b]
            g_a = getattr(self, f"prior_{e}_0")[first.rows]
            g_b = getattr(self, f"prior_{e}_1")[second.rows]
            pair = (first.z, second.z) if aligned else (first.u, second.u)
            z_a, z_b = self.draw(pair[0]), self.draw(pair[1])
            if self.params.prior == "gram":
                terms.append((g_a @ g_b.T - z_a @ z_b.T).square().sum(1).mean())
            else:
                with torch.no_grad():
                    partners = soft_assignment(
                        g_a, g_b, self.params.anchor_temperature, evenness=self.evenness[e]
                    )
                terms.append(anchor_loss(pair[0][0], pair[1][0], partners, "mean"))
        return torch.stack(terms).sum() if terms else None

    def entropy(self, step: Step, *, detach: bool) -> Tensor:
        """Cross-entropy of the critic, whose input has noise that fades during training."""
        z = torch.cat([s.z[0] for s in step.seen.values()])
        z = z.detach() if detach else z
        scale = noise_scale(step.number, self.burn_in)
        if scale and self.training and len(z) > 1:
            z = z + torch.randn_like(z) * z.detach().std(0) * scale
        source = torch.cat(
            [torch.full_like(s.positions, self.names.index(name)) for name, s in step.seen.items()]
        )
        weight = None
        if self.weighs_cells:
            weight = torch.cat(
                [getattr(self, f"weight_{self.names.index(name)}")[s.rows] for name, s in step.seen.items()]
            )
        by_source = self.params.critic_weights != "cells"
        return source_entropy(self.critic(z), source, weight, by_source=by_source)

    def generation(self, step: Step, *, detach: bool) -> Tensor:
        """Cross-entropy of telling generated from measured values, both as log1p at equal depth."""
        total = []
        for name, s in step.seen.items():
            decoder, x = self.decoder(name), s.x if isinstance(s.x, Tensor) else s.x.dense
            library = self.depth_of(name).expand(len(x))
            parameters = decoder.parameters_at(self.realign(name, s.z[0])[0], s.codes)
            generated = decoder.likelihood.mean(parameters, library)
            if decoder.likelihood.is_counts:
                x = torch.log1p(x * (library / totals(x).clamp_min(1)).unsqueeze(1))
                generated = torch.log1p(generated)
            generated = generated.detach() if detach else generated
            source = torch.arange(2, device=x.device).repeat_interleave(len(x))
            total.append(
                source_entropy(self.judges[self.names.index(name)](torch.cat([generated, x])), source)
            )
        return torch.stack(total).sum()

    def part(self, name: str) -> ModalityPart:
        """Return the part of a modality."""
        return self.shape.parts[self.names.index(name)]

    def decoder(self, name: str) -> LinearDecoder:
        """Return the decoder of a modality."""
        return cast("LinearDecoder", self.decoders[self.names.index(name)])

    def realign(self, name: str, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map the common latent to that of a modality: mean and standard deviation, `(B, d)`."""
        return self.realigners[self.names.index(name)](z)

    def depth_of(self, name: str) -> Tensor:
        """Return the median library size of training."""
        return self.depth[self.names.index(name)]

    def _nll(self, name: str, s: SeenModality, u: Tensor) -> Tensor:
        decoder = self.decoder(name)
        # by feature: as a factor of the sum, it would be another pass over the gradient of every value
        weight = u.new_full((len(u),), 1 / (len(u) * self.part(name).width))
        return decoder.likelihood.loss(s.x, decoder.parameters_at(u, s.codes), weight)

    def _per_feature(self, name: str, value: Tensor) -> Tensor:
        return value / self.part(name).width

    def _total(self, by_name: Mapping[str, Tensor]) -> Tensor:
        weights = self.params.modality_weights
        return torch.stack([weights.get(name, 1.0) * value for name, value in by_name.items()]).sum()


def normal_kl(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """KL(q | p) of Gaussians by mean and standard deviation, summed over dimensions; p is N(0, 1) if None."""
    mean, sd = q
    middle, spread = (torch.zeros_like(mean), torch.ones_like(sd)) if p is None else p
    ratio = sd / spread
    return 0.5 * (((mean - middle) / spread).square() + ratio.square() - 1 - 2 * torch.log(ratio)).sum(-1)
