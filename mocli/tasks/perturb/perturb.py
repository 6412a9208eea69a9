"""`mocli perturb`: features raised or lowered in cells, and where that takes the cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mocli.data.files.inputs import parse_source
from mocli.data.links.route import link_files
from mocli.errors import UsageError
from mocli.tasks.perturb.cells import Selection
from mocli.tasks.perturb.effect import Effect
from mocli.tasks.perturb.options import MIN_CELLS, SCREENS, PerturbOptions
from mocli.tasks.prepare.footprint import foreseen
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.options import listed_names
from mocli.tasks.run.paths import Paths, command_line
from mocli.tasks.run.request import Result, requested
from mocli.tasks.run.run import Run
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mocli.tasks.run.request import Request


def perturb(
    inputs: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    source: str | None = None,
    target: str | None = None,
    from_model: str | Path | None = None,
    source_modality: str | None = None,
    screen: str | Path | Sequence[str] | None = None,
    features: str | Path | Sequence[str] | None = None,
    together: bool = False,
    direction: str | None = None,
    effect: str = "scale=0.5",
    group_key: str | None = None,
    min_cells: int = MIN_CELLS,
    target_modality: str | None = None,
    write_predicted: bool = False,
    truth: str | None = None,
    dry_run: bool = False,
    command: Sequence[str] | None = None,
    **shared: Any,
) -> Result:
    """Change features of cells, place the cells again, and say where they went; `mocli perturb`.

    Parameters
    ----------
    source, target
        `COLUMN=VALUE`: the cells that are perturbed (all by default), and those that they should
        come nearer to.
    from_model
        A model's folder; without it a model is trained first, and the arguments of
        `integrate` (`links`, `label_key`, `params`, ...) apply.
    source_modality
        The one whose features change; expression by default.
    screen
        `hvg` (default: the 2,000 most variable features that the model takes), `all` of them, or
        names as in `features`.
    features
        Names, or a file with one a line, instead of a screen.
    together
        Change all features at once, as one signature.
    direction
        `up`, `down` or `both` (default; a knock-out only lowers).
    effect
        `scale=0.5` (by half), `knockout`, `log-shift=1` or `count-shift=1`.
    group_key
        Column of obs: everything is repeated within each of its groups of `min_cells` or more.
    target_modality
        Predict what the perturbed cells have in this modality; a screen measures there too how far
        each feature brings the cells towards the target group.
    write_predicted
        Write these values as OUT.predicted.h5mu.
    truth
        Column of obs that names the feature that was really perturbed in a cell: the prediction
        is held against those cells.

    Raises
    ------
    MocliError
        Every error a user can mend; `exit_code` says of which sort.
    """
    asked = _asked(
        source, target, from_model, source_modality, screen, features, together, direction, effect, group_key,
        min_cells, target_modality, write_predicted, truth,
    )  # fmt: skip
    request = requested(inputs, output=output, **shared)
    paths = Paths.of(request.output, request.run, suffixes=(".tsv",), beside=_beside(asked))
    read = [parse_source(text).path for text in request.data.inputs] + link_files(request.data.links)
    paths.refuse_inputs(read)
    if dry_run:
        return _dry_run(request, asked, paths)
    return _run(request, asked, paths, command if command is not None else command_line())


def _asked(
    source: str | None,
    target: str | None,
    from_model: str | Path | None,
    source_modality: str | None,
    screen: str | Path | Sequence[str] | None,
    features: str | Path | Sequence[str] | None,
    together: bool,  # noqa: FBT001
    direction: str | None,
    effect: str,
    group_key: str | None,
    min_cells: int,
    target_modality: str | None,
    write_predicted: bool,  # noqa: FBT001
    truth: str | None,
) -> PerturbOptions:
    what = Effect.parse(effect)
    if screen is not None and features is not None:
        raise UsageError(
            "--screen and --features both say which features change",
            field="--screen, --features",
            hint="leave one of the two out",
        )
    named = () if isinstance(screen, str) and screen in SCREENS else listed_names(screen, "--screen")
    named = named or listed_names(features, "--features")
    if target is None and target_modality is None and truth is None:
        raise UsageError(
            "say where the cells should go, or what is to be predicted",
            field="--to, --target-modality",
            hint="add --to COLUMN=VALUE, or --target-modality MOD with --features",
        )
    if target_modality is not None and not named and truth is None and target is None:
        raise UsageError(
            "values are predicted for features that are named",
            field="--target-modality",
            hint="add --features A,B; or --to COLUMN=VALUE, towards which a screen measures shifts",
        )
    if together and not named:
        raise UsageError(
            "--together needs features that are named", field="--together", hint="add --features A,B"
        )
    if write_predicted and (target_modality is None or not named):
        raise UsageError(
            "--write-predicted needs to know by which features and of which modality",
            field="--write-predicted",
            hint="add --features A,B --target-modality MOD",
        )
    if truth is not None and together:
        raise UsageError(
            "--truth names one perturbed feature a cell", field="--truth, --together", hint="leave one out"
        )
    if truth is not None and source is None:
        raise UsageError(
            "--truth needs the cells that were not perturbed",
            field="--from",
            hint=f"add --from {truth}=VALUE, the level of the control cells",
        )
    return PerturbOptions(
        source=Selection.parse(source, "--from"),
        target=Selection.parse(target, "--to"),
        from_model=Path(from_model) if from_model is not None else None,
        source_modality=source_modality,
        screen="" if named else str(screen or ("hvg" if truth is None or target is not None else "")),
        features=named,
        together=together,
        effect=what,
        directions=what.directions(direction or ("down" if truth is not None else None)),
        group_key=group_key,
        min_cells=min_cells,
        target_modality=target_modality,
        write_predicted=write_predicted,
        truth=truth,
    )


def _beside(asked: PerturbOptions) -> tuple[str, ...]:
    """Suffixes of what is written beside the output, which is the first table asked for."""
    found = [".effects.tsv"] if asked.screens and asked.predicts else []
    return (*found, *([".predicted.h5mu"] if asked.write_predicted else []))


def _dry_run(request: Request, asked: PerturbOptions, paths: Paths) -> Result:
    from mocli.tasks.perturb.chosencells import check_cells, modality_among
    from mocli.tasks.trained.foresee import plan_training

    lines: list[str] = []
    paths.check(force=request.output.force)
    files = open_modalities(request.data)
    if asked.from_model is None:
        made = plan_training(request, Task.PERTURB, lines.append, files)
        lines.append(foreseen(made, request.train, Task.PERTURB))
        lines.extend(f"warning: {w}" for w in made.warnings)
        name = modality_among({f.name: f.kind for f in files}, asked.source_modality, "the inputs")
        file = next(f for f in files if f.name == name)
        chosen = check_cells(file, asked)
        lines.append(f"perturbs {name} of {len(chosen.source):,} cells")
    else:
        lines.extend(f"{f.name}: {f.n_obs:,} cells x {f.n_vars:,} {f.kind} features" for f in files)
        lines.append(f"model: {asked.from_model}")
    written = paths.results(trained=asked.from_model is None)
    lines.extend(f"would write {path}" for path in written)
    return Result(paths.output, {}, lines, written)


def _run(request: Request, asked: PerturbOptions, paths: Paths, command: Sequence[str]) -> Result:
    with Run("perturb", paths, output=request.output, options=request.run, command=command) as run:
        # torch and scikit-learn are loaded only now: a dry run and a refusal need neither
        from mocli.tasks.perturb.work import PerturbationRun
        from mocli.tasks.perturb.write import deliver

        work = PerturbationRun.begin(run, request, asked)
        with run.timed("encode"):
            work.encode()
        with run.timed("perturb"):
            work.perturb()
        with run.timed("write"):
            deliver(work)
    return Result(paths.output, run.report.as_dict(), [], paths.results(trained=asked.from_model is None))
