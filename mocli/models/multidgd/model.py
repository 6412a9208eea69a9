"""multiDGD as a model: built from a bundle, trained in one phase, decodes, takes in new cells.

Cells start at their principal components, the mixture at k-means of these. The authors start cells at the
origin and means at random, and clusterings differ between runs; a start that follows the data removes most
of this chance and saves many epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Generator, Tensor

from mocli.data.bundle import Minibatch, MultiOmics
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
from mocli.models.multidgd import TRAITS
from mocli.models.multidgd.module import MultiDGDModule, Shape, Step, place, with_new_levels
from mocli.models.multidgd.params import MultiDGDParams
from mocli.nn.heads import Decoded, DecodesHeads
from mocli.nn.kmeans import Partition, kmeans
from mocli.nn.likelihoods import negative_binomial, normal
from mocli.nn.mixture import LEAST_SPREAD
from mocli.nn.neighbors import drawn_rows
from mocli.nn.principal import FIT_CELLS, Measured, joint_components
from mocli.types import Json

FEW_CELLS = 20
"""Below this many cells none is held out."""

CELLS_PER_LABEL = 10
"""Below this mean number of cells, labels do not say how many components there are."""

WATCHED = {
    "joint": {"reconstruction": 1.0, "mixture": 1.0, "covariates": 1.0},
    "reconstruction": {"reconstruction": 1.0},
}


class MultiDGD(DecodesHeads):
    """A decoder, a table of cells and mixtures over their coordinates."""

    traits: ClassVar[Traits] = TRAITS

    def __init__(self, shape: Shape, params: MultiDGDParams) -> None:
        self.shape, self.params = shape, params
        self.module = MultiDGDModule(shape, params)
        self._is_query = False

    @classmethod
    def from_bundle(cls, bundle: MultiOmics, params: Any) -> Self:
        """Build with fresh weights; labels or the data give the number of components if it is not set."""
        seed = int(torch.randint(2**31 - 1, (1,)))
        z = None
        if params.start == "data" or params.n_components is None:
            z = start_places(bundle, params.n_latent, params.radius, seed)
        if params.n_components is None and z is not None:
            labels = 0 if bundle.label is None else len(bundle.label.levels)
            # labels of a few cells each are no cell types
            n_labels = labels if labels * CELLS_PER_LABEL <= bundle.n_cells else 0
            params = replace(params, n_components=n_labels or choose_components(z, seed))
        model = cls(Shape.of(bundle, n_cells=bundle.n_cells), params)
        module = model.module
        for position, m in enumerate(bundle.modalities.values()):
            module.depth[position] = m.features.median_total()
        if bundle.continuous is not None:
            values = torch.from_numpy(bundle.continuous.values)
            module.continuous_mean = values.mean(0)
            module.continuous_sd = values.std(0, correction=0).clamp_min(1e-6)
        with torch.no_grad():
            # coordinates of known levels start at their component
            codes = {c.key: torch.from_numpy(c.codes) for c in bundle.categorical}
            module.cells[:, params.n_latent :] = module.places_at_levels(codes)
            if params.start == "data" and z is not None:
                module.cells[:, : params.n_latent] = z
                start_mixture(module, z, seed)
                start_heads(module, bundle)
        return model

    @classmethod
    def from_spec(cls, spec: Mapping[str, Json], params: Any) -> Self:
        """Rebuild the networks of a saved model."""
        return cls(rebuilt(Shape, spec), params)

    def spec(self) -> dict[str, Json]:
        """Modalities with widths and likelihoods, covariates with levels, number of cells."""
        return spec_of(self.shape)

    def extended(self, bundle: MultiOmics) -> Self:
        """Return a copy with a fresh table of the query's cells, each at the best of the mixture's means.

        A level that is new gets a component, found among random positions, unless `new_levels` is naive;
        a batch may consist of a new level alone. Decoder, mixture and known components stay.
        """
        levels = dict(self.shape.levels)
        if self.params.new_levels == "component":
            levels = {c.key: c.levels for c in bundle.categorical if c.key in levels}
        query = type(self)(replace(self.shape, levels=levels, n_cells=bundle.n_cells), self.params)
        query._is_query = True
        with_new_levels(query.module, self.module, bundle)
        place(query.module, bundle)
        return query

    def look_again(self, bundle: MultiOmics, *, same_cells: bool) -> None:
        """Start cells that are new to the weights at the best of the mixture's means."""
        if not same_cells:
            place(self.module, bundle)

    def phases(self, schedule: Schedule, bundle: MultiOmics) -> list[Phase]:
        """One phase that ends when held-out cells are no longer described better; or one for a query."""
        return [self._query_phase(schedule, bundle) if self._is_query else self._phase(schedule, bundle)]

    def _phase(self, schedule: Schedule, bundle: MultiOmics) -> Phase:
        p, net = self.params, self.module
        share = p.validation_share if bundle.n_cells >= FEW_CELLS else 0.0
        weights = WATCHED[p.stop_on]
        held_out = Validation(share, 1, p.patience, weights).n_held_out(bundle.n_cells) if share else 0
        epoch = p.epoch(bundle.n_cells - held_out)
        steps = p.steps(bundle.n_cells - held_out, schedule.preset)
        return Phase(
            name="fit",
            groups=(
                self._group("decoder", net.decoder_parameters(), p.lr),
                self._cells_group(joins=True),
                self._group("mixture", [*net.mixture.parameters()], p.lr_mixture, joins=True),
                *(
                    [self._group("covariates", [*net.covariates.parameters()], p.lr_covariate, joins=True)]
                    if net.keys
                    else []
                ),
            ),
            sampling=Sampling(p.batch_size, independent=False, replacement=False),
            max_steps=schedule.max_steps or steps,
            validation=Validation(
                share,
                epoch,
                p.patience,
                weights,
                learns="cells",
                lr_factor=p.lr_factor,
                lr_patience=p.lr_patience,
            )
            if share
            else None,
        )

    def _query_phase(self, schedule: Schedule, bundle: MultiOmics) -> Phase:
        p, net = self.params, self.module
        groups = [self._cells_group(joins=False)]
        new = [w for i in range(len(net.keys)) for w in net.covariate(i).parameters() if w.requires_grad]
        if new:
            # without decay, so that components without a gradient stay as they are
            groups.append(self._group("new levels", new, p.lr_mixture, joins=True, decay=0.0))
        steps = p.steps(bundle.n_cells, schedule.preset, query=True)
        sampling = Sampling(p.batch_size, independent=False, replacement=False)
        return Phase("query", tuple(groups), sampling, max_steps=schedule.max_steps or steps)

    def _group(
        self, name: str, parameters: list[Any], lr: float, *, joins: bool = False, decay: float | None = None
    ) -> StepGroup:
        p = self.params
        decay = p.weight_decay if decay is None else decay
        return StepGroup(name, parameters, lr=lr, betas=p.betas, weight_decay=decay, joins=joins)

    def _cells_group(self, *, joins: bool) -> StepGroup:
        group = self._group("cells", [self.module.cells], self.params.lr_cells, joins=joins)
        return replace(group, rows=True, every="epoch" if self.params.cell_steps == "epoch" else "step")

    def prepare(self, batch: Minibatch) -> Step:
        """Look up the coordinates of the cells."""
        return self.module.places(batch)

    def losses(self, prepared: Step, group: str) -> Losses:
        """Negative log-joint of data, coordinates and parameters (Eq. 11): terms a cell, total of all."""
        net, p, n = self.module, self.params, len(prepared.z)
        terms = {"reconstruction": net.reconstruction(prepared), "mixture": net.mixture_loss(prepared)}
        if net.keys:
            terms["covariates"] = net.covariate_loss(prepared)
        total = torch.stack(list(terms.values())).sum()
        terms = {name: value / n for name, value in terms.items()}
        # gradients are averaged over processes, and this is a sum over the cells of all
        total, n = total * prepared.batch.processes, n * prepared.batch.processes
        if net.training:
            terms["prior"] = net.prior_loss()
            total = total + terms["prior"] * {"once": n / self.shape.n_cells, "batch": 1, "cell": n}[p.prior]
            if p.weight_l1 and not self._is_query:
                terms["l1"] = net.l1()
                total = total + p.weight_l1 * terms["l1"]
        return Losses(terms, total)

    def encode_cells(self, batch: Minibatch) -> Tensor:
        """Return the basal coordinates of cells of the table, `(B, n_latent)`."""
        return self.module.places(batch).z

    def covariate_coordinates(self, batch: Minibatch) -> dict[str, Tensor]:
        """Return coordinates of cells of the table in each covariate's space, `(B, n_covariate)` by key."""
        return dict(zip(self.module.keys, self.module.places(batch).c, strict=True))

    def decoded(
        self, modality: str, z: Tensor, conditions: Conditions | None, library: Tensor | None
    ) -> Decoded:
        """Return the likelihood of a modality; covariates stand at their level's component, or the mean."""
        net, branch = self.module, self.module.branch(modality)
        continuous = None if conditions is None else conditions.continuous
        parameters = branch.parameters_at(net.hidden(z, net.at_levels(len(z), conditions), continuous))
        library = net.depth_of(modality).expand(len(z)) if library is None else library
        return Decoded(branch.likelihood, parameters, library)

    def surprise(self, modality: str, columns: Tensor, values: Tensor, mean: Tensor) -> Tensor:
        """Return -log p of values of some features given their means, `(B, k)`."""
        branch = self.module.branch(modality)
        if branch.likelihood.is_counts:
            return -negative_binomial(values, mean, torch.exp(branch.log_dispersion[columns]))
        return -normal(values, mean, branch.log_sd[columns])

    def prior_precision(self, z: Tensor) -> Tensor:
        """Return the mean precision of the components that coordinates may belong to, `(B, d)`."""
        return self.module.mixture.precision(z)

    def clusters(self, z: Tensor) -> Tensor:
        """Return the probability of every component, `(B, K)`."""
        return self.module.mixture.posterior(z)

    def cluster_weights(self) -> Tensor:
        """Return the share of every component, `(K,)`."""
        return self.module.mixture.log_weights.exp()

    def draw_coordinates(self, clusters: Tensor, generator: Generator) -> Tensor:
        """Draw from components `(n,)`, `(n, n_latent)`."""
        return self.module.mixture.draw(clusters, generator)


