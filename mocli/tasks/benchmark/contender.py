"""Entries of a benchmark: coordinates that a method, or a control, gives the scored cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from mocli.data.batches import dense_rows
from mocli.data.bundle import LinkedFeatures
from mocli.data.files.obs import Coordinates, read_coordinates
from mocli.data.files.source import parse_source
from mocli.data.transforms.components import signs_of
from mocli.errors import InputError, UsageError
from mocli.nn.neighbors import unit_rows
from mocli.tasks.benchmark.ground import Ground
from mocli.tasks.prepare.smoothing import own_coordinates
from mocli.tasks.score.baselines import (
    component_baseline,
    graph_coordinates,
    link_baselines,
    weighted_neighbors,
)
from mocli.types import DoubleArray, FloatArray

Kind = Literal["model", "control", "embedding", "peer"]


@dataclass(frozen=True, eq=False)
class Contender:
    """Coordinates of the scored cells by one method and seed.

    Attributes:
        by_modality: Coordinates of each modality's cells, `(n_obs, d)`, rows as in the sample; empty if the
            method only knows whole cells.
        joint: Coordinates of each cell, `(n_cells, d)`; None if only modalities have coordinates, whose mean
            is then used.
    """

    name: str
    kind: Kind
    title: str
    definition: str
    by_modality: Mapping[str, FloatArray] = field(default_factory=dict)
    joint: FloatArray | None = None
    seed: int | None = None
    study: str = ""

    def whole(self, ground: Ground) -> FloatArray:
        """Return coordinates of each cell, `(n_cells, d)`."""
        if self.joint is not None:
            return self.joint
        rows = ground.bundle.rows
        width = next(iter(self.by_modality.values())).shape[1]
        total = np.zeros((len(rows), width))
        times = np.zeros(len(rows))
        for position, name in enumerate(ground.bundle.modalities):
            if name in self.by_modality:
                cells = np.flatnonzero(rows[:, position] >= 0)
                total[cells] += self.by_modality[name][rows[cells, position]]
                times[cells] += 1
        return (total / np.maximum(times, 1)[:, None]).astype(np.float32)


def others_embedding(text: str, inputs: Sequence[str], ground: Ground) -> Contender:
    """Read what another tool wrote: `obsm:KEY` of the inputs, or `FILE::KEY`.

    Raises:
        UsageError: The text is neither.
        InputError: See `aligned`.
    """
    owner, separator, key = text.rpartition("::")
    if not separator:
        owner, separator, key = text.partition(":")
    if not (owner and separator and key):
        raise UsageError(
            f"'{text}' does not name an embedding",
            field="--embedding",
            expected="obsm:KEY for an array of the inputs, or FILE.h5ad::KEY",
            hint="such as obsm:X_scVI, or results/harmony.h5ad::X_harmony",
        )
    definition = f"obsm['{key}'] of {'the inputs' if owner == 'obsm' else owner}, aligned by cell names"
    template = Contender(key, "embedding", key, definition)
    if owner != "obsm":
        return placed(template, read_coordinates(Path(owner), key), ground, where=owner)
    return placed(template, _of_inputs(inputs, key, ground), ground, where="the inputs")


def _of_inputs(inputs: Sequence[str], key: str, ground: Ground) -> list[Coordinates]:
    """Collect an array from the input files that have it; a file of one modality is that modality's."""
    coordinates: list[Coordinates] = []
    missing: InputError | None = None
    for path in dict.fromkeys(parse_source(text).path for text in inputs):
        modalities = [f.name for f in ground.files if path in f.paths]
        try:
            parts = read_coordinates(path, key)
        except InputError as error:
            missing = missing or error
            continue
        coordinates += [
            replace(p, modality=modalities[0]) if p.modality is None and len(modalities) == 1 else p
            for p in parts
        ]
    if not coordinates and missing is not None:
        raise missing
    return coordinates


def placed(
    template: Contender,
    parts: Sequence[Coordinates],
    ground: Ground,
    *,
    where: str | Path,
    alone: Sequence[Coordinates] = (),
) -> Contender:
    """Give a contender its coordinates, aligned with the scored cells by name, never by position.

    If every modality has coordinates and those of partners differ, the method places modalities separately;
    otherwise a cell has one set of coordinates.

    `alone`: coordinates from one modality alone, for methods with one set of coordinates for each cell.
    """
    bundle = ground.bundle
    by_modality = {p.modality: p for p in parts if p.modality is not None}
    if not ground.apart and not set(bundle.modalities) <= set(by_modality):
        return replace(template, joint=aligned(parts, bundle.obs_names, where, None))
    by_name = {}
    for m in bundle.modalities:
        of_modality = by_modality.get(m)
        by_name[m] = aligned(
            [of_modality] if of_modality is not None else parts, bundle.modalities[m].obs_names, where, m
        )
    _same_width(by_name, where)
    if ground.apart or not _together(by_name, ground):
        return replace(template, by_modality=by_name)
    joint = np.zeros((bundle.n_cells, next(iter(by_name.values())).shape[1]), np.float32)
    for m, z in by_name.items():
        joint[bundle.cells_of(m)] = z
    marginal = {
        p.modality: aligned([p], bundle.modalities[p.modality].obs_names, where, p.modality)
        for p in alone
        if p.modality is not None and p.modality in bundle.modalities
    }
    complete = marginal if set(marginal) == set(bundle.modalities) else {}
    return replace(template, by_modality=complete, joint=joint)


