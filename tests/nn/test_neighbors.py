"""Neighbours against brute force, scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from mocli.nn import nearby as voronoi
from mocli.nn import neighbors, screening
from mocli.nn.neighbors import as_points, chunks, drawn_rows, knn, matched_distances, neighbor_mean, smooth


def brute(query, reference, k, metric="euclidean", exclude_self=False):
    """Order every row by (distance rounded to float32, index)."""
    query, reference = query.astype(float), reference.astype(float)
    if metric == "cosine":
        sizes = np.outer(np.linalg.norm(query, axis=1), np.linalg.norm(reference, axis=1))
        dots = query @ reference.T
        d = 1 - np.divide(dots, sizes, out=np.zeros_like(dots), where=sizes > 0)
    else:
        d = cdist(query, reference)
    if exclude_self:
        np.fill_diagonal(d, np.inf)
    d = d.astype(np.float32)
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(d, order, 1), order


@pytest.mark.parametrize("block", [None, 1, 7])
@pytest.mark.parametrize(
    ("metric", "d"), [("euclidean", 1), ("euclidean", 5), ("euclidean", 130), ("cosine", 2), ("cosine", 130)]
)
def test_equals_brute_force(metric, block, d):
    rng = np.random.default_rng(0)
    query, reference = rng.normal(size=(40, d)).astype("f4"), rng.normal(size=(60, d)).astype("f4")
    got_d, got_i = knn(query, reference, 9, metric=metric, block=block)
    want_d, want_i = brute(query, reference, 9, metric)
    np.testing.assert_array_equal(got_i, want_i)
    np.testing.assert_allclose(got_d, want_d, rtol=1e-5)
    assert got_d.dtype == np.float32
    assert got_i.dtype == np.int64


@pytest.mark.parametrize("case", ["spread", "tight", "lattice", "huge", "tiny"])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_candidates_of_float32_change_nothing(case, exclude_self):
    """Where float32 cannot tell the nearest apart, and where it can, neighbours are those of float64."""
    rng = np.random.default_rng(2)
    x = {
        "spread": lambda: rng.normal(size=(600, 8)),
        "tight": lambda: (
            1000.0 * rng.normal(size=(3, 8))[rng.integers(0, 3, 600)] + rng.normal(size=(600, 8))
        ),
        "lattice": lambda: rng.integers(0, 4, size=(600, 3)),
        "huge": lambda: 1e30 * rng.normal(size=(600, 8)),
        "tiny": lambda: 1e-30 * rng.normal(size=(600, 8)),
    }[case]().astype("f4")
    q, r = screening.Points.of(*as_points(x, x, metric="euclidean", device="cpu"))
    own_row = torch.arange(600) if exclude_self else None
    values, index = screening.nearest_points(q, r, 20, own_row)
    d = screening.distances_between(q.exact, r.exact)
    if exclude_self:
        d.fill_diagonal_(torch.inf)
    want, rows = screening.smallest(d, 20)
    assert torch.equal(values, want)
    assert torch.equal(index, rows)


def test_equals_scikit_learn_without_self():
    x = np.random.default_rng(1).normal(size=(300, 20)).astype("f4")
    want_d, want_i = NearestNeighbors(n_neighbors=15, algorithm="brute").fit(x).kneighbors()
    got_d, got_i = knn(x, x, 15, exclude_self=True, block=64)
    np.testing.assert_array_equal(got_i, want_i)
    np.testing.assert_allclose(got_d, want_d, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ties_take_the_lowest_rows(data):
    """Points on a lattice: nearly every distance occurs more than once."""
    n, d = data.draw(st.integers(1, 25)), data.draw(st.integers(1, 3))
    cells = st.lists(st.integers(-2, 2), min_size=n * d, max_size=n * d)
    x = np.array(data.draw(cells), dtype="f4").reshape(n, d)
    k, metric = data.draw(st.integers(1, 30)), data.draw(st.sampled_from(["euclidean", "cosine"]))
    alone = data.draw(st.booleans())
    got_d, got_i = knn(x, x, k, metric=metric, exclude_self=alone, block=data.draw(st.integers(1, 30)))
    k = min(k, n - alone)
    assert got_i.shape == got_d.shape == (n, k)
    want_d, want_i = brute(x, x, k, metric, alone)
    np.testing.assert_allclose(got_d, want_d, atol=1e-6)
    if metric == "euclidean":
        np.testing.assert_array_equal(got_i, want_i)


def test_all_equal_rows_come_in_order():
    x = np.full((50, 4), 3.7, dtype="f4")
    distances, indices = knn(x, x, 5)
    np.testing.assert_array_equal(indices, np.tile(np.arange(5), (50, 1)))
    assert not distances.any()
    _, others = knn(x, x, 3, exclude_self=True)
    np.testing.assert_array_equal(others[:4], [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def test_duplicate_far_from_the_origin_is_at_distance_zero():
    x = np.random.default_rng(2).normal(1e4, 1, size=(200, 20)).astype("f4")
    x[150] = x[3]
    distances, indices = knn(x, x, 2)
    assert indices[150].tolist() == [3, 150]
    assert not distances[150].any()


def test_zero_rows_have_cosine_zero_to_all():
    x = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [1e-30, 0]], dtype="f4")
    distances, indices = knn(x, x, 5, metric="cosine")
    assert indices[0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(distances[0], 1, rtol=1e-6)
    assert indices[1].tolist() == [1, 2, 4, 0, 3]
    np.testing.assert_allclose(distances[1], [0, 0, 0, 1, 1], atol=1e-6)


def test_k_is_capped_and_empty_sets_give_empty_answers():
    x = np.ones((1, 2), dtype="f4")
    assert knn(x, x, 5)[1].shape == (1, 1)
    assert knn(x, x, 5, exclude_self=True)[1].shape == (1, 0)
    assert knn(x[:0], x, 5)[1].shape == (0, 1)
    assert knn(x, x[:0], 5)[1].shape == (1, 0)


def test_refuses_what_has_no_distance():
    x = np.ones((3, 2), dtype="f4")
    with pytest.raises(ValueError, match="finite"):
        knn(np.array([[np.nan, 1]]), x, 1)
    with pytest.raises(ValueError, match="rows of one length"):
        knn(x, x[:, :1], 1)
    with pytest.raises(ValueError, match="one set of rows"):
        knn(x, x[:2], 1, exclude_self=True)


def test_matched_distances_equal_brute_force():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(70, 4)).astype("f4")
    b = (a + rng.normal(size=a.shape)).astype("f4")
    a[9], b[9] = a[8], b[8]  # duplicated pairs: one half each
    got, d = matched_distances(a, b, block=16), cdist(a, b)
    own = np.diag(d)
    tied = 0.5 * np.isin(np.arange(70), (8, 9))
    closer_b = [sum(d[i, j] < own[i] - 1e-6 for j in range(70)) for i in range(70)] + tied
    closer_a = [sum(d[j, i] < own[i] - 1e-6 for j in range(70)) for i in range(70)] + tied
    np.testing.assert_array_equal(got.closer_in_b, closer_b)
    np.testing.assert_array_equal(got.closer_in_a, closer_a)
    np.testing.assert_allclose(got.own, own, rtol=1e-6)
    np.testing.assert_allclose(got.mean_to_b, d.mean(1), rtol=1e-6)
    np.testing.assert_allclose(got.mean_to_a, d.mean(0), rtol=1e-6)
    with pytest.raises(ValueError, match="in pairs"):
        matched_distances(a, b[:3])


def test_no_partner_is_closer_than_itself_by_rounding():
    """Far from the mean and close together, where |q|^2 + |r|^2 - 2 qr loses digits."""
    a = np.random.default_rng(4).normal(scale=1e3, size=(500, 20))
    got = matched_distances(a, a + 1e-2)
    assert not got.closer_in_a.any()
    assert not got.closer_in_b.any()


def test_smooth_by_hand():
    x = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 11.0]])
    neighbors = np.array([[1, 2], [0, 2], [0, 1]])
    np.testing.assert_allclose(neighbor_mean(x, neighbors), [[3, 7], [2, 6], [1, 2]])
    np.testing.assert_allclose(smooth(x, neighbors, 0.5), [[1.5, 4], [2, 4.5], [2.5, 6.5]])
    np.testing.assert_allclose(smooth(x, neighbors, 0.0), x)
    np.testing.assert_array_equal(smooth(x, neighbors[:, :0], 0.9), x)
    assert smooth(x.astype("f4"), neighbors, 0.9).dtype == np.float32
    with pytest.raises(ValueError, match="0 to 1"):
        smooth(x, neighbors, 1.5)
    with pytest.raises(ValueError, match="no neighbours"):
        neighbor_mean(x, neighbors[:, :0])


def test_chunks_cover_everything_once():
    assert [(s.start, s.stop) for s in chunks(7, 3)] == [(0, 3), (3, 6), (6, 7)]
    assert list(chunks(0, 3)) == []


@pytest.mark.parametrize("k", [1, 7, 90])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("coarse", [False, True])
def test_a_long_reference_is_searched_piece_by_piece(monkeypatch, k, metric, exclude_self, coarse):
    rng = np.random.default_rng(k)
    r = rng.normal(size=(700, 4)).astype("f4")
    r = np.round(r) if coarse else r  # many points alike: ties at the k-th place, and zeros
    q = r if exclude_self else rng.normal(size=(150, 4)).astype("f4")
    expected = knn(q, r, k, metric=metric, exclude_self=exclude_self)
    for name, value in (("_LONG", 100), ("_PIECE", 64), ("_ROWS", 60)):
        monkeypatch.setattr(neighbors, name, value)
    found = knn(q, r, k, metric=metric, exclude_self=exclude_self)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_many_rows_are_searched_nearly_exactly(metric, monkeypatch):
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(12, 8))[rng.integers(0, 12, 3000)] * 2 + rng.normal(size=(3000, 8))).astype("f4")
    monkeypatch.setattr(voronoi, "EXACT", 100)
    found, truth = voronoi.nearby(x, x, 16, metric=metric), knn(x, x, 16, metric=metric)
    shared = [len(np.intersect1d(a, b)) / 16 for a, b in zip(found[1], truth[1], strict=True)]
    assert np.mean(shared) >= 0.95
    np.testing.assert_array_equal(found[1][:, 0], np.arange(3000))  # a row finds itself
    assert (np.diff(found[0], axis=1) >= 0).all()
    again = voronoi.nearby(x, x, 16, metric=metric)
    np.testing.assert_array_equal(found[1], again[1])
    few = voronoi.nearby(x[:50], x[:90], 5)  # few rows: exactly
    np.testing.assert_array_equal(few[1], knn(x[:50], x[:90], 5)[1])


def test_no_query_and_no_neighbour_wanted_give_empty_answers_among_many_rows(monkeypatch):
    x = np.random.default_rng(0).normal(size=(300, 3)).astype("f4")
    monkeypatch.setattr(voronoi, "EXACT", 100)
    assert [found.shape for found in voronoi.nearby(x[:0], x, 5)] == [(0, 5), (0, 5)]
    assert [found.shape for found in voronoi.nearby(x, x, 0)] == [(300, 0), (300, 0)]


def test_rows_are_drawn_in_order_by_seed_and_none_where_there_is_room():
    assert drawn_rows(5, 5, seed=0).tolist() == [0, 1, 2, 3, 4]
    rows = np.array([3, 8, 21])
    assert drawn_rows(rows, 3, seed=0) is rows
    expected = np.sort(np.random.default_rng(7).choice(100, 10, replace=False))
    assert drawn_rows(np.int64(100), 10, seed=7).tolist() == expected.tolist()
    assert drawn_rows(np.arange(100) * 2, 10, seed=7).tolist() == (2 * expected).tolist()
    rng = np.random.default_rng(7)
    assert drawn_rows(100, 10, seed=rng).tolist() == expected.tolist()
    assert drawn_rows(100, 10, seed=rng).tolist() != expected.tolist()


@pytest.mark.parametrize("n", [200, 21_000])
def test_coordinates_that_are_searched_stay_as_they_are(n):
    # the search centres and sorts copies of its own in place
    x = np.random.default_rng(0).normal(3.0, 1.0, (n, 3))
    before = x.copy()
    voronoi.nearby(x[:50], x, 5)
    voronoi.nearby(x, x, 5)
    np.testing.assert_array_equal(x, before)
