"""HDF5 files that point elsewhere, never end, or are no files."""

import os
import socket

import anndata as ad
import h5py
import numpy as np
import pytest

from mocli.data.files import hdf5
from mocli.data.files.hdf5 import open_h5
from mocli.data.files.inputs import open_inputs
from mocli.data.files.obsm import read_coordinates
from mocli.errors import InputError


@pytest.fixture
def file(tmp_path):
    ad.AnnData(np.ones((4, 3), np.float32)).write_h5ad(tmp_path / "rna.h5ad")
    return tmp_path / "rna.h5ad"


def link(h5, secret):
    h5["obs/label"] = h5py.ExternalLink(str(secret), "/secret")


def nested_link(h5, secret):
    h5.create_group("uns/a/b")["c"] = h5py.ExternalLink(str(secret), "/")


def storage(h5, secret):
    h5.create_dataset("obs/label", (4,), "S4", external=[(str(secret), 0, 16)])


def virtual(h5, secret):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "secret", (4,))
    h5.create_virtual_dataset("obs/label", layout)


@pytest.mark.parametrize("point", [link, nested_link, storage, virtual])
def test_nothing_is_read_of_another_file(file, tmp_path, point):
    with h5py.File(tmp_path / "secret.h5", "w") as h5:
        h5["secret"] = np.ones(4, np.float32)
    with h5py.File(file, "r+") as h5:
        point(h5, tmp_path / "secret.h5")
    for read in (lambda: open_inputs([str(file)]), lambda: read_coordinates(file, "X_pca")):
        with pytest.raises(InputError, match="another file") as error:
            read()
        assert "secret.h5" in error.value.found
        assert error.value.field in {"/obs/label", "/uns/a/b/c"}
        assert error.value.exit_code == 3


def test_links_within_a_file_are_followed_and_circles_end(file):
    with h5py.File(file, "r+") as h5:
        h5["layers/counts"] = h5py.SoftLink("/X")
        h5["uns/self"] = h5["uns"]
        h5["uns/nothing"] = h5py.SoftLink("/nowhere")
    (rna,) = open_inputs([str(file)])
    assert rna.read("counts").sum() == 12


def test_a_file_in_which_hdf5_never_ends_is_damaged(file, monkeypatch):
    def forever(path):
        while True:
            pass

    monkeypatch.setattr(hdf5, "CPU_SECONDS", 1)
    monkeypatch.setattr(hdf5, "_look_through", forever)
    with pytest.raises(InputError, match="damaged") as error, open_h5(file):
        pass
    assert "does not come to an end" in error.value.found


def test_a_file_that_makes_hdf5_crash_is_damaged(file, monkeypatch):
    monkeypatch.setattr(hdf5, "_look_through", lambda path: os.kill(os.getpid(), 11))
    with pytest.raises(InputError, match="damaged") as error, open_h5(file):
        pass
    assert "crashes" in error.value.found


def test_pipes_sockets_folders_and_loops_are_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.h5ad")
    (tmp_path / "folder.h5ad").mkdir()
    (tmp_path / "loop.h5ad").symlink_to(tmp_path / "loop.h5ad")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.h5ad")
        for name in ("pipe", "folder", "loop", "socket"):
            with pytest.raises(InputError) as error:
                open_inputs([f"{name}.h5ad"])
            assert error.value.exit_code == 3


def test_a_filter_that_is_not_there_is_named(file):
    with h5py.File(file, "r+") as h5:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        plist.set_filter(32016, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((4,))
        dataset = h5py.h5d.create(h5["uns"].id, b"packed", h5py.h5t.NATIVE_FLOAT, space, plist)
        dataset.write_direct_chunk((0,), b"0123", filter_mask=0)
    with pytest.raises(InputError, match="compressed") as error:
        open_inputs([str(file)])
    assert error.value.found == "the HDF5 filter number 32016"
    assert error.value.field == "/uns/packed"
    assert "pip install hdf5plugin" in error.value.hint
