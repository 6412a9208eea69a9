"""Our metrics beside scib-metrics, an independent implementation of three of them.

Needs scib-metrics, which is no dependency: `pip install scib-metrics`, then
`python -m pytest -m slow tests/metrics/test_scib_oracle.py -rs`.
"""

import warnings

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from mocli.metrics.registry import Embedding, evaluate

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
    return Embedding(z=z, label=label)


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
