"""New modalities, block by block: read back by anndata and mudata, never whole in memory."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import textwrap
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from mocli.data.files.inputs import open_inputs, sha256
from mocli.data.write import blocks as filling
from mocli.data.write import outfile as outfile
from mocli.data.write.blocks import NewModality, round_mantissa
from mocli.data.write.carry import put
from mocli.data.write.write import Added, union_names, write_file, write_h5ad
from mocli.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[3]


def dense(n: int, m: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, m)).astype(np.float32)


def counts(n: int, m: int, seed: int = 0, dtype: type = np.float32) -> sp.csr_matrix:
    return sp.csr_matrix(np.random.default_rng(seed).poisson(0.3, (n, m)).astype(dtype))


def cut(whole: dict[str, object], sizes: list[int]) -> Callable[[], Iterator[dict[str, object]]]:
    """Blocks of these sizes of whole matrices."""
    ends = np.cumsum([0, *sizes])
    return lambda: iter([{k: v[a:b].copy() for k, v in whole.items()} for a, b in itertools.pairwise(ends)])


def modality(
    whole: dict[str, object],
    sizes: list[int],
    *,
    name: str = "prot_imputed",
    cells: list[str] | None = None,
    blocks: Callable[[], Iterator[dict[str, object]]] | None = None,
) -> NewModality:
    n, m = next(iter(whole.values())).shape
    cells = cells or [f"c{i}" for i in range(n)]
    return NewModality(
        name,
        pd.DataFrame({"imputed": np.arange(n) % 2 == 0}, index=cells),
        pd.DataFrame({"r": np.linspace(0, 1, m)}, index=[f"p{j}" for j in range(m)]),
        blocks or cut(whole, sizes),
        obsm={"X_scmodal": np.ones((n, 2), np.float32)},
        uns={"mocli": {"seed": 0, "none": None}},
    )


def assert_close(read: np.ndarray, whole: np.ndarray, keep_bits: int | None) -> None:
    assert read.dtype == np.float32
    if keep_bits is None:
        np.testing.assert_array_equal(read, whole)
    else:
        np.testing.assert_allclose(read, whole, rtol=2.0 ** -(keep_bits + 1), atol=0)
        np.testing.assert_array_equal(read, round_mantissa(whole, keep_bits))


# a file of its own


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 0, 20, 23]], ids=["one", "rows", "uneven"])
@pytest.mark.parametrize("keep_bits", [12, 5, None])
def test_h5ad_is_read_back(tmp_path: Path, sizes: list[int], keep_bits: int | None, monkeypatch) -> None:
    monkeypatch.setattr(filling, "_CHUNK", 64)  # several chunks each way, and an uneven end
    monkeypatch.setattr(filling, "_CHUNK_COLUMNS", 6)
    whole = {"X": dense(50, 13), "lower": dense(50, 13, 1), "observed": counts(50, 13)}
    new = modality(whole, sizes)
    took = write_h5ad(tmp_path / "o.h5ad", new, keep_bits=keep_bits)
    a = ad.read_h5ad(tmp_path / "o.h5ad")
    assert_close(a.X, whole["X"], keep_bits)
    assert_close(a.layers["lower"], whole["lower"], keep_bits)
    observed = a.layers["observed"]
    assert (observed.format, observed.dtype, abs(observed - whole["observed"]).nnz) == ("csr", np.float32, 0)
    assert observed.has_canonical_format
    assert list(a.obs_names) == list(new.obs.index)
    assert list(a.var_names) == list(new.var.index)
    assert a.obs["imputed"].tolist() == new.obs["imputed"].tolist()
    assert a.var["r"].tolist() == new.var["r"].tolist()
    assert a.uns["mocli"] == {"seed": 0}
    np.testing.assert_array_equal(a.obsm["X_scmodal"], np.ones((50, 2)))
    assert took.n_values == 2 * 50 * 13 + whole["observed"].nnz
    assert took.decode_s >= 0
    assert took.write_s > 0
    with h5py.File(tmp_path / "o.h5ad") as h5:
        node = h5["X"]
        assert (node.compression, node.compression_opts, node.shuffle) == ("gzip", 1, True)
        assert node.chunks == (10, 5)
        parts = [h5[f"layers/observed/{p}"] for p in ("data", "indices", "indptr")]
        size = sum(d.id.get_storage_size() for d in (node, h5["layers/lower"], *parts))
        assert took.bytes == size > 0
        assert h5["layers/observed/indptr"].dtype == np.int32


def test_the_cut_into_blocks_does_not_show(tmp_path: Path) -> None:
    x = dense(300, 7)
    for name, sizes in (("a", [300]), ("b", [100, 1, 199])):
        write_h5ad(tmp_path / name, modality({"X": x}, sizes))
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_a_chunk_is_of_a_size_to_read(tmp_path: Path) -> None:
    for n, m in ((300, 5000), (5000, 40), (3, 2), (2100, 2049)):
        x = np.zeros((n, m), np.float32)
        write_h5ad(tmp_path / "o", modality({"X": x}, [n]))
        with h5py.File(tmp_path / "o") as h5:
            nbytes = 4 * np.prod(h5["X"].chunks)
            assert min(4 * n * m, 1 << 18) <= nbytes <= 1 << 19


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64, np.uint16, np.float64])
def test_counts_are_written_sparse(tmp_path: Path, dtype: type) -> None:
    x = counts(40, 9, dtype=dtype)
    messy = sp.csr_matrix((np.array([1, 2, 3], dtype), np.array([4, 4, 0]), [0, 3]), shape=(1, 9))
    blocks = [{"X": x[:10]}, {"X": messy}, {"X": x[10:11] * 0}, {"X": sp.csr_array(x[12:])}]
    took = write_h5ad(tmp_path / "o.h5ad", modality({"X": x}, [], blocks=lambda: iter(blocks)))
    a = ad.read_h5ad(tmp_path / "o.h5ad")
    expected = x.copy().tolil()
    expected[10], expected[11] = messy, 0
    assert abs(a.X - expected.tocsr()).nnz == 0
    assert a.X.dtype == dtype
    assert took.n_values == a.X.nnz
    assert messy.nnz == 3  # what was given is not changed
    backed = ad.read_h5ad(tmp_path / "o.h5ad", backed="r")
    assert abs(backed[9:12].to_memory().X - expected.tocsr()[9:12]).nnz == 0
    backed.file.close()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
@pytest.mark.parametrize("sparse", [True, False])
def test_nothing_to_write(tmp_path: Path, shape: tuple[int, int], sparse: bool) -> None:
    x = np.zeros(shape, np.float32)
    new = modality({"X": sp.csr_matrix(x) if sparse else x}, [shape[0]])
    assert write_h5ad(tmp_path / "o.h5ad", new).n_values == 0
    assert ad.read_h5ad(tmp_path / "o.h5ad").shape == shape


def test_no_cells_and_no_blocks(tmp_path: Path) -> None:
    new = modality({"X": np.zeros((0, 4), np.float32)}, [])
    assert write_h5ad(tmp_path / "o.h5ad", new).n_values == 0
    a = ad.read_h5ad(tmp_path / "o.h5ad")
    assert (a.shape, a.X.shape, a.X.dtype) == ((0, 4), (0, 4), np.float32)


def test_one_block_at_a_time(tmp_path: Path) -> None:
    most = 0

    def blocks() -> Iterator[dict[str, object]]:
        nonlocal most
        alive: list[weakref.ref[object]] = []
        for i in range(6):
            block = {"X": dense(10, 5, i), "observed": counts(10, 5, i)}
            alive += [weakref.ref(v) for v in block.values()]
            alive += [weakref.ref(block["observed"].data)]
            yield block
            del block
            most = max(most, sum(r() is not None for r in alive))

    write_h5ad(tmp_path / "o.h5ad", modality({"X": dense(60, 5)}, [], blocks=blocks))
    assert most == 0


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([{"X": dense(3, 5)}], "have 3 rows, obs has 6"),
        ([{"X": dense(7, 5)}], "from row 0 on"),
        ([{"X": dense(6, 4)}], "from row 0 on"),
        ([{"X": dense(6, 5), "lower": dense(5, 5)}], "'lower'"),
        ([{"X": dense(3, 5)}, {"X": dense(3, 5), "lower": dense(3, 5)}], "holds"),
        ([{"lower": dense(6, 5)}], "holds"),
        ([{"X": dense(3, 5)}, {"X": counts(3, 5)}], "changes its form"),
        ([{"X": counts(3, 5)}, {"X": counts(3, 5, dtype=np.int32)}], "changes its form"),
        ([{"X": dense(6, 5).astype(np.float64)}], "neither CSR nor dense float32"),
        ([{"X": counts(6, 5).tocsc()}], "neither CSR nor dense float32"),
    ],
)
def test_blocks_that_do_not_fit(tmp_path: Path, blocks: list[dict[str, object]], message: str) -> None:
    new = modality({"X": dense(6, 5)}, [], blocks=lambda: iter(blocks))
    with pytest.raises(ValueError, match=message):
        write_h5ad(tmp_path / "o.h5ad", new)
    assert list(tmp_path.iterdir()) == []


def test_a_modality_that_is_none() -> None:
    with pytest.raises(ValueError, match="cannot name"):
        modality({"X": dense(2, 2)}, [2], name="a/b")
    with pytest.raises(ValueError, match="repeat"):
        modality({"X": dense(2, 2)}, [2], cells=["c", "c"])


# rounding


@pytest.mark.parametrize("keep_bits", [1, 5, 12, 22, 23])
def test_rounding_is_to_nearest_even(keep_bits: int) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint32)
    ties = (bits[:5000] >> np.uint32(24 - keep_bits) << np.uint32(24 - keep_bits)) | np.uint32(
        1 << (22 - keep_bits) if keep_bits < 23 else 0
    )
    x = np.concatenate([bits, ties]).view(np.float32)
    x = x[np.isfinite(x) & (np.abs(x) > 1e-37) & (np.abs(x) < 1e38)]
    got = round_mantissa(x, keep_bits)
    # numpy rounds ties to even too; frexp's mantissa has one bit more than is stored
    fraction, exponent = np.frexp(x.astype(np.float64))
    expected = np.ldexp(np.rint(fraction * 2.0 ** (keep_bits + 1)), exponent - keep_bits - 1)
    np.testing.assert_array_equal(got, expected.astype(np.float32))
    assert np.max(np.abs(got / x.astype(np.float64) - 1)) <= 2.0 ** -(keep_bits + 1)
    assert not np.shares_memory(got, x)


def test_rounding_keeps_what_is_no_number() -> None:
    nan = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000, 0xFF800001], np.uint32).view(np.float32)
    big = np.finfo(np.float32).max
    rest = np.array([np.inf, -np.inf, 0.0, -0.0, big, -big, 1e-45, 8191, 0.1], np.float32)
    for keep_bits in (1, 12, 23):
        out = round_mantissa(np.concatenate([nan, rest]), keep_bits)
        np.testing.assert_array_equal(out[:5].view(np.uint32), nan.view(np.uint32))
        np.testing.assert_array_equal(out[5:9].view(np.uint32), rest[:4].view(np.uint32))
        assert np.isfinite(out[9:]).all()
        assert out[9] >= big * 0.5
    assert out[-2] == 8191
    assert round_mantissa(rest, 12)[7] == 8191
    for keep_bits in (0, 24):
        with pytest.raises(ValueError, match="not within"):
            round_mantissa(rest, keep_bits)


# beside the others


def adata(cells: list[str], features: list[str], seed: int) -> ad.AnnData:
    a = ad.AnnData(counts(len(cells), len(features), seed))
    a.obs_names, a.var_names = cells, features
    a.obs["kind"] = pd.Categorical([f"k{i % 2}" for i in range(len(cells))])
    a.var["good"] = [j % 2 == 0 for j in range(len(features))]
    return a


@pytest.fixture(params=["one h5mu", "two h5ad"])
def inputs(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Cells c0 to c5, in both forms; the h5mu has a third modality, and all sorts of things on top."""
    parts = {
        "rna": adata([f"c{i}" for i in range(5)], ["CD4", "CD8A", "MS4A1"], 1),
        "prot": adata(["c5", "c1", "c0"], ["CD4", "CD19p"], 2),
    }
    folder = tmp_path / "in"
    folder.mkdir()
    if request.param == "two h5ad":
        for name, a in parts.items():
            a.write_h5ad(folder / f"{name}.h5ad")
        return [str(folder / f"{name}.h5ad") for name in parts]
    with mudata.set_options(pull_on_update=False), warnings.catch_warnings(action="ignore"):
        m = mudata.MuData({**parts, "other": adata(["c2", "c9"], ["q"], 3)})
        n = m.n_obs
        m.obs["depth"] = np.arange(n)
        m.obs["flag"] = np.arange(n) % 2 == 0
        m.obs["word"] = pd.Categorical(["a", "b"] * n)[:n]
        m.var["good"] = [True, False] * (m.n_vars // 2)
        m.obsm["X_pca"] = dense(n, 2)
        m.obsm["csr"], m.obsm["csc"] = counts(n, 3), counts(n, 3, 1).tocsc()
        m.obsm["table"] = pd.DataFrame({"a": np.arange(n), "b": ["x"] * n}, index=m.obs_names)
        m.obsp["near"], m.obsp["csc"] = sp.csr_matrix(np.eye(n)), sp.csc_matrix(np.eye(n))
        m.obsp["far"] = np.eye(n)
        m.uns["title"] = "mine"
        m.write_h5mu(folder / "m.h5mu")
    return [f"{folder / 'm.h5mu'}::rna", f"{folder / 'm.h5mu'}::prot"]


def read(path: Path) -> mudata.MuData:
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.filterwarnings("ignore", "[Vv]ar.*names.* not", UserWarning)
        warnings.filterwarnings("ignore", "Duplicated var_names", UserWarning)
        return mudata.read_h5mu(path)


def write(path: Path, inputs: list[str], new: list[NewModality]) -> tuple[list[str], np.ndarray, object]:
    added = [Added(f) for f in open_inputs(inputs)]
    names = union_names(added, new)
    top = dense(len(names), 3)
    return names, top, write_file(path, added, obsm={"X_scmodal": top}, uns={"mocli": {"seed": 1}}, new=new)


@pytest.mark.parametrize("inputs", ["one h5mu"], indirect=True)
def test_what_stands_on_top_in_no_known_form_is_left_out_and_told(tmp_path: Path, inputs: list[str]) -> None:
    """Where a modality is added, all that stands above modalities gets more rows."""
    with h5py.File(inputs[0].partition("::")[0], "r+") as h5:
        h5["varm/odd"], h5["obsm/one"] = np.array([b"text"]), 3
    said: list[str] = []
    new = modality({"X": dense(3, 4)}, [3], cells=["c1", "c4", "n0"])
    added = [Added(f) for f in open_inputs(inputs)]
    write_file(tmp_path / "out.h5mu", added, obsm={}, uns={}, new=[new], warn=said.append)
    told = "obsm one, varm odd left out of the output: it is not a table of numbers"
    assert [line for line in said if told in line]
    with h5py.File(tmp_path / "out.h5mu") as h5:
        assert "odd" not in h5["varm"]
        assert "one" not in h5["obsm"]
    read(tmp_path / "out.h5mu")


@pytest.mark.parametrize("cells", [["c1", "c4", "c0"], ["n1", "c5", "n0"]], ids=["subset", "new names"])
def test_a_new_modality_in_an_h5mu(tmp_path: Path, inputs: list[str], cells: list[str]) -> None:
    kept = inputs[0].endswith("::rna")
    whole = {"X": dense(3, 4), "lower": dense(3, 4, 1), "observed": counts(3, 4)}
    new = modality(whole, [2, 1], cells=cells)
    other = modality({"X": counts(1, 2)}, [1], name="atac_imputed", cells=["n1" if "n1" in cells else "c2"])
    before = [sha256(f.path) for f in open_inputs(inputs)]
    names, top, took = write(tmp_path / "out.h5mu", inputs, [new, other])
    assert [sha256(f.path) for f in open_inputs(inputs)] == before
    assert {k: v.n_values for k, v in took.items()} == {
        "prot_imputed": 24 + whole["observed"].nnz,
        "atac_imputed": other.blocks().__next__()["X"].nnz,
    }
    old = union_names([Added(f) for f in open_inputs(inputs)])
    assert names == old + [c for c in cells if c.startswith("n")]
    m = read(tmp_path / "out.h5mu")
    assert list(m.mod) == ["rna", "prot", *(["other"] if kept else []), "prot_imputed", "atac_imputed"]
    assert list(m.obs_names) == names
    np.testing.assert_array_equal(m.obsm["X_scmodal"], top)
    mod = m["prot_imputed"]
    assert list(mod.obs_names) == cells
    assert_close(mod.X, whole["X"], 12)
    assert_close(mod.layers["lower"], whole["lower"], 12)
    assert abs(mod.layers["observed"] - whole["observed"]).nnz == 0
    assert mod.uns["mocli"]["seed"] == 0
    assert m["rna"].uns["mocli"]["seed"] == 1
    assert list(m.var_names)[-6:] == ["p0", "p1", "p2", "p3", "p0", "p1"]
    # who is where, as mudata itself would say it of the same modalities
    with mudata.set_options(pull_on_update=False), warnings.catch_warnings(action="ignore"):
        oracle = mudata.MuData({k: a.copy() for k, a in m.mod.items()})
    assert sorted(oracle.obs_names) == sorted(names)
    with h5py.File(tmp_path / "out.h5mu") as h5:
        for name in m.mod:
            mine = dict(zip(names, h5[f"obsmap/{name}"][()].ravel(), strict=True))
            theirs = dict(zip(oracle.obs_names, oracle.obsmap[name].ravel(), strict=True))
            assert mine == theirs
            assert h5[f"obsm/{name}"][()].ravel().tolist() == [v > 0 for v in mine.values()]
            columns = h5[f"varmap/{name}"][()].ravel()
            assert columns.tolist() == oracle.varmap[name].ravel().tolist()
            assert h5[f"varm/{name}"][()].ravel().tolist() == (columns > 0).tolist()
        encodings: set[str] = set()
        h5.visititems(lambda _, node: encodings.add(str(node.attrs.get("encoding-type"))))
        assert not any("nullable" in e for e in encodings)
    # mudata can take the cells of the new modality, and its features, through the maps
    part = m[cells]
    np.testing.assert_array_equal(part["prot_imputed"].X, mod.X)
    (again,) = open_inputs([f"{tmp_path / 'out.h5mu'}::prot_imputed"])
    assert_close(again.read().toarray(), whole["X"], 12)


def test_what_was_on_top_stays(tmp_path: Path, inputs: list[str]) -> None:
    if not inputs[0].endswith("::rna"):
        pytest.skip("nothing is on top of two files")
    source = open_inputs(inputs)[0].path
    before = read(source)
    n, n_vars = before.n_obs, before.n_vars
    with h5py.File(source, "r+") as h5:  # mudata writes integers here, but cannot read them
        put(h5["obsm"], "ranks", np.arange(n)[:, None])
    before.obsm["ranks"] = np.arange(n)[:, None]
    write(tmp_path / "out.h5mu", inputs, [modality({"X": dense(2, 3)}, [2], cells=["new", "c0"])])
    after = read(tmp_path / "out.h5mu")
    assert after.shape == (n + 1, n_vars + 3)
    assert list(after.obs_names) == [*before.obs_names, "new"]
    assert list(after.var_names[:n_vars]) == list(before.var_names)
    assert list(after.obs.columns) == list(before.obs.columns)
    assert after.obs["depth"].tolist()[:-1] == before.obs["depth"].tolist()
    assert pd.isna(after.obs["depth"].iloc[-1])
    assert after.obs["flag"].iloc[:-1].astype(bool).tolist() == before.obs["flag"].tolist()
    assert after.obs["word"].tolist()[:-1] == before.obs["word"].tolist()
    assert pd.isna(after.obs["word"].iloc[-1])
    assert after.var["good"].tolist()[:n_vars] == before.var["good"].tolist()
    assert after.var["good"].isna().sum() == 3
    for key in ("X_pca", "ranks"):
        np.testing.assert_array_equal(after.obsm[key][:-1], before.obsm[key])
        assert np.isnan(after.obsm[key][-1]).all()
    for key in ("csr", "csc"):
        assert after.obsm[key].shape == (n + 1, 3)
        assert abs(after.obsm[key].tocsr()[:-1] - before.obsm[key].tocsr()).nnz == 0
        assert after.obsm[key].tocsr()[-1].nnz == 0
    assert after.obsm["table"]["a"].tolist()[:-1] == before.obsm["table"]["a"].tolist()
    for key in ("near", "csc", "far"):
        kept, was = sp.csr_matrix(after.obsp[key]), sp.csr_matrix(before.obsp[key])
        assert kept.shape == (n + 1, n + 1)
        assert kept.nnz == was.nnz
        assert abs(kept[:n, :n] - was).nnz == 0
    assert after.uns["title"] == "mine"
    for name in ("rna", "prot", "other"):
        assert abs(after[name].X - before[name].X).nnz == 0
        assert after[name].obs["kind"].equals(before[name].obs["kind"])


def test_names_must_differ(tmp_path: Path, inputs: list[str]) -> None:
    taken = ["rna", "other"] if inputs[0].endswith("::rna") else ["rna"]
    for name in taken:
        with pytest.raises(UsageError, match="share a name"):
            write(tmp_path / "out.h5mu", inputs, [modality({"X": dense(1, 2)}, [1], name=name)])
    (rna, _) = (Added(f) for f in open_inputs(inputs))
    with pytest.raises(UsageError, match="share a name"):
        write_file(tmp_path / "out.h5mu", [rna, rna], obsm={}, uns={})
    twice = [modality({"X": dense(1, 2)}, [1])] * 2
    with pytest.raises(UsageError, match="share a name"):
        write(tmp_path / "out.h5mu", inputs, twice)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_the_same_run_writes_the_same_bytes(tmp_path: Path, inputs: list[str]) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, inputs, [modality({"X": dense(3, 4), "n": counts(3, 4)}, [1, 2])])
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


