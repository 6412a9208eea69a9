import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mocli.data.features.index import Features
from mocli.data.links.edges import match_links
from mocli.data.links.linktable import LinkTable, read_links
from mocli.errors import InputError
from mocli.types import ModalityKind

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"


def features(modality, names, kind=None, **aliases):
    return Features(modality, ModalityKind(kind or modality), tuple(names), aliases)


def table(links, modalities=("rna", "prot"), dialect="one column a modality"):
    rows = [(*link, 1.0, 1.0)[:4] if len(link) < 4 else link for link in ((*x, 1.0)[:4] for x in links)]
    frame = pd.DataFrame(rows, columns=["source_feature", "target_feature", "weight", "sign"])
    frame.insert(0, "source_modality", pd.Series([modalities[0]] * len(frame), dtype=object))
    frame.insert(2, "target_modality", pd.Series([modalities[1]] * len(frame), dtype=object))
    return LinkTable("t.tsv", dialect, frame)


def match(tables, *loaded):
    """Edges and everything logged."""
    log = []
    return match_links(tables if isinstance(tables, list) else [tables], loaded, log=log.append), "\n".join(
        log
    )


def linked(edge):
    return {
        (edge.source_names[i], edge.target_names[j])
        for i, j in zip(edge.source_index, edge.target_index, strict=True)
    }


RNA = features("rna", ["CD3E", "CD3D", "CD3G", "CD4", "CD8A", "PTPRC"])
PROT = features("prot", ["CD3", "prot_CD4", "CD45RA", "CD45RO"])


def test_positions_weights_and_counts():
    links = [("CD3E", "CD3", 0.333), ("CD3D", "CD3", 0.333), ("PTPRC", "CD45RA"), ("CD8A", "CD8")]
    (edge,), _ = match(table(links), RNA, PROT)
    assert (edge.source, edge.target) == ("rna", "prot")
    assert edge.source_index.tolist() == [0, 1, 5]
    assert edge.target_index.tolist() == [0, 0, 2]
    np.testing.assert_allclose(edge.weight, [0.333, 0.333, 1.0], rtol=1e-6)
    assert edge.n_read == 4
    assert edge.unmatched_source == ()
    assert edge.unmatched_target == ("CD8",)
    assert edge.summary().splitlines() == [
        "3 links: 3 of 6 rna features <-> 2 of 4 prot features",
        "not in prot: 1 names of the table: 'CD8' (nearest: 'CD3')",
    ]


def test_an_edge_is_oriented_as_the_modalities_are_ordered():
    links = table([("CD3E", "CD3"), ("CD4", "prot_CD4")])
    (forward,), _ = match(links, RNA, PROT)
    (backward,), _ = match(links, PROT, RNA)
    assert (backward.source, backward.target) == ("prot", "rna")
    assert linked(backward) == {(b, a) for a, b in linked(forward)}


@pytest.mark.parametrize(
    ("modality", "name", "feature", "said"),
    [
        (features("prot", ["cd3", "CD3"]), "CD3", "CD3", None),
        (features("prot", ["a", "b"], gene_ids=["ENSG1", "ENSG2"]), "ENSG2", "b", "another column of var"),
        (features("atac", ["chr1:1-100", "chr2:1-100"]), "2-1-100", "chr2:1-100", "by coordinates"),
        (features("atac", ["1_1_100"]), "chr1:1-100", "1_1_100", "by coordinates"),
        (features("prot", ["CD8a"]), "Cd8A", "CD8a", "without regard to case"),
        (
            features("prot", ["ENSG00000010610.9"]),
            "ENSG00000010610.12",
            "ENSG00000010610.9",
            "Ensembl version",
        ),
        (features("prot", ["x"], gene_ids=["ENSG00000010610.9"]), "ENSG00000010610", "x", "Ensembl version"),
        (features("prot", ["CD4_TotalSeqB"]), "CD4", "CD4_TotalSeqB", "prefixes and suffixes"),
        (features("prot", ["adt_CD4"]), "prot_CD4", "adt_CD4", "prefixes and suffixes"),
        (features("prot", ["CD4-TotalSeqC"]), "CD4_PROT", "CD4-TotalSeqC", "prefixes and suffixes"),
    ],
)
def test_each_fallback_finds_and_says_so(modality, name, feature, said):
    (edge,), log = match(table([("CD4", name)], ("rna", modality.modality)), RNA, modality)
    assert linked(edge) == {("CD4", feature)}
    assert said in log if said else " names found " not in log


