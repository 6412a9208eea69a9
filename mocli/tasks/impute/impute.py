"""`mocli impute`: expected values of one modality for cells measured in another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mocli.errors import UsageError
from mocli.tasks.impute.holdout import HoldOut
from mocli.tasks.impute.options import CELLS, ImputeOptions
from mocli.tasks.impute.survey import survey
from mocli.tasks.infer.direction import columns_of
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.frame import Foresight, Tell, Verb, perform
from mocli.tasks.run.options import listed_names, one_of
from mocli.tasks.run.request import Request, Result, requested
from mocli.tasks.run.run import Run
from mocli.tasks.trained.foresee import foresee_training
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
    verb = Verb(
        task="impute",
        suffixes=(".h5mu", ".h5ad"),
        foresee=partial(_foresee, request, asked),
        work=partial(_work, request, asked),
        trains=asked.from_model is None,
        calibrates=asked.from_model is None and not asked.denoises,
    )
    return perform(verb, request, dry_run=dry_run, command=command)


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


def _foresee(request: Request, asked: ImputeOptions, tell: Tell) -> None:
    if asked.from_model is None:
        surveyed = survey(request, asked, Task.IMPUTE, Foresight())
        source, target = surveyed.direction.source, surveyed.direction.target
        tell.say(f"denoises {target}" if source == target else f"imputes {target} from {source}")
        for name, out in surveyed.held_out.items():
            if out.any():
                tell.say(f"keeps {int(out.sum()):,} cells of {name} out of training")
        foresee_training(request, Task.IMPUTE, tell, surveyed.files)
        return
    files = open_modalities(request.data)
    for f in files:
        tell.say(f"{f.name}: {f.n_obs:,} cells x {f.n_vars:,} {f.kind} features from {f.where}")
    for note in (note for f in files for note in f.notes):
        tell.say(note)
    tell.say(f"model: {asked.from_model}")


def _work(request: Request, asked: ImputeOptions, run: Run) -> None:
    # torch and scikit-learn are loaded only now: a dry run and a refusal need neither
    from mocli.tasks.impute.check import check
    from mocli.tasks.impute.denoise import Denoised
    from mocli.tasks.impute.draw import check_draws
    from mocli.tasks.impute.work import Imputation, obtain_model, translate
    from mocli.tasks.impute.write import deliver

    surveyed = survey(request, asked, Task.IMPUTE, run)
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
