"""Our metrics beside scib-metrics, an independent implementation of many of them.

Needs scib-metrics, which is no dependency: `pip install scib-metrics`, then
`python -m pytest -m slow tests/metrics/test_scib_oracle.py -rs`.
"""

import warnings

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import evaluate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

N = {"rna": 500, "prot": 400}  # kBET looks at every cell up to 1,000
CLOSE = 1e-4  # scib-metrics computes in float32


@pytest.fixture(scope="module")
def scib():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")


def embedding(gap, *, seed=0):
    """Four cell types in two modalities that lie `gap` apart."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(4, 8)) * 2
    label = {m: rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1]) for m, n in N.items()}
    z = {m: (centre[c] + rng.normal(size=(len(c), 8))).astype("f4") for m, c in label.items()}
    z["prot"] += np.float32(gap)
    batch = {m: np.where(c == 3, 0, rng.integers(0, 3, len(c))) for m, c in label.items()}
    own = {m: (np.arange(len(x)), x + batch[m][:, None].astype("f4")) for m, x in z.items()}
    return Embedding(z=z, label=label, batch=batch, own=own)


@pytest.fixture(params=[0.0, 0.3, 3.0], ids=["mixed", "apart", "far"])
def case(request):
    e = embedding(request.param)
    x, label = np.concatenate(list(e.z.values())), np.concatenate(list(e.label.values()))
    return e, x, label, np.repeat([0, 1], list(N.values()))


def ours(e, name):
    return evaluate(e, [name])[name]["value"]


def test_label_silhouette(scib, case):
    e, x, label, _ = case
    theirs = scib.silhouette_label(x, label, rescale=False)
    print(f"silhouette {ours(e, 'silhouette'):.6f} {theirs:.6f}")
    assert ours(e, "silhouette") == pytest.approx(theirs, abs=CLOSE)


def test_modality_silhouette_is_batch_silhouette(scib, case):
    e, x, label, modality = case
    theirs = scib.silhouette_batch(x, label, modality)
    print(f"silhouette_modality {ours(e, 'silhouette_modality'):.6f} {theirs:.6f}")
    assert ours(e, "silhouette_modality") == pytest.approx(theirs, abs=CLOSE)


def test_kbet(scib, case):
    from scib_metrics.nearest_neighbors import NeighborsResults

    e, x, _, modality = case
    k = 112  # a quarter of the mean modality size
    near = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x.astype(float))
    distances, indices = near.kneighbors()
    theirs = scib.kbet(NeighborsResults(indices[:, :k], distances[:, :k]), modality)[0]
    print(f"kbet {ours(e, 'kbet'):.6f} {theirs:.6f}")
    # one cell of 900 whose p-value lies at the limit
    assert ours(e, "kbet") == pytest.approx(theirs, abs=1.5 / len(x))


def graph(x, k):
    """Neighbours as scib-metrics keeps them: a cell is the first of its own."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    near = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x.astype(float))
    distances, indices = near.kneighbors(x.astype(float))
    return NeighborsResults(indices, distances)


def test_lisi(scib, case):
    e, x, label, modality = case
    batch, near = e.joint_batch, graph(x, 91)
    theirs = {
        "ilisi_modality": scib.ilisi_knn(near, modality),
        "ilisi_batch": scib.ilisi_knn(near, batch),
        "clisi": scib.clisi_knn(near, label),
    }
    for name, value in theirs.items():
        print(f"{name} {ours(e, name):.6f} {value:.6f}")
        assert ours(e, name) == pytest.approx(float(value), abs=1e-3)


def test_isolated_labels(scib, case):
    e, x, label, _ = case
    theirs = scib.isolated_labels(x, label, e.joint_batch)
    print(f"silhouette_isolated {ours(e, 'silhouette_isolated'):.6f} {theirs:.6f}")
    assert ours(e, "silhouette_isolated") == pytest.approx(theirs, abs=CLOSE)


def test_rescaled_and_batch_silhouette(scib, case):
    e, x, label, _ = case
    assert ours(e, "silhouette_label") == pytest.approx(scib.silhouette_label(x, label), abs=CLOSE)
    theirs = scib.silhouette_batch(x, label, e.joint_batch)
    assert ours(e, "silhouette_batch") == pytest.approx(theirs, abs=CLOSE)


def test_graph_connectivity(scib, case):
    """Theirs follows edges in their direction: at least as many islands as in ours."""
    e, x, label, _ = case
    theirs = scib.graph_connectivity(graph(x, 16), label)
    print(f"graph_connectivity {ours(e, 'graph_connectivity'):.6f} {theirs:.6f}")
    assert theirs <= ours(e, "graph_connectivity") <= theirs + 0.05


def test_kmeans_clusters(scib, case, request):
    """Where modalities are far apart, clusters are ambiguous, and starting points decide."""
    e, x, label, _ = case
    close = 0.15 if "far" in request.node.name else 0.03
    theirs = scib.nmi_ari_cluster_labels_kmeans(x, label)
    for name in ("nmi", "ari"):
        print(f"{name}_kmeans {ours(e, name + '_kmeans'):.6f} {theirs[name]:.6f}")
        assert ours(e, f"{name}_kmeans") == pytest.approx(theirs[name], abs=close)


def test_pcr_comparison(scib, case):
    e, _, _, _ = case
    for m, x in e.z.items():
        value = evaluate(e, ["pcr_comparison"])[f"pcr_comparison[{m}]"]["value"]
        theirs = scib.pcr_comparison(e.own[m][1], x, e.batch[m], categorical=True)
        print(f"pcr_comparison {value:.6f} {theirs:.6f}")
        assert value == pytest.approx(theirs, abs=1e-3)
