"""Rows packed on disk are the rows of memory: read, drawn, transformed, and gone with the process."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from mocli.data import batches as drawing
from mocli.data import packed as packing
from mocli.data.batches import Batches, permuted_in_windows
from mocli.data.bundle import FeatureMatrix, Modality, MultiOmics
from mocli.data.files.contents import Health, check_values
from mocli.data.files.modality import ModalityFile
from mocli.data.packed import MappedRows, PackedRows, blocks_of, some_rows
from mocli.data.transforms.linkrecipe import LinkRecipe
from mocli.data.transforms.recipe import Recipe, RecipeOptions
from mocli.data.transforms.transform import TRANSFORMS, packed
from mocli.errors import EnvironmentProblem
from mocli.models.base import Sampling
from mocli.types import ModalityKind, Pairing


def counts(n=300, p=40, *, most=200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, most, (n, p)) * (rng.random((n, p)) < 0.3)
    x[5] = 0
    return sparse.csr_matrix(x.astype(np.float32))


def pack(x, *, dense=False, by=37):
    found = PackedRows(x.shape[1], dense=dense)
    for start in range(0, x.shape[0], by):
        found.append(x[start : start + by])
    return found


def plain(x):
    return x if isinstance(x, np.ndarray) else x.toarray()


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that these matrices have many."""
    monkeypatch.setattr(packing, "BLOCK_VALUES", 500)


@pytest.mark.parametrize("rows", [[3, 3, 299, 0], [], [5], list(range(20, 60)), slice(10, 50), slice(None)])
@pytest.mark.parametrize("dense", [False, True])
def test_rows_are_those_that_were_written(rows, dense):
    x = counts()
    found = pack(x.toarray() if dense else x, dense=dense)[
        rows if isinstance(rows, slice) else np.array(rows, int)
    ]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(plain(found), x.toarray()[rows])
    if not dense:
        assert found.has_canonical_format
        found.check_format(full_check=True)


def test_a_count_takes_one_byte_where_it_fits_and_all_grow_where_one_does_not():
    x = counts(most=256)
    found = pack(x)
    assert found.nbytes == 3 * x.nnz
    more = counts(20, most=60_000, seed=1)
    found.append(more)
    assert found.nbytes == 4 * (x.nnz + more.nnz)
    real = sparse.csr_matrix(more * np.float32(0.37))
    found.append(real)
    assert found.nbytes == 6 * (x.nnz + 2 * more.nnz)
    whole = sparse.vstack([x, more, real], format="csr")
    np.testing.assert_array_equal(found[:].toarray(), whole.toarray())
    wide = sparse.csr_matrix(([-1.5], ([0], [70_000])), shape=(1, 70_001), dtype=np.float32)
    assert pack(wide).nbytes == 8
    assert (pack(wide)[:] != wide).nnz == 0


def test_blocks_are_all_rows_in_order(small_blocks, monkeypatch):
    x, found = counts(), pack(counts())
    blocks = list(blocks_of(found))
    assert len(blocks) > 4
    np.testing.assert_array_equal(sparse.vstack(blocks).toarray(), x.toarray())
    assert [block is x for block in blocks_of(x)] == [True]
    # of full rows, only as many as are bounded
    monkeypatch.setattr(packing, "BLOCKS_TO_FIT", 3)
    assert some_rows(found, 10_000, seed=0).shape[0] < 300
    np.testing.assert_array_equal(some_rows(found, 50, seed=3).toarray(), some_rows(x, 50, seed=3).toarray())


