"""Files out: nothing of the user's changes, and mudata and anndata read what is written."""

from __future__ import annotations

import os
import stat
import warnings
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
from mocli.data.write import carry
from mocli.data.write import outfile as target
from mocli.data.write.outfile import atomic, check_writable
from mocli.data.write.write import Added, union_names, write_file
from mocli.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

REAL = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
UNS = {
    "mocli": {
        "version": "0.1",
        "command": ["mocli", "integrate"],
        "seed": 0,
        "none": None,
        "a/b": 1.5,
        "mixed": [1, "x"],
    }
}


def adata(cells: list[str], features: list[str], seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.6, (len(cells), len(features))).astype(np.float32)
    a = ad.AnnData(sp.csr_matrix(x), pd.DataFrame(index=cells), pd.DataFrame(index=features))
    a.obs["kind"] = pd.Categorical(rng.choice(["a", "b"], len(cells)))
    a.obs["flag"] = rng.random(len(cells)) > 0.5
    a.var["where"] = [f"chr{j}" for j in range(len(features))]
    a.layers["log"] = a.X.log1p().tocsc()
    a.obsm["X_pca"] = rng.normal(size=(len(cells), 2))
    a.obsp["near"] = sp.csr_matrix(np.eye(len(cells)))
    a.varm["PCs"] = rng.normal(size=(len(features), 2))
    a.uns["colours"] = np.array(["red", "blue"])
    a.uns["nested"] = {"deep": {"n": 3}}
    a.raw = a.copy()
    return a


def read(path: Path) -> mudata.MuData:
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        # mudata says so of every file in which a gene and a protein share a name
        warnings.filterwarnings("ignore", "[Vv]ar.*names.* not", UserWarning)
        warnings.filterwarnings("ignore", "Duplicated var_names", UserWarning)
        return mudata.read_h5mu(path)


def cells(*numbers: int) -> list[str]:
    return [f"c{i}" for i in numbers]


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two h5ad: cells in different orders, some in one only, a gene and a protein both called CD4."""
    rna = adata(cells(0, 1, 2, 3, 4), ["CD4", "CD8A", "MS4A1"], 1)
    prot = adata(cells(7, 3, 1, 0), ["CD4", "CD19"], 2)
    for name, a in (("rna", rna), ("prot", prot)):
        a.write_h5ad(tmp_path / f"{name}.h5ad", compression="gzip")
    return [tmp_path / "rna.h5ad", tmp_path / "prot.h5ad"]


@pytest.fixture
def h5mu(tmp_path: Path) -> Path:
    """An h5mu with a third modality, a column on top, and an order of its own."""
    with mudata.set_options(pull_on_update=False):
        m = mudata.MuData(
            {
                "rna": adata(cells(0, 1, 2, 3), ["CD4", "CD8A"], 1),
                "prot": adata(cells(3, 2, 1, 9), ["CD4p"], 2),
                "other": adata(cells(20, 1), ["q"], 3),
            }
        )
        m.obs["depth"] = np.arange(m.n_obs)
        m.uns["title"] = "mine"
        m.write_h5mu(tmp_path / "m.h5mu")
    return tmp_path / "m.h5mu"


def add(paths: list[str], rename: str | None = None) -> list[Added]:
    out = []
    for f in open_inputs(paths):
        latent = np.arange(2 * f.n_obs, dtype=np.float32).reshape(-1, 2)
        clusters = pd.Series([f"k{i % 2}" for i in range(f.n_obs)])
        names = tuple(f"{f.name}:{n}" for n in f.obs.index) if rename else None
        out.append(Added(f, {"X_scmodal": latent}, {"scmodal_cluster": clusters}, names))
    return out


def write(path: Path, added: list[Added]) -> np.ndarray:
    n = len(union_names(added))
    top = np.arange(3 * n, dtype=np.float32).reshape(n, 3)
    write_file(path, added, obsm={"X_scmodal": top}, obs={"score": np.linspace(0, 1, n)}, uns=UNS)
    return top


def objects(h5: h5py.Group) -> Iterator[tuple[str, h5py.HLObject]]:
    found: list[tuple[str, h5py.HLObject]] = []
    h5.visititems(lambda name, node: found.append((name, node)))
    return iter(found)


def stored(node: h5py.Dataset) -> list[bytes] | object:
    """A dataset's chunks as they lie on disk, or its values where there are none or they are pointers."""
    if node.chunks and h5py.check_string_dtype(node.dtype) is None:
        chunks: list[h5py.h5d.StoreInfo] = []
        node.id.chunk_iter(chunks.append)
        return [node.id.read_direct_chunk(c.chunk_offset)[1] for c in chunks]
    return np.asarray(node[()]).tolist() if node.shape is not None else None


