"""How cells relate, by their names alone."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocli.errors import InputError, UsageError
from mocli.tasks.prepare.pairing import index_map, relate, true_pairs
from mocli.types import Pairing


class File:
    def __init__(self, names):
        self.obs = pd.DataFrame(index=list(names))
        self.n_obs = len(self.obs)


A = [f"a{i}" for i in range(50)]
B = [f"b{i}" for i in range(50)]


@pytest.mark.parametrize(
    ("first", "second", "pairing", "same"),
    [
        (A, B, Pairing.UNPAIRED, False),
        (A, A[::-1], Pairing.PAIRED, True),
        (A, A[:30], Pairing.MOSAIC, True),
        (A, A[:3] + B[3:], Pairing.MOSAIC, True),
        (A, A[:2] + B[2:], Pairing.UNPAIRED, False),  # 4 % is chance
    ],
)
def test_names_tell_the_pairing(first, second, pairing, same):
    relation = relate([pd.Index(first), pd.Index(second)], "auto")
    assert (relation.pairing, relation.names_mean_cells) == (pairing, same)
    assert relation.reason


def test_what_is_asked_wins():
    few = [pd.Index(A), pd.Index(A[:2] + B[2:])]
    apart = relate([pd.Index(A), pd.Index(A)], "unpaired")
    assert apart.names_mean_cells
    assert "50 cell names are shared: the model does not use that, metrics do" in apart.reason
    assert relate([pd.Index(A), pd.Index(B)], "unpaired").reason == "as asked"
    assert not relate(few, "unpaired").names_mean_cells
    assert relate(few, "mosaic").names_mean_cells
    with pytest.raises(InputError, match="there are none"):
        relate([pd.Index(A), pd.Index(B)], "mosaic")
    with pytest.raises(UsageError, match="--pairing does not accept"):
        relate([pd.Index(A), pd.Index(B)], "unpared")


def test_three_modalities_need_only_two_that_share():
    names = [pd.Index(A), pd.Index(A), pd.Index(B)]
    assert relate(names, "auto").pairing is Pairing.MOSAIC


lists = st.lists(st.sampled_from([f"c{i}" for i in range(12)]), unique=True, min_size=1)


@given(lists, lists)
def test_the_index_map_finds_every_row(first, second):
    files = [File(first), File(second)]
    rows, names = index_map(files, Pairing.MOSAIC)
    assert sorted(names) == sorted({*first, *second})
    for column, own in enumerate((first, second)):
        assert [own[r] if r >= 0 else None for r in rows[:, column]] == [
            name if name in own else None for name in names
        ]
    rows, names = index_map(files, Pairing.UNPAIRED)
    assert list(names) == first + second
    assert (rows >= 0).sum() == len(names) == len(rows)


keys = st.lists(st.one_of(st.none(), st.sampled_from("abcdefg")), min_size=1)


@given(keys, keys)
def test_true_pairs_are_names_that_occur_once_on_each_side(first, second):
    expected = [
        [i, j]
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if a is not None and a == b and first.count(a) == 1 and second.count(b) == 1
    ]
    found = true_pairs(pd.Series(first, dtype=object), pd.Series(second, dtype=object))
    assert (found.tolist() if found is not None else []) == expected
    if found is not None:
        assert found.dtype == np.int64


def test_true_pairs_of_categories_and_index():
    names = pd.Series(pd.Categorical(["x", "y", None, "z"]))
    assert true_pairs(names, pd.Index(["z", "x"])).tolist() == [[0, 1], [3, 0]]
