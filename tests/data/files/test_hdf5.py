"""HDF5 files that point elsewhere, never end, or are no files."""

import errno
import os
import socket
import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from mocli.data.files import hdf5
from mocli.data.files.hdf5 import open_h5
from mocli.data.files.inputs import open_inputs
from mocli.data.files.obs import read_coordinates
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


@pytest.fixture
def broken_attribute(file, tmp_path):
    """A file of a group, above a link to another file, whose attributes HDF5 cannot list."""

    def make(point):
        with h5py.File(tmp_path / "secret.h5", "w") as h5:
            h5["secret"] = np.ones(4, np.float32)
        with h5py.File(file, "r+") as h5:
            point(h5, tmp_path / "secret.h5")
            h5["uns"].attrs["BREAKME"] = 1
        content = bytearray(file.read_bytes())
        (at,) = (k for k in range(len(content)) if content[k : k + 7] == b"BREAKME")
        content[at - 8] = 9  # a version of attributes that there is not
        file.write_bytes(bytes(content))
        with h5py.File(file) as h5, pytest.raises(RuntimeError, match="attribute"):
            list(h5["uns"].attrs)
        return file

    return make


def test_a_damaged_attribute_does_not_hide_a_link(broken_attribute):
    file = broken_attribute(nested_link)
    with pytest.raises(InputError, match="another file") as error:
        open_inputs([str(file)])
    assert error.value.field == "/uns/a/b/c"
    assert error.value.exit_code == 3


def test_a_damaged_attribute_of_what_nobody_needs_is_no_reason_to_refuse(broken_attribute):
    (rna,) = open_inputs([str(broken_attribute(lambda h5, secret: None))])
    assert rna.read().sum() == 12


def odd_name(h5, secret):
    h5["uns/odd"] = h5py.ExternalLink(b"\xff\xfe", "/x")


def odd_source(h5, secret):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(os.fsdecode(b"\xff\xfe"), "secret", (4,))
    h5.create_virtual_dataset("uns/odd", layout)


@pytest.mark.parametrize("point", [odd_name, odd_source])
def test_another_file_of_a_name_that_is_no_text(file, point):
    with h5py.File(file, "r+") as h5:
        point(h5, None)
    with pytest.raises(InputError, match="another file") as error:
        open_inputs([str(file)])
    assert error.value.field == "/uns/odd"


def test_what_only_a_reference_leads_to_is_looked_at(file, tmp_path):
    with h5py.File(file, "r+") as h5:
        storage(h5, tmp_path / "secret")
        h5["uns"].attrs["categories"] = h5["obs/label"].ref
        address = h5py.h5o.get_info(h5["obs/label"].id).addr
    content = bytearray(file.read_bytes())
    content[address + 4] = 2  # links to it: so the last one may go, and it stays
    file.write_bytes(bytes(content))
    with h5py.File(file, "r+") as h5:
        del h5["obs/label"]
        assert h5[h5["uns"].attrs["categories"]].external
    with pytest.raises(InputError, match="another file"), open_h5(file):
        pass


@pytest.mark.parametrize("ends", [lambda h5: os._exit(0), lambda h5: 1 / 0])
def test_a_file_of_which_the_child_says_nothing_is_refused(file, monkeypatch, ends):
    monkeypatch.setattr(hdf5, "_look_through", ends)
    for _ in range(2):
        with pytest.raises(InputError, match="damaged") as error, open_h5(file):
            pass
        assert error.value.exit_code == 3


def test_a_file_that_could_not_be_opened_once_is_looked_through_later(file, monkeypatch):
    with h5py.File(file, "r+") as h5:
        link(h5, "secret.h5")
    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "_answer", lambda path: {"closed": [errno.EAGAIN, "unable to lock file"]})
        with pytest.raises(InputError, match="locked"), open_h5(file):
            pass
    with pytest.raises(InputError, match="another file"), open_h5(file):
        pass


def test_links_within_a_file_are_followed_and_circles_end(file):
    with h5py.File(file, "r+") as h5:
        h5["layers/counts"] = h5py.SoftLink("/X")
        h5["uns/self"] = h5["uns"]
        h5["uns/nothing"] = h5py.SoftLink("/nowhere")
    (rna,) = open_inputs([str(file)])
    assert rna.read("counts").sum() == 12


def test_a_link_that_leads_to_itself_is_damage(file):
    """It was copied into the output, and ended the run there with a traceback."""
    with h5py.File(file, "r+") as h5:
        h5["uns/loop"] = h5py.SoftLink("/uns/loop")
    with pytest.raises(InputError, match="damaged") as caught:
        open_inputs([str(file)])
    assert caught.value.field == "/uns/loop"
    assert "leads to itself" in caught.value.found


def test_an_object_that_cannot_be_opened_is_damage(file):
    """It was copied into the output, and was in the way of what is written there."""
    with h5py.File(file, "r+") as h5:
        address = h5py.h5o.get_info(h5["varm"].id).addr
    content = bytearray(file.read_bytes())
    content[address] = 9  # a version of headers that there is not
    file.write_bytes(bytes(content))
    with h5py.File(file) as h5, pytest.raises(KeyError, match="open object"):
        h5["varm"]
    with pytest.raises(InputError, match="damaged") as caught:
        open_inputs([str(file)])
    assert caught.value.field == "/varm"


def test_cells_of_all_modalities_that_lie_nowhere_are_told_on_opening(file, tmp_path):
    """Of them, a run knew only when it wrote its result."""
    with h5py.File(tmp_path / "m.h5mu", "w") as out, h5py.File(file) as source:
        source.copy("/", out.create_group("mod"), name="rna")
        out["obs"] = h5py.SoftLink("/nowhere")
    with pytest.raises(InputError, match="obs cannot be read"):
        open_inputs([str(tmp_path / "m.h5mu")])


def test_a_file_in_which_hdf5_never_ends_is_damaged(file, monkeypatch):
    def forever(h5):
        while True:
            pass

    monkeypatch.setattr(hdf5, "CPU_SECONDS", 1)
    monkeypatch.setattr(hdf5, "_look_through", forever)
    with pytest.raises(InputError, match="damaged") as error, open_h5(file):
        pass
    assert "does not finish reading" in error.value.found


def test_a_file_that_makes_hdf5_crash_is_damaged(file, monkeypatch):
    monkeypatch.setattr(hdf5, "_look_through", lambda h5: os.kill(os.getpid(), 11))
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


def test_zstd_is_read_with_hdf5plugin_and_named_without_it(tmp_path):
    """A file as anndata writes it with `compression=hdf5plugin.FILTERS["zstd"]`."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    x = np.arange(40, dtype=np.float32).reshape(8, 5)
    data = ad.AnnData(x, pd.DataFrame(index=[f"c{i}" for i in range(8)]))
    path = tmp_path / "zstd.h5ad"
    data.write_h5ad(path, compression=hdf5plugin.FILTERS["zstd"])
    (one,) = open_inputs([str(path)])
    np.testing.assert_array_equal(one.read().toarray(), x)
    script = (
        "import sys; sys.modules['hdf5plugin'] = None\n"
        "from mocli.data.files.inputs import open_inputs\n"
        "from mocli.errors import InputError\n"
        "try:\n    open_inputs([sys.argv[1]])[0].read()\n"
        "except InputError as error:\n    print(error.exit_code, error.found, '|', error.hint)\n"
    )
    words = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("3 ")
    assert "zstd" in done.stdout
    assert "pip install hdf5plugin" in done.stdout
