"""The options of `mocli benchmark`, besides those of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mocli import parsing
from mocli.options import Options, option
from mocli.peers.registry import Interpreter, Peer
from mocli.types import Task

BENCHMARK = "Benchmark"
CAMPAIGN = "Where the runs are run"
RANDOM, INFORMATIVE = "random", "informative"
STUDIES = "Studies: models trained again under a change"
RECONSTRUCT = "reconstruct"
"""Held-out cells reconstructed from their joint coordinates.

It is no subcommand: two integrations make it.
"""

TASKS: tuple[str, ...] = (Task.INTEGRATE, Task.IMPUTE, Task.SIMULATE, Task.GENE2PEAK, RECONSTRUCT)


def _tasks(value: Any, option: str) -> tuple[str, ...]:
    words = [parsing.one_of(word, [str(t) for t in TASKS], option) for word in parsing.names(value, option)]
    return tuple(task for task in TASKS if task in words)


@dataclass(frozen=True, eq=False)
class PeersAsked:
    """Peers with the hyper-parameters given for them, and the Python that has them.

    `params`: by peer, defaults and all.
    """

    peers: tuple[Peer, ...] = ()
    params: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    python: Interpreter | None = None


@dataclass(frozen=True)
class StudyOptions(Options):
    """Changes under which models are trained again; see `studies_of`."""

    PANEL: ClassVar = STUDIES

    panel: tuple[int, ...] = option(
        "--panel 30,60", "Numbers of linked features to keep", default=(), parse=parsing.whole_numbers
    )
    panel_order: str = option(
        "--panel-order",
        "random: drawn by each seed; informative: those that tell labels apart best, or without labels "
        "lie best in the leading components",
        default=RANDOM,
        marks="advanced",
        choices=(RANDOM, INFORMATIVE),
    )
    grid: Mapping[str, str] = option(
        "--grid [MODEL.]KEY=A,B,C",
        "Values of a hyper-parameter to train with; repeatable: all combinations are trained",
        default={},
        each=parsing.text,
    )
    subsample: tuple[int, ...] = option(
        "--subsample 250,500",
        "Numbers of cells to train on and score, as separate data sets",
        default=(),
        parse=parsing.whole_numbers,
    )
    rare: Mapping[str, float] = option(
        "--rare LABEL=SHARE",
        "Keep only this share of the cells of a label; repeatable",
        default={},
        marks="advanced",
        each=parsing.share,
    )
    fractions: tuple[float, ...] = option(
        "--fractions 0.1,0.5",
        "Fractions of the paired cells to train on, for imputation and integration, or of the cells that "
        "reconstruct trains on",
        default=(),
        parse=parsing.shares,
    )
    features_seen_in: tuple[float, ...] = option(
        "--features-seen-in 0.01,0.05",
        "Train on the features that these shares of the cells have alone; reconstruct scores those",
        default=(),
        marks="advanced",
        parse=parsing.shares,
    )
    ablate: tuple[str, ...] = option(
        "--ablate TERM,TERM",
        "Terms of the loss to give weight 0, such as geometry (weight_geometry)",
        default=(),
        marks="advanced",
        parse=parsing.names,
    )
    corrupt: tuple[float, ...] = option(
        "--corrupt 0.1,0.3",
        "Fractions of the links to corrupt",
        default=(),
        marks="advanced",
        parse=parsing.shares,
    )
    leave_one_batch_out: bool = option(
        "--leave-one-batch-out",
        "Impute, or reconstruct, each batch by models that never saw it",
        default=False,
        marks="advanced",
    )


@dataclass(frozen=True)
class BenchmarkOptions(StudyOptions):
    """What only `mocli benchmark` takes."""

    PANEL: ClassVar = BENCHMARK

    LACKS: ClassVar = frozenset({"umap", "key_added", "model", "init_from", "freeze"})

    models: tuple[str, ...] = option(
        "--models A,B", "Models to train", default=(), parse=parsing.names, shown="all that fit the data"
    )
    seeds: tuple[int, ...] = option(
        "--seeds 0,1,2",
        "Seeds; each model is trained once with each",
        default="0,1,2",
        parse=parsing.whole_numbers,
    )
    tasks: tuple[str, ...] = option(
        "--tasks integrate,impute,...",
        "integrate, impute, simulate and gene2peak (which take the integrated models, or train their "
        "own), reconstruct (held-out cells from all their modalities)",
        default="integrate",
        parse=_tasks,
    )
    source: str | None = option("--from MOD", "Modality to impute from")
    target: str | None = option("--to MOD", "Modality to impute")
    gtf: Path | None = option("--gtf FILE", "Gene table for the task gene2peak")
    truth: Path | None = option(
        "--truth FILE", "Known pairs of genes and peaks (BEDPE) for the task gene2peak", marks="advanced"
    )
    embedding: Sequence[str] = option(
        "--embedding obsm:KEY|FILE::KEY",
        "Embedding by another tool to score in the same table, found by cell names; repeatable",
        default=(),
        marks="advanced",
    )
    peers: tuple[str, ...] = option(
        "--peers all|NAME,NAME",
        "Published tools to run as well, if they are installed; the dry run lists them",
        default=(),
        parse=parsing.names,
    )
    peer_python: str | None = option(
        "--peer-python PATH",
        "Python that has the packages of the peers",
        marks="advanced",
        shown="the one that runs mocli",
    )
    plan: Path | None = option(
        "--plan FILE",
        "Only write the runs as a table (TSV), one command a line, for a scheduler",
        marks="volatile",
        panel=CAMPAIGN,
    )
    collect: bool = option(
        "--collect",
        "Run nothing: make table and report from the runs that have ended",
        default=False,
        marks="volatile",
        panel=CAMPAIGN,
    )
    jobs: int = option("--jobs -j N", "Runs at a time", default=1, marks="volatile", panel=CAMPAIGN, least=1)
    devices: tuple[str, ...] = option(
        "--devices cuda:0,cuda:1",
        "Devices that runs take turns on",
        default=(),
        marks="volatile advanced",
        parse=parsing.names,
        shown="--device",
        panel=CAMPAIGN,
    )
