"""Scores of latent coordinates that anybody holds as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mocli.metrics.embedding import Embedding
from mocli.report.figures import Entry
from mocli.tasks.score.evaluate import every_metric
from mocli.types import IntArray


def score_latents(
    latents: NDArray[Any] | Mapping[str, NDArray[Any]],
    *,
    labels: Any = None,
    batches: Any = None,
    pairs: Mapping[tuple[str, str], IntArray] | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Entry]:
    """Measure how good latent coordinates are, as `mocli integrate` does.

    Args:
        latents: Coordinates of cells, `(n, d)`, or of several modalities by name, `(n_m, d)` each.
        labels, batches: Cell types and batches: one value for each cell, `(n,)` or by modality; None, NaN and
            '' are unknown.
        pairs: For modalities (a, b) the rows of the same cell in both, `(n_pairs, 2)`.
        metrics: Names as in a report; None for all whose needs are met.

    Returns:
        By name (`foscttm[rna-prot]` of parts): `value` (None if undefined), `better`, `range`, `n`, `title`,
        `definition`, `sentence`.

    Raises:
        ValueError: Shapes that do not fit.
        UsageError: A name that no metric has.
    """
    z = dict(latents) if isinstance(latents, Mapping) else {"cells": latents}
    coded = [_coded(values, z) for values in (labels, batches)]
    embedding = Embedding(
        z={name: np.asarray(x, np.float32) for name, x in z.items()},
        label=coded[0][0],
        label_levels=coded[0][1],
        batch=coded[1][0],
        pairs=pairs,
        seed=seed,
        device=device,
    )
    return every_metric(embedding, metrics)


def _coded(
    values_of: Any, z: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, IntArray] | None, tuple[str, ...]]:
    """Return codes of values by modality, -1 for unknown ones, and their levels."""
    if values_of is None:
        return None, ()
    columns = dict(values_of) if isinstance(values_of, Mapping) else {next(iter(z)): values_of}
    values = np.concatenate([np.asarray(column, dtype=object) for column in columns.values()])
    codes, levels = pd.factorize(pd.Series(values, dtype=object).replace("", None), sort=True)
    ends = np.cumsum([len(column) for column in columns.values()])[:-1]
    parts = np.split(codes.astype(np.int64), ends)
    return dict(zip(columns, parts, strict=True)), tuple(map(str, levels))
