"""Files that several tests of the data read."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp


@pytest.fixture
def write_old():
    """Write a file as anndata before 0.7 (`compound`) or 0.7 (`references`) did; returns its matrix."""
    return _write_old


def _write_old(path: Path, *, frames: str) -> sp.csr_matrix:
    x = sp.random(4, 3, 0.5, format="csr", dtype=np.float32, random_state=0)
    x.data = np.ceil(9 * x.data)
    with h5py.File(path, "w") as h5:
        g = h5.create_group("X")
        for part in ("data", "indices", "indptr"):
            g[part] = getattr(x, part)
        if frames == "compound":  # before 0.7
            g.attrs["h5sparse_format"], g.attrs["h5sparse_shape"] = "csr", np.array([4, 3])
            h5["obs"] = np.array(
                [(b"c0", 0), (b"c1", 1), (b"c2", 0), (b"c3", 1)], dtype=[("index", "S4"), ("n", "i8")]
            )
            h5["var"] = np.array([(b"g0",), (b"g1",), (b"g2",)], dtype=[("index", "S4")])
        else:  # 0.7: categories apart, found by reference
            g.attrs["encoding-type"], g.attrs["encoding-version"] = "csr_matrix", "0.1.0"
            g.attrs["shape"] = np.array([4, 3])
            for key, names, columns in (("obs", "cccc", ["kind"]), ("var", "ggg", [])):
                d = h5.create_group(key)
                d.attrs["encoding-type"], d.attrs["encoding-version"] = "dataframe", "0.1.0"
                d.attrs["_index"] = "index"
                d.attrs["column-order"] = np.array(columns, dtype=h5py.string_dtype())
                d.create_dataset(
                    "index", data=[f"{n}{i}" for i, n in enumerate(names)], dtype=h5py.string_dtype()
                )
            h5["obs"].create_dataset("__categories/kind", data=["a", "b"], dtype=h5py.string_dtype())
            h5["obs/__categories/kind"].attrs["ordered"] = False
            h5["obs/kind"] = np.array([0, 1, 1, 0], dtype=np.int8)
            h5["obs/kind"].attrs["categories"] = h5["obs/__categories/kind"].ref
    return x
