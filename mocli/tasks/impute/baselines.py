"""What imputed values are held against: simple ways, and partners where no true pairs are at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.transforms.components import Components, are_components, without_averaging
from mocli.data.transforms.transform import LOGNORM, median_total
from mocli.metrics import conformal
from mocli.nn.neighbors import chunks
from mocli.tasks.impute import accuracy as accuracy
from mocli.tasks.impute.partners import partners_by_links
from mocli.tasks.infer.align import align
from mocli.tasks.infer.predictor import of_cells
from mocli.tasks.trained.calibration import Calibration
from mocli.types import COUNT_LIKELIHOODS

if TYPE_CHECKING:
    from mocli.data.bundle import FeatureMatrix, Modality
    from mocli.tasks.impute.accuracy import Predict
    from mocli.tasks.impute.work import Imputation
    from mocli.tasks.infer.align import Aligned
    from mocli.types import DoubleArray, FloatArray, IntArray

FEWEST = 20
"""Pairs, or partners, below which nothing is fitted to them."""

COMPONENTS = 100
"""Of the source, for the regression."""


def baselines(work: Imputation, scale: str, cells: IntArray, target: Aligned) -> dict[str, Predict]:
    """Return simple ways to predict the target of some rows of the source."""
    readout, n = work.readout, len(cells)
    mean, deviation = readout.moments(scale)
    found: dict[str, Predict] = {"mean": accuracy.mean_baseline(mean, n)}
    linked = _linked(work, cells)
    if linked is not None:
        found["linked_feature"] = accuracy.linked_baseline(*linked, mean, deviation)
    if work.trained is not None:
        pairs = work.trained.made.pairs
        known = pairs.get((work.source, work.target))
        if known is None and (work.target, work.source) in pairs:
            known = pairs[work.target, work.source][:, ::-1]
        if known is not None and len(known) >= FEWEST:
            found["ridge"] = _ridge(work, scale, known, cells, target)
    return found


def _linked(work: Imputation, cells: IntArray) -> tuple[FloatArray, IntArray] | None:
    """Standardised linked features of source cells, and which column is whose."""
    recipes = work.saved.link_recipes
    if (work.source, work.target) in recipes:
        own, other = recipes[work.source, work.target]
    elif (work.target, work.source) in recipes:
        other, own = recipes[work.target, work.source]
    else:
        return None
    aligned = align(work.saved, work.source, work.source_file, layers=work.request.data.layer, warn=_quiet)
    values = own.apply(aligned.read(cells))
    return dense_rows(values, np.arange(len(cells))), accuracy.link_columns(other.aggregation)


def _ridge(work: Imputation, scale: str, known: IntArray, cells: IntArray, target: Aligned) -> Predict:
    assert work.trained is not None
    seed = work.request.run.seed
    known = known[accuracy.rows_drawn(len(known), seed=seed)]
    source = work.trained.prepared.bundle.modalities[work.source]
    features = without_averaging(source.features)
    aligned = align(work.saved, work.source, work.source_file, layers=work.request.data.layer, warn=_quiet)
    new = work.saved.recipes[work.source].apply(aligned.read(cells), aligned.absent)
    before, after = _scores(source, replace(features, values=features.values[known[:, 0]]), new, seed=seed)
    trained_file = next(f for f in work.trained.made.files if f.name == work.target)
    x = replace(target, file=trained_file).read(known[:, 1])
    return accuracy.ridge_baseline(
        before,
        lambda columns: work.readout.measured(x, scale, columns),
        after,
        n_vars=work.readout.n_vars,
        seed=seed,
    )


def _scores(
    source: Modality, known: FeatureMatrix, new: FeatureMatrix, *, seed: int
) -> tuple[DoubleArray, DoubleArray]:
    """Principal components of what a model sees of known and of new cells; of counts, of their logarithms."""
    if source.likelihood in COUNT_LIKELIHOODS:
        depth = median_total(sparse.csr_matrix(known.values))
        known, new = (
            replace(m, values=LOGNORM.forward(sparse.csr_matrix(m.values), target_sum=depth))
            for m in (known, new)
        )
    if not are_components(known.names):
        fitted = Components.fit(known, n_components=COMPONENTS, seed=seed)
        known, new = fitted.apply(known), fitted.apply(new)
    # in double precision, in which a small penalty still makes the solution unique
    parts = (dense_rows(m, np.arange(m.n_obs)).astype(np.float64) for m in (known, new))
    before, after = parts
    return before, after


def on_partners(work: Imputation) -> dict[str, Calibration]:
    """Intervals without true pairs, by scale: cells of the target against their partners by linked features.

    None where no links join the two directly, or partners are too few.
    """
    assert work.trained is not None
    readout = work.readout
    found = partners_by_links(
        work.trained.prepared.bundle, work.source, work.target, seed=work.request.run.seed
    )
    if found is None or len(found[0]) < FEWEST:
        return {}
    cells, true_cells = found
    trained_file = next(f for f in work.trained.made.files if f.name == work.target)
    aligned = align(work.saved, work.target, trained_file, layers=work.request.data.layer, warn=_quiet)
    x, z = aligned.read(true_cells), work.trained.latent.by_modality[work.source][cells]
    bundle = work.trained.prepared.bundle
    own = None if bundle.batch is None else bundle.batch.codes[bundle.cells_of(work.source)[cells]]
    predictor = of_cells(work.predictor, own)
    why = "too few cells measured in both were held out" if len(work.pairs) else "no true pairs are known"
    basis = (
        f"{len(cells):,} {work.target} cells and the {work.source} cells nearest to them in smoothed "
        f"linked features, as {why}: they hold as far as these partners are alike"
    )
    kept = {}
    for scale in dict.fromkeys((work.asked.scale, *readout.by_scale)):
        parts = []
        for span in chunks(readout.n_vars, accuracy.COLUMNS):
            columns = np.arange(span.start, span.stop)
            predicted = predictor.predict(z, scale, columns)
            measured = readout.measured(x, scale, columns)
            floor = readout.floor if scale != "scaled" else None
            parts.append(conformal.fit(predicted, measured, coverage=work.asked.coverage, floor=floor))
        kept[scale] = Calibration(conformal.join(parts), basis)
    return kept


def _quiet(_: str) -> None:
    """Say nothing a second time."""
