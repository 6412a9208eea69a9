"""Clusters of cells, a model's own or of the k-NN graph: columns of obs, and their agreement with labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True, eq=False)
class Clustered:
    """The likeliest cluster of every cell, and its probability, by modality, rows in file order."""

    name: str
    codes: Mapping[str, IntArray]
    probability: Mapping[str, FloatArray]

    @property
    def said(self) -> str:
        """The main column, in words."""
        return f"clusters in obs['{column_of(self.name)}']"

    def of_modality(self, modality: str) -> dict[str, StrArray | FloatArray]:
        """Columns for the obs of a modality, by name."""
        return self._columns(self.codes[modality], self.probability[modality])

    def of_whole(self, cells: Mapping[str, IntArray], n_cells: int) -> dict[str, StrArray | FloatArray]:
        """Columns for the obs of the whole; `cells` gives the row there of each row of a modality."""
        codes, probability = np.full(n_cells, -1, np.int64), np.zeros(n_cells, np.float32)
        for modality, rows in cells.items():
            codes[rows], probability[rows] = self.codes[modality], self.probability[modality]
        return self._columns(codes, probability)

    def _columns(self, codes: IntArray, probability: FloatArray) -> dict[str, StrArray | FloatArray]:
        # cells of modalities left out have no cluster; counted from 1, as people do
        names = np.array([*map(str, range(1, codes.max(initial=0) + 2)), "none"], dtype=object)
        return {column_of(self.name): names[codes], f"{self.name}_cluster_probability": probability}


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
) -> tuple[Clustered, ...]:
    """Return the clusters of a model that has some, and log how far they agree with the labels.

    `names` gives the file's name of each of the model's modalities that was measured.
    """
    if not isinstance(model, Clusters) or latent.joint is None:
        return ()
    from mocli.train.predict import (
        cluster_cells,
    )  # late: a dry run, which names columns, must not pay for torch

    probability = cluster_cells(model, latent.joint, run.device)
    codes, best = probability.argmax(1), probability.max(1)
    n_filled, n_all = len(np.unique(codes)), probability.shape[1]
    run.say(f"{name} has {n_all} clusters, {n_filled} of them with cells")
    for key, entry in agreement(bundle.label, codes).items():
        run.report.metrics[key] = entry
        if entry["value"] is not None:
            run.say(spoken(key, entry, f"{_SAID[key]} with the labels"))
    cells = {file_name: bundle.cells_of(modality) for modality, file_name in names.items()}
    return (Clustered(name, {m: codes[c] for m, c in cells.items()}, {m: best[c] for m, c in cells.items()}),)


@dataclass(frozen=True, eq=False)
class GraphClusters:
    """The cluster of every cell.

    Attributes:
        codes: Codes of all cells; the levels are numbers from 0, the largest cluster first.
        cells: The cells of the rows of each file's modality.
        also: A second column that holds them, too.
    """

    codes: Codes
    cells: Mapping[str, IntArray]
    also: str | None = None

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
        keys = (self.codes.key,) if self.also is None else (self.codes.key, self.also)
        return dict.fromkeys(keys, pd.Categorical.from_codes(codes, categories=list(self.codes.levels)))


def cluster_graph(
    run: Run,
    resolution: float,
    column: str,
    nearest: Nearest,
    bundle: MultiOmics,
    names: Mapping[str, str],
) -> GraphClusters:
    """Cluster all cells of a bundle by their coordinates, and put the sizes into the report.

    Args:
        column: The column of obs to write.
        nearest: Neighbours of all cells of the bundle, by `latent.whole(bundle)`.
        names: The file's name of each of the bundle's modalities that was measured.
    """
    codes = louvain_of(nearest, resolution)
    n = int(codes.max(initial=-1)) + 1
    cells = {file_name: bundle.cells_of(name) for name, file_name in names.items()}
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
    return GraphClusters(clusters, cells)
