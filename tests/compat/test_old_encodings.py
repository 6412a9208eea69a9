"""Files as anndata wrote them before 0.7 and in 0.7 go all the way through."""

import warnings

import h5py
import mudata
import numpy as np
import pytest

import mocli

TEXT = h5py.string_dtype()


def rewrite(source, path, *, frames):
    """Write a file anew with the tables and matrix of an old anndata."""
    with h5py.File(source) as new, h5py.File(path, "w") as old:
        matrix = old.create_group("X")
        for part in ("data", "indices", "indptr"):
            matrix[part] = new[f"X/{part}"][()]
        obs_names = new["obs/_index"].asstr()[()]
        var_names = new["var/_index"].asstr()[()]
        codes = new["obs/cell_type/codes"][()]
        levels = new["obs/cell_type/categories"].asstr()[()]
        if frames == "compound":
            matrix.attrs["h5sparse_format"], matrix.attrs["h5sparse_shape"] = "csr", new["X"].attrs["shape"]
            rows = list(zip(obs_names.astype("S"), codes, strict=True))
            old["obs"] = np.array(rows, dtype=[("index", "S8"), ("cell_type", "i8")])
            old["var"] = np.array([(n,) for n in var_names.astype("S")], dtype=[("index", "S8")])
            old["uns/cell_type_categories"] = levels.astype("S")
            return
        for key, value in (("encoding-type", "csr_matrix"), ("encoding-version", "0.1.0")):
            matrix.attrs[key] = value
        matrix.attrs["shape"] = new["X"].attrs["shape"]
        for key, names, columns in (("obs", obs_names, ["cell_type"]), ("var", var_names, [])):
            table = old.create_group(key)
            table.attrs["encoding-type"], table.attrs["encoding-version"] = "dataframe", "0.1.0"
            table.attrs["_index"] = "index"
            table.attrs["column-order"] = np.array(columns, dtype=TEXT)
            table.create_dataset("index", data=names, dtype=TEXT)
        old["obs"].create_dataset("__categories/cell_type", data=levels, dtype=TEXT)
        old["obs/__categories/cell_type"].attrs["ordered"] = False
        old["obs/cell_type"] = codes
        old["obs/cell_type"].attrs["categories"] = old["obs/__categories/cell_type"].ref


@pytest.mark.parametrize("frames", ["compound", "references"])
def test_old_files_are_integrated_as_new_ones(unpaired, tmp_path, small, frames):
    for name in ("rna", "prot"):
        rewrite(unpaired / f"{name}.h5ad", tmp_path / f"{name}.h5ad", frames=frames)
    digests = []
    for folder in (unpaired, tmp_path):
        result = mocli.integrate(
            [folder / "rna.h5ad", folder / "prot.h5ad"],
            links=unpaired / "links.tsv",
            output=tmp_path / "o.h5mu",
            label_key="cell_type",
            params=small,
            max_steps=3,
            html=False,
            threads=1,
            force=True,
        )
        digests.append(result.report["determinism"]["latent_sha256"])
        scores = {k: m["value"] for k, m in result.report["metrics"].items()}
        digests.append(scores["label_transfer[rna->prot]"])
    assert digests[:2] == digests[2:]
    with mudata.set_options(pull_on_update=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the user's own old tables
        out = mudata.read_h5mu(tmp_path / "o.h5mu")
    assert out.obsm["X_scmodal"].shape == (130, 4)
    assert list(out["rna"].obs_names[:2]) == ["r0", "r1"]
