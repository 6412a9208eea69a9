"""Queries of one modality on the demo's truth, and what alignment adds."""

from typing import TYPE_CHECKING

import mudata
import numpy as np
import pytest

import mocli
from mocli.data.demo import write_demo

if TYPE_CHECKING:
    import anndata as ad


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A mosaic of one batch (a third lacks RNA, a third peaks) as the reference, the other as queries."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=600, seed=0, trimodal=False)
    with mudata.set_options(pull_on_update=False):
        whole = mudata.read_h5mu(folder / "multiome.h5mu")
        batch = whole["rna"].obs["batch"].astype(str)
        query, kept = batch.index[batch == "batch_2"], batch.index[batch == "batch_1"]
        shuffled = np.random.default_rng(0).permutation(len(kept))
        third = len(kept) // 3
        lacks = {"atac": set(kept[shuffled[:third]]), "rna": set(kept[shuffled[third : 2 * third]])}
        for name, without in lacks.items():
            data: ad.AnnData = whole[name]
            data[[c for c in kept if c not in without]].copy().write_h5ad(folder / f"reference-{name}.h5ad")
            data[query].copy().write_h5ad(folder / f"query-{name}.h5ad")
    return folder


def labels_right(folder, name, **params):
    """Share of the queries' cells that get their label, by modality and way."""
    shared = {"device": "cpu", "threads": 1, "html": False, "force": True, "batch_key": "batch"}
    mocli.integrate(
        [f"{m}={folder / f'reference-{m}.h5ad'}" for m in ("rna", "atac")],
        output=folder / f"{name}.h5mu",
        model="multigrate",
        label_key="cell_type",
        params=params,
        **shared,
    )
    found = {}
    for m in ("rna", "atac"):
        report = mocli.integrate(
            f"{m}={folder / f'query-{m}.h5ad'}",
            output=folder / f"{name}-{m}.h5mu",
            reference=folder / f"{name}.model",
            transfer_labels="cell_type",
            label_key="cell_type",
            **shared,
        ).report["metrics"]
        found[m] = report[f"query_label_accuracy[cell_type->{m}, k-NN]"]["value"]
        # among the joint places, which rest on more than the query has
        found[f"{m} among joint places"] = report["label_transfer_knn[reference->query]"]["value"]
    return found


@pytest.mark.slow
def test_queries_of_one_modality_get_their_labels(demo):
    found = labels_right(demo, "default")
    assert found["rna"] >= 0.85
    assert found["atac"] >= 0.75
