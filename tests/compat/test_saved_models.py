"""Models saved by earlier versions load and place cells where they did."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.tasks.infer.align import place
from mocli.tasks.run.paths import DESCRIPTION, FORMAT_VERSION, WEIGHTS
from mocli.tasks.trained.saved import load_model

FROZEN = sorted((Path(__file__).parent / "models").iterdir())


def test_every_format_version_is_frozen():
    assert [folder.name for folder in FROZEN] == [f"v{n}" for n in range(1, FORMAT_VERSION + 1)]


@pytest.mark.parametrize("folder", FROZEN, ids=lambda folder: folder.name)
def test_a_frozen_model_places_cells_where_it_did(folder, tmp_path):
    for name in (DESCRIPTION, WEIGHTS):  # a model is these two files and nothing else
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    expected = json.loads((folder / "expected.json").read_text())
    saved = load_model(tmp_path)
    assert [m["name"] for m in saved.description["modalities"]] == ["rna", "prot", "atac"]
    for name, counts in expected["counts"].items():
        x = sparse.csr_matrix(np.asarray(counts, dtype=np.float32))
        z = place(saved, name, x, None, "cpu")
        # BLAS libraries round differently
        np.testing.assert_allclose(z, expected["latent"][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("folder", FROZEN, ids=lambda folder: folder.name)
def test_its_linked_features_are_what_the_formula_gives(folder):
    """Cells scaled to the median total, features summed by weight and sign, log1p, standardised."""
    counts = json.loads((folder / "expected.json").read_text())["counts"]
    saved = load_model(folder)
    assert set(saved.link_recipes) == {("rna", "prot"), ("rna", "atac")}
    x = np.asarray(counts["atac"], dtype=np.float64)
    scaled = x / x.sum(1, keepdims=True) * np.median(x.sum(1))
    pairs = np.stack([scaled[:, 2 * i : 2 * i + 2] for i in range(5)], axis=1)
    sums = np.log1p(pairs.sum(2))
    sums[:, 4] = np.log1p(pairs[:, 4, 0]) - np.log1p(pairs[:, 4, 1])  # the last peak has sign -1
    oracle = (sums - sums.mean(0)) / sums.std(0, ddof=1)
    recipe = saved.link_recipes["rna", "atac"][1]
    found = dense_rows(recipe.apply(sparse.csr_matrix(x.astype(np.float32))), np.arange(len(x)))
    assert recipe.names == tuple(f"GENE{i}" for i in range(5))
    ratio = oracle.std(0) / found.std(0)  # n or n - 1 in the standard deviation
    np.testing.assert_allclose(found * ratio, oracle, atol=1e-4)
    np.testing.assert_allclose(ratio, 1, atol=0.06)
