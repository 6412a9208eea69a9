"""k-means against scikit-learn, and where it has little to go by."""

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from mocli.nn.kmeans import kmeans


def run(x, k, seed=0):
    return kmeans(torch.from_numpy(x), k, generator=torch.Generator().manual_seed(seed))


def test_clusters_are_as_tight_as_those_of_scikit_learn():
    x = make_blobs(600, 5, centers=7, cluster_std=2.0, random_state=0)[0]
    found = run(x, 7)
    theirs = KMeans(7, n_init=10, random_state=0).fit(x)
    assert found.spread * len(x) <= theirs.inertia_ * 1.001
    centres = np.stack([x[found.nearest.numpy() == k].mean(0) for k in range(7)])
    np.testing.assert_allclose(found.centres, centres, atol=1e-9)
    distance = np.square(x[:, None] - centres).sum(2)
    np.testing.assert_array_equal(found.nearest, distance.argmin(1))


def test_the_seed_decides_every_byte():
    x = make_blobs(200, 3, random_state=1)[0].astype(np.float32)
    first, second = run(x, 5, 3), run(x, 5, 3)
    assert torch.equal(first.centres, second.centres)


def test_fewer_points_than_centres_and_equal_points():
    few = run(np.array([[0.0, 0.0], [1.0, 1.0]]), 4)
    assert few.centres.shape == (4, 2)
    assert few.spread == 0
    same = run(np.ones((30, 2)), 3)
    assert torch.equal(same.centres, torch.ones(3, 2, dtype=torch.float64))
