"""The coordinates in which training cells vote on the labels of a query's cells.

The latent of a cell that was trained on is no measure of that of a new one: encoders of few cells know them
by heart. So training cells are asked in coordinates that are as honest for them as for a query: principal
components of the modalities that the query has, and the latent as a ridge regression on these gives it to
cells that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mocli.data.bundle import MultiOmics
from mocli.metrics.label_votes import left_out_share
from mocli.tasks.trained.atlas import Atlas
from mocli.types import FloatArray, IntArray

LATENT = "latent"
LEADING = 15
"""Components that hardly hold noise of single cells."""
FOLDS = 5
RIDGE = 0.1
"""Penalty over the mean variance of a component."""
OPTIMISM = 0.05
"""Share of training cells by which the latent must label more of them to be preferred: it was fitted to
them."""


class Voting(NamedTuple):
    """Training cells that vote and cells that they vote on, in one space.

    Attributes:
        places, codes: `(m, d)` and `(m,)`.
        z: `(n, d)`.
        right: Share of the training cells that the others label right.
    """

    name: str
    places: FloatArray
    codes: IntArray
    z: FloatArray
    right: float


class OwnPlaces(NamedTuple):
    """Components of all modalities that a query has, side by side.

    Attributes:
        kept: `(n_kept, k)`, of the training cells; NaN where one was not measured.
        query: By modality, of its rows, `(n_obs, k)`.
        leading: Which of the columns are among the first of their modality, `(k,)`.
    """

    kept: FloatArray
    query: Mapping[str, FloatArray]
    leading: IntArray


def own_places(atlas: Atlas, bundle: MultiOmics, measured: Sequence[str]) -> OwnPlaces | None:
    """Place a query's cells by their own values.

    Every modality has the same total variance. None where the model keeps no components, or where some of
    the cells lack a modality that others have.
    """
    columns = [list(bundle.modalities).index(name) for name in measured]
    rows = bundle.rows[:, columns]
    if not set(measured) <= set(atlas.own) or (rows < 0).any():
        return None
    kept, query, leading, width = [], [], [], 0
    for name, own_rows in zip(measured, rows.T, strict=True):
        own = atlas.own[name]
        size = float(np.sqrt(np.nansum(np.nanvar(own.scores, axis=0)))) or 1.0
        kept.append(own.scores / size)
        query.append(own.place(bundle.modalities[name], own_rows) / size)
        leading.append(width + np.arange(min(LEADING, own.scores.shape[1])))
        width += own.scores.shape[1]
    cells = np.concatenate(query, axis=1)
    by_modality = {}
    for name, own_rows in zip(measured, rows.T, strict=True):
        by_modality[name] = np.empty((bundle.modalities[name].n_obs, width), np.float32)
        by_modality[name][own_rows] = cells
    return OwnPlaces(np.concatenate(kept, axis=1), by_modality, np.concatenate(leading))


def votings(
    latent: Voting,
    whole: FloatArray,
    kept: FloatArray,
    query: FloatArray,
    leading: IntArray,
    *,
    n_levels: int,
    seed: int,
) -> list[Voting]:
    """Return the spaces to vote in, the latent first.

    Args:
        latent: The vote in the latent.
        whole: Latent of its voters by all that was measured of them, `(m, d)`.
        kept, query: Components of its voters `(m, k)`, and of the cells that they vote on, `(n, k)`.
        leading: The first columns of every modality.
    """
    measured = np.isfinite(kept).all(1)
    codes = latent.codes[measured]
    if set(codes.tolist()) != set(latent.codes.tolist()) or len(codes) <= FOLDS:
        return [latent]
    x = kept[measured]
    # of equals the first is taken, which holds least noise
    spaces = {
        f"first {LEADING} components": (x[:, leading], query[:, leading]),
        "components": (x, query),
        "latent by components": _by_components(x, whole[measured], query, seed=seed),
    }
    right = left_out_share(latent.places[measured], codes, n_levels=n_levels)
    return [latent._replace(right=right)] + [
        Voting(name, places, codes, of_query, left_out_share(places, codes, n_levels=n_levels))
        for name, (places, of_query) in spaces.items()
    ]


def best_voting(spaces: Sequence[Voting]) -> Voting:
    """Choose the space in which left-out training cells are labelled best, the latent if clearly better."""
    latent, *others = spaces
    best = max(others, key=lambda space: space.right, default=latent)
    return latent if latent.right > best.right + OPTIMISM else best


def _by_components(
    x: FloatArray, z: FloatArray, query: FloatArray, *, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Return the latent as it follows from components, of training cells left out in folds and of a query."""
    fold = np.empty(len(x), np.int64)
    fold[np.random.default_rng(seed).permutation(len(x))] = np.arange(len(x)) % FOLDS
    places = np.empty_like(z)
    for k in range(FOLDS):
        places[fold == k] = _ridge(x[fold != k], z[fold != k], x[fold == k])
    return places, _ridge(x, z, query)


def _ridge(x: FloatArray, z: FloatArray, new: FloatArray) -> FloatArray:
    from sklearn.linear_model import Ridge

    penalty = max(RIDGE * len(x) * float(x.var(0).mean()), 1e-9)
    return np.asarray(Ridge(penalty).fit(x.astype(np.float64), z).predict(new), np.float32)
