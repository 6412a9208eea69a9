"""What imputed values are compared with: simple ways, and partners where there are no true pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.bundle import FeatureMatrix, Modality, MultiOmics
from mocli.data.transforms.components import Components, are_components, without_averaging
from mocli.data.transforms.transform import LOGNORM, median_total
from mocli.metrics import conformal
from mocli.nn.neighbors import chunks, drawn_rows, knn
from mocli.tasks.impute import accuracy
from mocli.tasks.impute.accuracy import Predict
from mocli.tasks.infer.align import Aligned
from mocli.tasks.infer.predictor import of_cells, training_pairs
from mocli.tasks.infer.stacking import StackPredictor, cells_of_file, link_columns, link_sides, linked_values
from mocli.tasks.infer.translation import Translation
from mocli.tasks.prepare.smoothing import smooth_links
from mocli.tasks.score.baselines import unit
from mocli.tasks.trained.calibration import Calibration
from mocli.tasks.trained.train import Trained
from mocli.types import DoubleArray, FloatArray, IntArray

FEWEST = 20
"""Fewest pairs, or partners, that anything is fitted to."""

MAX_TARGET, MAX_SOURCE = 5_000, 20_000
"""Cells of each side among which partners are looked for."""

COMPONENTS = 100
"""Principal components of the source, for the regression."""

OWN = "readout"
"""The way that is a part of the model, not a rival of it."""


def simple_ways(
    translation: Translation,
    trained: Trained | None,
    scale: str,
    cells: IntArray,
    target: Aligned,
    *,
    seed: int,
) -> dict[str, Predict]:
    """Return simple ways to predict the target of some rows of the source, by name."""
    readout, n = translation.readout, len(cells)
    mean, deviation = readout.moments(scale)
    ways: dict[str, Predict] = {"mean": accuracy.mean_baseline(mean, n)}
    if isinstance(translation.predictor, StackPredictor):
        ways[OWN] = lambda columns: readout.predict(translation.z[cells], scale, columns)
    linked = _linked(translation, cells)
    if linked is not None:
        ways["linked_feature"] = accuracy.linked_baseline(*linked, mean, deviation)
    pairs = None if trained is None else training_pairs(trained, translation.source, translation.target)
    if trained is not None and pairs is not None and len(pairs) >= FEWEST:
        ways["ridge"] = _ridge(translation, trained, scale, pairs, cells, target, seed=seed)
    return ways


def _linked(translation: Translation, cells: IntArray) -> tuple[FloatArray, IntArray] | None:
    """Standardised linked features of source cells, and which column is whose."""
    sides = link_sides(translation.saved, translation.source, translation.target)
    if sides is None:
        return None
    x = translation.aligned(translation.source).read(cells)
    return linked_values(sides[0], x), link_columns(sides[1].aggregation)


def _ridge(
    translation: Translation,
    trained: Trained,
    scale: str,
    pairs: IntArray,
    cells: IntArray,
    target: Aligned,
    *,
    seed: int,
) -> Predict:
    pairs = pairs[accuracy.rows_drawn(len(pairs), seed=seed)]
    source = trained.prepared.bundle.modalities[translation.source]
    features = without_averaging(source.features)
    aligned = translation.aligned(translation.source)
    new = translation.saved.recipes[translation.source].apply(aligned.read(cells), aligned.absent)
    before, after = _scores(source, replace(features, values=features.values[pairs[:, 0]]), new, seed=seed)
    trained_file = next(f for f in trained.plan.files if f.name == translation.target)
    x = replace(target, file=trained_file).read(pairs[:, 1])
    readout = translation.readout
    return accuracy.ridge_baseline(
        before, lambda columns: readout.measured(x, scale, columns), after, n_vars=readout.n_vars, seed=seed
    )


def _scores(
    source: Modality, known_features: FeatureMatrix, new_features: FeatureMatrix, *, seed: int
) -> tuple[DoubleArray, DoubleArray]:
    """Principal components of what a model sees of known and of new cells; of counts, of their logarithms."""
    if source.is_counted:
        depth = median_total(sparse.csr_matrix(known_features.values))
        known_features, new_features = (
            replace(m, values=LOGNORM.forward(sparse.csr_matrix(m.values), target_sum=depth))
            for m in (known_features, new_features)
        )
    if not are_components(known_features.names):
        fitted = Components.fit(known_features, n_components=COMPONENTS, seed=seed)
        known_features, new_features = fitted.apply(known_features), fitted.apply(new_features)
    # in double precision, in which a small penalty still makes the solution unique
    parts = (dense_rows(m, np.arange(m.n_obs)).astype(np.float64) for m in (known_features, new_features))
    before, after = parts
    return before, after


def on_partners(
    translation: Translation, trained: Trained, scales: Sequence[str], *, coverage: float, seed: int
) -> dict[str, Calibration]:
    """Intervals without true pairs, by scale: cells of the target against their partners by linked features.

    None where no links join the two directly, or partners are too few.
    """
    readout, bundle = translation.readout, trained.prepared.bundle
    source, target = translation.source, translation.target
    partners = partners_by_links(bundle, source, target, seed=seed)
    if partners is None or len(partners[0]) < FEWEST:
        return {}
    cells, true_cells = partners
    trained_file = next(f for f in trained.plan.files if f.name == target)
    x, z = (
        translation.aligned(target, trained_file).read(true_cells),
        trained.latent.by_modality[source][cells],
    )
    batches = None if bundle.batch is None else bundle.batch.codes[bundle.cells_of(source)[cells]]
    predict = _of_training(translation, trained, cells, z, batches)
    paired = len(translation.pairs) > 0
    why = "too few cells measured in both were held out" if paired else "no true pairs are known"
    basis = (
        f"{len(cells):,} {target} cells and the {source} cells nearest to them in smoothed linked features, "
        f"because {why}: they hold as far as these partners are alike"
    )
    calibrations = {}
    for scale in dict.fromkeys(scales):
        parts = []
        for span in chunks(readout.n_vars, accuracy.COLUMNS):
            columns = np.arange(span.start, span.stop)
            predicted = predict(scale, columns)
            measured = readout.measured(x, scale, columns)
            floor = readout.floor if scale != "scaled" else None
            parts.append(conformal.fit(predicted, measured, coverage=coverage, floor=floor))
        calibrations[scale] = Calibration(conformal.join(parts), basis)
    return calibrations


def partners_by_links(
    bundle: MultiOmics, source: str, target: str, *, seed: int
) -> tuple[IntArray, IntArray] | None:
    """Return rows of source and target cells, `(n,)` each, nearest by smoothed linked features.

    Every target cell (5,000 sampled at most) has the source cell (of 20,000 at
    most) that is nearest by cosine. None where no links join the two directly,
    or where a cell has no linked signal.
    """
    for link in bundle.links:
        if {source, target} == {link.source, link.target}:
            (smoothed,) = smooth_links(replace(bundle, links=(link,)), seed=seed, say=lambda _: None).links
            sides = {link.source: smoothed.source_features, link.target: smoothed.target_features}
            rng = np.random.default_rng(seed)
            rows = {}
            for name, most in ((source, MAX_SOURCE), (target, MAX_TARGET)):
                rows[name] = drawn_rows(sides[name].n_obs, most, seed=rng)
            points = {name: unit(dense_rows(sides[name], rows[name])) for name in rows}
            nearest = knn(points[target], points[source], 1)[1][:, 0]
            has_links = points[target].any(1)
            return rows[source][nearest[has_links]], rows[target][has_links]
    return None


def _of_training(
    translation: Translation, trained: Trained, rows: IntArray, z: FloatArray, batches: IntArray | None
) -> Callable[[str, IntArray], FloatArray]:
    """Return a function that gives expected values of training cells at latent coordinates `z`."""
    predictor, source = translation.predictor, translation.source
    if not isinstance(predictor, StackPredictor):
        return partial(of_cells(predictor, batches).predict, z)
    file = next(f for f in trained.plan.files if f.name == source)
    aligned = translation.aligned(source, file)
    cells = cells_of_file(translation.saved, source, aligned, rows, z)
    return partial(predictor.predict, cells)
