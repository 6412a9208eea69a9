"""Metrics of imputed cells that have labels: what every one must do, and numpy from the definitions."""

import numpy as np
import pytest
from scipy import sparse

from mocli.metrics.imputation import LabelledCells, RealCells, Tally
from mocli.metrics.imputation import imputation_label_shares as label_shares
from mocli.metrics.imputation import imputation_top_features as top_features
from mocli.metrics.registry import available_metrics, evaluate

METRICS = available_metrics("imputed")
LEVELS = ("a", "b", "c", "d")
N, M, P = 90, 120, 40
each_metric = pytest.mark.parametrize("name", METRICS)


def values(rng, label, noise):
    profile = np.random.default_rng(7).gamma(1.0, 1.0, size=(len(LEVELS), P))
    return np.maximum(profile[label] + noise * rng.normal(size=(len(label), P)), 0).astype(np.float32)


@pytest.fixture
def cells():
    """Labels of unequal size; imputed values are blurred, and a fifth are those of another label."""
    rng = np.random.default_rng(0)
    label = rng.choice(4, N, p=[0.5, 0.25, 0.15, 0.1])
    real_label = rng.choice(4, M, p=[0.4, 0.3, 0.2, 0.1])
    taken = np.where(rng.random(N) < 0.2, 1, label)
    return label, real_label, values(rng, label, 0.5), values(rng, taken, 0.2), values(rng, real_label, 0.5)


def labelled(label, real_label, measured, imputed, real, blocks=1):
    fitted = RealCells.fit(sparse.csr_matrix(real), real_label, seed=0)
    tallies = [Tally(label, LEVELS, fitted, P) for _ in range(2)]
    for columns in np.array_split(np.arange(P), blocks):
        for tally, x in zip(tallies, (measured, imputed), strict=True):
            tally.add(columns, x[:, columns])
    return LabelledCells(LEVELS, label, tallies[1].given(), tallies[0].means, tallies[1].means)


def nearest_labels(x, real, real_label):
    """Most of the 15 nearest in 50 (here all but one) principal components, cell by cell."""
    centre = real.astype(np.float64).mean(0)
    axes = np.linalg.svd(real - centre, full_matrices=False)[2][: P - 1].T
    mine, theirs = (x - centre) @ axes, (real - centre) @ axes
    found = []
    for cell in mine:
        near = np.argsort(np.square(theirs - cell).sum(1))[:15]
        found.append(np.bincount(real_label[near]).argmax())
    return np.array(found)


def test_shares_are_those_of_the_definition(cells):
    label, real_label, _, imputed, real = cells
    found = labelled(*cells)
    given = nearest_labels(imputed, real, real_label)
    np.testing.assert_array_equal(found.given, given)
    shares = [[np.mean(codes == k) for k in range(4)] for codes in (label, given)]
    assert 0.3 < label_shares.compute(found) < 0.99
    assert label_shares.compute(found) == pytest.approx(np.corrcoef(*shares)[0, 1])


def test_top_features_are_those_of_the_definition(cells):
    label, _, measured, imputed, _ = cells
    x, y = [], []
    for k in range(4):
        excess = measured[label == k].mean(0) - measured[label != k].mean(0)
        for j in sorted(range(P), key=lambda j: -excess[j])[:5]:
            x.append(measured[label == k, j].mean())
            y.append(imputed[label == k, j].mean())
    assert len(x) == 20
    assert top_features.compute(labelled(*cells)) == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-5)


def test_blocks_of_features_change_nothing(cells):
    whole, parts = labelled(*cells), labelled(*cells, blocks=7)
    np.testing.assert_array_equal(whole.given, parts.given)
    np.testing.assert_array_equal(whole.imputed, parts.imputed)


@each_metric
def test_says_what_it_is_and_takes_the_real_for_the_best(name, cells):
    m = METRICS[name]
    label, real_label, measured, imputed, real = cells
    assert (m.name, m.better, m.bounds) == (name, "higher", (-1.0, 1.0))
    assert m.title
    assert m.sentence
    assert m.section
    own = m.compute(labelled(label, real_label, measured, measured, real))
    random = np.random.default_rng(1).permutation(N)
    worse = m.compute(labelled(label, real_label, measured, imputed[random][:, ::-1], real))
    assert 0.95 < own <= 1 + 1e-12
    assert worse < m.compute(labelled(*cells)) < own
    entry = evaluate(labelled(*cells), [name])[name]
    assert entry["n"] == N
    assert entry["range"] == [-1.0, 1.0]


@each_metric
def test_the_order_of_cells_does_not_matter(name, cells):
    label, real_label, measured, imputed, real = cells
    order, other = np.random.default_rng(2).permutation(N), np.random.default_rng(3).permutation(M)
    turned = labelled(label[order], real_label[other], measured[order], imputed[order], real[other])
    assert METRICS[name].compute(turned) == pytest.approx(METRICS[name].compute(labelled(*cells)))


@each_metric
def test_a_single_label_is_undefined_not_an_error(name, cells):
    _, real_label, measured, imputed, real = cells
    one = np.zeros(N, np.int64)
    cells = labelled(one, np.zeros_like(real_label), measured, imputed, real)
    found = evaluate(cells, [name])[name]
    assert found["value"] is None


def test_features_without_values_are_left_out(cells):
    """A baseline that says nothing of some features stands at the mean there, and is compared on the rest."""
    label, real_label, measured, imputed, real = cells
    some = imputed.copy()
    some[:, ::2] = np.nan
    found = labelled(label, real_label, measured, some, real)
    assert np.isnan(found.imputed[:, ::2]).all()
    assert np.isfinite(top_features.compute(found))
    middle = np.where(np.isnan(some), real.mean(0), some)
    same = labelled(label, real_label, measured, middle.astype(np.float32), real)
    assert label_shares.compute(found) == pytest.approx(label_shares.compute(same))


def test_two_labels_have_no_correlation_of_shares(cells):
    label, real_label, measured, imputed, real = cells
    found = labelled(label % 2, real_label % 2, measured, imputed, real)
    assert np.isnan(label_shares.compute(found))
