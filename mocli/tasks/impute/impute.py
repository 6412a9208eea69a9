"""`mocli impute`: expected values of one modality for cells measured in another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mocli.data.files.inputs import parse_source
from mocli.data.links.route import link_files
from mocli.errors import UsageError
from mocli.tasks.impute.holdout import HoldOut
from mocli.tasks.impute.options import Route
from mocli.tasks.prepare.footprint import foreseen
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.options import listed_names, one_of
from mocli.tasks.run.paths import Paths, command_line
from mocli.tasks.run.request import Result, requested
from mocli.tasks.run.run import Run
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mocli.tasks.run.request import Request

CELLS = ("missing", "all")


@dataclass(frozen=True)
class ImputeOptions:
    """What is asked of an imputation, beside what training needs."""

    source: str | None
    target: str | None
    from_model: Path | None
    cells: str
    evaluate: bool
    hold_out: HoldOut
    scale: str
    coverage: float
    features: tuple[str, ...]
    relations: bool = False
    gtf: Path | None = None
    window: int | None = None
    route: str = Route.READOUT
    decode_batch: str | None = None
    draw: bool = False

    @property
    def denoises(self) -> bool:
        """Whether a modality is asked for from itself."""
        return self.source is not None and self.source == self.target


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
    relations: bool = False,
    gtf: str | Path | None = None,
    window: int | None = None,
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
    relations
        Also correlate imputed features with measured ones, over the cells imputed.
    gtf, window
        Where genes lie, and how far from a TSS their peaks are looked for
        (100,000 bases): relations of genes and peaks near them only.
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
    for value, option in ((gtf, "--gtf"), (window, "--window")):
        if value is not None and not relations:
            raise UsageError(f"{option} has no use without --relations", field=option, hint="add --relations")
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
        relations=relations,
        gtf=Path(gtf) if gtf is not None else None,
        window=window,
        route=route,
        decode_batch=decode_batch,
        draw=draw,
    )
    _check_denoising(asked)
    request = requested(inputs, output=output, **shared)
    paths = Paths.of(
        request.output,
        request.run,
        suffixes=(".h5mu", ".h5ad"),
        beside=(".relations.tsv",) if relations else (),
    )
    sources = [parse_source(text).path for text in request.data.inputs]
    paths.refuse_inputs([*sources, *link_files(request.data.links), *([asked.gtf] if asked.gtf else [])])
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
        (asked.relations, "--relations", "features would be correlated with themselves"),
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
    import numpy as np

    from mocli.tasks.infer.batch import check_before_training
    from mocli.tasks.infer.direction import columns_of, direction_of_inputs, rows_lacking, shared_cells
    from mocli.tasks.prepare.pairing import relate
    from mocli.tasks.prepare.plan import plan

    lines: list[str] = []
    paths.check(force=request.output.force)
    opened = open_modalities(request.data)
    if asked.from_model is None:
        check_before_training(opened, request.data.batch_key, asked.decode_batch)
        source, target = direction_of_inputs(asked, [f.name for f in opened])
        by_name = {f.name: f for f in opened}
        columns_of(asked.features, list(map(str, by_name[target].var.index)), target)
        relation = relate([f.obs.index for f in opened], request.data.pairing)
        pairs = shared_cells(opened, relation, request.data.pair_key, by_name[source], by_name[target])
        out = asked.hold_out.choose(
            opened, pairs if len(pairs) else None, source, target, seed=request.run.seed
        )
        checked = np.flatnonzero(out[source][pairs[:, 0]])
        rows_lacking(source, target, by_name[source].n_obs, pairs, checked, asked)
        lines.append(f"denoises {target}" if asked.denoises else f"imputes {target} from {source}")
        lines.extend(
            f"keeps {int(o.sum()):,} cells of {name} out of training" for name, o in out.items() if o.any()
        )
        made = plan(request.data, request.train, Task.IMPUTE, lines.append, files=opened)
        lines.append(foreseen(made, request.train, Task.IMPUTE))
        lines.extend(f"warning: {w}" for w in made.warnings)
    else:
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
        from mocli.tasks.impute.work import Imputation
        from mocli.tasks.relate.candidates import candidates_of
        from mocli.tasks.relate.relate import relate_features

        choose = partial(candidates_of, run, request.data, asked) if asked.relations else None
        work = Imputation.begin(run, request, asked, candidates=choose)
        with run.timed("encode"):
            work.encode()
        with run.timed("evaluate"):
            work.check()
        if work.candidates is not None:
            with run.timed("relate"):
                work.related = relate_features(work, work.candidates, work.rows_to_fill()[0])
        with run.timed("write"):
            work.deliver()
    return Result(paths.output, run.report.as_dict(), [], _results(paths, asked))
