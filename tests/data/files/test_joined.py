"""A modality in several files is what anndata would put together, read a piece at a time."""

import warnings
from pathlib import Path

import anndata as ad
import h5py
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.data.files.contents import choose_layer
from mocli.data.files.frames import agreeing_columns, stack_obs
from mocli.data.files.inputs import open_inputs, sha256
from mocli.data.files.joined import JoinedModality
from mocli.data.write.write import Added, union_names, write_file
from mocli.errors import InputError, UsageError
from mocli.types import ModalityKind, ValueKind

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:mudata", "ignore:Duplicated:UserWarning")


def counts(cells, features, *, seed, layout="csr", obs=None, var=None):
    x = np.random.default_rng(seed).poisson(0.7, (len(cells), len(features))).astype(np.float32)
    x = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[layout](x)
    return ad.AnnData(x, pd.DataFrame(obs or {}, index=cells), pd.DataFrame(var or {}, index=features))


def names(prefix, n):
    return [f"{prefix}{i}" for i in range(n)]


def h5mu(path, **modalities):
    with warnings.catch_warnings(), md.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        md.MuData(modalities).write_h5mu(path)
    return path


def read(path):
    with warnings.catch_warnings(), md.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        return md.read_h5mu(path)


@pytest.fixture
def three(tmp_path):
    """Three files with features of their own in orders of their own, stored in three layouts."""
    rng = np.random.default_rng(0)
    made = []
    for k, layout in enumerate(("csr", "csc", "dense")):
        features = [*names("GENE", 12), *names(f"only{k}_", 3)]
        order = rng.permutation(len(features)) if k else np.arange(len(features))
        a = counts(names(f"f{k}_", 9 + k), [features[j] for j in order], seed=k, layout=layout)
        a.layers["counts"] = sparse.csr_matrix(a.X) * 2
        a.obsm["X_pca"] = rng.normal(size=(a.n_obs, 3))
        a.write_h5ad(tmp_path / f"run{k}.h5ad")
        made.append(a)
    return made, [f"rna={tmp_path / f'run{k}.h5ad'}" for k in range(3)]


@pytest.mark.parametrize("layer", ["X", "counts"])
def test_it_reads_what_anndata_concatenates(three, layer):
    made, texts = three
    (file,) = open_inputs(texts)
    whole = ad.concat([a.copy() for a in made], join="inner")[:, list(file.var.index)]
    dense = np.vstack(
        [a[:, list(file.var.index)].to_df(None if layer == "X" else layer).to_numpy() for a in made]
    )
    assert isinstance(file, JoinedModality)
    assert list(file.var.index) == [n for n in made[0].var_names if n.startswith("GENE")]
    assert list(file.obs.index) == list(whole.obs_names)
    x = file.read(layer)
    assert x.has_canonical_format
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.toarray(), dense)
    for rows in ([0, 25, 3, 3, 12], slice(5, 20), np.array([], dtype=np.int64), slice(9, 10)):
        np.testing.assert_array_equal(file.read(layer, rows=rows).toarray(), dense[rows])
    assert file.nbytes(layer) == pytest.approx(8 * np.count_nonzero(dense), rel=0.1)


def test_some_of_its_cells(three):
    (file,) = open_inputs(three[1])
    rows = np.array([28, 0, 11, 10, 2])
    some = file.take(rows)
    np.testing.assert_array_equal(some.read().toarray(), file.read().toarray()[rows])
    np.testing.assert_array_equal(some.read(rows=[1, 0]).toarray(), file.read().toarray()[rows[[1, 0]]])
    assert list(some.obs.index) == list(file.obs.index[rows])
    assert [len(mine) for _, mine in some.by_part()] == [2, 2, 1]
    assert [part.n_obs for part, _ in file.by_part()] == [9, 10, 11]


def test_it_is_written_as_read(three, tmp_path):
    made, texts = three
    before = [sha256(path) for path in open_inputs(texts)[0].paths]
    (file,) = open_inputs(texts)
    added = Added(file, obsm={"z": np.arange(60.0, dtype=np.float32).reshape(30, 2)})
    write_file(tmp_path / "out.h5mu", [added], obsm={}, uns={"mocli": {"seed": 1}})
    rna = read(tmp_path / "out.h5mu")["rna"]
    np.testing.assert_array_equal(rna.X.toarray(), file.read().toarray())
    np.testing.assert_array_equal(rna.layers["counts"].toarray(), 2 * rna.X.toarray())
    np.testing.assert_array_equal(rna.obsm["X_pca"], np.vstack([a.obsm["X_pca"] for a in made]))
    np.testing.assert_array_equal(rna.obsm["z"], added.obsm["z"])
    assert rna.X.format == "csr"
    assert list(rna.obs["input"].value_counts(sort=False)) == [9, 10, 11]
    assert list(rna.obs["input"].cat.categories) == ["run0", "run1", "run2"]
    assert [sha256(path) for path in file.paths] == before


