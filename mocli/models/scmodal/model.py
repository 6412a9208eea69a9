"""scMODAL (Wang et al., Nat Commun 16:4994, 2025): networks, losses, the model.

Implemented: Eqs. 1-7 over any list of edges, with the settings of the authors' package (five discriminator
steps, clipping, N(0, 0.1) start, lambda_Geo = 10, pair-mean anchors). Different from the authors' code, with
the same values up to rounding: Gram products instead of B x B x p broadcasts; exact cosine neighbours
instead of approximate trees; the discriminator sees detached latents; no anchors give 0 instead of NaN;
anchors really use the linked features. Different by default (`--preset paper` undoes it), each with its
evidence in tests/benchmarks/RESULTS.md: the input x of cells with few counts is mostly noise, so it is 50
principal components, blended by half with the mean of a cell's neighbours; raw linked features are noisy, so
anchors are searched in features averaged over own neighbours, are balanced soft partners (optimal transport)
instead of mutual neighbours, so that no cell is a hub and none is left out, and weigh 10 instead of 1;
encoders begin at the maps of the closed-form alignment (`mocli/nn/alignment`), whose latent is also used in
the search for anchors; an adversarial game circles around its equilibrium, so a running mean of the weights
is kept; latents are read as directions (length 1), since lengths differ between modalities more than
directions do; networks have half the width, and discriminators two steps instead of five. Symbols: x input,
z latent, E encoder, G decoder, D discriminator, q latent dimensions, k neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from mocli.data.bundle import Edge, Minibatch, MultiOmics
from mocli.models.base import (
    Losses,
    Phase,
    Plateau,
    Sampling,
    Schedule,
    StepGroup,
    Traits,
    Widths,
    rebuilt,
    spec_of,
)
from mocli.models.scmodal import TRAITS
from mocli.models.scmodal.params import ScmodalParams
from mocli.nn.alignment import Alignment, align, draw, soft_assignment
from mocli.nn.alignment_settings import AlignmentSettings
from mocli.nn.layers import MLP, normal_init
from mocli.nn.losses import (
    anchor_loss,
    cell_weights,
    discriminator_loss,
    gaussian_kernel,
    geometry_loss,
    mutual_neighbors,
)
from mocli.types import Json, Preset

SPREAD, SMALL = 5.0, 0.1
"""Of encoders that begin at a linear map: mean square of a latent dimension, and what the other weights are
multiplied by. With a spread of 1 fewer labels are transferred (tests/benchmarks/RESULTS.md)."""


@dataclass(frozen=True)
class Step:
    """What all groups of one step share: inputs, latents and anchors."""

    x: Mapping[str, Tensor]
    z: Mapping[str, Tensor]
    anchors: Mapping[Edge, Tensor]
    rows: Mapping[str, Tensor] = field(default_factory=dict)


class ScmodalModule(nn.Module):
    """Encoders, decoders and one discriminator per edge."""

    def __init__(self, widths: Mapping[str, int], edges: Sequence[Edge], params: ScmodalParams) -> None:
        super().__init__()
        self.names = list(widths)
        self.edges: list[Edge] = [(a, b) for a, b in edges]
        self.params, self.weighs_cells = params, False
        self.aligned: Alignment | None = None  # known while training only
        h, q = params.n_hidden, params.n_latent
        # module names must be identifiers, a user's modality names need not be
        self.encoders = nn.ModuleList(MLP([p, h, q]) for p in widths.values())
        self.decoders = nn.ModuleList(MLP([q, h, p]) for p in widths.values())
        self.discriminators = nn.ModuleList(MLP([q, h, h, 1]) for _ in self.edges)
        if params.init == "normal":
            normal_init(self, params.init_sd)

    def keep_weights(self, weights: Mapping[Edge, tuple[Tensor, Tensor]]) -> None:
        """Keep the weights of training cells in the discriminators, `(n_obs,)` of both sides; not saved."""
        self.weighs_cells = True
        for e, edge in enumerate(self.edges):
            for side in (0, 1):
                self.register_buffer(f"weight_{e}_{side}", weights[edge][side], persistent=False)

    def begin_at(self, alignment: Alignment) -> None:
        """Let encoders start at linear maps, except for those that are frozen.

        Two hidden units make one component, as ReLU(v) - ReLU(-v); the others start small.
        """
        h, q = self.params.n_hidden, self.params.n_latent
        n = min(q, h // 2, len(alignment.correlations))
        scale = math.sqrt(SPREAD * q / float(alignment.correlations[:n].square().sum().clamp_min(1)))
        for m, encoder in enumerate(cast("list[MLP]", list(self.encoders))):
            if not all(weight.requires_grad for weight in encoder.parameters()):
                continue
            first, last = cast("list[nn.Linear]", list(encoder.layers))
            weight, bias = scale * alignment.maps[m][:, :n].T, -scale * alignment.shifts[m][:n]
            first.weight[: 2 * n] = torch.cat([weight, -weight])
            first.bias[: 2 * n] = torch.cat([bias, -bias])
            last.weight.mul_(SMALL)
            last.bias.mul_(SMALL)
            one = torch.eye(n, device=weight.device)
            last.weight[:n, : 2 * n] = torch.cat([one, -one], dim=1)

    def encode(self, name: str, x: Tensor) -> Tensor:
        """E(x), `(B, q)`."""
        return self.encoders[self.names.index(name)](x)

    def entry(self, name: str) -> nn.Linear:
        """Return the encoder's first layer."""
        return cast("nn.Linear", self._encoder(name).layers[0])

    def leave(self, name: str, hidden: Tensor) -> Tensor:
        """`(B, n_hidden)` before the encoder's first ReLU to `(B, q)`."""
        return self._encoder(name).leave(hidden)

    def _encoder(self, name: str) -> MLP:
        return cast("MLP", self.encoders[self.names.index(name)])

    def decode(self, name: str, z: Tensor) -> Tensor:
        """G(z), `(B, p)`."""
        return self.decoders[self.names.index(name)](z)

    def prepare(self, batch: Minibatch) -> Step:
        """Encode once; find the anchors of every edge in the minibatch."""
        with torch.no_grad():
            anchors = {
                edge: self.find_anchors(*self._told(batch, edge), evenness)
                for edge, evenness in zip(self.edges, self._evenness(), strict=True)
            }
        z = {name: self.encode(name, batch.x[name]) for name in self.names}
        return Step(batch.x, z, anchors, batch.rows)

    def _told(self, batch: Minibatch, edge: Edge) -> tuple[Tensor, Tensor]:
        """Return the features that find anchors: linked features, with the latent of the closed form."""
        alignment = self.aligned
        if alignment is None:
            return batch.links[edge]
        of_links, share = math.sqrt(1 - self.params.start_share), math.sqrt(self.params.start_share)
        sides = []
        for name, links in zip(edge, batch.links[edge], strict=True):
            # a cell without any linked feature stays without anchors
            place = alignment.place(self.names.index(name), batch.x[name]) * links.any(1, keepdim=True)
            sides.append(torch.cat([of_links * F.normalize(links, dim=1), share * place], dim=1))
        return sides[0], sides[1]

    def _evenness(self) -> Sequence[float]:
        """Return how evenly the cells of each edge share partners, as the closed form found it."""
        if self.aligned is None:
            return [self.params.evenness or 1] * len(self.edges)
        return self.aligned.evenness

    def find_anchors(self, a: Tensor, b: Tensor, evenness: float = 1) -> Tensor:
        """Weights of pairs of cells, `(B, B)`, from their linked features."""
        if self.params.anchors == "soft":
            return soft_assignment(a, b, self.params.anchor_temperature, evenness=evenness)
        return mutual_neighbors(a, b, self.params.n_neighbors)

    def critic(self, z: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Tensor:
        """Sum over edges of the discriminators' loss (Eq. 1, negated); rows find the weights of cells."""
        total = torch.zeros((), dtype=z[self.names[0]].dtype, device=z[self.names[0]].device)
        for e, ((a, b), discriminator) in enumerate(zip(self.edges, self.discriminators, strict=True)):
            logits = discriminator(torch.cat([z[a], z[b]]))
            logits = logits.clamp(-self.params.logit_clamp, self.params.logit_clamp)
            weights = None
            if self.weighs_cells:
                weights = (getattr(self, f"weight_{e}_0")[rows[a]], getattr(self, f"weight_{e}_1")[rows[b]])
            first, second = torch.split(logits, [len(z[a]), len(z[b])])
            total = total + discriminator_loss(first, second, weights)
        return total

    def generator_terms(self, step: Step) -> dict[str, Tensor]:
        """Unweighted terms that encoders and decoders minimise (Eqs. 2, 3, 6 and the minimax of 7)."""
        terms: dict[str, list[Tensor]] = {"reconstruction": [], "cycle": [], "mnn": [], "geometry": []}
        cap = self.params.geometry_cap
        for name in self.names:
            x, z = step.x[name], step.z[name]
            # own and visiting latents go through the decoder together: one product instead of several
            visitors = [self._other(edge, name) for edge in self.edges if name in edge]
            decoded = self.decode(name, torch.cat([z, *(step.z[v] for v in visitors)]))
            own_decoded, *visiting = torch.split(decoded, [len(z), *(len(step.z[v]) for v in visitors)])
            terms["reconstruction"].append(F.mse_loss(own_decoded, x))
            for visitor, translated in zip(visitors, visiting, strict=True):
                terms["cycle"].append(F.mse_loss(self.encode(name, translated), step.z[visitor]))
            with torch.no_grad():
                kernel_x = gaussian_kernel(x)
            terms["geometry"].append(geometry_loss(kernel_x, gaussian_kernel(z), cap))
        for a, b in self.edges:
            anchors = step.anchors[a, b]
            terms["mnn"].append(anchor_loss(step.z[a], step.z[b], anchors, self.params.mnn_reduction))
        return {
            "adversarial": -self.critic(step.z, step.rows),
            **{k: torch.stack(v).sum() for k, v in terms.items()},
        }

    @staticmethod
    def _other(edge: Edge, name: str) -> str:
        return edge[1] if edge[0] == name else edge[0]


LANDMARKS = 2500
"""Cells of each modality that are aligned in closed form."""


class Scmodal:
    """Unpaired integration through linked features."""

    traits: ClassVar[Traits] = TRAITS

    def __init__(self, shape: Widths, params: ScmodalParams) -> None:
        self.shape = shape
        self.params = params
        self.module = ScmodalModule(shape.widths, shape.edges, params)

    @classmethod
    def from_bundle(cls, bundle: MultiOmics, params: Any) -> Self:
        """Build with fresh weights for the modalities and edges of a bundle."""
        model = cls(Widths.of(bundle), params)
        labels = bundle.labels() if params.critic_weights == "labels" else {}
        if labels or bundle.weights:
            model.module.keep_weights(
                {
                    (a, b): (
                        cell_weights(a, [b], labels, bundle.weights),
                        cell_weights(b, [a], labels, bundle.weights),
                    )
                    for a, b in model.shape.edges
                }
            )
        return model

    @classmethod
    def from_spec(cls, spec: Mapping[str, Json], params: Any) -> Self:
        """Rebuild the networks of a saved model."""
        return cls(rebuilt(Widths, spec), params)

    def spec(self) -> dict[str, Json]:
        """Input width of every modality, in order, and the edges."""
        return spec_of(self.shape)

    def begin(
        self,
        bundle: MultiOmics,
        read: Callable[[Mapping[str, Tensor]], Minibatch],
        generator: Generator,
        *,
        fresh: bool,
    ) -> dict[str, float]:
        """Align the cells in closed form; fresh encoders start there, and anchors use this alignment."""
        if self.params.start == "random" or not self.params.n_pcs:
            return {}
        names = list(self.shape.widths)
        drawn = read({name: draw(bundle.modalities[name].n_obs, LANDMARKS, generator) for name in names})
        numbered = {(names.index(a), names.index(b)): drawn.links[a, b] for a, b in self.shape.edges}
        points = [drawn.x[name] for name in names]
        if not all(
            bool(v.isfinite().all())
            for v in (*points, *(side for pair in numbered.values() for side in pair))
        ):
            return {}  # the first step tells of it
        alignment = align(points, numbered, AlignmentSettings(evenness=self.params.evenness), generator)
        self.module.aligned = alignment
        if fresh:
            self.module.begin_at(alignment)
        return alignment.figures()

    def phases(self, schedule: Schedule, bundle: MultiOmics) -> list[Phase]:
        """One phase: the discriminators step `critic_steps` times, then encoders and decoders once."""
        p, net = self.params, self.module
        adam: dict[str, Any] = {"lr": p.lr, "betas": (p.beta1, p.beta2), "weight_decay": p.weight_decay}
        groups = (
            StepGroup("critic", list(net.discriminators.parameters()), repeats=p.critic_steps, **adam),
            StepGroup(
                "generator",
                [*net.encoders.parameters(), *net.decoders.parameters()],
                clip_norm=p.clip_norm,
                **adam,
            ),
        )
        return [
            Phase(
                name="align",
                groups=groups,
                sampling=Sampling(batch_size=p.batch_size, independent=True, replacement=True),
                max_steps=schedule.max_steps or p.steps(bundle.n_cells, schedule.preset),
                plateau=self._plateau(ends=schedule.preset is Preset.AUTO and not schedule.max_steps),
                weight_average=p.weight_average,
            )
        ]

    def _plateau(self, *, ends: bool) -> Plateau | None:
        p = self.params
        if not ends and p.lr_factor is None:
            return None
        # the adversarial term says nothing about progress: it hovers around its equilibrium
        terms = ("reconstruction", "cycle", "mnn", "geometry")
        weights = {term: getattr(p, f"weight_{term}") for term in terms}
        return Plateau(
            weights,
            window=150,
            tolerance=0.01,
            min_steps=600,
            lr_factor=p.lr_factor,
            lr_patience=p.lr_patience,
            ends=ends,
        )

    def prepare(self, batch: Minibatch) -> Step:
        """Encode once and find anchors."""
        return self.module.prepare(batch)

    def losses(self, prepared: Step, group: str) -> Losses:
        """Discriminators on detached latents, or the weighted sum of Eq. 7."""
        if group == "critic":
            loss = self.module.critic({k: z.detach() for k, z in prepared.z.items()}, prepared.rows)
            return Losses({"critic": loss}, loss)
        terms = self.module.generator_terms(prepared)
        weighted = [getattr(self.params, f"weight_{name}") * value for name, value in terms.items()]
        total = weighted[0]
        for value in weighted[1:]:
            total = total + value
        return Losses(terms, total)

    def encode(self, modality: str, x: Tensor) -> Tensor:
        """E(x), `(B, n_latent)`, of length 1 if `unit_latent`."""
        return self.leave(modality, self.enter(modality, x))

    def entry_weights(self, modality: str) -> Tensor:
        """Weights of the encoder's first layer, `(n_vars, n_hidden)`."""
        return self.module.entry(modality).weight.T

    def entry_values(self, modality: str, values: Tensor, library: Tensor) -> Tensor:
        """Return the values: encoders take them as they are."""
        return values

    def enter(self, modality: str, x: Tensor) -> Tensor:
        """`(B, n_vars)` to the first layer's output, `(B, n_hidden)`."""
        return self.module.entry(modality)(x)

    def leave(self, modality: str, hidden: Tensor) -> Tensor:
        """`(B, n_hidden)` to `(B, n_latent)`."""
        z = self.module.leave(modality, hidden)
        return F.normalize(z, dim=1) if self.params.unit_latent else z
