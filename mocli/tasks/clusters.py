"""Clusters that a model itself has, as columns of obs and beside the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.clusters import ari
from mocli.models.base import Clusters
from mocli.train.predict import cluster_cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mocli.data.bundle import MultiOmics
    from mocli.models.base import Model
    from mocli.tasks.placement import Latent
    from mocli.tasks.run import Run
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
        return f"clusters in obs['{self.name}_cluster']"

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
        return {f"{self.name}_cluster": names[codes], f"{self.name}_cluster_probability": probability}


def find_clusters(
    run: Run, name: str, model: Model, latent: Latent, bundle: MultiOmics
) -> tuple[Clustered, ...]:
    """Return the clusters of a model that has some, after telling how far they agree with the labels."""
    if not isinstance(model, Clusters) or latent.joint is None:
        return ()
    probability = cluster_cells(model, latent.joint, run.device)
    codes, best = probability.argmax(1), probability.max(1)
    n_filled, n_all = len(np.unique(codes)), probability.shape[1]
    run.say(f"{name} has {n_all} clusters, {n_filled} of them with cells")
    if bundle.label is not None:
        known = bundle.label.codes >= 0
        value = ari(bundle.label.codes[known], codes[known])
        run.report.metrics["cluster_agreement"] = {
            "value": value,
            "better": "higher",
            "range": [-0.5, 1.0],
            "n": int(known.sum()),
            "title": "Agreement of clusters with labels",
            "definition": "Adjusted Rand index of each cell's likeliest cluster and its label.",
            "sentence": "1 where every cluster is a label, 0 where they have nothing in common.",
        }
        run.say(f"  cluster_agreement {value:.3f} (higher is better; adjusted Rand index with the labels)")
    cells = {modality: bundle.cells_of(modality) for modality in bundle.modalities}
    return (Clustered(name, {m: codes[c] for m, c in cells.items()}, {m: best[c] for m, c in cells.items()}),)
