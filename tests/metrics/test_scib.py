"""scIB totals are the means that they say they are, and compute nothing twice."""

import math

import numpy as np
import pytest

from mocli.metrics import clusters, embedding
from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import evaluate

N = 90


def embed(*, batch=True, modalities=2, label=True):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 2 * N)
    x = (rng.normal(size=(3, 4))[codes] * 2 + rng.normal(size=(2 * N, 4))).astype("f4")
    cut = {"a": slice(0, N), "b": slice(N, None)} if modalities == 2 else {"a": slice(None)}
    batches = np.arange(2 * N) % 2
    return Embedding(
        z={m: x[s] for m, s in cut.items()},
        label={m: codes[s] for m, s in cut.items()} if label else None,
        batch={m: batches[s] for m, s in cut.items()} if batch else None,
    )


@pytest.mark.parametrize("modalities", [1, 2])
def test_totals_are_means(modalities):
    results = evaluate(embed(modalities=modalities))
    of = {k: v["value"] for k, v in results.items()}
    batch = ["graph_connectivity", "silhouette_batch"] + ["silhouette_modality"] * (modalities - 1)
    bio = ["ari_best", "nmi_best", "silhouette_label", "silhouette_isolated"]
    assert of["scib_batch"] == pytest.approx(np.mean([of[name] for name in batch]))
    assert of["scib_bio"] == pytest.approx(np.mean([of[name] for name in bio]))
    assert of["scib_total"] == pytest.approx(0.4 * of["scib_batch"] + 0.6 * of["scib_bio"])
    assert results["scib_total"]["n"] == 2 * N


def test_without_batches_only_biology_is_scored():
    results = evaluate(embed(batch=False))
    assert {k for k in results if k.startswith("scib")} == {"scib_bio"}
    bio = [results[name]["value"] for name in ("ari_best", "nmi_best", "silhouette_label")]
    assert results["scib_bio"]["value"] == pytest.approx(np.mean(bio))


def test_without_labels_nothing_is_scored():
    assert not [k for k in evaluate(embed(label=False)) if k.startswith("scib")]


def test_modalities_without_a_common_label_do_not_count():
    e = embed()
    apart = Embedding(z=e.z, label={"a": e.label["a"], "b": e.label["b"] + 3}, batch=e.batch)
    of = {k: v["value"] for k, v in evaluate(apart).items()}
    assert of["silhouette_modality"] is None
    expected = np.mean([of["graph_connectivity"], of["silhouette_batch"]])
    assert of["scib_batch"] == pytest.approx(expected)


def test_an_undefined_part_leaves_the_total_undefined():
    e = embed(modalities=1)
    confounded = Embedding(z=e.z, label=e.label, batch=e.label)
    results = evaluate(confounded, ["silhouette_batch", "scib_batch", "scib_bio", "scib_total"])
    assert results["silhouette_batch"]["value"] is None
    assert results["scib_batch"]["value"] is None
    assert results["scib_total"]["value"] is None
    assert not math.isnan(results["scib_bio"]["value"])


def test_parts_are_computed_once(monkeypatch):
    calls = []
    compared = clusters.nmi
    monkeypatch.setattr(clusters, "nmi", lambda *a: calls.append(1) or compared(*a))
    searched = embedding.nearby_blocks
    searches = []
    monkeypatch.setattr(embedding, "nearby_blocks", lambda *a, **k: searches.append(1) or searched(*a, **k))
    e = embed(modalities=1)
    evaluate(e, ["scib_total", "scib_batch", "scib_bio", "ari_best", "graph_connectivity", "f1_isolated"])
    assert len(calls) == 20 + 1  # a resolution each, and the best one once more
    assert len(searches) == 1
