"""The picture: quick without a compilation, and as true to neighbourhoods as umap-learn's."""

import time
import warnings

import anndata
import mudata
import numpy as np
import pytest

from mocli.nn.neighbors import knn
from mocli.tasks.score import picture
from mocli.tasks.score.picture import fuzzy_graph, layout


def groups(n, d=20, kinds=12, seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, kinds, n)
    return kind, (rng.normal(size=(kinds, d))[kind] * 1.5 + rng.normal(size=(n, d))).astype("f4")


def kept(z, xy, k=15):
    """Share of a cell's nearest cells by correlation that are its nearest in the picture."""
    centred = z - z.mean(1, keepdims=True)
    before = knn(centred, centred, k, metric="cosine", exclude_self=True)[1]
    after = knn(xy, xy, k, exclude_self=True)[1]
    return np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(before, after, strict=True)])


def test_groups_lie_apart_and_the_same_seed_gives_the_same_picture():
    kind, z = groups(400)
    xy = layout(z, seed=0)
    assert (xy.shape, xy.dtype) == ((400, 2), np.float32)
    near = knn(xy, xy, 10, exclude_self=True)[1]
    assert (kind[near] == kind[:, None]).mean() > 0.95
    assert kept(z, xy) > 5 * 15 / 400
    np.testing.assert_array_equal(xy, layout(z, seed=0))


def test_memberships_are_those_of_the_paper():
    _, z = groups(60)
    apart, near = knn(z, z, 16)
    graph = fuzzy_graph(near, apart)
    assert (abs(graph - graph.T)).max() < 1e-12
    assert 0 < graph.data.min() <= graph.data.max() <= 1
    assert graph.diagonal().max() == 0
    assert np.asarray(graph.max(1).todense()).ravel() == pytest.approx(1)  # of the nearest cell


def test_cells_looked_at_some_at_a_time_have_the_same_graph(monkeypatch):
    x = np.random.default_rng(0).normal(size=(70, 4))
    distances, neighbors = knn(x, x, 9)
    whole = fuzzy_graph(neighbors, distances)
    monkeypatch.setattr(picture, "ROWS", 16)
    parts = fuzzy_graph(neighbors.astype(np.int32), distances)
    assert (whole != parts).nnz == 0
    assert (whole != whole.T).nnz == 0


def test_more_cells_than_are_laid_out_lie_among_their_neighbours(monkeypatch):
    kind, z = groups(500)
    monkeypatch.setattr(picture, "MOST_PLACED", 200)
    xy = layout(z, seed=0)
    assert np.isfinite(xy).all()
    near = knn(xy, xy, 10, exclude_self=True)[1]
    assert (kind[near] == kind[:, None]).mean() > 0.9


@pytest.mark.parametrize(
    "z", [np.zeros((50, 3)), np.arange(20.0).reshape(10, 2), np.ones((1, 4)), np.eye(30, 1)]
)
def test_awkward_cells_have_coordinates(z):
    xy = layout(z.astype("f4"), seed=0)
    assert xy.shape == (len(z), 2)
    assert np.isfinite(xy).all()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    "file", ["citeseq_pbmc10x_2batch.h5mu", "citeseq_bmmc_134adt.h5mu", "kang_ifnb_pbmc_labelled.h5ad"]
)
def test_as_many_neighbours_are_kept_as_by_umap_learn(shared_data, file):
    umap = pytest.importorskip("umap")
    path = shared_data / file
    cells = mudata.read_h5mu(path)["rna"] if file.endswith("h5mu") else anndata.read_h5ad(path)
    counts = cells.layers.get("counts", cells.X)
    x = np.asarray(counts.toarray() if hasattr(counts, "toarray") else counts, np.float64)
    x = x[np.random.default_rng(0).permutation(len(x))[:2000]]
    x = np.log1p(1e3 * x / x.sum(1, keepdims=True))
    x = x[:, np.argsort(-x.var(0))[:1000]]
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    z = (u * s)[:, :30].astype("f4")
    begun = time.perf_counter()
    ours = kept(z, layout(z, seed=0))
    took = time.perf_counter() - begun
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapper = umap.UMAP(n_neighbors=30, min_dist=0.3, metric="correlation", random_state=0, n_jobs=1)
        begun = time.perf_counter()
        theirs = kept(z, mapper.fit_transform(z))
    print(f"\n{file}: {len(z)} cells, kept {ours:.3f} in {took:.1f} s; "
          f"umap-learn {theirs:.3f} in {time.perf_counter() - begun:.1f} s")  # fmt: skip
    assert ours > theirs - 0.03
