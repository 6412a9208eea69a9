"""Columns of obs over all cells, against a slow look-up cell by cell."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocli.data.files.frames import words
from mocli.data.files.inspect import condition_like, tells
from mocli.tasks.prepare.obscolumns import Columns, ObsColumn, confounded, summaries, unused_batches
from mocli.tasks.prepare.pairing import index_map
from mocli.tasks.run.options import DataOptions
from mocli.types import Pairing


class File:
    def __init__(self, name, cells):
        self.name, self.obs, self.n_obs = name, pd.DataFrame(index=list(cells)), len(cells)


cells = st.lists(st.sampled_from([f"c{i}" for i in range(10)]), unique=True, min_size=1)
values = st.one_of(st.none(), st.sampled_from(["B", "T", "NK"]))


@given(cells, cells, st.data(), st.sampled_from([Pairing.UNPAIRED, Pairing.MOSAIC]), st.booleans())
def test_labels_follow_cells(first, second, data, pairing, by_name):
    files = [File("rna", first), File("prot", second)]
    columns = {
        f.name: pd.Series([data.draw(values) for _ in range(f.n_obs)], index=f.obs.index, dtype=object)
        for f in files
    }
    rows, names = index_map(files, pairing)
    codes = ObsColumn("label", columns).codes(files, rows, by_name=by_name)
    for cell, name in enumerate(names):
        own = [columns[f.name].iloc[r] for f, r in zip(files, rows[cell], strict=True) if r >= 0]
        told = [v for v in own if v is not None]
        if not told and by_name:
            told = [v for f in files for n, v in columns[f.name].items() if n == name and v is not None]
        found = None if codes.codes[cell] < 0 else codes.levels[codes.codes[cell]]
        assert found == (told[-1] if told else None)
    assert list(codes.levels) == sorted(codes.levels)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.Series([1.0, np.nan, 3.0]), ["1", None, "3"]),
        (pd.Series([1, 2]), ["1", "2"]),
        (pd.Series([0.5, 1.0, np.nan]), ["0.5", "1.0", None]),
        (pd.Series(pd.Categorical(["a", None, "b"])), ["a", None, "b"]),
        (pd.Series(pd.Categorical([2, 1, 2])), ["2", "1", "2"]),
        (pd.Series([True, False]), ["True", "False"]),
        (pd.Series(["x", pd.NA], dtype="string"), ["x", None]),
        (pd.Series([np.nan, np.nan]), [None, None]),
        (pd.Series([np.inf, 1.0]), ["inf", "1.0"]),
    ],
)
def test_values_become_words(column, expected):
    assert list(words(column)) == expected


def crossed(condition):
    """Four donors, each of both conditions, and a batch for each of both."""
    file = File("rna", [f"c{i}" for i in range(80)])
    file.input_key = None
    rows = np.arange(80)
    file.obs[condition] = np.where(rows % 2, "ctrl", "stim")
    file.obs["donor"] = [f"d{i}" for i in rows // 20]
    file.obs["batch"] = file.obs[condition] + file.obs["donor"]
    return file


def test_a_column_that_tells_compared_cells_apart_is_no_batch():
    file, data = crossed("drug"), DataOptions(inputs=())
    assert "'donor' (4 levels), 'batch' (8 levels), which are not used" in unused_batches([file], data)
    told = unused_batches([file], data, {"drug"})
    assert "'donor' (4 levels), which is not used" in told
    assert "--batch-key donor" in told
    assert "'batch'" not in told


def columns_of(file, batch=None, *covariates):
    batch, *covariates = (name and ObsColumn.find([file], name, "--x") for name in (batch, *covariates))
    return Columns(batch=batch, covariates=tuple(covariates))


def test_a_batch_nested_in_a_condition_is_not_proposed_and_doubted():
    file = crossed("condition")
    assert "'donor' (4 levels), which is not used" in unused_batches([file], DataOptions(inputs=()))
    says = "each level of obs['batch'] lies in one level of obs['condition']: correcting for it also removes "
    (warning,) = confounded(columns_of(file, "batch"), [file])
    assert warning.startswith(says + "what differs by condition; use --batch-key none if ")
    assert "(--batch-key donor)" in warning
    (warning,) = confounded(columns_of(file, None, "batch"), [file])
    assert warning.startswith(says)
    assert "(--covariate donor)" in warning
    for used in (("donor",), ("donor", "condition"), ("batch", "condition"), ("condition",)):
        assert confounded(columns_of(file, *used), [file]) == []
    file.obs["donor"] = file.obs["batch"]
    assert unused_batches([file], DataOptions(inputs=())) == ""
    assert "or give" not in confounded(columns_of(file, "batch"), [file])[0]


def test_levels_of_batch_and_covariates_are_counted_largest_first():
    file = crossed("condition")
    file.obs["plate"] = ["p0"] * 50 + ["p1"] * 30
    assert summaries(columns_of(file, "plate", "batch")) == [
        "batch: obs['plate'], 2 levels: p0 (50), p1 (30)",
        "covariate: obs['batch'], 8 levels: stimd0 (10), ctrld0 (10), stimd1 (10), ctrld1 (10), stimd2 (10), "
        "ctrld2 (10), ...",
    ]


@pytest.mark.parametrize(
    ("column", "other", "told"),
    [
        ("aabb", "xxyy", True),
        ("abcd", "xxyy", True),
        ("aabb", "xyxy", False),
        ("aabb", "xxxx", False),
        ("aaab", ["x", "x", "NA", "y"], True),
        (["a", "a", None, "b"], "xxyx", False),
    ],
)
def test_a_nested_column_tells_the_other(column, other, told):
    assert tells(pd.Series(list(column)), pd.Series(list(other), dtype="category")) is told


def test_conditions_are_told_by_name_and_few_levels():
    names = (
        "condition",
        "Treatment",
        "stim",
        "time_point",
        "disease_state",
        "patient_group",
        "cell_type_group",
    )
    obs = pd.DataFrame({name: list("abab") for name in names} | {"status": ["ok"] * 4})
    assert list(condition_like(obs)) == list(names[:5])
    many = pd.DataFrame({"condition": [str(k) for k in range(13)]})
    assert condition_like(many) == {}


def test_no_column_is_no_covariate():
    assert ObsColumn.find([], None, "--label-key") is None