def test_a_fallback_never_guesses_between_two_features():
    prot = features("prot", ["Abc", "aBC", "prot_X", "adt_x", "CD3"])
    (edge,), log = match(table([("CD4", "abc"), ("CD4", "X"), ("CD3E", "CD3")]), RNA, prot)
    assert linked(edge) == {("CD3E", "CD3")}
    assert "2 names are left out because each fits several features" in log


def test_genes_are_never_read_as_intervals():
    rna = features("rna", ["A-1-20"])
    with pytest.raises(InputError, match="no link matches"):
        match(table([("chrA:1-20", "CD3")]), rna, PROT)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("CD3E/CD3D", {"CD3E", "CD3D"}),
        ("CD3E; CD3G", {"CD3E", "CD3G"}),
        ("CD3E, CD3D, CD3G", {"CD3E", "CD3D", "CD3G"}),
        ("CD3E/nowhere", {"CD3E"}),
        ("HLA-A/B/C", {"HLA-A", "HLA-B", "HLA-C"}),
        ("A/B", {"A/B"}),
    ],
)
def test_a_cell_with_several_names_becomes_several_links(cell, expected):
    rna = features("rna", ["CD3E", "CD3D", "CD3G", "HLA-A", "HLA-B", "HLA-C", "A/B", "A"])
    (edge,), _ = match(table([(cell, "CD3", 0.5)]), rna, PROT)
    assert linked(edge) == {(name, "CD3") for name in expected}
    assert set(edge.weight.tolist()) == {0.5}
    assert edge.unmatched_source == (("nowhere",) if "nowhere" in cell else ())


def test_repeated_var_names_are_linked_by_the_first_and_warned_of():
    rna = features(
        "rna", ["CD4", "CD8A", "CD4", "CD8A", "X", "X"], gene_ids=["E1", "E2", "E3", "E4", "E5", "E6"]
    )
    (edge,), log = match(table([("CD4", "CD3"), ("CD8A", "prot_CD4"), ("E3", "CD45RA")]), rna, PROT)
    assert edge.source_index.tolist() == [0, 1, 2]
    assert "warning: rna: 2 linked names occur more than once" in log


def test_tables_are_put_together_and_repeats_counted_once():
    one, two = table([("CD4", "prot_CD4", 0.5)]), table([("prot_CD4", "CD4", 1.0)], ("prot", "rna"))
    (edge,), log = match([one, two, table([("CD4", "CD4", 0.5)])], RNA, PROT)
    assert linked(edge) == {("CD4", "prot_CD4")}
    assert edge.weight.tolist() == [1.0]
    assert "2 repeated links are counted once; where weights differ (1), the larger is used" in log


def test_three_modalities_give_an_edge_for_each_pair():
    atac = features("atac", ["chr1:1-2", "chr1:5-6"])
    tables = [table([("CD4", "chr1-1-2")], ("rna", "atac")), table([("CD3", "CD3E")], ("prot", "rna"))]
    edges, _ = match(tables, RNA, atac, PROT)
    assert [(e.source, e.target) for e in edges] == [("rna", "atac"), ("rna", "prot")]


def test_words_for_modalities_resolve_by_kind_and_keep_the_users_names():
    loaded = (features("pbmc", RNA.names, kind="rna"), features("panel", PROT.names, kind="cyto"))
    (edge,), _ = match(table([("CD3E", "CD3")], ("GEX", "Protein")), *loaded)
    assert (edge.source, edge.target) == ("pbmc", "panel")


