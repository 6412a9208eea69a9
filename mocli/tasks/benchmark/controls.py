"""The controls of every benchmark: coordinates that need no training, the worst, and the best possible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mocli.data.batches import dense_rows
from mocli.data.bundle import LinkedFeatures
from mocli.tasks.benchmark.contender import Contender
from mocli.tasks.benchmark.ground import Ground
from mocli.tasks.prepare.smoothing import own_coordinates
from mocli.tasks.score.baselines import component_baseline, link_baselines, unit
from mocli.tasks.score.wnn import graph_coordinates, weighted_neighbors
from mocli.types import DoubleArray, FloatArray

CCA_DIMENSIONS = 30
PCA_DIMENSIONS = 50
UNCORRECTED = "principal_components"
"""The control whose coordinates conservation is measured by."""

BEST = "perfect"
"""The control that knows the ground truth."""

SPREAD = 0.05
"""Standard deviation of the noise around a label; labels lie 1.4 apart."""


def controls(ground: Ground, *, seed: int) -> Iterator[Contender]:
    """Yield every control that the data allow, one at a time."""
    bundle = ground.bundle
    first: Contender | None = None
    if not ground.apart:
        base, cells_of_group = component_baseline(bundle, np.arange(bundle.n_cells), seed)
        joint = np.zeros((bundle.n_cells, next(iter(base.z.values())).shape[1]), np.float32)
        for name, cells in cells_of_group.items():
            joint[cells] = base.z[name]
        title = "PCA / LSI side by side"
        first = Contender(UNCORRECTED, "control", title, base.definition, joint=joint)
        yield first
        if len(bundle.modalities) > 1 and bundle.n_cells > 2 and (bundle.rows >= 0).all():
            yield _weighted_neighbors(ground, seed=seed)
    for link in bundle.links:
        of_edge = "" if len(bundle.links) == 1 else f"[{link.source}-{link.target}]"
        rows = {name: np.arange(bundle.modalities[name].n_obs) for name in link.edge}
        for base in link_baselines(bundle, link, rows, seed):
            control = Contender(base.name + of_edge, "control", base.title, base.definition, base.z)
            first = first or control
            yield control
        for control in _linear(link, seed=seed):
            yield replace(control, name=control.name + of_edge)
    if first is not None:
        yield shuffled(first, ground, seed=seed)
    best = perfect(ground, seed=seed)
    if best is not None:
        yield best


def _weighted_neighbors(ground: Ground, *, seed: int) -> Contender:
    """Embed cells measured in every modality by the graph of their weighted nearest neighbours."""
    bundle = ground.bundle
    points = [
        own_coordinates(m, bundle.rows[:, position], seed=seed, standardise=False)
        for position, m in enumerate(bundle.modalities.values())
    ]
    graph = weighted_neighbors(points)
    shares = ", ".join(
        f"{name} {w:.2f}" for name, w in zip(bundle.modalities, graph.weights.mean(0), strict=True)
    )
    return Contender(
        "wnn",
        "control",
        "weighted nearest neighbours",
        f"leading eigenvectors of the graph of {graph.neighbors.shape[1]} weighted nearest neighbours "
        f"(Hao et al. 2021) in the principal components of all modalities; mean weights {shares}",
        joint=graph_coordinates(graph),
    )


def _linear(link: LinkedFeatures, *, seed: int) -> Iterator[Contender]:
    sides = {
        link.source: dense_rows(link.source_features, np.arange(link.source_features.n_obs)),
        link.target: dense_rows(link.target_features, np.arange(link.target_features.n_obs)),
    }
    x, y = sides.values()
    n = min(CCA_DIMENSIONS, x.shape[1], min(len(x), len(y)) - 1)
    u, v = canonical(x, y, n, seed=seed)
    yield Contender(
        "cca",
        "control",
        "CCA of linked features",
        f"{u.shape[1]} canonical vectors of the linked features (singular vectors of the product of both "
        "sides, cells x cells, standardised), rows of unit length",
        {link.source: unit(u), link.target: unit(v)},
    )
    stacked = np.concatenate([x, y])
    n = min(PCA_DIMENSIONS, *stacked.shape)
    scores = _scores(stacked - stacked.mean(0), n)
    yield Contender(
        "linked_pca",
        "control",
        "PCA of linked features",
        f"{n} principal components of the standardised linked features of both modalities, one under the "
        "other, without integration",
        {link.source: scores[: len(x)], link.target: scores[len(x) :]},
    )


def canonical(x: FloatArray, y: FloatArray, n: int, *, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return singular vectors of `x @ y.T`, `(n_x, n)` and `(n_y, n)`, which is never formed.

    x and y are `(n_x, s)` and `(n_y, s)`; fewer than n are returned where s is smaller.
    """
    from scipy.sparse.linalg import LinearOperator, svds

    x, y = x.astype(np.float64), y.astype(np.float64)
    most = min(len(x), len(y))
    if x.shape[1] <= 2 * n or most <= 2 * n:
        # so few columns that two decompositions are cheaper than an iteration
        (q, r), (p, t) = np.linalg.qr(x), np.linalg.qr(y)
        u, s, vt = np.linalg.svd(r @ t.T)
        left, right = (q @ u)[:, :n], (p @ vt.T)[:, :n]
    else:
        product = LinearOperator(
            (len(x), len(y)),
            matvec=lambda v: x @ (y.T @ v),
            rmatvec=lambda v: y @ (x.T @ v),
            dtype=np.float64,
        )
        start = np.random.default_rng(seed).normal(size=most)
        left, s, vt = svds(product, k=n, v0=start)
        order = np.argsort(-s, kind="stable")
        left, right = left[:, order], vt[order].T
    signs = np.sign(left[np.abs(left).argmax(0), np.arange(left.shape[1])])
    signs[signs == 0] = 1.0
    return (left * signs).astype(np.float32), (right * signs).astype(np.float32)


