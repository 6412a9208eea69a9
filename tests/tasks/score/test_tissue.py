"""Pictures beside the UMAP: cells in the tissue, clusters of modalities against each other."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from mocli.data.bundle import Codes, FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.data.files.inputs import open_inputs
from mocli.report import scatter
from mocli.tasks.score.picture import cluster_correlations, draw_correlations, draw_tissue, tissue_coordinates
from mocli.types import ModalityKind, Pairing


class Found:
    def of_modality(self, modality):
        return {
            "cluster": np.array(["a", "b", "a"], dtype=object),
            "confidence": np.array([0.1, np.nan, 1.0]),
        }


@pytest.fixture
def spatial(tmp_path):
    cells = ad.AnnData(np.ones((3, 2), "f4"), obs=pd.DataFrame(index=["x", "y", "z"]))
    cells.obsm["spatial"] = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 9.0]])
    cells.write_h5ad(tmp_path / "prot.h5ad")
    return open_inputs([f"prot={tmp_path / 'prot.h5ad'}"])


def test_cells_are_drawn_where_the_file_has_them(spatial):
    np.testing.assert_array_equal(tissue_coordinates(spatial[0]), [[0, -1], [2, -3], [4, -9]])
    drawn = draw_tissue(spatial, [Found()], pytest.fail)
    assert [d.title for d in drawn] == ["prot in the tissue, by cluster", "prot in the tissue, by confidence"]


def test_without_coordinates_nothing_is_drawn(tmp_path):
    ad.AnnData(np.ones((3, 2), "f4"), obs=pd.DataFrame(index=list("xyz"))).write_h5ad(tmp_path / "rna.h5ad")
    assert draw_tissue(open_inputs([f"rna={tmp_path / 'rna.h5ad'}"]), [Found()], pytest.fail) == []


def test_coordinates_that_cannot_be_read_cost_the_picture_and_not_the_run(tmp_path):
    cells = ad.AnnData(np.ones((3, 2), "f4"), obs=pd.DataFrame(index=["x", "y", "z"]))
    cells.obsm["spatial"] = np.array([["a", "b"]] * 3, dtype=object)
    cells.write_h5ad(tmp_path / "rna.h5ad")
    warned = []
    assert draw_tissue(open_inputs([f"rna={tmp_path / 'rna.h5ad'}"]), [Found()], warned.append) == []
    assert warned == [
        "cells of rna are not drawn in the tissue: the matrix in obsm does not hold numbers (obsm['spatial'])"
    ]


def test_numbers_of_cells_have_a_scale():
    xy = np.random.default_rng(0).normal(size=(30, 2)).astype("f4")
    values = np.where(np.arange(30) < 5, np.nan, np.arange(30.0))
    picture = scatter.by_value(xy, values, "depth")
    assert picture.startswith("<svg")
    assert scatter.by_value(xy, np.full(30, np.nan), "none").startswith("<svg")


def test_clusters_of_modalities_are_correlated_over_linked_features():
    """As by numpy, cluster by cluster; a cluster of fewer than five cells in a modality is left out."""
    rng, names, n = np.random.default_rng(0), tuple("abcdef"), 40
    codes = np.concatenate([np.arange(n) % 3, np.arange(n) % 4])
    sides = [rng.normal(size=(n, len(names))).astype(np.float32) for _ in range(2)]
    codes[n : n + 6] = 3
    codes[(np.arange(2 * n) < n) & (codes == 2)] = np.r_[2, 2, 2, np.zeros(10, int)]
    profile = FeatureMatrix(np.zeros((n, 2), np.float32), ("p", "q"))
    rows = np.full((2 * n, 2), -1)
    rows[:n, 0], rows[n:, 1] = np.arange(n), np.arange(n)
    bundle = MultiOmics(
        {
            m: Modality(m, ModalityKind.RNA, profile, tuple(f"{m}{i}" for i in range(n)), np.ones(n))
            for m in ("rna", "prot")
        },
        rows,
        tuple(f"c{i}" for i in range(2 * n)),
        Pairing.UNPAIRED,
        (LinkedFeatures("rna", "prot", *(FeatureMatrix(x, names) for x in sides), names),),
    )
    clusters = Codes("cluster", codes, tuple("wxyz"))
    r, rows_of, columns_of = cluster_correlations(bundle, clusters)["rna", "prot"]
    assert (rows_of, columns_of) == (["w", "x"], ["w", "x", "y", "z"])
    means = []
    for x, of in zip(sides, (codes[:n], codes[n:]), strict=True):
        mean = np.stack([x[of == k].mean(0) for k in range(4) if (of == k).sum() >= 5])
        means.append(mean - mean.mean(0))
    wanted = [[np.corrcoef(a, b)[0, 1] for b in means[1]] for a in means[0]]
    np.testing.assert_allclose(r, wanted, atol=1e-5)
    (drawn,) = draw_correlations(bundle, clusters)
    assert drawn.title == "Clusters of rna against clusters of prot"
