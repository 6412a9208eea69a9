"""Linked features of the user's own: matrices of obsm, read as they are, or refused with their place."""

import warnings

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.files.inputs import open_inputs
from mocli.data.links.route import matrix_links, parse_route, read_linked
from mocli.errors import InputError, UsageError

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(5, 3)).astype(np.float32), RNG.normal(size=(4, 3)).astype(np.float32)


def write(path, obsm, *, features=6):
    n = next(iter(obsm.values())).shape[0]
    obs = pd.DataFrame(index=[f"{path.stem}{i}" for i in range(n)])
    var = pd.DataFrame(index=[f"g{j}" for j in range(features)])
    x = sparse.csr_matrix(np.arange(n * features, dtype=np.float32).reshape(n, features))
    ad.AnnData(X=x, obs=obs, var=var, obsm=obsm).write_h5ad(path)
    return path


def two(tmp_path, a, b):
    return [write(tmp_path / "rna.h5ad", a), write(tmp_path / "prot.h5ad", b)]


def find(paths, text="obsm:X_linked"):
    files = open_inputs([str(p) for p in paths])
    return files, matrix_links(parse_route(text), files)


def values(file, key, names):
    return dense_rows(read_linked(file, key, names, warn=lambda _: None), np.arange(file.n_obs))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, "table"])
def test_a_matrix_is_read_as_it_is_however_it_is_stored(tmp_path, form):
    def stored(x, stem):
        if form == "table":
            return pd.DataFrame(x, index=[f"{stem}{i}" for i in range(len(x))], columns=["u", "v", "w"])
        return form(np.where(x > 0, x, 0))

    files, (links,) = find(two(tmp_path, {"X_linked": stored(A, "rna")}, {"X_linked": stored(B, "prot")}))
    assert links.edge == ("rna", "prot")
    named = ("u", "v", "w") if form == "table" else tuple(f"X_linked[{j}]" for j in range(3))
    assert links.names == named
    for file, x in zip(files, (A, B), strict=True):
        expected = x if form == "table" else np.where(x > 0, x, 0)
        np.testing.assert_array_equal(values(file, "X_linked", named), expected)
        # some of the cells, in another order
        some = file.take(np.array([3, 0]))
        np.testing.assert_array_equal(values(some, "X_linked", named), expected[[3, 0]])


def test_keys_by_modality_and_a_chain_of_three(tmp_path):
    paths = two(tmp_path, {"X_a": A}, {"X_b": B, "X_c": B[:, :2]})
    paths.append(write(tmp_path / "atac.h5ad", {"X_d": A[:, :2]}))
    files, (links,) = find(paths, "prot=obsm:X_b,rna=obsm:X_a")
    assert (links.edge, links.source_key, links.target_key) == (("rna", "prot"), "X_a", "X_b")
    assert links.text == "rna=obsm:X_a,prot=obsm:X_b"
    assert matrix_links(parse_route("prot=obsm:X_c,atac=obsm:X_d"), files)[0].edge == ("prot", "atac")
    three = [write(tmp_path / f"{n}.h5ad", {"X": A}) for n in ("rna", "prot", "atac")]
    assert [m.edge for m in find(three, "obsm:X")[1]] == [("rna", "prot"), ("prot", "atac")]


def test_cells_of_several_files_follow_each_other(tmp_path):
    parts = [write(tmp_path / "one.h5ad", {"X": A}), write(tmp_path / "two.h5ad", {"X": A[:3] + 1})]
    prot = write(tmp_path / "prot.h5ad", {"X": B})
    files = open_inputs([f"rna={parts[0]}", f"rna={parts[1]}", str(prot)])
    (links,) = matrix_links(parse_route("obsm:X"), files)
    np.testing.assert_array_equal(values(files[0], "X", links.names), np.vstack([A, A[:3] + 1]))
    order = np.array([6, 0, 5])
    taken = files[0].take(order)
    np.testing.assert_array_equal(values(taken, "X", links.names), np.vstack([A, A[:3] + 1])[order])
    write(parts[1], {"X": A[:3, :2]})
    with pytest.raises(InputError, match=r"in another file of .rna."):
        find([f"rna={parts[0]}", f"rna={parts[1]}", prot], "obsm:X")


def test_modalities_of_one_file_have_their_own(tmp_path):
    cells = {n: ad.AnnData(X=x, obs=pd.DataFrame(index=[f"{n}{i}" for i in range(len(x))]))
             for n, x in (("rna", A), ("prot", B))}  # fmt: skip
    for one, x in zip(cells.values(), (A, B), strict=True):
        one.obsm["X"] = x * 2
    with md.set_options(pull_on_update=False), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        data = md.MuData(cells)
        data.obsm["whole"] = np.zeros((9, 2))
        data.write_h5mu(tmp_path / "data.h5mu")
    files, (links,) = find([tmp_path / "data.h5mu"], "obsm:X")
    np.testing.assert_array_equal(values(files[1], "X", links.names), B * 2)
    with pytest.raises(InputError, match="holds no 'whole'") as error:
        find([tmp_path / "data.h5mu"], "obsm:whole")
    assert error.value.field == "mod/rna/obsm['whole']"
    assert "a matrix of each modality" in error.value.hint


