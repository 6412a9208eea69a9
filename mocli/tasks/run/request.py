"""The arguments that every training task takes, sorted into their groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mocli.tasks.run.options import (
    DataOptions,
    OutputOptions,
    RunOptions,
    TrainOptions,
    listed_names,
    one_of,
    preset_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NO_STRINGS: Mapping[str, str] = {}
NO_NUMBERS: Mapping[str, int] = {}
NO_SHARES: Mapping[str, float] = {}
NO_VALUES: Mapping[str, object] = {}


@dataclass(frozen=True)
class Request:
    """Data, training, run and output, as asked for."""

    data: DataOptions
    train: TrainOptions
    run: RunOptions
    output: OutputOptions

    def tell_unused(self, warn: Callable[[str], None]) -> None:
        """Say which options have no effect where no model is trained."""
        if self.of_training:
            warn(f"the model is trained already, which these do not change: {', '.join(self.of_training)}")

    @property
    def of_training(self) -> list[str]:
        """Options given that matter to training alone."""
        train, data = self.train, self.data
        given = {
            "--links": data.links,
            "--gene-sets": data.gene_sets,
            "--hvg": data.hvg,
            "--seen-in": data.seen_in,
            "--transform": data.transform,
            "--weight-key": data.weight_key,
            "--model": train.model != "auto",
            "--preset": train.preset != "auto",
            "--max-steps": train.max_steps,
            "--set": train.params,
            "--init-from": train.init_from,
            "--freeze": train.freeze,
        }
        return [option for option, value in given.items() if value]


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


def requested(
    inputs: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    links: str | Path | Sequence[str | Path] = (),
    gene_sets: str | Path | None = None,
    model: str = "auto",
    pairing: str = "auto",
    kind: Mapping[str, str] = NO_STRINGS,
    layer: Mapping[str, str] = NO_STRINGS,
    transform: Mapping[str, str] = NO_STRINGS,
    likelihood: Mapping[str, str] = NO_STRINGS,
    hvg: Mapping[str, int] = NO_NUMBERS,
    seen_in: Mapping[str, float] = NO_SHARES,
    var_key: str | None = None,
    batch_key: str | None = None,
    covariate: str | Sequence[str] = (),
    continuous: str | Sequence[str] = (),
    weight_key: str | None = None,
    label_key: str | None = None,
    pair_key: str | None = None,
    key_added: str | None = None,
    obs_prefix: bool = False,
    preset: str = "auto",
    n_latent: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    params: Mapping[str, object] = NO_VALUES,
    init_from: str | Path | None = None,
    freeze: str | Sequence[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    deterministic: bool = False,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: float = 600.0,
    resume: str = "auto",
    max_time: float | None = None,
    max_memory: float | None = None,
    umap: bool = False,
    html: bool = True,
    report: str | Path | None = None,
    provenance: bool = True,
    force: bool = False,
) -> Request:
    """Sort arguments, named as the command line's options, into groups.

    Raises
    ------
    UsageError
        A value that is none of those allowed.
    """
    overrides = {"n_latent": n_latent, "batch_size": batch_size, "lr": lr}
    one_of(resume, ["auto", "always", "never"], "--resume")
    return Request(
        data=DataOptions(
            inputs=_many(inputs),
            links=_many(links),
            gene_sets=None if gene_sets is None else str(gene_sets),
            pairing=pairing,
            kind=kind,
            layer=layer,
            transform=transform,
            likelihood=likelihood,
            hvg=hvg,
            seen_in=seen_in,
            var_key=var_key,
            batch_key=batch_key,
            covariate_keys=_many(covariate),
            continuous_keys=_many(continuous),
            weight_key=weight_key,
            label_key=label_key,
            pair_key=pair_key,
            obs_prefix=obs_prefix,
        ),
        train=TrainOptions(
            model=model,
            preset=preset_of(preset).value,
            max_steps=max_steps,
            params={**{k: v for k, v in overrides.items() if v is not None}, **params},
            init_from=Path(init_from) if init_from is not None else None,
            freeze=listed_names(freeze, "--freeze"),
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
            max_memory=max_memory,
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
    )


def _many(given: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(given)] if isinstance(given, (str, Path)) else [str(p) for p in given]
