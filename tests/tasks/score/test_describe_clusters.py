"""Markers of clusters by their definition, and the tables of clusters and quality."""

import numpy as np
import pytest
from scipy import sparse, stats

from mocli.data.bundle import Codes, FeatureMatrix, Modality
from mocli.tasks.score.describe import cross_table, find_markers, marker_table
from mocli.types import ModalityKind


def cells(n=90, p=12):
    rng = np.random.default_rng(0)
    kind = np.arange(n) % 3
    rate = np.full((3, p), 1.0)
    rate[[0, 1, 2], [1, 5, 9]] = 12
    return kind, rng.poisson(rate[kind]).astype("f4")


def test_markers_are_welch_t_against_all_others():
    kind, x = cells()
    kind[:4] = -1
    found = find_markers(sparse.csr_matrix(x), kind)
    for code in range(3):
        mine, others = x[kind == code].astype(float), x[(kind != code) & (kind >= 0)].astype(float)
        theirs = stats.ttest_ind(mine, others, equal_var=False).statistic
        np.testing.assert_allclose(found.t[code], theirs, rtol=1e-6)
        np.testing.assert_allclose(found.share[code], (mine > 0).mean(0))
        np.testing.assert_allclose(found.mean_other[code], others.mean(0))
    np.testing.assert_array_equal(found.t.argmax(1), [1, 5, 9])
    constant = find_markers(np.ones((6, 2)), np.array([0, 0, 0, 1, 1, 1]))
    assert (constant.t == 0).all()


def test_the_table_names_the_strongest_features():
    kind, x = cells()
    names = tuple(f"g{j}" for j in range(x.shape[1]))
    features = FeatureMatrix(sparse.csr_matrix(x), names)
    m = Modality("rna", ModalityKind.RNA, features, tuple(f"c{i}" for i in range(90)), x.sum(1), "nb")
    clusters = Codes("x", kind.astype(np.int64), ("0", "1", "2"))
    made = marker_table("rna", m, clusters, np.arange(90), seed=0)
    first = {row[0]: row[1] for row in reversed(made["rows"])}
    assert first == {"0": "g1", "1": "g5", "2": "g9"}


def test_clusters_by_label():
    made = cross_table(
        Codes("x", np.array([0, 0, 1, -1, 1]), ("0", "1")),
        Codes("type", np.array([0, 1, 1, 1, -1]), ("B", "T")),
        "label",
    )
    assert made["columns"] == ["cluster", "B", "T", "not known"]
    assert made["rows"] == [["0", 1, 1, 0], ["1", 0, 1, 1]]


@pytest.mark.parametrize("clusters", [None, "none"])
def test_clusters_can_be_left_out(clusters):
    from mocli.tasks.integrate.options import IntegrateOptions

    assert IntegrateOptions(clusters=clusters).clusters is None
    assert IntegrateOptions().clusters == 1.0
