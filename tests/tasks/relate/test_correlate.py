"""Relations of imputed with measured features: against scipy, planted links, nulls, tables."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from mocli.data.features.genes import GeneTable
from mocli.data.features.index import Features
from mocli.data.features.loci import find_vicinity
from mocli.data.write.outfile import write_tsv
from mocli.errors import InputError
from mocli.metrics.correlation import false_discovery_rate
from mocli.tasks.relate.correlate import all_pairs, correlate, genomic_pairs, relate, strongest_pairs
from mocli.tasks.relate.promoters import promoter_controls, promoter_enrichment
from mocli.tasks.relate.relate import relations_table
from mocli.tasks.relate.report import tell_left_out, write_bedpe
from mocli.tasks.relate.scope import FeaturePairs
from mocli.tasks.run.frame import progress
from mocli.types import ModalityKind

NUMBERS = ["correlation", "spearman", "p", "fdr", "z_matched", "p_matched", "fdr_matched"]


def sparse_cells(rng, n, m, density):
    dense = (rng.poisson(1.0, size=(n, m)) + 1) * (rng.random((n, m)) < density)
    return sparse.csr_matrix(dense.astype(np.float32))


def given(values):
    return lambda columns: values[:, columns]


def genome(n_genes, *, per_gene=5, n_chroms=4):
    """Genes 1 Mb apart in turn on the chromosomes, peaks around each: on the TSS, 1.5, 6, 20, 40 kb on."""
    offsets = np.array([0, 1_500, 6_000, 20_000, 40_000])[:per_gene]
    loci, peaks = [], []
    for g in range(n_genes):
        chrom, start = f"chr{g % n_chroms + 1}", 1_000_000 * (g // n_chroms + 1)
        loci.append((f"G{g}", "", chrom, start, start + 5_000, "+", start))
        peaks += [f"{chrom}:{start + k}-{start + k + 100}" for k in offsets]
    frame = pd.DataFrame(loci, columns=["gene", "gene_id", "chrom", "start", "end", "strand", "tss"])
    genes = Features("rna", ModalityKind.RNA, tuple(frame["gene"]))
    atac = Features("atac", ModalityKind.ATAC, tuple(peaks))
    return find_vicinity(genes, atac, GeneTable("genes.tsv", frame))


@pytest.mark.parametrize("block_values", [8_000_000, 3_000])
@pytest.mark.parametrize("density", [0.05, 0.6])
def test_every_pair_equals_scipy(monkeypatch, density, block_values):
    monkeypatch.setattr("mocli.tasks.relate.correlate._BLOCK_VALUES", block_values)
    rng = np.random.default_rng(0)
    x, y = sparse_cells(rng, 150, 40, density), rng.normal(size=(150, 20)).astype("f4")
    first = np.sort(rng.integers(0, 20, 90))
    pairs = FeaturePairs(first, rng.integers(0, 40, 90))
    groups = np.array(["b", "a", None], dtype=object)[rng.integers(0, 3, 150)]
    asked = []

    def imputed(columns):
        asked.extend(columns.tolist())
        return y[:, columns]

    found = relate(x, imputed, pairs, groups=groups, n_permutations=2)
    assert sorted(asked) == sorted(set(first.tolist()))
    assert [one.group for one in found.sets] == ["all", "a", "b"]
    dense = x.toarray()
    for one in found.sets:
        cells = np.ones(150, bool) if one.group == "all" else groups == one.group
        assert one.n_cells == cells.sum()
        for k, (i, j) in enumerate(zip(pairs.first, pairs.second, strict=True)):
            a, b = y[cells, i].astype(float), dense[cells, j].astype(float)
            if np.ptp(b) == 0:
                assert np.isnan([one.correlation[k], one.spearman[k], one.p[k], one.fdr[k]]).all()
                continue
            assert one.correlation[k] == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-6)
            assert one.spearman[k] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-6)
        assert one.fdr == pytest.approx(false_discovery_rate(one.p), nan_ok=True)
    assert correlate(x, imputed, pairs) == pytest.approx(found.sets[0].correlation, nan_ok=True)


def test_the_permutation_null_by_brute_force():
    rng = np.random.default_rng(1)
    x, y = sparse_cells(rng, 60, 6, 0.5), rng.normal(size=(60, 3)).astype("f4")
    one = relate(x, given(y), all_pairs(3, 6), n_permutations=4, n_matched=0, seed=5).sets[0]
    cells = np.tile(np.arange(60)[:, None], 4)
    order = np.random.default_rng([5, 0]).permuted(cells, axis=0)
    null = np.abs([np.corrcoef(y[order[:, k], i], x.toarray()[:, j])[0, 1]
                   for k in range(4) for i in range(3) for j in range(6)])  # fmt: skip
    expected = [(1 + (null >= abs(r)).sum()) / (1 + len(null)) for r in one.correlation]
    assert one.p == pytest.approx(expected)
    assert np.isnan(one.p_matched).all()


def test_p_are_uniform_where_nothing_is_related():
    rng = np.random.default_rng(2)
    v = genome(150)
    x, y = sparse_cells(rng, 400, len(v.peaks), 0.2), rng.normal(size=(400, 150)).astype("f4")
    one = relate(x, given(y), genomic_pairs(v)).sets[0]
    assert len(one.p) == 750
    for p in (one.p, one.p_matched):
        assert stats.kstest(p, "uniform").pvalue > 0.01
    assert one.fdr.min() > 0.05
    assert one.fdr_matched.min() > 0.05


def typed(rng, v, n_genes, *, n=600, noise=0.3):
    """Genes and peaks that follow four cell types, independently of each other."""
    types = rng.integers(0, 4, n)
    peaks = rng.random((4, len(v.peaks))) * 0.4
    x = sparse.csr_matrix((rng.random((n, len(v.peaks))) < peaks[types]).astype(np.float32))
    return (
        types,
        x,
        (rng.normal(size=(4, n_genes))[types] + noise * rng.normal(size=(n, n_genes))).astype("f4"),
    )


def test_cell_types_alone_are_significant_by_permutation_but_not_against_matched_peaks():
    rng = np.random.default_rng(3)
    v = genome(120)
    types, x, y = typed(rng, v, 120)
    found = relate(x, given(y), genomic_pairs(v), groups=types)
    everyone = found.sets[0]
    assert (everyone.fdr < 0.05).mean() > 0.4
    assert (everyone.fdr_matched < 0.05).mean() < 0.01
    assert stats.kstest(everyone.p_matched, "uniform").statistic < 0.08
    within = np.concatenate([one.p for one in found.sets[1:]])
    assert stats.kstest(within[np.isfinite(within)], "uniform").statistic < 0.05


def test_a_planted_link_is_first_of_its_window_and_stands_out_of_its_types():
    rng = np.random.default_rng(4)
    v = genome(120)
    _, x, y = typed(rng, v, 120, noise=1.0)
    dense = x.toarray()
    planted = rng.integers(0, 5, 120)
    signal = y[:, :40] + 0.8 * rng.normal(size=(len(y), 40))
    dense[:, 5 * np.arange(40) + planted[:40]] = signal > np.quantile(signal, 0.8, axis=0)
    found = relate(sparse.csr_matrix(dense), given(y), genomic_pairs(v))
    table = relations_table(found, vicinity=v)
    best = table.drop_duplicates("gene").set_index("gene")["peak"]
    assert all(best[f"G{g}"] == v.peaks[5 * g + planted[g]] for g in range(40))
    linked = table["peak"].isin([v.peaks[5 * g + planted[g]] for g in range(40)])
    assert (table["fdr_matched"][linked] < 0.1).mean() > 0.8
    assert (table["fdr_matched"][~linked] < 0.1).mean() < 0.02


def test_a_proteins_gene_stands_out():
    rng = np.random.default_rng(5)
    x = rng.gamma(2.0, size=(300, 30)).astype("f4")
    y = rng.normal(size=(300, 12)).astype("f4")
    y[:, 3] += 2 * x[:, 7]
    found = relate(sparse.csr_matrix(x), given(y), all_pairs(12, 30))
    table = relations_table(
        found, [f"g{k}" for k in range(12)], [f"p{k}" for k in range(30)], labels=("rna", "adt")
    )
    assert table.columns.tolist() == ["rna", "adt", "n_cells", *NUMBERS]
    assert table.iloc[0][["rna", "adt"]].tolist() == ["g3", "p7"]
    assert table["fdr_matched"].iloc[0] < 0.05 < table["fdr_matched"].iloc[1]
    others = np.delete(found.sets[0].correlation.reshape(12, 30)[3], 7)
    assert table["z_matched"].iloc[0] == pytest.approx(
        (table["correlation"].iloc[0] - others.mean()) / others.std(ddof=1)
    )


def test_a_short_list_of_pairs_is_measured_by_the_features_not_on_it():
    rng = np.random.default_rng(9)
    x = rng.gamma(2.0, size=(300, 40)).astype("f4")
    y = (x[:, :20] + rng.normal(size=(300, 20))).astype("f4")
    pairs = FeaturePairs(np.arange(20), np.arange(20))
    one = relate(sparse.csr_matrix(x), given(y), pairs).sets[0]
    r = np.corrcoef(y.T, x.T)[:20, 20:]
    null = []
    for k in range(20):
        others = np.delete(r[k], k)
        assert one.z_matched[k] == pytest.approx((r[k, k] - others.mean()) / others.std(ddof=1), rel=1e-4)
        null += [
            (others[j] - np.delete(others, j).mean()) / np.delete(others, j).std(ddof=1) for j in range(39)
        ]
    expected = [(1 + (np.abs(null) >= z).sum()) / (1 + len(null)) for z in one.z_matched]
    assert one.p_matched == pytest.approx(expected)
    assert (one.fdr_matched < 0.01).all()


def test_the_strongest_pairs_of_either_feature_by_brute_force(monkeypatch):
    monkeypatch.setattr("mocli.tasks.relate.correlate._WIDEST", 16)
    rng = np.random.default_rng(6)
    x, y = sparse_cells(rng, 80, 9, 0.4), rng.normal(size=(80, 50)).astype("f4")
    y[:, 4] = 1.0
    pairs = strongest_pairs(x, given(y), 50, top=3)
    r = np.abs(correlate(x, given(y), all_pairs(50, 9)).reshape(50, 9))
    wanted = {(i, j) for i in range(50) if i != 4 for j in np.argsort(-r[i])[:3]}
    ranked = np.nan_to_num(r, nan=-1)
    wanted |= {(i, j) for j in range(9) for i in np.argsort(-ranked[:, j])[:3]}
    assert list(zip(pairs.first, pairs.second, strict=True)) == sorted(wanted)
    assert pairs.n_compared == 450
    one = relate(x, given(y), pairs).sets[0]
    assert one.fdr == pytest.approx(false_discovery_rate(one.p, 450))


def test_same_seed_same_bytes_and_ties_stay_in_order(tmp_path):
    rng = np.random.default_rng(7)
    v = genome(30)
    x, y = sparse_cells(rng, 90, len(v.peaks), 0.3), rng.normal(size=(90, 30)).astype("f4")
    x = sparse.csr_matrix(np.repeat(x.toarray()[:, ::5], 5, axis=1))  # the peaks of a gene are alike
    before = x.copy()
    groups = pd.Categorical(["one"] * 80 + ["two"] * 10)
    for name in ("a", "b"):
        found = relate(x, given(y), genomic_pairs(v), groups=groups, seed=3)
        table = relations_table(found, vicinity=v)
        write_tsv(tmp_path / f"{name}.tsv", table)
        write_bedpe(tmp_path / f"{name}.bedpe", table[table["group"] == "all"], v)
    assert found.left_out == ("two",)
    assert (x != before).nnz == 0
    for suffix in ("tsv", "bedpe"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    everyone = table[table["group"] == "all"]
    assert table["group"].tolist() == ["all"] * 150 + ["one"] * 150
    strength = everyone["correlation"].abs().to_numpy()
    assert (np.diff(strength) <= 1e-12).all()
    assert [v.peaks.index(p) % 5 for p in everyone["peak"]] == [0, 1, 2, 3, 4] * 30
    read = pd.read_csv(tmp_path / "a.tsv", sep="\t")
    place = ["chrom", "start", "end", "distance_to_tss", "group", "n_cells"]
    assert read.columns.tolist() == ["gene", "peak", *place, *NUMBERS]
    assert read["correlation"].to_numpy() == pytest.approx(table["correlation"].to_numpy(), rel=1e-5)
    assert read["start"].dtype == np.int64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bedpe", "a.tsv", "b.bedpe", "b.tsv"]


def test_bedpe_joins_the_tss_and_the_peak(tmp_path):
    frame = pd.DataFrame(
        [("A", "", "chr1", 100, 201, "-", 200), ("A", "", "chr1", 5_000, 5_100, "+", 5_000)],
        columns=["gene", "gene_id", "chrom", "start", "end", "strand", "tss"],
    )
    v = find_vicinity(
        Features("rna", ModalityKind.RNA, ("A",)),
        Features("atac", ModalityKind.ATAC, ("chr1:250-300", "chr1:4900-4950", "chr1:7-8")),
        GeneTable("genes.tsv", frame),
    )
    x = np.array([[1, 0, 0], [2, 1, 0], [3, 0, 0], [4, 1, 0]], dtype="f4")
    table = relations_table(
        relate(sparse.csr_matrix(x), given(x[:, :1]), genomic_pairs(v), n_permutations=0), vicinity=v
    )
    write_bedpe(tmp_path / "o.bedpe", table, v)
    write_tsv(tmp_path / "o.tsv", table)
    assert [line.split("\t") for line in (tmp_path / "o.bedpe").read_text().splitlines()[1:]] == [
        ["chr1", "200", "201", "chr1", "250", "300", "A|chr1:250-300", "1", "-", "."],
        ["chr1", "5000", "5001", "chr1", "4900", "4950", "A|chr1:4900-4950", "0.447214", "+", "."],
    ]
    last = (tmp_path / "o.tsv").read_text().splitlines()[-1].split("\t")
    assert last == ["A", "chr1:7-8", "chr1", "7", "8", "193", "4", *["NA"] * 7]


def test_promoters_by_hand():
    # 20 promoter pairs and 20 controls: the top 4 of 40 are 3 promoters and 1 control
    distance = np.concatenate([np.tile([0, -2_000, 2_000, 1], 5), [2_001, -10_000], np.full(8, -10_001)])
    true = np.concatenate([[0.9, 0.8, 0.7], np.linspace(-0.5, 0.3, 17)])
    distal = np.array([0.95, 0.75, *np.zeros(6)])
    table = pd.DataFrame(
        {"correlation": np.concatenate([true, [0.99, 0.99], distal]), "distance_to_tss": distance}
    )
    controls = np.concatenate([[0.85], np.linspace(-0.5, 0.3, 18), [np.nan], [-0.1]])
    figures = promoter_enrichment(table, controls)
    value = {name: entry["value"] for name, entry in figures.items()}
    assert all(entry["definition"] for entry in figures.values())
    assert [value[f"promoter_vs_matched_{k}"] for k in ("n_a", "n_b", "top_a", "top_b")] == [20, 20, 3, 1]
    assert value["promoter_vs_matched_odds_ratio"] == pytest.approx((3 * 19) / (17 * 1))
    assert value["promoter_vs_matched_p"] == pytest.approx(stats.hypergeom.sf(2, 40, 20, 4))
    # promoters against distal: the top 3 of 28 are 0.95 (distal), 0.9, 0.8
    assert [value[f"promoter_vs_distal_{k}"] for k in ("n_a", "n_b", "top_a", "top_b")] == [20, 8, 2, 1]
    assert value["promoter_vs_distal_odds_ratio"] == pytest.approx((2 * 7) / (18 * 1))


def test_one_empty_side_gives_no_odds():
    table = pd.DataFrame({"correlation": [0.1, 0.2], "distance_to_tss": [0, 5], "group": ["all", "T"]})
    value = {k: entry["value"] for k, entry in promoter_enrichment(table, np.zeros(0)).items()}
    assert value["promoter_vs_matched_odds_ratio"] is None
    assert value["promoter_vs_matched_p"] is None
    assert value["promoter_vs_matched_n_a"] == 1
    clear = promoter_enrichment(table, np.full(9, -1.0))["promoter_vs_matched_odds_ratio"]
    assert clear["value"] == pytest.approx(1.5 * 9.5 / (0.5 * 0.5))


def test_controls_keep_gene_and_distance_and_change_the_chromosome():
    v = genome(40)
    pairs = promoter_controls(v, seed=1)
    assert len(pairs.first) == 80  # two promoter peaks a gene
    assert (np.diff(pairs.first) >= 0).all()
    assert np.bincount(pairs.first).tolist() == [2] * 40
    for gene in range(40):
        peaks = pairs.second[pairs.first == gene]
        assert sorted(peaks % 5) == [0, 1]  # one over a TSS, one 1.5 kb from it
        assert set(peaks // 5 % 4).isdisjoint({gene % 4})
    assert len(promoter_controls(genome(5, n_chroms=1)).first) == 0


def test_promoters_found_in_made_up_data():
    rng = np.random.default_rng(8)
    v = genome(60)
    y = rng.normal(size=(300, 60)).astype("f4")
    rate = 1 / (1 + np.exp(2.0 - np.repeat(y, 5, axis=1) * np.tile([2.0, 2.0, 0, 0, 0], 60)))
    x = sparse.csr_matrix((rng.random(rate.shape) < rate).astype("f4"))
    table = relations_table(relate(x, given(y), genomic_pairs(v)), vicinity=v)
    figures = promoter_enrichment(table, correlate(x, given(y), promoter_controls(v)))
    for against in ("matched", "distal"):
        assert figures[f"promoter_vs_{against}_odds_ratio"]["value"] > 5
        assert figures[f"promoter_vs_{against}_p"]["value"] < 1e-4


def test_values_that_are_not_finite_or_not_asked_for():
    x = sparse.csr_matrix(np.eye(30, dtype="f4"))
    with pytest.raises(InputError, match="not finite"):
        relate(x, lambda columns: np.full((30, len(columns)), np.nan), all_pairs(2, 30))
    with pytest.raises(ValueError, match="shape"):
        relate(x, lambda columns: np.zeros((29, len(columns))), all_pairs(2, 30))
    with pytest.raises(ValueError, match="sorted"):
        relate(x, given(np.zeros((30, 2))), FeaturePairs(np.array([1, 0]), np.array([0, 0])))
    with pytest.raises(ValueError, match="groups"):
        relate(x, given(np.zeros((30, 2))), all_pairs(2, 30), groups=["a"])


def test_nothing_to_relate():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = sparse.csr_matrix((40, 12), dtype=np.float32)
        constant = relate(x, given(np.ones((40, 2), "f4")), all_pairs(2, 12)).sets[0]
        none = relate(x, given(np.ones((40, 2), "f4")), FeaturePairs(*[np.zeros(0, np.int64)] * 2))
    assert np.isnan(constant.correlation).all()
    assert np.isnan(constant.p).all()
    assert len(relations_table(none, ["a", "b"], list("abcdefghijkl"))) == 0


def test_a_long_correlation_says_how_long_it_will_take(monkeypatch):
    clock = iter([0.0, 10.0, 40.0, 60.0, 80.0])
    monkeypatch.setattr("mocli.tasks.run.frame.time", SimpleNamespace(monotonic=lambda: next(clock)))
    said: list[str] = []
    tell = progress(said.append, "correlating", "genes")
    for done in (100, 400, 500, 800):
        tell(done, 800)
    # 400 of 800 in 40 s; not again within half a minute, nor at the end
    assert said == ["correlating: 400 of 800 genes  ETA 40s"]


def test_groups_that_are_too_small_are_named_and_all_are_called_all():
    def warned(groups, left_out):
        lines = []
        tell_left_out(SimpleNamespace(warn=lines.append), pd.DataFrame({"group": groups}), left_out, 20)
        return lines

    assert warned(["all", "B"], ()) == []
    assert warned(["all", "B"], ("NK", "pDC")) == ["groups of fewer than 20 cells are not tested: NK, pDC"]
    assert warned(["all"], ("B", "NK", "pDC")) == [
        "groups of fewer than 20 cells are not tested: all 3 of them"
    ]
