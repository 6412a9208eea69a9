"""What CellPhoneDB and COMMOT read, by the formats that their readers take."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from mocli.__main__ import main
from mocli.errors import InputError, UsageError
from mocli.tasks.export import export_expression

N, GENES = 30, ["CD8A", "GNLY", "-AS1", "MKI67"]


@pytest.fixture
def cells(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (N, 4)).astype(np.float32)
    counts[3] = 0
    a = ad.AnnData(sp.csr_matrix(counts))
    a.obs_names, a.var_names = [f"cell{i}" for i in range(N)], GENES
    a.obs["cell_type"] = pd.Categorical(["T", "B"] * (N // 2))
    a.write_h5ad(tmp_path / "counts.h5ad")
    normal = counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4
    imputed = ad.AnnData(np.log1p(normal) + np.where(np.arange(4) == 1, -0.01, 0.0).astype(np.float32))
    imputed.obs_names, imputed.var_names, imputed.obs = a.obs_names, GENES, a.obs.copy()
    imputed.write_h5ad(tmp_path / "imputed.h5ad")
    spots = ad.AnnData(np.ones((N + 2, 1), np.float32))
    spots.obs_names = ["more", *reversed(a.obs_names), "other"]
    spots.obsm["spatial"] = np.c_[np.arange(N + 2), np.arange(N + 2) * 2.0]
    spots.write_h5ad(tmp_path / "spots.h5ad")
    return tmp_path, normal


def export(*args, **options):
    return export_expression(*args, say=lambda _: None, **options)


def test_cellphonedb_reads_the_texts(cells):
    folder, normal = cells
    words = ["export", folder / "counts.h5ad", "--to", "cellphonedb", "--label-key", "cell_type"]
    assert main([*map(str, words), "-o", str(folder / "cpdb")]) == 0
    # as CellPhoneDB reads them: tab-separated, the first column is the index
    counts = pd.read_csv(folder / "cpdb/counts.txt", sep="\t", index_col=0)
    meta = pd.read_csv(folder / "cpdb/meta.txt", sep="\t", index_col=0)
    assert list(counts.index) == GENES
    assert list(counts.columns) == list(meta.index) == [f"cell{i}" for i in range(N)]
    assert list(meta.columns) == ["cell_type"]
    assert meta["cell_type"].tolist() == ["T", "B"] * (N // 2)
    assert all(pd.api.types.is_numeric_dtype(t) for t in counts.dtypes)
    np.testing.assert_allclose(counts.to_numpy().T, normal, rtol=1e-4)
    assert (counts["cell3"] == 0).all()


def test_imputed_values_are_taken_out_of_the_logarithm_and_never_negative(cells):
    folder, normal = cells
    export(str(folder / "imputed.h5ad"), folder / "cpdb", to="cellphonedb", label_key="cell_type",
           values="log")  # fmt: skip
    counts = pd.read_csv(folder / "cpdb/counts.txt", sep="\t", index_col=0).to_numpy().T
    assert counts.min() == 0
    np.testing.assert_allclose(counts[:, 0], normal[:, 0], rtol=1e-4)
    lower = np.maximum(np.log1p(normal[:, 1]) - 0.01, 0)
    np.testing.assert_allclose(counts[:, 1], np.expm1(lower), rtol=1e-3, atol=1e-3)


def test_commot_reads_the_h5ad(cells):
    folder, normal = cells
    (path,) = export(
        str(folder / "imputed.h5ad"), folder / "commot.h5ad", to="commot", label_key="cell_type",
        spatial=str(folder / "spots.h5ad"),
    )  # fmt: skip
    read = ad.read_h5ad(path)
    assert list(read.var_names) == GENES
    assert read.obsm["spatial"].shape == (N, 2)
    # found by name: the spots lie the other way round
    np.testing.assert_array_equal(read.obsm["spatial"][0], [N, 2 * N])
    np.testing.assert_allclose(read.X[:, 0], np.log1p(normal[:, 0]), rtol=5e-3)
    assert read.X.min() >= 0
    assert list(read.obs["cell_type"]) == ["T", "B"] * (N // 2)


def test_columns_of_coordinates_beyond_two_are_told_and_the_rest_refused(cells):
    folder, _ = cells
    spots = ad.read_h5ad(folder / "spots.h5ad")
    source, out = str(folder / "counts.h5ad"), folder / "c.h5ad"

    def written(xy):
        spots.obsm["spatial"] = xy
        spots.write_h5ad(folder / "other.h5ad")
        said = []
        export_expression(
            source, out, to="commot", spatial=str(folder / "other.h5ad"), force=True, say=said.append
        )
        return said

    xyz = np.random.default_rng(0).normal(size=(N + 2, 3))
    assert any("3 columns: the first two are written" in line for line in written(xyz))
    with pytest.raises(InputError, match="one column"):
        written(xyz[:, :1])
    xyz[4, 1] = np.nan
    with pytest.raises(InputError, match="1 of 30 cells have coordinates that are no finite numbers"):
        written(xyz[:, :2])
    # what is there and cannot be read is not called absent
    with pytest.raises(InputError, match="does not hold numbers"):
        written(np.array([["a", "b"]] * (N + 2), dtype=object))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"to": "cellphonedb"}, UsageError, "needs the type of every cell"),
        ({"to": "commot"}, InputError, "needs the cells' coordinates"),
        ({"to": "commot", "spatial": "few.h5ad"}, InputError, "29 of 30 cells have no coordinates"),
        ({"to": "liana"}, UsageError, "does not accept"),
    ],
)
def test_what_cannot_be_meant_is_refused(cells, options, error, message):
    folder, _ = cells
    few = ad.read_h5ad(folder / "spots.h5ad")[:2]
    few.write_h5ad(folder / "few.h5ad")
    if "spatial" in options:
        options = {**options, "spatial": str(folder / options["spatial"])}
    name = "o.h5ad" if options["to"] == "commot" else "o"
    with pytest.raises(error, match=message):
        export(str(folder / "counts.h5ad"), folder / name, **options)
    assert not (folder / "o.h5ad").exists()


def test_files_that_exist_are_kept(cells):
    folder, _ = cells
    given = (str(folder / "counts.h5ad"), folder / "cpdb")
    options = {"to": "cellphonedb", "label_key": "cell_type"}
    export(*given, **options)
    with pytest.raises(UsageError, match="exists"):
        export(*given, **options)
    export(*given, **options, force=True)


def test_no_input_is_written_over(cells):
    folder, _ = cells
    spots = (folder / "spots.h5ad").read_bytes()
    for output in ("spots.h5ad", "counts.h5ad"):
        with pytest.raises(UsageError, match="overwrite its own input"):
            export(
                str(folder / "counts.h5ad"), folder / output, to="commot",
                spatial=str(folder / "spots.h5ad"), force=True,
            )  # fmt: skip
    assert (folder / "spots.h5ad").read_bytes() == spots


def test_a_file_of_several_modalities_names_the_imputed_one(tmp_path):
    import mudata

    def part(name):
        var = pd.DataFrame(index=[f"{name}{k}" for k in range(2)])
        return ad.AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame(index=list("abc")), var=var)

    with mudata.set_options(pull_on_update=False):
        parts = {name: part(name) for name in ("rna", "prot", "prot_imputed")}
        mudata.MuData(parts).write_h5mu(tmp_path / "filled.h5mu")
    with pytest.raises(UsageError, match="only one modality") as error:
        export(f"{tmp_path / 'filled.h5mu'}", tmp_path / "x", to="cellphonedb", label_key="t")
    assert error.value.found == "rna, prot, prot_imputed"
    assert error.value.hint.endswith("filled.h5mu::prot_imputed")
