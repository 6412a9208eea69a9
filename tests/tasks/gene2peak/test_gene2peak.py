"""`mocli gene2peak`: against numpy, planted pairs, bad input."""

import json

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

import mocli
from mocli import log
from mocli.__main__ import main
from mocli.data.demo import write_demo
from mocli.data.files.inputs import open_inputs
from mocli.errors import InputError, UsageError
from mocli.report.file import validate
from mocli.tasks.gene2peak.measured import by_default
from mocli.tasks.gene2peak.options import Gene2PeakOptions
from mocli.tasks.infer.align import align, project
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.relate import relate as candidates
from mocli.tasks.run.request import requested
from mocli.tasks.trained.saved import load_model

QUICK = {"threads": 1, "device": "cpu"}
PLACE = ["gene", "peak", "chrom", "start", "end", "distance_to_tss"]
NUMBERS = ["n_cells", "correlation", "spearman", "p", "fdr", "z_matched", "p_matched", "fdr_matched"]


@pytest.fixture(autouse=True)
def quiet_after():
    yield
    log.teardown()


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """The demo's multiome of 360 cells, where genes lie, and a link table that lacks every other link."""
    folder = tmp_path_factory.mktemp("tissue")
    write_demo(folder, n_cells=360)
    with mudata.set_options(pull_on_update=False):
        both = mudata.read_h5mu(folder / "multiome.h5mu")
    both["atac"].write_h5ad(folder / "atac.h5ad")
    links = pd.read_csv(folder / "rna-atac.tsv", sep="\t")
    links[::2].to_csv(folder / "half.tsv", sep="\t", index=False)
    return folder


@pytest.fixture(scope="module")
def found(tissue):
    """One run that trains; `tables` and the model are looked at by several tests."""
    result = mocli.gene2peak(
        tissue / "multiome.h5mu",
        links=tissue / "half.tsv",
        pairing="unpaired",
        gtf=tissue / "genes.tsv",
        group_key="cell_type",
        bedpe=True,
        output=tissue / "found.tsv",
        params={"n_hidden": 32, "n_latent": 8, "batch_size": 64},
        max_steps=150,
        n_permutations=5,
        **QUICK,
    )
    log.teardown()
    return result


@pytest.fixture(scope="module")
def table(found):
    return pd.read_csv(found.output, sep="\t", na_values="NA")


@pytest.fixture
def again(tissue, found, tmp_path):
    """Ask the trained model."""

    def ask(*inputs, output="out.tsv", **options):
        defaults = {"gtf": tissue / "genes.tsv", "html": False, **QUICK}
        return mocli.gene2peak(
            [*inputs] or [tissue / "multiome.h5mu"],
            from_model=tissue / "found.model",
            output=tmp_path / output,
            **{**defaults, **options},
        )

    return ask


def imputed_and_measured(tissue):
    """Imputed expression and log accessibility, from the parts of the model and by hand."""
    saved = load_model(tissue / "found.model")
    rna, atac = open_inputs([str(tissue / "multiome.h5mu")])
    aligned = align(saved, "atac", atac, layers={}, warn=print)
    z = project(saved, "atac", aligned, "cpu")
    expected = saved.readouts["rna"].predict(z, "log", np.arange(rna.n_vars))
    logged = {}
    for f in (rna, atac):
        x = f.read().toarray().astype(float)
        logged[f.name] = np.log1p(x / x.sum(1, keepdims=True) * saved.readouts[f.name].depth)
    genes, peaks = list(map(str, rna.var.index)), list(map(str, atac.var.index))
    frames = (
        pd.DataFrame(expected, columns=genes),
        pd.DataFrame(logged["rna"], columns=genes),
        pd.DataFrame(logged["atac"], columns=peaks),
    )
    return *frames, atac.obs["cell_type"].astype(str).to_numpy()


