"""`mocli gene2peak`: which peaks go with which genes, by imputed expression or by silencing genes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mocli.data.files.columns import find_column
from mocli.data.files.inputs import parse_source
from mocli.data.genome.loci import has_places
from mocli.data.links.route import link_files
from mocli.errors import UsageError
from mocli.tasks.impute.holdout import HoldOut
from mocli.tasks.impute.impute import ImputeOptions
from mocli.tasks.infer.direction import Direction, direction_of_inputs, genes_from_peaks
from mocli.tasks.prepare.footprint import foreseen
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.relate.candidates import choose_genes, find_candidates
from mocli.tasks.run.options import listed_names, one_of
from mocli.tasks.run.paths import Paths, command_line
from mocli.tasks.run.request import Result, requested
from mocli.tasks.run.run import Run
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mocli.data.files.modality import ModalityFile
    from mocli.tasks.impute.work import Imputation
    from mocli.tasks.relate.candidates import Candidates
    from mocli.tasks.relate.relate import Related
    from mocli.tasks.run.request import Request
    from mocli.types import StrArray

METHODS = ("auto", "correlation", "latent", "input")
STEPS = ("adam", "sign", "norm")
ALTERNATIVES = ("two-sided", "positive", "negative")
PEAK_SETS = ".peaksets.tsv"

TOP = 20
"""Strongest pairs of every feature, where features have no places and pairs are too many."""


@dataclass(frozen=True)
class Gene2PeakOptions:
    """What is asked beside the imputation.

    Attributes
    ----------
    genes
        Those to test, all where empty.
    """

    genes: tuple[str, ...]
    group_key: str | None
    n_permutations: int
    bedpe: bool
    silencing: SilencingRequest


@dataclass(frozen=True)
class SilencingRequest:
    """What is asked of genes that fall silent; names as the command line's options.

    Attributes
    ----------
    given
        Options that a correlation has no use for.
    """

    method: str
    direction: str
    step: str
    together: bool
    min_cells: int
    alternative: str
    peak_sets: Path | None
    truth: Path | None

    @property
    def given(self) -> list[str]:
        """Options given that a correlation has no use for."""
        of = {
            "--direction": self.direction != "silence",
            "--step": self.step != "adam",
            "--together": self.together,
            "--peak-sets": self.peak_sets is not None,
            "--truth": self.truth is not None,
            "--alternative": self.alternative != "two-sided",
        }
        return [option for option, value in of.items() if value]


def gene2peak(
    inputs: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    source: str | None = None,
    target: str | None = None,
    from_model: str | Path | None = None,
    gtf: str | Path | None = None,
    genes: str | Path | Sequence[str] | None = None,
    window: int | None = None,
    group_key: str | None = None,
    n_permutations: int = 20,
    bedpe: bool = False,
    method: str = "auto",
    direction: str = "silence",
    step: str = "adam",
    together: bool = False,
    min_cells: int = 20,
    alternative: str = "two-sided",
    peak_sets: str | Path | None = None,
    truth: str | Path | None = None,
    dry_run: bool = False,
    command: Sequence[str] | None = None,
    **shared: Any,
) -> Result:
    """Relate genes to peaks (or proteins to genes); the shell's `mocli gene2peak`.

    With `method="correlation"` expression is imputed for every cell that has peaks measured,
    and correlated with the accessibility measured in it. With `latent` or `input` each gene
    falls silent in a model, and what changes at the peaks is held against what chance gives.

    Parameters
    ----------
    source, target
        Modality measured and modality imputed; by kind where None: accessibility
        and expression, else expression and proteins.
    from_model
        A model's folder; without it a model is trained first, and the arguments of
        `integrate` (`links`, `label_key`, `params`, ...) apply.
    gtf
        Where genes lie; needed where the source is peaks.
    genes
        Names wanted, or a file with one a line; None for all.
    window
        Bases around the TSS in which peaks are tested; None for 100,000.
    group_key
        Column of the source's obs: everything is repeated within each of its groups.
    n_permutations
        Of the permutation null; 0 leaves it out.
    bedpe
        Also write arcs for genome browsers.
    method
        `correlation`; `latent`, a step against the gradient of the gene's likelihood; `input`,
        the cell encoded again without the gene; `auto`: `latent` where the model has cells'
        places and a decoder, else `correlation`.
    direction
        `silence`, or `raise`.
    step
        `adam` (the authors of multiDGD's), `sign` (without weight decay), `norm` (along the gradient).
    together
        All genes at once, not one by one.
    min_cells
        Cells that must express a gene, in all and in a group.
    alternative
        `two-sided`, or `negative` or `positive`: only peaks that close, or open, count.
    peak_sets
        Peaks by transcription factor: a table of set and peak, or BED with names.
    truth
        Known pairs, BEDPE, to hold the scores against.

    Raises
    ------
    MocliError
        Every error a user can mend; `exit_code` says of which sort.
    """
    asked = ImputeOptions(
        source=source,
        target=target,
        from_model=Path(from_model) if from_model is not None else None,
        cells="all",
        evaluate=False,
        hold_out=HoldOut(),
        scale="log",
        coverage=0.9,
        features=(),
        relations=True,
        gtf=Path(gtf) if gtf is not None else None,
        window=window,
    )
    for value, choices, option in (
        (method, METHODS, "--method"),
        (direction, ("silence", "raise"), "--direction"),
        (step, STEPS, "--step"),
        (alternative, ALTERNATIVES, "--alternative"),
    ):
        one_of(value, list(choices), option)
    silencing = SilencingRequest(
        method, direction, step, together, min_cells, alternative,
        None if peak_sets is None else Path(peak_sets), None if truth is None else Path(truth),
    )  # fmt: skip
    if method == "correlation" and silencing.given:
        raise UsageError(
            f"{silencing.given[0]} has no use for correlations", field=silencing.given[0],
            found="--method correlation", hint="leave one of the two out",
        )  # fmt: skip
    if truth is not None and gtf is None:
        raise UsageError("--truth needs places, which --gtf gives", field="--truth", hint="give --gtf FILE")
    own = Gene2PeakOptions(listed_names(genes, "--genes"), group_key, n_permutations, bedpe, silencing)
    if bedpe and gtf is None:
        raise UsageError("--bedpe needs places, which --gtf gives", field="--bedpe", hint="give --gtf FILE")
    request = requested(inputs, output=output, **shared)
    beside = ((".bedpe",) if bedpe else ()) + ((PEAK_SETS,) if peak_sets is not None else ())
    paths = Paths.of(request.output, request.run, suffixes=(".tsv",), beside=beside)
    read = [parse_source(text).path for text in request.data.inputs] + link_files(request.data.links)
    read += [p for p in (asked.gtf, silencing.peak_sets, silencing.truth) if p is not None]
    paths.refuse_inputs(read)
    if dry_run:
        return _dry_run(request, asked, own, paths)
    return _run(request, asked, own, paths, command if command is not None else command_line())


def _choose(
    request: Request,
    asked: ImputeOptions,
    own: Gene2PeakOptions,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    direction: Direction,
) -> Candidates:
    """Choose pairs, and find out before training whether all that is asked for can be done."""
    _groups(direction.source_file, own.group_key)
    first, second = direction.features(request.data.var_key)
    if has_places(first):
        raise UsageError(
            "gene2peak imputes genes and measures peaks, not the other way round",
            field="--from, --to",
            found=f"--from {direction.source} --to {direction.target}",
            hint=f"--from {direction.target} --to {direction.source}, or `mocli impute --relations`",
        )
    if asked.gtf is None and has_places(second):
        raise UsageError(
            "peaks are tested around transcription starts, which a gene table names",
            field="--gtf",
            found=f"{direction.source}: {', '.join(second.names[:2])}; no gene table",
            hint="give --gtf FILE: GTF, GFF3, BED, or a table with chrom, start, end, strand, gene",
        )
    columns = choose_genes(first, own.genes, warn=warn)
    return find_candidates(
        first, second, columns, gtf=asked.gtf, window=asked.window, top=TOP, say=say, warn=warn
    )


def _groups(file: ModalityFile, key: str | None) -> StrArray | None:
    if key is None:
        return None
    column = find_column([file], key, option="--group-key")[file.name]
    assert column is not None
    found: StrArray = column.astype(object).to_numpy()
    return found


def _dry_run(request: Request, asked: ImputeOptions, own: Gene2PeakOptions, paths: Paths) -> Result:
    from mocli.tasks.prepare.plan import plan

    lines: list[str] = []
    paths.check(force=request.output.force)
    files = open_modalities(request.data)
    if asked.from_model is None:
        made = plan(request.data, request.train, Task.GENE2PEAK, lines.append, files=files)
        lines.append(foreseen(made, request.train, Task.GENE2PEAK))
        lines.extend(f"warning: {w}" for w in made.warnings)
        if own.silencing.method != "correlation":
            from mocli.tasks.gene2peak.cells import choose_way
            from mocli.tasks.gene2peak.silence import check_inputs

            way = choose_way(made.traits.name, own.silencing.method)
            if way is not None:

                def warn(text: str) -> None:
                    lines.append(f"warning: {text}")

                check_inputs(request, asked, own, files, say=lines.append, warn=warn)
                lines.append(f"silencing genes in {made.traits.name}, method {way}")
                written = paths.results(trained=True)
                lines.extend(f"would write {path}" for path in written)
                return Result(paths.output, {}, lines, written)
        by_kind = genes_from_peaks(asked, {f.name: f.kind for f in files})
        source, target = direction_of_inputs(by_kind, [f.name for f in files])
        of = {f.name: f for f in files}
        direction = Direction(source, target, of[source], of[target], None)
        lines.append(f"imputing {target} from {source}")
        _choose(request, asked, own, lines.append, lambda text: lines.append(f"warning: {text}"), direction)
    else:
        lines.extend(f"{f.name}: {f.n_obs:,} cells x {f.n_vars:,} {f.kind} features" for f in files)
        lines.append(f"model: {asked.from_model}")
    written = paths.results(trained=asked.from_model is None)
    lines.extend(f"would write {path}" for path in written)
    return Result(paths.output, {}, lines, written)


def _run(
    request: Request, asked: ImputeOptions, own: Gene2PeakOptions, paths: Paths, command: Sequence[str]
) -> Result:
    with Run("gene2peak", paths, output=request.output, options=request.run, command=command) as run:
        # torch and scikit-learn are loaded only now: a dry run and a refusal need neither
        from mocli.tasks.gene2peak.silence import silence_in_model, way_of

        way = way_of(run, request, asked, own)
        if way is not None:
            silence_in_model(run, request, asked, own, way)
            files = paths.results(trained=asked.from_model is None)
            return Result(paths.output, run.report.as_dict(), [], files)
        from mocli.tasks.impute.work import Imputation
        from mocli.tasks.relate.relate import relate_features

        choose = partial(_choose, request, asked, own, run.say, run.warn)
        work = Imputation.begin(run, request, asked, task=Task.GENE2PEAK, candidates=choose)
        with run.timed("encode"):
            work.encode()
        assert work.candidates is not None
        with run.timed("relate"):
            related = relate_features(
                work,
                work.candidates,
                work.rows_to_fill()[0],
                groups=_groups(work.source_file, own.group_key),
                n_permutations=own.n_permutations,
            )
        with run.timed("write"):
            _deliver(work, related)
    return Result(paths.output, run.report.as_dict(), [], paths.results(trained=asked.from_model is None))


def _deliver(work: Imputation, related: Related) -> None:
    from mocli.report import html
    from mocli.tasks.impute.write import describe_inputs
    from mocli.tasks.relate.report import draw_relations, over_all, report_relations, summarise
    from mocli.tasks.relate.table import write_bedpe, write_tsv
    from mocli.train.checkpoint import Checkpoints

    run = work.run
    if work.trained is None:
        describe_inputs(work)
    report_relations(run, related, f"{work.source}->{work.target}")
    write_tsv(run.paths.output, related.table)
    run.add_output(run.paths.output, summarise(related), first=True)
    near = related.candidates.vicinity
    for path in run.paths.beside:
        assert near is not None
        write_bedpe(path, over_all(related.table), near)
        run.add_output(path, "the same over all cells as arcs, for genome browsers")
    if run.paths.html is not None:
        run.say("drawing the report")
        html.write(run.paths.html, html.render(run.report, drawn=draw_relations(related)))
        run.add_output(run.paths.html, "the report to read")
    Checkpoints(run.paths.checkpoints, fingerprint={}, resume="never").remove()
    for record in run.report.outputs:
        run.say(f"wrote {record['path']}: {record['what']}")