def assert_untouched(before: h5py.Group, after: h5py.Group, ours: set[str]) -> None:
    n = 0
    for name, node in objects(before):
        assert name in after, name
        twin = after[name]
        for key, value in node.attrs.items():
            if not (key == "column-order" and name.rpartition("/")[2] == "obs"):
                assert np.array_equal(value, twin.attrs[key]), (name, key)
        if isinstance(node, h5py.Dataset):
            n += 1
            assert (node.dtype, node.shape, node.compression) == (twin.dtype, twin.shape, twin.compression), (
                name
            )
            assert stored(node) == stored(twin), name
    assert n > 5
    new = {name for name, _ in objects(after)} - {name for name, _ in objects(before)}
    assert {name for name in new if not any(name == o or name.startswith(o + "/") for o in ours)} == set()


OURS = {"obsm/X_scmodal", "obs/scmodal_cluster", "uns/mocli"}


def check_latent(m: mudata.MuData, added: list[Added], top: np.ndarray) -> None:
    np.testing.assert_array_equal(m.obsm["X_scmodal"], top)
    for a in added:
        mod = m[a.file.name]
        np.testing.assert_array_equal(mod.obsm["X_scmodal"], a.obsm["X_scmodal"])
        assert list(mod.obs["scmodal_cluster"]) == list(a.obs["scmodal_cluster"])
        assert list(mod.obs_names) == list(a.names)
        assert mod.uns["mocli"]["command"].tolist() == ["mocli", "integrate"]
    assert "none" not in m.uns["mocli"]
    assert m.uns["mocli"]["a_b"] == 1.5
    assert m.uns["mocli"]["mixed"] == '[1, "x"]'


def test_two_h5ad_become_one_h5mu(tmp_path: Path, pair: list[Path]) -> None:
    before = [sha256(p) for p in pair]
    added = add([str(p) for p in pair])
    assert union_names(added) == cells(0, 1, 2, 3, 4, 7)
    top = write(tmp_path / "out.h5mu", added)
    assert [sha256(p) for p in pair] == before
    with h5py.File(tmp_path / "out.h5mu") as out:
        for p in pair:
            with h5py.File(p) as source:
                assert_untouched(source, out[f"mod/{p.stem}"], OURS)
    m = read(tmp_path / "out.h5mu")
    assert list(m.mod) == ["rna", "prot"]
    assert list(m.obs_names) == cells(0, 1, 2, 3, 4, 7)
    assert list(m.obs.columns) == ["score"]
    assert list(m.var_names) == ["CD4", "CD8A", "MS4A1", "CD4", "CD19"]
    check_latent(m, added, top)
    # with mudata's old defaults, too, the latent stays with its cells
    with warnings.catch_warnings(action="ignore"):
        old = mudata.read_h5mu(tmp_path / "out.h5mu")
    where = pd.Index(old.obs_names).get_indexer(union_names(added))
    np.testing.assert_array_equal(old.obsm["X_scmodal"][where], top)
    # who is where, as mudata itself would say it
    with mudata.set_options(pull_on_update=False), warnings.catch_warnings(action="ignore"):
        oracle = mudata.MuData({p.stem: ad.read_h5ad(p) for p in pair})
    with h5py.File(tmp_path / "out.h5mu") as out:
        for name in ("rna", "prot"):
            mine = dict(zip(cells(0, 1, 2, 3, 4, 7), out[f"obsmap/{name}"][()], strict=True))
            theirs = dict(zip(oracle.obs_names, oracle.obsmap[name], strict=True))
            assert mine == theirs
            assert out[f"obsm/{name}"][()].ravel().tolist() == [v > 0 for v in mine.values()]
            assert out[f"varmap/{name}"][()].tolist() == oracle.varmap[name].ravel().tolist()
    whole = ad.read_h5ad(pair[0])
    part = mudata.read_h5ad(tmp_path / "out.h5mu", mod="rna")
    assert abs(part.layers["log"] - whole.layers["log"]).nnz == 0
    assert abs(part.raw.X - whole.raw.X).nnz == 0
    assert part.obs["kind"].equals(whole.obs["kind"])


