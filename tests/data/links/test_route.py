"""What `--links` may say besides a file, and tables that name features by position."""

import numpy as np
import pytest

from mocli.data.features.index import Features
from mocli.data.links.edges import match_links, tables_of
from mocli.data.links.linktable import read_links
from mocli.data.links.route import FirstRoute, MatrixRoute, TableRoute, chained, link_files, parse_route
from mocli.errors import InputError, UsageError
from mocli.types import ModalityKind

RNA = Features("rna", ModalityKind.RNA, ("CD4", "CD8A", "MS4A1", "2"))
PROT = Features("prot", ModalityKind.PROT, ("CD4", "CD8", "1"))
ATAC = Features("atac", ModalityKind.ATAC, ("chr1:1-5", "chr1:7-9"))


def match(path, features=(RNA, PROT)):
    said = []
    edges = match_links([read_links(path)], features, log=said.append)
    return edges, said


def write(tmp_path, text):
    path = tmp_path / "links.tsv"
    path.write_text(text)
    return path


def test_words_are_told_from_files(tmp_path, monkeypatch):
    assert parse_route("links.tsv") == TableRoute("links.tsv")
    assert parse_route("-") == TableRoute("-")
    assert parse_route("run=1/links.tsv") == TableRoute("run=1/links.tsv")
    assert parse_route("first:32") == FirstRoute("first:32", 32)
    assert parse_route("obsm:X_a,b=c") == MatrixRoute("obsm:X_a,b=c", key="X_a,b=c")
    text = "rna=obsm:X_a, prot=obsm:X_b"
    assert parse_route(text) == MatrixRoute(text, keys={"rna": "X_a", "prot": "X_b"})
    text = "rna=first:3,prot=first:03"
    assert parse_route(text) == FirstRoute(text, 3, ("rna", "prot"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first:32").write_text("rna\tprot\nCD4\tCD4\n")
    assert parse_route("first:32") == TableRoute("first:32")
    assert [p.name for p in link_files(["first:32", "first:3", "obsm:X", "a.tsv"])] == ["first:32", "a.tsv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first:", "how many"),
        ("first:0", "how many"),
        ("first:-3", "how many"),
        ("first:3.5", "how many"),
        ("obsm:", "no matrix"),
        ("rna=obsm:X", "one modality"),
        ("rna=obsm:X,prot", "cut short"),
        ("rna=obsm:X,rna=obsm:Y", "twice"),
        ("rna=obsm:X,prot=first:3", "mixes"),
        ("rna=first:2,prot=first:3", "more features"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, message):
    with pytest.raises(UsageError, match=message) as error:
        parse_route(text)
    assert error.value.field == "--links"
    assert "obsm:KEY" in error.value.expected


def test_modalities_are_joined_with_the_next_in_the_order_of_the_inputs():
    loaded = ["rna", "prot", "atac"]
    assert chained(parse_route("first:2"), loaded) == [("rna", "prot"), ("prot", "atac")]
    assert chained(parse_route("atac=obsm:X,rna=obsm:X"), loaded) == [("rna", "atac")]
    with pytest.raises(UsageError, match="'adt', which is not among") as error:
        chained(parse_route("rna=obsm:X,adt=obsm:X"), loaded)
    assert error.value.expected == "rna, prot, atac"


@pytest.mark.parametrize(
    "text",
    [
        "rna_index\tprot_index\n0\t0\n1\t1\n3\t2\n",
        "# rna_index,prot_index\n0,0\n1,1\n3,2\n",
        "prot.index\tGEX index\tweight\n0\t0\t1\n1\t1\t1\n2\t3\t1\n",
        "source_modality\tsource_index\ttarget_modality\ttarget_index\nrna\t0\tprot\t0\nrna\t1\tprot\t1\nrna\t3\tprot\t2\n",
    ],
)
def test_a_header_says_that_features_are_given_by_position(tmp_path, text):
    (edge,), said = match(write(tmp_path, text))
    assert edge.source_index.tolist() == [0, 1, 3]
    assert edge.target_index.tolist() == [0, 1, 2]
    assert (edge.n_read, edge.unmatched_source, edge.unmatched_target) == (3, (), ())
    assert any("0 of" in line and "is 'CD4'" in line for line in said)


def test_numbers_that_are_names_stay_names(tmp_path):
    (edge,), _ = match(write(tmp_path, "rna\tprot\n2\t1\n"))
    assert (edge.source_index.tolist(), edge.target_index.tolist()) == ([3], [2])
    (edge,), _ = match(write(tmp_path, "rna_index\tprot_index\n2\t1\n"))
    assert (edge.source_index.tolist(), edge.target_index.tolist()) == ([2], [1])


def test_positions_reach_what_a_repeated_name_hides(tmp_path):
    twice = Features("rna", ModalityKind.RNA, ("CD4", "CD4"))
    (edge,), said = match(write(tmp_path, "rna_index\tprot_index\n1\t0\n"), (twice, PROT))
    assert edge.source_index.tolist() == [1]
    assert not any("occur more than once" in line for line in said)


@pytest.mark.parametrize(
    ("row", "message", "field", "found"),
    [
        ("4\t0", "beyond the last feature of 'rna'", "line 3, column rna_index", "position 4"),
        ("0\t17", "beyond the last feature of 'prot'", "line 3, column prot_index", "position 17"),
        ("-1\t0", "is not a whole number", "line 3, column rna_index", "'-1'"),
        ("1.0\t0", "is not a whole number", "line 3, column rna_index", "'1.0'"),
        ("CD4\t0", "is not a whole number", "line 3, column rna_index", "'CD4'"),
    ],
)
def test_a_position_that_is_none_is_named_with_its_line(tmp_path, row, message, field, found):
    path = write(tmp_path, f"rna_index\tprot_index\n0\t0\n{row}\n")
    with pytest.raises(InputError, match=message) as error:
        match(path)
    assert (error.value.file, error.value.field, error.value.found) == (str(path), field, found)
    if row == "4\t0":
        assert error.value.expected.startswith("0 to 3")
        assert error.value.hint == "positions count from 0"


def test_files_with_other_features_each_have_no_common_positions(tmp_path):
    joined = Features("rna", ModalityKind.RNA, RNA.names, renumbered=True)
    with pytest.raises(InputError, match="positions are ambiguous"):
        match(write(tmp_path, "rna_index\tprot_index\n0\t0\n"), (joined, PROT))


def test_the_first_features_are_linked_with_those_at_their_place():
    tables = tables_of([parse_route("first:2")], [RNA, PROT, ATAC])
    edges = match_links(tables, [RNA, PROT, ATAC], log=lambda _: None)
    assert [(e.source, e.target) for e in edges] == [("rna", "prot"), ("prot", "atac")]
    for edge in edges:
        np.testing.assert_array_equal(edge.source_index, [0, 1])
        np.testing.assert_array_equal(edge.target_index, [0, 1])
        assert edge.aggregation().names == edge.source_names[:2]
    with pytest.raises(InputError, match="'atac' has fewer features") as error:
        tables_of([parse_route("first:3")], [RNA, PROT, ATAC])
    assert (error.value.found, error.value.expected) == ("2 features", "at least 3")
