from __future__ import annotations

import hashlib

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.data.demo import TYPES, write_demo
from mocli.data.transforms.linkrecipe import LinkRecipe
from mocli.data.transforms.recipe import Recipe, RecipeOptions
from mocli.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo")
    write_demo(path)
    return path


def table(path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t")


def dense(features) -> np.ndarray:
    values = features.values.toarray() if sparse.issparse(features.values) else features.values
    return values if features.offset is None else values + features.offset


def encoder_features(data, transform: str) -> np.ndarray:
    recipe = Recipe.fit(data.X, var_names=tuple(data.var_names), options=RecipeOptions(transform))
    return dense(recipe.apply(data.X))


def link_features(data, links: pd.Series, transform: str) -> np.ndarray:
    columns = data.var_names.get_indexer(links)
    assert (columns >= 0).all()
    aggregation = sparse.csr_matrix(
        (np.ones(len(links), np.float32), (columns, np.arange(len(links)))), shape=(data.n_vars, len(links))
    )
    recipe = LinkRecipe.fit(data.X, aggregation=aggregation, transform=transform, names=tuple(links))
    z = dense(recipe.apply(data.X))
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9)


def test_all_files_are_there_and_small(folder):
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "README.txt",
        "rna.h5ad",
        "prot.h5ad",
        "rna-prot.tsv",
        "truth.tsv",
        "truth-links.tsv",
        "multiome.h5mu",
        "rna-atac.tsv",
        "planted.tsv",
        "genes.tsv",
    }
    assert sum(p.stat().st_size for p in folder.iterdir()) < 3e6
    readme = (folder / "README.txt").read_text()
    assert all(name in readme for name in names - {"README.txt"})


def test_cite_files_hold_counts_with_truth_and_no_shared_names(folder):
    rna, prot = anndata.read_h5ad(folder / "rna.h5ad"), anndata.read_h5ad(folder / "prot.h5ad")
    assert rna.shape == (600, 400)
    assert prot.shape == (600, 30)
    for data in (rna, prot):
        assert sparse.isspmatrix_csr(data.X)
        assert data.X.dtype == np.float32
        assert (data.X.data == np.rint(data.X.data)).all()
        assert data.X.data.min() >= 1
        assert data.obs_names.is_unique
        assert data.var_names.is_unique
        assert set(data.obs["cell_type"]) == set(TYPES)
        assert set(data.obs["batch"]) == {"batch_1", "batch_2"}
    assert not set(rna.obs_names) & set(prot.obs_names)
    assert not (rna.obs["true_cell"].to_numpy() == prot.obs["true_cell"].to_numpy()).all()
    partner = prot.obs.reset_index().set_index("true_cell").loc[rna.obs["true_cell"]]
    assert (partner["cell_type"].to_numpy() == rna.obs["cell_type"].to_numpy()).all()
    truth = table(folder / "truth.tsv").set_index("true_cell").loc[rna.obs["true_cell"]]
    assert truth["rna"].tolist() == rna.obs_names.tolist()
    assert truth["prot"].tolist() == partner["index"].tolist()
    assert truth["cell_type"].tolist() == rna.obs["cell_type"].tolist()


def test_links_name_features_and_a_few_are_wrong(folder):
    links, truth = table(folder / "rna-prot.tsv"), table(folder / "truth-links.tsv")
    assert list(links.columns) == ["rna", "prot", "weight"]
    assert (truth[["rna", "prot"]] == links[["rna", "prot"]]).all(axis=None)
    wrong = truth[truth["is_right"] == 0]
    assert len(wrong) == 4
    assert (wrong["rna"] != wrong["true_rna"]).all()
    assert links["rna"].is_unique


def test_types_are_clear_within_a_modality_but_links_alone_are_not_enough(folder):
    from sklearn.decomposition import PCA
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    rna, prot = anndata.read_h5ad(folder / "rna.h5ad"), anndata.read_h5ad(folder / "prot.h5ad")
    genes = PCA(20, random_state=0).fit_transform(encoder_features(rna, "lognorm"))
    for z, data in ((genes, rna), (encoder_features(prot, "clr"), prot)):
        assert cross_val_score(KNeighborsClassifier(15), z, data.obs["cell_type"], cv=5).mean() > 0.95

    links = table(folder / "rna-prot.tsv")
    similarity = link_features(rna, links["rna"], "lognorm") @ link_features(prot, links["prot"], "clr").T
    a, b = rna.obs["cell_type"].to_numpy(), prot.obs["cell_type"].to_numpy()
    transfer = [(b[similarity.argmax(axis=1)] == a).mean(), (a[similarity.argmax(axis=0)] == b).mean()]
    assert 0.55 < np.mean(transfer) < 0.8, transfer


