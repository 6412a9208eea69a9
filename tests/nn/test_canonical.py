"""Canonical maps against their definition."""

import numpy as np
import pytest
import torch

from mocli.nn.alignment import align, canonical_maps, column_correlations
from mocli.nn.alignment_settings import AlignmentSettings


def test_with_known_pairs_the_maps_are_canonical_correlation():
    from sklearn.cross_decomposition import CCA

    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 2))
    a = np.hstack([shared + 0.3 * rng.normal(size=(300, 2)), rng.normal(size=(300, 3))])
    b = np.hstack([rng.normal(size=(300, 2)), shared + 0.3 * rng.normal(size=(300, 2))])
    plan = torch.eye(300) / 300
    maps, shifts, r = canonical_maps(
        [torch.from_numpy(a).float(), torch.from_numpy(b).float()], {(0, 1): plan}, 2, ridge=1e-6
    )
    u, v = CCA(2).fit_transform(a, b)
    expected = [abs(np.corrcoef(u[:, k], v[:, k])[0, 1]) for k in range(2)]
    np.testing.assert_allclose(r, sorted(expected, reverse=True), atol=2e-3)
    za, zb = (torch.from_numpy(x).float() @ w - s for x, w, s in zip((a, b), maps, shifts, strict=True))
    torch.testing.assert_close(column_correlations(za, zb), r, atol=2e-3, rtol=0)
    # of variance r^2, around 0
    torch.testing.assert_close(za.std(0, correction=0), r, atol=2e-3, rtol=0)
    assert za.mean(0).abs().max() < 1e-5


def test_a_chain_of_three_brings_its_ends_together():
    torch.manual_seed(4)
    z = torch.randn(200, 3)
    sets = [z @ torch.randn(3, 6) + 0.05 * torch.randn(200, 6) for _ in range(3)]
    plan = torch.eye(200) / 200
    maps, shifts, r = canonical_maps(sets, {(0, 1): plan, (1, 2): plan}, 3, ridge=0.001)
    first, _, last = (x @ w - s for x, w, s in zip(sets, maps, shifts, strict=True))
    assert column_correlations(first, last).min() > 0.95
    assert r.shape == (3,)
    assert 0.95 < float(r.min()) <= float(r.max()) <= 1


@pytest.mark.parametrize("n_sets", [3, 4])
def test_a_set_of_noise_lies_near_the_origin(n_sets):
    torch.manual_seed(5)
    z = torch.randn(300, 3)
    sets = [z @ torch.randn(3, 6) + 0.3 * torch.randn(300, 6) for _ in range(n_sets - 1)]
    plan = torch.eye(300) / 300
    alone = {(i, j): plan for i in range(n_sets - 1) for j in range(i)}
    beside = alone | {(i, n_sets - 1): plan for i in range(n_sets - 1)}
    _, _, r = canonical_maps(sets, alone, 3, ridge=0.001)
    assert 0.9 < float(r.min()) <= float(r.max()) <= 1
    sets.append(torch.randn(300, 6))
    maps, shifts, r = canonical_maps(sets, beside, 3, ridge=0.001)
    assert float(r.max()) <= (n_sets - 1) / n_sets  # of all couplings' sum
    *true, noise = (
        (x @ w - s).square().sum(1).mean().sqrt() for x, w, s in zip(sets, maps, shifts, strict=True)
    )
    assert float(noise) < 0.3 * min(map(float, true))


def test_correlations_stay_below_one_where_cells_take_part_in_one_coupling_only():
    torch.manual_seed(6)
    x = torch.randn(40, 2)
    left, right = torch.zeros(40), torch.zeros(40)
    left[:20], right[20:] = 1 / 20, 1 / 20
    plans = {(0, 1): torch.diag(left), (1, 2): torch.diag(right)}
    _, _, r = canonical_maps([x, x, x], plans, 2, ridge=1e-6)
    assert float(r.max()) <= 1 + 1e-6


def test_features_without_variance_leave_the_maps_finite():
    a, b = torch.zeros(12, 4), torch.randn(12, 3)
    maps, shifts, r = canonical_maps([a, b], {(0, 1): torch.full((12, 12), 1 / 144)}, 5, ridge=0.01)
    assert all(torch.isfinite(x).all() for x in (*maps, *shifts, r))
    assert r.shape == (3,)


@pytest.mark.parametrize("scale", [1e-20, 1, 1e12])
def test_correlations_do_not_depend_on_the_unit_and_constants_have_none(scale):
    torch.manual_seed(7)
    a = torch.randn(50, 3)
    b = a + torch.randn(50, 3)
    a[:, 2], b[0, 1] = 0.3, 5
    expected = [np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(2)]
    np.testing.assert_allclose(column_correlations(scale * a, b), [*expected, 0], atol=1e-5)


@pytest.mark.parametrize("uneven", [True, False])
def test_partners_are_shared_out_unevenly_where_links_say_that_compositions_differ(uneven):
    """Three kinds of cells; the first is common in one set and rare in the other, or not."""
    rng = np.random.default_rng(0)
    shares = ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6]) if uneven else ([0.4, 0.3, 0.3], [0.4, 0.3, 0.3])
    programs = rng.normal(size=(3, 20))
    kinds, points, links = [], [], []
    for share in shares:
        kind = rng.choice(3, 400, p=share)
        state = np.eye(3)[kind] * 2 + 0.3 * rng.normal(size=(400, 3))
        link = state @ programs + rng.normal(size=(400, 20))
        kinds.append(kind)
        points.append(
            torch.tensor(state @ rng.normal(size=(3, 15)) + 0.3 * rng.normal(size=(400, 15))).float()
        )
        links.append(torch.tensor((link - link.mean(0)) / link.std(0)).float())

    def right(settings):
        alignment = align(points, {(0, 1): tuple(links)}, settings, torch.Generator().manual_seed(0))
        nearest = (alignment.place(1, points[1]) @ alignment.place(0, points[0]).T).argmax(1).numpy()
        (evenness,) = alignment.evenness
        return evenness, float((kinds[0][nearest] == kinds[1]).mean())

    evenness, chosen = right(AlignmentSettings())
    assert right(AlignmentSettings(evenness=1))[0] == 1
    if uneven:
        assert evenness < 1
        assert chosen > right(AlignmentSettings(evenness=1))[1] + 0.1
    else:
        assert evenness == 1
