"""Wall time of the pieces that training and evaluation spend theirs in.

    python -m pytest tests/benchmarks --benchmark-only

Skipped in an ordinary run. Each also checks its result, so that nothing is timed that is wrong.
"""

import numpy as np
import pytest
import torch
from step_setup import PAPER, loop_of, make_bundle, smoothed

from mocli.data.batches import dense_rows
from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import evaluate
from mocli.models.scmodal.params import ScmodalParams
from mocli.nn.alignment import soft_assignment
from mocli.nn.losses import gaussian_kernel, mutual_neighbors
from mocli.nn.neighbors import knn

B = 500


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("links", [32, 2500])
def test_step_paper(benchmark, links):
    _, stretch = loop_of(make_bundle(links), PAPER)
    terms = benchmark(stretch._step, 0)
    assert all(torch.isfinite(v) for v in terms.values())


@pytest.mark.parametrize("links", [32, 2500])
def test_step_default(benchmark, links):
    _, stretch = loop_of(smoothed(make_bundle(links)), ScmodalParams())
    terms = benchmark(stretch._step, 0)
    assert all(torch.isfinite(v) for v in terms.values())


@pytest.mark.parametrize("links", [32, 150, 2500])
def test_mutual_neighbors(benchmark, links):
    mask = benchmark(mutual_neighbors, normal(B, links), normal(B, links, seed=1), 30)
    assert 0 < int(mask.sum()) <= 30 * B


@pytest.mark.parametrize("links", [32, 2500])
def test_soft_assignment(benchmark, links):
    plan = benchmark(soft_assignment, normal(B, links), normal(B, links, seed=1), 0.1)
    assert float(plan.sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("width", [20, 3000])
def test_gaussian_kernel(benchmark, width):
    kernel = benchmark(gaussian_kernel, normal(B, width))
    assert torch.equal(kernel.diagonal(), torch.ones(B))


@pytest.mark.parametrize("links", [32, 2500])
def test_smoothed_links_of_a_minibatch(benchmark, links):
    (link,) = smoothed(make_bundle(links, n_cells=2000)).links
    x = benchmark(dense_rows, link.source_features, np.arange(B))
    assert x.shape == (B, links)


@pytest.mark.parametrize("k", [1, 15, 300])
def test_knn(benchmark, k):
    x = normal(5000, 20).numpy()
    distances, _ = benchmark(knn, x, x, k, exclude_self=True)
    assert (np.diff(distances) >= 0).all()


@pytest.mark.parametrize("name", ["foscttm", "label_transfer", "mixing", "silhouette"])
def test_metric(benchmark, name):
    n = 4000
    rows = np.arange(n)
    z = {m: normal(n, 20, seed=i).numpy() for i, m in enumerate("ab")}

    def compute():
        e = Embedding(
            z=z, label=dict.fromkeys("ab", rows % 10), pairs={("a", "b"): np.stack([rows, rows], 1)}
        )
        return evaluate(e, [name])

    found = benchmark(compute)
    assert all(entry["value"] is not None for entry in found.values())
