"""Every option that more than one subcommand takes, declared once.

Each dataclass is a group and a panel of the help. Field names are the keyword
arguments of the task functions; long option names give the keys of `--config`
and, after `MOCLI_`, the environment variables. A subcommand adds its own group
beside these (`mocli.cli.integrate` for one).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mocli.cli import values
from mocli.cli.durations import parse_duration
from mocli.cli.option import option
from mocli.cli.sizes import parse_size
from mocli.cli.training import ModelOptions, ScheduleOptions, SeedOptions, StartOptions
from mocli.cli.values import Pairs, choice
from mocli.types import ModalityKind

KINDS = [kind.value for kind in ModalityKind]
PAIRINGS = ("auto", "paired", "unpaired", "mosaic")
RESUMES = ("auto", "always", "never")

# not part of a configuration: they say what to do with it
ACTIONS = frozenset({"config", "print_config", "dry_run"})
# written as text, and what reads each
QUANTITIES: dict[str, Callable[[str, str], float]] = {
    "checkpoint_every": parse_duration,
    "max_time": parse_duration,
    "max_memory": parse_size,
}
# hyper-parameters that have an option of their own beside --set
NAMED_PARAMS = frozenset({"n_latent", "batch_size", "lr"})

INPUT = "Input"


@dataclass(frozen=True)
class InputOptions:
    """Files and how their cells relate."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="h5mu, h5ad or 10x h5 files; NAME=FILE names a modality, FILE::MODALITY picks one; files "
            "that hold the same modality are joined",
            show_default=False,
        ),
    ] = None
    links: Annotated[
        list[str] | None,
        option(
            "--links",
            panel=INPUT,
            metavar="FILE|first:N|obsm:KEY",
            help="Feature-link table (TSV; '-' reads stdin); or the first N features of every modality; or "
            "your own linked features, as in rna=obsm:X_a,prot=obsm:X_b; repeatable",
        ),
    ] = None
    pairing: Annotated[
        str,
        option(
            "--pairing",
            panel=INPUT,
            metavar="|".join(PAIRINGS),
            check=choice(*PAIRINGS),
            help="How the cells of the modalities relate; auto compares obs_names",
        ),
    ] = "auto"
    obs_prefix: Annotated[
        bool,
        option(
            "--obs-prefix", panel=INPUT, help="Prefix obs_names with the modality, where files reuse them"
        ),
    ] = False


DATA = "Data: which values, which columns"


@dataclass(frozen=True)
class DataOptions:
    """Which values of a modality to use, which columns hold what."""

    kind: Annotated[
        list[str] | None,
        option(
            "--kind", panel=DATA, metavar="MOD=KIND", help=f"What a modality measures: {', '.join(KINDS)}"
        ),
        Pairs("MOD=KIND", values.among(*KINDS)),
    ] = None
    layer: Annotated[
        list[str] | None,
        option("--layer", panel=DATA, metavar="MOD=LAYER", help="Layer to use, or X; else 'counts', else X"),
        Pairs("MOD=LAYER", values.text),
    ] = None
    transform: Annotated[
        list[str] | None,
        option(
            "--transform",
            panel=DATA,
            metavar="MOD=NAME",
            help="lognorm, clr, tfidf-lsi, arcsinh or identity; else chosen by kind and values",
        ),
        Pairs("MOD=NAME", values.text),
    ] = None
    likelihood: Annotated[
        list[str] | None,
        option(
            "--likelihood",
            panel=DATA,
            metavar="MOD=NAME",
            help="nb, zinb, poisson, bernoulli, ziln or normal; else chosen by kind and values",
        ),
        Pairs("MOD=NAME", values.text),
    ] = None
    hvg: Annotated[
        list[str] | None,
        option(
            "--hvg",
            panel=DATA,
            metavar="MOD=N",
            help="Highly variable features to keep [default: 2 per cell, 1000-3000]",
        ),
        Pairs("MOD=N", values.count),
    ] = None
    seen_in: Annotated[
        list[str] | None,
        option(
            "--seen-in",
            panel=DATA,
            metavar="MOD=X",
            help="Keep features seen in a share of the cells (0.01), or in a number of them (10), before "
            "--hvg chooses",
        ),
        Pairs("MOD=X", values.share_or_count),
    ] = None
    var_key: Annotated[
        str | None,
        option(
            "--var-key", panel=DATA, metavar="COLUMN", help="var column with the feature names the links use"
        ),
    ] = None
    batch_key: Annotated[
        str | None, option("--batch-key", panel=DATA, metavar="COLUMN", help="obs column with the batch")
    ] = None
    covariate: Annotated[
        list[str] | None,
        option(
            "--covariate",
            panel=DATA,
            metavar="COLUMN",
            help="Another categorical obs column to account for; repeatable",
        ),
    ] = None
    continuous: Annotated[
        list[str] | None,
        option(
            "--continuous",
            panel=DATA,
            metavar="COLUMN",
            help="Numeric obs column to account for; repeatable",
        ),
    ] = None
    weight_key: Annotated[
        str | None,
        option(
            "--weight-key",
            panel=DATA,
            metavar="COLUMN",
            help="Numeric obs column, 0 or more: weights of cells in discriminators (scMODAL, scCross)",
        ),
    ] = None
    label_key: Annotated[
        str | None,
        option(
            "--label-key",
            panel=DATA,
            metavar="COLUMN",
            help="obs column with cell types: for metrics, for the labels that the model keeps, how many "
            "clusters multiDGD has, and critic_weights=labels",
        ),
    ] = None
    pair_key: Annotated[
        str | None,
        option(
            "--pair-key",
            panel=DATA,
            metavar="COLUMN",
            help="obs column naming the true partner of unpaired cells; for metrics only",
        ),
    ] = None


