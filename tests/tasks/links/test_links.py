"""Building link tables from names and places, and auditing them."""

import gzip
import math

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.data.features.proteins import antigen_table
from mocli.data.links.linktable import read_links
from mocli.errors import EnvironmentProblem, InputError, UsageError
from mocli.tasks.links.build import build_links, say_links
from mocli.tasks.links.check import audit_links, constant_features


def write(path, names, *, var=None, x=None, layer=None):
    n = 6
    if x is None:
        x = np.random.default_rng(0).poisson(1.0, (n, len(names))) + np.eye(n, len(names))
    a = ad.AnnData(
        sparse.csr_matrix(np.asarray(x, dtype=np.float32)),
        obs=pd.DataFrame(index=[f"c{k}" for k in range(len(x))]),
        var=pd.DataFrame(var or {}, index=list(names)),
    )
    if layer is not None:
        a.layers[layer] = a.X.copy()
    a.write_h5ad(path)
    return str(path)


GENES = ["CD3E", "CD3D", "CD3G", "CD4", "CD8A", "PTPRC", "MALAT1", "ACTB", "RPL3"]
PEAKS = ["chr1:900-1100", "chr1:4000-4200", "chr1:60000-60100", "chr2:100-300", "chr9:1-5"]
TABLE = """\
chrom\tstart\tend\tgene\tstrand
1\t1000\t3000\tCD3E\t+
1\t2000\t4001\tCD4\t-
2\t1000\t1500\tCD8A\t+
5\t10\t20\tPTPRC\t+
"""


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "rna.h5ad", GENES)
    write(tmp_path / "prot.h5ad", ["CD3", "CD4-RPA-T4", "IgG1", "CD45RA_TotalSeqB", "Nothing"])
    write(tmp_path / "atac.h5ad", PEAKS)
    (tmp_path / "genes.tsv").write_text(TABLE)
    return tmp_path


def pairs(made):
    s, t = made.source.names, made.target.names
    links = zip(made.proposal.source, made.proposal.target, made.proposal.weight, strict=True)
    return {(s[i], t[j]): pytest.approx(w) for i, j, w in links}


def inputs(folder, *names):
    return [str(folder / f"{name}.h5ad") for name in names]


def test_proteins_are_linked_to_their_genes(folder):
    made = build_links(inputs(folder, "prot", "rna"))
    assert made.mode == "antigen"
    expected = {("CD3", gene): 1 / 3 for gene in ("CD3E", "CD3D", "CD3G")}
    assert pairs(made) == {**expected, ("CD4-RPA-T4", "CD4"): 1, ("CD45RA_TotalSeqB", "PTPRC"): 1}
    assert [miss.name for miss in made.misses] == ["Nothing"]


def test_the_order_of_inputs_is_the_order_of_columns(folder):
    one, other = (build_links(inputs(folder, *order)) for order in (("prot", "rna"), ("rna", "prot")))
    assert pairs(other) == {(b, a): w for (a, b), w in pairs(one).items()}
    assert one.to_tsv().splitlines()[0] == "prot\trna\tweight"
    assert other.to_tsv().splitlines()[0] == "rna\tprot\tweight"


@pytest.mark.parametrize("name", ["links.tsv", "links.tsv.gz"])
def test_the_written_table_is_read_back_and_matches(folder, name):
    path = folder / name
    made = build_links(inputs(folder, "prot", "rna"), output=path)
    text = gzip.decompress(path.read_bytes()).decode() if name.endswith("gz") else path.read_text()
    assert text == made.to_tsv()
    assert read_links(path).dialect == "one column a modality"
    audit = audit_links([path], inputs(folder, "prot", "rna"), log=lambda _: None)
    assert audit.edges[0].n_links == len(made.proposal.weight)
    assert not audit.problems


def test_strange_feature_names_survive_the_table(tmp_path):
    names = ['CD4 "x"', "CD8 (a)", "CD19;b", "CD3/x"]
    write(tmp_path / "prot.h5ad", names)
    write(tmp_path / "other.h5ad", names)
    files = [f"prot={tmp_path / 'prot.h5ad'}", f"rna={tmp_path / 'other.h5ad'}"]
    build_links(files, mode="names", output=tmp_path / "links.tsv")
    frame = read_links(tmp_path / "links.tsv").frame
    assert frame["source_feature"].tolist() == frame["target_feature"].tolist() == names


def test_user_names_stand_in_the_header(folder):
    files = inputs(folder, "prot", "rna")
    made = build_links([f"panel={files[0]}", files[1]])
    assert made.to_tsv().startswith("panel\trna\tweight")


