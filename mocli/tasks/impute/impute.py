"""`mocli impute`: expected values of one modality for cells measured in another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mocli.data.files.inputs import parse_source
from mocli.data.links.route import link_files
from mocli.errors import UsageError
from mocli.tasks.impute.holdout import HoldOut
from mocli.tasks.impute.options import CELLS, ImputeOptions
from mocli.tasks.prepare.footprint import foreseen
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.options import listed_names, one_of
from mocli.tasks.run.paths import Paths, command_line
from mocli.tasks.run.request import Request, Result, requested
from mocli.tasks.run.run import Run
from mocli.types import Route, Task


def impute(
    inputs: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    source: str | None = None,
    target: str | None = None,
    from_model: str | Path | None = None,
    cells: str = "missing",
    evaluate: bool = False,
    hold_out: str | float = 0.2,
    scale: str = "log",
    coverage: float = 0.9,
    features: str | Path | Sequence[str] | None = None,
    route: str = "auto",
    decode_batch: str | None = None,
    draw: bool = False,
    dry_run: bool = False,
    command: Sequence[str] | None = None,
    **shared: Any,
) -> Result:
    """Impute one modality from another; the shell's `mocli impute`.

    Parameters
    ----------
    source, target
        Modalities; None where there is no choice. The same twice denoises it: expected values
        of cells that were measured.
    from_model
        A model's folder; without it a model is trained first, and the arguments of
        `integrate` (`links`, `label_key`, `params`, ...) apply.
    cells
        `missing`: cells that lack the target; `all`: also those measured.
    evaluate
        Predict measured cells as if they were not, and compare.
    hold_out
        Cells kept out of training for that: a share, or `COLUMN=VALUE`.
    scale
        `log` (normalised, logged), `counts` (of a cell of median depth; denoised, at the cell's own
        depth), `scaled`; denoised also `shares` of the cell's total.
    coverage
        Share of true values that prediction intervals shall hold.
    features
        Names wanted, or a file with one a line; None for all.
    route
        How places become values: `decoder` (the model's own), `readout` (a regression on the
        latent), or `auto`, see `mocli.tasks.infer.predictor.choose_predictor`.
    decode_batch
        Level of the batch that the decoder takes cells to be of; `own` for that of each cell;
        None or `average` for the mean over all that measured the target in training.
    draw
        Whether to write a draw of every value from its likelihood as well (layer `sampled`).

    Raises
    ------
    MocliError
        Every error a user can mend; `exit_code` says of which sort.
    """
    from mocli.tasks.trained.readout import SCALES

    one_of(scale, list(SCALES), "--scale")
    one_of(cells, list(CELLS), "--cells")
    one_of(route, list(Route), "--route")
    if decode_batch is not None and route == Route.READOUT:
        raise UsageError(
            "a readout knows no batches to decode as",
            field="--decode-batch",
            found=f"--decode-batch {decode_batch} with --route {route}",
            hint="leave one of the two out",
        )
    if not 0 < coverage < 1:
        raise UsageError(
            "--coverage is a share between 0 and 1", field="--coverage", found=coverage, hint="such as 0.9"
        )
    asked = ImputeOptions(
        source=source,
        target=target,
        from_model=Path(from_model) if from_model is not None else None,
        cells=cells,
        evaluate=evaluate,
        hold_out=HoldOut.parse(hold_out),
        scale=scale,
        coverage=coverage,
        features=listed_names(features, "--features"),
        route=route,
        decode_batch=decode_batch,
        draw=draw,
    )
    _check_denoising(asked)
    request = requested(inputs, output=output, **shared)
    paths = Paths.of(request.output, request.run, suffixes=(".h5mu", ".h5ad"))
    sources = [parse_source(text).path for text in request.data.inputs]
    paths.refuse_inputs([*sources, *link_files(request.data.links)])
    if dry_run:
        return _dry_run(request, asked, paths)
    return _run(request, asked, paths, command if command is not None else command_line())


def _check_denoising(asked: ImputeOptions) -> None:
    """Raise `UsageError` for what means nothing where a modality is made from itself, or elsewhere."""
    if not asked.denoises:
        if asked.scale == "shares":
            raise UsageError(
                "shares of a cell's own total are of a modality that it was measured in",
                field="--scale",
                found=f"--scale shares --from {asked.source} --to {asked.target}",
                hint="--scale counts gives what a cell of median depth would have",
            )
        return
    for given, option, why in (
        (asked.evaluate, "--evaluate", "agreement with them would be reconstruction, not prediction"),
        (asked.hold_out not in (HoldOut(), HoldOut(0.2)), "--hold-out", "there is nothing to check"),
    ):
        if given:
            raise UsageError(
                f"a modality from itself is made of the very values that were measured: {why}",
                field=option,
                found=f"--from {asked.source} --to {asked.target}",
                hint=f"leave {option} out, or impute another modality",
            )


def _results(paths: Paths, asked: ImputeOptions) -> list[Path]:
    trains = asked.from_model is None
    return paths.results(trained=trains, calibrated=trains and not asked.denoises)


def _dry_run(request: Request, asked: ImputeOptions, paths: Paths) -> Result:
    from mocli.tasks.impute.survey import survey
    from mocli.tasks.prepare.plan import plan

    lines: list[str] = []
    paths.check(force=request.output.force)
    if asked.from_model is None:
        surveyed = survey(request, asked, Task.IMPUTE, say=lambda _: None, warn=lambda _: None)
        source, target = surveyed.direction.source, surveyed.direction.target
        lines.append(f"denoises {target}" if source == target else f"imputes {target} from {source}")
        lines.extend(
            f"keeps {int(out.sum()):,} cells of {name} out of training"
            for name, out in surveyed.held_out.items()
            if out.any()
        )
        made = plan(request.data, request.train, Task.IMPUTE, lines.append, files=surveyed.files)
        lines.append(foreseen(made, request.train, Task.IMPUTE))
        lines.extend(f"warning: {w}" for w in made.warnings)
    else:
        opened = open_modalities(request.data)
        lines.extend(
            f"{f.name}: {f.n_obs:,} cells x {f.n_vars:,} {f.kind} features from {f.where}" for f in opened
        )
        lines.extend(note for f in opened for note in f.notes)
        lines.append(f"model: {asked.from_model}")
    files = _results(paths, asked)
    lines.extend(f"would write {path}" for path in files)
    return Result(paths.output, {}, lines, files)


def _run(request: Request, asked: ImputeOptions, paths: Paths, command: Sequence[str]) -> Result:
    with Run("impute", paths, output=request.output, options=request.run, command=command) as run:
        # torch and scikit-learn are loaded only now: a dry run and a refusal need neither
        from mocli.tasks.impute.check import check
        from mocli.tasks.impute.denoise import Denoised
        from mocli.tasks.impute.draw import check_draws
        from mocli.tasks.impute.survey import survey
        from mocli.tasks.impute.work import Imputation, obtain_model, translate
        from mocli.tasks.impute.write import deliver
        from mocli.tasks.infer.direction import columns_of

        surveyed = survey(request, asked, Task.IMPUTE, say=run.say, warn=run.warn)
        saved, trained = obtain_model(run, request, Task.IMPUTE, surveyed)
        with run.timed("encode"):
            target = surveyed.direction.target
            if target in saved.readouts:
                saved.readouts[target].check_scale(asked.scale, target)
            if asked.draw:
                check_draws(saved, target)
            translation, why = translate(run, request, asked, surveyed, saved)
            columns = columns_of(asked.features, translation.names, target)
            denoised = Denoised.of(translation) if translation.source == target else None
            work = Imputation(asked, surveyed, translation, trained, columns, why, denoised)
        with run.timed("evaluate"):
            checked = check(run, request, work)
        with run.timed("write"):
            deliver(run, request.output, work, checked)
    return Result(paths.output, run.report.as_dict(), [], _results(paths, asked))
