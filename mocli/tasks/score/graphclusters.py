"""Clusters of the graph of nearest cells, for any model, as a column of obs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mocli.data.bundle import Codes
from mocli.report.figures import table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mocli.data.bundle import MultiOmics
    from mocli.data.files.modality import ModalityFile
    from mocli.tasks.run.run import Run
    from mocli.tasks.trained.latent import Latent
    from mocli.types import IntArray


@dataclass(frozen=True, eq=False)
class GraphClusters:
    """The cluster of every cell.

    Attributes
    ----------
    codes
        Of all cells; the levels are numbers from 1, the largest cluster first.
    cells
        The cells that the rows of each file's modality are of.
    """

    codes: Codes
    cells: Mapping[str, IntArray]

    @property
    def said(self) -> str:
        """The column, for people."""
        return f"clusters in obs['{self.codes.key}']"

    def of_modality(self, modality: str) -> dict[str, pd.Categorical]:
        """Return the column for the obs of a modality."""
        return self._column(self.codes.codes[self.cells[modality]])

    def of_whole(self, cells: Mapping[str, IntArray], n_cells: int) -> dict[str, pd.Categorical]:
        """Return the column for the obs of the whole; cells of modalities left out have no cluster."""
        codes = np.full(n_cells, -1, np.int64)
        for modality, rows in cells.items():
            codes[rows] = self.codes.codes[self.cells[modality]]
        return self._column(codes)

    def _column(self, codes: IntArray) -> dict[str, pd.Categorical]:
        return {self.codes.key: pd.Categorical.from_codes(codes, categories=list(self.codes.levels))}


def column_for(key: str) -> str:
    """Return the column of obs for a latent of an obsm key: `scmodal_louvain` for `X_scmodal`."""
    return f"{key.removeprefix('X_')}_louvain"


def tell_replaced(files: Sequence[ModalityFile], column: str, warn: Callable[[str], None]) -> None:
    """Say so where a modality has a column of that name, which the output will not have."""
    having = [f.name for f in files if column in f.obs]
    if having:
        warn(
            f"obs['{column}'] of {' and '.join(having)} is replaced in the output by the clusters of this "
            "run; --key-added gives them another name"
        )


def cluster_graph(
    run: Run,
    resolution: float,
    column: str,
    latent: Latent,
    bundle: MultiOmics,
    names: Mapping[str, str],
) -> GraphClusters:
    """Cluster all cells of a bundle by their places, and put the sizes into the report.

    Parameters
    ----------
    column
        Of obs, to write.
    names
        The file's name of each of the bundle's modalities that was measured.
    """
    # imported here: a dry run must not pay for torch
    from mocli.metrics.clusters import louvain_of

    codes = louvain_of(latent.whole(bundle), resolution, device=str(run.device))
    n = int(codes.max(initial=-1)) + 1
    cells = {own: bundle.cells_of(name) for name, own in names.items()}
    run.say(f"{n} Louvain clusters at resolution {resolution:g}")
    sizes = [np.bincount(codes, minlength=n), *(np.bincount(codes[of], minlength=n) for of in cells.values())]
    rows: list[list[Any]] = [[str(i + 1), *(int(of[i]) for of in sizes)] for i in range(n)]
    run.report.tables["clusters"] = table(
        f"Louvain clusters, obs['{column}']",
        "Of the graph in which two cells are joined if either is among the 15 nearest other "
        f"cells of the other in the latent, by modularity at resolution {resolution:g}; the largest first.",
        ["cluster", "cells", *cells],
        rows,
    )
    return GraphClusters(Codes(column, codes, tuple(str(i + 1) for i in range(n))), cells)