def test_a_window_decays_with_the_distance(folder):
    made = build_links(
        inputs(folder, "rna", "atac"),
        mode="window",
        genes=folder / "genes.tsv",
        reach={"window": 50_000, "decay": 1000},
    )
    assert made.mode == "window"
    assert pairs(made) == {
        ("CD3E", "chr1:900-1100"): 1,
        ("CD3E", "chr1:4000-4200"): math.exp(-3),
        ("CD4", "chr1:900-1100"): math.exp(-(4000 - 1099) / 1000),
        ("CD4", "chr1:4000-4200"): 1,
        ("CD8A", "chr2:100-300"): math.exp(-(1000 - 299) / 1000),
    }
    whys = {miss.name: miss.why for miss in made.misses}
    assert whys["PTPRC"] == "no peak within reach"
    assert whys["MALAT1"] == "not in the gene table"


def test_promoters_and_bodies(folder):
    files = inputs(folder, "rna", "atac")
    near = build_links(files, mode="promoter", genes=folder / "genes.tsv", reach={"promoter": 500})
    assert set(pairs(near)) == {("CD3E", "chr1:900-1100"), ("CD4", "chr1:4000-4200")}
    body = build_links(files, genes=folder / "genes.tsv", reach={"upstream": 200})
    assert body.mode == "body"
    # CD4 is on the minus strand: its upstream is behind its end
    assert set(pairs(body)) == {("CD3E", "chr1:900-1100"), ("CD4", "chr1:4000-4200")}
    assert all(w == 1 for w in pairs(body).values())


def test_proteins_reach_peaks_by_their_genes(folder):
    made = build_links(
        inputs(folder, "atac", "prot"), genes=folder / "genes.tsv", mode="promoter", reach={"promoter": 500}
    )
    # of CD3 the table has one gene only: the whole weight is its
    assert pairs(made) == {("chr1:900-1100", "CD3"): 1, ("chr1:4000-4200", "CD4-RPA-T4"): 1}


def test_a_gene_id_says_which_of_two_places(tmp_path):
    names, ids = ["AAA", "BBB", "CCC"], ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003"]
    write(tmp_path / "rna.h5ad", names, var={"gene_ids": ids})
    write(tmp_path / "atac.h5ad", ["chr1:90-110", "chr2:90-110", "chr3:90-110", "chr4:90-110"])
    rows = [
        'chr1\tx\tgene\t101\t200\t.\t+\t.\tgene_id "ENSG00000000001.7"; gene_name "AAA";',
        'chr2\tx\tgene\t101\t200\t.\t+\t.\tgene_id "ENSG00000000099"; gene_name "AAA";',
        'chr3\tx\tgene\t101\t200\t.\t+\t.\tgene_id "ENSG00000000055"; gene_name "BBB";',
        'chr4\tx\tgene\t101\t200\t.\t+\t.\tgene_id "ENSG00000000056"; gene_name "BBB";',
    ]
    (tmp_path / "genes.gtf").write_text("\n".join(rows))
    made = build_links(inputs(tmp_path, "rna", "atac"), genes=tmp_path / "genes.gtf", mode="promoter")
    assert set(pairs(made)) == {("AAA", "chr1:90-110")}
    assert any("BBB" in note and "several chromosomes" in note for note in made.proposal.notes)


def test_same_names_are_linked_with_the_fallbacks_of_matching(tmp_path):
    write(tmp_path / "a.h5ad", ["GAPDH", "ACTB", "RPL3", "RPS6", "XIST"])
    write(tmp_path / "b.h5ad", ["ENSG1", "ENSG2", "ENSG3"], var={"symbol": ["GAPDH", "ACTB", "OTHER"]})
    files = [f"rna={tmp_path / 'a.h5ad'}", f"activity={tmp_path / 'b.h5ad'}"]
    made = build_links(files)
    assert made.mode == "names"
    assert pairs(made) == {("GAPDH", "ENSG1"): 1, ("ACTB", "ENSG2"): 1}
    swapped = build_links(files[::-1])
    assert set(pairs(swapped)) == {("ENSG1", "GAPDH"), ("ENSG2", "ACTB")}


def test_two_panels_share_antigens(tmp_path):
    write(tmp_path / "prot.h5ad", ["CD3", "PD-1", "CD4"])
    write(tmp_path / "cytof.h5ad", ["CD3", "CD279", "pSTAT1"])
    made = build_links([str(tmp_path / "prot.h5ad"), f"cytof={tmp_path / 'cytof.h5ad'}"])
    assert set(pairs(made)) == {("CD3", "CD3"), ("PD-1", "CD279")}


