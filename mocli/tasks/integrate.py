"""`mocli integrate`: place the cells of all modalities in one latent space."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mocli.data.io import parse_source
from mocli.models.parameters import as_dict, resolve
from mocli.tasks.options import DataOptions, OutputOptions, RunOptions, TrainOptions, one_of, preset_of
from mocli.tasks.paths import Paths, command_line
from mocli.tasks.prepare import load, plan
from mocli.tasks.run import Run
from mocli.tasks.transfer import TransferOptions, read_labels
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NO_STRINGS: Mapping[str, str] = {}
_NO_NUMBERS: Mapping[str, int] = {}
_NO_VALUES: Mapping[str, object] = {}


@dataclass(frozen=True)
class Result:
    """What a task returns to Python.

    Attributes
    ----------
    output
        The file written (or, after a dry run, the one that would be).
    report
        The report as written to JSON; empty after a dry run.
    plan
        What a dry run says, line by line.
    files
        Every file written or to be written.
    """

    output: Path
    report: dict[str, Any]
    plan: list[str]
    files: list[Path]


def integrate(
    inputs: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    links: str | Path | Sequence[str | Path] = (),
    model: str = "auto",
    pairing: str = "auto",
    kind: Mapping[str, str] = _NO_STRINGS,
    layer: Mapping[str, str] = _NO_STRINGS,
    transform: Mapping[str, str] = _NO_STRINGS,
    likelihood: Mapping[str, str] = _NO_STRINGS,
    hvg: Mapping[str, int] = _NO_NUMBERS,
    var_key: str | None = None,
    batch_key: str | None = None,
    covariate: Sequence[str] = (),
    continuous: Sequence[str] = (),
    label_key: str | None = None,
    pair_key: str | None = None,
    key_added: str | None = None,
    obs_prefix: bool = False,
    preset: str = "auto",
    n_latent: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    params: Mapping[str, object] = _NO_VALUES,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    deterministic: bool = False,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: float = 600.0,
    resume: str = "auto",
    max_time: float | None = None,
    umap: bool = False,
    transfer_labels: str | Sequence[str] | None = None,
    min_confidence: float = 0.5,
    html: bool = True,
    report: str | Path | None = None,
    provenance: bool = True,
    force: bool = False,
    dry_run: bool = False,
    command: Sequence[str] | None = None,
) -> Result:
    """Integrate modalities into one latent; the shell's `mocli integrate`.

    Parameters have the names and meaning of the command line's options; see
    `mocli integrate --help`. `params` holds what `--set` gives.

    Returns
    -------
    Result
        The latent itself lies in the output: `obsm["X_<model>"]` of every
        modality and of the whole.

    Raises
    ------
    MocliError
        Every error a user can mend; `exit_code` says of which sort.
    """
    overrides = {"n_latent": n_latent, "batch_size": batch_size, "lr": lr}
    one_of(resume, ["auto", "always", "never"], "--resume")
    request = _Request(
        data=DataOptions(
            inputs=_many(inputs),
            links=_many(links),
            pairing=pairing,
            kind=kind,
            layer=layer,
            transform=transform,
            likelihood=likelihood,
            hvg=hvg,
            var_key=var_key,
            batch_key=batch_key,
            covariate_keys=_many(covariate),
            continuous_keys=_many(continuous),
            label_key=label_key,
            pair_key=pair_key,
            obs_prefix=obs_prefix,
        ),
        train=TrainOptions(
            model=model,
            preset=preset_of(preset).value,
            max_steps=max_steps,
            params={**{k: v for k, v in overrides.items() if v is not None}, **params},
        ),
        run=RunOptions(
            seed=seed,
            device=device,
            threads=threads,
            deterministic=deterministic,
            checkpoint_dir=Path(checkpoint_dir) if checkpoint_dir else None,
            checkpoint_every=checkpoint_every,
            resume=resume,
            max_time=max_time,
        ),
        output=OutputOptions(
            output=Path(output),
            key_added=key_added,
            umap=umap,
            html=html,
            report=Path(report) if report else None,
            provenance=provenance,
            force=force,
        ),
        transfer=TransferOptions.of(transfer_labels, min_confidence),
    )
    paths = Paths.of(request.output, request.run, suffixes=(".h5mu",))
    sources = [parse_source(text).path for text in request.data.inputs]
    paths.refuse_inputs([*sources, *map(Path, request.data.links)])
    if dry_run:
        return _dry_run(request, paths)
    return _run(request, paths, command if command is not None else command_line())


def _many(given: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(given)] if isinstance(given, (str, Path)) else [str(p) for p in given]


@dataclass(frozen=True)
class _Request:
    data: DataOptions
    train: TrainOptions
    run: RunOptions
    output: OutputOptions
    transfer: TransferOptions


def _dry_run(request: _Request, paths: Paths) -> Result:
    lines: list[str] = []
    paths.check(force=request.output.force)
    made = plan(request.data, request.train, Task.INTEGRATE, lines.append)
    lines.extend(labels.summary for labels in read_labels(made.files, request.transfer))
    params = resolve(made.traits, request.train.params, request.train.preset)
    lines.extend(f"warning: {w}" for w in made.warnings)
    lines.append(f"parameters: {json.dumps(as_dict(params), sort_keys=True)}")
    size = sum(c.file.nbytes(c.layer.layer) for c in made.choices)
    lines.append(f"matrices: about {size / 2**20:,.0f} MiB, up to 2.5 times that while they are prepared")
    files = paths.results()
    lines.extend(f"would write {path}" for path in files)
    return Result(paths.output, {}, lines, files)


def _run(request: _Request, paths: Paths, command: Sequence[str]) -> Result:
    with Run("integrate", paths, output=request.output, options=request.run, command=command) as run:
        # torch and scikit-learn are loaded only now: a dry run and a refusal need neither
        from mocli.tasks.deliver import deliver
        from mocli.tasks.describe import (
            describe_inputs,
            describe_scores,
            describe_training,
            warn_confounded,
            warn_small,
        )
        from mocli.tasks.evaluate import score
        from mocli.tasks.training import encode, train
        from mocli.tasks.transfercheck import transfer

        with run.timed("load"):
            made = plan(request.data, request.train, Task.INTEGRATE, run.say)
            labels = read_labels(made.files, request.transfer)
            for column in labels:
                run.say(column.summary)
            params = resolve(made.traits, request.train.params, request.train.preset)
            for warning in made.warnings:
                run.warn(warning)
            prepared = load(made, seed=request.run.seed, warn=run.warn)
            describe_inputs(run, made, prepared)
        warn_small(run, prepared, params)
        warn_confounded(run, prepared)
        with run.timed("train"):
            model, done = train(run, request.train, made, prepared, params)
        describe_training(run, made, model.params, done)
        with run.timed("encode"):
            latent = encode(run, model, prepared)
        with run.timed("evaluate"):
            scores = score(latent, prepared.bundle, made.pairs, seed=request.run.seed)
            describe_scores(run, scores)
            carried = transfer(run, request.transfer, labels, made, prepared, latent.by_modality)
        with run.timed("write"):
            deliver(run, request.data, made, prepared, latent, scores, model, carried)
    return Result(paths.output, run.report.as_dict(), [], paths.results())
