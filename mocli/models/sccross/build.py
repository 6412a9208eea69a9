"""From a bundle to scCross' networks: fitted projections, kept training cells, decoders at the mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mocli.data.bundle import FeatureMatrix, Modality, MultiOmics
from mocli.models.sccross.module import Part, SccrossModule, Shape
from mocli.models.sccross.params import SccrossParams
from mocli.nn.count_loss import nonzeros_of
from mocli.nn.heads import likelihood_named
from mocli.nn.neighbors import knn
from mocli.nn.projection import LEADING, Projection, fit_projection, smoothed
from mocli.types import ModalityKind, NonZeros

if TYPE_CHECKING:
    from mocli.types import IntArray

MOST_KEPT = 50_000
"""Training cells kept with a model, over which cells are averaged."""

BLOCK = 2048


class Built(NamedTuple):
    """Networks with fresh weights, and by modality the neighbours of every training cell, `(n, k)`."""

    module: SccrossModule
    neighbors: dict[str, IntArray]


def build(bundle: MultiOmics, params: SccrossParams, *, seed: int) -> Built:
    """Build for a bundle's modalities; what does not depend on weights is fitted to its cells."""
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
        kept = _kept(n, seed)
        k = params.n_neighbors or int(np.clip(round(np.sqrt(n)), 10, 100))
        smooths = params.input_smoothing > 0 and n > 2
        references.append(components[kept] if smooths else components[:0])
        inputs.append(components)
        fitted.append(projection)
        parts.append(
            Part(
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
    by_label = params.critic_weights == "labels"
    if by_label or bundle.weights:
        labels = bundle.labels() if by_label else {}
        module.keep_weights(
            {name: torch.from_numpy(codes) for name, codes in labels.items()},
            {name: torch.from_numpy(weight) for name, weight in bundle.weights.items()},
        )
    near: dict[str, IntArray] = {}
    if params.prior_smoothing and bundle.links:
        near = {part.name: _neighbors(inputs[i], part.n_neighbors) for i, part in enumerate(parts)}
    return Built(module, near)


def look_again(module: SccrossModule, bundle: MultiOmics, *, seed: int) -> None:
    """Compute what encoders see of the training cells by the projections that the module has now."""
    seen = {}
    for i, part in enumerate(module.shape.parts):
        features = bundle.modalities[part.name].features
        components = _project(module.projection(part.name), features)
        reference = components[_kept(features.n_obs, seed)][: part.n_reference]
        module.register_buffer(f"reference_{i}", reference)
        seen[part.name] = smoothed(components, reference, part.n_neighbors, module.params.input_smoothing)
    module.keep_inputs(seen)


def _kept(n: int, seed: int) -> Tensor:
    """Rows of the training cells that are kept with a model."""
    if n <= MOST_KEPT:
        return torch.arange(n)
    return torch.from_numpy(np.sort(np.random.default_rng(seed).choice(n, MOST_KEPT, replace=False)))


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


def _nonzeros(x: sparse.csr_matrix) -> NonZeros:
    starts = torch.from_numpy(x.indptr.astype(np.int64))
    row = torch.repeat_interleave(torch.arange(x.shape[0]), starts.diff())
    values = torch.from_numpy(x.data.astype(np.float32))
    return NonZeros(values, row, torch.from_numpy(x.indices.astype(np.int64)), starts[:-1], x.shape)
