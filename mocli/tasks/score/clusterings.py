"""Columns that a run adds to obs: clusters of cells, their agreement with labels, weights of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from mocli.data.bundle import Codes, MultiOmics
from mocli.data.files.obs import read_column
from mocli.metrics.clusters import ARI_BOUNDS, ari, louvain_of, nmi
from mocli.metrics.embedding import Nearest
from mocli.models.base import Clusters, Model
from mocli.report.figures import Entry, figure, spoken, table
from mocli.tasks.run.run import Run
from mocli.tasks.score.describe import describe_clusters, describe_quality, shared_markers
from mocli.tasks.trained.latent import Latent
from mocli.types import FloatArray, IntArray, StrArray

MOST_WEIGHED = 20_000
"""Most cells whose modalities are weighed: for more, neighbours in every modality would take minutes."""

Column: TypeAlias = "pd.Categorical | FloatArray | StrArray"


@dataclass(frozen=True, eq=False)
class CellColumns:
    """Columns of obs.

    Attributes:
        said: The main column, for people.
        columns: `(n_cells,)` by name.
        cells: The cells of the rows of each file's modality.
        missing: By column the value of cells that are not in the bundle, where it is not a missing value.
    """

    said: str
    columns: Mapping[str, Column]
    cells: Mapping[str, IntArray]
    missing: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_codes(cls, codes: Codes, cells: Mapping[str, IntArray], names: Sequence[str] = ()) -> CellColumns:
        """Return categories as one column of their own name, or as several columns of other names."""
        column = pd.Categorical.from_codes(codes.codes, categories=list(codes.levels))
        return cls(f"clusters in obs['{codes.key}']", dict.fromkeys(names or [codes.key], column), cells)

    def of_modality(self, modality: str) -> dict[str, Column]:
        """Return columns for the obs of a modality, by name."""
        return {name: column[self.cells[modality]] for name, column in self.columns.items()}

    def of_whole(self, cells: Mapping[str, IntArray], n_cells: int) -> dict[str, Column]:
        """Return columns for the obs of the whole; `cells` gives the row there of each row of a modality."""
        rows = np.full(n_cells, -1, np.int64)
        for modality, rows_there in cells.items():
            rows[rows_there] = self.cells[modality]
        return {name: _taken(column, rows, self.missing.get(name)) for name, column in self.columns.items()}


def cells_of_files(bundle: MultiOmics, names: Mapping[str, str]) -> dict[str, IntArray]:
    """Return the cells of the rows of each file's modality; `names` gives its name by the bundle's."""
    return {file_name: bundle.cells_of(name) for name, file_name in names.items()}


def _taken(column: Column, rows: IntArray, missing: Any) -> Column:
    """Return some values in order, and the missing one for row -1."""
    if isinstance(column, pd.Categorical):
        return column.take(rows, allow_fill=True)
    taken = np.full(len(rows), np.nan if missing is None else missing, column.dtype)
    taken[rows >= 0] = column[rows[rows >= 0]]
    return taken


_SAID = {"cluster_agreement": "adjusted Rand index", "cluster_agreement_nmi": "normalised mutual information"}


def agreement(label: Codes | None, clusters: IntArray) -> dict[str, Entry]:
    """Return entries for the report: how far a model's clusters `(n_cells,)` agree with the labels.

    Cells without a label (-1) or a cluster (-1) do not count; None where all others have one label.
    """
    if label is None:
        return {}
    labelled = (label.codes >= 0) & (clusters >= 0)
    defined = len(np.unique(label.codes[labelled])) > 1
    figures = {
        "cluster_agreement": (
            ari,
            ARI_BOUNDS,
            "Agreement of the model's clusters with labels (ARI)",
            "Adjusted Rand index of each cell's likeliest cluster and its label.",
            "1 if every cluster is a label, 0 if they have nothing in common.",
        ),
        "cluster_agreement_nmi": (
            nmi,
            (0.0, 1.0),
            "Agreement of the model's clusters with labels (NMI)",
            "Mutual information of each cell's likeliest cluster and its label, divided by the mean of their "
            "entropies.",
            "1 if every cluster is a label, 0 if neither says anything about the other.",
        ),
    }
    return {
        key: figure(
            compare(label.codes[labelled], clusters[labelled]) if defined else None,
            title,
            definition,
            sentence,
            better="higher",
            bounds=bounds,
            n=int(labelled.sum()),
        )
        for key, (compare, bounds, title, definition, sentence) in figures.items()
    }


def written_agreement(path: Path, model: str, bundle: MultiOmics) -> dict[str, Entry]:
    """Return `agreement` for the clusters that a model wrote, on the cells of a bundle.

    Cells are found by name; empty where the model has no clusters.
    """
    columns = read_column(path, column_of(model))
    words = np.full(bundle.n_cells, None, dtype=object)
    for name in [m for m in bundle.modalities if m in columns]:
        column, cells = columns[name].astype(str), bundle.cells_of(name)
        obs_names = bundle.modalities[name].obs_names
        for names in (obs_names, [f"{name}:{cell}" for cell in obs_names]):
            rows = column.index.get_indexer(pd.Index(names))
            words[cells[rows >= 0]] = column.to_numpy(object)[rows[rows >= 0]]
    return agreement(bundle.label, pd.factorize(words)[0]) if columns else {}


def column_of(model: str) -> str:
    """Return the column of obs that holds a model's clusters."""
    return f"{model}_cluster"


