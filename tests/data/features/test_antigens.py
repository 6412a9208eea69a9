"""Names of proteins and the genes they stand for; expectations are public nomenclature, written by hand."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocli.data.features.index import FeatureIndex, Features
from mocli.data.features.proteins import (
    Antigen,
    AntigenTable,
    antigen_table,
    is_control,
    is_mouse,
    key,
    link_genes,
    link_panels,
    same_antigens,
)
from mocli.types import ModalityKind

TABLE = antigen_table()
ROWS = sorted({antigen.name: antigen for antigen in TABLE._by_key.values()}.values(), key=lambda a: a.name)
SYMBOL = re.compile(r"[A-Z][A-Z0-9]*(orf\d+)?(-[A-Z0-9]+)?")
MOUSE = re.compile(r"H2-[A-Za-z0-9]+|Tcrg-C\d|[A-Z][a-z0-9]+[a-z0-9-]*|\d+[A-Z]\d+Rik")


def genes(name, **more):
    return [gene[0] for gene in TABLE.find(name, **more).genes()]


def test_the_table_covers_the_cd_nomenclature():
    numbers = {int(m[1]) for a in ROWS if (m := re.match(r"CD(\d+)", a.name))}
    assert {1, 3, 4, 8, 19, 45, 56, 158, 279, 371} <= numbers
    # the nomenclature has gaps and molecules that are no proteins, but not many
    assert len(numbers & set(range(1, 372))) >= 335


def test_every_gene_looks_like_a_symbol_and_stands_once():
    for antigen in ROWS:
        for gene in antigen.genes:
            assert all(SYMBOL.fullmatch(symbol) for symbol in gene), antigen
        for gene in antigen.mouse:
            assert all(MOUSE.fullmatch(symbol) for symbol in gene), antigen
        for chains in (antigen.genes, antigen.mouse):
            assert len(set(chains)) == len(chains)


def test_no_name_means_two_antigens():
    one, other = Antigen("CD900", (("ABC1",),)), Antigen("CD901", (("ABC2",),))
    with pytest.raises(ValueError, match="CD900"):
        AntigenTable([(one, ["x-9"]), (other, ["X9"])])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CD3", ["CD3E", "CD3D", "CD3G"]),
        ("CD4", ["CD4"]),
        ("CD4-RPA-T4", ["CD4"]),
        ("CD4.RPA.T4", ["CD4"]),
        ("prot_CD4", ["CD4"]),
        ("CD4_TotalSeqB", ["CD4"]),
        ("CD4_TotalSeq-C", ["CD4"]),
        ("adt_CD4", ["CD4"]),
        ("anti-human CD4", ["CD4"]),
        ("anti-human_CD4_(RPA-T4)", ["CD4"]),
        ("anti-CD4", ["CD4"]),
        ("anti-mouse/human CD11b", ["ITGAM"]),
        ("Hu.CD4-RPA.T4", ["CD4"]),
        ("HuMsRt.CD278", ["ICOS"]),
        ("CD3-CTCATTGTAACTCCT", ["CD3E", "CD3D", "CD3G"]),
        ("A0034-CD3", ["CD3E", "CD3D", "CD3G"]),
        ("CD8_A0080", ["CD8A", "CD8B"]),
        ("170Er_CD3", ["CD3E", "CD3D", "CD3G"]),
        ("CD3(Cd110)Di", ["CD3E", "CD3D", "CD3G"]),
        ("CD8a", ["CD8A"]),
        ("B220 (CD45R)", ["PTPRC"]),
        ("(CD45R)", ["PTPRC"]),
        ("CD45R/B220", ["PTPRC"]),
        ("CD45RA", ["PTPRC"]),
        ("CD45RO", ["PTPRC"]),
        ("CD16", ["FCGR3A", "FCGR3B"]),
        ("CD16/32", ["FCGR3A", "FCGR2A", "FCGR2B"]),
        ("PD-1", ["PDCD1"]),
        ("B7-H1 (PD-L1)", ["CD274"]),
        ("CD117(c-kit)", ["KIT"]),
        ("CD138-1(Syndecan-1)", ["SDC1"]),
        ("CD56(NCAM)Recombinant", ["NCAM1"]),
        ("IL7Ralpha (CD127)", ["IL7R"]),
        ("HLA-DR", ["HLA-DRA", "HLA-DRB1"]),
        ("HLA.DR", ["HLA-DRA", "HLA-DRB1"]),
        ("MHCII (HLA-DR)", ["HLA-DRA", "HLA-DRB1"]),
        ("HLA-A,B,C", ["HLA-A", "HLA-B", "HLA-C"]),
        ("TCRab", ["TRAC", "TRBC1", "TRBC2"]),
        ("TCR α/β", ["TRAC", "TRBC1", "TRBC2"]),
        ("TCR alpha/beta", ["TRAC", "TRBC1", "TRBC2"]),
        ("TCR γ/δ", ["TRDC", "TRGC1", "TRGC2"]),
        ("TCR Vα7.2", ["TRAV1-2"]),
        ("FcεRIα", ["FCER1A"]),
        ("integrin β7", ["ITGB7"]),
        ("CD11a/CD18", ["ITGAL", "ITGB2"]),
        ("CD66a/c/e", ["CEACAM1", "CEACAM6", "CEACAM5"]),
        ("CD85a/c", ["LILRB3", "LILRB5"]),
        ("CD307c/FcRL3", ["FCRL3"]),
        ("CD158e1 (KIR3DL1, NKB1)", ["KIR3DL1"]),
        ("IgD", ["IGHD"]),
        ("anti-human IgM", ["IGHM"]),
        ("TIGIT", ["TIGIT"]),
        ("CD40L", ["CD40LG"]),
        ("4-1BB", ["TNFRSF9"]),
        ("4-1BB-L", ["TNFSF9"]),
        ("pStat1", ["STAT1"]),
        ("pSTAT3_Y705", ["STAT3"]),
        ("p-STAT5 [Y694]", ["STAT5A", "STAT5B"]),
        ("pERK1/2", ["MAPK1", "MAPK3"]),
        ("pp38", ["MAPK14"]),
        ("p-p38(T180/Y182)", ["MAPK14"]),
        ("phospho-S6", ["RPS6"]),
        ("pS6_S235_S236", ["RPS6"]),
        ("pNFkB", ["RELA"]),
        ("pAkt", ["AKT1"]),
        ("pPlcg2", ["PLCG2"]),
        ("pBtk", ["BTK"]),
        ("pZap70", ["ZAP70"]),
        ("pZAP70/Syk", ["ZAP70"]),
        ("pSlp76", ["LCP2"]),
        ("pLat", ["LAT"]),
        ("p53", ["TP53"]),
        ("Ki-67", ["MKI67"]),
        ("cleaved caspase-3", ["CASP3"]),
    ],
)
def test_names_as_people_write_them(name, expected):
    assert genes(name) == expected


@pytest.mark.parametrize(
    ("name", "not_expected"),
    [
        ("CD3-1", "PECAM1"),  # is not CD31
        ("CD3-2", "FCGR2A"),
        ("CD4-1", "ITGA2B"),
        ("CD30L", "TNFRSF8"),  # the ligand is not the receptor
        ("CD27-L", "CD27"),
        ("OX40-L", "TNFRSF4"),
        ("FLT3-L", "FLT3"),
        ("TCR Vβ99", "TRAC"),
        ("IL-6-R", "IL6"),
        ("P-selectin", "SELE"),
    ],
)
def test_a_name_is_not_mistaken_for_its_neighbour(name, not_expected):
    assert not_expected not in genes(name)


@pytest.mark.parametrize(
    "name", ["", "-", "HTO", "DNA1", "Event_length", "xyz", "CD9999", "Barcode 7", "pTyr"]
)
def test_what_is_no_antigen_stays_unknown(name):
    meaning = TABLE.find(name)
    assert not meaning.genes()
    assert meaning.identity is None


@pytest.mark.parametrize(
    "name",
    [
        "MouseIgG1kappaisotype",
        "Mouse IgG2bkIsotype",
        "RatIgG2bkIsotype",
        "IgG1",
        "IgG2a",
        "IgG2a_control_TotalSeqB",
        "IgG1-CTRL",
        "prot_IgG1",
        "Rat IgG2b, κ Isotype Ctrl",
        "Isotype_MOPC.21",
        "Armenian Hamster IgG",
        "Hashtag1",
        "anti-human Hashtag 3",
        "HTO_A",
    ],
)
def test_controls_are_known_for_what_they_are(name):
    assert is_control(name)
    assert TABLE.find(name).is_control
    assert not TABLE.find(name).genes()


@pytest.mark.parametrize(
    "name", ["IgG", "IgM", "IgD", "IgA", "IgE", "IgG Fc", "anti-mouse IgM", "IgG4", "CD16"]
)
def test_immunoglobulins_of_cells_are_no_controls(name):
    assert not is_control(name)
    assert genes(name)


MARKS = st.sampled_from(
    ["prot_{}", "{}_TotalSeqB", "{}-TotalSeqA", "anti-human {}", "adt_{}", "Hu.{}", "{}_PROT"]
)


# an antibody that is called IgG1 and no more is an isotype control, whatever the table has under that name
ANTIGENS = [antigen for antigen in ROWS if not is_control(antigen.name)]


@given(st.sampled_from(ANTIGENS), st.lists(MARKS, max_size=2))
def test_marks_change_nothing(antigen, marks):
    name = antigen.name
    for mark in marks:
        name = mark.format(name)
    found = TABLE.find(name)
    assert found.identity == antigen.name


@given(st.sampled_from(ROWS))
def test_separators_and_case_change_nothing(antigen):
    name = antigen.name
    if is_control(name):
        return
    # 'pSTAT' is not 'PSTAT': the phospho mark alone depends on case, and no row needs it
    assert TABLE.find(name.upper()).identity == antigen.name
    assert TABLE.find(name.replace("-", " ").replace("_", " ")).identity == antigen.name
    assert key(name.replace(" ", ".")) == key(name)


@given(st.text(max_size=30))
def test_no_name_is_too_strange(text):
    TABLE.find(text)
    TABLE.nearest(text)


def test_nearest_names_help():
    assert TABLE.nearest("HLA-DRR") == "HLA-DR"
    assert TABLE.nearest("#") is None


def proteins(*names, kind=ModalityKind.PROT, modality="prot"):
    return Features(modality, kind, names)


def rna(*names, **aliases):
    return FeatureIndex(Features("rna", ModalityKind.RNA, names, aliases))


def linked(proposal, panel, index):
    return {
        (panel.names[i], index.features.names[j]): pytest.approx(w)
        for i, j, w in zip(proposal.source, proposal.target, proposal.weight, strict=True)
    }


def test_the_genes_in_the_data_share_the_weight():
    panel, index = proteins("CD3", "CD8", "CD4"), rna("CD3E", "CD3D", "CD8A", "CD4", "ACTB")
    assert linked(link_genes(panel, index), panel, index) == {
        ("CD3", "CD3E"): 0.5,
        ("CD3", "CD3D"): 0.5,
        ("CD8", "CD8A"): 1.0,
        ("CD4", "CD4"): 1.0,
    }


def test_a_symbol_of_the_data_is_that_gene():
    # a gene called CD98 in the data, whatever the nomenclature says
    panel, index = proteins("CD98", "Notch1"), rna("CD98", "SLC3A2", "NOTCH1")
    assert set(linked(link_genes(panel, index), panel, index)) == {("CD98", "CD98"), ("Notch1", "NOTCH1")}


def test_former_symbols_are_tried():
    panel, index = proteins("CD112", "CD97"), rna("PVRL2", "CD97")
    assert set(linked(link_genes(panel, index), panel, index)) == {("CD112", "PVRL2"), ("CD97", "CD97")}


def test_ids_are_found_by_the_symbols_in_var():
    panel = proteins("CD19", "CD20")
    index = rna("ENSG00000177455", "ENSG00000156738", gene_name=("CD19", "MS4A1"))
    assert set(linked(link_genes(panel, index), panel, index)) == {
        ("CD19", "ENSG00000177455"),
        ("CD20", "ENSG00000156738"),
    }


def test_mouse_genes_have_mouse_names():
    panel = proteins(
        "CD4", "CD8", "CD16/32", "Ly-6C", "NK-1.1", "I-A/I-E", "F4/80", "TER-119/Erythroid Cells"
    )
    index = rna(
        *("Cd4", "Cd8a", "Cd8b1", "Fcgr3", "Fcgr2b", "Ly6c1", "Ly6c2", "Klrb1c", "H2-Ab1", "Adgre1", "Ly76"),
        *("Actb", "Gapdh", "Malat1"),
    )
    found = linked(link_genes(panel, index), panel, index)
    assert found == {
        ("CD4", "Cd4"): 1.0,
        ("CD8", "Cd8a"): 0.5,
        ("CD8", "Cd8b1"): 0.5,
        ("CD16/32", "Fcgr3"): 0.5,
        ("CD16/32", "Fcgr2b"): 0.5,
        ("Ly-6C", "Ly6c1"): 0.5,
        ("Ly-6C", "Ly6c2"): 0.5,
        ("NK-1.1", "Klrb1c"): 1.0,
        ("I-A/I-E", "H2-Ab1"): 1.0,
        ("F4/80", "Adgre1"): 1.0,
        ("TER-119/Erythroid Cells", "Ly76"): 1.0,
    }
    assert is_mouse(["Cd4", "Gm1234", "0610007P14Rik"])
    assert not is_mouse(["CD4", "C1orf112", "AL669831.5", "MT-ND1"])


def test_what_has_no_gene_is_said():
    panel, index = proteins("CD4", "CD175", "CD40LX", "IgG1", "CD19"), rna("CD4", "CD3E")
    made = link_genes(panel, index)
    assert {(miss.name, miss.why.split()[0]) for miss in made.misses} == {
        ("CD175", "no"),
        ("CD40LX", "the"),
        ("CD19", "no"),
    }
    assert any("IgG1" in note for note in made.notes)
    assert "CD40L" in next(miss.detail for miss in made.misses if miss.name == "CD40LX")


def test_panels_are_linked_by_antigen_not_by_gene():
    a = proteins("CD3", "PD-1", "CD45RA", "CD45RO", "Rat IgG1", "Own1")
    b = proteins("CD3-1", "CD3-2", "CD279", "CD45RO_TotalSeqB", "IgG1", "own1", modality="other")
    made = link_panels(a, b)
    assert {(a.names[i], b.names[j]) for i, j in zip(made.source, made.target, strict=True)} == {
        ("CD3", "CD3-1"),
        ("CD3", "CD3-2"),
        ("PD-1", "CD279"),
        ("CD45RO", "CD45RO_TotalSeqB"),
        ("Own1", "own1"),
    }
    assert [(miss.modality, miss.name) for miss in made.misses] == [("prot", "CD45RA")]


def test_proteins_of_another_panel_are_found_by_an_antigen_that_one_protein_of_either_has():
    wanted = Features("prot", ModalityKind.PROT, ("CD4", "C-kit (CD117)", "PD-1", "CD3", "IgG1", "CD152"))
    own = Features(
        "prot", ModalityKind.PROT, ("cd117", "CD4", "CD279", "PD-1 (CD279)", "IgG1", "CTLA4", "CD3")
    )
    positions, pairs = same_antigens(np.array([1, -1, -1, 6, -1, -1]), wanted, own)
    # PD-1 is twice in the other panel, and isotype controls are no antigens
    assert positions.tolist() == [1, 0, -1, 6, -1, 5]
    assert pairs == [("C-kit (CD117)", "cd117"), ("CD152", "CTLA4")]
    # a protein that was found by name is not found once more
    positions, pairs = same_antigens(np.array([-1, -1, 0, -1, -1, -1]), wanted, own)
    assert positions[1] == -1