@pytest.mark.parametrize(
    ("names", "options", "match"),
    [
        (["rna"], {}, "two modalities, but the inputs hold 1"),
        (["rna", "prot", "atac"], {}, "two modalities, but the inputs hold 3"),
        (["rna", "atac"], {}, "by their positions"),
        (["rna", "prot"], {"mode": "window", "genes": "genes.tsv"}, "links genes to peaks"),
        (["rna", "prot"], {"genes": "genes.tsv"}, "does not use"),
        (["rna", "atac"], {"genes": "genes.tsv", "reach": {"decay": 1000}}, "no effect in --mode body"),
        (["rna", "prot"], {"reach": {"upstream": 1000}}, "no effect in --mode antigen"),
        (["rna", "atac"], {"mode": "antigen"}, "modality of proteins"),
        (["rna", "atac"], {"mode": "nearest"}, "nearest"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, names, options, match):
    options = {k: folder / v if k == "genes" else v for k, v in options.items()}
    with pytest.raises(UsageError, match=match):
        build_links(inputs(folder, *names), **options)


def test_nothing_linked_is_an_error_with_examples(tmp_path):
    write(tmp_path / "rna.h5ad", ["ENSG1", "ENSG2"])
    write(tmp_path / "prot.h5ad", ["CD3", "CD4"])
    with pytest.raises(InputError, match="no link was found") as caught:
        build_links(inputs(tmp_path, "prot", "rna"))
    assert "--var-key" in caught.value.hint
    assert "CD3" in caught.value.found


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("gene\tchrom\tstart\tend\nZZZ\t1\t1\t2\n", "no gene of 'rna'"),
        ("gene\tchrom\tstart\tend\nCD4\t7\t1\t2\n", "share no chromosome"),
        ("gene\tchrom\tstart\tend\nCD4\t9\t99999999\t99999999\n", "no peak lies near"),
    ],
)
def test_a_table_of_another_genome_is_refused(folder, table, match):
    (folder / "other.tsv").write_text(table)
    with pytest.raises(InputError, match=match) as caught:
        build_links(inputs(folder, "rna", "atac"), genes=folder / "other.tsv")
    assert "species" in caught.value.hint


def test_an_output_in_use_is_spared_before_the_work(folder):
    path = folder / "links.tsv"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        build_links(inputs(folder, "prot", "rna"), output=path)
    assert path.read_text() == "mine"
    build_links(inputs(folder, "prot", "rna"), output=path, force=True)
    assert path.read_text().startswith("prot\trna")
    with pytest.raises(UsageError, match="also an input"):
        build_links(
            inputs(folder, "rna", "atac"), genes=folder / "genes.tsv", output=folder / "genes.tsv", force=True
        )
    with pytest.raises(EnvironmentProblem):
        build_links(inputs(folder, "prot", "rna"), output=folder / "absent" / "links.tsv")


def test_misses_are_named_up_to_the_limit(tmp_path):
    write(tmp_path / "rna.h5ad", ["CD4", "ACTB", "RPL3"])
    write(tmp_path / "prot.h5ad", ["CD4", *(f"Odd{k}x" for k in range(5))])
    made = build_links(inputs(tmp_path, "prot", "rna"))
    short, full = [], []
    say_links(made, log=short.append, limit=2)
    say_links(made, log=full.append, limit=None)
    assert "and 3 more" in short[-1]
    assert all(f"'Odd{k}x'" in full[-1] for k in range(5))
    assert any("1 of 6 prot features <-> 1 of 3 rna features" in line for line in short)


def test_the_audit_finds_what_is_wrong(tmp_path):
    genes = [f"G{k}" for k in range(40)]
    x = np.random.default_rng(1).poisson(2.0, (6, 40)) + np.eye(6, 40)
    x[:, 3], x[:, 4] = 0, 7
    write(tmp_path / "rna.h5ad", genes, x=x)
    write(tmp_path / "prot.h5ad", [f"P{k}" for k in range(8)])
    rows = [("G0", "P0"), ("G0", "P0"), ("g1", "P1"), ("G1", "P1"), ("G3", "P2"), ("G4", "P3"), ("Gx", "P0")]
    rows += [(f"G{k}", "P7") for k in range(5, 25)] + [("G30", "P77"), ("G30", "P4")]
    text = "rna\tprot\n" + "".join(f"{a}\t{b}\n" for a, b in rows)
    (tmp_path / "links.tsv").write_text(text)
    audit = audit_links([tmp_path / "links.tsv"], inputs(tmp_path, "rna", "prot"), log=lambda _: None)
    found = {(p.problem, p.modality, p.feature) for p in audit.problems}
    assert found == {
        ("not found", "rna", "Gx"),
        ("not found", "prot", "P77"),
        ("constant", "rna", "G3"),
        ("constant", "rna", "G4"),
        ("many links", "prot", "P7"),
    }
    (edge,) = audit.edges
    assert (audit.n_repeated, edge.n_repeated, edge.n_links) == (1, 1, 25)
    assert (edge.source.n_unmatched, edge.source.n_constant, edge.target.n_many) == (1, 2, 1)
    assert edge.source.n_linked == 25
    detail = {p.feature: p.detail for p in audit.problems}
    assert detail["P7"].startswith("20 links to rna")
    assert detail["P77"] == "nearest: P7"
    assert any("repeated" in note for note in audit.notes)