def test_every_number_is_numpys(tissue, table):
    assert list(table.columns) == [*PLACE, "group", *NUMBERS, "correlation_measured", "linked"]
    expected, rna, atac, kind = imputed_and_measured(tissue)
    for row in table.sample(60, random_state=0).itertuples():
        mine = np.ones(len(kind), bool) if row.group == "all" else kind == row.group
        assert row.n_cells == mine.sum()
        a, b = expected[row.gene][mine], atac[row.peak][mine]
        if np.ptp(b) == 0:
            assert np.isnan(row.correlation)
            continue
        assert row.correlation == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-4)
        c = rna[row.gene][mine]
        if np.ptp(c) > 0:
            assert row.correlation_measured == pytest.approx(np.corrcoef(c, b)[0, 1], abs=1e-4)


def test_places_and_links_are_those_of_the_tables(tissue, table):
    over_all = table[table["group"] == "all"]
    assert (np.diff(over_all["correlation"].abs().dropna()) <= 0).all()
    genes = pd.read_csv(tissue / "genes.tsv", sep="\t").set_index("gene").loc[over_all["gene"]]
    forward = (genes["strand"] == "+").to_numpy()
    tss = np.where(forward, genes["start"], genes["end"] - 1)
    right, left = over_all["start"] - tss, tss - (over_all["end"] - 1)
    distance = (
        np.maximum(np.maximum(right, left), 0) * np.where(right >= left, 1, -1) * np.where(forward, 1, -1)
    )
    assert (over_all["distance_to_tss"] == distance).all()
    assert (over_all["chrom"].to_numpy() == genes["chrom"].to_numpy()).all()
    links = pd.read_csv(tissue / "half.tsv", sep="\t")
    given = set(zip(links["rna"], links["atac"], strict=True))
    pairs = list(zip(over_all["gene"], over_all["peak"], strict=True))
    assert over_all["linked"].tolist() == [int(p in given) for p in pairs]
    assert 0 < over_all["linked"].mean() < 1


def test_planted_pairs_rank_high(tissue, table):
    planted = pd.read_csv(tissue / "planted.tsv", sep="\t")
    planted = set(zip(planted["gene"], planted["peak"], strict=True))
    over_all = table[(table["group"] == "all") & table["correlation"].notna()]
    true = np.array([p in planted for p in zip(over_all["gene"], over_all["peak"], strict=True)])
    for name in ("correlation", "z_matched"):
        rank = over_all[name].rank().to_numpy()
        n = true.sum()
        auc = (rank[true].sum() - n * (n + 1) / 2) / (n * (~true).sum())
        assert auc > 0.6, name
    top = over_all["correlation"].rank(ascending=False).to_numpy() <= 100
    assert true[top].mean() > 1.4 * true.mean()


def test_report_page_and_arcs(tissue, found, table, check_report):
    report = check_report(tissue / "found.report.json")
    assert report["task"] == "gene2peak"
    over_all = table[table["group"] == "all"]
    metrics = {k: v["value"] for k, v in report["metrics"].items()}
    assert metrics["relations_tested[atac->rna]"] == len(over_all)
    assert metrics["genes_tested[atac->rna]"] == over_all["gene"].nunique()
    assert metrics["peaks_tested[atac->rna]"] == over_all["peak"].nunique()
    assert metrics["relations_fdr5_matched[atac->rna]"] == pytest.approx(
        (over_all["fdr_matched"] < 0.05).mean()
    )
    assert metrics["relations_linked[atac->rna]"] == pytest.approx(over_all["linked"].mean())
    both = over_all[["correlation", "correlation_measured"]].dropna()
    agreement = both.corr().iloc[0, 1]
    assert metrics["relations_agreement[atac->rna]"] == pytest.approx(agreement, abs=1e-4)
    for name in ("promoter_vs_matched", "promoter_vs_distal"):
        assert metrics[f"{name}_odds_ratio[atac->rna]"] > 0
        assert 0 <= metrics[f"{name}_p[atac->rna]"] <= 1
        assert report["baselines"]["measured"]["metrics"][f"{name}_p[atac->rna]"]["value"] <= 1
    listed = report["tables"]["relations"]
    assert len(listed["rows"]) == 200
    assert [row[:2] for row in listed["rows"]] == over_all[["gene", "peak"]].head(200).to_numpy().tolist()
    assert {k.split(".")[-1] for k in map(str, found.files)} >= {"tsv", "bedpe", "html", "json"}
    assert all(path.exists() for path in found.files)
    n = int((over_all["fdr_matched"] < 0.05).sum())
    tested = int(over_all["fdr_matched"].notna().sum())
    assert report["conclusion"].startswith(f"{n:,} of {tested:,} pairs pass 5% FDR against matched features")
    assert "a gene's own promoter peaks are among the strongest tenth" in report["conclusion"]
    page = (tissue / "found.report.html").read_text()
    assert "Correlation and distance" in page
    assert "The strongest peak of each gene" in page
    arcs = pd.read_csv(tissue / "found.bedpe", sep="\t")
    defined = over_all[over_all["correlation"].notna()]
    assert (arcs["name"] == (defined["gene"] + "|" + defined["peak"]).to_numpy()).all()
    assert arcs["score"].tolist() == defined["correlation"].tolist()


