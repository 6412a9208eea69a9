"""The forms in which data come: files, names, columns, pairings, more than two modalities."""

import gzip
import io
import shutil

import anndata as ad
import h5py
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.errors import InputError, UsageError


def modality(folder, name, cells, features, *, seed, obs=None):
    rng = np.random.default_rng(seed)
    x = sparse.csr_matrix(rng.poisson(1.0, (len(cells), len(features))).astype(np.float32))
    a = ad.AnnData(x, pd.DataFrame(obs or {}, index=cells), pd.DataFrame(index=features))
    a.write_h5ad(folder / f"{name}.h5ad")
    return folder / f"{name}.h5ad"


def names(prefix, n):
    return [f"{prefix}{i}" for i in range(n)]


def table(path, header, rows):
    path.write_text("\n".join("\t".join(map(str, row)) for row in [header, *rows]) + "\n")
    return path


def same_names(rna, prot, n):
    return [(f"{rna}{i}", f"{prot}{i}") for i in range(n)]


def measured(report, name):
    """Number of cells behind each value of a metric."""
    found = {k: m for k, m in report["metrics"].items() if k.split("[")[0] == name}
    return {k: m["n"] for k, m in found.items() if m["value"] is not None}


# files and the words for them


def tenx(path, n_genes=30, n_proteins=8, n_cells=50):
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.poisson(1.0, (n_cells, n_genes + n_proteins)).astype(np.int32))
    with h5py.File(path, "w") as h5:
        g = h5.create_group("matrix")
        g["barcodes"] = np.array([f"BC{i}-1" for i in range(n_cells)], dtype="S")
        g["data"], g["indices"] = x.data, x.indices.astype(np.int64)
        g["indptr"], g["shape"] = x.indptr.astype(np.int64), np.array(x.shape[::-1], dtype=np.int32)
        f = g.create_group("features")
        ids = names("GENE", n_genes) + names("Prot", n_proteins)
        f["id"], f["name"] = np.array(ids, dtype="S"), np.array(ids, dtype="S")
        f["feature_type"] = np.array(
            ["Gene Expression"] * n_genes + ["Antibody Capture"] * n_proteins, dtype="S"
        )
        f["genome"] = np.array(["GRCh38"] * len(ids), dtype="S")
    return path


def test_a_10x_file_is_split_by_feature_type(run, tmp_path, read):
    path = tenx(tmp_path / "filtered_feature_bc_matrix.h5")
    links = table(tmp_path / "l.tsv", ("rna", "prot"), same_names("GENE", "Prot", 6))
    report = run([path], links=[links]).report
    assert [(i["modality"], i["n_vars"]) for i in report["inputs"]] == [("rna", 30), ("prot", 8)]
    out = read(tmp_path / "out.h5mu")
    assert list(out["prot"].obs_names[:2]) == ["BC0-1", "BC1-1"]
    assert out.obsm["X_scmodal"].shape == (50, 4)


@pytest.mark.parametrize(
    "inputs",
    [
        ["data.h5mu"],
        ["data.h5mu::rna", "data.h5mu::prot"],
        ["rna=a.h5ad", "prot=b.h5ad"],
        ["rna=data.h5mu::rna", "prot=b.h5ad"],
    ],
)
def test_words_for_the_same_data(run, paired, inputs, read, tmp_path, monkeypatch):
    monkeypatch.chdir(paired)
    result = run(inputs, links=["links.tsv"], pairing="unpaired", label_key="cell_type")
    assert [i["modality"] for i in result.report["inputs"]] == ["rna", "prot"]
    out = read(tmp_path / "out.h5mu")
    assert out.n_obs == 60
    assert set(out["prot"].obsm) == {"X_scmodal"}
    # partners share a name, so both directions and all pairs are measured
    assert set(measured(result.report, "label_transfer")) == {
        "label_transfer[rna->prot]",
        "label_transfer[prot->rna]",
    }
    assert measured(result.report, "foscttm")
    assert measured(result.report, "pair_distance")


def test_the_users_names_are_kept(run, paired, read, tmp_path):
    links = table(tmp_path / "l.tsv", ("gex", "adt"), same_names("GENE", "Prot", 8))
    run([f"gex={paired / 'a.h5ad'}", f"adt={paired / 'b.h5ad'}"], links=[links], pairing="unpaired")
    assert list(read(tmp_path / "out.h5mu").mod) == ["gex", "adt"]


