"""Give simulated cells the correlations of real ones: normal scores, and margins.

A value stands for a span of a standard normal variable, wide where many cells share it. Where a cell lies in
its span is drawn (as with the extended rank likelihood: Hoff, Ann Appl Stat 1:265, 2007,
doi:10.1214/07-AOAS107), given two cues: what the cells nearest to it have, and its total, as depth makes all
features of shallow cells go together. In random order equal values would take correlations between features,
and between modalities, down; in the order of a cue they would take them up.

How much a cue says follows from the values: with s the mean of the normal variable g over a value's span, and
a cue that depends on the value through g alone, cov(cue, g) is cov(cue, s) / var(s).

A likelihood draws the features of a cell one by one, given its latent coordinates: what real cells have in
common beyond these is lost. Here every simulated cell of a group becomes, feature by feature in normal
scores, a combination of real cells of the group that lie near it in the latent. Its weights sum to 1, and so
do their squares: the combination has the mean and the covariance of the cells combined. The values drawn for
the group are then given out anew, so that each feature's ranks are those of the scores (Iman and Conover,
Commun Stat B 11:311, 1982): margins are those of the likelihood, or of the real cells of the group. All
modalities of a cell share the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from scipy import sparse
from scipy.special import ndtr, ndtri

from mocli.data.batches import dense_rows, densify
from mocli.errors import InputError
from mocli.nn.neighbors import chunks, knn, unit_rows
from mocli.report.figures import plural
from mocli.tasks.infer.align import Aligned, align, find_modality
from mocli.tasks.infer.decoder import is_counted, likelihood_of
from mocli.tasks.simulate.groups import atlas_of
from mocli.tasks.simulate.work import Simulated, all_values
from mocli.tasks.trained.saved import SavedModel
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

EXPLAINED = 0.9
"""Most of a feature's variance that cues are taken to explain."""
APART = 0.05
"""Least share of a cue's variance that the other one does not have, so that slopes stay finite."""