def test_a_model_and_peaks_alone_are_enough(tissue, table, again, caplog):
    names = ["CD4", "CD8A", "ACTB", "nobody", "NOTHING"]
    result = again(tissue / "atac.h5ad", genes=names, n_permutations=0)
    alone = pd.read_csv(result.output, sep="\t", na_values="NA")
    assert set(alone["gene"]) == {"CD4", "CD8A", "ACTB"} & set(table["gene"])
    assert list(alone.columns) == [*PLACE, *NUMBERS, "linked"]
    assert alone["p"].isna().all()
    assert alone["p_matched"].notna().any()
    trained = table[table["group"] == "all"].set_index(["gene", "peak"])["correlation"]
    expected = trained.loc[list(zip(alone["gene"], alone["peak"], strict=True))].to_numpy()
    np.testing.assert_allclose(alone["correlation"], expected, atol=1e-4)
    warned = " ".join(result.report["warnings"])
    assert "2 of the 5 genes of --genes are not in 'rna': nobody, NOTHING" in warned
    assert result.report["inputs"][0]["modality"] == "atac"
    assert not (result.output.parent / "out.model").exists()


def test_the_same_seed_gives_the_same_bytes(tissue, again):
    one, two = (again(output=f"{k}.tsv", genes="CD4,CD19,CD27", bedpe=True).output for k in (1, 2))
    assert one.read_bytes() == two.read_bytes()
    assert one.with_suffix(".bedpe").read_bytes() == two.with_suffix(".bedpe").read_bytes()


def test_genes_without_a_place_and_another_build_are_told(tissue, again, tmp_path, monkeypatch):
    genes = pd.read_csv(tissue / "genes.tsv", sep="\t")
    genes[10:].to_csv(tmp_path / "some.tsv", sep="\t", index=False)
    result = again(gtf=tmp_path / "some.tsv", n_permutations=0)
    first = ", ".join(genes["gene"][:5])
    warned = " ".join(result.report["warnings"])
    assert "10 of 400 genes are not in" in warned
    assert f"not tested: {first}, ..." in warned
    assert result.report["metrics"]["genes_unplaced[atac->rna]"]["value"] == 10
    # the demo has too few peaks at starts for the count itself to raise a doubt
    monkeypatch.setattr("mocli.data.features.genes.promoters_hit", lambda *_, **__: 40)
    moved = again(genes="CD4", n_permutations=0, force=True)
    assert "another genome build" in " ".join(moved.report["warnings"])


def test_peaks_that_were_not_measured_are_counted_apart_from_constant_ones(tissue, table, again, tmp_path):
    atac = ad.read_h5ad(tissue / "atac.h5ad")
    over_all = table[table["group"] == "all"]
    left, flat = over_all["peak"].iloc[:2]
    x = atac.X.tolil()
    x[:, atac.var_names.get_loc(flat)] = 0
    atac.X = x.tocsr()
    atac[:, atac.var_names != left].write_h5ad(tmp_path / "atac.h5ad")
    result = again(tmp_path / "atac.h5ad", n_permutations=0)
    n_left, n_flat = ((over_all["peak"] == name).sum() for name in (left, flat))
    metrics, warned = result.report["metrics"], " ".join(result.report["warnings"])
    assert metrics["peaks_absent[atac->rna]"]["value"] == 1
    assert metrics["pairs_absent[atac->rna]"]["value"] == n_left
    before = over_all["correlation"].isna().sum()
    assert metrics["pairs_constant[atac->rna]"]["value"] == before + n_flat
    assert f"1 peak features that the model knows are not in the input, so that {n_left} of" in warned
    assert f"no correlation: {left}" in warned
    assert "one of the features is the same in all cells" in warned


