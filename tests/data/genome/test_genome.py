import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocli.data.features.intervals import Interval, normalise_chrom, parse_interval, parse_intervals


@pytest.mark.parametrize(
    ("text", "chrom", "start", "end"),
    [
        ("chr1:100-200", "chr1", 100, 200),
        ("chr1-100-200", "chr1", 100, 200),
        ("chr1_100_200", "chr1", 100, 200),
        ("1:100-200", "chr1", 100, 200),
        ("Chr1:100-200", "chr1", 100, 200),
        ("X-5-6", "chrX", 5, 6),
        ("MT:1-10", "chrM", 1, 10),
        (" chr2:1,000-2,000,000 ", "chr2", 1000, 2000000),
        ("chr10_GL383546v1_alt:5-9", "chr10_GL383546v1_alt", 5, 9),
        ("chr10_GL383546v1_alt-5-9", "chr10_GL383546v1_alt", 5, 9),
        ("GL000194.1:101-969", "GL000194.1", 101, 969),
        ("chr1:7-7", "chr1", 7, 7),
    ],
)
def test_an_interval_is_read_however_it_is_written(text, chrom, start, end):
    assert parse_interval(text) == Interval(chrom, start, end)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CD4",
        "HLA-DRA",
        "RP11-431K24.1",
        "chr1",
        "chr1:100",
        "chr1:200-100",
        "chr1:a-b",
        "chr1:1-2-x",
        ":1-2",
    ],
)
def test_other_names_are_no_intervals(text):
    assert parse_interval(text) is None


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("1", "chr1"),
        ("chr1", "chr1"),
        ("CHRX", "chrX"),
        ("M", "chrM"),
        ("chrMT", "chrM"),
        ("2L", "chr2L"),
        ("IV", "chrIV"),
        ("GL000194.1", "GL000194.1"),
        ("chrUn_KI270742v1", "chrUn_KI270742v1"),
        ("chr", "chr"),
    ],
)
def test_chromosomes_get_their_ucsc_names(given_name, expected):
    assert normalise_chrom(given_name) == expected


def test_many_names_keep_their_order_and_gaps():
    frame = parse_intervals(["chr2:3-4", "CD4", "1_5_6"])
    assert frame["chrom"].tolist() == ["chr2", None, "chr1"]
    assert frame["start"].tolist() == [3, -1, 5]
    assert frame["end"].tolist() == [4, -1, 6]
    assert parse_intervals([]).shape == (0, 3)
    assert parse_intervals([])["start"].dtype == "int64"


@given(
    st.sampled_from(["1", "chr1", "chrX", "chr6_GL000256v2_alt", "KI270728.1"]),
    st.integers(0, 10**9),
    st.integers(0, 10**6),
    st.sampled_from([(":", "-"), ("-", "-"), ("_", "_")]),
)
def test_all_forms_of_an_interval_are_one(chrom, start, length, marks):
    text = f"{chrom}{marks[0]}{start}{marks[1]}{start + length}"
    assert parse_interval(text) == Interval(normalise_chrom(chrom), start, start + length)