def test_a_single_h5mu_keeps_everything(tmp_path: Path, h5mu: Path) -> None:
    before = sha256(h5mu)
    h5mu.chmod(stat.S_IRUSR)
    added = add([f"{h5mu}::prot", f"{h5mu}::rna"])
    original = read(h5mu)
    assert union_names(added) == list(original.obs_names)
    top = write(tmp_path / "out.h5mu", added)
    m = read(tmp_path / "out.h5mu")
    assert sha256(h5mu) == before
    mods = {f"mod/{name}/{o}" for name in ("rna", "prot") for o in OURS}
    with h5py.File(h5mu) as a, h5py.File(tmp_path / "out.h5mu") as b:
        assert_untouched(a, b, {"obsm/X_scmodal", "obs/score", "uns/mocli"} | mods)
    assert list(m.mod) == ["rna", "prot", "other"]
    assert list(m.obs["depth"]) == list(original.obs["depth"])
    assert m.uns["title"] == "mine"
    check_latent(m, added, top)
    assert (tmp_path / "out.h5mu").stat().st_mode & stat.S_IWUSR


def test_integrating_the_output_again_overwrites_only_ours(tmp_path: Path, pair: list[Path]) -> None:
    write(tmp_path / "one.h5mu", add([str(p) for p in pair]))
    added = add([str(tmp_path / "one.h5mu")])
    top = write(tmp_path / "two.h5mu", added)
    with h5py.File(tmp_path / "one.h5mu") as a, h5py.File(tmp_path / "two.h5mu") as b:
        assert_untouched(a, b, set())
        assert list(b["mod/rna/obs"].attrs["column-order"]) == ["kind", "flag", "scmodal_cluster"]
    check_latent(read(tmp_path / "two.h5mu"), added, top)


def test_renamed_cells(tmp_path: Path, h5mu: Path) -> None:
    added = add([f"{h5mu}::rna", f"{h5mu}::prot"], rename="yes")
    names = union_names(added)
    assert names == [f"rna:{c}" for c in cells(0, 1, 2, 3)] + [f"prot:{c}" for c in cells(3, 2, 1, 9)]
    top = write(tmp_path / "out.h5mu", added)
    m = read(tmp_path / "out.h5mu")
    assert list(m.obs_names) == names
    check_latent(m, added, top)
    original = mudata.read_h5ad(h5mu, mod="rna")
    assert list(m["rna"].obs["kind"]) == list(original.obs["kind"])


def test_a_modality_under_another_name(tmp_path: Path, h5mu: Path, pair: list[Path]) -> None:
    added = add([f"mine={h5mu}::rna", str(pair[1])])
    top = write(tmp_path / "out.h5mu", added)
    m = read(tmp_path / "out.h5mu")
    assert list(m.mod) == ["mine", "prot"]
    check_latent(m, added, top)


def test_a_file_split_by_feature_type(tmp_path: Path) -> None:
    a = adata(cells(0, 1, 2, 3), ["A", "B", "C", "B2"])
    a.var["feature_types"] = ["Gene Expression", "Antibody Capture", "Gene Expression", "Antibody Capture"]
    a.var["n"] = pd.array([1, None, 3, 4], dtype="Int64")
    a.var["word"] = pd.array(["x", None, "y", "z"], dtype="string")
    a.write_h5ad(tmp_path / "mixed.h5ad")
    added = add([str(tmp_path / "mixed.h5ad")])
    top = write(tmp_path / "out.h5mu", added)
    m = read(tmp_path / "out.h5mu")
    check_latent(m, added, top)
    for name, columns in (("rna", [0, 2]), ("prot", [1, 3])):
        assert abs(m[name].X - a.X[:, columns]).nnz == 0
        assert abs(m[name].layers["log"] - a.layers["log"][:, columns]).nnz == 0
        np.testing.assert_array_equal(m[name].varm["PCs"], a.varm["PCs"][columns])
        np.testing.assert_array_equal(m[name].obsm["X_pca"], a.obsm["X_pca"])
        assert m[name].var["n"].tolist() == pytest.approx(
            [1, 3] if name == "rna" else [np.nan, 4], nan_ok=True
        )
        assert m[name].obs["kind"].equals(a.obs["kind"])
    assert m["prot"].var["word"].isna().tolist() == [True, False]
    with h5py.File(tmp_path / "out.h5mu") as out:
        encodings = {str(node.attrs.get("encoding-type")) for name, node in objects(out) if "/var/" in name}
        assert not any("nullable" in e for e in encodings)