def test_values_keep_their_type(tmp_path):
    for k, dtype in enumerate((np.int32, np.float64)):
        a = counts(names(f"f{k}_", 5), names("GENE", 6), seed=k)
        a.X = a.X.astype(dtype)
        a.write_h5ad(tmp_path / f"{k}.h5ad")
    (file,) = open_inputs([f"rna={tmp_path / '0.h5ad'}", f"rna={tmp_path / '1.h5ad'}"])
    write_file(tmp_path / "out.h5mu", [Added(file)], obsm={}, uns={})
    assert read(tmp_path / "out.h5mu")["rna"].X.dtype == np.float64


# who is who


def experiments(tmp_path, *, cite="BC", multiome="BC"):
    """CITE-seq and multiome with barcodes that recur: of each file a cell in one modality only."""
    a, b = names(cite, 30), names(multiome, 40)
    h5mu(
        tmp_path / "cite.h5mu",
        rna=counts(a[:-1], names("GENE", 20), seed=0, obs={"donor": ["d1"] * 29, "n": np.arange(29)}),
        prot=counts(a[::-1], names("Prot", 5), seed=1),
    )
    h5mu(
        tmp_path / "multiome.h5mu",
        rna=counts(b, names("GENE", 20), seed=2, obs={"donor": ["d2"] * 40}),
        atac=counts(b[5:], [f"chr1:{100 * i}-{100 * i + 50}" for i in range(25)], seed=3),
    )
    return [str(tmp_path / "cite.h5mu"), str(tmp_path / "multiome.h5mu")]


def test_cells_pair_within_a_file_and_never_across(tmp_path):
    rna, prot, atac = open_inputs(experiments(tmp_path))
    assert [f.name for f in (rna, prot, atac)] == ["rna", "prot", "atac"]
    assert [rna.n_obs, prot.n_obs, atac.n_obs] == [69, 30, 35]
    assert list(rna.obs.index) == [f"BC{i}-cite" for i in range(29)] + [f"BC{i}-multiome" for i in range(40)]
    assert list(prot.obs.index) == [f"BC{i}-cite" for i in reversed(range(30))]
    # BC29 of cite has no rna there; BC29 of multiome has, and must not be taken for it
    assert "BC29-cite" not in rna.obs.index
    assert not set(prot.obs.index) & set(atac.obs.index)
    assert len(set(prot.obs.index) & set(rna.obs.index)) == 29
    assert set(prot.obs["input"]) == {"cite"}
    assert set(atac.obs["input"]) == {"multiome"}
    assert list(rna.obs["donor"]) == ["d1"] * 29 + ["d2"] * 40
    assert rna.obs["n"].isna().sum() == 40
    assert "40 cell names recur" not in " ".join(rna.notes)
    assert "30 cell names recur" in " ".join(rna.notes)


def test_names_that_differ_are_kept(tmp_path):
    rna, prot, atac = open_inputs(experiments(tmp_path, cite="A", multiome="B"))
    assert list(rna.obs.index) == names("A", 29) + names("B", 40)
    assert list(prot.obs.index) == names("A", 30)[::-1]
    assert prot.read().toarray().tolist() == read(tmp_path / "cite.h5mu")["prot"].X.toarray().tolist()
    assert not any("suffix" in note for f in (rna, prot, atac) for note in f.notes)


def test_files_of_one_run_belong_together(tmp_path):
    """Two runs with a file for each modality: barcodes recur, a few also across runs."""
    for k in (1, 2):
        cells = [*names("shared", 3), *names(f"run{k}_", 97)]
        counts(cells, names("GENE", 8), seed=k).write_h5ad(tmp_path / f"r{k}.h5ad")
        counts(cells[::-1], names("Prot", 4), seed=k).write_h5ad(tmp_path / f"p{k}.h5ad")
    texts = [f"{name}={tmp_path / file}.h5ad" for name, file in
             (("rna", "r1"), ("rna", "r2"), ("prot", "p1"), ("prot", "p2"))]  # fmt: skip
    rna, prot = open_inputs(texts)
    assert sorted(rna.obs.index) == sorted(prot.obs.index)
    assert {"shared0-r1", "shared0-r2"} <= set(rna.obs.index)
    both = rna.obs["input"].reindex(prot.obs.index)
    assert list(both) == list(prot.obs["input"]) == ["r1"] * 100 + ["r2"] * 100


