"""Clusters that a model itself has, as columns of obs and beside the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mocli.data.files.obs import read_column
from mocli.metrics.clusters import ARI_BOUNDS, ari, nmi
from mocli.models.base import Clusters
from mocli.report.figures import Entry, figure
from mocli.train.predict import cluster_cells

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mocli.data.bundle import Codes, MultiOmics
    from mocli.models.base import Model
    from mocli.tasks.run.run import Run
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
        """The main column, for people."""
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
    """Return entries for the report: how far a model's clusters `(n_cells,)` are the labels.

    Cells without a label (-1) or a cluster (-1) do not count; None where all others have one label.
    """
    if label is None:
        return {}
    known = (label.codes >= 0) & (clusters >= 0)
    defined = len(np.unique(label.codes[known])) > 1
    figures = {
        "cluster_agreement": (
            ari,
            ARI_BOUNDS,
            "Agreement of the model's clusters with labels (ARI)",
            "Adjusted Rand index of each cell's likeliest cluster and its label.",
            "1 where every cluster is a label, 0 where they have nothing in common.",
        ),
        "cluster_agreement_nmi": (
            nmi,
            (0.0, 1.0),
            "Agreement of the model's clusters with labels (NMI)",
            "Mutual information of each cell's likeliest cluster and its label, divided by the mean of their "
            "entropies.",
            "1 where every cluster is a label, 0 where neither tells anything of the other.",
        ),
    }
    return {
        key: figure(
            compare(label.codes[known], clusters[known]) if defined else None,
            title,
            definition,
            sentence,
            better="higher",
            bounds=bounds,
            n=int(known.sum()),
        )
        for key, (compare, bounds, title, definition, sentence) in figures.items()
    }


def written_agreement(path: Path, model: str, bundle: MultiOmics) -> dict[str, Entry]:
    """Return what `agreement` says of the clusters that a model wrote, on the cells of a bundle.

    Cells are found by name; empty where the model has no clusters.
    """
    found = read_column(path, column_of(model))
    words = np.full(bundle.n_cells, None, dtype=object)
    for name in [m for m in bundle.modalities if m in found]:
        column, cells = found[name].astype(str), bundle.cells_of(name)
        own = bundle.modalities[name].obs_names
        for names in (own, [f"{name}:{cell}" for cell in own]):
            rows = column.index.get_indexer(pd.Index(names))
            words[cells[rows >= 0]] = column.to_numpy(object)[rows[rows >= 0]]
    return agreement(bundle.label, pd.factorize(words)[0]) if found else {}


def column_of(model: str) -> str:
    """Return the column of obs that holds a model's clusters."""
    return f"{model}_cluster"


def find_clusters(
    run: Run, name: str, model: Model, latent: Latent, bundle: MultiOmics, names: Mapping[str, str]
) -> tuple[Clustered, ...]:
    """Return the clusters of a model that has some, after telling how far they agree with the labels.

    `names` gives the file's name of each of the model's modalities that was measured.
    """
    if not isinstance(model, Clusters) or latent.joint is None:
        return ()
    probability = cluster_cells(model, latent.joint, run.device)
    codes, best = probability.argmax(1), probability.max(1)
    n_filled, n_all = len(np.unique(codes)), probability.shape[1]
    run.say(f"{name} has {n_all} clusters, {n_filled} of them with cells")
    for key, entry in agreement(bundle.label, codes).items():
        run.report.metrics[key] = entry
        if entry["value"] is not None:
            run.say(f"  {key} {entry['value']:.3f} (higher is better; {_SAID[key]} with the labels)")
    cells = {own: bundle.cells_of(modality) for modality, own in names.items()}
    return (Clustered(name, {m: codes[c] for m, c in cells.items()}, {m: best[c] for m, c in cells.items()}),)
