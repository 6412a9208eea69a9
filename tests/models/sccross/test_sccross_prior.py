"""Metacells of the prior: nearest centres by brute force, and the same cells found as without them."""

import numpy as np
import pytest

from mocli.data.bundle import FeatureMatrix, LinkedFeatures
from mocli.models.registry import resolve, traits_of
from mocli.models.sccross import model as module
from mocli.models.sccross.model import _metacells, prior_of

TYPES, FEATURES = 5, 20


def make_link(n, seed=0):
    rng = np.random.default_rng(seed)
    profile = rng.normal(size=(TYPES, FEATURES))
    types = [rng.integers(0, TYPES, size) for size in (n, n // 2)]
    sides = [
        (profile[kind] + shift + rng.normal(0, 0.7, (len(kind), FEATURES))).astype(np.float32)
        for kind, shift in zip(types, (0.0, 0.8), strict=True)
    ]
    names = tuple(f"g{j}" for j in range(FEATURES))
    return LinkedFeatures("rna", "atac", *(FeatureMatrix(x, names) for x in sides), names), types


@pytest.mark.parametrize("drawn", [50_000, 150])
def test_every_cell_goes_to_its_nearest_centre(monkeypatch, drawn):
    monkeypatch.setattr(module, "KMEANS_CELLS", drawn)
    x = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    centres, of_cell = _metacells(x, 30, seed=0)
    assert centres.shape == (30, 6)
    distance = np.square(x[:, None].astype(np.float64) - centres[None]).sum(2)
    np.testing.assert_allclose(distance[np.arange(400), of_cell], distance.min(1), rtol=1e-4)
    again = _metacells(x, 30, seed=0)
    np.testing.assert_array_equal(again[0], centres)


def test_few_cells_stand_for_themselves():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    centres, of_cell = _metacells(x, 20, seed=0)
    assert centres is x
    np.testing.assert_array_equal(of_cell, np.arange(20))


def test_metacells_align_as_all_cells_do():
    link, types = make_link(900)
    shares = []
    for n in (900, 90):
        params = resolve(traits_of("sccross"), {"n_metacells": n})

        class Bundle:
            links = (link,)

        first, second = (z.numpy() for z in prior_of(Bundle(), {}, params, seed=0)["rna", "atac"])
        np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
        nearest = (second @ first.T).argmax(1)
        shares.append((types[0][nearest] == types[1]).mean())
    assert shares[0] > 0.9
    assert abs(shares[0] - shares[1]) < 0.02
