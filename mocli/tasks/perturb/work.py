"""The work of `mocli perturb`: a model, cells and the groups they form, features, what was found."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from mocli.data.transforms.recipe import highly_variable
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.models.base import Encodes, EntersLinearly
from mocli.tasks.infer.align import align, check_modality, find_modality, place
from mocli.tasks.infer.place import settle_cells
from mocli.tasks.perturb.across import Across
from mocli.tasks.perturb.cells import CellSets, split_cells
from mocli.tasks.perturb.chosencells import ChosenCells, check_cells, modality_among
from mocli.tasks.perturb.effects import Predicted, TargetReader, predict_changes
from mocli.tasks.perturb.reencode import Replacement
from mocli.tasks.perturb.screen import Screened, expression, screen, with_null
from mocli.tasks.perturb.settle import Settled
from mocli.tasks.perturb.shifts import Perturbation
from mocli.tasks.perturb.truth import Truth, compare_with_truth, true_features
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.trained.obtain import check_task
from mocli.tasks.trained.saved import load_model
from mocli.tasks.trained.train import train_model
from mocli.types import ModalityKind, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mocli.data.files.modality import ModalityFile
    from mocli.tasks.infer.align import Aligned
    from mocli.tasks.infer.place import LatentCells
    from mocli.tasks.perturb.options import PerturbOptions
    from mocli.tasks.perturb.screen import Asked
    from mocli.tasks.run.request import Request
    from mocli.tasks.run.run import Run
    from mocli.tasks.trained.saved import SavedModel
    from mocli.tasks.trained.train import Trained
    from mocli.types import CSR, FloatArray, IntArray

MOST_VARIABLE = 2000
"""Features of a screen by default."""

MOST_ROWS = 10_000_000
"""Lines of a table of predicted changes: perturbations, directions, sets of cells, target features."""

JOIN = "+"
"""Between the names of features that change together."""

_PATIENCE = 20.0  # seconds between two lines about progress


@dataclass(eq=False)
class PerturbationRun:
    """One run of `perturb`, from the model to what is written.

    Attributes
    ----------
    modality, file
        What is perturbed.
    trained
        What was trained in this run, None where a model was given.
    cells
        The perturbed cells; `sets` says which of them belong together.
    screened, predicted, truth
        What was found; None where not asked for.
    """

    run: Run
    request: Request
    asked: PerturbOptions
    saved: SavedModel
    files: list[ModalityFile]
    modality: str
    file: ModalityFile
    chosen: ChosenCells
    trained: Trained | None
    aligned: Aligned = field(init=False)
    cells: Replacement = field(init=False)
    sets: CellSets = field(init=False)
    settled: LatentCells | None = None
    perturbations: list[Perturbation] = field(init=False)
    screened: Screened | None = None
    predicted: Predicted | None = None
    truth: Truth | None = None

    @classmethod
    def begin(cls, run: Run, request: Request, asked: PerturbOptions) -> Self:
        """Open files, find cells and features, and train where no model is given."""
        files = open_modalities(request.data)
        trained = None
        if asked.from_model is None:
            kinds = {f.name: f.kind for f in files}
            name = modality_among(kinds, asked.source_modality, "the inputs")
            file = next(f for f in files if f.name == name)
            chosen = check_cells(file, asked)
            _check_names(asked.features, list(map(str, file.var.index)), name, file.where)
            if asked.target_modality is not None and asked.target_modality not in kinds:
                raise _no_target(asked.target_modality, list(kinds), "the inputs have")
            kept = _wanted(asked, chosen, file)
            data = replace(request.data, keep={name: kept})
            if asked.truth is not None:
                run.warn(
                    "the model is trained on all cells, those that were really perturbed as well: a fair "
                    "comparison with --truth gives --from-model one that has not seen them"
                )
            trained = train_model(run, replace(request, data=data), Task.PERTURB, files)
            saved = load_model(run.paths.model)
            run.add_output(run.paths.model, "the trained model")
            return cls(run, request, asked, saved, files, name, file, chosen, trained)
        saved = load_model(asked.from_model)
        run.say(f"model: {saved.description['model']} from {asked.from_model}")
        for note in (note for f in files for note in f.notes):
            run.say(note)
        check_task(saved.description["model"], Task.PERTURB)
        request.tell_unused(run.warn)
        if asked.source_modality is not None:
            check_modality(saved, asked.source_modality, "--source-modality")
        if asked.target_modality is not None and asked.target_modality not in saved.modalities:
            raise _no_target(asked.target_modality, list(saved.modalities), "the model has")
        given = {
            name: ModalityKind(entry["kind"])
            for name, entry in saved.modalities.items()
            if asked.source_modality == name or find_modality(files, name, saved) is not None
        }
        if not given:
            raise InputError(
                "no input is a modality of the model",
                file=", ".join(f.where for f in files),
                found=", ".join(f"{f.name} ({f.kind})" for f in files),
                expected=", ".join(saved.modalities),
                hint="name it: rna=FILE",
            )
        name = modality_among(given, asked.source_modality, "the model")
        found = find_modality(files, name, saved)
        if found is None:
            raise InputError(
                f"no input is the model's '{name}'",
                file=", ".join(f.where for f in files),
                found=", ".join(f"{f.name} ({f.kind})" for f in files),
                expected=name,
                hint=f"name it: {name}=FILE, or choose another with --source-modality",
            )
        chosen = check_cells(found, asked)
        _check_names(asked.features, saved.modalities[name]["var_names"], name, str(asked.from_model))
        return cls(run, request, asked, saved, files, name, found, chosen, None)

    @property
    def names(self) -> list[str]:
        """All features of the perturbed modality, in the model's order."""
        return list(map(str, self.saved.modalities[self.modality]["var_names"]))

    @property
    def absent(self) -> frozenset[int]:
        """Features of the model that the cells were not measured for."""
        return frozenset(int(c) for c in self.aligned.absent)

    def read(self, rows: IntArray) -> CSR:
        """Raw values of some cells of the file, in the model's order of features."""
        return self.aligned.read(rows)

    def place(self, rows: IntArray) -> Replacement:
        """Place some cells of the file through the saved transforms."""
        x, absent = self.read(rows), self.aligned.absent
        if self.settled is None:
            return Replacement.of(self.saved, self.modality, x, absent, self.run.device)
        return Replacement.settled(self.saved, self.modality, x, absent, self.settled, self._settled_at(rows))

    @property
    def _needed(self) -> IntArray:
        """Cells whose places are looked at, increasing."""
        return np.union1d(self.chosen.source, self.chosen.target)

    def _settled_at(self, rows: IntArray) -> IntArray:
        return np.searchsorted(self._needed, rows).astype(np.int64)

    def where(self, rows: IntArray) -> FloatArray:
        """Places of some cells of the file, `(n, n_latent)`."""
        if self.settled is not None:
            return self.settled.z[self._settled_at(rows)]
        return place(self.saved, self.modality, self.read(rows), self.aligned.absent, self.run.device)

    def encode(self) -> None:
        """Place the cells, find their groups, and settle what is perturbed."""
        run, asked, chosen = self.run, self.asked, self.chosen
        self.aligned = align(
            self.saved, self.modality, self.file, layers=self.request.data.layer, warn=run.warn
        )
        if not isinstance(self.saved.model, Encodes):
            some = self.file.take(self._needed)
            aligned = align(
                self.saved, self.modality, some, layers=self.request.data.layer, warn=lambda _: None
            )
            self.settled = settle_cells(
                self.saved, self.modality, aligned, self.request.data,
                device=run.device, seed=self.request.run.seed, tell=run,
            )  # fmt: skip
        self.cells = self.place(chosen.source)
        targets: FloatArray = np.zeros((0, self.cells.z.shape[1]), np.float32)
        if len(chosen.target):
            targets = self.where(chosen.target)
        groups = chosen.groups
        self.sets = split_cells(
            None if groups is None else groups[chosen.source],
            None if groups is None else groups[chosen.target],
            targets,
            n=len(chosen.source),
            min_cells=asked.min_cells,
        )
        where = f" ({asked.source})" if asked.source else ""
        run.say(f"{self.modality}: {len(chosen.source):,} cells{where} are perturbed")
        if asked.target is not None:
            run.say(f"towards {len(chosen.target):,} cells ({asked.target})")
        if self.sets.left_out:
            told = "; ".join(
                f"{name}: {n:,}" + (f" perturbed, {n_target:,} target" if asked.target is not None else "")
                for name, n, n_target in self.sets.left_out
            )
            run.warn(
                f"groups of fewer than {asked.min_cells} perturbed cells (--min-cells), or 20 target cells, "
                f"are part of all cells only: {told}"
            )
        self.perturbations = self._settle()
        if isinstance(self.cells.mover, Settled):
            run.say("where changed cells settle is found to first order, with their totals held")
        elif not isinstance(self.saved.model, EntersLinearly):
            run.say("the encoder does not begin with a linear layer: whole cells are encoded again")

    def perturb(self) -> None:
        """Screen, predict, compare: whatever is asked for."""
        run, asked = self.run, self.asked
        what = " and ".join(asked.effect.words(d) for d in asked.directions)
        run.say(f"{len(self.perturbations):,} perturbations, each {what}")
        every = self._with_null()
        target = asked.target_modality or self.modality
        if asked.predicts or asked.looks_across:
            reader = TargetReader.of(self.saved, target, run.device)
            run.say(f"{self.modality} -> {target}: values by the {reader.route}")
        if asked.screens:
            across = None
            if asked.looks_across:
                across = Across.of(reader, self.sets, self.where(self.chosen.target))
            self.screened = screen(
                self.cells, every, self.sets, asked.effect, asked.directions,
                absent=self.absent, across=across, progress=_progress(run.say),
            )  # fmt: skip
        if asked.predicts:
            n_rows = len(self.perturbations) * len(asked.directions) * len(reader.names) * len(self.sets.sets)
            if n_rows > MOST_ROWS:
                raise UsageError(
                    f"the table of predicted changes would have {n_rows:,} lines",
                    field="--features",
                    expected=f"at most {MOST_ROWS:,}",
                    hint="name fewer features, one --direction, or no --group-key",
                )
            self.predicted = predict_changes(
                self.cells, every, self.sets, asked.effect, asked.directions, reader,
                own=target == self.modality, absent=self.absent,
            )  # fmt: skip
            if asked.truth is not None:
                self.truth = compare_with_truth(self, reader)

    def _with_null(self) -> Asked:
        used = self.cells.response.used
        level = expression(self.cells, np.arange(len(self.cells.z)))[used]
        return with_null(self.perturbations, self.names, used, level, seed=self.request.run.seed)

    def _settle(self) -> list[Perturbation]:
        asked, names, used = self.asked, self.names, self.cells.response.used
        if asked.truth is not None and not asked.features:
            columns = true_features(self)
        elif asked.features:
            columns = self._named(asked.features)
        elif asked.screen == "all" or len(used) <= MOST_VARIABLE:
            columns = [int(c) for c in used]
        else:
            options = self.saved.recipes[self.modality].options
            ranked = highly_variable(
                self.read(self.chosen.source)[:, used], replace(options, n_top=MOST_VARIABLE, seen_in=None)
            )
            columns = [int(c) for c in used[ranked]]
        if asked.together:
            return [Perturbation(JOIN.join(names[c] for c in columns), tuple(columns))]
        return [Perturbation(names[c], (c,)) for c in columns]

    def _named(self, wanted: Sequence[str]) -> list[int]:
        where: dict[str, int] = {}
        for k, name in enumerate(self.names):
            where.setdefault(name, k)
        place = self.cells.response.place
        unused = [name for name in wanted if place[where[name]] < 0]
        if unused:
            raise InputError(
                f"the model's encoder takes {len(self.cells.response.used):,} of {len(place):,} features of "
                f"'{self.modality}', and not {'these' if len(unused) > 1 else 'this one'}",
                field="--features",
                found=", ".join(unused[:5]),
                hint=f"train it with all of them: --hvg {self.modality}=0",
            )
        lacking = [name for name in wanted if where[name] in self.absent]
        if lacking:
            self.run.warn(
                f"{self.file.name} has no {', '.join(lacking[:5])}: what was not measured cannot change"
            )
        return [where[name] for name in wanted]


