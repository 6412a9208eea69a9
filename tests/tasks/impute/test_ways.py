"""Partners by linked features: the nearest of all, by a slow loop."""

import numpy as np
import pytest

from mocli.data.bundle import FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.tasks.impute import accuracy as partners
from mocli.tasks.impute.accuracy import partners_by_links
from mocli.types import ModalityKind, Pairing

SIZES = {"a": 50, "b": 40, "c": 30}


def dense(x):
    return FeatureMatrix(x.astype(np.float32), tuple(f"f{j}" for j in range(x.shape[1])))


@pytest.fixture
def bundle():
    rng = np.random.default_rng(0)
    kind = {name: np.arange(n) % 3 for name, n in SIZES.items()}
    profile = 3 * np.eye(3, 8)
    modalities, start = {}, 0
    rows = np.full((sum(SIZES.values()), 3), -1)
    for position, (name, n) in enumerate(SIZES.items()):
        x = profile[kind[name]] + rng.normal(size=(n, 8))
        cells = tuple(f"{name}{i}" for i in range(n))
        modalities[name] = Modality(name, ModalityKind.OTHER, dense(x), cells, np.ones(n, np.float32))
        rows[start : start + n, position] = np.arange(n)
        start += n

    def side(name):
        return dense(profile[kind[name], :5] + 0.3 * rng.normal(size=(SIZES[name], 5)))

    names = tuple(f"f{j}" for j in range(5))
    links = tuple(LinkedFeatures(x, y, side(x), side(y), names) for x, y in (("a", "b"), ("b", "c")))
    every = tuple(str(i) for i in range(len(rows)))
    return MultiOmics(modalities, rows, every, Pairing.UNPAIRED, links)


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("b", "a"), ("c", "b")])
def test_every_target_cell_has_the_nearest_source_cell(bundle, source, target):
    from mocli.data.batches import dense_rows
    from mocli.tasks.prepare.smoothing import smooth_links

    smoothed = smooth_links(bundle, seed=0, say=lambda _: None).links[0 if "a" in (source, target) else 1]
    sides = {smoothed.source: smoothed.source_features, smoothed.target: smoothed.target_features}

    def unit(name):
        x = dense_rows(sides[name], np.arange(SIZES[name])).astype(np.float64)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    cells, true_cells = partners_by_links(bundle, source, target, seed=0)
    np.testing.assert_array_equal(true_cells, np.arange(SIZES[target]))
    similarity = unit(target) @ unit(source).T
    np.testing.assert_allclose(similarity[true_cells, cells], similarity.max(1), atol=1e-5)
    assert (cells % 3 == true_cells % 3).mean() > 0.9


def test_modalities_that_no_link_joins_have_no_partners(bundle):
    assert partners_by_links(bundle, "a", "c", seed=0) is None


def test_of_very_many_cells_some_are_drawn(bundle, monkeypatch):
    monkeypatch.setattr(partners, "MAX_TARGET", 12)
    monkeypatch.setattr(partners, "MAX_SOURCE", 20)
    cells, true_cells = partners_by_links(bundle, "a", "b", seed=0)
    assert len(cells) == len(np.unique(true_cells)) == 12
    assert len(np.unique(cells)) <= 20
    again = partners_by_links(bundle, "a", "b", seed=0)
    np.testing.assert_array_equal(cells, again[0])


def test_a_cell_without_linked_signal_is_left_out(bundle):
    from dataclasses import replace

    link = bundle.links[0]
    x = link.target_features.values.copy()
    x[:] = 0
    silent = replace(link, target_features=replace(link.target_features, values=x))
    cells, true_cells = partners_by_links(replace(bundle, links=(silent,)), "a", "b", seed=0)
    assert len(cells) == len(true_cells) == 0
