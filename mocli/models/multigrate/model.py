"""Multigrate as a model: built from a bundle, trained in one phase, encodes jointly and apart, decodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Generator, Tensor

from mocli.data.bundle import FeatureMatrix, Minibatch, MultiOmics
from mocli.models.base import (
    Conditions,
    Losses,
    Phase,
    Sampling,
    Schedule,
    StepGroup,
    Traits,
    Validation,
    rebuilt,
    spec_of,
)
from mocli.models.multigrate import TRAITS
from mocli.models.multigrate.module import MultigrateModule, Shape, Step
from mocli.models.multigrate.networks import anchors, components
from mocli.models.multigrate.params import COMPONENTS, SETTLED, MultigrateParams
from mocli.nn.heads import Decoded, DecodesHeads
from mocli.nn.mixture import product_of_experts
from mocli.types import Json, Pairing, Preset

WIDE, FAST, SLOW = 5_000, 1e-3, 2e-4
"""Learning rates of modalities with few and with very many features."""

FEW_CELLS = 20
"""Below this many cells none is held out."""


class Multigrate(DecodesHeads):
    """Joint integration of cells measured together, in all modalities or in some."""

    traits: ClassVar[Traits] = TRAITS

    def __init__(self, shape: Shape, params: MultigrateParams) -> None:
        self.shape, self.params = shape, params
        self.module = MultigrateModule(shape, params)
        self._warmup = 1
        self._takes_query = False

    @classmethod
    def from_bundle(cls, bundle: MultiOmics, params: Any) -> Self:
        """Build with fresh weights; parameters left to the data are settled by the pairing."""
        settled = SETTLED[params.settled_by, bundle.pairing is not Pairing.PAIRED]
        params = replace(params, **{k: v for k, v in settled.items() if getattr(params, k) is None})
        if params.lr is None:
            # what encoders see by features: components cannot be learnt by heart
            seen = [
                m.features.n_vars
                for m in bundle.modalities.values()
                if not _n_components(m.features, params.encoder_components)
            ]
            params = replace(params, lr=SLOW if max(seen, default=0) > WIDE else FAST)
        shape = Shape.of(
            bundle,
            has_batch=bundle.batch is not None,
            patterns=tuple(np.unique(bundle.patterns()).tolist()),
            components={
                name: n
                for name, m in bundle.modalities.items()
                if (n := _n_components(m.features, params.encoder_components))
            },
        )
        model = cls(shape, params)
        net = model.module
        for position, m in enumerate(bundle.modalities.values()):
            net.depth[position] = m.features.median_total()
            if m.name in shape.components:
                n, seed = shape.components[m.name], torch.initial_seed() % 2**32
                net.project(m.name, *components(m, n, params.encoder_input, seed=seed))
            if params.start == "mean":
                net.decoder(m.name).start(m.features)
        if params.weight_anchor:
            net.keep_anchors(*anchors(bundle, params, seed=torch.initial_seed() % 2**32))
        response = model.module.covariates.response
        if response is not None and bundle.continuous is not None:
            response.fit(torch.from_numpy(bundle.continuous.values))
        return model

    @classmethod
    def from_spec(cls, spec: Mapping[str, Json], params: Any) -> Self:
        """Rebuild the networks of a saved model."""
        return cls(rebuilt(Shape, spec), params)

    def spec(self) -> dict[str, Json]:
        """Modalities with widths and likelihoods, covariates with levels."""
        return spec_of(self.shape)

    def extended(self, bundle: MultiOmics) -> Self:
        """Return a copy with embeddings (and dispersions, if by batch) for the levels that a query brings.

        Nothing else is ever trained in it (Litinetskaya et al., Methods, "Query mapping"). Unlike the
        authors', rows of known levels are fixed as well, new rows start at the mean of the known
        ones, and a query without new levels has nothing to train.
        """
        levels = {codes.key: codes.levels for codes in bundle.categorical}
        added = {key: len(levels[key]) - len(known_levels) for key, known_levels in self.shape.levels.items()}
        model = type(self)(replace(self.shape, levels=levels, added=added), self.params)
        model.module.extend(self.module)
        model._takes_query = True
        return model

    def look_again(self, bundle: MultiOmics, *, same_cells: bool) -> None:
        """Drop anchors: the weights come from other cells, whose components have other directions."""
        self.module.keeps_anchors = self.module.keeps_anchors and same_cells

    def phases(self, schedule: Schedule, bundle: MultiOmics) -> list[Phase]:
        """Return one phase that ends when the loss of held-out cells no longer improves."""
        p = self.params
        if self._takes_query and not self.module.added:
            return []
        watched = self._watched()
        share = p.validation_share if bundle.n_cells >= FEW_CELLS else 0.0
        held_out = Validation(share, 1, p.patience, watched).n_held_out(bundle.n_cells) if share else 0
        n_kept = bundle.n_cells - held_out
        every = p.epoch(n_kept)
        if schedule.preset is not Preset.PAPER:
            every = min(max(every, 40), 400)
        steps = schedule.max_steps or p.steps(n_kept, schedule.preset)
        self._warmup = max(1, round(p.kl_warmup * steps))
        group = StepGroup(
            "all",
            [p for p in self.module.parameters() if p.requires_grad],
            lr=p.lr or FAST,
            weight_decay=p.weight_decay,
            decoupled_decay=True,
        )
        if self._takes_query:
            group = StepGroup("new", self.module.added, lr=p.query_lr, decoupled_decay=True)
        return [
            Phase(
                name="map" if self._takes_query else "join",
                groups=(group,),
                sampling=Sampling(
                    batch_size=p.batch_size,
                    independent=False,
                    replacement=False,
                    balance=None if p.balance == "none" else p.balance,
                ),
                max_steps=steps,
                validation=Validation(
                    share, every, p.patience, watched, lr_factor=p.lr_factor, lr_patience=p.lr_patience
                )
                if share
                else None,
                steady_from=self._warmup - 1,
            )
        ]

    def _watched(self) -> dict[str, float]:
        """Return the loss terms of held-out cells: the authors use the reconstruction only."""
        if self.params.settled_by == "paper":
            return {"reconstruction": 1.0}
        # single modalities that are made alike rise for long before they fall
        return {k: v for k, v in self._weights().items() if k != "marginal_alignment"}

    def _weights(self) -> dict[str, float]:
        p = self.params
        return {
            "reconstruction": p.weight_reconstruction,
            "kl": float(p.weight_kl or 0),
            "latent_alignment": float(p.weight_latent or 0),
            "marginal_alignment": float(p.weight_marginal or 0),
            "anchor": p.weight_anchor,
        }

    def prepare(self, batch: Minibatch) -> Step:
        """Encode the minibatch once."""
        return self.module.posterior(batch)

    def losses(self, prepared: Step, group: str) -> Losses:
        """Reconstruction, KL and alignment; terms of weight 0 are not computed."""
        net, weights = self.module, self._weights()
        z = net.draw(prepared.mean, prepared.log_variance)
        terms = {"reconstruction": net.reconstruction(prepared, z), "kl": net.kl(prepared)}
        if net.keeps_anchors:
            terms["anchor"] = net.anchor(prepared)
        if weights["latent_alignment"]:
            terms["latent_alignment"] = net.latent_alignment(prepared, z)
        if weights["marginal_alignment"]:
            terms["marginal_alignment"] = net.marginal_alignment(prepared)
        weights["kl"] *= min(1.0, (prepared.batch.step + 1) / self._warmup)
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return Losses(terms, total)

    def encode_cells(self, batch: Minibatch) -> Tensor:
        """Mean of the joint posterior, `(B, n_latent)`."""
        return self.module.posterior(batch).mean

    def draw_cells(self, batch: Minibatch, generator: Generator) -> Tensor:
        """Draw from the joint posterior, `(B, n_latent)`."""
        step = self.module.posterior(batch)
        noise = torch.randn(step.mean.shape, generator=generator).to(step.mean.device)
        return step.mean + noise * torch.exp(0.5 * step.log_variance)

    def encode(self, modality: str, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Mean of the posterior of cells that have this modality only, `(B, n_latent)`."""
        return self._alone(*self.module.encode(modality, x, conditions))

    def entry_weights(self, modality: str) -> Tensor:
        """Weights of the encoder's first layer, `(n_vars, n_hidden)`."""
        return self.module.encoder(modality).entry_weights()

    def entry_values(self, modality: str, values: Tensor, library: Tensor) -> Tensor:
        """Return values as the first layer sees them, unless asked otherwise log1p at equal depth."""
        factor = self.module.depth_of(modality).to(values) / library.clamp_min(1)
        likelihood = self.module.decoder(modality).likelihood
        return likelihood.encoder_input(values, self.params.encoder_input, factor)

    def enter(self, modality: str, x: Tensor) -> Tensor:
        """`(B, n_vars)` to the first layer's linear part, `(B, n_hidden)`."""
        return self.module.enter(modality, x)

    def leave(self, modality: str, hidden: Tensor) -> Tensor:
        """`(B, n_hidden)` to `(B, n_latent)`."""
        mean, log_variance = self.module.encoder(modality).leave(hidden)
        return self._alone(mean, log_variance)

    def _alone(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        if self.params.mix == "mixture":
            return mean
        present = torch.ones(1, len(mean), device=mean.device)
        return product_of_experts(mean.unsqueeze(0), log_variance.unsqueeze(0), present)[0]

    def decoded(
        self, modality: str, z: Tensor, conditions: Conditions | None, library: Tensor | None
    ) -> Decoded:
        """Return the likelihood of a modality at latent coordinates, `(B, n_latent)`."""
        net, decoder = self.module, self.module.decoder(modality)
        group = None if conditions is None else net.dispersion_of(conditions)
        library = net.depth_of(modality).expand(len(z)) if library is None else library
        parameters = decoder.parameters_at(z, net.side(len(z), conditions), group)
        return Decoded(decoder.likelihood, parameters, library)


def _n_components(features: FeatureMatrix, n_wanted: int | None) -> int:
    """Return how many components an encoder sees; 0 where there are so few features that it sees them."""
    if n_wanted is None:
        n_wanted = COMPONENTS if features.n_vars > COMPONENTS else 0
    return min(n_wanted, features.n_vars, features.n_obs)
