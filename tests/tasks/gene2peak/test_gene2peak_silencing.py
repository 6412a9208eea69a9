"""`mocli gene2peak` by silencing: planted links and factors found, tables against their files, bad input."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from planted import N_PEAKS, write_regulated
from scipy import sparse, stats

import mocli
from mocli.__main__ import main
from mocli.data.demo import write_demo
from mocli.errors import InputError, UsageError
from mocli.tasks.gene2peak.gene2peak import silence_genes
from mocli.tasks.gene2peak.options import Gene2PeakOptions

QUICK = {"threads": 1, "device": "cpu", "html": False}
SMALL = {"n_hidden": 32, "n_latent": 8, "batch_size": 64}
COLUMNS = ["gene", "peak", "chrom", "start", "end", "distance_to_tss", "group", "n_cells"]
NUMBERS = ["delta", "change", "z", "p", "fdr", "spearman", "pearson"]
SCORES = ["metacell_correlation", "z_metacells", "p_metacells", "fdr_metacells", "score"]
FACTOR, BYSTANDER, SIZE = "CD19", "CD14", 80


def read(path):
    return pd.read_csv(path, sep="\t", na_values="NA")


def write(folder, mods, name):
    with md.set_options(pull_on_update=False):
        md.MuData(mods).write_h5mu(folder / name)


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """The demo of 300 cells, in which 80 peaks were made to follow a factor by cell type."""
    folder = tmp_path_factory.mktemp("silenced")
    write_demo(folder, n_cells=300)
    with md.set_options(pull_on_update=False):
        both = md.read_h5mu(folder / "multiome.h5mu")
    rna, atac = both["rna"], both["atac"]
    rng = np.random.default_rng(0)
    kind = atac.obs["cell_type"].astype(str).to_numpy()
    counts = rna[:, FACTOR].X.toarray().ravel()
    profile = pd.Series(np.log(0.05 + counts)).groupby(kind).mean()
    profile = (profile - profile.mean()) / profile.std()
    chosen = rng.choice(atac.n_vars, 2 * SIZE, replace=False)
    x = atac.X.toarray()
    rate = np.exp(rng.normal(-1, 0.4, SIZE) + 0.8 * profile.loc[kind].to_numpy()[:, None])
    x[:, chosen[:SIZE]] = rng.poisson(rate)
    atac.X = sparse.csr_matrix(x.astype(np.float32))
    write(folder, {"rna": rna, "atac": atac}, "factor.h5mu")
    names = atac.var_names
    sets = [(FACTOR, names[j]) for j in chosen[:SIZE]] + [(BYSTANDER, names[j]) for j in chosen[SIZE:]]
    pd.DataFrame(sets, columns=["set", "peak"]).to_csv(folder / "sets.tsv", sep="\t", index=False)
    (folder / "classes.tsv").write_text(f"{FACTOR}\tactivator\n{BYSTANDER}\tnone\n")
    planted = read(folder / "planted.tsv")
    genes = read(folder / "genes.tsv").set_index("gene").loc[planted["gene"]]
    tss = np.where(genes["strand"] == "+", genes["start"], genes["end"] - 1)
    place = planted["peak"].str.extract(r"(.+):(\d+)-(\d+)")
    truth = pd.DataFrame(
        {0: genes["chrom"].to_numpy(), 1: tss, 2: tss + 1, 3: place[0], 4: place[1], 5: place[2]}
    )
    truth.to_csv(folder / "truth.bedpe", sep="\t", index=False, header=False)
    rna[:, ["CD19", "CD14", "CD4"]].write_h5ad(folder / "few.h5ad")
    plain = atac.copy()
    plain.var_names = [f"peak{j}" for j in range(plain.n_vars)]
    plain.var = plain.var[[]]
    write(folder, {"rna": rna, "atac": plain}, "plain.h5mu")
    return folder


@pytest.fixture(scope="module")
def found(tissue):
    """One run that trains, with everything asked for."""
    return mocli.gene2peak(
        tissue / "factor.h5mu", model="multidgd", batch_key="batch", label_key="cell_type",
        gtf=tissue / "genes.tsv", group_key="cell_type", bedpe=True, peak_sets=tissue / "sets.tsv",
        truth=tissue / "truth.bedpe", peak_set_classes=tissue / "classes.tsv",
        output=tissue / "found.tsv", params=SMALL, max_steps=150, **{**QUICK, "html": True},
    )  # fmt: skip


def test_genes_of_cells_in_memory_are_silenced(tissue, found):
    with md.set_options(pull_on_update=False):
        both = md.read_h5mu(tissue / "factor.h5mu")
    options = Gene2PeakOptions(gtf=tissue / "genes.tsv", genes=("CD4", "CD19"))
    result = silence_genes(found.output.with_suffix(".model"), both.mod, options)
    table = pd.read_csv(found.output, sep="\t")
    table = table[(table["group"] == "all") & table["gene"].isin(["CD4", "CD19"])]
    assert set(zip(result.table["gene"], result.table["peak"], strict=True)) == set(
        zip(table["gene"], table["peak"], strict=True)
    )
    assert np.isfinite(result.table["change"]).all()


@pytest.fixture
def again(tissue, found, tmp_path):
    def ask(*inputs, output="o.tsv", **options):
        given = {"gtf": tissue / "genes.tsv", "genes": f"{FACTOR},{BYSTANDER},CD4", **QUICK, **options}
        path = tmp_path / output
        result = mocli.gene2peak(
            list(inputs) or [tissue / "factor.h5mu"], from_model=tissue / "found.model", output=path,
            force=True, **given,
        )  # fmt: skip
        return result.report, read(path)

    return ask


def value(report, key):
    return report["metrics"][key]["value"]


def test_the_table_says_what_the_files_say(tissue, found):
    table = read(found.output)
    assert list(table.columns) == COLUMNS + NUMBERS + SCORES
    rna, atac = (md.read_h5mu(tissue / "factor.h5mu")[m] for m in ("rna", "atac"))
    kind = rna.obs["cell_type"].astype(str).to_numpy()
    for row in table.sample(30, random_state=0).itertuples():
        mine = np.ones(len(kind), bool) if row.group == "all" else kind == row.group
        expressing = (rna[:, row.gene].X.toarray().ravel() > 0) & mine
        assert row.n_cells == expressing.sum() >= 20
        assert row.peak == f"{row.chrom}:{row.start}-{row.end}"
        assert abs(row.distance_to_tss) <= 100_000
    x = {}
    for name, data in (("rna", rna), ("atac", atac)):
        dense = data.X.toarray().astype(float)
        depth = np.median(dense.sum(1))
        x[name] = pd.DataFrame(np.log1p(dense / dense.sum(1, keepdims=True) * depth), columns=data.var_names)
    for row in table[table["group"] == "all"].sample(10, random_state=1).itertuples():
        a, b = x["rna"][row.gene], x["atac"][row.peak]
        assert row.pearson == pytest.approx(np.corrcoef(a, b)[0, 1], abs=2e-3)
        assert row.spearman == pytest.approx(stats.spearmanr(a, b).statistic, abs=2e-3)
    p = table.loc[table["group"] == "all", "p"].to_numpy()
    fdr = stats.false_discovery_control(p)
    np.testing.assert_allclose(table.loc[table["group"] == "all", "fdr"], fdr, rtol=1e-4)
    assert (np.diff(table.loc[table["group"] == "all", "score"]) <= 0).all()


def test_planted_pairs_are_found_and_held_against_baselines(found):
    report = found.report
    ours, by_chance = (
        value(report, f"silencing_auprc[the known pairs; {k}]") for k in ("silencing", "chance")
    )
    assert ours > 2 * by_chance
    assert value(report, "silencing_auprc[the known pairs; spearman]") > by_chance
    simple = ("spearman", "pearson", "nearness", "silencing")
    best = max(value(report, f"silencing_auprc[the known pairs; {k}]") for k in simple)
    assert value(report, "silencing_auprc[the known pairs; combined]") > best
    assert 0.005 < value(report, "silencing_permuted_p5") < 0.12
    said = report["conclusion"]
    assert "pairs pass 10 % FDR; combined scores find the known pairs better than" in said
    assert "find promoter peaks" in said
    assert "through the decoder" in report["tables"]["silencing"]["sentence"]
    assert report["tables"]["precision_promoter_peaks"]["rows"]


def test_links_close_with_their_gene_and_arcs_rise(tissue, found):
    table = read(found.output)
    table = table[table["group"] == "all"]
    planted = read(tissue / "planted.tsv")
    known = set(zip(planted["gene"], planted["peak"], strict=True))
    true = np.array([pair in known for pair in zip(table["gene"], table["peak"], strict=True)])
    assert (table["change"][true] < 0).mean() > 0.75
    arcs = pd.read_csv(tissue / "found.bedpe", sep="\t")
    assert len(arcs) == len(table)
    np.testing.assert_allclose(arcs["score"], table["score"], rtol=1e-4)


def test_a_factor_closes_its_peaks_and_a_bystander_does_not(tissue, found):
    table = read(tissue / "found.peaksets.tsv").query("group == 'all'").set_index("set")
    factor, bystander = table.loc[FACTOR], table.loc[BYSTANDER]
    assert factor["p"] < 0.01
    assert factor["change"] < factor["change_random"]
    assert factor["fraction_closing"] > factor["fraction_closing_random"] + 0.1
    assert bystander["p"] > 0.05
    assert bystander["p_matched"] > 0.05
    # strict: of few cell types, other genes that go with the same ones move these peaks as much
    assert factor["p_matched"] < 1
    assert factor["n_peaks"] == SIZE
    classes = found.report["tables"]["peak_set_classes"]
    means = dict(zip(classes["columns"], classes["rows"][0], strict=True))
    assert means["mean"] == pytest.approx(factor["fraction_closing"], rel=1e-4)
    assert (means["class"], means["n"], means["p"]) == ("activator", 1, None)


def test_a_picture_a_gene(tissue, found):
    page = (tissue / "found.report.html").read_text()
    first = read(found.output).query("group == 'all'")["gene"].iloc[0]
    assert page.count("within reach") == 12
    assert f"{first}</" in page
    assert "Change and distance" in page


def test_the_same_seed_gives_the_same_bytes(again, tmp_path):
    again(output="a.tsv")
    again(output="b.tsv")
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()


def test_raising_is_the_other_way_round(again):
    _, down = again(step="norm")
    _, up = again(step="norm", direction="raise")
    both = down.merge(up, on=["gene", "peak"])
    assert np.corrcoef(both["change_x"], both["change_y"])[0, 1] < -0.95


def test_one_side_only(again):
    _, two = again()
    _, one = again(alternative="negative")
    both = two.merge(one, on=["gene", "peak"])
    np.testing.assert_allclose(both["z_x"], both["z_y"], rtol=1e-4)
    falls = both["p_y"] < 0.4
    np.testing.assert_allclose(both["p_x"][falls], 2 * both["p_y"][falls], rtol=0.05)


def test_genes_together(again, tmp_path):
    report, table = again(together=True)
    assert set(table["gene"]) <= {FACTOR, BYSTANDER, "CD4"}
    assert table["n_cells"].nunique() == 1
    assert report["status"] == "ok"


def test_cells_that_are_new_and_peaks_that_were_not_measured(tissue, again):
    report, table = again(f"rna={_new(tissue)}")
    assert "spearman" not in table
    assert np.isfinite(table["p"]).all()
    assert report["status"] == "ok"


def _new(tissue):
    cells = md.read_h5mu(tissue / "factor.h5mu")["rna"][:200].copy()
    cells.obs_names = [f"new{i}" for i in range(cells.n_obs)]
    cells.write_h5ad(tissue / "new.h5ad")
    return tissue / "new.h5ad"


def test_without_places_peaks_are_compared_genome_wide(tissue, tmp_path, found):
    options = {**QUICK, "model": "multidgd", "params": SMALL, "max_steps": 20, "genes": f"{FACTOR},CD4"}
    mocli.gene2peak([tissue / "plain.h5mu"], output=tmp_path / "o.tsv", **options)
    table = read(tmp_path / "o.tsv")
    assert "chrom" not in table
    assert table.groupby("gene").size().tolist() == [20, 20]
    with pytest.raises(UsageError, match="no feature has coordinates"):
        mocli.gene2peak(
            [tissue / "plain.h5mu"], output=tmp_path / "p.tsv", gtf=tissue / "genes.tsv", **options
        )


@pytest.mark.parametrize("model", ["multigrate", "sccross"])
def test_a_model_with_encoders_goes_both_ways(tissue, tmp_path, model):
    given = {**QUICK, "gtf": tissue / "genes.tsv", "genes": f"{FACTOR},CD4"}
    mocli.gene2peak(tissue / "factor.h5mu", model=model, max_steps=20, output=tmp_path / "a.tsv", **given)
    first = read(tmp_path / "a.tsv")
    result = mocli.gene2peak(
        tissue / "factor.h5mu",
        from_model=tmp_path / "a.model",
        method="input",
        output=tmp_path / "b.tsv",
        **given,
    )
    assert "encoded again" in result.report["tables"]["silencing"]["sentence"]
    assert np.isfinite(first["delta"]).all()
    assert first["delta"].any()
    assert set(read(result.output)["gene"]) == set(first["gene"]) == {FACTOR, "CD4"}


def test_genes_of_few_cells_are_told(tissue, again):
    rna = md.read_h5mu(tissue / "factor.h5mu")["rna"]
    n_cells = pd.Series(np.asarray((rna.X > 0).sum(0)).ravel(), index=rna.var_names)
    rare = n_cells[n_cells < 100].index[0]
    report, table = again(genes=f"{FACTOR},{rare}", min_cells=100)
    assert any("fewer than 100 cells" in warning and rare in warning for warning in report["warnings"])
    assert set(table["gene"]) == {FACTOR}
    assert (table["n_cells"] >= 100).all()
    assert report["tables"]["genes_left_out"]["rows"] == [[rare]]
    with pytest.raises(InputError, match="expressed in 5,000 cells"):
        again(min_cells=5_000)


def test_genes_that_were_not_measured_are_counted_apart(tissue, again, tmp_path):
    both = md.read_h5mu(tissue / "factor.h5mu")
    rna = both["rna"]
    n_cells = pd.Series(np.asarray((rna.X > 0).sum(0)).ravel(), index=rna.var_names)
    rare = n_cells[n_cells < 100].index[0]
    rna[:, rna.var_names != "CD4"].copy().write_h5ad(tmp_path / "rna.h5ad")
    both["atac"].write_h5ad(tmp_path / "atac.h5ad")
    report, table = again(
        f"rna={tmp_path / 'rna.h5ad'}", f"atac={tmp_path / 'atac.h5ad'}", genes=f"{FACTOR},CD4,{rare}",
        min_cells=100,
    )  # fmt: skip
    assert report["tables"]["genes_absent"]["rows"] == [["CD4"]]
    assert report["tables"]["genes_left_out"]["rows"] == [[rare]]
    assert any("1 genes that the model knows are not in the input" in w for w in report["warnings"])
    assert set(table["gene"]) == {FACTOR}


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"genes": "CD99999"}, InputError, "none of the 1 genes"),
        ({"method": "input"}, UsageError, "no encoders"),
        ({"method": "correlation", "together": True}, UsageError, "does not use"),
        ({"method": "guess"}, UsageError, "--method does not accept"),
        ({"step": "adm"}, UsageError, "--step does not accept"),
        ({"truth": "x.bedpe", "gtf": None}, UsageError, "--truth needs the genes"),
        ({"source": "rna", "target": "atac"}, UsageError, "not the other way round"),
        ({"group_key": "cell_typ"}, InputError, "cell_typ"),
        ({"peak_sets": "absent.tsv"}, InputError, "does not exist"),
        ({"peak_set_classes": "absent.tsv"}, UsageError, "needs --peak-sets"),
    ],
)
def test_bad_input(again, options, kind, words):
    with pytest.raises(kind, match=words):
        again(**options)


def test_genes_elsewhere_and_peaks_of_no_known_pair(tissue, again, tmp_path):
    (tmp_path / "far.bedpe").write_text("chr1\t1\t2\tchr1\t5\t6\n")
    with pytest.raises(InputError, match="none of the known pairs"):
        again(truth=tmp_path / "far.bedpe")
    genes = read(tissue / "genes.tsv").assign(chrom="chr77")
    genes.to_csv(tmp_path / "far.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="share no chromosome"):
        again(gtf=tmp_path / "far.tsv")


def test_models_of_unknown_kinds_must_be_named(tissue, tmp_path):
    mods = {f"m{k}": ad.read_h5ad(tissue / "few.h5ad") for k in range(3)}
    for name, data in mods.items():
        data.var = data.var[[]]
        data.var_names = [f"{name}.{j}" for j in range(data.n_vars)]
    write(tmp_path, mods, "three.h5mu")
    with pytest.raises(UsageError, match="say which modality holds genes"):
        mocli.gene2peak(
            [tmp_path / "three.h5mu"], model="multidgd", output=tmp_path / "o.tsv", max_steps=5,
            kind={"m0": "other", "m1": "other", "m2": "other"}, params=SMALL, **QUICK,
        )  # fmt: skip


def test_a_dry_run_trains_nothing(tissue, tmp_path, capsys):
    words = ["gene2peak", str(tissue / "factor.h5mu"), "-m", "multidgd", "--gtf", str(tissue / "genes.tsv")]
    assert main([*words, "-o", str(tmp_path / "o.tsv"), "-n"]) == 0
    assert "silencing genes in multidgd, method latent" in "".join(capsys.readouterr())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_found_links_are_right_at_the_rate_promised(tmp_path):
    """Precision at 10 % FDR on the demo with planted links, at least 0.85; AUPRC above the correlations'."""
    write_demo(tmp_path, n_cells=600)
    result = mocli.gene2peak(
        tmp_path / "multiome.h5mu", model="multidgd", batch_key="batch", label_key="cell_type",
        gtf=tmp_path / "genes.tsv", alternative="negative", output=tmp_path / "o.tsv", **QUICK,
    )  # fmt: skip
    table = read(result.output)
    planted = read(tmp_path / "planted.tsv")
    known = set(zip(planted["gene"], planted["peak"], strict=True))
    true = np.array([pair in known for pair in zip(table["gene"], table["peak"], strict=True)])
    hit = table["fdr"].to_numpy() < 0.1
    assert hit.sum() >= 30
    assert true[hit].mean() >= 0.85
    # a planted peak closes with its gene, and more than all others near by
    assert (table["change"][true] < 0).mean() >= 0.95
    first = table.assign(true=true).sort_values("change", kind="stable").groupby("gene")["true"]
    assert first.first()[first.any()].mean() >= 0.9


@pytest.mark.slow
def test_peaks_of_a_gene_s_programme_lead_among_all_peaks(tmp_path):
    """Genes that vary with their programme alone: its peaks close, and change more than 99 % of all do.

    Rounding sends a training elsewhere: of the planted peaks .895 to 1 lead in seven seeds, .98 on average.
    """
    planted = write_regulated(tmp_path)
    result = mocli.gene2peak(
        tmp_path / "both.h5mu", model="multidgd", label_key="cell_type", method="latent",
        genes=",".join(sorted(set(planted["gene"]))), gtf=tmp_path / "genes.tsv", window=10**9,
        n_permutations=0, output=tmp_path / "o.tsv", **QUICK,
    )  # fmt: skip
    table = read(result.output)
    assert (table.groupby("gene").size() == N_PEAKS).all()
    pairs = pd.MultiIndex.from_frame(table[["gene", "peak"]])
    true = pairs.isin(pd.MultiIndex.from_frame(planted))
    rank = table["change"].abs().groupby(table["gene"]).rank(ascending=False)
    assert (table["delta"][true] < 0).all()
    assert (rank[true] <= N_PEAKS / 100).mean() >= 0.85
