"""The options that every subcommand shares, each declared once: data, training, run, output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mocli import parsing
from mocli.errors import UsageError
from mocli.models.registry import available, traits_of
from mocli.options import Options, option
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


def given_model(also: str = "") -> Any:
    """Declare `--from-model`, for subcommands that take a trained model instead of training one."""
    return option("--from-model DIR", f"Trained model (OUT.model); without it one is trained first{also}")


@dataclass(frozen=True)
class DataOptions(Options):
    """The input files, the values used of them, and the columns."""

    PANEL: ClassVar = DATA

    inputs: Sequence[str] = option(
        "INPUT",
        "h5mu, h5ad or 10x h5 files, or folders of a 10x matrix; NAME=FILE names a modality, "
        "FILE::MODALITY picks one, FILE::obsm:KEY takes a matrix of obsm; files that hold the same "
        "modality are joined",
        default=(),
        panel=INPUT,
    )
    links: Sequence[str] = option(
        "--links FILE|first:N|obsm:KEY",
        "Feature-link table (TSV; '-' reads stdin); or the first N features of every modality; or your "
        "own linked features, as in rna=obsm:X_a,prot=obsm:X_b; repeatable",
        default=(),
        marks="trains",  # what was matched identifies
        panel=INPUT,
    )
    pairing: str = option(
        "--pairing",
        "How the cells of the modalities relate; auto compares obs_names",
        default="auto",
        marks="identifies",
        panel=INPUT,
        choices=PAIRINGS,
    )
    obs_prefix: bool = option(
        "--obs-prefix",
        "Prefix obs_names with the modality, where different cells of two files share names",
        default=False,
        marks="advanced",
        panel=INPUT,
    )
    only_cells: Path | None = option(
        "--only-cells FILE",
        "Use only the cells that this file names, one a line",
        marks="identifies advanced",
        panel=INPUT,
    )
    gene_sets: Path | None = option(
        "--gene-sets GMT",
        "Gene sets whose scores the encoders see besides the features (sccross)",
        marks="trains advanced",
        panel=INPUT,
    )
    kind: Mapping[str, str] = option(
        "--kind MOD=KIND",
        f"What a modality measures: {', '.join(KINDS)}",
        default={},
        marks="identifies advanced",
        each=parsing.among(*KINDS),
    )
    layer: Mapping[str, str] = option(
        "--layer MOD=LAYER",
        "Layer to use, or X",
        default={},
        marks="identifies",
        each=parsing.text,
        shown="counts, else X",
    )
    transform: Mapping[str, str] = option(
        "--transform MOD=NAME",
        "lognorm, clr, tfidf-lsi, arcsinh or identity",
        default={},
        marks="trains identifies advanced",
        each=parsing.text,
        shown="by kind and values",
    )
    likelihood: Mapping[str, str] = option(
        "--likelihood MOD=NAME",
        "nb, zinb, poisson, bernoulli, ziln or normal",
        default={},
        marks="trains identifies advanced",
        each=parsing.text,
        shown="by kind and values",
    )
    hvg: Mapping[str, int] = option(
        "--hvg MOD=N",
        "Highly variable features to keep",
        default={},
        marks="trains identifies",
        each=parsing.count,
        shown="2 per cell, from 1000 to 3000",
    )
    seen_in: Mapping[str, float] = option(
        "--seen-in MOD=X",
        "Keep features seen in a share of the cells (0.01), or in a number of them (10), before --hvg "
        "chooses",
        default={},
        marks="trains identifies advanced",
        each=parsing.share_or_count,
    )
    round: bool = option(
        "--round",
        "Round values to whole numbers, negative ones to 0: for counts that SoupX, DecontX or "
        "alevin-fry turned into fractions",
        default=False,
        marks="identifies advanced",
    )
    var_key: str | None = option(
        "--var-key COLUMN", "var column with the feature names that links use", marks="identifies advanced"
    )
    batch_key: str | None = option(
        "--batch-key COLUMN|none",
        "obs column with the batch; none: no batch; not given: the input, where all hold the same modalities",
        marks="identifies",
        parse=parsing.column_or_none,
    )
    covariate: Sequence[str] = option(
        "--covariate COLUMN",
        "Another categorical obs column to account for; repeatable",
        default=(),
        marks="trains identifies advanced",
    )
    continuous: Sequence[str] = option(
        "--continuous COLUMN",
        "Numeric obs column to account for; repeatable",
        default=(),
        marks="trains identifies advanced",
    )
    weight_key: str | None = option(
        "--weight-key COLUMN",
        "Numeric obs column, 0 or more, that weighs cells in discriminators (scmodal, sccross)",
        marks="trains identifies advanced",
    )
    label_key: str | None = option(
        "--label-key COLUMN",
        "obs column with cell types, or one of each modality (rna=A,prot=B): for metrics, for the labels "
        "that the model keeps, for how many clusters multidgd has, and for critic_weights=labels",
        marks="identifies",
    )
    unlabeled: tuple[str, ...] = option(
        "--unlabeled WORD[,WORD]",
        "Values of --label-key that mean no label, besides unassigned, unknown, ambiguous, doublet, NA",
        default=(),
        marks="identifies advanced",
        parse=parsing.words,
    )
    pair_key: str | None = option(
        "--pair-key COLUMN",
        "obs column that names the true partner of unpaired cells; only metrics use it",
        marks="advanced",
    )
    keep: Mapping[str, Sequence[str]] = field(default_factory=dict)  # features that selection spares


@dataclass(frozen=True)
class TrainOptions(Options):
    """The model, how long it trains, and what it starts from."""

    PANEL: ClassVar = TRAINING

    model: str = option(
        f"--model -m {'|'.join([*UNNAMED, *available()])}",
        "Model; auto chooses for the data and says why; best trains the candidates for a short time "
        "and keeps the one that integrates the cells best, judged without labels (integrate)",
        default=AUTO,
        marks="trains identifies",
        parse=_model,
    )
    preset: str = option(
        "--preset",
        "auto: sized to the data, stops when converged; paper: the published schedule",
        default="auto",
        marks="trains identifies",
        choices=PRESETS,
    )
    max_steps: int | None = option(
        "--max-steps N", "Most training steps; overrides the preset", marks="trains identifies", least=1
    )
    n_latent: int | None = option("--n-latent N", "Latent dimensions", marks="advanced", least=1)
    batch_size: int | None = option("--batch-size N", "Cells in a minibatch", marks="advanced", least=1)
    lr: float | None = option("--lr X", "Learning rate", marks="advanced", parse=parsing.positive)
    params: Mapping[str, object] = option(
        "--set -s KEY=VALUE",
        "Other hyper-parameter; 'mocli params MODEL' lists them",
        default={},
        marks="trains",  # those of the model identify
        each=parsing.scalar,
    )
    init_from: Path | None = option(
        "--init-from DIR",
        "Start from the weights of a trained model (OUT.model) of the same kind, as far as they fit",
        marks="trains advanced",
    )
    freeze: tuple[str, ...] = option(
        "--freeze PART[,PART]",
        "Parts whose weights do not change: names such as encoders or decoders.rna",
        default=(),
        marks="trains identifies advanced",
        parse=parsing.names,
    )

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

    seed: int = option(
        "--seed N", "Seed of all random numbers", default=0, marks="identifies", panel=TRAINING, least=0
    )
    device: str = option(
        "--device auto|cpu|cuda|cuda:N",
        "Device to run on; mocli stops if the one you name is not available",
        default="auto",
        marks="volatile",
        parse=parsing.device,
    )
    threads: int | None = option(
        "--threads N", "CPU threads", marks="volatile advanced", least=1, shown="what the scheduler grants"
    )
    deterministic: bool = option(
        "--deterministic",
        "Refuse operations that are not reproducible bit by bit",
        default=False,
        marks="advanced",
    )
    cuda_graphs: bool = option(
        "--cuda-graphs",
        "Record training steps and repeat each as one launch (CUDA graphs; not yet tried on a GPU)",
        default=False,
        marks="volatile advanced",
    )
    checkpoint_dir: Path | None = option(
        "--checkpoint-dir DIR", "Folder of checkpoints", marks="volatile advanced", shown="OUT.ckpt"
    )
    checkpoint_every: float = option(
        "--checkpoint-every TIME",
        "Time between checkpoints, such as 90s, 10m, 3h50m",
        default="10m",
        marks="volatile advanced text",
        parse=parsing.duration,
    )
    resume: str = option(
        "--resume",
        "Continue from a checkpoint; auto: only if it belongs to this run",
        default="auto",
        marks="volatile advanced",
        choices=RESUMES,
    )
    max_time: float | None = option(
        "--max-time TIME",
        "Stop training after this time, such as 3h50m",
        marks="advanced text",
        parse=parsing.duration,
    )
    max_memory: float | None = option(
        "--max-memory SIZE",
        "Stop with a checkpoint and a report before using more memory than this, such as 16G",
        marks="volatile advanced text",
        parse=parsing.size,
    )


FORMATS = ("svg", "png", "pdf")


@dataclass(frozen=True)
class OutputOptions(Options):
    """What is written; every name derives from `-o`."""

    PANEL: ClassVar = OUTPUT

    output: Path = option(
        "--output -o FILE", "Result; it names all other files", default=MISSING, marks="volatile"
    )
    key_added: str | None = option(
        "--key-added KEY", "obsm key of the latent coordinates", marks="advanced", shown="X_<model>"
    )
    umap: bool = option(
        "--umap/--no-umap", "Write a UMAP (obsm X_umap) and the k-NN graph (obsp) of the latent", default=True
    )
    html: bool = option("--html/--no-html", "Write OUT.report.html", default=True, marks="advanced")
    figures: str | None = option(
        "--figures",
        "Also write each picture of the report as a file, into OUT.figures",
        marks="advanced",
        choices=FORMATS,
    )
    report: Path | None = option(
        "--report FILE", "JSON report; '-' is stdout", marks="volatile advanced text", shown="OUT.report.json"
    )
    provenance: bool = option(
        "--provenance/--no-provenance",
        "Keep command, versions and date in the result",
        default=True,
        marks="advanced",
    )
    force: bool = option("--force -f", "Replace results that exist", default=False, marks="volatile")
    unless_done: bool = option(
        "--unless-done",
        "Do nothing if the result exists already, made by this version with these options from these files",
        default=False,
        marks="volatile advanced",
    )

    def check_together(self) -> None:
        """Refuse `--figures` where no report is to be made."""
        if self.figures is not None and not self.html:
            raise UsageError(
                "--figures are the pictures of the report, which --no-html leaves out",
                field="--figures",
                hint="leave --no-html out",
            )