RUN = "Run: device, checkpoints"


@dataclass(frozen=True)
class RunOptions:
    """Where it runs and how it survives being stopped."""

    device: Annotated[
        str,
        option(
            "--device",
            panel=RUN,
            metavar="auto|cpu|cuda|cuda:N|mps",
            check=values.device,
            help="A device that is named and absent is an error",
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        option(
            "--threads", panel=RUN, metavar="N", least=1, help="CPU threads; else what the scheduler grants"
        ),
    ] = None
    deterministic: Annotated[
        bool,
        option("--deterministic", panel=RUN, help="Refuse operations that are not reproducible bit by bit"),
    ] = False
    checkpoint_dir: Annotated[
        Path | None, option("--checkpoint-dir", panel=RUN, metavar="DIR", help="Checkpoints; else OUT.ckpt")
    ] = None
    checkpoint_every: Annotated[
        str,
        option(
            "--checkpoint-every",
            panel=RUN,
            metavar="TIME",
            check=values.duration,
            help="Such as 90s, 10m, 3h50m",
        ),
    ] = "10m"
    resume: Annotated[
        str,
        option(
            "--resume",
            panel=RUN,
            metavar="|".join(RESUMES),
            check=choice(*RESUMES),
            help="Continue from a checkpoint; auto: where it belongs to this very run",
        ),
    ] = "auto"
    max_time: Annotated[
        str | None,
        option(
            "--max-time",
            panel=RUN,
            metavar="TIME",
            check=values.duration,
            help="Stop training after this time, such as 3h50m",
        ),
    ] = None
    max_memory: Annotated[
        str | None,
        option(
            "--max-memory",
            panel=RUN,
            metavar="SIZE",
            check=values.size,
            help="End with a checkpoint and a report before more memory is taken, such as 16G",
        ),
    ] = None


OUTPUT = "Output"


@dataclass(frozen=True)
class OutputOptions:
    """What is written; every name derives from `-o`."""

    output: Annotated[
        Path | None,
        option(
            "--output",
            "-o",
            panel=OUTPUT,
            metavar="FILE",
            help="Result; names all other files",
        ),
    ] = None
    html: Annotated[bool, option("--html/--no-html", panel=OUTPUT, help="Write OUT.report.html")] = True
    report: Annotated[
        str | None,
        option(
            "--report", panel=OUTPUT, metavar="FILE", help="JSON report; '-' is stdout; else OUT.report.json"
        ),
    ] = None
    provenance: Annotated[
        bool,
        option(
            "--provenance/--no-provenance", panel=OUTPUT, help="Keep command, versions and date in the result"
        ),
    ] = True
    force: Annotated[bool, option("--force", "-f", panel=OUTPUT, help="Replace results that exist")] = False


COMMAND = "Command"
LOG_FORMATS = ("text", "json")
PROGRESS_MODES = ("auto", "bar", "plain", "none")


@dataclass(frozen=True)
class CommandOptions:
    """Configuration, dry run, logs: nothing that changes a result."""

    config: Annotated[
        Path | None,
        option(
            "--config",
            "-c",
            panel=COMMAND,
            metavar="FILE",
            is_eager=True,
            help="YAML with long option names as keys; paths are relative to the working directory",
        ),
    ] = None
    print_config: Annotated[
        bool,
        option(
            "--print-config",
            panel=COMMAND,
            help="Print the resolved configuration with its origins; run nothing",
        ),
    ] = False
    dry_run: Annotated[
        bool, option("--dry-run", "-n", panel=COMMAND, help="Check everything, say what would be done")
    ] = False
    verbose: Annotated[
        int, option("--verbose", "-v", panel=COMMAND, count=True, show_default=False, help="Log more")
    ] = 0
    quiet: Annotated[
        int,
        option(
            "--quiet",
            "-q",
            panel=COMMAND,
            count=True,
            show_default=False,
            help="Warnings only; -qq: errors only",
        ),
    ] = 0
    log_format: Annotated[
        str,
        option(
            "--log-format",
            panel=COMMAND,
            metavar="|".join(LOG_FORMATS),
            check=choice(*LOG_FORMATS),
            help="Of stderr and OUT.log",
        ),
    ] = "text"
    progress: Annotated[
        str,
        option(
            "--progress",
            panel=COMMAND,
            metavar="|".join(PROGRESS_MODES),
            check=choice(*PROGRESS_MODES),
            help="auto: a bar on a terminal, else a line now and then",
        ),
    ] = "auto"


SHARED = (
    InputOptions,
    OutputOptions,
    DataOptions,
    ModelOptions,
    ScheduleOptions,
    StartOptions,
    SeedOptions,
    RunOptions,
    CommandOptions,
)
