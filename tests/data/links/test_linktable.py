import gzip
import io
import sys

import pytest

from mocli.data.links.linktable import read_links
from mocli.errors import InputError


def write(tmp_path, text, name="links.tsv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def pairs(table):
    return list(zip(table.frame["source_feature"], table.frame["target_feature"], strict=True))


CANONICAL = "rna\tprot\tweight\tsign\nITGAX\tCD11c\t1\t1\nCD8A\tCD8\t0.5\t-1\n"


def test_canonical(tmp_path):
    table = read_links(write(tmp_path, CANONICAL))
    assert table.dialect == "one column a modality"
    assert table.frame["source_modality"].tolist() == ["rna", "rna"]
    assert table.frame["target_modality"].tolist() == ["prot", "prot"]
    assert pairs(table) == [("ITGAX", "CD11c"), ("CD8A", "CD8")]
    assert table.frame["weight"].tolist() == [1.0, 0.5]
    assert table.frame["sign"].tolist() == [1.0, -1.0]
    assert table.notes == ()


@pytest.mark.parametrize(
    "data",
    [
        CANONICAL.replace("\t", ","),
        CANONICAL.replace("\t", ";"),
        CANONICAL.replace("\n", "\r\n"),
        "\ufeff" + CANONICAL,
        "# made by hand\n\n" + CANONICAL.replace("CD8A", "# a remark\nCD8A") + "\n\n",
        gzip.compress(CANONICAL.encode(), mtime=0),
        CANONICAL.encode("utf-16"),
        '"rna","prot","weight","sign"\n"1","ITGAX","CD11c",1,1\n"2","CD8A","CD8",0.5,-1\n',
        ",rna,prot,weight,sign\n0,ITGAX,CD11c,1,1\n1,CD8A,CD8,0.5,-1\n",
        "# " + CANONICAL,
        "rna\tprot\tdistance\tsign\tweight\nITGAX\tCD11c\t7\t+1\t\nCD8A\tCD8\tx\t-\t5e-1\n",
    ],
    ids=[
        "csv",
        "semicolon",
        "crlf",
        "bom",
        "comments",
        "gzip",
        "utf16",
        "r-rownames",
        "pandas-index",
        "hash-header",
        "reordered",
    ],
)
def test_every_writing_of_a_table_is_the_same_table(tmp_path, data):
    table, plain = read_links(write(tmp_path, data)), read_links(write(tmp_path, CANONICAL, "plain.tsv"))
    assert table.dialect == "one column a modality"
    assert table.frame.equals(plain.frame)


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CANONICAL.encode())))
    table = read_links("-")
    assert table.path == "standard input"
    assert len(table.frame) == 2


def test_long_form_with_several_pairs_and_extra_columns(tmp_path):
    text = (
        "source_modality\tsource_feature\ttarget_modality\ttarget_feature\tweight\tdistance_to_tss\n"
        "rna\tCD4\tprot\tprot_CD4\t1.0\t0\nrna\tCD4\tatac\tchr1:1-2\t0.37\t9943\n"
    )
    table = read_links(write(tmp_path, text))
    assert table.dialect == "long form"
    assert table.frame["target_modality"].tolist() == ["prot", "atac"]
    assert table.frame["weight"].tolist() == [1.0, 0.37]


def test_edge_list_without_modalities(tmp_path):
    table = read_links(write(tmp_path, "source,target,weight,sign\nCD4,chr1:1-2,0.2,1\n"))
    assert table.dialect == "edge list"
    assert table.frame["source_modality"].isna().all()
    assert pairs(table) == [("CD4", "chr1:1-2")]


def test_maxfuse_leaves_ignored_rows_out_and_keeps_cells_whole(tmp_path):
    text = "Protein name,RNA name\nCD11a/CD18,ITGAL/ITGB2\nCD45RA,Ignore (isoform)\nCD9,\n"
    table = read_links(write(tmp_path, text, "conversion.csv"))
    assert table.dialect.startswith("MaxFuse")
    assert pairs(table) == [("CD11a/CD18", "ITGAL/ITGB2")]
    assert any("1 rows are marked 'Ignore'" in note for note in table.notes)
    assert any("1 rows without a name" in note for note in table.notes)


SIGNAC = '"","seqnames","start","end","score","gene","peak","zscore"\n"1","chr1",1,9,{},"CD4","chr1-1-9",3\n'


@pytest.mark.parametrize(
    ("score", "weight", "said"), [("0.25", 0.25, "used as weights"), ("-0.2", 1.0, "weight 1")]
)
def test_signac(tmp_path, score, weight, said):
    table = read_links(write(tmp_path, SIGNAC.format(score), "signac.csv"))
    assert table.dialect.startswith("Signac")
    assert pairs(table) == [("CD4", "chr1-1-9")]
    assert table.frame["weight"].tolist() == [weight]
    assert said in table.notes[0]