def test_features_without_places(unpaired, tmp_path, small, monkeypatch, check_report):
    inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    result = mocli.gene2peak(
        inputs, links=unpaired / "links.tsv", output=tmp_path / "o.tsv", max_steps=3, params=small, **QUICK
    )
    pairs = pd.read_csv(result.output, sep="\t", na_values="NA")
    assert list(pairs.columns) == ["prot", "rna", *NUMBERS, "linked"]
    assert len(pairs) == 12 * 50
    assert pairs["linked"].sum() == 10
    report = check_report(tmp_path / "o.report.json")
    assert report["metrics"]["relations_tested[rna->prot]"]["value"] == 600
    assert not any("promoter" in key for key in report["metrics"])
    assert "The strongest rna of each prot" in (tmp_path / "o.report.html").read_text()
    monkeypatch.setattr(candidates, "MOST_PAIRS", 500)
    monkeypatch.setattr("mocli.tasks.gene2peak.gene2peak.TOP", 3)
    model = tmp_path / "o.model"
    few = mocli.gene2peak(inputs[0], from_model=model, output=tmp_path / "few.tsv", html=False, **QUICK)
    strongest = pd.read_csv(few.output, sep="\t", na_values="NA")
    assert len(strongest) < 200
    expected = pairs.dropna(subset="correlation").groupby("prot").head(3)
    kept = set(zip(strongest["prot"], strongest["rna"], strict=True))
    assert set(zip(expected["prot"], expected["rna"], strict=True)) <= kept
    assert few.report["metrics"]["relations_compared[rna->prot]"]["value"] == 600


def test_a_dry_run_says_what_would_be_done(tissue, tmp_path):
    result = mocli.gene2peak(
        tissue / "multiome.h5mu", links=tissue / "half.tsv", gtf=tissue / "genes.tsv", model="scmodal",
        output=tmp_path / "o.tsv", bedpe=True, dry_run=True,
    )  # fmt: skip
    text = "\n".join(result.plan)
    assert "imputing rna from atac" in text
    assert "1,500 pairs to test" in text
    assert f"would write {tmp_path / 'o.bedpe'}" in text
    assert list(tmp_path.iterdir()) == []


