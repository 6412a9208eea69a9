"""Columns of obs as exports leave them: words and integers for missing values, and columns without any."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mocli.data.files.obs import find_column, find_labels, name_of_column
from mocli.errors import InputError
from mocli.tasks.prepare.obscolumns import Columns, ObsColumn, doubts, summaries


@dataclass
class File:
    obs: pd.DataFrame
    name: str = "rna"
    paths: tuple = field(default=(Path("rna.h5ad"),))


def one(values):
    return File(pd.DataFrame({"x": values}, index=[f"c{i}" for i in range(len(values))]))


@pytest.mark.parametrize("word", ["nan", "NA", "", " ", "<NA>", "NaN"])
@pytest.mark.parametrize("dtype", ["category", object])
def test_words_for_missing_values_are_missing(word, dtype):
    column = find_column([one(pd.Series(["a", word, "b"]).astype(dtype).to_numpy())], "x")["rna"]
    assert column.isna().tolist() == [False, True, False]


def test_none_is_a_word_as_it_names_untreated_cells():
    assert find_column([one(["None", "drug"])], "x")["rna"].notna().all()


def test_the_missing_integer_of_r_is_missing():
    column = find_column([one(np.array([31, -(2**31), 44], np.int32))], "x")["rna"]
    assert column.isna().tolist() == [False, True, False]
    numbers = ObsColumn("x", {"rna": column}).numbers([one([0, 0, 0])], np.arange(3)[:, None])[1]
    np.testing.assert_array_equal(numbers, [31, np.nan, 44])


@pytest.mark.parametrize("values", [[np.nan] * 3, pd.Categorical([None] * 3, ["a"]), ["nan", "NA", ""]])
def test_a_column_without_any_value_is_refused(values):
    with pytest.raises(InputError, match="no cell has a value in the column 'x' of --batch-key"):
        find_column([one(values)], "x", option="--batch-key")


def test_words_for_no_label_are_none():
    values = ["B", "Unassigned", "ambiguous", "doublet", "unknown", "NA", "junk", "T"]
    labels = find_labels([one(values)], "x", option="--label-key", unlabeled=("junk",))["rna"]
    assert labels.dropna().tolist() == ["B", "T"]
    with pytest.raises(InputError, match="labels no cell"):
        find_labels([one(values[1:6])], "x", option="--label-key")


def test_what_a_user_may_not_know_of_a_column_is_said():
    file = one(["a"] * 60 + ["b", None] + ["c"] * 38)
    batch = ObsColumn("batch", find_column([file], "x"))
    assert summaries(Columns(batch=batch)) == ["batch: obs['x'], 3 levels: a (60), c (38), b (1)"]
    assert doubts(Columns(batch=batch), [file]) == [
        "obs['x']: 1 of 100 cells have no value",
        "obs['x']: 1 of 3 levels have a single cell, which says nothing about what the cells of a level "
        "share",
    ]
    file = one(np.linspace(0, 1, 99))
    numbers = ObsColumn("label", find_column([file], "x"))
    assert "holds numbers, 99 different ones" in doubts(Columns(label=numbers), [file])[0]


@pytest.mark.parametrize("dtype", ["category", object])
def test_words_taken_for_missing_are_named(dtype):
    file = one(pd.Series(["B", "Unassigned", "T", "", "NA", None, "Unassigned"]).astype(dtype).to_numpy())
    label = ObsColumn("label", find_labels([file], "x", option="--label-key"))
    assert doubts(Columns(label=label), [file]) == [
        "obs['x']: 5 of 7 cells have no value (Unassigned, empty, NA); levels: B (1), T (1)"
    ]


def test_labels_of_different_words_in_two_modalities_are_said():
    def said(rna, prot, prefix="d"):
        a = File(pd.DataFrame({"x": rna}, index=[f"c{i}" for i in range(len(rna))]))
        b = File(pd.DataFrame({"x": prot}, index=[f"{prefix}{i}" for i in range(len(prot))]), name="prot")
        return doubts(
            Columns(label=ObsColumn("label", find_labels([a, b], "x", option="--label-key"))), [a, b]
        )

    (line,) = said(["T_CD4"] * 6 + ["B"] * 2, ["CD4 T"] * 3 + ["B"])
    assert line.startswith(
        "rna and prot call their cells by different labels: only 25% of the cells of rna and 25% of prot "
        "have one that both know (B); rna alone has T_CD4 (6), prot alone CD4 T (3)"
    )
    # a part of the types, most of the cells, or labels of the same cells are no different words
    assert said(["T", "B", "NK", "DC"], ["T"] * 4) == []
    assert said(["T", "T", "B"], ["T", "T", "NK"]) == []
    assert said(["T_CD4"] * 3, ["CD4 T"] * 3, prefix="c") == []


def test_each_modality_may_have_a_column_of_its_own():
    rna = File(pd.DataFrame({"type": ["B", "T"], "batch": ["x", "y"]}, index=["a", "b"]))
    prot = File(pd.DataFrame({"gated": ["T", "unassigned"]}, index=["c", "d"]), name="prot")
    labels = find_labels([rna, prot], "rna=type,prot=gated", option="--label-key")
    assert list(labels["rna"]) == ["B", "T"]
    assert labels["prot"].isna().tolist() == [False, True]
    assert find_column([rna, prot], "prot=gated")["rna"] is None
    assert name_of_column("rna=type,prot=gated") == "type"
    assert name_of_column("type") == "type"
    with pytest.raises(InputError, match="prot has no column 'type'"):
        find_column([rna, prot], "rna=type,prot=type")
    with pytest.raises(InputError, match="there is no modality 'atac'"):
        find_column([rna, prot], "rna=type,atac=gated", option="--label-key")
    # a column may itself be called so
    odd = File(pd.DataFrame({"rna=type,prot=gated": ["u", "v"]}, index=["a", "b"]))
    assert list(find_column([odd], "rna=type,prot=gated")["rna"]) == ["u", "v"]


def test_a_matrix_of_10x_is_said_to_hold_no_columns():
    file = File(pd.DataFrame(index=list("ab")))
    with pytest.raises(InputError, match="no modality has the column 'kind'") as error:
        find_labels([file], "kind", option="--label-key")
    assert "files of 10x hold no columns of cells: write an .h5ad or .h5mu" in error.value.hint
