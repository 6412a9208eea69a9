"""Data of the size that the step is measured at, and the loop's own step on them."""

from dataclasses import replace

import numpy as np
import torch
from scipy import sparse

from mocli.data.batches import densify
from mocli.data.bundle import FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.models.base import Schedule
from mocli.models.scmodal.model import Scmodal
from mocli.models.scmodal.params import PRESETS, ScmodalParams
from mocli.train.loop import Signals, Training, _Stretch
from mocli.types import ModalityKind, Pairing

WIDTHS = (3000, 40)
DENSITY = 0.07
PAPER = ScmodalParams(**PRESETS["paper"])


def make_bundle(n_links, *, n_cells=5000, widths=WIDTHS, seed=0):
    """Two unpaired modalities: sparse genes and dense proteins, standardised, with links."""
    rng = np.random.default_rng(seed)
    genes, proteins = _sparse(n_cells, widths[0], rng), _dense(n_cells, widths[1], rng)
    link = LinkedFeatures(
        "rna",
        "prot",
        _sparse(n_cells, n_links, rng),
        _dense(n_cells, n_links, rng),
        tuple(map(str, range(n_links))),
    )
    rows = np.full((2 * n_cells, 2), -1)
    rows[:n_cells, 0] = rows[n_cells:, 1] = np.arange(n_cells)
    return MultiOmics(
        modalities={
            "rna": _modality("rna", ModalityKind.RNA, genes),
            "prot": _modality("prot", ModalityKind.PROT, proteins),
        },
        rows=rows,
        obs_names=tuple(map(str, range(2 * n_cells))),
        pairing=Pairing.UNPAIRED,
        links=(link,),
    )


def smoothed(bundle, *, k=71, weight=0.8, seed=0):
    """The bundle with linked features averaged over k cells, as the default asks for 5,000 cells."""
    rng = np.random.default_rng(seed)

    def averaged(features):
        near = rng.integers(features.n_obs, size=(features.n_obs, k))
        return replace(features, neighbors=near, smoothing=weight)

    (link,) = bundle.links
    sides = {s: averaged(getattr(link, s)) for s in ("source_features", "target_features")}
    return replace(bundle, links=(replace(link, **sides),))


def _modality(name, kind, features):
    names = tuple(f"{name}{i}" for i in range(features.n_obs))
    return Modality(name, kind, features, names, np.ones(features.n_obs, np.float32))


def _sparse(n, p, rng):
    """Standardised counts: sparse values and the offset of their zeros."""
    x = sparse.random(n, p, DENSITY, "csr", np.float32, rng, lambda size: 1 + rng.exponential(size=size))
    x = sparse.csr_matrix(x, dtype=np.float32)
    mean = np.asarray(x.mean(0)).ravel()
    std = np.sqrt(np.asarray(x.multiply(x).mean(0)).ravel() - mean**2)
    x.data /= std[x.indices]
    return FeatureMatrix(x, tuple(map(str, range(p))), (-mean / std).astype(np.float32))


def _dense(n, p, rng):
    return FeatureMatrix(rng.normal(size=(n, p)).astype(np.float32), tuple(map(str, range(p))))


def as_dense(features):
    """The whole matrix, as the published package wants it."""
    x = densify(features.values)
    return x if features.offset is None else x + features.offset


def dense_inputs(bundle):
    """Encoder inputs and linked features of both modalities."""
    (link,) = bundle.links
    x = [as_dense(m.features) for m in bundle.modalities.values()]
    return x, [as_dense(link.source_features), as_dense(link.target_features)]


def loop_of(bundle, params=PAPER, *, seed=0):
    """A model and the training loop's stretch, whose `_step(i)` is one step."""
    torch.manual_seed(seed)
    model = Scmodal.from_bundle(bundle, params)
    phase = model.phases(Schedule(max_steps=1000), bundle)[0]
    stretch = _Stretch(model, bundle, phase, Training(torch.device("cpu"), seed=seed), Signals(), 0.0)
    return model, stretch
