"""Ways weighed by promoters of other chromosomes."""

import numpy as np
import pytest

from mocli.tasks.gene2peak.truth import USUAL, combine


@pytest.fixture
def planted():
    rng = np.random.default_rng(0)
    n = 900
    distance = np.where(np.arange(n) < 300, 500, 50_000)
    home, control_home = rng.integers(0, 8, n), rng.integers(0, 8, 300)
    good = rng.normal(0, 1, n) + 1.5 * (distance < 2_000)
    scores = {"metacells": good, "silencing": rng.normal(0, 5, n)}
    controls = {"metacells": rng.normal(0, 1, 300), "silencing": rng.normal(0, 5, 300)}
    return scores, controls, distance, home, control_home


def test_what_tells_promoters_apart_has_the_weight(planted):
    found = combine(*planted)
    assert found.learnt
    assert found.weights["metacells"] > 5 * found.weights["silencing"] >= 0
    near = planted[2] < 2_000
    # scores of a chromosome rest on the others
    assert (found.score[near][:, None] > found.at_controls[None]).mean() > 0.8


def test_few_promoters_leave_the_usual_weights(planted):
    scores, controls, _, home, control_home = planted
    found = combine(scores, controls, np.where(np.arange(900) < 20, 500, 50_000), home, control_home)
    assert not found.learnt
    assert found.weights == {name: USUAL[name] for name in scores}


def test_what_is_not_known_counts_as_nothing(planted):
    scores, controls, distance, home, control_home = planted
    partly = {**scores, "silencing": np.where(np.arange(900) % 2, np.nan, scores["silencing"])}
    partly["metacells"] = np.where(np.arange(900) == 1, np.nan, partly["metacells"])
    found = combine(partly, controls, distance, home, control_home)
    assert np.isnan(found.score[1])
    assert np.isfinite(np.delete(found.score, 1)).all()
