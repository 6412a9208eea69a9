"""Pairs that links or labels contradict are named; true pairs, of either sign, are not."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mocli.data.bundle import FeatureMatrix, LinkedFeatures
from mocli.tasks.prepare.obscolumns import ObsColumn
from mocli.tasks.prepare.pairing import FEWEST_PAIRS, doubtful_pairs


def linked(n, *, sign=1.0, seed=0, names=("rna", "prot")):
    """Cells of two modalities, row i of both the same, with four weakly linked features."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    y = (0.4 * sign * x + rng.normal(size=(n, 4))).astype(np.float32)
    columns = tuple("abcd")
    link = LinkedFeatures(*names, FeatureMatrix(x, columns), FeatureMatrix(y, columns), columns)
    return SimpleNamespace(links=(link,))


def doubts(bundle, rows, label=None):
    return doubtful_pairs(bundle, {("rna", "prot"): rows}, label, seed=0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("names", [("rna", "prot"), ("prot", "rna")])
def test_links_tell_true_pairs_from_others(sign, names):
    bundle = linked(300, sign=sign, names=names)
    true = np.stack([np.arange(300), np.arange(300)], axis=1)
    assert doubts(bundle, true) == []
    wrong = np.stack([np.arange(300), np.random.default_rng(1).permutation(300)], axis=1)
    (line,) = doubts(bundle, wrong)
    assert "300 cells of rna and prot count as the same, but linked features" in line
    assert "--pairing unpaired" in line
    assert doubts(bundle, wrong[: FEWEST_PAIRS - 1]) == []


def test_labels_of_both_sides_must_agree_more_than_by_chance():
    nothing = SimpleNamespace(links=())
    true = np.stack([np.arange(200), np.arange(200)], axis=1)
    rng = np.random.default_rng(0)
    one = pd.Series(rng.choice(["B", "T", None], 200, p=[0.4, 0.4, 0.2]), dtype=object)
    other = one.where(rng.random(200) < 0.5, "T")

    def said(b):
        return doubts(nothing, true, ObsColumn("label", {"rna": one, "prot": b}))

    assert said(other) == []
    (line,) = said(other.sample(frac=1, random_state=3).reset_index(drop=True))
    assert "labels agree no more often" in line
    assert said(None) == []
    assert said(pd.Series(["T"] * 200)) == []