def test_10x_becomes_modalities(tmp_path: Path) -> None:
    x = sp.csr_matrix(np.random.default_rng(0).poisson(1, (5, 4)).astype(np.int32))
    with h5py.File(tmp_path / "f.h5", "w") as h5:
        g = h5.create_group("matrix")
        g["barcodes"] = np.array([f"B{i}" for i in range(5)], "S4")
        g["data"], g["indices"], g["indptr"], g["shape"] = x.data, x.indices, x.indptr, np.array([4, 5])
        g["features/id"] = g["features/name"] = np.array(["a", "b", "c", "a"], "S2")
        g["features/feature_type"] = np.array(["Gene Expression"] * 2 + ["Antibody Capture"] * 2, "S20")
    added = add([str(tmp_path / "f.h5")])
    top = write(tmp_path / "out.h5mu", added)
    m = read(tmp_path / "out.h5mu")
    check_latent(m, added, top)
    assert abs(m["rna"].X - x[:, :2]).nnz == 0
    assert m["rna"].X.dtype == np.int32
    assert list(m["prot"].var["gene_ids"]) == ["c", "a"]


@pytest.mark.parametrize("frames", ["compound", "references"])
def test_old_files_keep_their_meaning(tmp_path: Path, frames: str, pair: list[Path], write_old) -> None:
    write_old(tmp_path / "old.h5ad", frames=frames)
    added = add([f"rna={tmp_path / 'old.h5ad'}", str(pair[1])])
    write(tmp_path / "out.h5mu", added)
    (again, _) = open_inputs([str(tmp_path / "out.h5mu")])
    assert list(again.obs["scmodal_cluster"]) == ["k0", "k1", "k0", "k1"]
    old = added[0].file
    assert [list(map(str, again.obs[c])) for c in old.obs] == [list(map(str, old.obs[c])) for c in old.obs]
    assert abs(again.read() - old.read()).nnz == 0


def test_the_same_run_writes_the_same_bytes(tmp_path: Path, pair: list[Path]) -> None:
    for name in ("one", "two"):
        write(tmp_path / f"{name}.h5mu", add([str(p) for p in pair]))
    assert sha256(tmp_path / "one.h5mu") == sha256(tmp_path / "two.h5mu")


def test_what_is_added_is_encoded_plainly(tmp_path: Path, pair: list[Path]) -> None:
    write(tmp_path / "out.h5mu", add([str(p) for p in pair]))
    with h5py.File(tmp_path / "out.h5mu") as out:
        latent = out["mod/rna/obsm/X_scmodal"]
        assert (latent.dtype, latent.compression, latent.attrs["encoding-type"]) == (
            np.float32,
            "gzip",
            "array",
        )
        column = out["mod/rna/obs/scmodal_cluster"]
        assert column.attrs["encoding-type"] == "string-array"
        assert h5py.check_string_dtype(column.dtype).encoding == "utf-8"
        assert list(out["mod"].attrs["mod-order"]) == ["rna", "prot"]
        assert out.attrs["encoding-type"] == "MuData"
    assert (tmp_path / "out.h5mu").read_bytes()[:6] == b"MuData"


