"""Cells kept out of training: which, how many, from every modality, the same each time."""

import numpy as np
import pandas as pd
import pytest

from mocli.data.files.inputs import open_inputs
from mocli.errors import InputError, UsageError
from mocli.tasks.impute.holdout import FEWEST, HoldOut, without


@pytest.fixture
def files(tmp_path, write):
    """120 cells of rna, the last 100 of them in prot too, in another order; 5 columns of obs."""
    cells = [f"c{i}" for i in range(120)]
    batch = pd.Categorical(["a"] * 90 + ["b"] * 30)
    other = [f"c{i}" for i in np.random.default_rng(0).permutation(np.arange(20, 120))]
    write(tmp_path / "rna.h5ad", cells, {"batch": batch, "n": np.arange(120) % 4})
    write(tmp_path / "prot.h5ad", other, {})
    return open_inputs([str(tmp_path / "rna.h5ad"), str(tmp_path / "prot.h5ad")], kinds={})


@pytest.fixture
def write():
    import anndata as ad

    def one(path, cells, obs):
        x = np.random.default_rng(0).poisson(3, (len(cells), 4)).astype(np.float32)
        ad.AnnData(x, obs=pd.DataFrame(obs, index=cells), var=pd.DataFrame(index=list("abcd"))).write_h5ad(
            path
        )

    return one


def pairs_of(files):
    rna, prot = (f.obs.index for f in files)
    rows = np.flatnonzero(rna.isin(prot))
    return np.stack([rows, prot.get_indexer(rna[rows])], axis=1)


def choose(text, files, pairs=None, seed=0):
    return HoldOut.parse(text).choose(files, pairs, "rna", "prot", seed=seed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.2", HoldOut(share=0.2)),
        (0.25, HoldOut(share=0.25)),
        ("0", HoldOut()),
        ("batch=donor3", HoldOut(column="batch", value="donor3")),
        ("batch=a=b", HoldOut(column="batch", value="a=b")),
    ],
)
def test_it_is_a_share_or_a_value(text, expected):
    assert HoldOut.parse(text) == expected


@pytest.mark.parametrize("text", ["x", "", "1", "0.995", "-0.1", "nan", "inf", "=a", "batch="])
def test_all_else_is_refused(text):
    with pytest.raises(UsageError, match="--hold-out") as error:
        HoldOut.parse(text)
    assert "COLUMN=VALUE" in error.value.expected


def test_a_share_of_the_pairs_leaves_both_modalities(files):
    pairs = pairs_of(files)
    out = choose("0.3", files, pairs)
    assert out["rna"].sum() == out["prot"].sum() == 30
    assert set(files[0].obs.index[out["rna"]]) == set(files[1].obs.index[out["prot"]])
    assert not out["rna"][:20].any()
    again, other = choose("0.3", files, pairs), choose("0.3", files, pairs, seed=1)
    np.testing.assert_array_equal(out["rna"], again["rna"])
    assert (out["rna"] != other["rna"]).any()


def test_pairs_under_other_names_leave_by_their_rows(files, tmp_path, write):
    """As with --pair-key, where names of partners differ."""
    write(tmp_path / "prot.h5ad", [f"p{i}" for i in range(100)], {})
    (prot,) = open_inputs([str(tmp_path / "prot.h5ad")], kinds={})
    pairs = np.stack([np.arange(100) + 20, np.arange(100)[::-1]], axis=1)
    out = choose("0.3", [files[0], prot], pairs)
    np.testing.assert_array_equal(np.flatnonzero(out["rna"]) - 20, 99 - np.flatnonzero(out["prot"])[::-1])


@pytest.mark.parametrize("text", ["0", "0.19"])
def test_nothing_leaves_where_so_few_say_nothing(files, text):
    out = choose(text, files, pairs_of(files))
    assert not out["rna"].any()
    assert not out["prot"].any()


def test_without_pairs_a_share_keeps_all(files):
    assert not any(o.any() for o in choose("0.5", files).values())


def test_a_value_takes_its_cells_out_of_every_modality(files):
    """Also out of one that does not have the column: else the cell would be trained on half hidden."""
    out = choose("batch=b", files, pairs_of(files))
    assert list(np.flatnonzero(out["rna"])) == list(range(90, 120))
    assert set(files[1].obs.index[out["prot"]]) == {f"c{i}" for i in range(90, 120)}


def test_a_number_is_found_by_its_text(files):
    assert choose("n=3", files)["rna"].sum() == 30


def test_a_value_that_no_cell_has(files):
    with pytest.raises(InputError, match="no cell has batch = c") as error:
        choose("batch=c", files)
    assert error.value.found == "a, b"


def test_a_column_that_no_file_has(files):
    with pytest.raises((InputError, UsageError), match="bach") as error:
        choose("bach=a", files)
    assert "batch" in error.value.hint


def test_the_rest_is_what_is_trained_on(files):
    pairs = pairs_of(files)
    out = choose("0.3", files, pairs)
    kept = without(files, out)
    for f, k in zip(files, kept, strict=True):
        assert list(k.obs.index) == list(f.obs.index[~out[f.name]])
        rows = np.flatnonzero(~out[f.name])
        assert (k.read() != f.read(rows=rows)).nnz == 0
        assert (k.read(rows=[5, 2]) != f.read(rows=rows[[5, 2]])).nnz == 0
        assert (k.read(rows=slice(3, 9)) != f.read(rows=rows[3:9])).nnz == 0
        assert k.sample(n_rows=16).shape[1] == 4
        assert k.n_obs == len(rows)
        again = k.take(np.array([4, 1]))
        assert list(again.obs.index) == [k.obs.index[4], k.obs.index[1]]
        assert (again.read() != f.read(rows=rows[[4, 1]])).nnz == 0


def test_nothing_out_gives_the_very_files(files):
    kept = without(files, choose("0", files))
    assert all(k is f for k, f in zip(kept, files, strict=True))


def test_too_few_left_to_train_on(files):
    out = {f.name: np.arange(f.n_obs) >= FEWEST - 1 for f in files}
    with pytest.raises(InputError, match="leaves 19 cells of rna"):
        without(files, out)
