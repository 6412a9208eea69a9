"""What h5mu files hold above their modalities, and joined files beside matrices, is still there."""

import warnings

import anndata as ad
import h5py
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.data.files.inputs import open_inputs, sha256
from mocli.data.write.write import Added, union_names, write_file

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:mudata", "ignore:Duplicated:UserWarning")


def counts(cells, features, seed=0):
    x = np.random.default_rng(seed).poisson(0.7, (len(cells), len(features))).astype(np.float32)
    return ad.AnnData(sparse.csr_matrix(x), pd.DataFrame(index=cells), pd.DataFrame(index=features))


def names(prefix, n):
    return [f"{prefix}{i}" for i in range(n)]


def whole(path, seed, **modalities):
    """An h5mu with something of every kind above its modalities."""
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings(), md.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        m = md.MuData(modalities)
        m.obs["donor"] = pd.Categorical([f"d{seed}"] * m.n_obs)
        m.obs["rank"] = np.arange(m.n_obs)
        m.obs[f"only{seed}"] = rng.random(m.n_obs) > 0.5
        m.var["score"] = rng.random(m.n_vars)
        m.obsm["X_wnn"] = rng.normal(size=(m.n_obs, 2)).astype(np.float32)
        m.obsm[f"X_own{seed}"] = rng.integers(0, 9, (m.n_obs, 3))
        m.obsm["frame"] = pd.DataFrame({"a": rng.random(m.n_obs), "b": "x"}, index=m.obs_names)
        m.obsp["near"] = sparse.random(m.n_obs, m.n_obs, 0.2, format="csr", random_state=seed)
        m.varm["factors"] = rng.normal(size=(m.n_vars, 4))
        m.uns["shared"] = {"k": np.array([1, 2])}
        m.uns["title"] = f"file {seed}"
        m.uns[f"note{seed}"] = {"deep": {"n": 3}}
        m.write_h5mu(path)
    return m


def read(path):
    with warnings.catch_warnings(), md.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        return md.read_h5mu(path)


def write(path, texts, **options):
    added = [Added(f) for f in open_inputs(list(map(str, texts)))]
    said = []
    write_file(path, added, obsm={}, uns={"mocli": {"seed": 0}}, warn=said.append, **options)
    return read(path), said


@pytest.fixture
def two(tmp_path):
    """Two experiments whose barcodes recur; of each file some cells are in one modality only."""
    genes, proteins = names("GENE", 20), names("Prot", 5)
    peaks = [f"chr1:{100 * i}-{100 * i + 50}" for i in range(9)]
    a, b = names("BC", 12), names("BC", 16)
    cite = whole(tmp_path / "cite.h5mu", 1, rna=counts(a[:-1], genes, 0), prot=counts(a[::-1], proteins, 1))
    multiome = whole(
        tmp_path / "multiome.h5mu", 2, rna=counts(b, [*genes[::-1], "extra"], 2), atac=counts(b[3:], peaks, 3)
    )
    return tmp_path, cite, multiome


def test_slots_above_the_modalities_of_two_files(two):
    folder, cite, multiome = two
    paths = [folder / "cite.h5mu", folder / "multiome.h5mu"]
    before = [sha256(p) for p in paths]
    out, said = write(folder / "out.h5mu", paths)
    assert [sha256(p) for p in paths] == before
    for m, suffix, other in ((cite, "-cite", "multiome"), (multiome, "-multiome", "cite")):
        mine = [f"{c}{suffix}" for c in m.obs_names]
        seed = 1 if suffix == "-cite" else 2
        part = out.obs.loc[mine]
        assert list(part["donor"]) == [f"d{seed}"] * len(mine)
        assert list(part["rank"]) == list(m.obs["rank"])
        assert list(part[f"only{seed}"].astype(bool)) == list(m.obs[f"only{seed}"])
        assert out.obs.loc[out.obs["input"] == other, f"only{seed}"].isna().all()
        at = out.obs_names.get_indexer(mine)
        np.testing.assert_array_equal(out.obsm["X_wnn"][at], m.obsm["X_wnn"])
        np.testing.assert_array_equal(out.obsm[f"X_own{seed}"][at], m.obsm[f"X_own{seed}"])
        assert np.isnan(np.delete(out.obsm[f"X_own{seed}"], at, axis=0)).all()
        assert list(out.obsm["frame"].iloc[at]["a"]) == list(m.obsm["frame"]["a"])
        assert abs(out.obsp["near"][at][:, at] - m.obsp["near"]).nnz == 0
        assert out.uns[f"note{seed}"] == {"deep": {"n": 3}}
    assert out.obsp["near"].nnz == cite.obsp["near"].nnz + multiome.obsp["near"].nnz
    assert out.obsm["X_wnn"].dtype == np.float32
    assert out.obs["rank"].dtype.kind == "i"
    assert out.uns["title"] == "file 1"
    assert list(out.uns["shared"]["k"]) == [1, 2]
    # features: those of a modality that both have are the first's where the files differ
    n_rna, n_prot = out["rna"].n_vars, out["prot"].n_vars
    np.testing.assert_array_equal(out.varm["factors"][:n_rna], cite.varm["factors"][:20])
    np.testing.assert_array_equal(out.varm["factors"][n_rna : n_rna + n_prot], cite.varm["factors"][20:])
    assert np.isnan(out.varm["factors"][n_rna + n_prot :]).all()
    (line,) = said
    assert line.startswith(f"{paths[1]}: ")
    assert "left out of the output: another input has different values" in line
    assert {"uns title", "var column score", "varm factors"} == set(line.split(": ")[1].removesuffix(
        " left out of the output").split(", "))  # fmt: skip