def test_rows_must_fit(tmp_path: Path, pair: list[Path]) -> None:
    added = add([str(p) for p in pair])
    with pytest.raises(ValueError, match="has 3 rows"):
        write_file(tmp_path / "out.h5mu", added, obsm={"X": np.zeros((3, 2), np.float32)}, uns={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prot.h5ad", "rna.h5ad"]


def test_an_input_is_never_the_output(tmp_path: Path, pair: list[Path]) -> None:
    added = add([str(p) for p in pair])
    link = tmp_path / "link.h5mu"
    link.symlink_to(pair[0])
    for path in (pair[0], link):
        with pytest.raises(UsageError, match="also an input"):
            write(path, added)
        with pytest.raises(UsageError, match="also an input"):
            check_writable(path, force=True, inputs=pair)


# one step, or none


def test_atomic_replaces_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    with atomic(out) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert out.read_text() == "old"
    assert out.read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]
    mask = os.umask(0)
    os.umask(mask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail(path: Path) -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_killed_while_writing(tmp_path: Path, pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mocli.data.write.write._write_top", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.h5mu", add([str(p) for p in pair]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prot.h5ad", "rna.h5ad"]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic(tmp_path / "out"):
            raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentProblem, match="the disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_where_one_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").write_text("x")
    (tmp_path / "results").mkdir()
    check_writable(tmp_path / "new.h5mu", force=False)
    check_writable(tmp_path / "there", force=True)
    with pytest.raises(UsageError, match="--force"):
        check_writable(tmp_path / "there", force=False)
    with pytest.raises(UsageError, match="is a folder"):
        check_writable(tmp_path / "results", force=True)
    with pytest.raises(EnvironmentProblem, match="did you mean 'results'"):
        check_writable(tmp_path / "result" / "out.h5mu", force=False)
    with pytest.raises(EnvironmentProblem, match="folder is not there"):
        check_writable(tmp_path / "there" / "out.h5mu", force=False)
    with pytest.raises(EnvironmentProblem) as caught:
        check_writable(tmp_path / "new" / "two words" / "out.h5mu", force=False)
    assert caught.value.hint == f"make it: mkdir -p '{tmp_path / 'new' / 'two words'}'"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results", "there"]

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(target.Path if hasattr(target, "Path") else Path, "open", refuse)
    with pytest.raises(EnvironmentProblem, match="cannot be written to") as caught:
        check_writable(tmp_path / "new.h5mu", force=False)
    assert caught.value.exit_code == 4


@pytest.mark.real_data
def test_real_file_is_untouched(tmp_path: Path) -> None:
    source = REAL / "scgem_reprogramming.h5mu"
    if not source.is_file():
        pytest.skip("the real data sets are not beside the repository")
    before = sha256(source)
    added = add([str(source)])
    top = write(tmp_path / "out.h5mu", added)
    assert sha256(source) == before
    mods = {f"mod/{a.file.name}/{o}" for a in added for o in OURS}
    with h5py.File(source) as a, h5py.File(tmp_path / "out.h5mu") as b:
        assert_untouched(a, b, {"obsm/X_scmodal", "obs/score", "uns/mocli"} | mods)
    check_latent(read(tmp_path / "out.h5mu"), added, top)


def test_keys_with_a_slash_are_renamed_so_that_anndata_opens_the_output(tmp_path: Path) -> None:
    adata = ad.AnnData(
        sp.csr_matrix(np.ones((4, 3), np.float32)), var=pd.DataFrame(index=["ACTB", "FTL", "FTH1"])
    )
    adata.write_h5ad(tmp_path / "rna.h5ad")
    with h5py.File(tmp_path / "rna.h5ad", "r+") as h5:
        h5.copy(h5["X"], h5["layers"], name="norm/log")  # as anndata before 0.13 wrote layers['norm/log']
        carry.put(h5.require_group("obsm/X"), "pca", np.zeros((4, 2)))
        for path in ("obs/batch", "obs/batch/lane", "obs/a/b", "obs/a_b", "var/is/T"):
            axis, _, key = path.partition("/")
            values = pd.Series(["x", "y"] * 2 if axis == "obs" else ["x", "y", "x"], dtype="category")
            carry.put(h5[axis], key, values.array)
            if "/" in key:
                h5[axis].move(key.replace("/", "_"), key)
            h5[axis].attrs["column-order"] = np.array([*h5[axis].attrs["column-order"], key], dtype=object)
    (file,) = open_inputs([str(tmp_path / "rna.h5ad")])
    assert file.layers == ("norm/log",)
    assert file.read("norm/log").sum() == 12
    said: list[str] = []
    write_file(tmp_path / "out.h5mu", [Added(file)], obsm={}, uns={}, warn=said.append)
    out = mudata.read_h5mu(tmp_path / "out.h5mu")["rna"]
    assert list(out.layers) == ["norm_log"]
    assert list(out.obsm) == ["X_pca"]
    assert list(out.obs) == ["batch", "batch_lane", "a_b_", "a_b"]
    assert list(out.var) == ["is_T"]
    assert out.obs["batch_lane"].tolist() == ["x", "y", "x", "y"]
    assert len(said) == 5
    assert "is written as 'norm_log'" in said[0]
