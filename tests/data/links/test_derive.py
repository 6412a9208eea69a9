"""Links derived from data that say themselves where genes lie."""

import pandas as pd

from mocli.data.features.index import Features
from mocli.data.features.intervals import Reach
from mocli.data.features.loci import has_places, table_of
from mocli.tasks.links.build import build_links, link_peaks
from mocli.types import ModalityKind

GENES = Features(
    "rna", ModalityKind.RNA, ("A", "B", "C"), {"interval": ("chr1:1000-1200", "chr1:9000-9100", "NA")}
)
PEAKS = Features("atac", ModalityKind.ATAC, ("chr1:900-1100", "chr1:8000-8100", "chr2:1-20"))


def test_genes_with_intervals_are_genes_and_their_intervals_a_gene_table():
    assert not has_places(GENES)
    assert has_places(PEAKS)
    table = table_of(GENES)
    assert list(table.frame["gene"]) == ["A", "B"]
    made = link_peaks(GENES, PEAKS, table, Reach("window", window=1500))
    assert list(zip(made.source, made.target, strict=True)) == [(0, 0), (1, 1)]
    assert table_of(PEAKS) is None or table_of(PEAKS).frame.empty


def test_a_multiome_as_muon_reads_it_links_as_one_without_intervals(shared_data, tmp_path):
    import mudata

    data = mudata.read_h5mu(shared_data / "multiome_pbmc_tiny40.h5mu")
    rna, atac = data["rna"][:, :3000].copy(), data["atac"][:, :8000].copy()
    where = zip(rna.var["chrom"], rna.var["chromStart"], rna.var["chromEnd"], strict=True)
    atac.var = pd.DataFrame({"interval": atac.var_names}, index=atac.var_names)
    rna.var = pd.DataFrame({"interval": [f"{c}:{int(s)}-{int(e)}" for c, s, e in where]}, index=rna.var_names)
    mudata.MuData({"rna": rna, "atac": atac}).write(tmp_path / "muon.h5mu")
    genes = shared_data / "prior_genes_hg38.tsv.gz"
    links = build_links([str(tmp_path / "muon.h5mu")], genes=genes)
    assert len(links.proposal.weight) == 3253
    own = build_links([str(tmp_path / "muon.h5mu")])
    assert len(own.proposal.weight) > 3000
    assert "without --gtf" in own.proposal.notes[-1]