def test_one_table_of_proteins_for_two_runs(tmp_path):
    for k in (1, 2):
        counts(names(f"run{k}_", 30), names("GENE", 8), seed=k).write_h5ad(tmp_path / f"r{k}.h5ad")
    cells = [*names("run1_", 30), *names("run2_", 30)]
    counts(cells, names("Prot", 4), seed=5).write_h5ad(tmp_path / "prot.h5ad")
    texts = [f"rna={tmp_path / 'r1.h5ad'}", f"rna={tmp_path / 'r2.h5ad'}", str(tmp_path / "prot.h5ad")]
    rna, prot = open_inputs(texts)
    assert list(rna.obs.index) == list(prot.obs.index) == cells
    assert list(prot.obs["input"]) == ["r1"] * 30 + ["r2"] * 30


def test_names_that_could_be_anybodys(tmp_path):
    for k in (1, 2):
        counts(names("cell", 30), names("GENE", 8), seed=k).write_h5ad(tmp_path / f"r{k}.h5ad")
    counts(names("cell", 30), names("Prot", 4), seed=5).write_h5ad(tmp_path / "prot.h5ad")
    with pytest.raises(InputError, match="which cell 'cell0' is") as error:
        open_inputs(
            [f"rna={tmp_path / 'r1.h5ad'}", f"rna={tmp_path / 'r2.h5ad'}", str(tmp_path / "prot.h5ad")]
        )
    assert "h5mu" in error.value.hint


def test_inputs_of_the_same_name_are_told_apart_by_their_folder(tmp_path):
    for k in ("run1", "run2"):
        (tmp_path / k / "outs").mkdir(parents=True)
        counts(names("BC", 9), names("GENE", 8), seed=1).write_h5ad(tmp_path / k / "outs" / "m.h5ad")
    (rna,) = open_inputs([f"rna={tmp_path / k / 'outs' / 'm.h5ad'}" for k in ("run1", "run2")])
    assert list(rna.obs["input"].cat.categories) == ["run1", "run2"]
    assert list(rna.obs.index[[0, -1]]) == ["BC0-run1", "BC8-run2"]
    assert "if these are the same cells" in " ".join(rna.notes)


def test_a_column_of_that_name_is_left_alone(tmp_path):
    for k in (1, 2):
        a = counts(names(f"{k}_", 9), names("GENE", 8), seed=k, obs={"input": ["mine"] * 9})
        a.write_h5ad(tmp_path / f"r{k}.h5ad")
    (rna,) = open_inputs([f"rna={tmp_path / f'r{k}.h5ad'}" for k in (1, 2)])
    assert set(rna.obs["input"]) == {"mine"}
    assert list(rna.obs["mocli_input"].cat.categories) == ["r1", "r2"]


def test_the_whole_is_written_with_its_cells_in_order(tmp_path):
    files = open_inputs(experiments(tmp_path))
    added = [Added(f) for f in files]
    write_file(tmp_path / "out.h5mu", added, obsm={}, uns={})
    out = read(tmp_path / "out.h5mu")
    assert list(out.obs_names) == union_names(added)
    assert out.n_obs == 70
    assert list(out.obs["input"].value_counts(sort=False)) == [30, 40]
    for f in files:
        assert list(out[f.name].obs_names) == list(f.obs.index)
        np.testing.assert_array_equal(out[f.name].X.toarray(), f.read().toarray())
        np.testing.assert_array_equal(
            out.obsmap[f.name], pd.Index(f.obs.index).get_indexer(out.obs_names) + 1
        )
    assert "input" in out["prot"].obs


def test_raw_that_all_files_have_is_read(tmp_path):
    for k in (1, 2):
        a = counts(names(f"{k}_", 9), names("GENE", 8), seed=k)
        a.raw = a
        a.write_h5ad(tmp_path / f"r{k}.h5ad")
    (rna,) = open_inputs([f"rna={tmp_path / f'r{k}.h5ad'}" for k in (1, 2)])
    np.testing.assert_array_equal(rna.read("raw").toarray(), rna.read().toarray())


