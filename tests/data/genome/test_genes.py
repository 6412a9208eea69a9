"""Where genes lie, in every form people have it; the same three genes each time."""

import gzip

import pytest

from mocli.data.features.genes import read_genes
from mocli.errors import InputError

GTF = """\
#!genome-build GRCh38
1\thavana\tgene\t101\t200\t.\t+\t.\tgene_id "ENSG01"; gene_version "5"; gene_name "AAA"; tag "x"; tag "y";
1\thavana\ttranscript\t101\t190\t.\t+\t.\tgene_id "ENSG01"; transcript_id "T1"; gene_name "AAA";
1\thavana\texon\t101\t150\t.\t+\t.\tgene_id "ENSG01"; gene_name "AAA";
X\thavana\tgene\t1001\t2000\t.\t-\t.\tgene_id "ENSG02"; gene_name "BBB";
MT\tinsdc\tgene\t5\t10\t.\t+\t.\tgene_id "ENSG03";
"""
GFF = """\
##gff-version 3
1\t.\tchromosome\t1\t9999\t.\t.\t.\tID=chromosome:1
1\thavana\tgene\t101\t200\t.\t+\t.\tID=gene:ENSG01;Name=AAA;description=a%2C b
1\thavana\tmRNA\t101\t190\t.\t+\t.\tID=transcript:T1;Parent=gene:ENSG01;Name=AAA-201
X\thavana\tncRNA_gene\t1001\t2000\t.\t-\t.\tID=gene:ENSG02;Name=BBB
MT\tinsdc\tgene\t5\t10\t.\t+\t.\tID=gene:ENSG03;gene_id=ENSG03
"""
BED = "track name=x\nchr1\t100\t200\tAAA\t0\t+\nchrX\t1000\t2000\tBBB\t0\t-\nchrM\t4\t10\tENSG03\t0\t+\n"
TSV = """\
chrom	chromStart	chromEnd	gene	strand
1	100	200	AAA	+
X	1000	2000	BBB	-
MT	4	10	ENSG03	1
"""
BIOMART = """\
Gene stable ID,Gene name,Chromosome/scaffold name,Gene start (bp),Gene end (bp),Strand
ENSG01,AAA,1,101,200,1
ENSG02,BBB,X,1001,2000,-1
ENSG03,,MT,5,10,1
"""
UCSC = """\
#chrom	strand	txStart	txEnd	name2
chr1	+	100	200	AAA
chrX	-	1000	2000	BBB
chrM	+	4	10	ENSG03
"""
PLACES = [
    ("AAA", "chr1", 100, 200, "+", 100),
    ("BBB", "chrX", 1000, 2000, "-", 1999),
    ("ENSG03", "chrM", 4, 10, "+", 4),
]
COLUMNS = ["gene", "chrom", "start", "end", "strand", "tss"]


def write(tmp_path, text, name="genes"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def places(table):
    return list(table.frame[COLUMNS].itertuples(index=False, name=None))


@pytest.mark.parametrize(
    "text", [GTF, GFF, BED, TSV, BIOMART, UCSC], ids=["gtf", "gff", "bed", "tsv", "mart", "ucsc"]
)
@pytest.mark.parametrize("form", ["plain", "gzip", "crlf", "bom"])
def test_every_form_says_the_same(tmp_path, text, form):
    data = text.encode()
    data = {
        "plain": data,
        "gzip": gzip.compress(data),
        "crlf": data.replace(b"\n", b"\r\n"),
        "bom": b"\xef\xbb\xbf" + data,
    }[form]
    assert places(read_genes(write(tmp_path, data))) == PLACES


def test_ids_are_kept(tmp_path):
    for text in (GTF, GFF, BIOMART):
        assert read_genes(write(tmp_path, text)).frame["gene_id"].tolist() == ["ENSG01", "ENSG02", "ENSG03"]


def test_genes_without_gene_rows_are_the_extent_of_their_transcripts(tmp_path):
    lines = [
        'chr1\trefGene\ttranscript\t101\t180\t.\t+\t.\tgene_id "AAA"; transcript_id "1";',
        'chr1\trefGene\ttranscript\t121\t200\t.\t+\t.\tgene_id "AAA"; transcript_id "2";',
        'chr1\trefGene\texon\t101\t110\t.\t+\t.\tgene_id "AAA";',
    ]
    table = read_genes(write(tmp_path, "\n".join(lines)))
    assert places(table) == [("AAA", "chr1", 100, 200, "+", 100)]
    assert "transcript" in table.notes[0]


def test_what_is_assumed_is_said(tmp_path):
    table = read_genes(write(tmp_path, "chr1\t100\t200\tAAA\n"))
    assert places(table) == [("AAA", "chr1", 100, 200, "+", 100)]
    assert "strand" in table.notes[0]
    assert "counting from 1" in read_genes(write(tmp_path, BIOMART)).notes[0]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty"),
        ("# nothing\n\n", "empty"),
        ("gene\tchrom\tbegin\nA\t1\t2\n", "lacks the column start and end"),
        ("gene\tchrom\tstart\tend\n", "has no genes"),
        ("gene\tchrom\tstart\tend\nA\t1\tx\t2\n", "not a whole number"),
        ("chr1\t1\t2\tA\nchr1\t3\n", "has no gene name"),
        (GTF + "chr1\tx\n", "too short"),
        (b"\xff\xfe\x00broken", "not UTF-8"),
        (gzip.compress(GTF.encode(), mtime=0)[:60], "cannot be read"),
    ],
)
def test_a_bad_table_is_refused_with_its_name(tmp_path, text, match):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=match) as caught:
        read_genes(path)
    assert caught.value.file == str(path)


def test_the_line_of_a_bad_coordinate_is_named(tmp_path):
    with pytest.raises(InputError) as caught:
        read_genes(write(tmp_path, "gene\tchrom\tstart\tend\nA\t1\t1\t2\nB\t1\t?\t9\n"))
    assert caught.value.field == "line 3"
    assert caught.value.found == "'?'"


def test_an_absent_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_genes(tmp_path / "absent.gtf")