def test_feature_names_may_repeat_across_modalities(run, tmp_path, read):
    genes = ["CD4", "CD8A", "CD19", *names("GENE", 10)]
    files = [
        modality(tmp_path, "rna", names("r", 30), genes, seed=0),
        modality(tmp_path, "prot", names("p", 30), ["CD4", "CD19", "CD8A"], seed=1),
    ]
    links = table(tmp_path / "l.tsv", ("rna", "prot"), [("CD4", "CD4"), ("CD8A", "CD8A"), ("CD19", "CD19")])
    run(files, links=[links])
    out = read(tmp_path / "out.h5mu")
    assert out.n_vars == 16
    assert list(out["prot"].var_names) == ["CD4", "CD19", "CD8A"]


def test_feature_names_may_repeat_within_a_modality(run, unpaired, tmp_path):
    """As in every 10x file read by gene symbol."""
    shutil.copy(unpaired / "rna.h5ad", tmp_path)
    with h5py.File(tmp_path / "rna.h5ad", "r+") as h5:
        h5["var/_index"][30] = h5["var/_index"][20]
    report = run([tmp_path / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv").report
    assert report["status"] == "ok"


def test_links_from_standard_input_or_compressed(run, unpaired, tmp_path, monkeypatch):
    files = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    raw = (unpaired / "links.tsv").read_bytes()
    (tmp_path / "l.tsv.gz").write_bytes(gzip.compress(raw))
    digests = {run(files, links=tmp_path / "l.tsv.gz").report["determinism"]["latent_sha256"]}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    report = run(files, links="-", force=True).report
    assert report["links"][0]["path"] == "standard input"
    assert digests == {report["determinism"]["latent_sha256"]}


# columns


def test_a_label_in_one_modality_holds_for_the_same_cells_of_the_other(run, paired):
    report = run(
        paired / "data.h5mu", links=paired / "links.tsv", pairing="unpaired", label_key="cell_type"
    ).report
    assert report["metrics"]["label_transfer[rna->prot]"]["n"] == 60
    assert report["metrics"]["label_transfer[prot->rna]"]["value"] is not None


def test_a_label_in_one_unpaired_modality_gives_what_it_can(run, unpaired, tmp_path):
    prot = ad.read_h5ad(unpaired / "prot.h5ad")
    del prot.obs["cell_type"]
    prot.write_h5ad(tmp_path / "prot.h5ad")
    report = run(
        [unpaired / "rna.h5ad", tmp_path / "prot.h5ad"], links=unpaired / "links.tsv", label_key="cell_type"
    ).report
    assert measured(report, "label_transfer") == {}
    assert "mixing" in report["metrics"]


def test_labels_that_are_missing_are_left_out(run, unpaired, tmp_path):
    rna = ad.read_h5ad(unpaired / "rna.h5ad")
    rna.obs["cell_type"] = rna.obs["cell_type"].astype(object)
    rna.obs.iloc[:30, 0] = np.nan
    rna.write_h5ad(tmp_path / "rna.h5ad")
    report = run(
        [tmp_path / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv", label_key="cell_type"
    ).report
    assert sorted(measured(report, "label_transfer").values()) == [40, 60]


def test_labels_that_are_all_missing_and_numbers_as_labels(run, unpaired, tmp_path):
    rna = ad.read_h5ad(unpaired / "rna.h5ad")
    rna.obs["none"] = np.nan
    rna.obs["cluster"] = np.arange(rna.n_obs, dtype=float) % 3
    rna.obs.iloc[0, rna.obs.columns.get_loc("cluster")] = np.nan  # a gap makes floats of whole numbers
    rna.write_h5ad(tmp_path / "rna.h5ad")
    prot = ad.read_h5ad(unpaired / "prot.h5ad")
    prot.obs["cluster"] = np.arange(prot.n_obs) % 3
    prot.write_h5ad(tmp_path / "prot.h5ad")
    files = [tmp_path / "rna.h5ad", tmp_path / "prot.h5ad"]
    with pytest.raises(InputError, match="no cell has a value"):
        run(files, links=unpaired / "links.tsv", label_key="none")
    report = run(
        files, links=unpaired / "links.tsv", label_key="cluster", batch_key="cluster", force=True
    ).report
    assert report["metrics"]["label_transfer[rna->prot]"]["value"] > 0
    assert '"0", "1", "2"' in " ".join((tmp_path / "out.model" / "model.json").read_text().split())


@pytest.mark.parametrize("shuffled", [False, True])
def test_pair_key_names_the_partner_of_unpaired_cells(run, unpaired, tmp_path, shuffled):
    rng = np.random.default_rng(0)
    files = []
    for name, n in (("rna", 70), ("prot", 60)):
        a = ad.read_h5ad(unpaired / f"{name}.h5ad")
        a.obs["truth"] = [f"t{i}" for i in range(n)]
        if name == "rna":
            a.obs.iloc[:2, 1] = "twice"  # no partner can be told
            a = a[rng.permutation(n)].copy() if shuffled else a
        a.write_h5ad(tmp_path / f"{name}.h5ad")
        files.append(tmp_path / f"{name}.h5ad")
    report = run(files, links=unpaired / "links.tsv", pair_key="truth").report
    assert set(measured(report, "foscttm").values()) == {58}
    assert not [w for w in report["warnings"] if "pair" in w]


def test_a_pair_key_that_pairs_nothing_is_said(run, unpaired, capsys):
    report = run(
        [unpaired / "rna.h5ad", unpaired / "prot.h5ad"],
        links=unpaired / "links.tsv",
        pair_key="rna:cell_type",
    ).report
    assert any("gives no partners" in w for w in report["warnings"])
    assert measured(report, "foscttm") == {}


def test_var_key_names_the_features_that_links_use(run, unpaired, tmp_path):
    rna = ad.read_h5ad(unpaired / "rna.h5ad")
    rna.var["symbol"] = rna.var_names
    rna.var_names = [f"ENSG{i:011d}" for i in range(rna.n_vars)]
    rna.write_h5ad(tmp_path / "rna.h5ad")
    files = [tmp_path / "rna.h5ad", unpaired / "prot.h5ad"]
    report = run(files, links=unpaired / "links.tsv", var_key="symbol").report
    assert report["links"][0]["n_matched"] == 10
    with pytest.raises(InputError, match="no modality has the column 'symbl'") as caught:
        run(files, links=unpaired / "links.tsv", var_key="symbl", output=tmp_path / "o.h5mu")
    assert caught.value.hint == "did you mean 'symbol'?"


# pairings


def test_names_shared_by_chance_are_kept_apart(run, tmp_path, read):
    genes, proteins = names("GENE", 20), names("Prot", 6)
    files = [
        modality(tmp_path, "rna", [*names("r", 49), "AAAC-1"], genes, seed=0),
        modality(tmp_path, "prot", ["AAAC-1", *names("p", 49)], proteins, seed=1),
    ]
    links = table(tmp_path / "l.tsv", ("rna", "prot"), same_names("GENE", "Prot", 5))
    report = run(files, links=[links]).report
    assert any("counts as chance" in w for w in report["warnings"])
    assert measured(report, "foscttm") == {}
    out = read(tmp_path / "out.h5mu")
    assert out.n_obs == 100
    assert {"rna:AAAC-1", "prot:AAAC-1"} <= set(out.obs_names)
    assert np.isfinite(out.obsm["X_scmodal"]).all()


def test_obs_prefix_names_cells_by_modality(run, unpaired, tmp_path, read):
    run([unpaired / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv", obs_prefix=True)
    out = read(tmp_path / "out.h5mu")
    assert list(out.obs_names) == [f"rna:r{i}" for i in range(70)] + [f"prot:p{i}" for i in range(60)]
    assert list(out["prot"].obs_names[:1]) == ["prot:p0"]


def test_a_known_pairing_can_be_hidden(run, paired, tmp_path, read):
    """Cells that are in fact the same share a row on top, at the mean of their two places."""
    report = run(paired / "data.h5mu", links=paired / "links.tsv", pairing="unpaired").report
    assert measured(report, "foscttm")
    # ten steps are not worth much, and the run says so
    assert all("needs no training" in w or "contradict" in w for w in report["warnings"])
    out = read(tmp_path / "out.h5mu")
    rna, prot = (
        pd.DataFrame(out[m].obsm["X_scmodal"], index=out[m].obs_names).loc[out.obs_names]
        for m in ("rna", "prot")
    )
    np.testing.assert_allclose(out.obsm["X_scmodal"], (rna + prot) / 2, atol=1e-6)


def test_a_model_that_makes_no_use_of_pairs_says_so(run, paired, tmp_path, read):
    report = run(paired / "data.h5mu", links=paired / "links.tsv", model="scmodal").report
    assert any("does not use" in w for w in report["warnings"])
    assert read(tmp_path / "out.h5mu").n_obs == 60


def test_mosaic_cells(run, tmp_path, read):
    shared, genes, proteins = names("both", 20), names("GENE", 20), names("Prot", 6)
    files = [
        modality(tmp_path, "rna", names("r", 20) + shared, genes, seed=0),
        modality(tmp_path, "prot", shared[::-1] + names("p", 20), proteins, seed=1),
    ]
    links = table(tmp_path / "l.tsv", ("rna", "prot"), same_names("GENE", "Prot", 5))
    report = run(files, links=[links], model="scmodal").report
    assert set(measured(report, "foscttm").values()) == {20}
    out = read(tmp_path / "out.h5mu")
    assert out.n_obs == 60
    assert list(out.obs_names) == names("r", 20) + shared + names("p", 20)
    only = out.obs_names.get_loc("r3")
    np.testing.assert_array_equal(out.obsm["X_scmodal"][only], out["rna"].obsm["X_scmodal"][3])


def test_a_pairing_that_is_not_there_is_refused(run, unpaired):
    with pytest.raises(InputError, match="there are none"):
        run([unpaired / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv", pairing="paired")


# three modalities


def three(folder):
    peaks = [f"chr1-{1000 * i}-{1000 * i + 500}" for i in range(1, 31)]
    files = [
        modality(folder, "rna", names("r", 40), names("GENE", 25), seed=0),
        modality(folder, "prot", names("p", 35), names("Prot", 8), seed=1),
        modality(folder, "atac", names("a", 45), peaks, seed=2),
    ]
    tables = [
        table(folder / "rp.tsv", ("rna", "prot"), same_names("GENE", "Prot", 6)),
        table(folder / "ra.tsv", ("rna", "atac"), [(f"GENE{i // 3}", p) for i, p in enumerate(peaks)]),
    ]
    return files, tables


def test_three_modalities_over_two_tables(run, tmp_path, read, check_report):
    files, tables = three(tmp_path)
    run(files, links=tables)
    report = check_report(tmp_path / "out.report.json")
    assert [(link["source"], link["target"], link["n_columns"]) for link in report["links"]] == [
        ("rna", "prot", 6),
        ("rna", "atac", 10),
    ]
    assert [i["transform"] for i in report["inputs"]] == ["lognorm", "clr", "tfidf-lsi"]
    assert {"link_features[rna-prot]", "smoothed_link_features[rna-atac]"} <= set(report["baselines"])
    out = read(tmp_path / "out.h5mu")
    assert out.obsm["X_scmodal"].shape == (120, 4)
    assert out["atac"].obsm["X_scmodal"].shape == (45, 4)


def test_a_modality_without_links_is_refused(run, tmp_path):
    files, tables = three(tmp_path)
    with pytest.raises(InputError, match="no link reaches the modality 'atac'"):
        run(files, links=tables[:1])


def test_a_modality_of_an_h5mu_that_is_left_out_stays_in_the_file(run, tmp_path, read):
    files, tables = three(tmp_path)
    with md.set_options(pull_on_update=False):
        whole = md.MuData({p.stem: ad.read_h5ad(p) for p in files})
        whole.write_h5mu(tmp_path / "all.h5mu")
    all_of_it = tmp_path / "all.h5mu"
    run([f"{all_of_it}::rna", f"{all_of_it}::prot"], links=tables[:1], umap=True)
    out = read(tmp_path / "out.h5mu")
    assert list(out.mod) == ["rna", "prot", "atac"]
    assert out.n_obs == 120
    assert "X_scmodal" not in out["atac"].obsm
    z = pd.DataFrame(out.obsm["X_scmodal"], index=out.obs_names)
    assert z.loc[out["atac"].obs_names].isna().all(axis=None)
    assert z.loc[out["rna"].obs_names].notna().all(axis=None)
    picture = pd.DataFrame(out.obsm["X_umap"], index=out.obs_names)
    assert picture.isna().all(axis=1).sum() == 45


# values


def test_options_by_modality(run, unpaired, tmp_path):
    rna = ad.read_h5ad(unpaired / "rna.h5ad")
    rna.layers["mine"] = rna.X.copy()
    rna.X = rna.X.log1p()
    rna.write_h5ad(tmp_path / "rna.h5ad")
    report = run(
        [tmp_path / "rna.h5ad", unpaired / "prot.h5ad"],
        links=unpaired / "links.tsv",
        layer={"rna": "mine"},
        transform={"prot": "arcsinh"},
        hvg={"rna": 15},
    ).report
    assert [(i["layer"], i["values"], i["transform"]) for i in report["inputs"]] == [
        ("mine", "counts", "lognorm"),
        ("X", "counts", "arcsinh"),
    ]
    with pytest.raises(UsageError, match="names the modality 'rma'") as caught:
        run(
            [tmp_path / "rna.h5ad", unpaired / "prot.h5ad"],
            links=unpaired / "links.tsv",
            layer={"rma": "mine"},
            output=tmp_path / "o.h5mu",
        )
    assert caught.value.hint == "did you mean 'rna'?"


def test_features_seen_in_few_cells_are_left_out_and_the_report_says_so(run, unpaired, tmp_path, caplog):
    from mocli.tasks.trained.saved import load_model

    rna = ad.read_h5ad(unpaired / "rna.h5ad")
    inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    share = (rna.X.toarray() != 0).mean(axis=0)
    limit = float(np.median(share)) + 1e-3
    wanted = {*rna.var_names[share >= limit], *(f"GENE{i}" for i in range(10))}
    with caplog.at_level("INFO", "mocli"):
        report = run(inputs, links=unpaired / "links.tsv", seen_in={"rna": limit}).report
    assert set(load_model(tmp_path / "out.model").recipes["rna"].feature_names) == wanted
    read = report["inputs"][0]
    assert (read["seen_in"], read["n_used"], read["n_vars"]) == (limit, len(wanted), 50)
    assert report["inputs"][1]["seen_in"] is None
    assert "are seen in at least" in caplog.text
    both = run(
        inputs,
        links=unpaired / "links.tsv",
        seen_in={"rna": 5},
        hvg={"rna": 12},
        output=tmp_path / "both.h5mu",
    )
    assert 12 <= both.report["inputs"][0]["n_used"] <= 22
    for wrong, error in (({"rna": 1.5}, UsageError), ({"rna": 71}, UsageError), ({"rma": 5}, UsageError)):
        with pytest.raises(error, match="--seen-in"):
            run(inputs, links=unpaired / "links.tsv", seen_in=wrong, output=tmp_path / "o.h5mu")


def test_values_that_are_negative_by_nature(run, unpaired, tmp_path):
    rng = np.random.default_rng(0)
    m = ad.AnnData(
        rng.normal(size=(40, 8)).astype(np.float32),
        pd.DataFrame(index=names("m", 40)),
        pd.DataFrame(index=names("site", 8)),
    )
    m.write_h5ad(tmp_path / "methyl.h5ad")
    links = table(
        tmp_path / "l.tsv", ("rna", "methyl", "sign"), [(f"GENE{i}", f"site{i}", -1) for i in range(6)]
    )
    report = run([unpaired / "rna.h5ad", tmp_path / "methyl.h5ad"], links=[links]).report
    assert report["inputs"][1]["transform"] == "identity"
    assert report["inputs"][1]["values"] == "real"


def test_scaled_counts_can_be_log_normalised(run, unpaired, tmp_path):
    rna = ad.read_h5ad(unpaired / "rna.h5ad")
    rna.X = rna.X * 13.7  # as TPM
    rna.write_h5ad(tmp_path / "rna.h5ad")
    report = run(
        [tmp_path / "rna.h5ad", unpaired / "prot.h5ad"],
        links=unpaired / "links.tsv",
        transform={"rna": "lognorm"},
    ).report
    assert report["inputs"][0]["values"] == "positive"
