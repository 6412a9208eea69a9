"""The work of `mocli simulate`: a model, places of new cells, what they are measured under."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from mocli.errors import UsageError, did_you_mean
from mocli.models.base import Clusters, Draws, DrawsPlaces, Samples
from mocli.models.registry import models_that
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.simulate.groups import Group, Wanted, atlas_of, check_model, component_shares, settle
from mocli.tasks.simulate.libraries import libraries
from mocli.tasks.simulate.options import AS_SOURCE, AVERAGE
from mocli.tasks.simulate.places import about_the_mean, draw_sources, smoothed, variance_ratio
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.tasks.trained.train import Trained, train_model
from mocli.train.predict import cluster_cells
from mocli.types import Task

if TYPE_CHECKING:
    from numpy.random import Generator

    from mocli.data.files.modality import ModalityFile
    from mocli.tasks.run.request import Request
    from mocli.tasks.run.run import Run
    from mocli.tasks.simulate.options import SimulateOptions
    from mocli.types import DoubleArray, FloatArray, IntArray

MODEL = "the trained model"


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells before they are measured.

    Attributes
    ----------
    z
        Places, `(n, d)`.
    source
        Training cell that each follows, a row of the atlas, `(n,)`.
    group
        Which of the groups each is of, `(n,)`.
    label
        Code of the label, -1 for none, `(n,)`.
    batch
        Code of the batch, -1 for the mean over batches, `(n,)`.
    component
        Cluster of each by the model, or None.
    library
        Total counts by modality, `(n,)`.
    """

    z: FloatArray
    source: IntArray
    group: IntArray
    label: IntArray
    batch: IntArray
    component: IntArray | None
    library: dict[str, FloatArray]

    @property
    def n(self) -> int:
        """Number of cells."""
        return len(self.z)


