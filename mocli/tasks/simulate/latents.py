"""Latent coordinates of simulated cells, as diverse as real ones or about one mean; their library sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from mocli.nn.neighbors import chunks, knn
from mocli.tasks.infer.decoder import is_counted
from mocli.tasks.simulate.groups import SimulationPlan, atlas_of
from mocli.tasks.trained.saved import SavedModel
from mocli.types import DoubleArray, FloatArray, IntArray

NEAREST = 15
"""Number of nearest training cells of the same label whose spread is used around a cell."""

_AT_ONCE = 4096  # fixed, as numbers are drawn block by block


def draw_sources(rows: IntArray, n: int, rng: Generator, weights: DoubleArray | None = None) -> IntArray:
    """Return training cells that simulated ones follow, `(n,)`.

    Every cell comes equally often, up to one; by `weights`, those are drawn with replacement.
    """
    if weights is not None:
        return rows[rng.choice(len(rows), n, p=weights / weights.sum())]
    whole, rest = divmod(n, len(rows))
    drawn = np.concatenate([np.tile(rows, whole), rng.choice(rows, rest, replace=False)])
    return rng.permutation(drawn)


def bandwidth(n: int, n_dims: int) -> float:
    """Return the width of the kernel around a cell in standard deviations of its neighbours.

    Scott's rule, n^(-1 / (d + 4)) (Scott, Multivariate Density Estimation, 1992, Eq. 6.42).
    """
    return float(n ** (-1 / (n_dims + 4)))


def smoothed(z: FloatArray, chosen: IntArray, rng: Generator, *, device: str = "cpu") -> FloatArray:
    """Return coordinates around chosen cells, `(n, d)`, that spread as the cells do (a smoothed bootstrap).

    With m the mean and S the covariance of a cell z and its 15 nearest among those given, and h of
    `bandwidth`, the coordinates are m + sqrt(1 - h^2) (z - m) + h e, e drawn from N(0, S): noise replaces
    as much of the spread around m as it brings (as in Silverman and Young, Biometrika 74:469, 1987), and
    stays in the directions in which neighbours differ.

    Args:
        z: Cells of one label, `(m, d)`.
        chosen: Rows of it, `(n,)`.
    """
    k = min(NEAREST, len(z) - 1)
    if k < 1:
        return z[chosen]
    h = bandwidth(len(z), z.shape[1])
    # a cell is among its own nearest
    neighbors = knn(z, z, k + 1, device=device)[1]
    out = np.empty((len(chosen), z.shape[1]), np.float32)
    for rows in chunks(len(chosen), _AT_ONCE):
        around = z[neighbors[chosen[rows]]]
        middle = around.mean(1)
        noise = rng.standard_normal(around.shape[:2], dtype=np.float32) / np.float32(np.sqrt(k))
        drawn = np.einsum("bk,bkd->bd", noise, around - middle[:, None])
        out[rows] = middle + np.sqrt(1 - h * h) * (z[chosen[rows]] - middle) + h * drawn
    return out


def about_the_mean(z: FloatArray, drawn: FloatArray, n: int, rng: Generator) -> FloatArray:
    """Return coordinates `(n, d)` from one normal distribution: the cells' mean, their mean deviation.

    scCross' own way (Yang et al. 2024, "multi-omics data simulation"). The standard deviation of a
    posterior is estimated from one draw each: the mean of |draw - mean| times sqrt(pi / 2).

    `z`, `drawn`: means of the posteriors of the label's cells, and a draw from each, `(m, d)`.
    """
    sd = np.abs(drawn - z).mean(0) * np.sqrt(np.pi / 2)
    noise = rng.standard_normal((n, z.shape[1]))
    return (z.mean(0) + sd * noise).astype(np.float32)


def variance_ratio(places: FloatArray, z: FloatArray) -> float:
    """Return the variance of simulated coordinates over that of the cells they follow; NaN if that is 0."""
    total = float(z.var(0).sum())
    return float(places.var(0).sum()) / total if total > 0 else float("nan")


def library_sizes(
    saved: SavedModel,
    plan: SimulationPlan,
    source: IntArray,
    group: IntArray,
    how: str | float,
    *,
    seed: int,
    warn: Callable[[str], None],
) -> dict[str, FloatArray]:
    """Return totals `(n,)` of modalities whose values are counts.

    Sampled ones are those of the training cell that a simulated one follows; a cell that was not measured
    in a modality takes that of another cell of its group. A modality that is missing in the result gets the
    model's median.
    """
    libraries = atlas_of(saved).library
    rng = np.random.default_rng([seed, 1_000_003])
    sizes: dict[str, FloatArray] = {}
    unknown = []
    for name in plan.modalities:
        if not is_counted(saved, name):
            continue
        if isinstance(how, float):
            sizes[name] = np.full(len(source), how, np.float32)
        elif name not in libraries:
            unknown.append(name)
        else:
            sizes[name] = _of_groups(libraries[name], plan, source, group, how, rng)
    if unknown:
        warn(
            f"the model was saved without sequencing depths for {' and '.join(unknown)}: every simulated "
            "cell gets the median depth of the training cells; a model trained with this version keeps them"
        )
    return sizes


def _of_groups(
    library: FloatArray, plan: SimulationPlan, source: IntArray, group: IntArray, how: str, rng: Generator
) -> FloatArray:
    out = library[source].copy()
    for position, one in enumerate(plan.groups):
        members = np.flatnonzero(group == position)
        measured = library[one.rows][np.isfinite(library[one.rows])]
        if not len(measured):
            # nobody of the group was measured in it
            measured = library[np.isfinite(library)]
        if how == "sampled":
            missing = members[~np.isfinite(out[members])]
            out[missing] = rng.choice(measured, len(missing))
        else:
            out[members] = np.median(measured) if how == "median" else measured.mean()
    return out
