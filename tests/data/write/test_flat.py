"""An output that ends in .h5ad: all cells in one table, whatever they were measured in."""

from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from mocli.data.files.inputs import open_inputs
from mocli.data.write.write import Added, union_names, update_file, write_file


def adata(cells, features, seed):
    rng = np.random.default_rng(seed)
    x = sp.csr_matrix(rng.poisson(0.6, (len(cells), len(features))).astype(np.float32))
    a = ad.AnnData(x, pd.DataFrame(index=cells), pd.DataFrame(index=features))
    a.obs["total"] = np.asarray(x.sum(axis=1)).ravel()
    a.obs["cell_type"] = pd.Categorical([name[0] for name in cells])
    a.var[f"of_{seed}"] = [f"{f}!" for f in features]
    a.layers["counts"] = a.X.tocsc()
    a.obsm["X_pca"] = rng.normal(size=(len(cells), 2))
    a.obsp["near"] = sp.eye(len(cells), format="csr")
    a.varm["PCs"] = rng.normal(size=(len(features), 2))
    a.uns["said"] = f"by {seed}"
    a.raw = a.copy()
    return a


def measured(added):
    """Say of each cell what was measured, as a run does."""
    holds = {a.file.name: set(a.names) for a in added}
    return ["+".join(m for m, names in holds.items() if cell in names) for cell in union_names(added)]


def write(tmp_path, parts):
    """Write modalities as h5ad inputs, and all of them as one h5ad; return that, and what was said."""
    for name, a in parts.items():
        a.write_h5ad(tmp_path / f"{name}.h5ad")
    files = open_inputs([str(tmp_path / f"{name}.h5ad") for name in parts])
    added = [Added(f, obsm={"X_m": np.full((f.n_obs, 1), i, np.float32)}) for i, f in enumerate(files)]
    n = len(union_names(added))
    said: list[str] = []
    out = tmp_path / "out.h5ad"
    top = np.arange(n, dtype=np.float32)[:, None]
    uns = {"mocli": {"seed": 0}}
    write_file(out, added, obsm={"X_m": top}, merged={"modality": measured(added)}, uns=uns, warn=said.append)
    graph = {"distances": sp.eye(n, format="csr")}
    update_file(out, added, obsm={"X_umap": np.zeros((n, 2))}, obs={"group": ["0"] * n}, obsp=graph)
    assert [p.name for p in tmp_path.glob(".*")] == []
    return ad.read_h5ad(out), said


def test_cells_of_two_modalities_lie_below_each_other(tmp_path):
    rna, prot = adata(["a1", "b1", "b2"], ["CD4", "CD8A"], 1), adata(["a3", "b4"], ["CD4", "CD19", "CD3"], 2)
    out, said = write(tmp_path, {"rna": rna, "prot": prot})
    assert list(out.obs_names) == ["a1", "b1", "b2", "a3", "b4"]
    assert list(out.var_names) == ["rna:CD4", "CD8A", "prot:CD4", "CD19", "CD3"]
    assert list(out.var["modality"]) == ["rna"] * 2 + ["prot"] * 3
    expected = sp.block_diag([rna.X, prot.X]).toarray()
    assert sp.issparse(out.X)
    np.testing.assert_array_equal(out.X.toarray(), expected)
    np.testing.assert_array_equal(out.layers["counts"].toarray(), expected)
    assert list(out.obs["cell_type"]) == ["a", "b", "b", "a", "b"]
    assert list(out.obs["total"]) == [*rna.obs["total"], *prot.obs["total"]]
    np.testing.assert_array_equal(out.obsm["X_pca"], np.vstack([rna.obsm["X_pca"], prot.obsm["X_pca"]]))
    np.testing.assert_array_equal(out.obsm["X_m"].ravel(), np.arange(5))
    np.testing.assert_array_equal(out.varm["PCs"], np.vstack([rna.varm["PCs"], prot.varm["PCs"]]))
    assert {"X_umap", "X_m", "X_pca"} == set(out.obsm)
    assert {"near", "distances"} == set(out.obsp)
    assert out.obs["group"].tolist() == ["0"] * 5
    assert out.uns["mocli"]["seed"] == 0
    # read again, a modality has the cells and the names that it had
    again = open_inputs([str(tmp_path / "out.h5ad")])
    assert [(f.name, list(f.obs.index), list(f.var.index)) for f in again] == [
        ("rna", ["a1", "b1", "b2"], ["CD4", "CD8A"]),
        ("prot", ["a3", "b4"], ["CD4", "CD19", "CD3"]),
    ]
    np.testing.assert_array_equal(again[1].read().toarray(), prot.X.toarray())
    (line,) = [line for line in said if "raw" in line]
    assert line.startswith(f"{tmp_path / 'out.h5ad'}: raw of rna, raw of prot left out of the output")


