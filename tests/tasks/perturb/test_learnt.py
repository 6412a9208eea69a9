"""Ways to predict a perturbation from others, on responses that were planted."""

import numpy as np
import pytest

from mocli.tasks.perturb.learnt import ADDITIVE, CHOSEN, MEAN, MODEL, SHARED, STACKED, learn_responses
from mocli.tasks.perturb.truth import parts_of

N_FEATURES = 80


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def every(changes):
    return np.ones(changes.shape, bool)


def test_doubles_are_sums_of_singles(rng):
    singles = rng.normal(size=(6, N_FEATURES))
    parts = [(f"g{k}",) for k in range(6)] + [(f"g{k}", f"g{k + 1}") for k in range(5)]
    changes = np.array([sum(singles[int(name[1])] for name in of) for of in parts])
    changes = changes + rng.normal(0, 0.2, changes.shape)
    found = learn_responses(changes, parts, {}, compared=every(changes))
    doubles = np.array([len(of) == 2 for of in parts])
    assert found.scores[ADDITIVE][doubles].min() > 0.9
    assert found.scores[SHARED][doubles].mean() > found.scores[MEAN][doubles].mean()
    assert np.mean(found.scores[CHOSEN][doubles]) >= np.mean(found.scores[ADDITIVE][doubles])


def test_alike_features_act_alike(rng):
    """The response is linear in an embedding: a linear model finds it, the mean does not."""
    embedding = rng.normal(size=(30, 4))
    changes = embedding @ rng.normal(size=(4, N_FEATURES)) + rng.normal(0, 0.3, (30, N_FEATURES))
    names = [(f"g{k}",) for k in range(30)]
    vectors = {f"g{k}": embedding[k] for k in range(30)}
    found = learn_responses(changes, names, {"planted": vectors}, compared=every(changes))
    assert np.median(found.scores[MEAN]) < 0.2
    assert np.median(found.scores[CHOSEN]) > 0.8
    assert found.choices[0] != MEAN


def test_noise_is_never_predicted_worse_than_by_the_mean(rng):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        changes = rng.normal(size=(12, N_FEATURES)) + 0.5 * rng.normal(size=N_FEATURES)
        names = [(f"g{k}",) for k in range(12)]
        vectors = {f"g{k}": rng.normal(size=3) for k in range(12)}
        model = rng.normal(size=changes.shape)
        model[3] = np.nan
        found = learn_responses(changes, names, {"random": vectors}, compared=every(changes), model=model)
        assert np.median(found.scores[CHOSEN]) >= np.median(found.scores[MEAN])
        assert np.mean(found.scores[CHOSEN]) >= np.mean(found.scores[MEAN])
        assert np.isnan(found.scores[MODEL][3])


def test_a_choice_among_many_ways_that_know_nothing_is_not_reported_as_a_gain():
    """The best of many by the scores that are then reported would be better than the mean, by chance."""
    gains, best = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        changes = rng.normal(size=(8, 12)) + 0.5 * rng.normal(size=12)
        names = [(f"g{k}",) for k in range(8)]
        random = {f"e{j}": {f"g{k}": rng.normal(size=2) for k in range(8)} for j in range(12)}
        found = learn_responses(changes, names, random, compared=every(changes))
        mean = found.scores[MEAN].mean()
        gains.append(found.scores[CHOSEN].mean() - mean)
        best.append(max(found.scores[way].mean() for way in found.ways) - mean)
    assert np.mean(best) > 0.02
    assert np.mean(gains) < 0.01


def test_a_target_does_not_tell_of_itself(rng):
    changes = rng.normal(size=(8, N_FEATURES))
    names = [(f"g{k}",) for k in range(8)]
    vectors = {f"g{k}": rng.normal(size=3) for k in range(8)}
    before = learn_responses(changes, names, {"e": vectors}, compared=every(changes))
    other = changes.copy()
    other[2] = 100 * rng.normal(size=N_FEATURES)
    after = learn_responses(other, names, {"e": vectors}, compared=every(changes))
    assert STACKED in before.ways
    for way in before.ways:
        np.testing.assert_allclose(before.ways[way][2], after.ways[way][2], rtol=1e-6, err_msg=way)
    # nor of how it is best predicted
    assert before.choices[2] == after.choices[2]
    np.testing.assert_allclose(before.chosen[2], after.chosen[2], rtol=1e-6)


def test_many_targets_are_left_out_together(rng):
    changes = rng.normal(size=(130, 10))
    found = learn_responses(changes, [(f"g{k}",) for k in range(130)], {}, compared=every(changes))
    rest = np.setdiff1d(np.arange(130), [4, 104])
    np.testing.assert_allclose(found.ways[MEAN][104], changes[rest].mean(0))


def test_one_target_alone_is_no_error(rng):
    changes = rng.normal(size=(1, 10))
    found = learn_responses(changes, [("a",)], {}, compared=every(changes))
    assert found.choices == (MEAN,)


@pytest.mark.parametrize(
    ("level", "parts"),
    [
        ("KLF1", ("KLF1",)),
        ("KLF1+SET", ("KLF1", "SET")),
        ("KLF1+ctrl", ("KLF1",)),
        ("none+KLF1", ("KLF1",)),
        ("HLA-DRA", ("HLA-DRA",)),
        ("A+B", ("A+B",)),
        ("ctrl", ("ctrl",)),
    ],
)
def test_levels_name_features(level, parts):
    assert parts_of(level, {"KLF1", "A+B", "HLA-DRA"}, ["none"]) == parts