@pytest.mark.parametrize("transform", [name for name in TRANSFORMS if name != "tfidf-lsi"])
@pytest.mark.parametrize("options", [{}, {"n_top": 12, "seen_in": 0.1}, {"n_pcs": 6}, {"standardise": False}])
def test_a_transform_fitted_by_blocks_is_that_of_the_whole(transform, options, monkeypatch):
    x = counts()
    chosen = RecipeOptions(transform, **{"n_top": None, **options})
    names = tuple(f"g{i}" for i in range(x.shape[1]))
    held = Recipe.fit(x, var_names=names, options=chosen, keep=[1])
    expected = held.apply(x)
    monkeypatch.setattr(packing, "BLOCK_VALUES", 700)
    monkeypatch.setattr(packing, "BLOCKS_TO_FIT", 99)
    backed = Recipe.fit(pack(x), var_names=names, options=chosen, keep=[1])
    np.testing.assert_array_equal(backed.selected, held.selected)
    found = backed.apply(pack(x))
    assert found.names == expected.names
    assert not isinstance(found.values, MappedRows)
    assert packing.is_dense(found.values) == isinstance(expected.values, np.ndarray)
    np.testing.assert_allclose(plain(found.values[np.arange(300)]), plain(expected.values), atol=2e-5)
    np.testing.assert_allclose(found.mean(), expected.mean(), atol=1e-5)
    np.testing.assert_allclose(found.totals(), expected.totals(), rtol=1e-4, atol=1e-3)
    if expected.offset is not None:
        np.testing.assert_allclose(found.offset, expected.offset, atol=1e-5)


def test_lsi_and_linked_features_are_those_of_the_whole(small_blocks, monkeypatch):
    x = counts(most=3)
    monkeypatch.setattr(packing, "BLOCKS_TO_FIT", 99)
    options = RecipeOptions("tfidf-lsi", n_components=5)
    names = tuple(f"p{i}" for i in range(x.shape[1]))
    held, backed = (Recipe.fit(of, var_names=names, options=options).apply(of).values for of in (x, pack(x)))
    np.testing.assert_allclose(backed, held, rtol=1e-4, atol=1e-4)
    sums = sparse.random(40, 7, 0.3, format="csr", random_state=0, dtype=np.float32)
    for transform in ("lognorm", "clr"):
        fitted = [
            LinkRecipe.fit(of, aggregation=sums, transform=transform, names=list("abcdefg")).apply(of)
            for of in (x, pack(x))
        ]
        rows = np.arange(x.shape[0])
        held, backed = (plain(f.values[rows]) + (0 if f.offset is None else f.offset) for f in fitted)
        np.testing.assert_allclose(backed, held, atol=1e-4)


def test_health_of_parts_is_that_of_the_whole():
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.integers(0, 2, (40, 9)) * np.array([1, 1, 0, 0, 2, 1, 1, 1, 1], np.float32))
    x = sparse.csr_matrix(
        sparse.hstack([x, np.full((40, 1), 3), np.r_[np.ones(20), 2 * np.ones(20)][:, None]])
    )
    file = ModalityFile(
        "rna", None, Path("x"), "/", "h5ad", pd.DataFrame(index=range(40)), pd.DataFrame(index=range(11))
    )
    whole = check_values(x, file, layer="X", allow_negative=False)
    parts = [check_values(x[a : a + 10], file, layer="X", allow_negative=False) for a in range(0, 40, 10)]
    joined = Health.joined(parts)
    assert (joined.n_obs, joined.n_empty, joined.n_constant) == (40, whole.n_empty, whole.n_constant)
    assert whole.n_constant == 3
    np.testing.assert_array_equal(joined.total, whole.total)


def bundles(n=300):
    """Cells in rna (counts, sparse) and, all but the first ten, in prot (dense), held and on disk."""
    x, y = counts(n), np.random.default_rng(1).normal(size=(n - 10, 6)).astype(np.float32)
    rows = np.stack([np.arange(n), np.r_[np.full(10, -1), np.arange(n - 10)]], axis=1)
    for rna, prot in ((x, y), (pack(x), pack(y, dense=True))):
        modalities = {
            "rna": Modality("rna", ModalityKind.RNA, matrix(rna), (), np.ones(n, np.float32), "nb"),
            "prot": Modality("prot", ModalityKind.PROT, matrix(prot), (), np.ones(n - 10, np.float32)),
        }
        yield MultiOmics(modalities, rows, tuple(map(str, range(n))), Pairing.MOSAIC)


def matrix(values):
    return FeatureMatrix(values, tuple(f"f{j}" for j in range(values.shape[1])))


def drawn(bundle, *, cells=None):
    sampling = Sampling(32, independent=False, replacement=False)
    return Batches(bundle, sampling, device="cpu", generator=torch.Generator().manual_seed(0), cells=cells)