def test_batches_are_mild(folder):
    rna = anndata.read_h5ad(folder / "rna.h5ad")
    z = encoder_features(rna, "lognorm")

    def spread(key: str) -> float:
        groups = rna.obs[key].to_numpy()
        return float(np.mean([np.square(z[groups == g].mean(axis=0)).mean() for g in np.unique(groups)]))

    assert 0 < spread("batch") < 0.2 * spread("cell_type")


def test_the_multiome_is_paired_and_its_links_hold_the_planted_pairs(folder):
    data = mudata.read_h5mu(folder / "multiome.h5mu")
    rna, atac = data["rna"], data["atac"]
    assert rna.obs_names.tolist() == atac.obs_names.tolist() == data.obs_names.tolist()
    assert atac.n_vars == 1500
    assert atac.var_names.is_unique
    assert atac.var_names.str.fullmatch(r"chr\d+:\d+-\d+").all()
    assert (atac.var["start"] < atac.var["end"]).all()
    assert data.obs["cell_type"].tolist() == rna.obs["cell_type"].tolist()
    links, planted = table(folder / "rna-atac.tsv"), table(folder / "planted.tsv")
    assert set(links["rna"]) <= set(rna.var_names)
    assert set(links["atac"]) == set(atac.var_names)
    assert links["weight"].between(0, 1).all()
    pairs = set(zip(links["rna"], links["atac"], strict=True))
    assert set(zip(planted["gene"], planted["peak"], strict=True)) < pairs

    genes, peaks = rna.var.loc[planted["gene"]], atac.var.loc[planted["peak"]]
    tss = np.where(genes["strand"] == "+", genes["start"], genes["end"])
    centre = (peaks["start"].to_numpy() + peaks["end"].to_numpy()) // 2
    assert np.array_equal(np.abs(centre - tss), planted["distance_to_tss"])
    assert (genes["chrom"].to_numpy() == peaks["chrom"].to_numpy()).all()
    places = table(folder / "genes.tsv").set_index("gene")
    columns = ["chrom", "start", "end", "strand"]
    assert places[columns].astype(str).equals(rna.var[columns].astype(str).rename_axis("gene"))


def test_planted_peaks_follow_their_gene_and_the_others_do_not(folder):
    data = mudata.read_h5mu(folder / "multiome.h5mu")
    links, planted = table(folder / "rna-atac.tsv"), table(folder / "planted.tsv")
    x, y = (np.log1p(data[m].X.toarray()) for m in ("rna", "atac"))
    x, y = ((v - v.mean(axis=0)) / np.maximum(v.std(axis=0), 1e-9) for v in (x, y))
    genes = data["rna"].var_names.get_indexer(links["rna"])
    peaks = data["atac"].var_names.get_indexer(links["atac"])
    r = (x[:, genes] * y[:, peaks]).mean(axis=0)
    true = links["atac"].isin(planted["peak"]).to_numpy()
    assert r[true].mean() > 0.08
    assert abs(r[~true].mean()) < 0.03


def digests(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        written = write_demo(tmp_path / name, n_cells=60, seed=seed, trimodal=True)
        assert sorted(written) == sorted((tmp_path / name).iterdir())
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[name] != c[name] for name in a)


def test_trimodal_files_join_the_others_and_leave_them_alone(tmp_path):
    write_demo(tmp_path / "two", n_cells=40)
    write_demo(tmp_path / "three", n_cells=40, trimodal=True)
    two, three = digests(tmp_path / "two"), digests(tmp_path / "three")
    extra = {f"{name}.h5ad" for name in ("adt", "gex", "atac")} | {"truth-trimodal.tsv"}
    extra |= {f"{links}.tsv" for links in ("adt-gex", "gex-atac", "adt-atac")}
    assert set(three) - set(two) == extra
    assert all(three[name] == two[name] for name in two if name != "README.txt")
    truth = table(tmp_path / "three" / "truth-trimodal.tsv").set_index("true_cell")
    for name in ("adt", "gex", "atac"):
        data = anndata.read_h5ad(tmp_path / "three" / f"{name}.h5ad")
        assert truth.loc[data.obs["true_cell"], name].tolist() == data.obs_names.tolist()
    for links in ("adt-gex", "gex-atac", "adt-atac"):
        frame = table(tmp_path / "three" / f"{links}.tsv")
        assert list(frame.columns[:2]) == links.split("-")
        for name in links.split("-"):
            data = anndata.read_h5ad(tmp_path / "three" / f"{name}.h5ad")
            assert set(frame[name]) <= set(data.var_names)


def test_twenty_cells_are_enough_and_fewer_are_refused(tmp_path):
    write_demo(tmp_path / "a", n_cells=20)
    assert set(anndata.read_h5ad(tmp_path / "a" / "rna.h5ad").obs["cell_type"]) == set(TYPES)
    with pytest.raises(UsageError, match="at least 20"):
        write_demo(tmp_path / "b", n_cells=19)
