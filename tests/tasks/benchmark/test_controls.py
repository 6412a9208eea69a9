"""Controls against their definitions, the sample they are scored on, and what is said of thin data."""

import numpy as np
import pandas as pd
import pytest

from mocli.data.files.obs import Coordinates
from mocli.errors import InputError
from mocli.report.ranking import Figure, rank
from mocli.tasks.benchmark.contender import aligned, canonical, controls
from mocli.tasks.benchmark.ground import prepare_ground, sample_rows
from mocli.tasks.prepare.pairing import relate
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.options import DataOptions


def ground_of(folder, said=None, **options):
    told = [] if said is None else said

    def quiet(_):
        return None

    return prepare_ground(DataOptions(**options), seed=0, say=quiet, warn=told.append, debug=quiet)


@pytest.mark.parametrize("width", [12, 90])
def test_canonical_vectors_are_singular_vectors_of_the_product(width):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, width)), rng.normal(size=(100, width))
    u, v = canonical(x.astype("f4"), y.astype("f4"), 6, seed=0)
    left, s, right = np.linalg.svd(x.astype("f4").astype(float) @ y.astype("f4").astype(float).T)
    assert np.allclose(np.abs((u * left[:, :6]).sum(0)), 1, atol=1e-4)
    assert np.allclose(np.abs((v * right[:6].T).sum(0)), 1, atol=1e-4)
    assert np.allclose(np.diag(u.T @ x @ y.T @ v), s[:6], rtol=1e-3), "signs of both sides agree"


def test_the_answer_is_best_and_chance_is_chance(paired):
    ground = ground_of(
        paired, inputs=[str(paired / "data.h5mu")], links=[str(paired / "links.tsv")], label_key="cell_type"
    )
    found = {c.name: c for c in controls(ground, seed=0)}
    best = found["perfect"]
    (pairs,) = ground.pairs.values()
    assert np.array_equal(best.by_modality["rna"][pairs[:, 0]], best.by_modality["prot"][pairs[:, 1]])
    assert (best.joint.argmax(1) == ground.bundle.label.codes).all()
    chance, of = found["shuffled"].joint, found["principal_components"].joint
    assert not np.array_equal(chance, of)
    assert np.array_equal(np.sort(chance, 0), np.sort(of, 0))


def test_a_sample_keeps_partners_and_its_size(paired):
    files = open_modalities(DataOptions(inputs=[str(paired / "data.h5mu")]))
    relation = relate([f.obs.index for f in files], "auto")
    rows = sample_rows(files, relation, None, most=20, seed=0)
    names = [set(f.obs.index[rows[f.name]]) for f in files]
    assert names[0] == names[1]
    assert len(names[0]) == 20
    again = sample_rows(files, relation, None, most=20, seed=1)
    assert set(files[0].obs.index[again["rna"]]) != names[0]


def test_what_data_cannot_tell_is_said(tmp_path, unpaired):
    import anndata as ad

    rna = ad.read_h5ad(unpaired / "rna.h5ad")
    rna.obs["thin"] = ["one", *["many"] * (rna.n_obs - 1)]
    rna.obs["batch"] = "only"
    rna.write_h5ad(tmp_path / "rna.h5ad")
    said = []
    inputs = [str(tmp_path / "rna.h5ad"), str(unpaired / "prot.h5ad")]
    ground_of(tmp_path, said, inputs=inputs, label_key="thin", batch_key="batch")
    assert any("one cell only (one)" in line for line in said)
    assert any("has one level" in line for line in said)
    said.clear()
    ground_of(tmp_path, said, inputs=inputs)
    assert any("no labels" in line and "no cell is known in two modalities" in line for line in said)


def test_places_are_found_by_name():
    z = np.arange(6, dtype=np.float32).reshape(3, 2)
    parts = [Coordinates(None, pd.Index(["c", "a", "rna:b"]), z)]
    assert np.array_equal(aligned(parts, ["a", "b", "c"], "f", "rna"), z[[1, 2, 0]])
    twice = [Coordinates(None, pd.Index(["a"]), z[:1]), Coordinates(None, pd.Index(["a"]), z[1:2])]
    with pytest.raises(InputError, match="two rows"):
        aligned(twice, ["a"], "f", None)


def figures(values, better="higher", key="m", aspect="labels"):
    kinds = {"perfect": "answer", "shuffled": "bound"}
    return [
        Figure(method, kinds.get(method, "model"), seed, key, v, better, key, aspect)
        for method, of in values.items()
        for seed, v in enumerate(of)
    ]


def test_ranking_is_the_mean_of_aspects_over_means_of_seeds():
    first = figures({"a": [0.6, 0.8], "b": [0.5, 0.5], "shuffled": [0.1], "perfect": [1.0]})
    second = figures({"a": [3.0, 3.0], "b": [1.0, 1.0], "shuffled": [5.0]}, "lower", "n", "batches")
    ranking = rank(first + second)
    lines = {line.method: line for line in ranking.lines}
    assert lines["b"].overall == pytest.approx(((0.5 - 0.1) / 0.6 + 1.0) / 2)
    assert lines["a"].overall == pytest.approx((1.0 + 0.5) / 2)
    assert [line.method for line in ranking.lines] == ["b", "a", "shuffled", "perfect"]
    assert [line.rank for line in ranking.lines] == [1, 2, None, None]
    assert lines["a"].cells["m"].sd == pytest.approx(0.2 / np.sqrt(2))
    assert lines["perfect"].aspects == {"labels": 1.0}


def test_a_metric_that_a_method_has_not_counts_as_the_worst():
    ranking = rank(figures({"a": [0.9], "b": [0.2], "constant": [None]}))
    assert {line.method: line.overall for line in ranking.lines}["constant"] == 0.0


def test_cells_measured_in_all_modalities_are_placed_by_weighted_neighbours_too(paired):
    ground = ground_of(paired, inputs=[str(paired / "data.h5mu")], links=[str(paired / "links.tsv")])
    found = {c.name: c for c in controls(ground, seed=0)}
    assert len(found["wnn"].joint) == ground.bundle.n_cells
    assert "mean weights" in found["wnn"].definition


def test_f1_of_a_label_is_scikit_learns_of_a_nearest_neighbour_vote():
    from sklearn.metrics import f1_score
    from sklearn.neighbors import NearestNeighbors

    from mocli.data.bundle import Codes
    from mocli.tasks.benchmark.scorer import label_f1

    rng = np.random.default_rng(0)
    codes = rng.choice(2, 200, p=[0.85, 0.15])  # of two labels 15 votes have a winner
    z = (np.eye(3)[codes] * 1.5 + rng.normal(0, 1, (200, 3))).astype(np.float32)
    codes[:5] = -1
    found = label_f1(z, Codes("t", codes, ("a", "rare")), ["rare", "not there"], "cpu")
    known, true = z[5:], codes[5:]
    near = NearestNeighbors(n_neighbors=16).fit(known).kneighbors(known)[1][:, 1:]
    called = (true[near] == 1).sum(1) > 7
    assert list(found) == ["label_f1[rare]"]
    assert 0.1 < found["label_f1[rare]"]["value"] < 1
    assert found["label_f1[rare]"]["value"] == pytest.approx(f1_score(true == 1, called))
    assert found["label_f1[rare]"]["n"] == (true == 1).sum()
    assert label_f1(z, None, ["rare"], "cpu") == {}
