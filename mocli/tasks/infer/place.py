"""Places of cells measured in one modality: encoded, or trained where a model has no encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mocli.models.base import Encodes, EncodesJointly, Extends, Model, Schedule
from mocli.tasks.infer.align import project
from mocli.tasks.infer.query import query_of_one
from mocli.tasks.infer.slopes import Placed
from mocli.train.loop import Training, fit
from mocli.train.predict import encode_cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from mocli.data.bundle import MultiOmics
    from mocli.tasks.infer.align import Aligned
    from mocli.tasks.run.options import DataOptions
    from mocli.tasks.trained.saved import SavedModel
    from mocli.types import FloatArray


def place_cells(
    saved: SavedModel,
    name: str,
    aligned: Aligned,
    data: DataOptions,
    *,
    device: torch.device,
    seed: int,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> FloatArray:
    """Return the latent of every cell of a file of one modality, `(n_obs, n_latent)`.

    Raises
    ------
    InputError
        A covariate of the cells does not fit the model.
    TypeError
        The model can neither encode a modality nor take in cells.
    """
    if isinstance(saved.model, Encodes):
        return project(saved, name, aligned, device)
    return settle_cells(saved, name, aligned, data, device=device, seed=seed, say=say, warn=warn).z


def settle_cells(
    saved: SavedModel,
    name: str,
    aligned: Aligned,
    data: DataOptions,
    *,
    device: torch.device,
    seed: int,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Placed:
    """Train the places of every cell of a file of one modality, for a model without encoders.

    Raises
    ------
    InputError
        A covariate of the cells does not fit the model.
    TypeError
        The model cannot take in cells.
    """
    query = query_of_one(saved, name, aligned, data, say=say, warn=warn)
    say(
        f"{saved.description['model']} has no encoders: places of {len(query.rows):,} cells are trained, "
        "all that was learnt before stays as it is"
    )
    return infer_places(saved.model, query.load(), device=device, seed=seed)


def infer_places(model: Model, bundle: MultiOmics, *, device: torch.device, seed: int) -> Placed:
    """Train what the cells of a bundle add to a model, and return them at their places.

    The model is not changed. The schedule is its own, whatever training was given, so that
    a saved model places cells as the run did that trained it.
    """
    if not isinstance(model, Extends) or not isinstance(model, EncodesJointly):
        raise TypeError(f"{type(model).__name__} can neither encode a modality nor take in cells")
    # a model may draw where new levels start
    torch.manual_seed(seed)
    extended = model.extended(bundle)
    fit(extended, bundle, Schedule(), Training(device, seed))
    extended.module.eval()
    return Placed(extended, bundle, encode_cells(extended, bundle, device), device)
