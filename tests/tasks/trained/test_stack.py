"""Ways weighed by what they predict of cells left out: against ridge, noise, brute force and themselves."""

from itertools import product

import numpy as np
import pytest
from scipy import sparse

from mocli.tasks.infer import stackfitting
from mocli.tasks.infer.stackfitting import fit_stack, weigh
from mocli.tasks.trained.folds import Fold, Products
from mocli.tasks.trained.latent import CellCoordinates, SourceCells
from mocli.tasks.trained.stack import WAYS, LinkedValues, Stack

N, GENES, TARGETS = 300, 120, 12


@pytest.fixture(scope="module")
def cells():
    """Four types of cells; the first targets follow the type, the next one gene, the last nothing."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, N)
    mean = rng.gamma(1.0, 1.0, (4, GENES))
    values = np.log1p(rng.poisson(mean[kind])).astype(np.float32)
    y = np.empty((N, TARGETS), np.float32)
    y[:, :4] = rng.normal(0, 2, (4, 4))[kind] + rng.normal(0, 0.7, (N, 4))
    y[:, 4:8] = values[:, :4] + rng.normal(0, 0.5, (N, 4))
    y[:, 8:] = rng.normal(0, 1, (N, 4))
    z = (rng.normal(0, 1, (4, 5))[kind] + rng.normal(0, 0.3, (N, 5))).astype(np.float32)
    sums = sparse.csr_matrix((np.ones(4, np.float32), (np.arange(4), np.arange(4))), (GENES, 4))
    column = np.full(TARGETS, -1)
    column[4:8] = np.arange(4)
    return SourceCells(sparse.csr_matrix(values), z), y, LinkedValues(sums, column)


@pytest.fixture(scope="module")
def stack(cells):
    source, y, linked = cells
    known = np.arange(240)
    return fit_stack(
        source.take(known),
        {"log": lambda columns: y[known][:, columns]},
        n_vars=TARGETS,
        linked=linked,
        seed=0,
    )


def r2(x, y):
    return 1 - np.square(x - y).sum(0) / np.square(y - y.mean(0)).sum(0)


def test_cells_left_out_are_predicted(cells, stack):
    source, y, _ = cells
    new = np.arange(240, N)
    found = r2(stack.predict(source.take(new), "log", np.arange(TARGETS)), y[new])
    assert np.sort(found[:4])[1] > 0.7
    assert found[4:8].min() > 0.2
    # what nothing is known of is predicted by its mean, nearly
    assert found[8:].min() > -0.1
    assert stack.predict(source.take(new), "log", np.arange(TARGETS)).std(0).min() > 0


def test_every_feature_has_its_own_weights(stack):
    weights = dict(zip(WAYS, stack.by_scale["log"].weights, strict=True))
    assert stack.by_scale["log"].weights.min() >= 0
    linked = weights["linked feature"]
    assert linked[4:8].min() > 0.3
    assert (linked[:4] == 0).all()
    assert (linked[8:] == 0).all()


def test_some_columns_and_cells_get_what_they_get_among_all(cells, stack):
    source, _, _ = cells
    every = stack.predict(source, "log", np.arange(TARGETS))
    some = stack.predict(source.take(np.array([5, 2])), "log", np.array([7, 0]))
    np.testing.assert_allclose(some, every[[5, 2]][:, [7, 0]], atol=1e-5)


def test_a_stack_that_was_kept_predicts_the_same_bits(cells, stack):
    source, _, _ = cells
    facts, arrays = stack.state()
    again = Stack.from_state(facts, {k: np.ascontiguousarray(v) for k, v in arrays.items()})
    columns = np.arange(TARGETS)
    np.testing.assert_array_equal(
        again.predict(source, "log", columns), stack.predict(source, "log", columns)
    )
    np.testing.assert_array_equal(again.distance(source), stack.distance(source))


def test_cells_that_are_unlike_lie_far_away(cells, stack):
    source, _, _ = cells
    x = source.values.copy()
    x.indices = np.random.default_rng(1).permutation(GENES)[x.indices].astype(x.indices.dtype)
    strange = SourceCells(sparse.csr_matrix(x), source.z)
    assert np.median(stack.distance(strange)) > 1.1
    assert np.mean(stack.distance(source.take(np.arange(240, N))) > 1) < 0.1


def test_a_feature_that_was_not_measured_counts_as_the_mean(cells, stack):
    source, _, _ = cells
    x = source.values.toarray()
    x[:, 50:60] = 0
    without = SourceCells(sparse.csr_matrix(x), source.z, np.arange(50, 60))
    moved = stack.predict(without, "log", np.arange(4)) - stack.predict(source, "log", np.arange(4))
    zero = SourceCells(sparse.csr_matrix(x), source.z)
    further = stack.predict(zero, "log", np.arange(4)) - stack.predict(source, "log", np.arange(4))
    assert np.abs(moved.mean(0)).sum() < np.abs(further.mean(0)).sum() + 0.05


def test_weights_are_the_best_that_are_not_negative():
    rng = np.random.default_rng(0)
    said = rng.normal(size=(3, 400))
    y = 0.6 * said[0] + 0.2 * said[2] - 0.5 * said[1]
    gram, cross = said @ said.T / 400, said @ y / 400
    (found,) = weigh(gram[None], cross[None], (gram, cross), n=400)
    grid = np.array(list(product(np.arange(0, 1.001, 0.02), repeat=3)))
    errors = np.einsum("ga,ab,gb->g", grid, gram, grid) - 2 * grid @ cross
    np.testing.assert_allclose(found, grid[errors.argmin()], atol=0.02)


def test_what_is_seen_of_cells_left_out_was_fitted_without_them(cells):
    source, y, linked = cells
    seen = {}

    def see(scale, times, columns, predicted, measured):
        np.testing.assert_array_equal(measured, y[:, columns])
        seen[scale] = predicted

    fit_stack(source, {"log": lambda columns: y[:, columns]}, n_vars=TARGETS, linked=linked, seed=0, see=see)
    found = r2(seen["log"], y)
    assert np.sort(found[:4])[1] > 0.7
    # noise cannot be known of a cell that was left out
    assert np.abs(found[8:]).max() < 0.1


def test_what_is_seen_lies_about_the_mean_also_where_weights_sum_to_less_than_one(cells):
    source, y, _ = cells
    seen = []

    def see(scale, times, columns, predicted, measured):
        seen.append((predicted - measured).mean(0))

    fit_stack(source, {"log": lambda columns: y[:, columns] + 100}, n_vars=TARGETS, seed=0, see=see)
    # of noise no way knows anything: the weights sum to a fifth
    assert np.abs(seen[0]).max() < 1


@pytest.fixture(scope="module")
def shifted():
    """Three batches of 100 cells of five types; in each, values of the target are shifted."""
    rng = np.random.default_rng(3)
    kind, batch = rng.integers(0, 5, N), np.repeat(np.arange(3), N // 3)
    mean = rng.gamma(1.0, 1.0, (5, GENES))
    values = np.log1p(rng.poisson(mean[kind])).astype(np.float32)
    y = rng.normal(0, 2, (5, TARGETS))[kind] + rng.normal(0, 0.5, (N, TARGETS))
    return SourceCells(sparse.csr_matrix(values)), y, rng.normal(0, 2, (3, TARGETS))[batch], kind, batch


def test_components_of_a_fold_are_those_found_without_the_cells_left_out(cells):
    source, _, _ = cells
    every = CellCoordinates.fit(source, seed=0)
    out = np.arange(0, N, 5)
    fold = Fold.fit(Products.of(every, source), out, seed=0)
    alone = CellCoordinates.fit(source.take(fold.rest), seed=0)
    new = source.take(out)
    # standardised features are scaled by what they vary in all cells, which turns components of noise
    for k, n in enumerate((10, 3)):
        pairs = zip(fold.scores[k].T[:n], alone(new)[k].T, strict=False)
        assert min(abs(np.corrcoef(found, expected)[0, 1]) for found, expected in pairs) > 0.998
        np.testing.assert_allclose(fold.scores[k].std(0)[:n], alone(new)[k].std(0)[:n], rtol=0.05)
    np.testing.assert_allclose(fold.strangeness(), alone.strangeness(new), rtol=0.1)
    # those of all cells differ
    pairs = zip(fold.scores[0].T[:10], every(new)[0].T, strict=False)
    assert min(abs(np.corrcoef(found, leaked)[0, 1]) for found, leaked in pairs) < 0.99


def test_of_many_cells_some_are_left_out_and_all_are_fitted_to(cells, monkeypatch):
    monkeypatch.setattr(stackfitting, "MOST_LEFT_OUT", 100)
    source, y, _ = cells
    rare = y.copy()
    rare[:, -1] = np.arange(N) % 100 == 0
    seen = []

    def see(scale, times, columns, predicted, measured):
        seen.append((times, predicted, measured))

    stack = fit_stack(source, {"log": lambda columns: rare[:, columns]}, n_vars=TARGETS, seed=0, see=see)
    ((times, predicted, measured),) = seen
    assert stack.n_cells == N
    assert len(times) == len(predicted) == len(measured) == 100
    assert np.sort(r2(predicted, measured)[:4])[1] > 0.6
    # a value that few cells have is predicted about its mean in all cells, as new cells will be
    kept = stack.predict(source, "log", np.arange(TARGETS))
    np.testing.assert_allclose(predicted[:, -1].mean(), kept[:, -1].mean(), atol=0.1 * rare[:, -1].std())


def widening(source, y, **options):
    stack = fit_stack(source, {"log": lambda columns: y[:, columns]}, n_vars=TARGETS, seed=0, **options)
    return stack, stack.widening.new_batch


def test_a_new_batch_needs_what_left_out_batches_would_have_needed(shifted):
    source, y, shift, _, batch = shifted
    alike, apart = (widening(source, y + by, batches=batch)[1] for by in (0, shift))
    assert 1 <= alike < 1.4 < apart
    # a batch of a few cells, and one alone, say nothing
    assert widening(source, y, batches=np.where(np.arange(N) < 10, 1, 0))[1] == widening(source, y)[1]


def test_cells_of_a_type_that_was_left_out_have_wider_intervals(shifted):
    source, y, _, kind, _ = shifted
    known = np.flatnonzero(kind > 0)
    stack, _ = widening(source.take(known[:200]), y[known[:200]].astype(np.float32))
    usual, new = (stack.times(source.take(rows)) for rows in (known[200:], np.flatnonzero(kind == 0)))
    assert usual.min() >= 1
    assert np.median(new) > 1.2 * np.median(usual)
    facts, arrays = stack.state()
    again = Stack.from_state(facts, {k: np.ascontiguousarray(v) for k, v in arrays.items()})
    np.testing.assert_array_equal(again.times(source), stack.times(source))
    # a stack of an earlier version widens by distance alone
    older = Stack.from_state({**facts, "widening": None}, arrays)
    np.testing.assert_array_equal(older.times(source), np.maximum(older.distance(source), 1))
