"""A mosaic on planted truth against the same cells measured in both: labels carry over, modalities mix."""

import mudata
import numpy as np
import pytest
from scipy.spatial.distance import cdist

import mocli
from mocli.data.demo import write_demo
from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import evaluate

pytestmark = pytest.mark.slow


def mmd(x, y):
    """Squared maximum mean discrepancy: Gaussian kernels of 1/4 to 4 times the median squared distance."""
    d = cdist(np.concatenate([x, y]), np.concatenate([x, y]), "sqeuclidean")
    k = np.mean([np.exp(-d / (scale * np.median(d))) for scale in (0.25, 0.5, 1, 2, 4)], axis=0)
    n = len(x)
    return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


def test_thirds_with_one_modality_lie_as_in_the_paired_run(tmp_path):
    """By the default model and schedule; seeds differ by more than the two ways, and so their mean counts."""
    write_demo(tmp_path, n_cells=600, seed=0)
    with mudata.set_options(pull_on_update=False):
        whole = mudata.read_h5mu(tmp_path / "multiome.h5mu")
    cells = whole["rna"].obs_names
    part = np.random.default_rng(0).permutation(len(cells)) % 3  # 1 lacks peaks, 2 lacks RNA
    for name, lacks in (("rna", 2), ("atac", 1)):
        whole[name][part != lacks].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    label = whole["rna"].obs["cell_type"].cat.codes.to_numpy().astype(int)
    inputs = {
        "mosaic": [f"{name}={tmp_path / f'{name}.h5ad'}" for name in ("rna", "atac")],
        "paired": [tmp_path / "multiome.h5mu"],
    }
    inputs["without"] = inputs["aligned"] = inputs["mosaic"]
    # of the term that aligns the joint latents of cells measured alike; none: the default
    weight = {"without": 0.0, "aligned": 1000.0}
    mixed, transfer, apart = {name: [] for name in inputs}, [], {name: [] for name in inputs}
    for seed in (0, 1):
        for name, files in inputs.items():
            out = tmp_path / f"{name}.h5mu"
            mocli.integrate(
                files, output=out, model="multigrate", batch_key="batch", seed=seed, metrics="none",
                clusters=None, umap=False, html=False, threads=1, device="cpu", force=True,
                params={"weight_latent": weight[name]} if name in weight else {},
            )  # fmt: skip
            with mudata.set_options(pull_on_update=False):
                found = mudata.read_h5mu(out)
            z = found.obsm["X_multigrate"][found.obs_names.get_indexer(cells)]
            thirds = {f"part{k}": part == k for k in range(3)}
            e = Embedding(
                {k: z[rows] for k, rows in thirds.items()},
                label={k: label[rows] for k, rows in thirds.items()},
                label_levels=tuple("abcdef"),
            )
            values = {
                k: v["value"] for k, v in evaluate(e, ["silhouette_modality", "label_transfer"]).items()
            }
            mixed[name].append(values["silhouette_modality"])
            apart[name].append(mmd(z[part == 1], z[part == 2]))
            if name == "mosaic":
                transfer += [values[f"label_transfer[part{a}->part{b}]"] for a, b in ((1, 2), (2, 1))]
    print(mixed, transfer, apart)
    assert min(transfer) >= 0.9
    assert np.mean(mixed["mosaic"]) > np.mean(mixed["paired"]) - 0.05
    # by default it is weaker
    assert np.sum(apart["aligned"]) <= 0.5 * np.sum(apart["without"])
    assert np.sum(apart["mosaic"]) <= 0.75 * np.sum(apart["without"])
