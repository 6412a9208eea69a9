"""Cells placed again after a change: the closed form against whole cells through the saved transforms."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch

import mocli
from mocli.data.batches import densify
from mocli.tasks.infer.align import align, place
from mocli.tasks.perturb.cells import Effect
from mocli.tasks.perturb.reencode import Replacement
from mocli.tasks.perturb.shifts import Perturbation, stream
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.saved import load_model

CPU = torch.device("cpu")
QUICK = {"max_steps": 30, "html": False, "threads": 1, "device": "cpu"}
SMALL = {"n_hidden": 16, "n_latent": 4, "batch_size": 32}


@pytest.fixture(scope="module")
def models(paired, tmp_path_factory):
    """Folders of one model of each kind of encoder, trained on the same cells."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for name, params in (("multigrate", {}), ("scmodal", {"n_neighbors": 5, "n_pcs": 8})):
        mocli.integrate(
            [paired / "data.h5mu"], links=[paired / "links.tsv"], output=folder / f"{name}.h5mu",
            model=name, params={**SMALL, **params}, **QUICK,
        )  # fmt: skip
        found[name] = folder / f"{name}.model"
    return found


def opened(models, paired, name, modality="rna", **options):
    saved = load_model(models[name])
    file = next(f for f in open_modalities(DataOptions([str(paired / "data.h5mu")])) if f.name == modality)
    aligned = align(saved, modality, file, layers={}, warn=print)
    x = aligned.read()
    return saved, x, Replacement.of(saved, modality, x, aligned.absent, CPU, **options)


def moved(cells, columns, effect, direction):
    z = cells.z.copy()
    perturbation = Perturbation("it", tuple(columns))
    for number, at, after in stream(cells, [perturbation], Effect.parse(effect), direction):
        assert (number == 0).all()
        z[at] = after
    return z


@pytest.mark.parametrize("modality", ["rna", "prot"])
@pytest.mark.parametrize("name", ["multigrate", "scmodal"])
def test_unchanged_cells_are_where_they_always_are(models, paired, name, modality):
    saved, x, cells = opened(models, paired, name, modality)
    np.testing.assert_allclose(cells.z, place(saved, modality, x, None, CPU), atol=2e-6)


@pytest.mark.parametrize(
    ("effect", "direction"), [("scale=0.5", "up"), ("knockout", "down"), ("log-shift", "up")]
)
@pytest.mark.parametrize("modality", ["rna", "prot"])
def test_the_closed_form_equals_whole_cells_encoded_again(models, paired, modality, effect, direction):
    _, _, narrow = opened(models, paired, "scmodal", modality)
    _, _, whole = opened(models, paired, "scmodal", modality, closed_form=False)
    assert narrow.mover.linear is not None
    assert whole.mover.linear is None
    for columns in ([3], [1, 4, 7]):
        fast, plain = (moved(c, columns, effect, direction) for c in (narrow, whole))
        np.testing.assert_allclose(fast, plain, atol=5e-6)
        assert not np.allclose(fast, narrow.z, atol=1e-4)


@pytest.mark.parametrize(
    ("effect", "direction", "change"),
    [
        ("scale=0.5", "down", lambda v, _: v * 0.5),
        ("knockout", "down", lambda v, _: v * 0),
        ("count-shift=2", "up", lambda v, _: v + 2),
        ("log-shift=1", "down", lambda v, f: np.expm1(np.maximum(np.log1p(v * f) - 1, 0)) / f),
    ],
)
def test_counts_at_held_depth_by_brute_force(models, paired, effect, direction, change):
    """Multigrate normalises inside: log1p of changed counts at the depth before, layer by layer."""
    saved, x, cells = opened(models, paired, "multigrate")
    module = saved.model.module
    raw = densify(x[:, saved.recipes["rna"].selected]).astype(np.float64)
    totals = raw.sum(1)
    columns = [2, 11]
    changed = raw.copy()
    for j in columns:
        changed[:, j] = change(raw[:, j], saved.readouts["rna"].depth / np.asarray(x.sum(1)).ravel())
    seen = np.log1p(changed * (float(module.depth[0]) / totals)[:, None])
    with torch.inference_mode():
        mean, log_variance = module.encoders[0](torch.from_numpy(seen.astype(np.float32)), None)
        precision = 1 + torch.exp(-log_variance)
        expected = (mean * torch.exp(-log_variance) / precision).numpy()
    assert list(saved.recipes["rna"].selected) == list(range(x.shape[1]))
    np.testing.assert_allclose(moved(cells, columns, effect, direction), expected, atol=5e-6)


def test_one_perturbation_or_many_at_a_time_is_the_same(models, paired, monkeypatch):
    _, _, cells = opened(models, paired, "multigrate")
    many = [Perturbation(str(j), (j,)) for j in range(40)]

    def all_of_them():
        blocks = stream(cells, many, Effect.parse("scale"), "up")
        return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]

    together = all_of_them()
    monkeypatch.setattr("mocli.tasks.perturb.shifts.PAIRS", 50)
    apart = all_of_them()
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_only_cells_that_express_a_feature_move(models, paired):
    _, x, cells = opened(models, paired, "multigrate")
    counts = ad.AnnData(x).X.toarray()
    for column in (0, 17):
        at, delta = cells.changes(column, Effect.parse("scale"), "down")
        assert list(at) == list(np.flatnonzero(counts[:, column]))
        assert (delta < 0).all()
    nowhere = replace(cells, absent=frozenset({0})).changes(0, Effect.parse("scale"), "down")
    assert len(nowhere[0]) == 0
