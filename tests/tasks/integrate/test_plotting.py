"""Outputs are where people plot: labels, pictures and graphs by the names that scanpy looks for."""

import mudata
import numpy as np
import pytest
import scanpy as sc

import mocli
from mocli.tasks.integrate.write import neighbor_graph


@pytest.fixture
def output(paired, tmp_path, small, read, monkeypatch):
    """A small integration of paired cells; UMAP, which takes long, is replaced by two coordinates."""
    import mocli.tasks.integrate.write as plotting

    monkeypatch.setattr(plotting, "layout", lambda z, seed, device: z[:, :2].astype(np.float32))
    mocli.integrate(
        paired / "data.h5mu", output=tmp_path / "o.h5mu", model="multigrate", label_key="cell_type",
        max_steps=4, umap=True, metrics="none", html=False, threads=1, device="cpu",
        params={k: v for k, v in small.items() if k != "n_neighbors"}, hvg={"rna": 20},
    )  # fmt: skip
    return read(tmp_path / "o.h5mu")


def test_labels_and_what_was_measured_stand_on_top_and_in_each_modality(output):
    for part in (output, *output.mod.values()):
        assert set(part.obs["modality"]) == {"rna+prot"}
        assert part.obs["cell_type"].notna().all()
    assert output.obs["cell_type"].astype(str).equals(output["rna"].obs["cell_type"].astype(str))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_pictures_and_graph_are_found_by_scanpy(output):
    assert output["rna"].obsm["X_umap"].shape == (output["rna"].n_obs, 2)
    np.testing.assert_array_equal(output["rna"].obsm["X_umap"], output.obsm["X_umap"])
    assert output.obsp["connectivities"].shape == (output.n_obs, output.n_obs)
    about = output.uns["neighbors"]
    assert (about["connectivities_key"], about["params"]["use_rep"]) == ("connectivities", "X_multigrate")
    cells = output["rna"].copy()
    cells.obsp["connectivities"] = output.obsp["connectivities"]
    cells.uns["neighbors"] = about
    sc.tl.diffmap(cells, n_comps=3)  # a tool that takes the graph as it is
    assert cells.obsm["X_diffmap"].shape == (cells.n_obs, 3)
    sc.pl.umap(output["rna"], color="cell_type", show=False)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("apart", [False, True])
def test_one_table_of_all_cells_is_drawn_by_scanpy(run, paired, unpaired, tmp_path, monkeypatch, apart):
    import anndata as ad

    import mocli.tasks.integrate.write as plotting

    monkeypatch.setattr(plotting, "layout", lambda z, seed, device: z[:, :2].astype(np.float32))
    inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"] if apart else paired / "data.h5mu"
    links, model = (unpaired if apart else paired) / "links.tsv", "scmodal" if apart else "sccross"
    out = tmp_path / "o.h5ad"
    quick = {"max_steps": 2, "metrics": "none"}
    run(inputs, links=links, model=model, output=out, label_key="cell_type", umap=True, **quick)
    cells = ad.read_h5ad(out)
    assert cells.shape == ((130, 62) if apart else (60, 50))
    assert set(cells.obs["modality"]) == ({"rna", "prot"} if apart else {"rna+prot"})
    assert cells.obs["cell_type"].notna().all()
    assert set(cells.var["modality"]) == {"rna", "prot"}
    assert cells.obsp["connectivities"].shape == (cells.n_obs, cells.n_obs)
    own = next(name for name in cells.obs if name.endswith("_louvain"))
    sc.pl.umap(cells, color=["cell_type", "modality", own, "louvain", "GENE1"], show=False)
    assert cells.obs["louvain"].equals(cells.obs[own])
    assert cells.obs["louvain"].cat.categories[0] == "0"
    sc.tl.rank_genes_groups(cells, groupby="louvain", groups=["0"])


