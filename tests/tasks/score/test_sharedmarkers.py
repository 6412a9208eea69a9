"""Markers that modalities share: Fisher's test, Welch's t, and what is planted."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from mocli.data.bundle import Codes, FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.tasks.score.describe import LEAST_EFFECT, shared_markers
from mocli.types import ModalityKind, Pairing

N, P = 120, 40


@pytest.fixture
def bundle():
    """Two modalities of other cells; features 0 to 9 are markers of `a` in both, 10 to 14 in one alone."""
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1, 2], 2 * N // 3)
    x, y = rng.normal(size=(N, P)), rng.normal(size=(N, P))
    x[labels[:N] == 0, :15] += 1.5
    y[labels[N:] == 0, :10] += 1.5
    y[labels[N:] == 1, 30:35] += 1.5
    names = tuple(f"g{i}" for i in range(P))

    def modality(name):
        rows = FeatureMatrix(np.zeros((N, 2), np.float32), ("p", "q"))
        return Modality(name, ModalityKind.RNA, rows, tuple(f"{name}{i}" for i in range(N)), np.ones(N))

    link = LinkedFeatures("rna", "prot", *(FeatureMatrix(v.astype(np.float32), names) for v in (x, y)), names)
    rows = np.full((2 * N, 2), -1)
    rows[:N, 0], rows[N:, 1] = np.arange(N), np.arange(N)
    modalities = {m: modality(m) for m in ("rna", "prot")}
    cells = tuple(f"c{i}" for i in range(2 * N))
    label = Codes("cell_type", labels, ("a", "b", "c"))
    return MultiOmics(modalities, rows, cells, Pairing.UNPAIRED, (link,), label=label), x, y


def test_counts_and_p_are_those_of_scipy(bundle):
    given, x, y = bundle
    found = shared_markers(given, given.label)
    rows = {row[1]: row for row in found["rows"]}
    labels = given.label.codes
    for code, level in enumerate(given.label.levels):
        markers = []
        for values, codes in ((x, labels[:N]), (y, labels[N:])):
            mine, others = values[codes == code], values[codes != code]
            t = stats.ttest_ind(mine, others, equal_var=False).statistic
            fdr = stats.false_discovery_control(stats.norm.sf(t))
            effect = (mine.mean(0) - others.mean(0)) / values.std(0)
            markers.append((fdr < 0.05) & (effect >= LEAST_EFFECT))
        a, b = markers
        table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
        assert rows[level][2:6] == [P, a.sum(), b.sum(), (a & b).sum()]
        assert rows[level][7] == pytest.approx(stats.fisher_exact(table, "greater").pvalue, rel=0.01)
    assert rows["a"][5] >= 9
    assert rows["a"][8] < 1e-4
    assert rows["b"][8] > 0.05
    assert rows["a"][9].startswith("g0, g1")
    assert found["rows"][0][0] == "rna-prot"


def test_there_is_none_without_links_or_with_few_features(bundle):
    given, *_ = bundle
    assert shared_markers(dataclasses.replace(given, links=()), given.label) is None
    (link,) = given.links
    few = dataclasses.replace(
        link,
        source_features=FeatureMatrix(link.source_features.values[:, :5], link.names[:5]),
        target_features=FeatureMatrix(link.target_features.values[:, :5], link.names[:5]),
        names=link.names[:5],
    )
    assert shared_markers(dataclasses.replace(given, links=(few,)), given.label) is None
    unknown = dataclasses.replace(given.label, codes=np.where(np.arange(2 * N) < N, given.label.codes, -1))
    assert shared_markers(given, unknown) is None, "no cell of one modality has a label"
