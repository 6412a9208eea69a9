"""Metrics on more cells than they look at: the drawn value is near the exact one, neighbours are shared."""

import numpy as np
import pytest

from mocli.metrics import embedding
from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import evaluate

N = 600


def build(label_a=None):
    rng = np.random.default_rng(0)
    label = np.arange(N) % 3
    truth = rng.normal(size=(3, 5))[label] * 2 + rng.normal(size=(N, 5))
    z = {m: (truth + rng.normal(scale=0.7, size=truth.shape)).astype("f4") for m in ("a", "b")}
    linked = (truth[:, :4] + rng.normal(size=(N, 4))).astype("f4")
    return Embedding(
        z=z,
        label={"a": label if label_a is None else label_a, "b": label},
        pairs={("a", "b"): np.stack([np.arange(N)] * 2, 1)},
        linked={("a", "b"): (linked, linked, tuple("wxyz"))},
    )


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("label_transfer[a->b]", 0.06),
        ("link_concordance[a-b]", 0.06),
        ("foscttm[a-b]", 0.03),
        ("pair_distance[a-b]", 0.05),
        ("silhouette", 0.05),
    ],
)
def test_a_drawn_value_is_near_the_exact_one(monkeypatch, name, tolerance):
    exact = evaluate(build(), [name.split("[")[0]])[name]
    monkeypatch.setattr(embedding, "MAX_CELLS", 250)
    drawn = evaluate(build(), [name.split("[")[0]])[name]
    assert drawn["value"] == pytest.approx(exact["value"], abs=tolerance)
    assert drawn["value"] != exact["value"]
    assert "20,000" in exact["definition"]
    if name != "link_concordance[a-b]":  # whose n counts features
        assert drawn["n"] == 250


def test_unknown_labels_are_searched_apart():
    some = np.arange(N) % 3
    some[:100] = -1
    e = build(some)
    to, nearest = e.nearest_known("a", "b")
    assert len(to) == N
    assert (some[nearest] >= 0).all()
    d = np.linalg.norm(e.z["b"][:, None] - e.z["a"][None, 100:], axis=2)
    np.testing.assert_array_equal(nearest, 100 + d.argmin(1))


def test_label_transfer_and_link_concordance_share_their_search(monkeypatch):
    calls = []
    original = embedding.nearby
    monkeypatch.setattr(embedding, "nearby", lambda *a, **k: calls.append(1) or original(*a, **k))
    evaluate(build(), ["label_transfer", "link_concordance"])
    assert len(calls) == 2  # one a direction