# what cannot be joined


def test_a_file_given_twice(tmp_path):
    cite, _ = experiments(tmp_path)
    with pytest.raises(UsageError, match="given twice by the same file"):
        open_inputs([cite, cite])
    with pytest.raises(UsageError, match="given twice by the same file"):
        open_inputs([f"x={cite}::rna", f"x={cite}::rna"])
    with pytest.raises(UsageError, match="two modalities of one file are called 'x'"):
        open_inputs([f"x={cite}::rna", f"x={cite}::prot"])


def test_different_kinds_under_one_name(tmp_path):
    cite, multiome = experiments(tmp_path)
    with pytest.raises(UsageError, match="measure different things") as error:
        open_inputs([f"x={cite}::prot", f"x={multiome}::atac"])
    assert "--kind x=" in error.value.hint


@pytest.mark.parametrize(
    ("features", "hint"),
    [
        ([f"gene{i}" for i in range(8)], "upper and lower case"),
        ([f"ENSG0000000000{i}" for i in range(8)], "Ensembl ids"),
        ([*names("GENE", 3), *names("other", 5)], "other="),
    ],
)
def test_too_few_features_in_common(tmp_path, features, hint):
    counts(names("a", 9), names("GENE", 8), seed=1).write_h5ad(tmp_path / "a.h5ad")
    counts(names("b", 9), features, seed=2).write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(InputError, match="in common") as error:
        open_inputs([f"rna={tmp_path / 'a.h5ad'}", f"rna={tmp_path / 'b.h5ad'}"])
    assert hint in error.value.hint


def test_files_with_different_values(tmp_path):
    for k in (1, 2):
        a = counts(names(f"{k}_", 9), names("GENE", 8), seed=k)
        a.layers["umi"] = a.X.copy()
        if k == 2:
            a.X = a.X.log1p()
        a.write_h5ad(tmp_path / f"r{k}.h5ad")
    (rna,) = open_inputs([f"rna={tmp_path / f'r{k}.h5ad'}" for k in (1, 2)])
    with pytest.raises(InputError, match="hold different values") as error:
        choose_layer(rna, None, wants_counts=False)
    assert "--layer rna=umi" in error.value.hint
    assert choose_layer(rna, "umi", wants_counts=True).values is ValueKind.COUNTS


def test_counts_under_different_names(tmp_path):
    for k in (1, 2):
        a = counts(names(f"{k}_", 9), names("GENE", 8), seed=k)
        if k == 2:
            a.layers["umi"] = a.X.copy()
            a.X = a.X.log1p()
        a.write_h5ad(tmp_path / f"r{k}.h5ad")
    (rna,) = open_inputs([f"rna={tmp_path / f'r{k}.h5ad'}" for k in (1, 2)])
    with pytest.raises(InputError, match="hold different values") as error:
        choose_layer(rna, None, wants_counts=True)
    assert "layers['umi'] of" in error.value.hint


# which names join


def test_a_guessed_name_joins_what_measures_the_same_of_other_cells(tmp_path):
    first, second, apart, same = (str(tmp_path / f"rna_{k}.h5ad") for k in "abcd")
    counts(names("a", 9), names("GENE", 8), seed=1).write_h5ad(first)
    counts(names("b", 9), names("GENE", 6), seed=1).write_h5ad(second)
    counts(names("c", 9), names("OTHER", 8), seed=1).write_h5ad(apart)
    counts(names("a", 9), names("GENE", 8), seed=2).write_h5ad(same)
    (rna,) = open_inputs([first, second])
    assert (rna.name, rna.n_obs, rna.n_vars) == ("rna", 18, 6)
    assert any(f"name it: other={second}" in note for note in rna.notes)
    # other features, or the same cells: a modality of its own, with the command that would join them
    for other in (apart, same):
        files = open_inputs([first, other])
        assert [f.name for f in files] == ["rna", Path(other).stem]
        assert f"rna={first} rna={other}" in files[1].notes[0]
    assert [f.name for f in open_inputs([first, f"other={second}"])] == ["rna", "other"]
    with pytest.raises(UsageError, match="both alike"):
        open_inputs([first, f"rna={second}"])


