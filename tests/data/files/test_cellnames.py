"""Cells of separate files under names that say less, or are spelled otherwise, than one would like."""

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.data.files.inputs import are_running_numbers, open_inputs
from mocli.data.write.write import Added, write_file
from mocli.tasks.prepare.pairing import relate, relate_files
from mocli.types import Pairing

RNG = np.random.default_rng(0)
BARCODES = ["".join(RNG.choice(list("ACGT"), 16)) + "-1" for _ in range(40)]


def write(path, cells, features):
    x = sparse.csr_matrix(RNG.poisson(1.0, (len(cells), len(features))).astype(np.float32))
    ad.AnnData(x, pd.DataFrame(index=list(cells)), pd.DataFrame(index=features)).write_h5ad(path)
    return str(path)


def two(folder, rna, prot):
    return open_inputs(
        [
            "rna=" + write(folder / "a.h5ad", rna, ["MALAT1", "ACTB", "GAPDH"]),
            "prot=" + write(folder / "b.h5ad", prot, ["CD3", "CD4"]),
        ]
    )


@pytest.mark.parametrize(
    "spell",
    [
        lambda n: n[:-2],
        lambda n: n + "_1",
        lambda n: "PBMC5k_" + n,
        lambda n: n.replace("-", "."),
        lambda n: "lane2#" + n[:-2],
    ],
)
def test_barcodes_that_differ_in_marks_of_tools_are_the_same_cells(tmp_path, spell):
    rna, prot = two(tmp_path, BARCODES, [spell(n) for n in BARCODES[::-1]])
    assert list(prot.obs.index) == BARCODES[::-1]
    assert "40 of 40 cells" in prot.notes[-1]
    assert "--pairing unpaired" in prot.notes[-1]
    assert relate_files([rna, prot], "auto").pairing is Pairing.PAIRED


def test_cells_renamed_are_one_cell_in_the_output(tmp_path):
    rna, prot = two(tmp_path, BARCODES, ["s_" + n for n in BARCODES])
    write_file(tmp_path / "out.h5mu", [Added(rna), Added(prot)], obsm={}, uns={})
    out = mudata.read_h5mu(tmp_path / "out.h5mu")
    assert list(out.obs_names) == list(out["prot"].obs_names) == BARCODES


def test_some_names_that_agree_are_told_and_nothing_more(tmp_path):
    prot = [n[:-2] for n in BARCODES[:12]] + ["".join(RNG.choice(list("ACGT"), 16)) for _ in range(28)]
    rna, file = two(tmp_path, BARCODES, prot)
    assert list(file.obs.index) == prot
    assert "12 of 40 cells" in file.notes[-1]
    assert relate_files([rna, file], "auto").pairing is Pairing.UNPAIRED


@pytest.mark.parametrize(
    "prot", [[f"x{n}" for n in range(40)], [f"s{n // 40}_{b}" for n, b in enumerate(BARCODES * 2)]]
)
def test_names_of_other_cells_stay(tmp_path, prot):
    _, file = two(tmp_path, BARCODES, prot)
    assert list(file.obs.index) == prot
    assert not file.notes


@pytest.mark.parametrize("prot", [range(30), range(0, 90, 3), range(1, 31)])
def test_running_numbers_of_separate_files_pair_nothing_unless_asked(tmp_path, prot):
    rna, file = two(tmp_path, list(map(str, range(30))), list(map(str, prot)))
    relation = relate_files([rna, file], "auto")
    assert relation.pairing is Pairing.UNPAIRED
    assert not relation.names_mean_cells
    assert "--pairing paired" in relation.reason
    assert not relate_files([rna, file], "unpaired").names_mean_cells
    assert relate_files([rna, file], "paired").names_mean_cells


def test_running_numbers_of_one_file_pair_its_modalities():
    names = pd.Index(list(map(str, range(30))))
    assert relate([names, names], "auto").pairing is Pairing.PAIRED


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["0", "1", "2"], True),
        (["3", "17", "90"], True),
        (["2", "1"], False),
        (["01", "02"], False),
        (["c0"], False),
    ],
)
def test_what_running_numbers_are(names, numbers):
    assert are_running_numbers(pd.Index(names)) is numbers
