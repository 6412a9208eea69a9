"""scCross as a model: two stages of training; encodes jointly and apart, decodes, draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Generator, Tensor

from mocli.data.bundle import Minibatch, MultiOmics
from mocli.models.base import Conditions, Group, Losses, Phase, Sampling, Schedule, Traits, Validation
from mocli.models.sccross import TRAITS
from mocli.models.sccross.build import build, look_again
from mocli.models.sccross.module import SccrossModule, Shape, Step
from mocli.models.sccross.params import SccrossParams
from mocli.models.sccross.prior import prior_of
from mocli.nn.heads import Decoded, DecodesHeads
from mocli.types import Preset

if TYPE_CHECKING:
    from mocli.types import IntArray, Json

FEW_CELLS = 50
"""Below this many cells none is held out."""

LEAST_STEPS, MOST_STEPS, FAST_STEPS = 1_500, 20_000, 300
PAPER_STEPS = 48_000
"""The authors' bound of each stage: 48 over the learning rate."""


class Sccross(DecodesHeads):
    """Auto-encoders of single modalities, aligned."""

    traits: ClassVar[Traits] = TRAITS

    def __init__(self, module: SccrossModule, params: SccrossParams, *, seed: int = 0) -> None:
        self.module, self.params, self._seed = module, params, seed
        self._neighbors: dict[str, IntArray] = {}

    @classmethod
    def from_bundle(cls, bundle: MultiOmics, params: Any) -> Self:
        """Fit projections and build with fresh weights."""
        seed = torch.initial_seed() % 2**32
        built = build(bundle, params, seed=seed)
        model = cls(built.module, params, seed=seed)
        model._neighbors = built.neighbors
        return model

    @classmethod
    def from_spec(cls, spec: Mapping[str, Json], params: Any) -> Self:
        """Rebuild the networks of a saved model."""
        return cls(SccrossModule(Shape.from_spec(spec), params), params)

    def spec(self) -> dict[str, Json]:
        """Modalities with their projections, links, batches."""
        return self.module.shape.spec()

    def look_again(self, bundle: MultiOmics, *, same_cells: bool) -> None:
        """Project and average the training cells once more."""
        look_again(self.module, bundle, seed=self._seed)

    def phases(self, schedule: Schedule, bundle: MultiOmics) -> list[Phase]:
        """Pretrain auto-encoders apart, then align them; one modality has nothing to be aligned with."""
        p, net = self.params, self.module
        net.keep_prior(prior_of(bundle, self._neighbors, p, seed=self._seed))
        n_alike = len(np.unique(bundle.patterns()))
        size = p.batch_size * n_alike
        share = p.validation_share if bundle.n_cells >= FEW_CELLS else 0.0
        sampling = Sampling(
            size, independent=False, replacement=False, balance="presence" if n_alike > 1 else None
        )
        first, second = self._steps(schedule, bundle.n_cells, size)
        adam: dict[str, Any] = {"lr": p.lr, "weight_decay": p.weight_decay, "decoupled_decay": True}
        own = [*net.encoders.parameters(), *net.decoders.parameters()]
        # aligners join from the start where one modality will never be aligned, else they would stay as drawn
        alone = len(net.names) == 1
        if alone:
            own += [*net.aligners.parameters(), *net.realigners.parameters()]
        every = max(20, min(400, -(-bundle.n_cells // size)))
        watched = {"reconstruction": p.weight_reconstruction, "kl": p.weight_kl}
        pretrain = Phase(
            name="pretrain",
            groups=(Group("pretrain", own, **adam),),
            sampling=sampling,
            max_steps=first + second if alone else first,
            validation=Validation(
                share, every, p.patience, watched, lr_factor=p.lr_factor, lr_patience=p.lr_patience
            )
            if share
            else None,
        )
        if alone:
            return [pretrain]
        net.burn_in = max(1, round(p.noise_share * second))
        joined = [*own, *net.aligners.parameters(), *net.realigners.parameters()]
        critics = [*net.critic.parameters(), *net.judges.parameters()]
        align = Phase(
            name="align",
            groups=(
                Group("critic", critics, repeats=p.critic_steps, **adam),
                Group("generator", joined, **adam),
            ),
            sampling=sampling,
            max_steps=second,
            weight_average=p.weight_average,
        )
        return [pretrain, align]

    def _steps(self, schedule: Schedule, n_cells: int, size: int) -> tuple[int, int]:
        if schedule.max_steps:
            first = max(1, schedule.max_steps // 3)
            return first, max(1, schedule.max_steps - first)
        if schedule.preset is Preset.FAST:
            return FAST_STEPS, FAST_STEPS
        if schedule.preset is Preset.PAPER:
            return PAPER_STEPS, self.params.align_steps
        epochs = self.params.max_epochs * -(-n_cells // size)
        return min(max(epochs, LEAST_STEPS), MOST_STEPS), self.params.align_steps

    def prepare(self, batch: Minibatch) -> Step:
        """Encode once."""
        return self.module.see(batch)

    def losses(self, prepared: Step, group: str) -> Losses:
        """Likelihoods and KL; in the second stage those of the common latent, prior and critic as well."""
        net, p = self.module, self.params
        if group == "critic":
            entropy = net.entropy(prepared, detach=True)
            terms, weights = {"critic": entropy}, {"critic": p.weight_adversarial or 1.0}
            if p.weight_generation:
                terms["judges"] = net.generation(prepared, detach=True)
                weights["judges"] = p.weight_generation
            return _weighted(terms, weights)
        terms = {"reconstruction": net.reconstruction(prepared), "kl": net.kl(prepared)}
        weights = {"reconstruction": p.weight_reconstruction, "kl": p.weight_kl}
        aligns = group == "generator"
        prior_weight = p.weight_prior if aligns else p.weight_prior_pretrain
        if aligns or len(net.names) == 1:
            terms |= net.aligned_terms(prepared)
            weights |= {
                "realigned": p.weight_realigned,
                "kl_aligned": p.weight_kl_aligned,
                "pairs": p.weight_pairs,
            }
        if prior_weight and (found := net.prior_term(prepared, aligned=aligns)) is not None:
            terms["mnn"], weights["mnn"] = found, prior_weight
        if aligns and p.weight_adversarial:
            terms["adversarial"] = -net.entropy(prepared, detach=False)
            weights["adversarial"] = p.weight_adversarial
        if aligns and p.weight_generation:
            terms["generation"] = -net.generation(prepared, detach=False)
            weights["generation"] = p.weight_generation
        return _weighted(terms, weights)

    def encode(self, modality: str, x: Tensor) -> Tensor:
        """Mean of the common latent, `(B, n_latent)`."""
        return self.module.encode(modality, self.module.inputs(modality, x))[1][0]

    def entry_weights(self, modality: str) -> Tensor:
        """Weights of the projection, and the cell's own part of the average, `(n_vars, n_components)`."""
        return self.module.projection(modality).weight * self.module.own_part(modality)

    def entry_values(self, modality: str, values: Tensor, library: Tensor) -> Tensor:
        """Return single values `(n,)` as the projection sees them in cells of a total `(n,)`."""
        return self.module.projection(modality).formed(values, library)

    def enter(self, modality: str, x: Tensor) -> Tensor:
        """Components averaged over training cells, `(B, n_components)`."""
        return self.module.inputs(modality, x)

    def leave(self, modality: str, hidden: Tensor) -> Tensor:
        """Encode averaged components, `(B, n_latent)`: a cell's neighbours stay those before a change."""
        return self.module.encode(modality, hidden)[1][0]

    def encode_cells(self, batch: Minibatch) -> Tensor:
        """Mean over a cell's modalities of the common latent, `(B, n_latent)`."""
        return self.module.joint(self.module.see(batch))[0][0]

    def draw_cells(self, batch: Minibatch, generator: Generator) -> Tensor:
        """Draw around the mean over a cell's modalities, `(B, n_latent)`."""
        mean, sd = self.module.joint(self.module.see(batch))[0]
        # decoders know no other lengths
        return self.module.scaled(mean + torch.randn(mean.shape, generator=generator).to(mean.device) * sd)

    def decoded(
        self, modality: str, z: Tensor, conditions: Conditions | None, library: Tensor | None
    ) -> Decoded:
        """Return the likelihood of a modality; without conditions, the batch is at the mean of batches."""
        net, decoder, key = self.module, self.module.decoder(modality), self.module.shape.batch
        codes = None if conditions is None or key is None else conditions.codes.get(key)
        at = decoder.parameters_at(net.realign(modality, z)[0], codes)
        library = net.depth_of(modality).expand(len(z)) if library is None else library
        return Decoded(decoder.likelihood, at, library)


def _weighted(terms: dict[str, Tensor], weights: Mapping[str, float]) -> Losses:
    return Losses(terms, torch.stack([weights[name] * value for name, value in terms.items()]).sum())