def test_cells_named_by_running_numbers_are_other_cells_in_another_file(tmp_path):
    for k in "ab":
        cells = [str(i) for i in range(30)]
        counts(cells, names("GENE", 8), seed=1).write_h5ad(tmp_path / f"rna_{k}.h5ad")
    (rna,) = open_inputs([str(tmp_path / f"rna_{k}.h5ad") for k in "ab"])
    assert rna.n_obs == rna.obs.index.nunique() == 60


def test_files_of_10x_join_by_feature_type(tmp_path):
    for k in ("one", "two"):
        (tmp_path / k).mkdir()
        x = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (9, 12)).astype(np.int32))
        with h5py.File(tmp_path / k / "m.h5", "w") as h5:
            g = h5.create_group("matrix")
            g["barcodes"] = np.array([f"BC{i}-1" for i in range(9)], dtype="S")
            g["data"], g["indices"], g["indptr"] = x.data, x.indices, x.indptr
            g["shape"] = np.array([12, 9])
            f = g.create_group("features")
            f["id"] = f["name"] = np.array(names("F", 12), dtype="S")
            f["feature_type"] = np.array(["Gene Expression"] * 8 + ["Antibody Capture"] * 4, dtype="S")
    rna, prot = open_inputs([str(tmp_path / k / "m.h5") for k in ("one", "two")])
    assert (rna.n_obs, rna.n_vars, prot.n_obs, prot.n_vars) == (18, 8, 18, 4)
    assert list(rna.obs.index) == list(prot.obs.index)
    assert rna.obs.index[0] == "BC0-1-one"
    write_file(tmp_path / "out.h5mu", [Added(rna), Added(prot)], obsm={}, uns={})
    np.testing.assert_array_equal(read(tmp_path / "out.h5mu")["prot"].X.toarray(), prot.read().toarray())


def test_the_user_may_say_what_both_are(tmp_path):
    for k in "ab":
        counts(names(k, 9), names("f", 8), seed=1).write_h5ad(tmp_path / f"{k}.h5ad")
    texts = [f"x={tmp_path / f'{k}.h5ad'}" for k in "ab"]
    (file,) = open_inputs(texts, kinds={"x": ModalityKind.CYTO})
    assert file.kind is ModalityKind.CYTO


# tables


def test_columns_of_cells_are_united():
    a = pd.DataFrame(
        {
            "type": pd.Categorical(["T", "B"]),
            "batch": [1, 2],
            "ok": [True, False],
            "score": [0.5, 1.5],
            "leiden": pd.Categorical([0, 1]),
            "mixed": [1.0, np.nan],
        },
        index=["a", "b"],
    )
    b = pd.DataFrame(
        {
            "type": pd.Categorical(["NK", None]),
            "batch": ["1", "x"],
            "age": [3, 4],
            "leiden": pd.Categorical(["1", "2"]),
            "mixed": ["y", None],
        },
        index=["c", "d"],
    )
    both = stack_obs([a, b])
    assert list(both.index) == list("abcd")
    assert list(both["type"].cat.categories) == ["B", "T", "NK"]
    assert both["type"].isna().tolist() == [False, False, False, True]
    assert both["batch"].tolist() == ["1", "2", "1", "x"]
    assert both["ok"].isna().tolist() == [False, False, True, True]
    np.testing.assert_array_equal(both["age"], [np.nan, np.nan, 3, 4])
    np.testing.assert_array_equal(both["score"], [0.5, 1.5, np.nan, np.nan])
    assert both["leiden"].astype(str).tolist() == ["0", "1", "1", "2"]
    assert both["mixed"].tolist()[:3] == ["1", None, "y"]


def test_ordered_levels_stay_ordered():
    column = pd.Categorical(["low"], categories=["low", "high"], ordered=True)
    both = stack_obs([pd.DataFrame({"dose": column}, index=[k]) for k in "ab"])
    assert both["dose"].cat.ordered
    assert list(both["dose"].cat.categories) == ["low", "high"]


def test_columns_of_features_are_kept_where_files_agree():
    a = pd.DataFrame({"id": ["x", None], "mean": [1.0, 2.0], "mine": [1, 2]}, index=["g", "h"])
    b = pd.DataFrame({"id": ["x", None], "mean": [1.0, 2.5], "yours": [3, 4]}, index=["g", "h"])
    kept, differing = agreeing_columns([a, b])
    assert list(kept.columns) == ["id", "mine", "yours"]
    assert differing == ["mean"]