def test_clusters_that_came_with_the_cells_stay(run, paired, tmp_path):
    with mudata.set_options(pull_on_update=False):
        both = mudata.read_h5mu(paired / "data.h5mu")
        both["rna"].obs["louvain"] = "mine"
        both.write_h5mu(tmp_path / "in.h5mu")
    run(
        tmp_path / "in.h5mu",
        links=paired / "links.tsv",
        model="sccross",
        output=tmp_path / "o.h5mu",
        max_steps=2,
        metrics="none",
    )
    written = mudata.read_h5mu(tmp_path / "o.h5mu")
    assert set(written["rna"].obs["louvain"]) == {"mine"}
    assert "sccross_louvain" in written["rna"].obs
    assert "louvain" not in written["prot"].obs


def test_features_that_the_model_sees_are_marked(output):
    assert output["rna"].var["mocli_used"].sum() == 20
    assert output["prot"].var["mocli_used"].all()


def test_the_graph_is_of_the_cells_with_coordinates():
    z = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    z[7] = np.nan
    distances, connectivities = neighbor_graph(z)
    assert distances[7].nnz == connectivities[7].nnz == connectivities[:, 7].nnz == 0
    known = np.delete(np.arange(60), 7)
    square = np.linalg.norm(z[known][:, None] - z[known][None], axis=2)
    np.fill_diagonal(square, np.inf)
    nearest = np.sort(square, axis=1)[:, :15]
    assert np.allclose(np.sort(distances[known].toarray(), 1)[:, -15:], nearest, atol=1e-4)
    assert abs(connectivities - connectivities.T).nnz == 0
    assert 0 < connectivities.data.min() <= connectivities.data.max() <= 1 + 1e-6


def test_neighbours_searched_before_serve_cells_in_another_order(monkeypatch):
    import mocli.metrics.embedding as embedding

    z = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    nearest, order = embedding.Nearest.of(z), np.random.default_rng(1).permutation(60)
    alone = neighbor_graph(z[order])
    searches = []
    search = embedding.nearby
    monkeypatch.setattr(embedding, "nearby", lambda *a, **k: searches.append(1) or search(*a, **k))
    for mine, theirs in zip(neighbor_graph(z[order], nearest), alone, strict=True):
        assert abs(mine - theirs).nnz == 0
    assert not searches
    neighbor_graph(2 * z, nearest)
    assert searches, "other places have other neighbours"


@pytest.mark.parametrize("model", ["scmodal", "sccross"])
def test_clusters_and_graph_are_of_one_search(run, unpaired, paired, monkeypatch, model):
    import mocli.tasks.integrate.write as plotting
    from mocli.metrics.embedding import Nearest

    searches, of = [], Nearest.of
    monkeypatch.setattr(Nearest, "of", lambda z, device: searches.append(len(z)) or of(z, device=device))
    monkeypatch.setattr(plotting, "layout", lambda z, seed, device: z[:, :2])
    inputs, folder = ([unpaired / "rna.h5ad", unpaired / "prot.h5ad"], unpaired)
    if model == "sccross":
        inputs, folder = paired / "data.h5mu", paired
    run(inputs, links=folder / "links.tsv", model=model, umap=True, metrics="none", max_steps=2)
    assert len(searches) == 1


def test_labels_of_two_columns_are_one_column_of_the_whole(run, unpaired, tmp_path):
    import anndata as ad

    prot = ad.read_h5ad(unpaired / "prot.h5ad")
    prot.obs = prot.obs.rename(columns={"cell_type": "gated"})
    prot.write_h5ad(tmp_path / "prot.h5ad")
    quick = {"max_steps": 2, "metrics": "none", "umap": False}
    run(
        [unpaired / "rna.h5ad", tmp_path / "prot.h5ad"], links=unpaired / "links.tsv", model="scmodal",
        output=tmp_path / "o.h5ad", label_key="rna=cell_type,prot=gated", **quick,
    )  # fmt: skip
    cells = ad.read_h5ad(tmp_path / "o.h5ad")
    assert cells.obs["cell_type"].notna().all()
