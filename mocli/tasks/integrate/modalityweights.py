"""`--modality-weights`: how informative each modality is for a cell, by weighted nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mocli.data.bundle import Codes, MultiOmics
from mocli.report.figures import table
from mocli.tasks.prepare.smoothing import own_coordinates
from mocli.tasks.run.run import Run
from mocli.tasks.score.cellcolumns import CellColumns, cells_of_files
from mocli.tasks.score.wnn import weighted_neighbors

MOST = 20_000
"""Most cells: for more, neighbours in every modality would take minutes."""


def weigh_modalities(
    run: Run, bundle: MultiOmics, names: Mapping[str, str], clusters: Codes | None
) -> list[CellColumns]:
    """Weigh the modalities for every cell measured in all; nothing if these cells are too few or too many.

    A modality counts by how much better a cell's nearest cells in it predict the cell than those in the
    others do (Hao et al. 2021, doi:10.1016/j.cell.2021.04.048); weights of a cell sum to 1. They come from
    the data, 50 components of each modality, not from the model.
    """
    order = list(bundle.modalities)
    cells = np.flatnonzero((bundle.rows >= 0).all(1))
    if len(order) < 2 or not 3 <= len(cells) <= MOST:
        run.warn(
            f"--modality-weights needs 3 to {MOST:,} cells measured in all of two modalities or more; "
            f"there are {len(cells):,}"
        )
        return []
    points = [
        own_coordinates(bundle.modalities[m], bundle.rows[cells, j], seed=run.options.seed, standardise=False)
        for j, m in enumerate(order)
    ]
    cell_weights = weighted_neighbors(points).weights.astype(np.float32)
    weights = {}
    for j, m in enumerate(order):
        weights[names[m]] = np.full(bundle.n_cells, np.nan, np.float32)
        weights[names[m]][cells] = cell_weights[:, j]
    groups = bundle.label if bundle.label is not None else clusters
    if groups is not None:
        codes = groups.codes[cells]
        rows = [
            [level, int((codes == k).sum()), *cell_weights[codes == k].mean(0).tolist()]
            for k, level in enumerate(groups.levels)
            if (codes == k).any()
        ]
        run.report.tables["modality_weights"] = table(
            "Which modality is most informative",
            "Mean weight of each modality by group (weighted nearest neighbours): above an equal share "
            "where the modality is more informative about these cells than the others are.",
            ["group", "cells", *weights],
            rows,
        )
    run.say(
        "mean weights: " + ", ".join(f"{name} {np.nanmean(column):.2f}" for name, column in weights.items())
    )
    said = "weights of modalities in " + ", ".join(f"obs['weight_{name}']" for name in weights)
    columns = {f"weight_{name}": column for name, column in weights.items()}
    return [CellColumns(said, columns, cells_of_files(bundle, names))]