@pytest.mark.parametrize(
    "header", ["", "#chrom1\tstart1\tend1\tchrom2\tstart2\tend2\tname\tscore\n", "# any remark\n"]
)
def test_bedpe(tmp_path, header):
    rows = "chr1\t10\t20\tchr1\t50\t51\tCD4\t0.5\nchr2\t1\t2\tchr2\t7\t8\t.\t0.5\n"
    table = read_links(write(tmp_path, header + rows, "links.bedpe"))
    assert table.dialect == "BEDPE"
    assert pairs(table) == [("CD4", "chr1:10-20")]
    assert table.frame["weight"].tolist() == [0.5]


def test_bedpe_whose_names_say_which_is_the_peak(tmp_path):
    place = "chr1\t10\t20\tchr1\t50\t60\t"
    names = ["<CD4><chr1:50-60>", "<chr1:10-20><CD8A>", "<chr1:10-20><chr1:50-60>"]
    table = read_links(write(tmp_path, "".join(f"{place}{n}\t-0.5\n" for n in names)))
    assert pairs(table) == [("CD4", "chr1:50-60"), ("CD8A", "chr1:10-20")]
    assert table.frame["weight"].tolist() == [1.0, 1.0]
    assert any("1 rows do not name two features" in note for note in table.notes)


def test_unknown_header_is_kept_as_a_possible_link(tmp_path):
    table = read_links(write(tmp_path, "CD3E\tCD3\t0.5\nCD4\tCD4\t1\n"))
    assert table.dialect == "two columns"
    assert table.frame["weight"].tolist() == [1.0]
    assert table.first_row.iloc[0][["source_feature", "target_feature", "weight"]].tolist() == [
        "CD3E",
        "CD3",
        0.5,
    ]
    assert read_links(write(tmp_path, "mine\tyours\tweight\nCD4\tCD4\t1\n")).first_row is None


def test_repeated_rows_are_counted_once(tmp_path):
    table = read_links(write(tmp_path, "rna\tprot\nCD4\tCD4\nCD4\tCD4\nCD8A\tCD8\n"))
    assert pairs(table) == [("CD4", "CD4"), ("CD8A", "CD8")]
    assert table.notes == ("1 repeated rows are counted once",)


def test_a_gene_called_nan_does_not_become_a_number(tmp_path):
    table = read_links(write(tmp_path, "rna\tprot\nNA\tCD1\nnan\tCD2\n007\tCD3\n"))
    assert pairs(table) == [("007", "CD3")]
    assert table.notes == ("2 rows do not name two features and are left out",)


@pytest.mark.parametrize(
    ("data", "message", "field"),
    [
        ("", "empty", None),
        ("# only a remark\n\n", "empty", None),
        ("rna\tprot\n", "header but no links", None),
        ("rna prot\nCD4 CD4\n", "two columns", "line 1"),
        ("rna\n", "two columns", "line 1"),
        ("# x\n\nrna\tprot\nCD4\n", "too short", "line 4"),
        ("rna\tprot\tweight\nA\tB\t1\nCD4\tCD4\t-0.5\n", "weight", "line 3, column 3"),
        ("rna\tprot\tweight\nCD4\tCD4\thigh\n", "weight", "line 2, column 3"),
        ("rna\tprot\tweight\nCD4\tCD4\tinf\n", "weight", "line 2, column 3"),
        ("rna\tprot\tsign\nCD4\tCD4\t2\n", "sign", "line 2, column 3"),
        ("rna\tprot\nNA\t\n", "names two features", None),
        ("chr1\t1\t2\tchr1\t3\t4\nchr1\t1\t2\tchr1\t3\t4\n", "does not name a gene", "line 1"),
        (
            "source_modality\tsource_feature\ttarget_modality\ttarget_feature\nrna\tA\t\tB\n",
            "no modality",
            "line 2",
        ),
        (b"PK\x03\x04rest", "spreadsheet", None),
        (b"rna\tprot\nIL2R\xe9\tCD25\n", "not UTF-8", None),
        (gzip.compress(CANONICAL.encode(), mtime=0)[:-9], "cannot be read", None),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, data, message, field):
    with pytest.raises(InputError, match=message) as caught:
        read_links(write(tmp_path, data))
    assert caught.value.field == field
    assert caught.value.file.endswith("links.tsv")


def test_absent_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_links(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="a folder was given"):
        read_links(tmp_path)


@pytest.mark.parametrize(
    "header",
    ["modality_a feature_a modality_b feature_b", "modality1 feature1 modality2 feature2", "from_modality "
     "from_feature to_modality to_feature", "Modality A Feature A Modality B Feature B"],
)  # fmt: skip
def test_headers_name_both_ends_in_several_ways(tmp_path, header):
    words = header.split() if header[0] != "M" else ["Modality A", "Feature A", "Modality B", "Feature B"]
    table = read_links(write(tmp_path, "\t".join(words) + "\nrna\tITGAX\tprot\tCD11c\n"))
    assert table.dialect == "long form"
    assert pairs(table) == [("ITGAX", "CD11c")]
    assert table.frame["target_modality"].tolist() == ["prot"]
