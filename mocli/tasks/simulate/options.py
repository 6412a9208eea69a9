"""What is asked of a simulation, beside what training needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODES = ("draw", "mean")
PLACES = ("auto", "cells", "mixture")
AS_SOURCE, AVERAGE = "as-source", "average"
LIBRARIES = ("sampled", "median", "mean")


@dataclass(frozen=True)
class SimulateOptions:
    """What is asked of a simulation, beside what training needs.

    Attributes
    ----------
    labels
        `COLUMN=VALUE`, or `COLUMN` for all of its values.
    fold, n_cells
        Cells for each of the training cells, or cells of each label; one of the two is None.
    batch
        A level, `average` or `as-source`.
    library
        One of `LIBRARIES`, or a number of counts.
    """

    from_model: Path | None
    labels: tuple[str, ...]
    components: tuple[int, ...]
    fold: float | None
    n_cells: int | None
    modalities: tuple[str, ...]
    batch: str
    library: str | float
    mode: str
    places: str
