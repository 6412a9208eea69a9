"""Shifts of sets of cells and their null, against plain loops."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mocli.tasks.perturb.cells import split_cells
from mocli.tasks.perturb.shifts import Matching, hold_against, measure_shifts


@pytest.fixture
def places():
    rng = np.random.default_rng(0)
    z, targets = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(2, 1, (50, 3)).astype(np.float32)
    groups = np.array(["a", "b"], dtype=object)[np.arange(40) % 2]
    sets = split_cells(groups, np.array(["a", "b"], object)[np.arange(50) % 2], targets, n=40, min_cells=10)
    return z, targets, sets, rng


def test_shifts_equal_loops_over_cells(places):
    z, targets, sets, rng = places
    assert sets.names == ["all", "a", "b"]
    blocks, every = [], np.repeat(z[None], 4, axis=0).astype(np.float64)
    for numbers in ([0, 1], [3]):  # 2 changes nothing
        for number in numbers:
            cells = np.sort(rng.choice(40, 15, replace=False))
            after = (z[cells] + rng.normal(0, 0.3, (15, 3))).astype(np.float32)
            blocks.append((np.full(15, number), cells, after))
            every[number, cells] = after
    found = measure_shifts(z, sets, iter(blocks), 4)

    def cosine(a, b):
        return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for k, (mine, theirs) in enumerate(
        ((range(40), range(50)), (range(0, 40, 2), range(0, 50, 2)), (range(1, 40, 2), range(1, 50, 2)))
    ):
        middle = targets[list(theirs)].mean(0)
        near = np.mean([np.linalg.norm(z[i] - middle) for i in mine])
        turn = np.mean([cosine(z[i], targets[j]) for i in mine for j in theirs])
        assert found.before[k] == pytest.approx(near, rel=1e-5)
        assert found.cosine_before[k] == pytest.approx(turn, rel=1e-5)
        for g in range(4):
            after = np.mean([np.linalg.norm(every[g, i] - middle) for i in mine])
            angle = np.mean([cosine(every[g, i], targets[j]) for i in mine for j in theirs])
            assert found.shift[k, g] == pytest.approx(near - after, abs=1e-6)
            assert found.cosine_shift[k, g] == pytest.approx(turn - angle, abs=1e-6)
        assert found.shift[k, 2] == 0
        assert found.cosine_shift[k, 2] == 0
        assert found.n_changed[k, 2] == 0


def test_groups_that_are_small_are_named():
    targets = np.ones((30, 2), np.float32)
    groups = np.array(["big"] * 30 + ["small"] * 5 + ["lonely"] * 15, dtype=object)
    theirs = np.array(["big"] * 25 + ["small"] * 5, dtype=object)
    found = split_cells(groups, theirs, targets, n=50, min_cells=10)
    assert found.names == ["all", "big"]
    assert found.left_out == (("lonely", 15, 0), ("small", 5, 5))


def test_the_null_leaves_a_value_itself_out():
    rng = np.random.default_rng(0)
    null, bins = rng.normal(size=60), np.repeat([0, 1], 30)
    values = np.r_[null[:3], 5.0]
    own, mine = np.array([0, 1, 2, -1]), np.zeros(4, int)
    found = hold_against(values, mine, null, bins, own, np.array([True, True, False, True]))
    for k in (0, 1, 3):
        others = np.delete(null[:30], own[k]) if own[k] >= 0 else null[:30]
        z = (values[k] - others.mean()) / others.std(ddof=1)
        assert found.mean[k] == pytest.approx(others.mean())
        assert found.z[k] == pytest.approx(z)
        t = z / np.sqrt(1 + 1 / len(others))
        assert found.p[k] == pytest.approx(2 * stats.t.sf(abs(t), len(others) - 1))
    assert np.isnan([found.z[2], found.p[2], found.mean[2]]).all()


def test_p_of_the_null_is_uniform():
    rng = np.random.default_rng(1)
    null = rng.normal(size=2000)
    bins = rng.integers(0, 10, 2000)
    found = hold_against(null, bins, null, bins, np.arange(2000), np.ones(2000, bool))
    assert stats.kstest(found.p, "uniform").pvalue > 0.01


def test_random_sets_are_matched_member_by_member():
    level = np.repeat([1.0, 10.0], 100) + np.random.default_rng(0).uniform(0, 0.5, 200)
    matching = Matching.draw(level, seed=0, whole=True)
    members = np.array([3, 150])
    drawn = matching.random_sets(members, seed=0)
    assert len(drawn) == 200
    for chosen in drawn:
        assert not set(chosen) & set(members)
        assert list(matching.bins[list(chosen)]) == list(matching.bins[members])


def test_the_headline_names_only_what_passes_the_fdr() -> None:
    from mocli.tasks.perturb.write import screen_sentence

    table = pd.DataFrame(
        {
            "feature": ["A", "B", "C"],
            "direction": ["up"] * 3,
            "shift": [3.0, 2.0, 1.0],
            "null_mean": 0.0,
            "z": [3.0, 2.0, 1.0],
            "fdr": [0.01, 0.4, 0.02],
        }
    )
    said = screen_sentence(table, "stim")
    assert "2 of 3" in said
    assert said.endswith("the first of them A up, C up")
    assert "none of the best ranked is among them: A up, B up" in screen_sentence(
        table.assign(fdr=0.5), "stim"
    )


def test_batches_that_are_the_compared_conditions_are_doubted() -> None:
    from types import SimpleNamespace

    from mocli.tasks.perturb.cells import ChosenCells, doubt_of_batches

    obs = pd.DataFrame({"batch": list("aabb"), "donor": list("xyxy")})
    chosen = ChosenCells(np.array([0, 1]), np.array([2, 3]), None, None)
    file = SimpleNamespace(obs=obs)
    assert "no level of obs['batch']" in doubt_of_batches(file, "batch", chosen)
    assert doubt_of_batches(file, "donor", chosen) == ""
    assert doubt_of_batches(file, None, chosen) == ""
