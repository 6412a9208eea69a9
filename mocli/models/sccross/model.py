"""scCross as a model: prior of common genes, two stages of training; encodes, decodes, draws.

Two modalities' linked features become the scores of common components, averaged over own neighbours where
the bundle says so, of length 1, and one is corrected onto the other. Above `n_metacells` cells, both sides
are k-means centres instead, and a cell moves as its centre does (the authors' recipe for atlases).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from scipy import sparse
from torch import Generator, Tensor
from torch.nn import functional as F

from mocli.data.bundle import Edge, FeatureMatrix, LinkedFeatures, Minibatch, Modality, MultiOmics
from mocli.models.base import Conditions, Losses, Phase, Sampling, Schedule, StepGroup, Traits, Validation
from mocli.models.sccross import TRAITS
from mocli.models.sccross.module import ModalityPart, SccrossModule, Shape, Step
from mocli.models.sccross.params import SccrossParams
from mocli.nn.alignment import found_evenness
from mocli.nn.correction import mnn_correct
from mocli.nn.heads import Decoded, DecodesHeads, likelihood_named
from mocli.nn.likelihoods import nonzeros_of
from mocli.nn.losses import squared_distances
from mocli.nn.neighbors import chunks, drawn_rows, knn, neighbor_mean
from mocli.nn.principal import LEADING, Projection, fit_projection, principal_components, smoothed
from mocli.types import CSR, DoubleArray, FloatArray, IntArray, Json, ModalityKind, NonZeros

SAMPLE, LEAST, MOST = 2000, 0.5, 0.95
"""Cells from which the share of noise is read, and the bounds of what neighbours weigh."""

KMEANS_CELLS = 50_000
"""Cells that metacells are made from."""


def prior_of(
    bundle: MultiOmics, neighbors: Mapping[str, IntArray], params: SccrossParams, *, seed: int
) -> dict[Edge, tuple[Tensor, Tensor]]:
    """Return by edge the prior of both modalities' cells, `(n_obs, k)` each, rows of length 1 or 0.

    `neighbors`: rows to average a cell's linked features over, `(n_obs, k)` by modality; none where it has
    none.
    """
    return {link.edge: _of_edge(link, neighbors, params, seed=seed) for link in bundle.links}


def _of_edge(
    link: LinkedFeatures, neighbors: Mapping[str, IntArray], params: SccrossParams, *, seed: int
) -> tuple[Tensor, Tensor]:
    a, b = link.source_features, link.target_features
    n_linked = a.n_vars
    loadings: DoubleArray = np.eye(n_linked)
    if n_linked > params.n_prior:
        both = (
            np.concatenate([a.values, b.values])
            if isinstance(a.values, np.ndarray) and isinstance(b.values, np.ndarray)
            else sparse.vstack([sparse.csr_matrix(a.values), sparse.csr_matrix(b.values)], format="csr")
        )
        loadings = principal_components(both, params.n_prior, seed=seed).loadings
    first = _scores(a, loadings, neighbors.get(link.source), seed=seed)
    second = _scores(b, loadings, neighbors.get(link.target), seed=seed)
    # the side with more cells holds still
    swap = len(second) > len(first)
    still, moved = (second, first) if swap else (first, second)
    moved = _corrected(still, moved, params, seed=seed)
    return (_unit(moved), _unit(still)) if swap else (_unit(still), _unit(moved))


def _scores(
    side: FeatureMatrix, loadings: DoubleArray, neighbors: IntArray | None, *, seed: int
) -> FloatArray:
    """Return scores of centred features, averaged over own neighbours, of length 1.

    The weight of a cell's neighbours follows from how much of the scores they explain.
    """
    mean = np.asarray(side.values.mean(axis=0), np.float64).ravel()
    scores = np.asarray(side.values @ loadings - mean @ loadings, np.float32)
    if neighbors is not None and neighbors.shape[1]:
        rows = np.sort(
            np.random.default_rng(seed).choice(len(scores), min(len(scores), SAMPLE), replace=False)
        )
        explained = _explained(scores[rows], neighbor_mean(scores, neighbors[rows]))
        weight = np.clip(1 - explained.mean(), LEAST, MOST)
        scores = np.asarray((1 - weight) * scores + weight * neighbor_mean(scores, neighbors), np.float32)
    length = np.sqrt(np.square(scores).sum(1, keepdims=True))
    return np.divide(scores, length, out=np.zeros_like(scores), where=length > 0)


def _explained(values: FloatArray, mean: FloatArray) -> FloatArray:
    """R^2, at least 0, of every column when predicted by the neighbours' mean, `(k,)`."""
    variance = values.var(0)
    residual = np.square(values - mean).mean(0)
    r: FloatArray = np.divide(variance - residual, variance, out=np.zeros_like(variance), where=variance > 0)
    return np.clip(r, 0, 1)


