"""Stacks fitted to training cells that were measured in both modalities, and kept in the model's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import sparse

from mocli.data.features.index import features_of
from mocli.data.links.edges import EdgeLinks
from mocli.log import logger
from mocli.metrics import conformal, imputation
from mocli.tasks.infer.predictor import training_pairs
from mocli.tasks.infer.stacking import StackPredictor, link_columns
from mocli.tasks.prepare.aim import FEWEST_PAIRS, MOST_FEATURES, MOST_PAIRS
from mocli.tasks.prepare.links import find_links
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.calibration import Calibration, Key, save_calibrations
from mocli.tasks.trained.coordinates import SourceCells
from mocli.tasks.trained.saved import SavedModel, load_model, write_stacks
from mocli.tasks.trained.stack import LinkedValues, Stack
from mocli.tasks.trained.stackfit import fit_stack
from mocli.tasks.trained.train import Trained
from mocli.types import FloatArray, IntArray, Pairing

COVERAGE = 0.9
"""Share of measured values inside the intervals that an integration keeps."""


@dataclass(frozen=True, eq=False)
class FittedStack:
    """A stack, and how well it predicted training cells that were left out.

    Attributes:
        calibrations: By scale.
    """

    stack: Stack
    calibrations: Mapping[str, Calibration]


@dataclass(eq=False)
class _LeftOut:
    """Errors on cells left out, some features at a time; `floor` is the least value there can be."""

    floor: float | None
    coverage: float
    intervals: list[conformal.Conformal] = field(default_factory=list)
    accuracy: list[imputation.FeatureAccuracy] = field(default_factory=list)

    def see(self, times: FloatArray, predicted: FloatArray, measured: FloatArray) -> None:
        if self.floor is not None:
            predicted = np.maximum(predicted, self.floor)
        self.intervals.append(
            conformal.fit(predicted, measured, coverage=self.coverage, floor=self.floor, times=times)
        )
        self.accuracy.append(imputation.accuracy(predicted, measured))

    def calibration(self, new_batch: float) -> Calibration:
        basis = f"{self.intervals[0].n:,} training cells, each predicted by ways fitted to others of them"
        accuracy = imputation.joined(self.accuracy)
        return Calibration(conformal.join(self.intervals), basis, accuracy, new_batch)


def fitted_stack(
    request: Request,
    trained: Trained,
    saved: SavedModel,
    source: str,
    target: str,
    z: FloatArray | None,
    *,
    coverage: float = COVERAGE,
) -> FittedStack | None:
    """Fit a stack to training cells measured in both; None if these are too few, or pairs are not used.

    Args:
        z: Training cells of the source where new cells would lie, `(n_obs, d)`; None to leave the latent out.
    """
    pairs, seed = training_pairs(trained, source, target), request.run.seed
    if trained.plan.relation.pairing is Pairing.UNPAIRED or pairs is None or len(pairs) < FEWEST_PAIRS:
        return None
    if not {source, target} <= saved.readouts.keys():
        return None
    if len(pairs) > MOST_PAIRS:
        pairs = pairs[np.random.default_rng(seed).choice(len(pairs), MOST_PAIRS, replace=False)]
    logger.info("weighing ways from %s to %s", source, target)
    # in file order, so that rows are read in one sweep
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    choices = {c.file.name: c for c in trained.plan.choices}
    x = choices[source].file.read(choices[source].layer.layer, rows=pairs[:, 0])
    y = choices[target].file.read(choices[target].layer.layer, rows=pairs[:, 1])
    readout = saved.readouts[target]
    left_out = {scale: _LeftOut(readout.floor, coverage) for scale in readout.by_scale}
    places = None if z is None else np.asarray(z[pairs[:, 0]], np.float32)
    stack = fit_stack(
        SourceCells(saved.readouts[source].values(x, "log"), places),
        {
            scale: lambda columns, scale=scale: readout.measured(y, scale, columns)  # type: ignore[misc]
            for scale in readout.by_scale
        },
        n_vars=readout.n_vars,
        linked=links_between(_edges(request, trained), source, target),
        batches=_batches(trained, source, pairs[:, 0]),
        seed=seed,
        see=lambda scale, times, _, predicted, measured: left_out[scale].see(times, predicted, measured),
    )
    wider = stack.widening.new_batch if stack.widening is not None else 1.0
    calibrations = {scale: seen.calibration(wider) for scale, seen in left_out.items()}
    return FittedStack(stack, calibrations)


def _batches(trained: Trained, source: str, rows: IntArray) -> IntArray | None:
    """Codes of the batches of some rows of the source, `(n,)`; None without batches."""
    bundle = trained.prepared.bundle
    codes = bundle.codes_of(bundle.batch, source)
    return None if codes is None else codes[rows]


def keep_stacks(run: Run, saved: SavedModel, fitted: Mapping[tuple[str, str], FittedStack]) -> SavedModel:
    """Add stacks by source and target, and their calibrations, to the model's folder."""
    saved = replace(saved, stacks={key: fit.stack for key, fit in fitted.items()})
    write_stacks(run.paths.model, saved.stacks)
    calibrations: dict[Key, Calibration] = {}
    for (source, target), fit in fitted.items():
        run.say(f"ways from {source} to {target} weighed on {fit.stack.n_cells:,} cells measured in both")
        by = StackPredictor(fit.stack, saved.readouts[target]).name
        calibrations |= {
            (source, target, scale, by): calibration for scale, calibration in fit.calibrations.items()
        }
    save_calibrations(run.paths.model, calibrations)
    run.add_output(run.paths.model, "the trained model")
    return saved


def keep_all_stacks(run: Run, request: Request, trained: Trained) -> None:
    """Keep stacks between all modalities that share cells, for queries measured in one of them.

    The latent is not among their ways: no cells were held out of training, and a latent that was pulled
    towards a cell's other modality knows more of it than it will know of new cells.
    """
    names = [c.file.name for c in trained.plan.choices]
    narrow = [c.file.name for c in trained.plan.choices if c.file.n_vars <= MOST_FEATURES]
    saved, fitted = load_model(run.paths.model), {}
    for source in names:
        targets = [target for target in narrow if target != source]
        if not any(training_pairs(trained, source, target) is not None for target in targets):
            continue
        for target in targets:
            stack = fitted_stack(request, trained, saved, source, target, None)
            if stack is not None:
                fitted[source, target] = stack
    if fitted:
        keep_stacks(run, saved, fitted)


def links_between(edges: Sequence[EdgeLinks], source: str, target: str) -> LinkedValues | None:
    """Return sums of the source's features that the target's features are linked to; None without links."""
    for edge in edges:
        if {edge.source, edge.target} == {source, target}:
            sums = edge.aggregation()
            sides = sums.source, sums.target
            source_sums, other = sides if edge.source == source else sides[::-1]
            return LinkedValues(sparse.csr_matrix(source_sums, dtype=np.float32), link_columns(other))
    return None


def _edges(request: Request, trained: Trained) -> Sequence[EdgeLinks]:
    """Return the links that were given, even if the model does not use them."""
    plan = trained.plan
    if plan.edges or not request.data.links:
        return plan.edges
    features = features_of(plan.files, var_key=request.data.var_key)
    return find_links(request.data.links, plan.files, features, lambda _: None).edges