def test_a_cell_of_two_modalities_has_one_row_with_the_features_of_both(tmp_path):
    rna, prot = adata(["a1", "b1", "b2"], ["g1", "g2"], 1), adata(["b2", "a1"], ["p1"], 2)
    del rna.layers["counts"]
    out, said = write(tmp_path, {"rna": rna, "prot": prot})
    assert list(out.obs_names) == ["a1", "b1", "b2"]
    dense = np.hstack([rna.X.toarray(), prot.X.toarray()[[1, 0, 0]] * [[1], [0], [1]]])
    np.testing.assert_array_equal(out.X.toarray(), dense)
    # what differs between modalities has their names, what does not stays
    assert list(out.obs["cell_type"]) == ["a", "b", "b"]
    np.testing.assert_array_equal(out.obs["rna:total"], rna.obs["total"])
    np.testing.assert_array_equal(
        out.obs["prot:total"], [*prot.obs["total"].iloc[[1]], np.nan, *prot.obs["total"].iloc[[0]]]
    )
    assert "total" not in out.obs
    np.testing.assert_array_equal(out.obsm["X_pca_rna"], rna.obsm["X_pca"])
    np.testing.assert_array_equal(out.obsm["X_pca_prot"][[2, 0]], prot.obsm["X_pca"])
    assert not out.layers
    assert any("layer counts of prot left out of the output: not all modalities have it" in s for s in said)


def test_a_single_modality_is_copied_as_it_is(tmp_path):
    rna = adata(["a1", "b1", "b2"], ["g1", "g2"], 1)
    rna.X = rna.X.toarray()
    out, said = write(tmp_path, {"rna": rna})
    assert isinstance(out.X, np.ndarray)
    np.testing.assert_array_equal(out.X, rna.X)
    np.testing.assert_array_equal(out.raw.X.toarray(), rna.raw.X.toarray())
    assert {"X_umap", "X_m", "X_pca"} == set(out.obsm)
    assert list(out.obs) == ["total", "cell_type", "modality", "group"]
    assert {"near", "distances"} == set(out.obsp)
    assert not said


@pytest.mark.parametrize("suffix", ["h5mu", "h5ad"])
def test_a_modality_of_an_h5mu_that_is_not_integrated_goes_along(tmp_path, suffix):
    parts = {"rna": adata(["a1", "b1"], ["g1"], 1), "prot": adata(["a1", "b1"], ["p1"], 2)}
    with mudata.set_options(pull_on_update=False):
        mudata.MuData(parts).write_h5mu(tmp_path / "in.h5mu")
    (rna, _) = open_inputs([str(tmp_path / "in.h5mu")])
    out = tmp_path / f"out.{suffix}"
    write_file(out, [Added(rna)], obsm={}, uns={})
    if suffix == "h5ad":
        assert list(ad.read_h5ad(out).var_names) == ["g1", "p1"]
    else:
        assert list(mudata.read_h5mu(out).mod) == ["rna", "prot"]