def _corrected(still: FloatArray, moved: FloatArray, params: SccrossParams, *, seed: int) -> FloatArray:
    if max(len(still), len(moved)) <= params.n_metacells:
        return mnn_correct(still, moved, params.n_mutual)
    (centres, _), (moved_centres, of_cell) = (
        _metacells(x, params.n_metacells, seed=seed) for x in (still, moved)
    )
    shift = mnn_correct(centres, moved_centres, params.n_mutual) - moved_centres
    return moved + shift[of_cell]


def _metacells(x: FloatArray, n: int, *, seed: int) -> tuple[FloatArray, IntArray]:
    """Return centres and the nearest centre of every row; where there are few rows, they are the centres."""
    if len(x) <= n:
        return x, np.arange(len(x))
    from sklearn.cluster import MiniBatchKMeans

    some = x
    if len(x) > KMEANS_CELLS:
        some = x[drawn_rows(len(x), KMEANS_CELLS, seed=seed)]
    # from drawn cells and by minibatches: better seeds for so many centres would cost more than all else
    fitted = MiniBatchKMeans(n, init="random", n_init=1, batch_size=4096, max_iter=10, random_state=seed)
    centres = torch.from_numpy(np.asarray(fitted.fit(some).cluster_centers_, np.float32))
    nearest = [
        squared_distances(torch.from_numpy(x[rows]), centres).argmin(1) for rows in chunks(len(x), 4096)
    ]
    return centres.numpy(), torch.cat(nearest).numpy()


def _unit(x: FloatArray) -> Tensor:
    return F.normalize(torch.from_numpy(np.ascontiguousarray(x, np.float32)), dim=1)


FEW_CELLS = 50
"""Below this many cells none is held out."""

MOST_KEPT = 50_000
"""Most training cells kept with a model, over which cells are averaged."""

