"""The options that every subcommand shares, each declared once: data, training, run, output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from mocli import parsing
from mocli.errors import UsageError
from mocli.models.registry import available, traits_of
from mocli.options import Options, option, written
from mocli.types import ModalityKind, Pairing, Preset

INPUT = "Input"
DATA = "Data: which values, which columns"
TRAINING = "Model and training"
RUN = "Run: device, checkpoints"
OUTPUT = "Output"

KINDS = tuple(kind.value for kind in ModalityKind)
PRESETS = tuple(preset.value for preset in Preset)
PAIRINGS = ("auto", *(pairing.value for pairing in Pairing))
RESUMES = ("auto", "always", "never")
UNNAMED = AUTO, BEST = "auto", "best"
"""Values of `--model` that let the run choose: by rank, or by short trainings."""

NAMED_PARAMS = ("n_latent", "batch_size", "lr")
"""Hyper-parameters that have their own option besides `--set`."""


def _model(value: str, _option: str) -> str:
    if value not in UNNAMED:
        traits_of(value)
    return value


@dataclass(frozen=True)
class DataOptions(Options):
    """The input files, the values used of them, and the columns."""

    PANEL: ClassVar = DATA

    inputs: Annotated[
        Sequence[str],
        option(
            "INPUT",
            "h5mu, h5ad or 10x h5 files, or folders of a 10x matrix; NAME=FILE names a modality, "
            "FILE::MODALITY picks one, FILE::obsm:KEY takes a matrix of obsm; files that hold the same "
            "modality are joined",
            panel=INPUT,
            repeatable=True,
        ),
    ] = ()
    links: Annotated[
        Sequence[str],
        option(
            "--links FILE|first:N|obsm:KEY",
            "Feature-link table (TSV; '-' reads stdin); or the first N features of every modality; or your "
            "own linked features, as in rna=obsm:X_a,prot=obsm:X_b; repeatable",
            panel=INPUT,
            repeatable=True,
            trains=True,
            identifies=False,  # what was matched does
        ),
    ] = ()
    pairing: Annotated[
        str,
        option(
            "--pairing",
            "How the cells of the modalities relate; auto compares obs_names",
            panel=INPUT,
            choices=PAIRINGS,
            identifies=True,
        ),
    ] = "auto"
    obs_prefix: Annotated[
        bool,
        option(
            "--obs-prefix",
            "Prefix obs_names with the modality, where different cells of two files share names",
            panel=INPUT,
            advanced=True,
        ),
    ] = False
    only_cells: Annotated[
        Path | None,
        option(
            "--only-cells FILE",
            "Use only the cells that this file names, one a line",
            panel=INPUT,
            identifies=True,
            advanced=True,
        ),
    ] = None
    gene_sets: Annotated[
        Path | None,
        option(
            "--gene-sets GMT",
            "Gene sets whose scores the encoders see besides the features (sccross)",
            panel=INPUT,
            trains=True,
            identifies=False,
            advanced=True,
        ),
    ] = None
    kind: Annotated[
        Mapping[str, str],
        option(
            "--kind MOD=KIND",
            f"What a modality measures: {', '.join(KINDS)}",
            each=parsing.among(*KINDS),
            identifies=True,
            advanced=True,
        ),
    ] = field(default_factory=dict)
    layer: Annotated[
        Mapping[str, str],
        option(
            "--layer MOD=LAYER",
            "Layer to use, or X",
            each=parsing.text,
            shown="counts, else X",
            identifies=True,
        ),
    ] = field(default_factory=dict)
    transform: Annotated[
        Mapping[str, str],
        option(
            "--transform MOD=NAME",
            "lognorm, clr, tfidf-lsi, arcsinh or identity",
            each=parsing.text,
            shown="by kind and values",
            trains=True,
            advanced=True,
        ),
    ] = field(default_factory=dict)
    likelihood: Annotated[
        Mapping[str, str],
        option(
            "--likelihood MOD=NAME",
            "nb, zinb, poisson, bernoulli, ziln or normal",
            each=parsing.text,
            shown="by kind and values",
            trains=True,
            advanced=True,
        ),
    ] = field(default_factory=dict)
    hvg: Annotated[
        Mapping[str, int],
        option(
            "--hvg MOD=N",
            "Highly variable features to keep",
            each=parsing.count,
            shown="2 per cell, from 1000 to 3000",
            trains=True,
        ),
    ] = field(default_factory=dict)
    seen_in: Annotated[
        Mapping[str, float],
        option(
            "--seen-in MOD=X",
            "Keep features seen in a share of the cells (0.01), or in a number of them (10), before --hvg "
            "chooses",
            each=parsing.share_or_count,
            trains=True,
            advanced=True,
        ),
    ] = field(default_factory=dict)
    round: Annotated[
        bool,
        option(
            "--round",
            "Round values to whole numbers, negative ones to 0: for counts that SoupX, DecontX or "
            "alevin-fry turned into fractions",
            identifies=True,
            advanced=True,
        ),
    ] = False
    var_key: Annotated[
        str | None,
        option(
            "--var-key COLUMN",
            "var column with the feature names that links use",
            identifies=True,
            advanced=True,
        ),
    ] = None
    batch_key: Annotated[
        str | None,
        option(
            "--batch-key COLUMN|none",
            "obs column with the batch; none: no batch; not given: the input, where all hold "
            "the same modalities",
            identifies=True,
            parse=parsing.column_or_none,
        ),
    ] = None
    covariate: Annotated[
        Sequence[str],
        option(
            "--covariate COLUMN",
            "Another categorical obs column to account for; repeatable",
            repeatable=True,
            trains=True,
            advanced=True,
        ),
    ] = ()
    continuous: Annotated[
        Sequence[str],
        option(
            "--continuous COLUMN",
            "Numeric obs column to account for; repeatable",
            repeatable=True,
            trains=True,
            advanced=True,
        ),
    ] = ()
    weight_key: Annotated[
        str | None,
        option(
            "--weight-key COLUMN",
            "Numeric obs column, 0 or more, that weighs cells in discriminators (scmodal, sccross)",
            trains=True,
            advanced=True,
        ),
    ] = None
    label_key: Annotated[
        str | None,
        option(
            "--label-key COLUMN",
            "obs column with cell types, or one of each modality (rna=A,prot=B): for metrics, for the labels "
            "that the model keeps, for how many clusters multidgd has, and for critic_weights=labels",
            identifies=True,
        ),
    ] = None
    unlabeled: Annotated[
        tuple[str, ...],
        option(
            "--unlabeled WORD[,WORD]",
            "Values of --label-key that mean no label, besides unassigned, unknown, ambiguous, doublet, NA",
            parse=parsing.words,
            identifies=True,
            advanced=True,
        ),
    ] = ()
    pair_key: Annotated[
        str | None,
        option(
            "--pair-key COLUMN",
            "obs column that names the true partner of unpaired cells; only metrics use it",
            advanced=True,
        ),
    ] = None
    keep: Mapping[str, Sequence[str]] = field(default_factory=dict)  # features that selection spares


@dataclass(frozen=True)
class TrainOptions(Options):
    """The model, how long it trains, and what it starts from."""

    PANEL: ClassVar = TRAINING

    model: Annotated[
        str,
        option(
            f"--model -m {'|'.join([*UNNAMED, *available()])}",
            "Model; auto chooses for the data and says why; best trains the candidates for a short time "
            "and keeps the one that integrates the cells best, judged without labels (integrate)",
            parse=_model,
            trains=True,
        ),
    ] = AUTO
    preset: Annotated[
        str,
        option(
            "--preset",
            "auto: sized to the data, stops when converged; paper: the published schedule",
            choices=PRESETS,
            trains=True,
        ),
    ] = "auto"
    max_steps: Annotated[
        int | None, option("--max-steps N", "Most training steps; overrides the preset", least=1, trains=True)
    ] = None
    n_latent: Annotated[int | None, option("--n-latent N", "Latent dimensions", least=1, advanced=True)] = (
        None
    )
    batch_size: Annotated[
        int | None, option("--batch-size N", "Cells in a minibatch", least=1, advanced=True)
    ] = None
    lr: Annotated[float | None, option("--lr X", "Learning rate", parse=parsing.positive, advanced=True)] = (
        None
    )
    params: Annotated[
        Mapping[str, object],
        option(
            "--set -s KEY=VALUE",
            "Other hyper-parameter; 'mocli params MODEL' lists them",
            each=parsing.scalar,
            trains=True,
            identifies=False,  # with those of the model does
        ),
    ] = field(default_factory=dict)
    init_from: Annotated[
        Path | None,
        option(
            "--init-from DIR",
            "Start from the weights of a trained model (OUT.model) of the same kind, as far as they fit",
            trains=True,
            identifies=False,
            advanced=True,
        ),
    ] = None
    freeze: Annotated[
        tuple[str, ...],
        option(
            "--freeze PART[,PART]",
            "Parts whose weights do not change: names such as encoders or decoders.rna",
            parse=parsing.names,
            trains=True,
            advanced=True,
        ),
    ] = ()

    reason: str = ""  # why this model, where the run itself compared it with others

    def __post_init__(self) -> None:
        """Merge the hyper-parameters that have their own options with the others."""
        super().__post_init__()
        named = {n: getattr(self, n) for n in NAMED_PARAMS if getattr(self, n) is not None}
        object.__setattr__(self, "params", {**named, **self.params})
        for name in named:
            object.__setattr__(self, name, None)

    @property
    def bounds_steps(self) -> bool:
        """Say whether steps are limited, start from given weights, or leave some frozen."""
        return bool(self.max_steps or self.init_from or self.freeze)


@dataclass(frozen=True)
class RunOptions(Options):
    """Device, seed, limits and checkpoints of a run."""

    PANEL: ClassVar = RUN

    seed: Annotated[
        int, option("--seed N", "Seed of all random numbers", panel=TRAINING, least=0, identifies=True)
    ] = 0
    device: Annotated[
        str,
        option(
            "--device auto|cpu|cuda|cuda:N",
            "Device to run on; mocli stops if the one you name is not available",
            parse=parsing.device,
            volatile=True,
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        option(
            "--threads N",
            "CPU threads",
            least=1,
            shown="what the scheduler grants",
            volatile=True,
            advanced=True,
        ),
    ] = None
    deterministic: Annotated[
        bool,
        option("--deterministic", "Refuse operations that are not reproducible bit by bit", advanced=True),
    ] = False
    checkpoint_dir: Annotated[
        Path | None,
        option(
            "--checkpoint-dir DIR", "Folder of checkpoints", shown="OUT.ckpt", volatile=True, advanced=True
        ),
    ] = None
    checkpoint_every: Annotated[
        float,
        option(
            "--checkpoint-every TIME",
            "Time between checkpoints, such as 90s, 10m, 3h50m",
            parse=parsing.duration,
            text=True,
            volatile=True,
            advanced=True,
        ),
    ] = written("10m")
    resume: Annotated[
        str,
        option(
            "--resume",
            "Continue from a checkpoint; auto: only if it belongs to this run",
            choices=RESUMES,
            volatile=True,
            advanced=True,
        ),
    ] = "auto"
    max_time: Annotated[
        float | None,
        option(
            "--max-time TIME",
            "Stop training after this time, such as 3h50m",
            parse=parsing.duration,
            text=True,
            advanced=True,
        ),
    ] = None
    max_memory: Annotated[
        float | None,
        option(
            "--max-memory SIZE",
            "Stop with a checkpoint and a report before using more memory than this, such as 16G",
            parse=parsing.size,
            text=True,
            volatile=True,
            advanced=True,
        ),
    ] = None


FORMATS = ("svg", "png", "pdf")


@dataclass(frozen=True)
class OutputOptions(Options):
    """What is written; every name derives from `-o`."""

    PANEL: ClassVar = OUTPUT

    output: Annotated[Path, option("--output -o FILE", "Result; it names all other files", volatile=True)]
    key_added: Annotated[
        str | None,
        option("--key-added KEY", "obsm key of the latent coordinates", shown="X_<model>", advanced=True),
    ] = None
    umap: Annotated[
        bool, option("--umap/--no-umap", "Write a UMAP (obsm X_umap) and the k-NN graph (obsp) of the latent")
    ] = True
    html: Annotated[bool, option("--html/--no-html", "Write OUT.report.html", advanced=True)] = True
    figures: Annotated[
        str | None,
        option(
            "--figures",
            "Also write each picture of the report as a file, into OUT.figures",
            choices=FORMATS,
            advanced=True,
        ),
    ] = None
    report: Annotated[
        Path | None,
        option(
            "--report FILE",
            "JSON report; '-' is stdout",
            text=True,
            shown="OUT.report.json",
            volatile=True,
            advanced=True,
        ),
    ] = None
    provenance: Annotated[
        bool,
        option(
            "--provenance/--no-provenance", "Keep command, versions and date in the result", advanced=True
        ),
    ] = True
    force: Annotated[bool, option("--force -f", "Replace results that exist", volatile=True)] = False
    unless_done: Annotated[
        bool,
        option(
            "--unless-done",
            "Do nothing if the result exists already, made by this version with these options from these "
            "files",
            volatile=True,
            advanced=True,
        ),
    ] = False

    def check_together(self) -> None:
        """Refuse `--figures` where no report is to be made."""
        if self.figures is not None and not self.html:
            raise UsageError(
                "--figures are the pictures of the report, which --no-html leaves out",
                field="--figures",
                hint="leave --no-html out",
            )
