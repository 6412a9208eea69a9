"""scMODAL (Wang et al., Nat Commun 16:4994, 2025): networks and losses.

Implemented: Eqs. 1-7 over any list of edges, with the settings of the authors' package (five discriminator
steps, clipping, N(0, 0.1) start, lambda_Geo = 10, pair-mean anchors). Different from the authors' code,
with the same values up to rounding: Gram products instead of B x B x p broadcasts; exact cosine neighbours
instead of approximate trees; the discriminator sees detached latents; no anchors give 0 instead of NaN;
anchors really use the linked features. Different by default (`--preset paper` undoes it), each with its
evidence in tests/benchmarks/RESULTS.md: the input x of cells with few counts is mostly noise, so it is 50
principal components, blended by half with the mean of a cell's neighbours; raw linked features are noisy,
so anchors are searched in features averaged over own neighbours, are balanced soft partners (optimal
transport) instead of mutual neighbours, so that no cell is a hub and none is left out, and weigh 10 instead
of 1; encoders begin at the maps of the closed-form alignment (`mocli/nn/alignment`), whose latent is also
used in the search for anchors; an adversarial game circles around its equilibrium, so a running mean of the
weights is kept; latents are read as directions (length 1), since lengths differ between modalities more
than directions do; networks have half the width, and discriminators two steps instead of five. Symbols: x
input, z latent, E encoder, G decoder, D discriminator, q latent dimensions, k neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.data.bundle import Edge, Minibatch
from mocli.models.scmodal.params import ScmodalParams
from mocli.nn.alignment.closed_form import Alignment
from mocli.nn.layers import MLP, normal_init
from mocli.nn.losses import (
    anchor_loss,
    discriminator_loss,
    gaussian_kernel,
    geometry_loss,
    mutual_neighbors,
)
from mocli.nn.transport import soft_assignment

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
        z: Tensor = self.encoders[self.names.index(name)](x)
        return z

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
        x: Tensor = self.decoders[self.names.index(name)](z)
        return x

    def prepare(self, batch: Minibatch) -> Step:
        """Encode once; find the anchors of every edge in the minibatch."""
        with torch.no_grad():
            anchors = {edge: self.find_anchors(*self._told(batch, edge)) for edge in self.edges}
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

    def find_anchors(self, a: Tensor, b: Tensor) -> Tensor:
        """Weights of pairs of cells, `(B, B)`, from their linked features."""
        if self.params.anchors == "soft":
            return soft_assignment(a, b, self.params.anchor_temperature)
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