def test_cells_that_two_files_have_keep_what_both_say(tmp_path):
    """RNA in one file, proteins of the same cells in another, each with a whole of its own."""
    cells = names("c", 10)
    one = whole(tmp_path / "a.h5mu", 1, rna=counts(cells, names("GENE", 6)))
    two = whole(tmp_path / "b.h5mu", 2, prot=counts(cells[::-1], names("Prot", 4)))
    out, said = write(tmp_path / "out.h5mu", [tmp_path / "a.h5mu", tmp_path / "b.h5mu"])
    assert list(out.obs_names) == cells
    assert list(out.obs["donor"]) == ["d1"] * 10
    np.testing.assert_array_equal(out.obsm["X_own2"], two.obsm["X_own2"][::-1])
    np.testing.assert_array_equal(out.varm["factors"], np.vstack([one.varm["factors"], two.varm["factors"]]))
    assert abs(out.obsp["near"] - one.obsp["near"]).nnz == 0
    (line,) = said
    for slot in ("obs column donor", "obs column rank", "obsm X_wnn", "obsm frame", "obsp near", "uns title"):
        assert slot in line
    assert "only2" not in line
    assert "uns shared" not in line


def test_a_file_beside_an_h5mu_and_a_modality_under_another_name(tmp_path):
    cells = names("c", 10)
    m = whole(tmp_path / "m.h5mu", 1, rna=counts(cells, names("GENE", 6)), prot=counts(cells, names("P", 3)))
    counts(cells[2:], names("chr1:1-", 5)).write_h5ad(tmp_path / "atac.h5ad")
    out, said = write(tmp_path / "out.h5mu", [f"mine={tmp_path / 'm.h5mu'}::rna", tmp_path / "atac.h5ad"])
    assert said == []
    assert list(out.mod) == ["mine", "atac"]
    assert list(out.obs["rank"]) == list(range(10))
    np.testing.assert_array_equal(out.obsm["X_wnn"], m.obsm["X_wnn"])
    np.testing.assert_array_equal(out.varm["factors"][:6], m.varm["factors"][:6])
    assert set(out.obsm) == {"X_wnn", "X_own1", "frame", "mine", "atac"}


def test_cells_told_apart_by_modality_keep_columns_but_no_graph(tmp_path):
    cells = names("c", 6)
    m = whole(tmp_path / "m.h5mu", 1, rna=counts(cells, names("GENE", 6)), prot=counts(cells, names("P", 3)))
    files = open_inputs([str(tmp_path / "m.h5mu")])
    added = [Added(f, obs_names=tuple(f"{f.name}:{c}" for c in f.obs.index)) for f in files]
    said = []
    write_file(tmp_path / "out.h5mu", added, obsm={}, uns={}, warn=said.append)
    out = read(tmp_path / "out.h5mu")
    assert list(out.obs_names) == union_names(added)
    assert list(out.obs["rank"]) == [*range(6), *range(6)]
    np.testing.assert_array_equal(out.obsm["X_wnn"], np.vstack([m.obsm["X_wnn"]] * 2))
    assert said == [
        f"{tmp_path / 'm.h5mu'}: obsp near left out of the output: "
        "one of its cells becomes several in the output"
    ]