def find_clusters(
    run: Run, name: str, model: Model, latent: Latent, bundle: MultiOmics, names: Mapping[str, str]
) -> list[CellColumns]:
    """Return the likeliest cluster of each cell and its probability, by a model that has clusters; log them.

    `names` gives the file's name of each of the model's modalities that was measured.
    """
    if not isinstance(model, Clusters) or latent.joint is None:
        return []
    # late: a dry run, which names columns, must not pay for torch
    from mocli.train.predict import cluster_cells

    probability = cluster_cells(model, latent.joint, run.device)
    codes, best = probability.argmax(1), probability.max(1)
    n_filled, n_all = len(np.unique(codes)), probability.shape[1]
    run.say(f"{name} has {n_all} clusters, {n_filled} of them with cells")
    for key, entry in agreement(bundle.label, codes).items():
        run.report.metrics[key] = entry
        if entry["value"] is not None:
            run.say(spoken(key, entry, f"{_SAID[key]} with the labels"))
    column, probable = column_of(name), f"{name}_cluster_probability"
    # counted from 1, as people do
    numbers = np.array([str(i) for i in range(1, n_all + 1)], dtype=object)
    columns = {column: numbers[codes], probable: best}
    said, missing = f"clusters in obs['{column}']", {column: "none", probable: 0.0}
    return [CellColumns(said, columns, cells_of_files(bundle, names), missing)]


def cluster_graph(
    run: Run, resolution: float, column: str, nearest: Nearest, bundle: MultiOmics, names: Mapping[str, str]
) -> Codes:
    """Cluster all cells by their coordinates, the largest cluster first, and put the sizes into the report.

    Args:
        column: The column of obs to write.
        nearest: Neighbours of all cells of the bundle, by `latent.whole(bundle)`.
        names: The file's name of each of the bundle's modalities that was measured.
    """
    codes = louvain_of(nearest, resolution)
    n = int(codes.max(initial=-1)) + 1
    cells = cells_of_files(bundle, names)
    run.say(f"{n} Louvain clusters at resolution {resolution:g}")
    sizes = [
        np.bincount(codes, minlength=n),
        *(np.bincount(codes[rows_of], minlength=n) for rows_of in cells.values()),
    ]
    rows: list[list[Any]] = [[str(i), *(int(counts[i]) for counts in sizes)] for i in range(n)]
    run.report.tables["clusters"] = table(
        f"Louvain clusters, obs['{column}']",
        "Of the graph in which two cells are joined if either is among the 15 nearest other "
        f"cells of the other in the latent, by modularity at resolution {resolution:g}; the largest first.",
        ["cluster", "cells", *cells],
        rows,
    )
    clusters = Codes(column, codes, tuple(map(str, range(n))))
    run.report.tables |= describe_clusters(bundle, clusters, seed=run.options.seed)
    groups = clusters if bundle.label is None else bundle.label
    shared = shared_markers(bundle, groups, seed=run.options.seed)
    if shared is not None:
        run.report.tables["shared_markers"] = shared
    run.report.tables["quality"] = describe_quality(bundle)
    return clusters


def weigh_modalities(
    run: Run, bundle: MultiOmics, names: Mapping[str, str], clusters: Codes | None
) -> list[CellColumns]:
    """Weigh the modalities for every cell measured in all; nothing if these cells are too few or too many.

    A modality counts by how much better a cell's nearest cells in it predict the cell than those in the
    others do (Hao et al. 2021, doi:10.1016/j.cell.2021.04.048); weights of a cell sum to 1. They come from
    the data, 50 components of each modality, not from the model.
    """
    # imported here: a dry run must not pay for torch
    from mocli.tasks.score.baselines import weighted_neighbors

    order = list(bundle.modalities)
    cells = np.flatnonzero((bundle.rows >= 0).all(1))
    if len(order) < 2 or not 3 <= len(cells) <= MOST_WEIGHED:
        run.warn(
            f"--modality-weights needs 3 to {MOST_WEIGHED:,} cells measured in all of two modalities or "
            f"more; there are {len(cells):,}"
        )
        return []
    # imported here: a dry run must not pay for torch
    from mocli.tasks.prepare.smoothing import own_coordinates

    points = [
        own_coordinates(bundle.modalities[m], bundle.rows[cells, j], seed=run.options.seed, standardise=False)
        for j, m in enumerate(order)
    ]
    cell_weights = weighted_neighbors(points, device=str(run.device)).weights.astype(np.float32)
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
