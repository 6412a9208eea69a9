"""Every bad file ends in one message with exit code 3 that says which file, what is wrong and what to do."""

from __future__ import annotations

import gzip
from contextlib import suppress
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from mocli.data.files.inputs import open_inputs
from mocli.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def good(path: Path, n_obs: int = 60, n_vars: int = 30) -> Path:
    x = sp.random(n_obs, n_vars, 0.3, format="csr", dtype=np.float32, random_state=0)
    x.data[:] = np.arange(1, len(x.data) + 1)
    cells, genes = [f"c{i}" for i in range(n_obs)], [f"g{j}" for j in range(n_vars)]
    a = ad.AnnData(x, pd.DataFrame(index=cells), pd.DataFrame(index=genes))
    a.write_h5ad(path, compression="gzip")
    return path


def read_all(text: object) -> None:
    for file in open_inputs([str(text)]):
        file.read()


def refused(text: object, match: str) -> InputError:
    with pytest.raises(InputError, match=match) as caught:
        read_all(text)
    error = caught.value
    assert error.exit_code == 3
    assert error.file is not None
    assert "Traceback" not in str(error)
    assert len(str(error)) < 1500
    return error


def test_absent(tmp_path: Path) -> None:
    good(tmp_path / "rna.h5ad")
    assert refused(tmp_path / "rma.h5ad", "does not exist").hint == "did you mean 'rna.h5ad'?"
    assert "no folder" in str(refused(tmp_path / "nowhere" / "rna.h5ad", "does not exist").found)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"gene,c1,c2\nCD4,1,2\n", "text"),
        (gzip.compress(b"\x89HDF", mtime=0), "a gzip archive"),
        (b"PK\x03\x04" + b"\0" * 99, "a zip archive"),
        (b"%%MatrixMarket matrix coordinate", "a Matrix Market text file"),
        (bytes(range(200, 250)), "bytes c8 c9 ca cb cc cd ce cf"),
    ],
)
def test_not_hdf5(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "x.h5ad").write_bytes(content)
    error = refused(tmp_path / "x.h5ad", "is not HDF5")
    assert error.found == found
    assert error.hint is not None


@pytest.mark.parametrize("name", ["store.zarr", "folder"])
def test_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    refused(tmp_path / name, "a folder was given")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated(tmp_path: Path, share: float) -> None:
    whole = good(tmp_path / "rna.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: int(len(whole) * share)])
    refused(tmp_path / "cut.h5ad", "truncated or damaged")


def test_damaged_inside(tmp_path: Path) -> None:
    """Bytes turned over anywhere give the right values or an `InputError`, and never another exception."""
    whole = bytearray(good(tmp_path / "rna.h5ad").read_bytes())
    for start in range(0, len(whole), max(1, len(whole) // 60)):
        broken = bytearray(whole)
        broken[start : start + 64] = b"\xa5" * len(broken[start : start + 64])
        (tmp_path / "broken.h5ad").write_bytes(broken)
        with suppress(InputError):
            read_all(tmp_path / "broken.h5ad")


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("indices", "too large"),
        ("indices", "negative"),
        ("indptr", "decreasing"),
        ("indptr", "short"),
        ("data", "short"),
        ("data", "absent"),
    ],
)
def test_a_sparse_matrix_that_is_none(tmp_path: Path, part: str, values: str) -> None:
    with h5py.File(good(tmp_path / "rna.h5ad"), "r+") as h5:
        stored = h5[f"X/{part}"][()]
        del h5[f"X/{part}"]
        if values == "too large":
            stored[5] = 30
        elif values == "negative":
            stored[5] = -1
        elif values == "decreasing":
            stored[5] = stored[-1]
        elif values == "short":
            stored = stored[:-1]
        if values != "absent":
            h5[f"X/{part}"] = stored
    assert refused(tmp_path / "rna.h5ad", "X cannot be read").field == "X"


def test_shape_and_tables_that_disagree(tmp_path: Path) -> None:
    good(tmp_path / "rna.h5ad")
    with h5py.File(tmp_path / "rna.h5ad", "r+") as h5:
        del h5["X"]
        h5["X"] = np.ones((60, 29), np.float32)
    assert refused(tmp_path / "rna.h5ad", "shape of obs and var").found == "60 x 29"
    with h5py.File(tmp_path / "rna.h5ad", "r+") as h5:
        del h5["X"]
        h5.create_dataset("X", data=["a"], dtype=h5py.string_dtype())
    refused(tmp_path / "rna.h5ad", "X cannot be read")


@pytest.mark.parametrize("key", ["obs", "var"])
def test_a_table_is_missing_inside_an_h5mu(tmp_path: Path, key: str) -> None:
    good(tmp_path / "rna.h5ad")
    with h5py.File(tmp_path / "m.h5mu", "w") as out, h5py.File(tmp_path / "rna.h5ad") as source:
        source.copy("/", out.create_group("mod"), name="rna")
        del out[f"mod/rna/{key}"]
    assert refused(tmp_path / "m.h5mu", f"there is no {key}").field == f"mod/rna/{key}"


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (["matrix", "row_attrs", "col_attrs"], "a Loom file"),
        (["assays", "cell.names"], "an h5Seurat file"),
        (["barcode_idx", "umi"], "a 10x molecule_info file"),
        (["weights"], "groups weights"),
        ([], "an empty HDF5 file"),
    ],
)
def test_another_format(tmp_path: Path, keys: list[str], found: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        for key in keys:
            h5.create_group(key)
    assert refused(tmp_path / "x.h5", "neither h5ad, h5mu nor 10x").found == found


def test_an_h5mu_without_modalities(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5mu", "w") as h5:
        h5.create_group("mod")
    refused(tmp_path / "m.h5mu", "holds no modality")


def test_missing_modality_of_an_h5ad(tmp_path: Path) -> None:
    good(tmp_path / "rna.h5ad")
    assert refused(f"{tmp_path / 'rna.h5ad'}::prot", "no modality 'prot'").found == "rna"


@pytest.mark.parametrize(
    ("n_obs", "n_vars", "match"), [(0, 5, "no cells"), (1, 5, "one cell"), (5, 0, "no features")]
)
def test_too_little(tmp_path: Path, n_obs: int, n_vars: int, match: str) -> None:
    refused(good(tmp_path / "rna.h5ad", n_obs, n_vars), match)


def test_repeated_cells(tmp_path: Path) -> None:
    names = ["AAA", "AAA", "CCC", "GGG", "CCC", "TTT", "TTT", "GGG", "GGG"]
    with pytest.warns(UserWarning, match="names are not unique"):
        a = ad.AnnData(np.ones((9, 2), np.float32), pd.DataFrame(index=names))
    a.write_h5ad(tmp_path / "rna.h5ad")
    error = refused(tmp_path / "rna.h5ad", "repeated cell names")
    assert error.found == "5 repeats, such as 'AAA', 'CCC', 'TTT'"
    assert error.field == "obs_names"


def test_several_genomes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        for genome in ("hg19", "mm10"):
            for key in ("barcodes", "gene_names", "genes", "data", "indices", "indptr", "shape"):
                h5[f"{genome}/{key}"] = np.zeros(2, int)
    assert refused(tmp_path / "x.h5", "several genomes").found == "hg19, mm10"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    with h5py.File(good(tmp_path / "rna.h5ad"), "r+") as h5:
        del h5["obs/_index"]
        h5["obs/_index"] = np.array([b"\xff\xfe%d" % i for i in range(60)], dtype="S6")
        h5["obs/_index"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    assert refused(tmp_path / "rna.h5ad", "obs cannot be read").field == "obs"