def _scores(x: FloatArray, n: int) -> FloatArray:
    """Principal scores of centred rows, `(rows, n)`, by the smaller of both products."""
    values, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
    largest: DoubleArray = vectors[:, np.argsort(-values, kind="stable")[:n]]
    signs = np.sign(largest[np.abs(largest).argmax(0), np.arange(largest.shape[1])])
    return (x @ (largest * signs)).astype(np.float32)


def shuffled(control: Contender, ground: Ground, *, seed: int) -> Contender:
    """Assign the coordinates of a control to cells at random: its geometry without its meaning."""
    rng, bundle = np.random.default_rng(seed), ground.bundle
    joint = None if control.joint is None else rng.permutation(control.joint)
    by_modality = control.by_modality
    if joint is not None and not by_modality and len(bundle.modalities) > 1:
        by_modality = {name: joint[bundle.cells_of(name)] for name in bundle.modalities}
    return Contender(
        "shuffled",
        "control",
        "shuffled",
        f"the coordinates of '{control.title}' assigned to cells at random, within each modality: the "
        "result of chance",
        {name: rng.permutation(z) for name, z in by_modality.items()},
        joint,
    )


def perfect(ground: Ground, *, seed: int) -> Contender | None:
    """Place every cell by its label, and partners together; None if neither is known.

    Each label has a corner, and each cell a small noise of its own.
    """
    bundle, rng = ground.bundle, np.random.default_rng(seed)
    if bundle.label is None and not ground.pairs:
        return None
    n_labels = len(bundle.label.levels) if bundle.label is not None else 0
    width = max(n_labels, 10)
    noise = rng.normal(0.0, SPREAD, (bundle.n_cells, width)).astype(np.float32)
    if bundle.label is None:
        noise /= SPREAD
    for (a, b), pairs in ground.pairs.items():
        noise[bundle.cells_of(b)[pairs[:, 1]]] = noise[bundle.cells_of(a)[pairs[:, 0]]]
    joint = noise
    if bundle.label is not None:
        codes = bundle.label.codes
        joint[np.flatnonzero(codes >= 0), codes[codes >= 0]] += 1.0
    words = [w for w, is_known in (("its label", bundle.label), ("its partner", ground.pairs)) if is_known]
    return Contender(
        BEST,
        "control",
        "perfect",
        f"the ground truth: a cell lies with {' and '.join(words)}, batches and modalities mixed",
        {name: joint[bundle.cells_of(name)] for name in bundle.modalities},
        None if ground.apart else joint,
    )
