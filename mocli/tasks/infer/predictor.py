"""How cells become values: by a model's decoder, a readout of the latent, or a stack of ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from mocli.data.batches import dense_rows
from mocli.data.transforms.linkrecipe import LinkRecipe
from mocli.errors import UsageError
from mocli.models.base import Encodes, EncodesJointly, Extends
from mocli.nn.neighbors import knn
from mocli.tasks.infer.align import Aligned
from mocli.tasks.infer.decoder import OPTION, ValueDecoder, cannot_decode, decode_batch
from mocli.tasks.infer.query import infer_coordinates
from mocli.tasks.prepare.plan import FEWEST_PAIRS
from mocli.tasks.trained.atlas import Atlas
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.latent import SourceCells
from mocli.tasks.trained.saved import SavedModel
from mocli.tasks.trained.stack import Stack
from mocli.tasks.trained.train import Trained
from mocli.train.predict import encode_rows
from mocli.types import CSR, FloatArray, IntArray, Pairing, Route

NEAREST = 5
"""The distance to this nearest training cell tells how far a cell lies from all of them."""


@dataclass(frozen=True, eq=False)
class StackPredictor:
    """A stack, on the scales that users ask for."""

    stack: Stack
    readout: FeatureReadout

    @property
    def name(self) -> str:
        """The name that its calibration is kept under."""
        return "stack"

    def predict(self, cells: SourceCells, scale: str, columns: IntArray) -> FloatArray:
        """Return values `(n, n_columns)`; values that cannot be negative are clipped at 0."""
        values = self.stack.predict(cells, "log" if scale == "scaled" else scale, columns)
        if self.readout.floor is not None:
            np.maximum(values, self.readout.floor, out=values)
        return self.readout.standardised(values, columns) if scale == "scaled" else values


def link_sides(saved: SavedModel, source: str, target: str) -> tuple[LinkRecipe, LinkRecipe] | None:
    """Return how linked features are computed from source and target; None where no links join the two."""
    recipes = saved.link_recipes
    if (source, target) in recipes:
        return recipes[source, target]
    return recipes[target, source][::-1] if (target, source) in recipes else None


def link_columns(aggregation: CSR) -> IntArray:
    """Return for each feature its own linked column, -1 for none, `(n_vars,)`.

    `aggregation`: of the target's side of a link recipe, `(n_vars, n_links)`; the largest weight wins.
    """
    columns = np.full(aggregation.shape[0], -1, dtype=np.int64)
    entries = aggregation.tocoo()
    order = np.argsort(entries.data, kind="stable")
    columns[entries.row[order]] = entries.col[order]
    return columns


def linked_values(recipe: LinkRecipe, x: CSR) -> FloatArray:
    """Return standardised linked features of raw values, `(n, n_links)`."""
    return dense_rows(recipe.apply(x), np.arange(x.shape[0]))


def cells_of_file(
    saved: SavedModel, source: str, aligned: Aligned, rows: IntArray, z: FloatArray
) -> SourceCells:
    """Return some rows of a file as a stack sees them; `z` is of these rows."""
    values = saved.readouts[source].values(aligned.read(rows), "log")
    absent = aligned.absent if len(aligned.absent) else None
    return SourceCells(values, np.asarray(z, np.float32), absent)


def distance_in_latent(atlas: Atlas, source: str, z: FloatArray) -> FloatArray | None:
    """Return how far cells lie from the training cells of a modality, `(n,)`; None for fewer than 50 cells.

    It is the distance to the fifth nearest training cell, over the 99 % quantile of that distance among
    training cells.
    """
    if source in atlas.alone:
        known_z = atlas.alone[source]
    else:
        of_source = [k for k, name in enumerate(atlas.group.levels) if source in name.split("+")]
        known_z = atlas.z[np.isin(atlas.group.codes, of_source)]
    known_z = known_z[np.isfinite(known_z).all(1)]
    if len(known_z) < FEWEST_PAIRS:
        return None
    rows = np.linspace(0, len(known_z) - 1, min(len(known_z), 2_000)).astype(np.int64)
    usual = knn(known_z[rows], known_z, NEAREST + 1)[0][:, -1]
    reach = float(np.quantile(usual, 0.99)) or 1.0
    return np.asarray(knn(np.asarray(z, np.float32), known_z, NEAREST)[0][:, -1] / reach, np.float32)


class Predictor(Protocol):
    """Gives expected values of a target from latent coordinates."""

    @property
    def name(self) -> str:
        """What its calibration is kept under."""
        ...

    def predict(self, z: FloatArray, scale: str, columns: IntArray) -> FloatArray:
        """Return values `(n, n_columns)` of cells `(n, n_latent)`."""
        ...


def choose_predictor(
    saved: SavedModel,
    source: str,
    target: str,
    *,
    route: Route,
    batch: str | None,
    device: torch.device,
    warn: Callable[[str], None],
) -> tuple[Predictor | StackPredictor, str]:
    """Return how values are made, and why.

    By default that is a stack fitted to cells measured in both, else a readout fitted to cells encoded from
    the source alone, else the decoder, else the readout there is. On real data each was better than the
    next.

    `batch`: as `decode_batch` takes it. Raises `UsageError`: the decoder, or a batch to decode under, is
    asked for and there is none.
    """
    readout, problem = saved.readouts[target], cannot_decode(saved, target)
    if problem is not None and (route is Route.DECODER or batch is not None):
        raise UsageError(
            f"{target} cannot be decoded: {problem}",
            field="--route" if route is Route.DECODER else OPTION,
            expected="auto or readout" if route is Route.DECODER else None,
            hint="--route readout gives log, scaled"
            + (" and counts" if "counts" in readout.by_scale else "")
            + " values",
        )
    stack = saved.stacks.get((source, target))
    if route is Route.STACK and stack is None:
        raise UsageError(
            f"the model has no stack from {source} to {target}",
            field="--route",
            found="stack",
            hint=f"train with `mocli impute --from {source} --to {target}` on cells measured in both "
            f"({FEWEST_PAIRS} or more), or use --route auto",
        )
    if stack is not None and (route is Route.STACK or (route is Route.AUTO and batch is None)):
        why = (
            "as asked"
            if route is Route.STACK
            else "its ways were weighed by how well they predict cells left out"
        )
        return StackPredictor(stack, readout), why
    may_stack = source != target and saved.description["pairing"] != Pairing.UNPAIRED.value
    if route is Route.AUTO and batch is None and may_stack:
        warn(
            f"the model has no stack from {source} to {target}, which predicts better: train with "
            f"`mocli impute --from {source} --to {target}` on {FEWEST_PAIRS} cells or more measured in both"
        )
    joint = isinstance(saved.model, EncodesJointly)
    fits = not joint or readout.source == source
    if route is Route.AUTO:
        if batch is not None:
            route, why = Route.DECODER, f"{OPTION} needs the decoder"
        elif problem is not None:
            route, why = Route.READOUT, problem
        elif source == target:
            route, why = Route.DECODER, f"{target} is what it was trained to reconstruct"
        elif fits:
            route, why = Route.READOUT, f"fitted to cells encoded from {source} alone"
        else:
            route, why = (
                Route.DECODER,
                f"the model has no readout fitted to cells encoded from {source} alone",
            )
    else:
        why = "as asked"
    if route is Route.READOUT:
        if not fits:
            by = f"from {readout.source} alone" if readout.source else "from all modalities measured in them"
            ways = [] if source == target else [f"train with `mocli impute --from {source} --to {target}`"]
            ways += [] if problem else ["use --route decoder"]
            warn(
                f"the readout of {target} was fitted to cells encoded {by}, so it is less accurate for "
                f"cells encoded from {source} alone" + (": " + ", or ".join(ways) if ways else "")
            )
        return readout, why
    return ValueDecoder.of(saved, target, decode_batch(saved, target, batch, warn), device), why


_IN_WORDS = {
    "stack": "a stack of regressions",
    "decoder": "the model's decoder",
    "readout": "a regression on the latent coordinates",
}


def in_words(name: str) -> str:
    """Say what a predictor of a name is; a decoder's may end in the batch, `decoder=LEVEL`."""
    kind, _, batch = name.partition("=")
    return _IN_WORDS[kind] + (f", batch {batch}" if batch else "")