MULTIOME = ["multiome.h5mu", "--links", "half.tsv"]
CORRELATE = ["-m", "scmodal"]
BAD = {
    "no gene table": ([*MULTIOME, *CORRELATE], 2, "--gtf", "read from a gene table"),
    "a window without places": (
        ["rna.h5ad", "prot.h5ad", "--links", "rna-prot.tsv", "--window", "1000"],
        2,
        "--window",
        "transcription start sites",
    ),
    "a gene table without places": (
        ["rna.h5ad", "prot.h5ad", "--links", "rna-prot.tsv", "--gtf", "genes.tsv"],
        2,
        "--gtf",
        "no feature has coordinates",
    ),
    "no such gene table": ([*MULTIOME, "--gtf", "absent.gtf"], 3, None, "does not exist"),
    "genes of another species": ([*MULTIOME, "--gtf", "other.tsv"], 3, None, "no gene of 'rna'"),
    "no such gene": (
        [*MULTIOME, "--gtf", "genes.tsv", "--genes", "CD44444,XYZ"],
        3,
        "--genes",
        "none of the 2",
    ),
    "an empty list of genes": (
        [*MULTIOME, "--gtf", "genes.tsv", "--genes", "empty.txt"],
        2,
        "--genes",
        "no name",
    ),
    "no such group": ([*MULTIOME, "--gtf", "genes.tsv", "--group-key", "cell_typ"], 3, None, "cell_type"),
    "the wrong way round": (
        [*MULTIOME, "--gtf", "genes.tsv", "--from", "rna", "--to", "atac"],
        2,
        "--from, --to",
        "not the other way round",
    ),
    "no such modality": ([*MULTIOME, "--gtf", "genes.tsv", "--to", "gex"], 2, "--to", "not among the inputs"),
    "arcs without places": (
        ["rna.h5ad", "prot.h5ad", "--links", "rna-prot.tsv", "--bedpe"],
        2,
        "--bedpe",
        "--gtf",
    ),
    "no links": (["multiome.h5mu", "--gtf", "genes.tsv", *CORRELATE], 2, None, "--links"),
    "the output is an input": (
        [*MULTIOME, "--gtf", "genes.tsv", "-o", "genes.tsv", "-f"],
        2,
        None,
        "symbolic link",
    ),
    "a negative window": ([*MULTIOME, "--gtf", "genes.tsv", "--window", "-5"], 2, None, "--window"),
    "a suffix that is none": ([*MULTIOME, "--gtf", "genes.tsv", "-o", "o.h5mu"], 2, "--output", ".tsv"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_before_training(name, tissue, tmp_path, monkeypatch, capsys):
    words, code, field, message = BAD[name]
    for file in tissue.glob("*.[ht]*"):
        if not file.name.startswith("found"):
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "other.tsv").write_text("chrom\tstart\tend\tstrand\tgene\nchr1\t5\t9\t+\tYAL001C\n")
    monkeypatch.chdir(tmp_path)
    output = [] if "-o" in words else ["-o", "o.tsv"]
    assert main(["gene2peak", *words, *output, "--threads", "1", "--device", "cpu"]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "align: step" not in err
    assert "Traceback" not in err
    assert not (tmp_path / "o.tsv").exists()
    if (tmp_path / "o.report.json").exists():
        report = json.loads((tmp_path / "o.report.json").read_text())
        validate(report)
        assert report["error"]["exit_code"] == code
        assert report["error"]["field"] == field or field is None


def test_a_table_that_exists_is_kept(tissue, tmp_path, again):
    (tmp_path / "out.bedpe").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        again(bedpe=True, genes="CD4")
    assert (tmp_path / "out.bedpe").read_text() == "mine"


def test_metacells_need_no_model_and_find_planted_pairs(tissue, tmp_path, check_report):
    from sklearn.metrics import average_precision_score

    result = mocli.gene2peak(
        tissue / "multiome.h5mu", method="metacells", gtf=tissue / "genes.tsv", group_key="cell_type",
        bedpe=True, output=tmp_path / "o.tsv", threads=1, device="cpu",
    )  # fmt: skip
    report = check_report(tmp_path / "o.report.json")
    assert not (tmp_path / "o.model").exists()
    table = pd.read_csv(tmp_path / "o.tsv", sep="\t", na_values="NA")
    over_all = table[table["group"] == "all"]
    assert (np.diff(over_all["score"].dropna()) <= 0).all()
    planted = pd.read_csv(tissue / "planted.tsv", sep="\t")
    known = set(zip(planted["gene"], planted["peak"], strict=True))
    truth = [pair in known for pair in zip(over_all["gene"], over_all["peak"], strict=True)]
    by = {c: average_precision_score(truth, over_all[c].fillna(-9)) for c in ("score", "spearman", "pearson")}
    assert by["score"] > max(by["spearman"], by["pearson"]) + 0.05
    assert (tmp_path / "o.bedpe").exists()
    assert report["metrics"]["auprc[promoter peaks]"]["value"] > 0.5
    assert report["metrics"]["auprc[promoter peaks]"]["n"] > 10
    chance = report["baselines"]["chance"]["metrics"]["auprc[promoter peaks]"]
    assert 0 < chance["value"] < 1
    assert 0 < report["baselines"]["matched"]["metrics"]["auprc[promoter peaks]"]["value"] <= 1
    assert len(result.report["inputs"]) == 2
    ours = report["metrics"]["auprc[promoter peaks]"]["value"]
    simple = report["baselines"]["spearman"]["metrics"]["auprc[promoter peaks]"]["value"]
    page = (tmp_path / "o.report.html").read_text()
    assert f"{'better than' if ours > simple else 'as'}" in page


def test_without_a_model_asked_for_metacells_are_the_default(tissue, tmp_path):
    """Values that are no counts are as good."""
    with mudata.set_options(pull_on_update=False):
        data = mudata.read_h5mu(tissue / "multiome.h5mu")
    for values in data.mod.values():
        values.X = values.X * np.float32(0.5)
        values.layers.clear()
    data.write_h5mu(tmp_path / "halves.h5mu")
    given = {"gtf": tissue / "genes.tsv", "html": False, "threads": 1, "device": "cpu"}
    result = mocli.gene2peak(tmp_path / "halves.h5mu", output=tmp_path / "o.tsv", **given)
    assert not (tmp_path / "o.model").exists()
    assert "metacell_correlation" in pd.read_csv(result.output, sep="\t")
    assert result.report["conclusion"].startswith(
        "Genes and peaks correlated over metacells, without a model: "
    )


@pytest.mark.parametrize(
    ("asked", "own"),
    [
        ({"model": "multidgd"}, {}),
        ({"max_steps": 9}, {}),
        ({"pairing": "unpaired"}, {}),
        ({}, {"direction": "raise"}),
        ({}, {"method": "latent"}),
        ({}, {"from_model": "some.model"}),
        ({}, {"gtf": None}),
    ],
)
def test_what_speaks_of_a_model_takes_one(tissue, tmp_path, asked, own):
    output = tmp_path / "o.tsv"
    plain = {"gtf": tissue / "genes.tsv"}

    def taken(options, **words):
        request = requested(tissue / "multiome.h5mu", output=output, **words)
        return by_default(request, Gene2PeakOptions(**options), lambda: open_modalities(request.data))

    assert taken(plain)
    assert not taken(plain | own, **asked)


def test_inputs_are_opened_once(tissue, tmp_path, monkeypatch):
    opened = []

    def counted(data):
        opened.append(data)
        return open_modalities(data)

    for module in ("gene2peak.gene2peak", "prepare.plan"):
        monkeypatch.setattr(f"mocli.tasks.{module}.open_modalities", counted)
    for method in ("auto", "latent"):
        mocli.gene2peak(
            tissue / "multiome.h5mu",
            gtf=tissue / "genes.tsv",
            method=method,
            dry_run=True,
            output=tmp_path / "o.tsv",
        )
    assert len(opened) == 2


def test_metacells_need_cells_measured_in_both(tissue, tmp_path):
    options = {"method": "metacells", "gtf": tissue / "genes.tsv", "output": tmp_path / "o.tsv"}
    with pytest.raises(InputError, match="genes and peaks were measured"):
        mocli.gene2peak(tissue / "multiome.h5mu", pairing="unpaired", **options)
    with pytest.raises(UsageError, match="does not use --from-model"):
        mocli.gene2peak(tissue / "multiome.h5mu", from_model=tissue / "found.model", **options)
    with pytest.raises(UsageError, match="read from a gene table"):
        mocli.gene2peak(tissue / "multiome.h5mu", method="metacells", output=tmp_path / "o.tsv", dry_run=True)


def test_cells_measured_in_both_are_scored_over_metacells_beside_a_model(tissue, found, tmp_path):
    options = {"gtf": tissue / "genes.tsv", "html": False, "method": "correlation", **QUICK}
    result = mocli.gene2peak(
        tissue / "multiome.h5mu", from_model=tissue / "found.model", output=tmp_path / "a.tsv", **options
    )
    table = pd.read_csv(result.output, sep="\t", na_values="NA")
    alone = mocli.gene2peak(
        tissue / "multiome.h5mu", gtf=tissue / "genes.tsv", method="metacells", html=False, **QUICK,
        output=tmp_path / "b.tsv",
    )  # fmt: skip
    other = pd.read_csv(alone.output, sep="\t", na_values="NA").set_index(["gene", "peak"])[
        "metacell_correlation"
    ]
    mine = table.set_index(["gene", "peak"])["metacell_correlation"]
    np.testing.assert_allclose(mine, other.loc[mine.index], atol=1e-4)
    assert (np.diff(table["score"].dropna()) <= 0).all()