def table(names, columns="uvw", n=5):
    return pd.DataFrame(A[:n], index=names, columns=list(columns))


def bad_value(value):
    x = B.copy()
    x[2, 1] = value
    return x


@pytest.mark.parametrize(
    ("other", "message", "found", "expected"),
    [
        ({"X_liked": B}, "holds no 'X_linked'", "X_liked", None),
        (
            {"X_linked": B[:, :2]},
            "differ in their number of columns",
            "3 columns of rna, 2 of prot",
            "the same number",
        ),
        ({"X_linked": bad_value(np.nan)}, "is not finite", "nan in cell 'prot2', column 1", "finite"),
        ({"X_linked": bad_value(np.inf)}, "is not finite", "inf in cell 'prot2', column 1", "finite"),
        ({"X_linked": sparse.csr_matrix(bad_value(np.nan))}, "is not finite", "column 1", "finite"),
    ],
)
def test_what_is_wrong_with_a_matrix_is_said_with_its_place(tmp_path, other, message, found, expected):
    paths = two(tmp_path, {"X_linked": A}, other)
    with pytest.raises(InputError, match=message) as error:
        find(paths)
    assert "prot.h5ad" in str(error.value.file)
    assert "obsm['X_linked']" in error.value.field
    assert found in error.value.found
    assert expected is None or expected in error.value.expected
    if "X_liked" in other:
        assert "did you mean 'X_liked'" in error.value.hint


def test_a_value_that_is_none_in_any_cell_is_found_on_reading(tmp_path):
    x = np.ones((2000, 2), np.float32)
    x[:, 0] = np.arange(2000) - 999.5
    x[1001, 1] = np.nan
    files, (links,) = find(two(tmp_path, {"X_linked": x}, {"X_linked": x[:1000]}))
    with pytest.raises(InputError, match="is not finite") as error:
        read_linked(files[0], "X_linked", links.names, warn=lambda _: None)
    assert error.value.found == "nan in cell 'rna1001', column 1"


def test_columns_named_in_another_order_are_refused(tmp_path):
    first = table([f"rna{i}" for i in range(5)])
    paths = two(tmp_path, {"X": first}, {"X": table([f"prot{i}" for i in range(5)], "uwv")})
    with pytest.raises(InputError, match="in another order") as error:
        find(paths, "obsm:X")
    assert (error.value.found, error.value.expected) == ("column 1 is 'w'", "'v', as in 'rna'")
    paths = two(tmp_path, {"X": first}, {"X": table([f"prot{i}" for i in range(5)], "uVw")})
    assert find(paths, "obsm:X")[1][0].names == ("u", "v ~ V", "w")


def test_a_table_of_other_cells_is_refused(tmp_path):
    import h5py

    for names, message in ((["rna1", "rna0", "rna2", "rna3", "rna4"], "in another order"),
                           ([f"cell{i}" for i in range(5)], "other cells than obs")):  # fmt: skip
        paths = two(tmp_path, {"X": table([f"rna{i}" for i in range(5)])}, {"X": A})
        with h5py.File(paths[0], "r+") as h5:
            h5["obsm/X/_index"][...] = names
        with pytest.raises(InputError, match=message) as error:
            find(paths, "obsm:X")
        assert error.value.field == "obsm['X']"
        assert error.value.expected == "5 cells, in the order of obs"
    with h5py.File(paths[1], "r+") as h5:
        del h5["obsm/X"]
        h5["obsm/X"] = A[:4]
    with pytest.raises(InputError, match="other cells than obs") as error:
        find(paths[::-1], "obsm:X")
    assert (error.value.found, error.value.expected) == ("4 rows", "5 cells")


def test_one_matrix_is_not_linked_with_itself(tmp_path):
    x = sparse.csr_matrix(np.ones((4, 4), np.float32))
    types = ["Gene Expression"] * 2 + ["Antibody Capture"] * 2
    var = pd.DataFrame({"feature_types": types}, index=list("abcd"))
    obs = pd.DataFrame(index=[f"c{i}" for i in range(4)])
    ad.AnnData(X=x, obs=obs, var=var, obsm={"X": B, "Y": B}).write_h5ad(tmp_path / "both.h5ad")
    with pytest.raises(UsageError, match="one matrix would be linked with itself"):
        find([tmp_path / "both.h5ad"], "obsm:X")
    assert len(find([tmp_path / "both.h5ad"], "rna=obsm:X,prot=obsm:Y")[1]) == 1


def test_columns_far_from_their_mean_and_constant_ones_are_said(tmp_path):
    a = A + np.float32(9)
    a[:, 2] = 3
    files, (links,) = find(two(tmp_path, {"X_linked": a}, {"X_linked": B - B.mean(0)}))
    said = []
    for file in files:
        read_linked(file, "X_linked", links.names, warn=said.append)
    assert len(said) == 2
    assert said[0].startswith("rna: 1 columns of obsm['X_linked'] are the same")
    assert "rna: columns of obsm['X_linked'] are not centred" in said[1]
