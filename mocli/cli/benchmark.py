"""`mocli benchmark`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mocli.cli.call import call
from mocli.cli.command import with_options
from mocli.cli.genesets import GeneSetOptions
from mocli.cli.option import option
from mocli.cli.options import (
    CommandOptions,
    DataOptions,
    InputOptions,
    OutputOptions,
    RunOptions,
)
from mocli.cli.settings import Settings
from mocli.cli.training import ScheduleOptions

BENCHMARK = "Benchmark"
STUDIES = "Studies: models trained again under a change"


@dataclass(frozen=True)
class BenchmarkOptions:
    """Which models, how often, at which tasks, beside what."""

    models: Annotated[
        str | None,
        option("--models", panel=BENCHMARK, metavar="A,B", help="Models; else all that fit the data"),
    ] = None
    seeds: Annotated[
        str, option("--seeds", panel=BENCHMARK, metavar="0,1,2", help="Every model is trained with each")
    ] = "0,1,2"
    tasks: Annotated[
        str,
        option(
            "--tasks",
            panel=BENCHMARK,
            metavar="integrate,impute,simulate,gene2peak",
            help="What models are to do; the last two take the integrated models, or train",
        ),
    ] = "integrate"
    source: Annotated[
        str | None, option("--from", panel=BENCHMARK, metavar="MOD", help="Modality to impute from")
    ] = None
    target: Annotated[
        str | None, option("--to", panel=BENCHMARK, metavar="MOD", help="Modality to impute")
    ] = None
    gtf: Annotated[
        Path | None,
        option("--gtf", panel=BENCHMARK, metavar="FILE", help="Where genes lie, for gene2peak, as there"),
    ] = None
    truth: Annotated[
        Path | None,
        option(
            "--truth",
            panel=BENCHMARK,
            metavar="FILE",
            help="Known pairs of genes and peaks (BEDPE), for gene2peak, as there",
        ),
    ] = None
    embedding: Annotated[
        list[str] | None,
        option(
            "--embedding",
            panel=BENCHMARK,
            metavar="obsm:KEY|FILE::KEY",
            help="Places by another tool, scored in the same table; found by cell names; repeatable",
        ),
    ] = None
    peers: Annotated[
        str | None,
        option(
            "--peers",
            panel=BENCHMARK,
            metavar="all|NAME,NAME",
            help="Published tools to run beside the models, where installed; the dry run says which",
        ),
    ] = None
    peer_python: Annotated[
        str | None,
        option(
            "--peer-python",
            panel=BENCHMARK,
            metavar="PATH",
            help="The Python that has the packages of peers; else the one that runs mocli",
        ),
    ] = None
    jobs: Annotated[
        int, option("--jobs", "-j", panel=BENCHMARK, metavar="N", least=1, help="Runs at a time")
    ] = 1
    devices: Annotated[
        str | None,
        option(
            "--devices",
            panel=BENCHMARK,
            metavar="cuda:0,cuda:1",
            help="Devices that runs take turns on; else --device",
        ),
    ] = None


@dataclass(frozen=True)
class StudyOptions:
    """Changes under which models are trained again."""

    panel: Annotated[
        str | None,
        option("--panel", panel=STUDIES, metavar="30,60", help="That many linked features, drawn by seed"),
    ] = None
    ablate: Annotated[
        str | None,
        option(
            "--ablate",
            panel=STUDIES,
            metavar="TERM,TERM",
            help="A term of the loss with weight 0, such as geometry (weight_geometry)",
        ),
    ] = None
    fractions: Annotated[
        str | None,
        option(
            "--fractions",
            panel=STUDIES,
            metavar="0.1,0.5",
            help="Imputation and integration by models trained on that share of the paired cells",
        ),
    ] = None
    corrupt: Annotated[
        str | None,
        option("--corrupt", panel=STUDIES, metavar="0.1,0.3", help="That share of the links made wrong"),
    ] = None
    leave_one_batch_out: Annotated[
        bool,
        option(
            "--leave-one-batch-out",
            panel=STUDIES,
            help="Imputation of each batch by models that never saw it",
        ),
    ] = False


@with_options(
    InputOptions,
    GeneSetOptions,
    OutputOptions,
    BenchmarkOptions,
    StudyOptions,
    DataOptions,
    ScheduleOptions,
    RunOptions,
    CommandOptions,
)
def benchmark(settings: Settings) -> None:
    """Train models and hold them against each other, other tools and simple controls.

    For example: mocli benchmark data.h5mu --links links.tsv --label-key cell_type -o bench.tsv
    """
    call("mocli.tasks.benchmark.benchmark:benchmark", settings)