def test_minibatches_are_the_same_bytes_as_of_cells_in_memory():
    held, backed = (drawn(bundle, cells=np.arange(3, 280)) for bundle in bundles())
    assert backed.source.on_disk
    for step in range(25):
        one, other = held.next(step), backed.next(step)
        assert torch.equal(one.cells, other.cells)
        assert torch.equal(one.counts["rna"].dense, other.counts["rna"].dense)
        assert torch.equal(one.x["prot"], other.x["prot"])


def test_rows_averaged_over_neighbours_are_the_same():
    held, backed = bundles()
    near = np.random.default_rng(2).integers(0, 300, (300, 4))
    found = []
    for bundle in (held, backed):
        features = replace(bundle.modalities["rna"].features, neighbors=near, smoothing=0.4)
        found.append(drawing.Rows(features, "cpu").take(torch.tensor([7, 7, 299])))
    torch.testing.assert_close(*found)


def test_what_is_drawn_from_a_disk_goes_to_the_device():
    _, backed = bundles()
    rows = drawing.Rows(backed.modalities["rna"].features, "meta")
    assert rows.take(torch.tensor([1])).device.type == "meta"
    assert rows.take_nonzeros(torch.tensor([1])).values.device.type == "meta"


def test_an_epoch_of_windows_holds_every_cell_once_and_few_runs_at_a_time(monkeypatch):
    monkeypatch.setattr(drawing, "WINDOW", 64)
    monkeypatch.setattr(drawing, "RUN", 8)
    expected = []
    monkeypatch.setattr(PackedRows, "expect", lambda _, rows: expected.append(set(rows.tolist())))
    held, backed = bundles()
    source, whole = drawn(backed), drawn(held).source
    order = []
    while len(order) < 300:
        batch = source.next(0)
        order += batch.cells.tolist()
        same = whole.take_cells(batch.cells, 0)
        assert torch.equal(same.x["prot"], batch.x["prot"])
        assert torch.equal(same.counts["rna"].dense, batch.counts["rna"].dense)
    assert sorted(order) == list(range(300))
    for start in range(0, 300, 64):
        window = order[start : start + 64]
        assert len({cell // 8 for cell in window}) <= 9
        assert window != sorted(window)
        # it was read ahead, and read ahead in one
        assert set(window) in expected
    assert order[:64] != sorted(order)[:64]
    state = source.state_dict()
    again = drawn(backed)
    again.load_state_dict(state)
    assert torch.equal(again.next(0).cells, source.next(0).cells)


def test_one_window_is_a_permutation_like_any_other():
    one, other = (torch.Generator().manual_seed(4) for _ in range(2))
    assert torch.equal(permuted_in_windows(100, generator=one), torch.randperm(100, generator=other))


def test_reading_ahead_changes_nothing():
    found = pack(counts())
    found.expect(np.array([280, 3, 4, 100]))
    found.expect(np.array([], int))
    np.testing.assert_array_equal(found[np.array([3])].toarray(), counts()[[3]].toarray())


def test_a_full_disk_is_told_with_the_mend(monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    found = PackedRows(40)
    monkeypatch.setattr(found, "_file", Full())
    with pytest.raises(EnvironmentProblem, match="temporary files is full") as caught:
        found.append(counts())
    assert "TMPDIR" in caught.value.hint


def test_a_folder_that_cannot_be_written_to_is_told(monkeypatch):
    def refuse(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(packing.tempfile, "TemporaryFile", refuse)
    with pytest.raises(EnvironmentProblem, match="cannot be written to"):
        PackedRows(3)


def test_values_that_are_made_again_are_packed_once():
    doubled = MappedRows(pack(counts()), lambda x: x * np.float32(2), 40)
    features = packed(matrix(doubled))
    assert isinstance(features.values, PackedRows)
    np.testing.assert_array_equal(features.values[:].toarray(), 2 * counts().toarray())
    assert doubled.nnz == counts().nnz


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="Linux")
def test_a_kill_leaves_no_file(tmp_path):
    script = (
        "import numpy as np, time\n"
        "from mocli.data.packed import PackedRows\n"
        "x = PackedRows(100, dense=True); x.append(np.ones((1000, 100), np.float32))\n"
        "print(x.nbytes, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "100000"
    assert list(tmp_path.iterdir()) == []
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.iterdir()) == []
