"""Features that another tool spells otherwise."""

import pytest

from mocli.data.features.index import FeatureIndex, Features
from mocli.types import ModalityKind

PEAKS = ("chr1:9963-10665", "chrX:5-90")


@pytest.mark.parametrize(
    ("kind", "own", "wanted", "how"),
    [
        (ModalityKind.ATAC, ("chr1-9963-10665", "chrX-5-90"), PEAKS, "interval"),
        (ModalityKind.ATAC, ("chr1_9963_10665", "chrX_5_90"), PEAKS, "interval"),
        (ModalityKind.ATAC, ("1:9963-10665", "X:5-90"), PEAKS, "interval"),
        (ModalityKind.ATAC, ("chr1:9,963-10,665", "chrX:5-90"), PEAKS, "interval"),
        (
            ModalityKind.PROT,
            ("CD3-TotalSeqB", "CD4-TotalSeqB"),
            ("CD3_TotalSeqB", "CD4_TotalSeqB"),
            "separators",
        ),
        (ModalityKind.RNA, ("HLA.A", "X7SK"), ("HLA-A", "7SK"), "separators"),
        (ModalityKind.RNA, ("ENSG00000000003.14", "B"), ("ENSG00000000003", "B"), "version"),
    ],
)
def test_another_spelling_is_found_where_it_is_clear(kind, own, wanted, how):
    positions, fallbacks = FeatureIndex(Features("x", kind, own)).find_each(wanted)
    assert positions.tolist() == [0, 1]
    assert how in fallbacks


def test_two_features_that_would_be_one_are_none():
    index = FeatureIndex(Features("rna", ModalityKind.RNA, ("HLA.A", "CD3-1", "CD31")))
    positions, _ = index.find_each(["HLA-A", "HLA_A", "CD3_1", "CD3.1", "CD31"])
    assert positions.tolist() == [-1, -1, -1, -1, 2]
    twice = FeatureIndex(Features("rna", ModalityKind.RNA, ("a.b", "a-b")))
    assert twice.find_each(["a_b"])[0].tolist() == [-1]