def test_an_imputed_modality_is_missed(tmp_path):
    cells = names("c", 6)
    modalities = {"rna": counts(cells, names("GENE", 6)), "prot_imputed": counts(cells, names("P", 3))}
    whole(tmp_path / "a.h5mu", 1, **modalities)
    counts(cells, names("Q", 4)).write_h5ad(tmp_path / "prot.h5ad")
    _, said = write(tmp_path / "out.h5mu", [tmp_path / "a.h5mu", tmp_path / "prot.h5ad"])
    assert said == [
        f"{tmp_path / 'a.h5mu'}: modality prot_imputed left out of the output: what is not integrated is not "
        "copied into a new file"
    ]


def test_a_file_without_maps_is_told_by_names(two):
    folder, cite, _ = two
    with h5py.File(folder / "cite.h5mu", "r+") as h5:
        del h5["obsmap"], h5["varmap"]
    out, _ = write(folder / "out.h5mu", [folder / "cite.h5mu", folder / "multiome.h5mu"])
    at = out.obs_names.get_indexer([f"{c}-cite" for c in cite.obs_names])
    np.testing.assert_array_equal(out.obsm["X_wnn"][at], cite.obsm["X_wnn"])


def test_slots_of_a_modality_of_several_files(tmp_path):
    made = []
    for k in (1, 2):
        a = counts(names(f"{k}_", 8 + k), names("GENE", 8), k)
        a.uns["log"] = {"base": 2}
        a.uns["mine"] = k
        a.obsm["X_pca"] = np.full((a.n_obs, 1 + k), float(k))
        a.obsm[f"own{k}"] = np.arange(2 * a.n_obs).reshape(-1, 2)
        a.obsp["near"] = sparse.random(a.n_obs, a.n_obs, 0.3, format="csr", random_state=k)
        a.varm["PCs"] = np.arange(16.0).reshape(8, 2)
        a.var["mean"] = float(k)
        a.layers[f"layer{k}"] = a.X
        a.raw = a
        a.write_h5ad(tmp_path / f"r{k}.h5ad")
        made.append(a)
    out, said = write(tmp_path / "out.h5mu", [f"rna={tmp_path / f'r{k}.h5ad'}" for k in (1, 2)])
    rna = out["rna"]
    assert rna.uns["log"] == {"base": 2}
    assert rna.uns["mine"] == 1
    np.testing.assert_array_equal(rna.varm["PCs"], made[0].varm["PCs"])
    np.testing.assert_array_equal(rna.obsm["own1"][:9], made[0].obsm["own1"])
    assert np.isnan(rna.obsm["own1"][9:]).all()
    np.testing.assert_array_equal(rna.obsm["X_pca"][:9], made[0].obsm["X_pca"])
    assert np.isnan(rna.obsm["X_pca"][9:]).all()
    near = sparse.block_diag([a.obsp["near"] for a in made], format="csr")
    assert abs(rna.obsp["near"] - near).nnz == 0
    first, second = tmp_path / "r1.h5ad", tmp_path / "r2.h5ad"
    assert set(said) == {
        f"{first}: layer layer1 left out of the output: not all files of the modality have it",
        f"{second}: layer layer2 left out of the output: not all files of the modality have it",
        f"{first}: raw left out of the output: it has features of its own in every file",
        f"{second}: raw left out of the output: it has features of its own in every file",
        f"{first}: var column mean left out of the output: another input has different values",
        f"{second}: var column mean, obsm X_pca, uns mine left out of the output: another input has "
        "different values",
    }


def test_a_file_split_by_feature_type_keeps_tables_and_graphs_of_features(tmp_path):
    a = counts(names("c", 5), names("f", 4))
    a.var["feature_types"] = ["Gene Expression", "Antibody Capture"] * 2
    a.varm["table"] = pd.DataFrame({"x": np.arange(4.0)}, index=a.var_names)
    a.varp["like"] = sparse.random(4, 4, 0.6, format="csr", random_state=0)
    a.raw = a
    a.write_h5ad(tmp_path / "mixed.h5ad")
    out, said = write(tmp_path / "out.h5mu", [tmp_path / "mixed.h5ad"])
    for name, columns in (("rna", [0, 2]), ("prot", [1, 3])):
        assert list(out[name].varm["table"]["x"]) == columns
        assert abs(out[name].varp["like"] - a.varp["like"][columns][:, columns]).nnz == 0
    path = tmp_path / "mixed.h5ad"
    assert said == [f"{path}: raw left out of the output: it covers all types of features"]


def test_the_same_inputs_give_the_same_bytes(two):
    folder, _, _ = two
    for name in ("one", "two"):
        write(folder / f"{name}.h5mu", [folder / "cite.h5mu", folder / "multiome.h5mu"])
    assert sha256(folder / "one.h5mu") == sha256(folder / "two.h5mu")
