"""The closed-form aligner: a soft coupling of cells by their linked features, then linear maps.

The input of a modality is its leading principal components (LSI for peaks), blended with a fifth of the
mean of a cell's neighbours; linked features are standardised and averaged over the same neighbours. The
alignment itself is in `mocli/nn/alignment.py`. Batches of a modality (`--batch-key`) differ
where cells of both are mutual nearest neighbours: linked features lose these differences before they are
compared, and the maps ignore the directions in which batches differ. So a new cell needs no batch, and may
come from a new one. The maps are linear: new cells are placed by one product, and the effect of a changed
feature is exact. Couplings are between at most `n_landmarks` cells of each modality drawn at random, so
that the work does not grow with the square of the cells; inputs are averages over neighbours, so each drawn
cell represents many. Defaults and their evidence: tests/benchmarks/RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from mocli.data.bundle import Edge, Minibatch, MultiOmics
from mocli.errors import UsageError
from mocli.models.base import Losses, Phase, Schedule, Traits, Widths, rebuilt, spec_of
from mocli.models.otcca import TRAITS
from mocli.models.otcca.params import OtccaParams
from mocli.nn.alignment import align, draw
from mocli.nn.alignment_settings import AlignmentSettings
from mocli.nn.correction import level_offsets
from mocli.nn.threads import column_means, one_thread
from mocli.types import Json

MOST_FEATURES = 4000
"""In all modalities together: matrices of them all are decomposed, which takes some ten seconds each."""
MUTUAL = 20
"""Nearest cells of another batch among which mutual neighbours are found."""


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
        return getattr(self, f"weight_{m}")

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

        Raises `UsageError` if there are too many features to decompose the matrix of their products.
        """
        shape = Widths.of(bundle)
        if sum(shape.widths.values()) > MOST_FEATURES:
            raise UsageError(
                f"{TRAITS.name} relates every feature to every other, and there are too many features",
                field="-s n_pcs",
                found=", ".join(f"{width:,} of {name}" for name, width in shape.widths.items()),
                expected=f"at most {MOST_FEATURES:,} in all",
                hint=f"leave out -s n_pcs: then {OtccaParams.n_pcs} components of each modality are used",
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
        """Return no phase: `solve` leaves nothing to learn."""
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
        """Find the maps; return how well they fit: correlations, evenness of partners, agreement of links."""
        p = self.params
        sizes = {name: m.n_obs for name, m in bundle.modalities.items()}
        drawn = read({name: draw(n, p.n_landmarks, generator) for name, n in sizes.items()})
        points = {name: drawn.x[name] for name in self.names}
        linked = {edge: drawn.links[edge] for edge in self.shape.edges}
        for name, codes in self._batches(bundle, drawn).items():
            points[name], linked = _without_batches(name, codes, points[name], linked)
        numbered = {(self.names.index(a), self.names.index(b)): sides for (a, b), sides in linked.items()}
        alignment = align([points[name] for name in self.names], numbered, self._settings(), generator)
        for m, (weight, shift) in enumerate(zip(alignment.maps, alignment.shifts, strict=True)):
            self.module.weight(m).copy_(weight)
            getattr(self.module, f"shift_{m}").copy_(shift)
        self.module.get_buffer("correlations").copy_(alignment.correlations)
        return alignment.figures()

    def _settings(self) -> AlignmentSettings:
        shared = {
            f.name: getattr(self.params, f.name)
            for f in fields(AlignmentSettings)
            if f.name != "n_components"
        }
        return AlignmentSettings(n_components=self.params.n_latent, **shared)

    @staticmethod
    def _batches(bundle: MultiOmics, drawn: Minibatch) -> dict[str, Tensor]:
        """Return the batch of each drawn cell, `(n,)`, of modalities with two batches or more."""
        batches = {}
        for name, rows in drawn.rows.items():
            codes = bundle.codes_of(bundle.batch, name)
            if codes is not None and len(set(codes[codes >= 0].tolist())) > 1:
                batches[name] = torch.from_numpy(codes).to(rows.device)[rows]
        return batches

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
        return self.module(self.names.index(modality), x)

    def leave(self, modality: str, hidden: Tensor) -> Tensor:
        """Make lengths 1."""
        return F.normalize(hidden, dim=1)


def _without_batches(
    name: str, codes: Tensor, x: Tensor, links: Mapping[Edge, tuple[Tensor, Tensor]]
) -> tuple[Tensor, dict[Edge, tuple[Tensor, Tensor]]]:
    """Remove batch differences of a modality: directions of its inputs, offsets of its linked features."""
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
    with one_thread():
        _, spread, directions = torch.linalg.svd(offsets[0], full_matrices=False)
    directions_kept = directions * (spread > 1e-6 * spread.amax().clamp_min(1e-12))[:, None]
    centred = x - column_means(x)
    return x - centred @ directions_kept.T @ directions_kept, corrected


def _moved(values: Tensor, codes: Tensor, offsets: Tensor) -> Tensor:
    has_batch = (codes >= 0)[:, None] & values.any(1, keepdim=True)  # empty cells stay empty
    return values - torch.where(has_batch, offsets[codes.clamp_min(0)], 0.0)