BLOCK = 2048


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
        built = _build(bundle, params, seed=seed)
        model = cls(built.module, params, seed=seed)
        model._neighbors = built.neighbors
        model.module.has_pairs = bool(((bundle.rows >= 0).sum(1) > 1).any())
        return model

    @classmethod
    def from_spec(cls, spec: Mapping[str, Json], params: Any) -> Self:
        """Rebuild the networks of a saved model."""
        return cls(SccrossModule(Shape.from_spec(spec), params), params)

    def spec(self) -> dict[str, Json]:
        """Modalities with their projections, links, batches."""
        return self.module.shape.spec()

    def look_again(self, bundle: MultiOmics, *, same_cells: bool) -> None:
        """Compute what encoders see of the training cells by the projections that the module has now."""
        module, seen = self.module, {}
        for i, part in enumerate(module.shape.parts):
            features = bundle.modalities[part.name].features
            components = _project(module.projection(part.name), features)
            reference = components[_kept(features.n_obs, self._seed)][: part.n_reference]
            module.register_buffer(f"reference_{i}", reference)
            seen[part.name] = smoothed(components, reference, part.n_neighbors, self.params.input_smoothing)
        module.keep_inputs(seen)

    def phases(self, schedule: Schedule, bundle: MultiOmics) -> list[Phase]:
        """Pretrain each auto-encoder alone, then align them; a single modality is not aligned."""
        p, net = self.params, self.module
        prior = prior_of(bundle, self._neighbors, p, seed=self._seed)
        net.keep_prior(prior, [self._evenness(edge, prior[edge]) for edge in net.shape.edges])
        n_alike = len(np.unique(bundle.patterns()))
        size = p.batch_size * n_alike
        share = p.validation_share if bundle.n_cells >= FEW_CELLS else 0.0
        sampling = Sampling(
            size, independent=False, replacement=False, balance="presence" if n_alike > 1 else None
        )
        first, second = self._steps(schedule, bundle.n_cells, size)
        adam: dict[str, Any] = {"lr": p.lr, "weight_decay": p.weight_decay, "decoupled_decay": True}
        coders = [*net.encoders.parameters(), *net.decoders.parameters()]
        # aligners join from the start where one modality will never be aligned, else they would stay as drawn
        alone = len(net.names) == 1
        if alone:
            coders += [*net.aligners.parameters(), *net.realigners.parameters()]
        every = max(20, min(400, -(-bundle.n_cells // size)))
        watched = {"reconstruction": p.weight_reconstruction, "kl": p.weight_kl}
        pretrain = Phase(
            name="pretrain",
            groups=(StepGroup("pretrain", coders, **adam),),
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
        joined = [*coders, *net.aligners.parameters(), *net.realigners.parameters()]
        critics = [*net.critic.parameters(), *net.judges.parameters()]
        align = Phase(
            name="align",
            groups=(
                StepGroup("critic", critics, repeats=p.critic_steps, **adam),
                StepGroup("generator", joined, **adam),
            ),
            sampling=sampling,
            max_steps=second,
            weight_average=p.weight_average,
            steady_from=net.burn_in,
        )
        return [pretrain, align]

    def _evenness(self, edge: Edge, linked: tuple[Tensor, Tensor]) -> float:
        """Return how evenly the cells of two modalities share partners; those of pairs have one each."""
        if self.params.evenness or self.module.has_pairs or self.params.prior != "anchors":
            return self.params.evenness or 1
        a, b = (self.module.inputs_of(name).cpu() for name in edge)
        return found_evenness((a, b), linked, torch.Generator().manual_seed(self._seed))

    def _steps(self, schedule: Schedule, n_cells: int, size: int) -> tuple[int, int]:
        if schedule.max_steps:
            first = max(1, schedule.max_steps // 3)
            return first, max(1, schedule.max_steps - first)
        return self.params.stages(n_cells, size, schedule.preset)

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
        if prior_weight and (prior_term := net.prior_term(prepared, aligned=aligns)) is not None:
            terms["mnn"], weights["mnn"] = prior_term, prior_weight
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
        """Encode averaged components, `(B, n_latent)`; neighbours stay those before a feature was changed."""
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
        parameters = decoder.parameters_at(net.realign(modality, z)[0], codes)
        library = net.depth_of(modality).expand(len(z)) if library is None else library
        return Decoded(decoder.likelihood, parameters, library)


def _weighted(terms: dict[str, Tensor], weights: Mapping[str, float]) -> Losses:
    return Losses(terms, torch.stack([weights[name] * value for name, value in terms.items()]).sum())


class _Built(NamedTuple):
    """Networks with fresh weights, and the neighbours of every training cell by modality, `(n, k)`."""

    module: SccrossModule
    neighbors: dict[str, IntArray]


def _build(bundle: MultiOmics, params: SccrossParams, *, seed: int) -> _Built:
    """Build for a bundle's modalities; projections are fitted to its cells."""
    fitted: list[Projection] = []
    parts, inputs, references = [], [], []
    for name, m in bundle.modalities.items():
        projection = fit_projection(
            m.features.values,
            _form(m),
            params.n_components,
            seed=seed,
            offset=m.features.offset,
            sets=bundle.sets.get(name),
            n_sets=params.n_set_components,
        )
        components = _project(projection, m.features)
        n = m.n_obs
        rows_kept = _kept(n, seed)
        k = params.n_neighbors or int(np.clip(round(np.sqrt(n)), 10, 100))
        smooths = params.input_smoothing > 0 and n > 2
        references.append(components[rows_kept] if smooths else components[:0])
        inputs.append(components)
        fitted.append(projection)
        parts.append(
            ModalityPart(
                name=name,
                width=m.features.n_vars,
                likelihood=m.likelihood or "normal",
                form=projection.form,
                n_components=components.shape[1],
                n_reference=len(references[-1]),
                n_neighbors=min(k, max(n - 1, 1)),
            )
        )
    batch = bundle.batch
    shape = Shape(
        parts=tuple(parts),
        edges=tuple(link.edge for link in bundle.links),
        batch=None if batch is None else batch.key,
        levels=() if batch is None else tuple(batch.levels),
    )
    module = SccrossModule(shape, params)
    seen = {}
    for i, part in enumerate(parts):
        module.projections[i].load_state_dict(fitted[i].state_dict())
        module.register_buffer(f"reference_{i}", references[i])
        seen[part.name] = smoothed(inputs[i], references[i], part.n_neighbors, params.input_smoothing)
        features = bundle.modalities[part.name].features
        module.depth[i] = features.median_total()
        module.decoder(part.name).start(features)
    module.keep_inputs(seen)
    labels = bundle.labels() if params.critic_weights == "labels" else {}
    if labels or bundle.weights:
        module.keep_weights(labels, bundle.weights)
    neighbors: dict[str, IntArray] = {}
    if params.prior_smoothing and bundle.links:
        neighbors = {part.name: _neighbors(inputs[i], part.n_neighbors) for i, part in enumerate(parts)}
    return _Built(module, neighbors)


def _kept(n: int, seed: int) -> Tensor:
    """Rows of the training cells that are kept with a model."""
    return torch.from_numpy(drawn_rows(n, MOST_KEPT, seed=seed))


def _neighbors(components: Tensor, k: int) -> IntArray:
    """Rows of the nearest other cells of every cell by cosine in the leading components, `(n, k)`."""
    points = components[:, :LEADING].numpy()
    return knn(points, points, k, metric="cosine", exclude_self=True)[1]


def _form(m: Modality) -> str:
    if m.is_counted:
        return {ModalityKind.ATAC: "tfidf", ModalityKind.PROT: "clr"}.get(m.kind, "lognorm")
    return "binary" if likelihood_named(m.likelihood or "normal").is_binary else "identity"


def _project(projection: Projection, features: FeatureMatrix) -> Tensor:
    parts = []
    for start in range(0, features.n_obs, BLOCK):
        x = features.values[start : start + BLOCK]
        if isinstance(x, np.ndarray):
            dense = torch.from_numpy(np.ascontiguousarray(x, np.float32))
            if features.offset is not None:
                dense = dense + torch.from_numpy(features.offset)
            parts.append(projection(dense if features.offset is not None else nonzeros_of(dense)))
        elif features.offset is None:
            parts.append(projection(_nonzeros(x)))
        else:
            # only the map of plain values is linear: the offset passes through it by itself
            constant = torch.from_numpy(features.offset) @ projection.weight
            parts.append(projection(_nonzeros(x)) + constant)
    return torch.cat(parts)


def _nonzeros(x: CSR) -> NonZeros:
    starts = torch.from_numpy(x.indptr.astype(np.int64))
    row = torch.repeat_interleave(torch.arange(x.shape[0]), starts.diff())
    values = torch.from_numpy(x.data.astype(np.float32))
    return NonZeros(values, row, torch.from_numpy(x.indices.astype(np.int64)), starts[:-1], x.shape)
