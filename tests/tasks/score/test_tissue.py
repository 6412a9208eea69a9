"""Pictures beside the UMAP: cells in the tissue, clusters of modalities against each other."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from mocli.data.files.inputs import open_inputs
from mocli.report import scatter
from mocli.tasks.score.picture import draw_tissue, tissue_coordinates


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