def _wanted(asked: PerturbOptions, chosen: ChosenCells, file: ModalityFile) -> tuple[str, ...]:
    """Return features that a model trained now has to take, however little they vary."""
    named = dict.fromkeys(asked.features)
    if chosen.truth is not None:
        named |= dict.fromkeys(v for v in chosen.truth if v is not None)
    known = set(map(str, file.var.index))
    return tuple(name for name in named if name in known)


def _check_names(wanted: Sequence[str], names: Sequence[str], modality: str, where: str) -> None:
    """Raise `InputError` for features that are not there, with the nearest names."""
    known = set(map(str, names))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(
            f"{len(unknown):,} of {len(wanted):,} features to perturb are not among those of '{modality}'",
            file=where,
            field="--features",
            found=", ".join(unknown[:5]),
            hint=did_you_mean(unknown[0], known, "features"),
        )


def _no_target(name: str, known: Sequence[str], where: str) -> UsageError:
    return UsageError(
        f"there is no modality '{name}' to predict",
        field="--target-modality",
        found=name,
        expected=f"{where} {', '.join(known)}",
        hint=did_you_mean(name, known, "modalities"),
    )


def _progress(say: Callable[[str], None]) -> Callable[[int, int], None]:
    begun = [time.monotonic()]

    def tell(done: int, n: int) -> None:
        if time.monotonic() - begun[0] > _PATIENCE and done < n:
            begun[0] = time.monotonic()
            say(f"perturbing: {done:,} of {n:,}")

    return tell