@dataclass(eq=False)
class Simulation:
    """One run of `simulate`, from the model to the report.

    Attributes
    ----------
    files
        Input files: trained on, or to compare with; none is possible.
    trained
        What was trained in this run, None where a model was given.
    """

    run: Run
    request: Request
    asked: SimulateOptions
    saved: SavedModel
    files: list[ModalityFile]
    trained: Trained | None
    wanted: Wanted = field(init=False)
    cells: Cells = field(init=False)
    ratios: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, run: Run, request: Request, asked: SimulateOptions) -> Self:
        """Open files and the model; train where none is given."""
        files = open_modalities(request.data) if request.data.inputs else []
        trained = None
        if asked.from_model is None:
            trained = train_model(run, request, Task.SIMULATE, files)
            saved = load_model(run.paths.model)
            run.add_output(run.paths.model, MODEL)
        else:
            saved = load_model(asked.from_model)
            check_model(saved)
            run.say(f"model: {saved.description['model']} from {asked.from_model}")
            for note in (note for f in files for note in f.notes):
                run.say(note)
            request.tell_unused(run.warn)
        saved.model.module.to(run.device)
        return cls(run, request, asked, saved, files, trained)

    @property
    def sampler(self) -> Samples:
        """The model, as what draws from a likelihood."""
        if not isinstance(self.saved.model, Samples):
            raise TypeError(f"{self.saved.description['model']} declares simulate but cannot sample")
        return self.saved.model

    def place(self) -> None:
        """Settle what is asked, and place every cell."""
        asked, run = self.asked, self.run
        check_model(self.saved)
        p = component_shares(self.saved, str(run.device))
        self.wanted = settle(self.saved, asked, p)
        self._check_batch()
        for group in self.wanted.groups:
            run.say(group.words)
        parts = [self._of_group(i, group, p) for i, group in enumerate(self.wanted.groups)]
        z, source, components = (np.concatenate([part[j] for part in parts]) for j in range(3))
        of = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
        component = None
        if isinstance(self.saved.model, Clusters):
            likeliest = cluster_cells(self.saved.model, z, run.device).argmax(1)
            component = np.where(components >= 0, components, likeliest)
        labels = self.wanted.labels
        self.cells = Cells(
            z=z,
            source=source,
            group=of,
            label=np.full(len(z), -1) if labels is None else labels.codes[source],
            batch=self._batches(source),
            component=component,
            library=libraries(self.saved, self.wanted, source, of, asked, run),
        )

    def _of_group(
        self, position: int, group: Group, p: FloatArray | None
    ) -> tuple[FloatArray, IntArray, IntArray]:
        """Place the cells of a group: places, the training cells they follow, components (-1: not drawn)."""
        atlas, asked = atlas_of(self.saved), self.asked
        rng = np.random.default_rng([self.run.options.seed, position])
        if asked.from_mixture:
            return self._from_mixture(group, p, rng)
        source = draw_sources(group.rows, group.n, rng)
        cloud = atlas.cloud
        if asked.about_mean:
            if atlas.drawn is None:
                raise UsageError(
                    f"{self.saved.description['model']} knows no standard deviation of a cell's place",
                    field="--places",
                    found="mean",
                    hint="leave --places out"
                    if not isinstance(self.saved.model, Draws)
                    else "train it again with this version of mocli",
                )
            z, cloud = about_the_mean(atlas.z[group.rows], atlas.drawn[group.rows], group.n, rng), atlas.drawn
        else:
            own = np.searchsorted(group.rows, source)
            z = smoothed(cloud[group.rows], own, rng, device=str(self.run.device))
        self.ratios[group.name] = variance_ratio(z, cloud[group.rows])
        return z, source, np.full(group.n, -1)

    def _from_mixture(
        self, group: Group, p: FloatArray | None, rng: Generator
    ) -> tuple[FloatArray, IntArray, IntArray]:
        """Draw components, then places; all else is that of a training cell of the component."""
        model, atlas = self.saved.model, atlas_of(self.saved)
        if not isinstance(model, DrawsPlaces) or p is None:
            raise UsageError(
                f"{self.saved.description['model']} has no mixture to draw places from",
                field="--places",
                found="mixture",
                hint=f"leave --places out, or train {models_that(DrawsPlaces)}",
            )
        shares = p[group.rows].astype(np.float64)
        if group.component is not None:
            components = np.full(group.n, group.component)
        else:
            weights = shares.mean(0)
            if group.label is None:
                weights = model.cluster_weights().detach().cpu().numpy().astype(np.float64)
            components = rng.choice(len(weights), group.n, p=weights / weights.sum())
        source = np.empty(group.n, np.int64)
        for k in np.unique(components):
            mine = np.flatnonzero(components == k)
            source[mine] = draw_sources(group.rows, len(mine), rng, _not_none(shares[:, k]))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        with torch.inference_mode():
            drawn = model.draw_places(torch.from_numpy(components).to(self.run.device), generator)
        z: FloatArray = drawn.float().cpu().numpy()
        self.ratios[group.name] = variance_ratio(z, atlas.z[group.rows])
        return z, source, components

    def _check_batch(self) -> None:
        batch, asked = atlas_of(self.saved).batch, self.asked.batch
        if asked in (AS_SOURCE, AVERAGE):
            return
        if batch is None:
            raise UsageError(
                "the model knows no batches to simulate",
                field="--batch",
                found=asked,
                hint="train it with --batch-key COLUMN, or leave --batch out",
            )
        if asked not in batch.levels:
            raise UsageError(
                f"the model knows no batch '{asked}'",
                field="--batch",
                found=asked,
                expected=", ".join([AS_SOURCE, AVERAGE, *batch.levels]),
                hint=did_you_mean(asked, batch.levels, "batches"),
            )

    def _batches(self, source: IntArray) -> IntArray:
        batch, asked = atlas_of(self.saved).batch, self.asked.batch
        if batch is None or asked == AVERAGE:
            return np.full(len(source), -1)
        return batch.codes[source] if asked == AS_SOURCE else np.full(len(source), batch.levels.index(asked))


def _not_none(weights: DoubleArray) -> DoubleArray:
    """Weights, or equal ones where all are zero."""
    return weights if weights.sum() > 0 else np.ones_like(weights)
