"""GMT files and which features belong to which set."""

import gzip

import numpy as np
import pytest

from mocli.data.links.edges import EdgeLinks
from mocli.data.links.genesets import memberships, read_gene_sets
from mocli.errors import InputError

GMT = "A\thttp://a\tTp53\tMYC\tEGFR\tMYC\n\nB\t\tCD4\tCD8A\tFOXP3\tX\nC\t\tCD4\tMYC\n"


def test_plain_and_gzipped_files_are_read(tmp_path):
    (tmp_path / "a.gmt").write_text(GMT)
    (tmp_path / "a.gmt.gz").write_bytes(gzip.compress(GMT.encode()))
    for name in ("a.gmt", "a.gmt.gz"):
        sets = read_gene_sets(tmp_path / name)
        assert sets.names == ("A", "B", "C")
        assert sets.genes[0] == {"TP53", "MYC", "EGFR"}


def test_members_are_found_by_name_and_through_links(tmp_path):
    (tmp_path / "a.gmt").write_text(GMT)
    genes = ("myc", "CD4", "tp53", "egfr", "Cd8a", "foxp3")
    peaks = ("p0", "p1", "p2")
    edge = EdgeLinks(
        "rna", "atac", genes, peaks, np.array([0, 1, 1]), np.array([0, 1, 2]),
        np.array([1.0, 0.5, 2.0], np.float32), np.array([1.0, 1.0, -1.0], np.float32), 3,
    )  # fmt: skip
    found = memberships(read_gene_sets(tmp_path / "a.gmt"), {"rna": genes, "atac": peaks}, [edge])
    assert found["rna"].toarray().T.tolist() == [[1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 1]]
    assert found["atac"].toarray().T.tolist() == [[1, 0, 0], [0, 0.5, -2]]


def test_what_cannot_be_meant_is_refused(tmp_path):
    (tmp_path / "a.gmt").write_text(GMT)
    with pytest.raises(InputError, match="no set has 3 genes"):
        memberships(read_gene_sets(tmp_path / "a.gmt"), {"rna": ("ENSG1", "ENSG2")}, [])
    with pytest.raises(InputError, match="does not exist"):
        read_gene_sets(tmp_path / "missing.gmt")
    (tmp_path / "b.gmt").write_text("A\tnote\n")
    with pytest.raises(InputError, match="line 1 has no gene"):
        read_gene_sets(tmp_path / "b.gmt")
    (tmp_path / "c.gmt").write_text("\n")
    with pytest.raises(InputError, match="no gene set"):
        read_gene_sets(tmp_path / "c.gmt")