def of_cells(predictor: Predictor, batch_codes: IntArray | None) -> Predictor:
    """Return a predictor for cells of these batches `(n,)`; only a decoder may depend on them."""
    return predictor.of_cells(batch_codes) if isinstance(predictor, ValueDecoder) else predictor


def training_pairs(trained: Trained, source: str, target: str) -> IntArray | None:
    """Return rows of the same training cell in source and target, `(n, 2)`; None if no pair is known."""
    pairs = trained.plan.pairs
    if (source, target) in pairs:
        return pairs[source, target]
    return pairs[target, source][:, ::-1] if (target, source) in pairs else None


def placed_by(trained: Trained, source: str, *, device: torch.device, seed: int) -> FloatArray | None:
    """Return latent coordinates of training cells from one modality alone, `(n_obs, n_latent)`.

    None if a model cannot encode a cell from one modality.
    """
    model, bundle = trained.model, trained.prepared.bundle
    if not isinstance(model, EncodesJointly):
        return trained.latent.by_modality[source]
    if isinstance(model, Encodes):
        return encode_rows(model, source, bundle.modalities[source].features, device)
    if isinstance(model, Extends):
        return infer_coordinates(model, bundle.seen_by(source)[0], device=device, seed=seed).z
    return None


def readout_from(
    trained: Trained, readout: FeatureReadout, source: str, target: str, z: FloatArray, *, seed: int
) -> FeatureReadout | None:
    """Refit a readout of the target to training cells encoded from the source alone, as new cells will be.

    None where coordinates come from one modality anyway, or too few cells were measured in both.

    `z`: as `placed_by` gives it.
    """
    plan = trained.plan
    if not isinstance(trained.model, EncodesJointly):
        return None
    pairs = training_pairs(trained, source, target)
    if pairs is None or len(pairs) < FEWEST_PAIRS:
        return None
    choice = next(c for c in plan.choices if c.file.name == target)
    # in file order, so that blocks are read in one sweep
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    cells = choice.file.take(pairs[:, 1])
    return readout.refitted(cells, choice.layer.layer, z[pairs[:, 0]], source=source, seed=seed)
