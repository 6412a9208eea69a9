"""Score every contender by the same metrics on the same cells; earlier scores are reused.

Metrics of partners, of links and (if no cell has two modalities) of modalities use the coordinates of
modalities; all others use one set of coordinates for each cell, the mean over its modalities if a method
gives no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mocli import __version__
from mocli.data.bundle import Codes
from mocli.metrics.embedding import Embedding
from mocli.metrics.label_transfer import majority
from mocli.metrics.registry import available_metrics
from mocli.nn.neighbors import knn
from mocli.report.figures import figure
from mocli.report.file import write_text
from mocli.tasks.benchmark.contender import Contender
from mocli.tasks.benchmark.ground import Ground
from mocli.tasks.score.baselines import component_baseline
from mocli.tasks.score.evaluate import Own, embedding_of, every_metric, linked_features, own_components
from mocli.tasks.trained.latent import measured_together
from mocli.types import FloatArray, IntArray

OF_PLACES = frozenset({"pairs", "linked"})
"""Needs of metrics that only coordinates of modalities can meet."""


@dataclass(eq=False)
class Scorer:
    """Scores contenders on one ground.

    Attributes:
        cache: Folder that keeps scores by what was scored.
        labels: Labels that are scored one by one; see `label_f1`.
    """

    ground: Ground
    cache: Path
    seed: int = 0
    device: str = "cpu"
    labels: Sequence[str] = ()
    reused: int = 0
    _own: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def score(self, contender: Contender, *, uncorrected: bool = False) -> dict[str, Any]:
        """Return entries by metric, as `mocli.metrics.registry.evaluate` does.

        `uncorrected`: the coordinates are uncorrected: metrics of conservation are meaningless for them.
        """
        of_labels = label_f1(contender.whole(self.ground), self.ground.bundle.label, self.labels, self.device)
        return self._by_metrics(contender, uncorrected=uncorrected) | of_labels

    def _by_metrics(self, contender: Contender, *, uncorrected: bool) -> dict[str, Any]:
        views = self._views(contender, uncorrected=uncorrected)
        fingerprint = self._fingerprint(views)
        file = self.cache / f"{fingerprint[:24]}.json"
        if file.exists():
            self.reused += 1
            return json.loads(file.read_text(encoding="utf-8"))
        metrics: dict[str, Any] = {}
        for names, embedding in views:
            metrics |= every_metric(embedding, names)
        self.cache.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(metrics))
        return metrics

    def _views(self, c: Contender, *, uncorrected: bool) -> list[tuple[list[str], Embedding]]:
        ground, metrics = self.ground, available_metrics()
        bundle = ground.bundle
        if ground.apart:
            everything = self._apart(c, own_places={} if uncorrected else self._of_modalities())
            return [(list(metrics), everything)]
        whole = c.whole(ground)
        groups = self._groups(c)
        own_places = {} if uncorrected else self._of_cells(groups)
        cells = embedding_of(
            {name: whole[rows] for name, rows in groups.items()},
            groups,
            bundle,
            seed=self.seed,
            own_places=own_places,
            device=self.device,
        )
        of_places = OF_PLACES if len(groups) > 1 else OF_PLACES | {"modalities"}
        first = [name for name, one in metrics.items() if not one.needs & of_places]
        views = [(first, cells)]
        if c.by_modality:
            rest = [name for name, one in metrics.items() if one.needs & of_places]
            views.append((rest, self._apart(c, own_places={})))
        return views

    def _apart(self, c: Contender, own_places: Mapping[str, Own]) -> Embedding:
        bundle, ground = self.ground.bundle, self.ground
        rows = {name: np.arange(len(z)) for name, z in c.by_modality.items()}
        pairs = {edge: p for edge, p in ground.pairs.items() if set(edge) <= set(c.by_modality)}
        if pairs and all(
            np.array_equal(c.by_modality[a][p[:, 0]], c.by_modality[b][p[:, 1]])
            for (a, b), p in pairs.items()
        ):
            # told the pairing: there is no distance between partners to measure
            pairs = pairs if c.kind == "control" else {}
        return embedding_of(
            c.by_modality,
            {name: bundle.cells_of(name) for name in c.by_modality},
            bundle,
            seed=self.seed,
            pairs=pairs,
            linked=linked_features(bundle, rows, seed=self.seed),
            own_places={name: places for name, places in own_places.items() if name in c.by_modality},
            device=self.device,
        )

    def _groups(self, c: Contender) -> dict[str, IntArray]:
        """Return the cells that the contender places, grouped by the modalities measured in them."""
        bundle = self.ground.bundle
        if c.joint is not None or set(c.by_modality) == set(bundle.modalities):
            return measured_together(bundle)
        columns = [i for i, name in enumerate(bundle.modalities) if name in c.by_modality]
        is_placed = np.asarray((bundle.rows[:, columns] >= 0).any(1))
        return {
            name: group_cells[is_placed[group_cells]]
            for name, group_cells in measured_together(bundle).items()
            if is_placed[group_cells].any()
        }

    def _of_modalities(self) -> dict[str, Own]:
        if "modalities" not in self._own:
            self._own["modalities"] = own_components(self.ground.bundle, seed=self.seed)
        return self._own["modalities"]

    def _of_cells(self, groups: Mapping[str, IntArray]) -> dict[str, Own]:
        """Return uncorrected coordinates of cells from all their modalities."""
        if "cells" not in self._own:
            self._own["cells"] = component_baseline(
                self.ground.bundle, np.arange(self.ground.bundle.n_cells), self.seed
            )
        base, rows_of = self._own["cells"]
        places = {}
        for name, cells in groups.items():
            in_cells, in_group = (
                np.asarray(np.isin(rows_of[name], cells)),
                np.asarray(np.isin(cells, rows_of[name])),
            )
            places[name] = np.flatnonzero(in_group), base.z[name][in_cells]
        return places

    def _fingerprint(self, views: list[tuple[list[str], Embedding]]) -> str:
        h = hashlib.sha256(f"{__version__} {self.seed} {self.device}".encode())
        metrics = available_metrics()
        for names, e in views:
            for name in names:
                h.update(f"{name} {metrics[name].definition}".encode())
            parts: list[Any] = [e.z, e.label, e.batch, e.pairs, e.linked, e.own]
            for part in parts:
                for key, values in (part or {}).items():
                    h.update(str(key).encode())
                    for array in values if isinstance(values, tuple) else (values,):
                        h.update(_bytes(array))
        return h.hexdigest()


def label_f1(z: FloatArray, label: Codes | None, wanted: Sequence[str], device: str) -> dict[str, Any]:
    """Return how well each of some labels is found by the vote of a cell's 15 nearest others: F1.

    It is the harmonic mean of recall and precision, over cells of known label, with one set of coordinates
    each.
    """
    if label is None or not wanted:
        return {}
    labelled = np.flatnonzero(label.codes >= 0)
    true = label.codes[labelled]
    neighbors = knn(z[labelled], z[labelled], 15, exclude_self=True, device=device)[1]
    called = majority(true[neighbors])
    entries = {}
    for level in (one for one in wanted if one in label.levels):
        code = label.levels.index(level)
        hits, either = int(((called == code) & (true == code)).sum()), int((called == code).sum())
        n = int((true == code).sum())
        entries[f"label_f1[{level}]"] = figure(
            2 * hits / (either + n) if n else None,
            "F1 of a label",
            "F1 of the vote of the 15 nearest other cells for one label, over cells of known label.",
            better="higher",
            bounds=(0.0, 1.0),
            n=n,
        )
    return entries


def _bytes(array: Any) -> bytes:
    return np.ascontiguousarray(array).tobytes() if isinstance(array, np.ndarray) else repr(array).encode()
