"""ARI and NMI against their definitions, clusters against the library called by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sknetwork.clustering import Louvain, get_modularity

from mocli.metrics import clusters
from mocli.metrics.embedding import Embedding, Nearest, neighbor_graph
from mocli.metrics.registry import available_metrics

METRICS = available_metrics()


def sample(n=120, seed=0, spread=1.6):
    rng = np.random.default_rng(seed)
    label = np.arange(2 * n) % 4
    x = (rng.normal(size=(4, 5))[label] * spread + rng.normal(size=(2 * n, 5))).astype("f4")
    return Embedding(z={"a": x[:n], "b": x[n:]}, label={"a": label[:n], "b": label[n:]})


def value(name, e):
    (score,) = METRICS[name](e)
    return score.value


def pairs_rand(a, b):
    """Adjusted Rand index by counting pairs of cells."""
    both = of_a = of_b = n = 0
    for i, j in combinations(range(len(a)), 2):
        both += a[i] == a[j] and b[i] == b[j]
        of_a += a[i] == a[j]
        of_b += b[i] == b[j]
        n += 1
    expected = of_a * of_b / n
    return (both - expected) / ((of_a + of_b) / 2 - expected)


def entropies_nmi(a, b):
    def entropy(x):
        p = np.unique(x, return_counts=True, axis=0)[1] / len(x)
        return -(p * np.log(p)).sum()

    h_a, h_b = entropy(a), entropy(b)
    return 2 * (h_a + h_b - entropy(np.stack([a, b], 1))) / (h_a + h_b)


def test_indices_equal_their_definitions():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 60), rng.integers(0, 5, 60)
    b[:30] = a[:30]
    assert clusters.ari(a, b) == pytest.approx(pairs_rand(a, b))
    assert clusters.nmi(a, b) == pytest.approx(entropies_nmi(a, b))


def test_louvain_at_resolution_one():
    e = sample()
    cells, graph = neighbor_graph(e)
    found = Louvain(resolution=1.0, modularity="newman").fit_predict(graph)
    label = e.joint_label[cells]
    assert 0.1 < value("ari_louvain", e) < 1
    assert value("ari_louvain", e) == pytest.approx(adjusted_rand_score(label, found))
    assert value("nmi_louvain", e) == pytest.approx(normalized_mutual_info_score(label, found))
    assert get_modularity(graph, found) > 0.4  # clusters, not noise


def test_the_best_resolution_is_that_of_the_best_nmi():
    e = sample(spread=0.9)
    cells, _ = neighbor_graph(e)
    label = e.joint_label[cells]
    found = {r: clusters.louvain(e, r) for r in clusters.RESOLUTIONS}
    every = {r: (clusters.nmi(label, c), clusters.ari(label, c)) for r, c in found.items()}
    assert list(every) == pytest.approx(np.arange(1, 21) / 10)
    best = max(v[0] for v in every.values())
    assert len({v[0] for v in every.values()}) > 3
    assert value("nmi_best", e) == pytest.approx(best)
    assert any(v == pytest.approx((best, value("ari_best", e))) for v in every.values())
    assert value("nmi_best", e) >= value("nmi_louvain", e)


@pytest.mark.parametrize("spread", [0.5, 0.7, 0.9])
def test_of_many_cells_some_resolutions_are_tried_and_then_those_beside_the_best(monkeypatch, spread):
    monkeypatch.setattr(clusters, "EVERY_RESOLUTION", 0)
    e, tried = sample(spread=spread), {}
    found = clusters.louvain
    monkeypatch.setattr(clusters, "louvain", lambda e, r: tried.setdefault(r, found(e, r)))
    best = value("nmi_best", e)
    cells, _ = neighbor_graph(e)
    agreement = {r: clusters.nmi(e.joint_label[cells], c) for r, c in tried.items()}
    assert best == pytest.approx(max(agreement.values()))
    first = {0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0}
    chosen = max(first, key=lambda r: (round(agreement[r], 9), -r))
    assert set(tried) == first | {r for r in clusters.RESOLUTIONS if abs(r - chosen) < 0.11}


def test_kmeans():
    e = sample()
    x = e.joint
    label = e.joint_label
    found = KMeans(4, n_init=20, random_state=1).fit_predict(x)  # another seed, the same optimum
    assert value("ari_kmeans", e) == pytest.approx(adjusted_rand_score(label, found), abs=0.05)
    assert value("nmi_kmeans", e) == pytest.approx(normalized_mutual_info_score(label, found), abs=0.05)


def test_kmeans_of_few_cells_does_not_hang_on_the_seed():
    """The best of four starts spreads by .15 here: as much as models that are to be compared differ by."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 12, 250)
    z = (1.5 * rng.normal(size=(12, 10))[label] + rng.normal(size=(250, 10))).astype("f4")
    found = [value("ari_kmeans", Embedding(z={"a": z}, label={"a": label}, seed=s)) for s in range(6)]
    assert np.ptp(found) < 0.05


def test_unknown_labels_are_clustered_but_not_compared():
    e = sample()
    label = {"a": np.where(np.arange(120) < 60, -1, e.label["a"]), "b": e.label["b"]}
    some = Embedding(z=e.z, label=label)
    cells, _ = neighbor_graph(e)
    known = some.joint_label[cells] >= 0
    expected = clusters.ari(e.joint_label[cells][known], clusters.louvain(e, 1.0)[known])
    (score,) = METRICS["ari_louvain"](some)
    assert (score.value, score.n) == (pytest.approx(expected), 180)
    assert METRICS["nmi_kmeans"](some)[0].n == 180


@pytest.mark.parametrize("name", ["ari_best", "nmi_louvain", "ari_kmeans"])
def test_one_label_is_no_agreement(name):
    e = sample()
    one = Embedding(z=e.z, label={m: 0 * c for m, c in e.label.items()})
    assert math.isnan(value(name, one))


def test_file_order_does_not_matter_where_clusters_are_not_clear():
    e = sample(spread=0.7)
    order = np.random.default_rng(3).permutation(120)
    z, label = dict(e.z), dict(e.label)
    z["a"], label["a"] = z["a"][order], label["a"][order]
    moved = Embedding(z=z, label=label)
    for name in ("ari_louvain", "ari_best", "nmi_best", "ari_kmeans", "nmi_kmeans"):
        assert value(name, moved) == pytest.approx(value(name, e))


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
def test_clusters_for_users_are_those_of_the_metric_in_any_order(resolution):
    e = sample()
    cells, _ = neighbor_graph(e)
    codes = clusters.louvain_of(Nearest.of(e.joint), resolution)
    assert adjusted_rand_score(clusters.louvain(e, resolution), codes[cells]) == 1.0
    sizes = np.bincount(codes)
    assert (np.diff(sizes) <= 0).all()
    order = np.random.default_rng(1).permutation(len(codes))
    np.testing.assert_array_equal(clusters.louvain_of(Nearest.of(e.joint[order]), resolution), codes[order])


def test_few_cells_have_clusters_too():
    assert clusters.louvain_of(Nearest.of(np.zeros((1, 2), np.float32)), 1.0).tolist() == [0]
    assert len(clusters.louvain_of(Nearest.of(np.zeros((0, 2), np.float32)), 1.0)) == 0
    codes = clusters.louvain_of(Nearest.of(np.float32([[0, 0], [0, 1], [9, 9]])), 1.0)
    assert len(codes) == 3