def test_a_word_that_fits_two_modalities_is_refused():
    loaded = (features("ref", RNA.names, kind="rna"), features("query", RNA.names, kind="rna"), PROT)
    with pytest.raises(InputError, match="any of several") as caught:
        match(table([("CD3E", "CD3")]), *loaded)
    assert caught.value.found == "ref, query"


def test_rows_of_absent_modalities_are_ignored_aloud():
    tables = [table([("CD4", "chr1:1-2")], ("rna", "atac")), table([("CD3E", "CD3")])]
    edges, log = match(tables, RNA, PROT)
    assert len(edges) == 1
    assert "1 links rna <-> atac ignored: no modality 'atac' is loaded" in log
    with pytest.raises(InputError, match="no link joins two of the loaded modalities"):
        match(tables[:1], RNA, PROT)
    with pytest.raises(InputError, match="no link joins two of the loaded modalities"):
        match(tables[1:], RNA)


@pytest.mark.parametrize("swap", [False, True])
def test_without_words_the_columns_find_their_modalities(tmp_path, swap):
    rows = [("Antigen", "HGNC"), ("CD3", "CD3E/CD3D"), ("CD45RA", "PTPRC"), ("CD9", "CD9")]
    path = tmp_path / "t.tsv"
    path.write_text("".join("\t".join(row[::-1] if swap else row) + "\n" for row in rows))
    (edge,), log = match(read_links(path), features("atac", ["chr1:1-2"]), RNA, PROT)
    assert linked(edge) == {("CD3E", "CD3"), ("CD3D", "CD3"), ("PTPRC", "CD45RA")}
    assert "no header" not in log