def _together(by_modality: Mapping[str, FloatArray], ground: Ground) -> bool:
    """Say whether cells have the same coordinates in all modalities that they were measured in."""
    seen = False
    width = next(iter(by_modality.values())).shape[1]
    first = np.full((ground.bundle.n_cells, width), np.nan, np.float32)
    for m, z in by_modality.items():
        cells = ground.bundle.cells_of(m)
        is_placed = ~np.isnan(first[cells, 0])
        seen = seen or bool(is_placed.any())
        if not np.array_equal(first[cells[is_placed]], z[is_placed]):
            return False
        first[cells] = z
    return seen


def aligned(
    parts: Sequence[Coordinates], wanted: Sequence[str], where: str | Path, modality: str | None
) -> FloatArray:
    """Return coordinates in the order of the wanted cells, `(n, d)`.

    A cell is found by its name, or by `modality:name` as mocli writes names that modalities share.

    Raises `InputError`: a wanted cell has no coordinates, coordinates that are not finite, or two rows under
    one name.
    """
    _same_width({str(i): p.z for i, p in enumerate(parts)}, where)
    names = parts[0].names.append([p.names for p in parts[1:]])
    z = np.concatenate([p.z for p in parts])
    # a cell of two modalities may be given once for each
    keep = ~names.duplicated()
    index, z_once = pd.Index(names[keep]), z[keep]
    back = index.get_indexer(names)
    if not np.array_equal(z_once[back], z, equal_nan=True):
        twice = names[(z_once[back] != z).any(1)][0]
        raise InputError(
            "the embedding has two rows for one cell",
            file=where,
            field="obs_names",
            found=repr(str(twice)),
            hint="write it as .h5mu with the coordinates of each modality in its own obsm",
        )
    rows = index.get_indexer(pd.Index(wanted))
    if modality is not None and (rows < 0).any():
        prefixed = index.get_indexer(pd.Index([f"{modality}:{name}" for name in wanted]))
        rows = np.where(prefixed >= 0, prefixed, rows)
    absent = np.flatnonzero(rows < 0)
    of_modality = "" if modality is None else f" of {modality}"
    if len(absent):
        examples = ", ".join(repr(wanted[i]) for i in absent[:3])
        raise InputError(
            f"the embedding lacks {len(absent):,} of {len(wanted):,} cells{of_modality}",
            file=where,
            field="obs_names",
            found=f"{len(index):,} cells, such as {', '.join(repr(str(n)) for n in index[:3])}",
            expected=f"coordinates of all cells; it lacks {examples}",
            hint="cells are matched by obs_names: name them as in the inputs"
            if len(absent) == len(wanted)
            else "give these cells coordinates, or leave them out of the inputs",
        )
    places: FloatArray = z_once[rows]
    bad = np.flatnonzero(~np.isfinite(places).all(1))
    if len(bad):
        raise InputError(
            f"the embedding has no finite coordinates for {len(bad):,} of {len(wanted):,} cells{of_modality}",
            file=where,
            field="obsm",
            found=f"NaN or infinity, first in cell {wanted[bad[0]]!r}",
            hint="leave such cells out of the inputs, or give them coordinates",
        )
    return places


def _same_width(z: Mapping[str, FloatArray], where: str | Path) -> None:
    widths = {v.shape[1] for v in z.values()}
    if len(widths) > 1:
        raise InputError(
            "the modalities lie in spaces of different dimensions",
            file=where,
            field="obsm",
            found=" and ".join(map(str, sorted(widths))),
            expected="one space",
        )


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
        base, _ = component_baseline(bundle, np.arange(bundle.n_cells), seed)
        title = "PCA / LSI side by side"
        first = Contender(UNCORRECTED, "control", title, base.definition, joint=base.joint)
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
    x, y = (dense_rows(side, np.arange(side.n_obs)) for side in link.sides.values())
    n = min(CCA_DIMENSIONS, x.shape[1], min(len(x), len(y)) - 1)
    u, v = canonical(x, y, n, seed=seed)
    yield Contender(
        "cca",
        "control",
        "CCA of linked features",
        f"{u.shape[1]} canonical vectors of the linked features (singular vectors of the product of both "
        "sides, cells x cells, standardised), rows of unit length",
        {link.source: unit_rows(u), link.target: unit_rows(v)},
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
    signs = signs_of(left)
    return (left * signs).astype(np.float32), (right * signs).astype(np.float32)


def _scores(x: FloatArray, n: int) -> FloatArray:
    """Principal scores of centred rows, `(rows, n)`, by the smaller of both products."""
    values, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
    largest: DoubleArray = vectors[:, np.argsort(-values, kind="stable")[:n]]
    return (x @ (largest * signs_of(largest))).astype(np.float32)


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
