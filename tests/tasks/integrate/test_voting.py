"""The coordinates in which training cells vote on a query: chosen by what these cells say of each other."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

from mocli.data.bundle import Codes, FeatureMatrix, Modality, MultiOmics
from mocli.metrics.label_votes import left_out_share, vote
from mocli.tasks.integrate.voting import LATENT, RIDGE, Voting, best_voting, own_places, votings
from mocli.tasks.trained.atlas import Atlas, OwnComponents
from mocli.types import ModalityKind, Pairing

TYPES, N_GENES = 4, 120


def expression(n, *, seed):
    """Counts of genes `(n, p)` and types; a sixth of the genes is of one type each."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, TYPES, n)
    rate = np.full((TYPES, N_GENES), 2.0)
    for t in range(TYPES):
        rate[t, t * 20 : (t + 1) * 20] = 6.0
    depth = rng.uniform(0.5, 2.0, (n, 1))
    return rng.poisson(rate[codes] * depth).astype(np.float32), codes


def modality(x):
    names = tuple(map(str, range(x.shape[1])))
    cells = tuple(map(str, range(len(x))))
    return Modality("rna", ModalityKind.RNA, FeatureMatrix(x, names), cells, x.sum(1), "nb")


def voted(voting):
    return vote(voting.z, voting.places, voting.codes, n_levels=TYPES).best


def spaces_of(latent_of_training, latent_of_query, seed=0):
    """Spaces of 200 training cells and 100 of a query, and the types of these."""
    (x, codes), (new, truth) = expression(200, seed=seed), expression(100, seed=seed + 1)
    own = OwnComponents.fit(modality(x), np.arange(200), seed=0)
    placed = own.place(modality(new), np.arange(100))
    z, z_new = latent_of_training(codes), latent_of_query(truth)
    latent = Voting(LATENT, z, codes, z_new, 0.0)
    return votings(latent, z, own.scores, placed, np.arange(15), n_levels=TYPES, seed=0), truth


def noise(n, seed):
    return np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


def atlas_of(n, own):
    return Atlas(noise(n, 0), Codes("group", np.zeros(n, np.int64), ("rna",)), n, own={"rna": own})


def test_a_latent_that_knows_its_training_cells_by_heart_does_not_vote():
    spaces, truth = spaces_of(lambda c: 9 * np.eye(TYPES, 6)[c] + noise(200, 1), lambda _: noise(100, 2))
    assert spaces[0].right == 1.0
    assert (voted(spaces[0]) == truth).mean() < 0.5
    chosen = best_voting(spaces)
    assert chosen.name != LATENT
    assert (voted(chosen) == truth).mean() > 0.9


def test_a_latent_that_tells_far_more_apart_votes():
    latent = Voting(LATENT, noise(60, 0), np.arange(60) % TYPES, noise(5, 1), 0.80)
    other = latent._replace(name="components", right=0.70)
    assert best_voting([latent, other]) is latent
    assert best_voting([latent, other._replace(right=0.76)]).name == "components"
    assert best_voting([latent]) is latent


def test_the_latent_by_components_is_a_ridge_regression_on_cells_left_out():
    spaces, _ = spaces_of(
        lambda c: np.eye(TYPES, 6)[c].astype(np.float32) + noise(200, 1), lambda _: noise(100, 2)
    )
    own, by_components = spaces[2], spaces[3]
    penalty = RIDGE * np.square(own.places - own.places.mean(0)).sum() / own.places.shape[1]
    z = spaces[0].places
    expected = Ridge(penalty).fit(own.places, z).predict(own.z)
    np.testing.assert_allclose(by_components.z, expected, atol=1e-4)
    fitted = Ridge(penalty).fit(own.places, z).predict(own.places)
    # cells left out are further from their latent than those that were fitted
    assert np.square(by_components.places - z).mean() > 1.1 * np.square(fitted - z).mean()


def test_only_the_latent_votes_where_a_label_has_no_cell_with_all_modalities():
    codes = np.arange(40) % TYPES
    kept = noise(40, 0)
    kept[codes == 3] = np.nan
    latent = Voting(LATENT, noise(40, 1), codes, noise(5, 2), 0.0)
    assert votings(latent, latent.places, kept, noise(5, 3), np.arange(3), n_levels=TYPES, seed=0) == [latent]
    kept[:] = noise(40, 0)
    assert len(votings(latent, latent.places, kept, noise(5, 3), np.arange(3), n_levels=TYPES, seed=0)) == 4


def test_a_cell_lies_in_components_where_it_lay_in_training_also_after_a_saved_model_is_read():
    x, _ = expression(60, seed=0)
    rows = np.array([3, -1, 10])
    own = OwnComponents.fit(modality(x), rows, seed=0)
    assert np.isnan(own.scores[1]).all()
    atlas = atlas_of(3, own)
    again = Atlas.from_state(*atlas.state()).own["rna"]
    np.testing.assert_array_equal(again.scores, own.scores)
    np.testing.assert_allclose(again.place(modality(x), np.array([3, 10])), own.scores[[0, 2]], atol=1e-5)
    # counts twice as deep lie at the same place
    np.testing.assert_allclose(again.place(modality(2 * x), np.array([3])), own.scores[[0]], atol=1e-4)


def test_a_query_of_which_some_cells_lack_a_modality_has_no_components():
    x, _ = expression(30, seed=0)
    m = modality(x)
    own = OwnComponents.fit(m, np.arange(30), seed=0)
    atlas = atlas_of(30, own)
    rows = np.arange(30)[:, None]
    whole = MultiOmics({"rna": m}, rows, m.obs_names, Pairing.PAIRED)
    places = own_places(atlas, whole, ["rna"])
    assert places is not None
    np.testing.assert_allclose(places.query["rna"], places.kept, atol=1e-5)
    assert np.square(places.kept - places.kept.mean(0)).sum() / 30 == pytest.approx(1, abs=1e-3)
    rows = np.where(rows == 4, -1, rows)
    assert own_places(atlas, MultiOmics({"rna": m}, rows, m.obs_names, Pairing.MOSAIC), ["rna"]) is None
    assert own_places(replace(atlas, own={}), whole, ["rna"]) is None


def test_the_share_right_equals_a_loop_over_cells():
    z, codes = (
        noise(50, 0) + 2 * np.eye(TYPES, 6)[np.arange(50) % TYPES].astype(np.float32),
        np.arange(50) % TYPES,
    )
    distances = cdist(z, z)
    right = 0
    for i in range(50):
        others = np.delete(np.arange(50), i)
        nearest = others[np.argsort(distances[i, others])[:15]]
        weight = np.exp(-0.5 * np.square(distances[i, nearest] / distances[i, nearest[-1]]))
        right += np.bincount(codes[nearest], weight, TYPES).argmax() == codes[i]
    assert left_out_share(z, codes, n_levels=TYPES) == pytest.approx(right / 50)
    assert left_out_share(z[:1], codes[:1], n_levels=TYPES) == 0.0
