"""The closed-form aligner: a soft coupling of cells by their linked features, then linear maps.

Implemented, for any list of edges between modalities:
(1) every modality is its leading principal components (LSI of peaks), a fifth of them the mean of
    own neighbours; linked features are standardised and averaged over the same neighbours;
(2) cost of two cells: 1 - cosine of linked features, that of cells near the mean damped, over its standard
    deviation;
(3) entropic optimal transport gives a soft coupling P, in which every cell has the same weight;
(4) canonical correlation with P in place of pairs, components scaled by their correlations, rows to
    length 1 (`mocli/nn/transport.py`, `mocli/nn/canonical.py`);
(5) once more with a cost that is partly that of the latent coordinates.
Links are weighed before: in five folds, cells are coupled by four fifths of the linked features, and the
agreement of coupled cells on the held-out fifth is its weight. So links that do not hold in these data
lose their say, without any pair or label.
Batches of a modality (`--batch-key`) differ where cells of both are mutual nearest neighbours: linked
features lose these differences before they are compared, and the maps see nothing of the directions in
which batches differ. So a new cell needs no batch, and may be of a new one.
The maps are linear: new cells are placed by one product, and what a change of a feature does is exact.
Couplings are between at most `n_landmarks` cells of each modality drawn at random, so that the work does
not grow with the square of the cells; inputs are averages over neighbours, so each stands for many.
Defaults and their evidence: tests/benchmarks/RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from mocli.data.bundle import Edge, Minibatch, MultiOmics
from mocli.errors import UsageError
from mocli.models.base import Losses, Phase, Schedule, Traits, Widths, rebuilt, spec_of
from mocli.models.otcca import TRAITS
from mocli.models.otcca.params import OtccaParams
from mocli.nn.canonical import canonical_maps, column_correlations
from mocli.nn.correction import level_offsets
from mocli.nn.transport import cosine_cost, couple
from mocli.types import Json

MOST_FEATURES = 4000
"""In all modalities together: matrices of them all are decomposed, which takes some ten seconds each."""
FOLDS = 5
WEIGHED_ON = 1000
"""Cells of each modality among which links are weighed."""
MUTUAL = 20
"""Nearest cells of another batch among which mutual neighbours are found."""
SHARP, FEW = 0.1, 20
"""Temperature and iterations of the coupling in which held-out links are compared."""


class OtccaModule(nn.Module):
    """A linear map of every modality; the weights are found at once, not learned."""

    def __init__(self, widths: Mapping[str, int], n_components: int) -> None:
        super().__init__()
        for m, width in enumerate(widths.values()):
            self.register_buffer(f"weight_{m}", torch.zeros(width, n_components))
            self.register_buffer(f"shift_{m}", torch.zeros(n_components))
        self.register_buffer("correlations", torch.zeros(n_components))

    def weight(self, m: int) -> Tensor:
        """`(n_vars, k)` of the modality of that number."""
        found: Tensor = getattr(self, f"weight_{m}")
        return found

    def forward(self, m: int, x: Tensor) -> Tensor:
        """`(B, n_vars)` to `(B, k)`."""
        shift: Tensor = getattr(self, f"shift_{m}")
        return x @ self.weight(m) - shift


class Otcca:
    """Unpaired integration through linked features, in closed form."""

    traits: ClassVar[Traits] = TRAITS

    def __init__(self, shape: Widths, params: OtccaParams) -> None:
        self.shape = shape
        self.names = list(shape.widths)
        self.params = params
        self.module = OtccaModule(shape.widths, min(params.n_latent, *shape.widths.values()))

    @classmethod
    def from_bundle(cls, bundle: MultiOmics, params: Any) -> Self:
        """Build with maps of zeros for the modalities and edges of a bundle.

        Raises
        ------
        UsageError
            There are more features than products of all with all can be decomposed of.
        """
        shape = Widths.of(bundle)
        if sum(shape.widths.values()) > MOST_FEATURES:
            raise UsageError(
                f"{TRAITS.name} relates every feature to every other, and these are too many",
                field="-s n_pcs",
                found=", ".join(f"{width:,} of {name}" for name, width in shape.widths.items()),
                expected=f"at most {MOST_FEATURES:,} in all",
                hint=f"leave -s n_pcs out: then they are {OtccaParams.n_pcs} components of each modality",
            )
        return cls(shape, params)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Json], params: Any) -> Self:
        """Rebuild the maps of a saved model."""
        return cls(rebuilt(Widths, spec), params)

    def spec(self) -> dict[str, Json]:
        """Input width of every modality, in order, and the edges."""
        return spec_of(self.shape)

    def phases(self, schedule: Schedule, bundle: MultiOmics) -> list[Phase]:
        """None: `solve` leaves nothing to learn."""
        return []

    def prepare(self, batch: Minibatch) -> Minibatch:
        """Return the minibatch."""
        return batch

    def losses(self, prepared: Minibatch, group: str) -> Losses:
        """There is no loss, because there is no phase."""
        return Losses({}, torch.zeros(()))

    def solve(
        self, bundle: MultiOmics, read: Callable[[Mapping[str, Tensor]], Minibatch], generator: Generator
    ) -> dict[str, float]:
        """Find the maps, and say how well they hold: mean and largest correlation, agreement of links."""
        p = self.params
        sizes = {name: m.n_obs for name, m in bundle.modalities.items()}
        drawn = read({name: _draw(n, p.n_landmarks, generator) for name, n in sizes.items()})
        points = {name: drawn.x[name] for name in self.names}
        linked = {edge: drawn.links[edge] for edge in self.shape.edges}
        for name, codes in self._batches(bundle, drawn).items():
            points[name], linked = _without_batches(name, codes, points[name], linked)
        drawn = replace(drawn, x=points, links=linked)
        links, agreement = {}, []
        for edge in self.shape.edges:
            a, b = linked[edge]
            if p.weigh_links:
                found = self._agreement(edge, drawn, generator)
                agreement.append(float(found.mean()))
                weight = (p.least_link_weight + found.clamp_min(0)).sqrt()
                a, b = a * weight, b * weight
            links[self._numbered(edge)] = (a, b)
        costs = {edge: cosine_cost(a, b, damping=p.damping) for edge, (a, b) in links.items()}
        usable = {edge: (a.any(1), b.any(1)) for edge, (a, b) in links.items()}
        x = [points[name] for name in self.names]
        maps, shifts, correlations = self._fit(x, costs, usable)
        for _ in range(p.n_rounds - 1):
            z = [F.normalize(v @ w - s, dim=1) for v, w, s in zip(x, maps, shifts, strict=True)]
            mixed = {
                (a, b): torch.lerp(cost, cosine_cost(z[a], z[b]), p.latent_weight)
                for (a, b), cost in costs.items()
            }
            maps, shifts, correlations = self._fit(x, mixed, usable)
        for m, (weight, shift) in enumerate(zip(maps, shifts, strict=True)):
            self.module.weight(m).copy_(weight)
            getattr(self.module, f"shift_{m}").copy_(shift)
        self.module.get_buffer("correlations").copy_(correlations)
        figures = {"correlation": float(correlations.mean()), "first_correlation": float(correlations[0])}
        if agreement:
            figures["link_agreement"] = sum(agreement) / len(agreement)
        return figures

    @staticmethod
    def _batches(bundle: MultiOmics, drawn: Minibatch) -> dict[str, Tensor]:
        """Return the batch of each drawn cell, `(n,)`, of modalities with two batches or more."""
        found = {}
        for name, rows in drawn.rows.items():
            codes = bundle.codes_of(bundle.batch, name)
            if codes is not None and len(set(codes[codes >= 0].tolist())) > 1:
                found[name] = torch.from_numpy(codes).to(rows.device)[rows]
        return found

    def _fit(
        self,
        points: list[Tensor],
        costs: Mapping[tuple[int, int], Tensor],
        usable: Mapping[tuple[int, int], tuple[Tensor, Tensor]],
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        plans = {edge: self._couple(cost, *usable[edge]) for edge, cost in costs.items()}
        return canonical_maps(
            points, plans, self.module.get_buffer("correlations").numel(), self.params.ridge
        )

    def _couple(self, cost: Tensor, usable_a: Tensor, usable_b: Tensor) -> Tensor:
        p = self.params
        return couple(
            cost, usable_a, usable_b, temperature=p.temperature, n_iter=p.n_iter, unmatched=p.unmatched
        )

    def _agreement(self, edge: Edge, drawn: Minibatch, generator: Generator) -> Tensor:
        """Correlation of each linked feature with its mean over cells coupled by other links, `(n_links,)`.

        The mean of both directions; held-out links are compared in a coupling of latent coordinates.
        """
        sides = [_draw(len(drawn.x[name]), WEIGHED_ON, generator).to(drawn.x[name].device) for name in edge]
        points = [drawn.x[name][rows] for name, rows in zip(edge, sides, strict=True)]
        a, b = (link[rows] for link, rows in zip(drawn.links[edge], sides, strict=True))
        n, k = a.shape[1], self.module.get_buffer("correlations").numel()
        if n < 2:
            return a.new_ones(n)  # a single link has no other to be held against
        found = a.new_zeros(n)
        for held in range(min(FOLDS, n)):
            out = slice(held, None, FOLDS)
            kept = [j for j in range(n) if j % FOLDS != held]
            usable = (a[:, kept].any(1), b[:, kept].any(1))
            cost = cosine_cost(a[:, kept], b[:, kept], damping=self.params.damping)
            plan = self._couple(cost, *usable)
            maps, shifts, _ = canonical_maps(points, {(0, 1): plan}, k, self.params.ridge)
            z = [F.normalize(x @ w - s, dim=1) for x, w, s in zip(points, maps, shifts, strict=True)]
            near = couple(cosine_cost(*z), *usable, temperature=SHARP, n_iter=FEW)
            there = near @ b[:, out] / near.sum(1, keepdim=True).clamp_min(1e-12)
            back = near.T @ a[:, out] / near.sum(0)[:, None].clamp_min(1e-12)
            found[out] = (column_correlations(a[:, out], there) + column_correlations(b[:, out], back)) / 2
        return found

    def _numbered(self, edge: Edge) -> tuple[int, int]:
        return self.names.index(edge[0]), self.names.index(edge[1])

    def encode(self, modality: str, x: Tensor) -> Tensor:
        """`(B, n_vars)` to `(B, k)`, rows of length 1."""
        return self.leave(modality, self.enter(modality, x))

    def entry_weights(self, modality: str) -> Tensor:
        """Return the map itself, `(n_vars, k)`."""
        return self.module.weight(self.names.index(modality))

    def entry_values(self, modality: str, values: Tensor, library: Tensor) -> Tensor:
        """Return the values: the map takes them as they are."""
        return values

    def enter(self, modality: str, x: Tensor) -> Tensor:
        """`(B, n_vars)` to `(B, k)`, before lengths are made 1."""
        found: Tensor = self.module(self.names.index(modality), x)
        return found

    def leave(self, modality: str, hidden: Tensor) -> Tensor:
        """Make lengths 1."""
        return F.normalize(hidden, dim=1)


def _without_batches(
    name: str, codes: Tensor, x: Tensor, links: Mapping[Edge, tuple[Tensor, Tensor]]
) -> tuple[Tensor, dict[Edge, tuple[Tensor, Tensor]]]:
    """Take off how batches of a modality differ: directions of its inputs, offsets of its linked features."""
    sides = [(edge, edge.index(name)) for edge in links if name in edge]
    moved, offsets = x, [x]
    for _ in range(2):
        # offsets found once bring more cells of one kind together, whose pairs are truer
        offsets = level_offsets(moved, codes, [x, *(links[edge][side] for edge, side in sides)], MUTUAL)
        moved = _moved(x, codes, offsets[0])
    corrected = dict(links)
    for (edge, side), offset in zip(sides, offsets[1:], strict=True):
        pair = list(corrected[edge])
        pair[side] = _moved(pair[side], codes, offset)
        corrected[edge] = (pair[0], pair[1])
    _, spread, directions = torch.linalg.svd(offsets[0], full_matrices=False)
    kept = directions * (spread > 1e-6 * spread.amax().clamp_min(1e-12))[:, None]
    centred = x - x.mean(0)
    return x - centred @ kept.T @ kept, corrected


def _moved(values: Tensor, codes: Tensor, offsets: Tensor) -> Tensor:
    known = (codes >= 0)[:, None] & values.any(1, keepdim=True)  # empty cells stay empty
    return values - torch.where(known, offsets[codes.clamp_min(0)], 0.0)


def _draw(n: int, most: int, generator: Generator) -> Tensor:
    """Return row numbers in order, all or `most` drawn at random, on the host."""
    return torch.arange(n) if n <= most else torch.randperm(n, generator=generator)[:most].sort().values
