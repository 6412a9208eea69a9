"""scMODAL as a model: built from a bundle, trained in one phase, encodes and translates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from torch import Generator, Tensor
from torch.nn import functional as F

from mocli.data.bundle import Minibatch, MultiOmics
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
from mocli.models.scmodal.module import ScmodalModule, Step
from mocli.models.scmodal.params import ScmodalParams
from mocli.nn.adversarial import cell_weights
from mocli.nn.alignment.alignment_settings import AlignmentSettings
from mocli.nn.alignment.closed_form import align, draw
from mocli.types import Json, Preset

LANDMARKS = 2500
"""Cells of each modality that are aligned in closed form."""

"""Paper, "Model training details": a fixed number whatever the data."""


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
    ) -> None:
        """Align the cells in closed form; fresh encoders start there, and anchors use this alignment."""
        if self.params.start == "random" or not self.params.n_pcs:
            return
        names = list(self.shape.widths)
        drawn = read({name: draw(bundle.modalities[name].n_obs, LANDMARKS, generator) for name in names})
        numbered = {(names.index(a), names.index(b)): drawn.links[a, b] for a, b in self.shape.edges}
        points = [drawn.x[name] for name in names]
        if not all(
            bool(v.isfinite().all())
            for v in (*points, *(side for pair in numbered.values() for side in pair))
        ):
            return  # the first step tells of it
        alignment = align(points, numbered, AlignmentSettings(), generator)
        self.module.aligned = alignment
        if fresh:
            self.module.begin_at(alignment)

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
                plateau=self._plateau(
                    ends=schedule.preset is Preset.AUTO and not schedule.max_steps,
                ),
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
        hidden: Tensor = self.module.entry(modality)(x)
        return hidden

    def leave(self, modality: str, hidden: Tensor) -> Tensor:
        """`(B, n_hidden)` to `(B, n_latent)`."""
        z = self.module.leave(modality, hidden)
        return F.normalize(z, dim=1) if self.params.unit_latent else z
