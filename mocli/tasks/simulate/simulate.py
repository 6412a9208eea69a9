"""`mocli simulate`: new cells of chosen types, matched across the modalities of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mocli.data.files.inputs import parse_source
from mocli.data.links.route import link_files
from mocli.errors import UsageError
from mocli.tasks.prepare.footprint import foreseen
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.options import listed_names, one_of
from mocli.tasks.run.paths import Paths, command_line
from mocli.tasks.run.request import Result, requested
from mocli.tasks.run.run import Run
from mocli.tasks.simulate.options import AS_SOURCE, LIBRARIES, MODES, PLACES, SimulateOptions
from mocli.tasks.trained.foresee import plan_training
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mocli.tasks.run.request import Request


def simulate(
    inputs: str | Path | Sequence[str | Path] = (),
    *,
    output: str | Path,
    from_model: str | Path | None = None,
    label: str | Sequence[str] = (),
    component: int | Sequence[int] = (),
    fold: float | None = None,
    n_cells: int | None = None,
    modality: str | Sequence[str] = (),
    batch: str = AS_SOURCE,
    library: str | float | None = None,
    mode: str = "draw",
    places: str = "auto",
    dry_run: bool = False,
    command: Sequence[str] | None = None,
    **shared: Any,
) -> Result:
    """Simulate cells; the shell's `mocli simulate`.

    Parameters
    ----------
    inputs
        Cells to train on; with `from_model`, real cells to compare with, or none.
    from_model
        A model's folder; without it a model is trained first, and the arguments of
        `integrate` (`links`, `label_key`, `params`, ...) apply.
    label
        `COLUMN=VALUE` of the cells wanted; `COLUMN`, or nothing, for all labels.
    component
        Clusters of the model to draw from instead, counted from 0.
    fold, n_cells
        Simulated cells for each training cell of a label (1), or cells of each label.
    modality
        Those to write; none for all.
    batch
        Level of the batch that cells are of, `average`, or `as-source`: that of the training cell
        that each simulated one follows.
    library
        Total counts of a cell: `sampled` from the training cells of the label, jointly over
        modalities; their `median` or `mean`; or a number. `mean` in the mode `mean`, else `sampled`.
    mode
        `draw`: places as diverse as those of the training cells; `mean`: scCross' own way, one normal
        distribution about the mean place with the mean posterior standard deviation.
    places
        `cells`: around training cells; `mixture`: from the model's components by the label's share
        in each; `auto`: from the mixture where components are asked for.

    Raises
    ------
    MocliError
        Every error a user can mend; `exit_code` says of which sort.
    """
    one_of(mode, list(MODES), "--mode")
    one_of(places, list(PLACES), "--places")
    asked = SimulateOptions(
        from_model=Path(from_model) if from_model is not None else None,
        labels=(label,) if isinstance(label, str) else tuple(label),
        components=(component,) if isinstance(component, int) else tuple(component),
        fold=_fold(fold, n_cells),
        n_cells=n_cells,
        modalities=listed_names(modality, "--modality") if modality else (),
        batch=batch,
        library=_library(library, mode),
        mode=mode,
        places=places,
    )
    _check(asked)
    request = requested(inputs, output=output, **shared)
    paths = Paths.of(request.output, request.run, suffixes=(".h5mu",))
    sources = [parse_source(text).path for text in request.data.inputs]
    paths.refuse_inputs([*sources, *link_files(request.data.links)])
    if asked.from_model is None and not sources:
        raise UsageError(
            "cells are simulated by a trained model, or by one trained now on input files",
            field="--from-model",
            found="neither a model nor an input",
            hint="add --from-model OUT.model, or name the files to train on",
        )
    if dry_run:
        return _dry_run(request, asked, paths)
    return _run(request, asked, paths, command if command is not None else command_line())


def _fold(fold: float | None, n_cells: int | None) -> float | None:
    if fold is not None and n_cells is not None:
        raise UsageError(
            "--fold and --n-cells both say how many cells",
            field="--fold, --n-cells",
            found=f"--fold {fold:g} --n-cells {n_cells}",
            hint="leave one of the two out",
        )
    for value, option in ((fold, "--fold"), (n_cells, "--n-cells")):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(
                f"{option} must be above 0",
                field=option,
                found=value,
                hint="5 times as many cells as there are: --fold 5; 200 cells of each label: --n-cells 200",
            )
    return 1.0 if fold is None and n_cells is None else fold


def _library(given: str | float | None, mode: str) -> str | float:
    if given is None:
        return "mean" if mode == "mean" else "sampled"
    if given in LIBRARIES:
        return str(given)
    try:
        number = float(given)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(
            f"'{given}' is no value for --library",
            field="--library",
            expected=", ".join(LIBRARIES) + ", or a number of counts above 0",
        )
    return number


def _check(asked: SimulateOptions) -> None:
    if asked.components and asked.labels:
        raise UsageError(
            "cells are of a label or of a component", field="--label, --component", hint="leave one out"
        )
    if asked.mode == "mean" and asked.places == "mixture":
        raise UsageError(
            "the mode mean draws about a mean place, not from the mixture",
            field="--mode, --places",
            hint="leave one of the two out",
        )


def _dry_run(request: Request, asked: SimulateOptions, paths: Paths) -> Result:
    lines: list[str] = []
    paths.check(force=request.output.force)
    files = open_modalities(request.data) if request.data.inputs else []
    if asked.from_model is None:
        made = plan_training(request, Task.SIMULATE, lines.append, files)
        lines.append(foreseen(made, request.train, Task.SIMULATE))
        lines.extend(f"warning: {w}" for w in made.warnings)
    else:
        from mocli.tasks.simulate.groups import component_shares, settle
        from mocli.tasks.trained.saved import load_model

        saved = load_model(asked.from_model)
        lines.append(f"model: {saved.description['model']} from {asked.from_model}")
        lines.extend(group.words for group in settle(saved, asked, component_shares(saved)).groups)
    trains = asked.from_model is None
    written = paths.results(trained=trains)
    lines.extend(f"would write {path}" for path in written)
    return Result(paths.output, {}, lines, written)


def _run(request: Request, asked: SimulateOptions, paths: Paths, command: Sequence[str]) -> Result:
    with Run("simulate", paths, output=request.output, options=request.run, command=command) as run:
        # torch and scikit-learn are loaded only now: a refusal needs neither
        from mocli.tasks.simulate.work import Simulation
        from mocli.tasks.simulate.write import deliver

        work = Simulation.begin(run, request, asked)
        with run.timed("place"):
            work.place()
        with run.timed("write"):
            deliver(work)
    return Result(paths.output, run.report.as_dict(), [], paths.results(trained=asked.from_model is None))