def test_a_table_without_header_loses_no_link(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("CD3E\tCD3\t0.5\nPTPRC\tCD45RA\t1\n")
    (edge,), log = match(read_links(path), RNA, PROT)
    assert linked(edge) == {("CD3E", "CD3"), ("PTPRC", "CD45RA")}
    assert sorted(edge.weight.tolist()) == [0.5, 1.0]
    assert "no header" in log


def test_users_own_modality_names_in_a_header(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("lung_a\tlung_b\nCD3E\tCD3\n")
    loaded = (features("lung_b", PROT.names, kind="other"), features("lung_a", RNA.names, kind="other"))
    (edge,), _ = match(read_links(path), *loaded)
    assert linked(edge) == {("CD3", "CD3E")}


@pytest.mark.parametrize(
    ("links", "modalities", "loaded", "hint"),
    [
        ([("CD3", "CD3E")], ("rna", "prot"), (RNA, PROT), "look swapped"),
        (
            [("ENSG00000010610", "CD3"), ("ENSG00000010611", "CD3")],
            ("rna", "prot"),
            (RNA, PROT),
            "Ensembl ids stand in the table, gene symbols in the data",
        ),
        (
            [("abc", "CD3")],
            ("rna", "prot"),
            (features("rna", ["x", "y"], gene_name=["abc", "abc"]), PROT),
            "--var-key gene_name",
        ),
        ([("abc", "CD3")], ("rna", "prot"), (features("rna", ["ABC", "Abc"]), PROT), "differ in case"),
        ([("CD4", "chr1:2-9")], ("rna", "atac"), (RNA, features("atac", ["chr1:1-9"])), "differ by one"),
        ([("CD4", "chr1:2-9")], ("rna", "atac"), (RNA, features("atac", ["chr2:2-9"])), "no chromosome"),
        ([("CD4", "chr1:2-9")], ("rna", "atac"), (RNA, features("atac", ["chr1:500-900"])), "genome build"),
        ([("CD4", "chr1:2-9")], ("rna", "atac"), (RNA, features("atac", ["peak1"])), "named otherwise"),
        ([("CD4", "nil"), ("nil", "CD3")], ("rna", "prot"), (RNA, PROT), "different rows"),
        ([("Foxp3", "CD3")], ("rna", "prot"), (RNA, PROT), "organism"),
    ],
)
def test_matching_nothing_is_an_error_with_a_hint(links, modalities, loaded, hint):
    with pytest.raises(InputError, match="no link matches the data") as caught:
        match(table(links, modalities), *loaded)
    assert hint in caught.value.hint
    assert caught.value.field == " <-> ".join(modalities)


def test_matching_nothing_names_the_nearest_features():
    rna = features("rna", ["ITGAX", "ITGAM", "PECAM1"])
    with pytest.raises(InputError) as caught:
        match(table([("ITGAXX", "CD3"), ("PECAM", "CD3"), ("zzz", "CD3")]), rna, PROT)
    assert caught.value.found == "rna: 'ITGAXX' (nearest: 'ITGAX'), 'PECAM' (nearest: 'PECAM1'), 'zzz'"


def test_weight_zero_is_no_link_and_two_signs_are_an_error():
    (edge,), log = match(table([("CD3E", "CD3", 0.0), ("CD3D", "CD3", 1.0)]), RNA, PROT)
    assert linked(edge) == {("CD3D", "CD3")}
    assert "1 links of weight 0" in log
    with pytest.raises(InputError, match="weight 0"):
        match(table([("CD3E", "CD3", 0.0)]), RNA, PROT)
    both = table([("CD3E", "CD3"), ("CD3E", "CD3")])
    both.frame["sign"] = [1.0, -1.0]
    with pytest.raises(InputError, match="both signs"):
        match(both, RNA, PROT)


def brute_force(links, names, columns, x, by_target):
    """Column by column: the weighted, signed sum of the features linked to it."""
    out = np.zeros((len(x), len(columns)))
    for a, b, weight, sign in links:
        own, other = (b, a) if by_target else (a, b)
        out[:, columns.index(own)] += weight * sign * x[:, names.index(other)]
    return out


link_sets = st.dictionaries(
    st.tuples(st.integers(0, 7), st.integers(0, 5)),
    st.tuples(st.floats(0.125, 2, width=32), st.sampled_from([1.0, -1.0])),
    min_size=1,
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(link_sets, st.randoms(use_true_random=False))
def test_aggregation_is_the_weighted_sum_whatever_the_order_of_rows(chosen, random):
    a, b = [f"g{k}" for k in range(8)], [f"p{k}" for k in range(6)]
    rows = [(a[i], b[j], w, s) for (i, j), (w, s) in chosen.items()]
    frame = table([(r[0], r[1], r[2]) for r in rows])
    frame.frame["sign"] = [r[3] for r in rows]
    rna, prot = features("rna", a), features("prot", b)
    (edge,), _ = match(frame, rna, prot)
    aggregation = edge.aggregation()

    n_source, n_target = len({r[0] for r in rows}), len({r[1] for r in rows})
    by_target = n_target < n_source
    columns = list(dict.fromkeys(r[1 if by_target else 0] for r in rows))
    assert list(aggregation.names) == columns
    assert aggregation.source.shape == (8, len(columns))
    assert aggregation.target.shape == (6, len(columns))
    assert aggregation.source.dtype == aggregation.target.dtype == np.float32

    rng = np.random.default_rng(0)
    x, y = rng.random((3, 8)), rng.random((3, 6))
    summed, whole, selected, names = (x, a, y, b) if by_target else (y, b, x, a)
    left, right = x @ aggregation.source, y @ aggregation.target
    got_sum, got_selected = (left, right) if by_target else (right, left)
    np.testing.assert_allclose(
        got_sum, brute_force(rows, whole, columns, summed, by_target), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(got_selected, selected[:, [names.index(c) for c in columns]])

    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = LinkTable("t.tsv", "one column a modality", frame.frame.iloc[order].reset_index(drop=True))
    (other,), _ = match(shuffled, rna, prot)
    again = other.aggregation()
    back = [again.names.index(c) for c in columns]
    assert (again.source[:, back] != aggregation.source).nnz == 0
    assert (again.target[:, back] != aggregation.target).nnz == 0


def test_many_links_take_seconds():
    rng = np.random.default_rng(0)
    start = rng.integers(0, 10**8, 100_000)
    peaks = [f"chr{c}:{s}-{s + 500}" for c, s in zip(rng.integers(1, 20, 100_000), start, strict=True)]
    genes = [f"GENE{k}" for k in range(20_000)]
    i, j = rng.integers(0, 20_000, 200_000), rng.integers(0, 100_000, 200_000)
    links = table(
        [(genes[a], peaks[b].replace(":", "-")) for a, b in zip(i, j, strict=True)], ("rna", "atac")
    )
    began = time.perf_counter()
    (edge,), _ = match(links, features("rna", genes), features("atac", peaks))
    edge.aggregation()
    assert time.perf_counter() - began < 15
    assert len(linked(edge)) > 190_000


def names_of(name):
    h5py = pytest.importorskip("h5py")
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the real data set {name} is not beside the repository")
    with h5py.File(path) as file:
        groups = dict(file["mod"]) if "mod" in file else {"prot": file}
        order = [m for m in ("rna", "prot", "atac", "methyl") if m in groups]
        var = {m: groups[m]["var"] for m in order}
        return [features(m, [n.decode() for n in v[v.attrs["_index"]][:]]) for m, v in var.items()]


REAL = """
    adt216_pbmc_stim_4batch adt87_pbmc_kotliarov citeseq_pbmc10x_2batch citeseq_pbmc5k_29adt cytof_bcrxl_stim
    eccite_pbmc_49adt multiome_pbmc_tiny40 scgem_reprogramming scicar_a549 snareseq_mouse_cortex
"""


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL.split())
def test_real_tables_match_their_data(name):
    path = DATA / f"{name}.links.tsv"
    if not path.exists():
        pytest.skip(f"the real link table {path.name} is not beside the repository")
    alone = not (DATA / f"{name}.h5mu").exists()
    loaded = (
        names_of(f"{name}.h5ad") + names_of("eccite_pbmc_49adt.h5mu")[:1]
        if alone
        else names_of(f"{name}.h5mu")
    )
    (edge,), _ = match(read_links(path), *loaded)

    by_name = {f.modality: set(f.names) for f in loaded}
    rows = pd.read_csv(path, sep="\t", keep_default_na=False)
    known = [
        a in by_name[m] and b in by_name[n] and w > 0
        for m, a, n, b, w in rows[
            ["source_modality", "source_feature", "target_modality", "target_feature", "weight"]
        ].itertuples(index=False)
    ]
    exact = rows[known][["source_feature", "target_feature"]].drop_duplicates()
    expected = {tuple(pair) for pair in exact.itertuples(index=False)}
    if rows["source_modality"][0] != edge.source:
        expected = {pair[::-1] for pair in expected}
    assert expected
    assert expected <= linked(edge)
    if not alone:
        assert linked(edge) == expected
        assert edge.unmatched_source == edge.unmatched_target == ()
    assert edge.aggregation().source.sum() > 0


@pytest.mark.real_data
def test_a_real_dictionary_of_antigens_serves_as_a_table():
    path = DATA / "prior_adt_antigen_to_gene.tsv"
    if not path.exists():
        pytest.skip("the real dictionary of antigens is not beside the repository")
    (edge,), log = match(read_links(path), *names_of("eccite_pbmc_49adt.h5mu"))
    assert {("PTPRC", "CD45RA"), ("ITGAX", "CD11c"), ("CCR7", "prot_CCR7")} <= linked(edge)
    assert "taken for prot and rna" in log