def spans(values: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Return the share of cells with less, and with no more, than each value of a column, `(n, p)` each."""
    n, p = values.shape
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, axis=0)
    place, step = np.arange(n)[:, None], ordered[1:] != ordered[:-1]
    edge = np.ones((1, p), bool)
    first = np.maximum.accumulate(np.where(np.vstack([edge, step]), place, 0), axis=0)
    last = np.minimum.accumulate(np.where(np.vstack([step, edge]), place + 1, n)[::-1], axis=0)[::-1]
    below, within = np.empty((n, p)), np.empty((n, p))
    np.put_along_axis(below, order, first / n, axis=0)
    np.put_along_axis(within, order, last / n, axis=0)
    return below, within


def normal_scores(values: DoubleArray, nearby: CSR, total: DoubleArray, rng: Generator) -> DoubleArray:
    """Return scores of each column of values, about a standard normal variable, `(n, p)`.

    Args:
        values: `(n, p)`: scores have their order.
        nearby: Weights of the cells near each, `(n, n)`, as `means_nearby` gives them.
        total: Sum of each cell's values over all features, `(n,)`.
    """
    n = len(values)
    below, within = spans(values)
    lower, upper = ndtri(below), ndtri(within)
    middle = (_density(lower) - _density(upper)) / (within - below)
    variance = np.maximum(np.square(middle).mean(0), 1e-9)
    near = _standard(np.asarray(nearby @ middle))
    less_deep, as_deep = spans(total[:, None])
    depth = _standard(ndtri((less_deep + as_deep) / 2))

    noise = 1 / (n * variance)
    # a cell's neighbours are not less like it than others are
    by_near = np.maximum(pooled((near * middle).mean(0) / variance, noise), 0)
    by_depth = pooled((depth * middle).mean(0) / variance, noise)
    common = (near * depth).mean(0)
    alone = np.maximum(1 - np.square(common), APART)
    slope_near, slope_depth = (by_near - common * by_depth) / alone, (by_depth - common * by_near) / alone
    explained = slope_near * by_near + slope_depth * by_depth
    less = np.sqrt(np.minimum(1, EXPLAINED / np.maximum(explained, 1e-9)))
    mean = (slope_near * near + slope_depth * depth) * less
    deviation = np.sqrt(1 - np.clip(explained * less**2, 0, EXPLAINED))

    low, high = ndtr((lower - mean) / deviation), ndtr((upper - mean) / deviation)
    drawn = low + (high - low) * rng.random(values.shape)
    scores: DoubleArray = mean + deviation * ndtri(np.clip(drawn, 1e-12, 1 - 1e-12))
    return scores


def pooled(estimates: DoubleArray, noise: DoubleArray) -> DoubleArray:
    """Draw noisy numbers `(p,)` to their common mean, as much as their noise says.

    `noise`: the variance of each. How much the numbers differ beyond it is estimated by moments
    (DerSimonian and Laird, Control Clin Trials 7:177, 1986, doi:10.1016/0197-2456(86)90046-2).
    """
    weight = 1 / noise
    total = weight.sum()
    mean = (weight * estimates).sum() / total
    spare = total - np.square(weight).sum() / total
    beyond = (weight * np.square(estimates - mean)).sum() - (len(estimates) - 1)
    differing = max(0.0, beyond / spare) if spare > 0 else np.inf
    if not np.isfinite(differing):
        return estimates
    shrunk: DoubleArray = mean + (estimates - mean) * differing / (differing + noise)
    return shrunk


def _density(x: DoubleArray) -> DoubleArray:
    density: DoubleArray = np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi)
    return density


def _standard(x: DoubleArray) -> DoubleArray:
    """Columns with mean 0 and variance 1; zeros where they do not vary."""
    away = x - x.mean(0)
    deviation = away.std(0)
    standard: DoubleArray = away / np.where(deviation > 1e-9, deviation, np.inf)
    return standard


NEAREST = 30
"""Number of real cells that are combined."""

ALIKE = 15
"""Other real cells whose mean tells equal values of a cell apart, at most; of small groups, half of them."""

FEWEST = 20
"""Fewest real cells of a group; correlations of fewer are noise."""

VALUES = 2_000_000
"""Values of a block of features."""


def mixing_weights(z: FloatArray, z_real: FloatArray, rng: Generator, *, device: str = "cpu") -> CSR:
    """Return weights of real cells, `(n, n_real)`: those of each simulated cell and their squares sum to 1.

    `z`, `z_real`: latent coordinates of simulated and of real cells of one group, `(n, d)` and `(n_real, d)`.
    """
    n, k = len(z), min(NEAREST, len(z_real))
    neighbors = knn(z, z_real, k, device=device)[1]
    noise = rng.standard_normal((n, k))
    weights = 1 / k + np.sqrt(1 - 1 / k) * unit_rows(noise - noise.mean(axis=1, keepdims=True))
    rows = np.repeat(np.arange(n), k)
    return sparse.csr_matrix((weights.ravel(), (rows, neighbors.ravel())), shape=(n, len(z_real)))


def means_nearby(z_real: FloatArray, *, device: str = "cpu") -> CSR:
    """Return weights that average over the other real cells nearest to each, `(n_real, n_real)`.

    A cell's own weight makes the average independent of its value where places say nothing of it: the mean
    of all others is lower where the value is higher.
    """
    n = len(z_real)
    k = max(1, min(ALIKE, (n - 1) // 2))
    near = knn(z_real, z_real, k + 1, device=device)[1]
    others = near != np.arange(n)[:, None]
    # cells at one place: the cell itself may not be among its nearest
    others[others.all(axis=1), -1] = False
    entries = np.full(n * k, 1 / k), (np.repeat(np.arange(n), k), near[others])
    itself = sparse.identity(n, format="csr") / max(n - 1, 1)
    return sparse.csr_matrix(sparse.csr_matrix(entries, shape=(n, n)) + itself)


def quantiles(real: DoubleArray, n: int, *, whole: bool) -> DoubleArray:
    """Return `n` values for each column, distributed as the real ones `(n_real, p)`, in increasing order.

    `whole`: whether values are counts: between two order statistics the nearest whole number is taken.
    """
    ordered = np.sort(real, axis=0)
    place = (np.arange(n) + 0.5) / n * len(ordered) - 0.5
    low = np.clip(np.floor(place).astype(int), 0, len(ordered) - 1)
    high = np.minimum(low + 1, len(ordered) - 1)
    share = np.clip(place - low, 0, 1)[:, None]
    values: DoubleArray = (1 - share) * ordered[low] + share * ordered[high]
    return np.rint(values) if whole else values


def impose_correlations(
    values: CSR,
    real: CSR,
    weights: CSR,
    nearby: CSR,
    rng: Generator,
    *,
    margins: str = "likelihood",
    whole: bool = True,
    absent: IntArray | None = None,
) -> CSR:
    """Reassign the values of simulated cells, feature by feature, in the order of combined real cells.

    Args:
        values: Drawn by the likelihood for the cells of one group, `(n, p)`.
        real: Of real cells of the group, `(n_real, p)`.
        weights: Of `mixing_weights`, `(n, n_real)`.
        nearby: Of `means_nearby`, `(n_real, n_real)`.
        margins, whole: `likelihood`: the values themselves in another order; `real`: spread as the real ones,
            whole numbers where these are counts.
        absent: Features that were not measured in the real cells: they stay as they were drawn.

    Returns:
        Values `(n, p)`.
    """
    n, p = values.shape
    columns, real_columns = sparse.csc_matrix(values), sparse.csc_matrix(real)
    parts, total = [], np.asarray(real.sum(1), np.float64).ravel()
    for block in chunks(p, max(1, VALUES // max(n, real.shape[0]))):
        measured = densify(sparse.csr_matrix(real_columns[:, block])).astype(np.float64)
        scores = normal_scores(measured, nearby, total, rng)
        order = np.argsort(np.asarray(weights @ scores), axis=0, kind="stable")
        if margins == "real":
            drawn = quantiles(measured, n, whole=whole).astype(np.float32)
        else:
            drawn = np.sort(densify(sparse.csr_matrix(columns[:, block])), axis=0)
        out = np.empty_like(drawn)
        np.put_along_axis(out, order, drawn, axis=0)
        lacking = np.intersect1d(np.arange(block.start, block.stop), [] if absent is None else absent)
        if len(lacking):
            out[:, lacking - block.start] = densify(sparse.csr_matrix(columns[:, lacking]))
        parts.append(sparse.csr_matrix(out))
    return sparse.csr_matrix(sparse.hstack(parts, format="csr"))


def correlated_values(
    simulated: Simulated,
    layers: Mapping[str, str],
    *,
    seed: int,
    device: torch.device,
    say: Callable[[str], None],
) -> dict[str, CSR]:
    """Draw all modalities, and give them the correlations of the real cells in the input files.

    Groups of fewer than `FEWEST` real cells, and features that these lack, stay as the likelihood draws them.

    Args:
        layers: Layer of the raw values, by modality.

    Returns:
        Values `(n, n_features)` by modality; empty if no input holds cells that the model was trained on.
    """
    saved, cells, plan = simulated.saved, simulated.cells, simulated.plan
    names = pd.Index(atlas_of(saved).names)
    real: dict[str, tuple[Aligned, IntArray]] = {}
    for name in plan.modalities:
        file = find_modality(simulated.files, name, saved)
        if file is None or not len(names):
            continue
        try:
            aligned = align(saved, name, file, layers=layers, warn=lambda _: None)
        except InputError:  # told where cells are compared
            continue
        index = pd.Index(file.obs.index.astype(str))
        if index.is_unique and (rows := index.get_indexer(names)).max(initial=-1) >= 0:
            real[name] = aligned, rows
    if not real:
        return {}
    every = np.array([rows >= 0 for _, rows in real.values()])
    values = {name: all_values(saved, cells, name, seed=seed, device=device) for name in real}
    parts: dict[str, list[CSR]] = {name: [] for name in real}
    order: list[IntArray] = []
    n_groups = 0
    z = atlas_of(saved).cloud
    for number, group in enumerate(plan.groups):
        rows = np.flatnonzero(cells.group == number)
        order.append(rows)
        common = group.rows[every[:, group.rows].all(axis=0)]
        n_groups += len(common) >= FEWEST or any(
            (r[group.rows] >= 0).sum() >= FEWEST for _, r in real.values()
        )
        for position, (name, (aligned, where)) in enumerate(real.items()):
            # cells measured in every modality give all of them the same weights
            chosen = common if len(common) >= FEWEST else group.rows[where[group.rows] >= 0]
            drawn = values[name][rows]
            if len(chosen) < FEWEST or not len(rows):
                parts[name].append(drawn)
                continue
            stream = 0 if len(common) >= FEWEST else position + 1
            weights = mixing_weights(
                cells.z[rows], z[chosen], np.random.default_rng([seed, number, stream]), device=str(device)
            )
            parts[name].append(
                impose_correlations(
                    drawn,
                    _measured(saved, name, aligned, where[chosen]),
                    weights,
                    means_nearby(z[chosen], device=str(device)),
                    np.random.default_rng([seed, number, position, 1]),
                    margins=simulated.options.margins,
                    whole=is_counted(saved, name) or likelihood_of(saved, name) == "bernoulli",
                    absent=np.flatnonzero(np.isin(saved.recipes[name].selected, aligned.absent)),
                )
            )
    back = np.argsort(np.concatenate(order), kind="stable")
    spread = "these cells" if simulated.options.margins == "real" else "the model's likelihood"
    say(
        f"correlations between features are those of real cells in {n_groups} of "
        f"{plural(len(plan.groups), 'group')}; the spread of each feature is that of {spread}"
    )
    return {
        name: sparse.csr_matrix(sparse.vstack(blocks, format="csr")[back]) for name, blocks in parts.items()
    }


def _measured(saved: SavedModel, name: str, aligned: Aligned, rows: IntArray) -> CSR:
    """Return values of real cells on the scale of simulated ones, `(n, n_features)`."""
    recipe = saved.recipes[name]
    x = aligned.read(rows)
    if is_counted(saved, name):
        return sparse.csr_matrix(x[:, recipe.selected])
    if likelihood_of(saved, name) == "bernoulli":
        return sparse.csr_matrix((x[:, recipe.selected] > 0).astype(np.float32))
    features = recipe.apply(x, aligned.absent)
    return sparse.csr_matrix(dense_rows(features, np.arange(features.n_obs)))