@pytest.mark.parametrize("block", [1, 10**9])
@pytest.mark.parametrize("layer", [None, "counts"])
def test_constant_features_against_numpy(tmp_path, monkeypatch, block, layer):
    monkeypatch.setattr("mocli.tasks.links.check._BLOCK", block)
    x = np.random.default_rng(2).poisson(0.2, (30, 50)).astype(float)
    x[:, 5], x[:, 6], x[:, 7] = 0, 3, -1
    x[:, 8] = [2] * 29 + [0]
    write(tmp_path / "rna.h5ad", [f"g{k}" for k in range(50)], x=x, layer=layer)
    from mocli.data.files.inputs import open_inputs

    (file,) = open_inputs([str(tmp_path / "rna.h5ad")])
    assert constant_features(file).tolist() == (x.min(0) == x.max(0)).tolist()


# -- real data


PANELS = ("eccite_pbmc_49adt", "adt87_pbmc_kotliarov", "adt216_pbmc_stim_4batch")


def shipped_links(folder, name):
    """Genes by protein, with their weights; cells that hold several genes are cut."""
    table = pd.read_csv(folder / f"{name}.links.tsv", sep="\t")
    rna_first = table["source_modality"] == "rna"
    protein = table["source_feature"].where(~rna_first, table["target_feature"])
    gene = table["target_feature"].where(~rna_first, table["source_feature"])
    found = {}
    for p, cell, weight in zip(protein, gene, table["weight"], strict=True):
        names = cell.split(", ")
        found.setdefault(p, {}).update({name: weight / len(names) for name in names})
    return found


@pytest.mark.real_data
@pytest.mark.parametrize("name", PANELS)
def test_real_panels_get_the_same_genes_from_names_alone(shared_data, name):
    """The same gene: the sets meet, and the gene to look at (ours: the first) is of largest weight there."""
    wrong = {}
    shipped = shipped_links(shared_data, name)
    for protein, weights in shipped.items():
        ours = [gene[0] for gene in antigen_table().find(protein).genes()]
        best = {gene for gene, weight in weights.items() if weight == max(weights.values())}
        if not ours or ours[0] not in best:
            wrong[protein] = f"{'/'.join(ours) or 'nothing'}, shipped: {'/'.join(weights)}"
    share = 1 - len(wrong) / len(shipped)
    assert share >= 0.9, f"{share:.1%} of {len(shipped)}; misses: {wrong}"


@pytest.mark.real_data
def test_a_real_panel_is_linked_to_its_own_rna(shared_data):
    made = build_links([str(shared_data / "eccite_pbmc_49adt.h5mu")])
    shipped = {(gene, p) for p, genes in shipped_links(shared_data, PANELS[0]).items() for gene in genes}
    assert len(shipped - set(pairs(made))) <= 0.1 * len(shipped), shipped - set(pairs(made))


@pytest.mark.real_data
def test_real_peaks_get_the_shipped_pairs(shared_data):
    made = build_links(
        [str(shared_data / "snareseq_mouse_cortex.h5mu")],
        mode="window",
        genes=shared_data / "prior_genes_mm10.tsv.gz",
        reach={"window": 100_000, "decay": 10_000},
    )
    shipped = pd.read_csv(shared_data / "snareseq_mouse_cortex.links.tsv", sep="\t")
    expected = dict(
        zip(
            zip(shipped["source_feature"], shipped["target_feature"], strict=True),
            shipped["weight"],
            strict=True,
        )
    )
    found = pairs(made)
    assert found.keys() == expected.keys()
    ours = {pair: float(w.expected) for pair, w in found.items()}
    # the shipped weights are rounded to four digits
    assert max(abs(ours[pair] - weight) for pair, weight in expected.items()) < 1e-3
    assert not any("warning" in note for note in made.proposal.notes)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("build", "warned"), [("hg38", False), ("hg19", True)], ids=["the build of the peaks", "another build"]
)
def test_a_gene_table_of_another_build_is_noticed(shared_data, build, warned):
    made = build_links(
        [str(shared_data / "multiome_pbmc_tiny40.h5mu")],
        genes=shared_data / f"prior_genes_{build}.tsv.gz",
        mode="promoter",
    )
    assert any("another genome build" in note for note in made.proposal.notes) is warned