CANDIDATES = (2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20, 25, 30)
"""Numbers of components to choose from."""

CHOOSE_CELLS = 3_000


def start_places(bundle: MultiOmics, n_latent: int, radius: float, seed: int) -> Tensor:
    """Principal components of all modalities side by side, `(n_cells, n_latent)`, within a ball."""
    modalities = [
        Measured(
            m.features.values,
            np.arange(m.n_obs),
            bundle.cells_of(name),
            m.features.median_total() if m.is_counted else None,
        )
        for name, m in bundle.modalities.items()
    ]
    batch = None if bundle.batch is None else bundle.batch.codes
    z = joint_components(modalities, bundle.n_cells, n_latent, batch=batch, seed=seed)
    reach = float(np.quantile(np.linalg.norm(z, axis=1), 0.99))
    return torch.from_numpy((z * (radius / reach if reach > 0 else 0)).astype(np.float32))


def start_mixture(module: MultiDGDModule, z: Tensor, seed: int) -> None:
    """Put components at the centres of k-means, with the variances and shares found there."""
    mixture = module.mixture
    sample = z[_sample(len(z), FIT_CELLS, seed)]
    generator = torch.Generator().manual_seed(seed)
    partition = kmeans(sample, mixture.n_components, generator=generator, restarts=20)
    prior = torch.full((z.shape[1],), math.exp(-float(mixture.prior_log_precision)), dtype=torch.float64)
    size, variance = _within(sample, partition, prior)
    with torch.no_grad():
        mixture.mean.copy_(partition.centres)
        mixture.log_precision.copy_(-torch.log(variance.clamp_min(LEAST_SPREAD**2)))
        mixture.logit.copy_(torch.log((size + 1.0) / (size + 1.0).mean()))


