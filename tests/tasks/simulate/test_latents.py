"""Where simulated cells lie: how often each training cell is followed, and how widely places spread."""

import numpy as np
import pytest

from mocli.data.bundle import Codes
from mocli.tasks.simulate.groups import about_the_mean, bandwidth, draw_sources, smoothed, variance_ratio
from mocli.tasks.trained.atlas import Atlas


def test_every_cell_is_followed_equally_often():
    rows = np.array([3, 5, 8, 9])
    drawn = draw_sources(rows, 10, np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=10)[rows]
    assert counts.sum() == 10
    assert set(counts) == {2, 3}
    few = draw_sources(rows, 3, np.random.default_rng(0))
    assert len(set(few)) == 3


def test_by_weights():
    drawn = draw_sources(np.arange(3), 30_000, np.random.default_rng(0), np.array([1.0, 0.0, 3.0]))
    np.testing.assert_allclose(np.bincount(drawn) / 30_000, [0.25, 0, 0.75], atol=0.01)


@pytest.mark.parametrize(("m", "d"), [(60, 5), (300, 20), (2000, 8)])
def test_places_are_as_diverse_as_the_cells_in_every_direction(m, d):
    rng = np.random.default_rng(1)
    z = (rng.normal(size=(m, d)) * np.linspace(0.2, 3, d) @ rng.normal(size=(d, d))).astype("f4")
    places = smoothed(z, draw_sources(np.arange(m), 5 * m, rng), rng)
    assert 0.8 < variance_ratio(places, z) < 1.1
    assert np.linalg.norm(places.mean(0) - z.mean(0)) < 0.2 * np.sqrt(z.var(0).sum())
    # along and across the principal directions
    _, axes = np.linalg.eigh(np.cov(z.T))
    ratio = (places @ axes).var(0) / (z @ axes).var(0)
    assert ratio.min() > 0.5
    assert ratio.max() < 1.5
    assert len(np.unique(places, axis=0)) == len(places)


def test_two_groups_of_a_label_stay_apart():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 4)).astype("f4")
    z[100:, 0] += 40
    places = smoothed(z, draw_sources(np.arange(200), 1000, rng), rng)
    assert not ((places[:, 0] > 6) & (places[:, 0] < 34)).any()
    assert variance_ratio(places, z) == pytest.approx(1, abs=0.02)


def test_a_lone_cell_gives_itself():
    z = np.ones((1, 3), "f4")
    assert np.array_equal(smoothed(z, np.zeros(4, int), np.random.default_rng(0)), np.ones((4, 3)))


def test_the_mean_mode_is_the_formula():
    """Normal(mean of means, mean of standard deviations), as upstream draws it."""
    rng = np.random.default_rng(0)
    z = rng.normal(3, 2, size=(4000, 3)).astype("f4")
    sd = np.array([0.5, 1.0, 2.0])
    drawn = (z + rng.normal(size=z.shape) * sd).astype("f4")
    places = about_the_mean(z, drawn, 50_000, rng)
    np.testing.assert_allclose(places.mean(0), z.mean(0), atol=0.04)
    np.testing.assert_allclose(places.std(0), sd, rtol=0.05)


def test_scott_s_rule():
    assert bandwidth(1, 5) == 1
    assert bandwidth(512, 5) == pytest.approx(0.5)


def test_draws_that_are_mostly_noise_give_way_to_means():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 4)).astype(np.float32)
    near, far = ((z + sd * rng.normal(size=z.shape)).astype(np.float32) for sd in (0.5, 2.0))

    def cloud(drawn):
        return Atlas(z, Codes("group", np.zeros(200, np.int64), ("all",)), 200, drawn=drawn).cloud

    assert cloud(near) is near
    assert cloud(far) is z
    assert cloud(None) is z