# all or nothing


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("errno = 28, 'No space left on device'")]
)
def test_a_disk_that_fills_between_blocks(
    tmp_path: Path, inputs: list[str], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = modality({"X": dense(6, 5), "n": counts(6, 5)}, [2, 2, 2], cells=[f"c{i}" for i in range(6)])
    monkeypatch.setattr(filling, "_CHUNK", 10)
    original, calls = h5py.Dataset.__setitem__, 0

    def full(self: h5py.Dataset, key: object, values: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error
        original(self, key, values)

    monkeypatch.setattr(h5py.Dataset, "__setitem__", full)
    for target in (lambda: write(tmp_path / "out", inputs, [new]), lambda: write_h5ad(tmp_path / "out", new)):
        calls = 0
        with pytest.raises(EnvironmentProblem, match="the disk is full"):
            target()
        assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_block_that_cannot_be_made(tmp_path: Path, inputs: list[str]) -> None:
    (tmp_path / "out").write_text("old")

    def blocks() -> Iterator[dict[str, object]]:
        yield {"X": dense(2, 5)}
        raise KeyboardInterrupt

    new = modality({"X": dense(4, 5)}, [], blocks=blocks)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", inputs, [new])
    assert (tmp_path / "out").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("inside", [True, False])
def test_a_signal_ends_it_between_the_calls_of_hdf5(
    tmp_path: Path, inputs: list[str], inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[str] = []

    class Ended(Exception):
        pass

    def receive(_signum: int, frame: object) -> None:
        raised.append("held" if frame is None else "at once")
        raise Ended

    def once() -> None:
        if not raised and not sent:
            sent.append(1)
            signal.raise_signal(signal.SIGTERM)

    sent: list[int] = []
    original = outfile._Stream.write

    def write_and_signal(self: outfile._Stream, data: object, /) -> int:
        once()
        return original(self, data)

    def blocks() -> Iterator[dict[str, object]]:
        for i in range(3):
            yield {"X": dense(2, 5, i)}
            if not inside:
                once()

    if inside:
        monkeypatch.setattr(outfile._Stream, "write", write_and_signal)
        monkeypatch.setattr(outfile, "_CALLED_BY_HDF5", {once.__code__, write_and_signal.__code__})
    before = signal.signal(signal.SIGTERM, receive)
    try:
        with pytest.raises(Ended):
            write(tmp_path / "out", inputs, [modality({"X": dense(6, 5)}, [], blocks=blocks)])
        assert signal.getsignal(signal.SIGTERM) is receive
    finally:
        signal.signal(signal.SIGTERM, before)
    assert raised == ["held" if inside else "at once"]
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


FULL = """
    import resource, sys
    from pathlib import Path
    import numpy as np, pandas as pd
    from mocli.data.files.inputs import open_inputs
    from mocli.data.write.write import Added, NewModality, write_h5ad, write_file
    from mocli.errors import EnvironmentProblem
    folder, inputs = Path(sys.argv[1]), sys.argv[2:]
    added = [Added(f) for f in open_inputs(inputs)]
    rng = np.random.default_rng(0)
    def blocks():
        for i in range(40):
            yield {"X": rng.random((100, 500), np.float32), "lower": rng.random((100, 500), np.float32)}
    new = NewModality(
        "new", pd.DataFrame(index=[f"c{i}" for i in range(4000)]),
        pd.DataFrame(index=[f"p{i}" for i in range(500)]), blocks,
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    codes = []
    for write in (
        lambda: write_h5ad(folder / "a", new),
        lambda: write_file(folder / "b", added, obsm={}, uns={}, new=[new]),
    ):
        try:
            write()
        except EnvironmentProblem as error:
            codes.append(error.exit_code)
    sys.exit(codes[0] if codes == [4, 4] else 1)
"""


def test_a_file_that_may_not_grow(tmp_path: Path, inputs: list[str]) -> None:
    pytest.importorskip("resource")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), tmp_path, *inputs],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # a file that could not be closed would crash the process at its end
    assert (run.returncode, run.stderr) == (4, "")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