def choose_components(z: Tensor, seed: int) -> int:
    """Choose how many clusters cells have: the best BIC of k-means with a diagonal Gaussian in each."""
    sample = z[_sample(len(z), CHOOSE_CELLS, seed)]
    n, d = sample.shape
    whole = sample.var(0, correction=0).double() if n else torch.zeros(1)
    if float(whole.max()) == 0:
        return 1
    best, chosen = -math.inf, 1
    for k in (1, *(k for k in CANDIDATES if k <= n // 10)):
        partition = kmeans(sample, k, generator=torch.Generator().manual_seed(seed), restarts=5)
        size, variance = _within(sample, partition, whole.clamp_min(1e-6 * float(whole.max())))
        filled = size > 0
        size, variance = size[filled], variance[filled]
        likelihood = float((size * torch.log(size / n)).sum() - 0.5 * (size @ torch.log(variance)).sum())
        bic = likelihood - 0.5 * k * (2 * d + 1) * math.log(n)
        if bic > best:
            best, chosen = bic, k
    return chosen


def _within(z: Tensor, partition: Partition, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Cell numbers and variances `(K, d)` of clusters; the prior counts as a cell, so that none is 0."""
    size = torch.bincount(partition.nearest, minlength=len(partition.centres)).double()
    off = (z - partition.centres[partition.nearest]).square().double()
    total = torch.zeros(len(size), z.shape[1], dtype=torch.float64).index_add_(0, partition.nearest, off)
    return size, (total + prior) / (size + 1).unsqueeze(1)


def start_heads(module: MultiDGDModule, bundle: MultiOmics) -> None:
    """Set the last bias to the features' means, and the spread of values that are not counts."""
    for m in bundle.modalities.values():
        branch = module.branch(m.name)
        values = m.features.values
        mean = np.asarray(values.mean(axis=0), dtype=np.float64).ravel()
        if branch.likelihood.is_counts:
            total = mean.sum()
            # a feature without counts starts as if it had half a count
            least = 0.5 / max(m.n_obs, 1)
            bias = np.log(np.maximum(mean, least) / max(total, least))
        else:
            bias = mean
            square = values.multiply(values) if not isinstance(values, np.ndarray) else np.square(values)
            variance = np.asarray(square.mean(axis=0), dtype=np.float64).ravel() - mean**2
            with torch.no_grad():
                branch.log_scale.copy_(torch.from_numpy(0.5 * np.log(np.maximum(variance, 1e-4))))
        with torch.no_grad():
            branch.head.bias.copy_(torch.from_numpy(bias))


def _sample(n: int, most: int, seed: int) -> Tensor:
    return torch.from_numpy(drawn_rows(n, most, seed=seed))
