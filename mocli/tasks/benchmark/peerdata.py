"""The data for peers: all cells, prepared as for the controls, in a file that any numpy reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.batches import dense_rows, densify
from mocli.data.files.contents import choose_layer
from mocli.errors import EnvironmentProblem
from mocli.tasks.prepare.load import load
from mocli.tasks.score.baselines import component_baseline
from mocli.types import ModalityKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mocli.data.bundle import MultiOmics
    from mocli.data.files.modality import ModalityFile
    from mocli.peers.registry import Peer
    from mocli.tasks.benchmark.ground import Ground
    from mocli.tasks.prepare.load import Prepared

PANELS = frozenset({ModalityKind.PROT, ModalityKind.CYTO})
"""Kinds whose counts are written dense: few features, seldom zero."""


def counts_layer(file: ModalityFile, layers: Mapping[str, str]) -> str:
    """Return the matrix of a modality's raw counts; raises `InputError` where there is none."""
    return choose_layer(file, layers.get(file.name), wants_counts=True).layer


@dataclass(frozen=True, eq=False)
class PeerData:
    """Arrays of all cells, computed when they are first used.

    Attributes
    ----------
    layers
        Layer by modality, where the user names one.
    seed
        For highly variable features, LSI and principal components.
    """

    ground: Ground
    layers: Mapping[str, str]
    seed: int

    def write(self, peer: Peer, path: Path) -> None:
        """Write what a peer takes; see `mocli.peers.runner.Given`.

        Raises
        ------
        InputError
            It takes counts and a modality has none.
        EnvironmentProblem
            The file cannot be written.
        """
        arrays = dict(self._cells())
        for array in sorted(peer.takes):
            arrays |= {"components": self._components, "counts": self._counts,
                       "features": self._features, "linked": self._linked}[array]()  # fmt: skip
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                np.savez(stream, **arrays)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise EnvironmentProblem(
                "the data for a peer cannot be written", file=path, found=error.strerror or str(error)
            ) from error

    def forget(self) -> None:
        """Release the data: runs and scores do not need them."""
        self.__dict__.pop("_prepared", None)

    @cached_property
    def _prepared(self) -> Prepared:
        # the ground may be a sample of the cells, and keeps no recipes
        return load(self.ground.whole, None, seed=self.seed, say=_nothing, warn=_nothing)

    @property
    def _bundle(self) -> MultiOmics:
        return self._prepared.bundle

    def _cells(self) -> Iterator[tuple[str, Any]]:
        bundle = self._bundle
        yield "cells", np.asarray(bundle.obs_names, dtype=np.str_)
        yield "rows", bundle.rows
        yield "modalities", np.asarray(list(bundle.modalities), dtype=np.str_)
        yield "kinds", np.asarray([m.kind.value for m in bundle.modalities.values()], dtype=np.str_)
        for i, m in enumerate(bundle.modalities.values()):
            yield f"names{i}", np.asarray(m.obs_names, dtype=np.str_)
        if bundle.batch is not None:
            yield "batch", bundle.batch.codes
            yield "batch_levels", np.asarray(bundle.batch.levels, dtype=np.str_)

    def _components(self) -> dict[str, Any]:
        bundle = self._bundle
        base, rows_of = component_baseline(bundle, np.arange(bundle.n_cells), self.seed)
        z = np.zeros((bundle.n_cells, next(iter(base.z.values())).shape[1]), np.float32)
        for name, cells in rows_of.items():
            z[cells] = base.z[name]
        return {"components": z}

    def _features(self) -> dict[str, Any]:
        modalities = self._bundle.modalities.values()
        return {f"features{i}": dense_rows(m.features, np.arange(m.n_obs)) for i, m in enumerate(modalities)}

    def _linked(self) -> dict[str, Any]:
        (link,) = self._bundle.links
        names = list(self._bundle.modalities)
        sides = {link.source: link.source_features, link.target: link.target_features}
        return {f"linked{names.index(m)}": dense_rows(x, np.arange(x.n_obs)) for m, x in sides.items()}

    def _counts(self) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        for i, choice in enumerate(self.ground.whole.choices):
            file = choice.file
            x = file.read(counts_layer(file, self.layers))[:, self._prepared.recipes[file.name].selected]
            if file.kind in PANELS:
                arrays[f"counts{i}"] = densify(x)
            else:
                arrays |= {f"counts{i}": x.data, f"indices{i}": x.indices, f"indptr{i}": x.indptr}
                arrays[f"shape{i}"] = np.asarray(x.shape)
        return arrays


def _nothing(_: str) -> None:
    """Drop messages that were logged when the data were opened."""
