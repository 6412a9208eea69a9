"""`mocli gene2peak`: which peaks go with which genes, by imputed expression or by silencing genes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from mocli.data.features.index import Features, features_of
from mocli.data.features.loci import has_places
from mocli.data.files.modality import ModalityFile, of_anndata
from mocli.data.files.obs import find_column
from mocli.errors import UsageError
from mocli.models.registry import available
from mocli.tasks.gene2peak.cells import (
    SilencedCells,
    can_silence,
    check_values,
    choose_modalities,
    choose_way,
    decoded_features,
    match_cells,
    take_cells,
)
from mocli.tasks.gene2peak.changes import Way
from mocli.tasks.gene2peak.measured import by_default, foretold, relate_measured, take_measured
from mocli.tasks.gene2peak.options import PEAK_SETS, Gene2PeakOptions
from mocli.tasks.gene2peak.peaksets import read_classes, read_peak_sets
from mocli.tasks.gene2peak.report import draw_silencing, mean_by_group, report_silencing, write_silencing
from mocli.tasks.gene2peak.truth import read_truth
from mocli.tasks.gene2peak.work import TOP, SilencingResult, silence, with_columns
from mocli.tasks.impute.holdout import HoldOut
from mocli.tasks.impute.options import ImputeOptions
from mocli.tasks.impute.survey import survey
from mocli.tasks.infer.translation import Direction, Translation
from mocli.tasks.prepare.plan import Aim, open_modalities
from mocli.tasks.relate.correlate import genomic_pairs
from mocli.tasks.relate.metacells import FEWEST_CELLS, score_pairs
from mocli.tasks.relate.relate import Candidates, Related, choose_genes, find_candidates, relate_features
from mocli.tasks.relate.report import draw_relations, report_relations, summarise, write_pairs
from mocli.tasks.run.frame import Foresight, Tell, Verb, perform
from mocli.tasks.run.options import UNNAMED, DataOptions
from mocli.tasks.run.paths import read_description
from mocli.tasks.run.request import Request, Result, subcommand
from mocli.tasks.run.run import Run
from mocli.tasks.trained.foresee import foresee_training, plan_training
from mocli.tasks.trained.record import describe_given
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.tasks.trained.train import check_task, obtain
from mocli.types import DoubleArray, ModalityKind, Pairing, Route, StrArray, Task

if TYPE_CHECKING:
    from anndata import AnnData


MOST_PAIRS = 20_000_000
"""Pairs of genes and peaks in all groups, where peaks are not near genes."""


Opened: TypeAlias = Callable[[], list[ModalityFile]]
"""Returns the inputs, which are opened once."""


def name_of(request: Request, options: Gene2PeakOptions, files: Sequence[ModalityFile]) -> str:
    """Return the model that will be used.

    Raises `UsageError`: it has no place in this task.
    """
    if options.from_model is not None:
        return str(read_description(options.from_model)["model"])
    if request.train.model not in UNNAMED:
        check_task(request.train.model, Task.GENE2PEAK)
        return request.train.model
    return plan_training(request, Task.GENE2PEAK, _quiet, files).traits.name


def way_in(name: str, options: Gene2PeakOptions) -> Way | None:
    """Return how genes fall silent in a model; None where expression is imputed and correlated.

    Raises `UsageError`: the model cannot do as asked.
    """
    if options.method == "correlation":
        return None
    way = choose_way(name, options.method)
    if way is None and options.of_silencing:
        option = options.of_silencing[0]
        raise UsageError(
            f"{name} relates genes to peaks by correlation, which does not use {option}",
            field=option,
            hint="leave it out, or use a model that decodes cells' latent coordinates: "
            + ", ".join(other for other in available() if can_silence(other)),
        )
    return way


def aim_of(options: Gene2PeakOptions, files: Sequence[ModalityFile]) -> Aim:
    """Return what a model is trained for here: how many genes will fall silent in it."""
    genes = max((f.n_vars for f in files if f.kind is ModalityKind.RNA), default=0)
    return Aim(Task.GENE2PEAK, silenced=len(options.genes) or genes)


def check_inputs(
    request: Request, options: Gene2PeakOptions, files: Sequence[ModalityFile], tell: Tell
) -> None:
    """Check before training that all that is asked for is there.

    Raises `MocliError`: as silencing itself raises it.
    """
    rna, atac = choose_modalities({f.name: f.kind for f in files}, options.source, options.target)
    by_name = {f.name: f for f in files}
    genes, peaks = features_of([by_name[rna], by_name[atac]], var_key=request.data.var_key)
    _check_asked(options, files, genes, peaks, tell)


def check_in_model(
    saved: SavedModel, request: Request, options: Gene2PeakOptions, files: Sequence[ModalityFile], tell: Tell
) -> None:
    """Match the inputs with a model as silencing does, and find out whether all that is asked for is there.

    Raises `MocliError`: as silencing itself raises it.
    """
    rna, atac = modalities_of(saved, options)
    query = match_cells(saved, files, rna, request.data, tell=tell)
    genes, peaks = (decoded_features(query, name, request.data.var_key) for name in (rna, atac))
    _check_asked(options, query.files, genes, peaks, tell)


def modalities_of(saved: SavedModel, options: Gene2PeakOptions) -> tuple[str, str]:
    """Return the model's modalities of genes and of peaks; `UsageError` where no gene can be silenced."""
    kinds = {name: ModalityKind(m["kind"]) for name, m in saved.modalities.items()}
    rna, atac = choose_modalities(kinds, options.source, options.target)
    check_values(saved, rna, atac)
    return rna, atac


def _check_asked(
    options: Gene2PeakOptions, files: Sequence[ModalityFile], genes: Features, peaks: Features, tell: Tell
) -> None:
    if options.group_key is not None:
        find_column(list(files), options.group_key, option="--group-key")
    columns = choose_genes(genes, options.genes, warn=tell.warn)
    candidates = find_candidates(
        genes, peaks, columns, gtf=options.gtf, window=options.window, top=TOP, tell=tell
    )
    if options.peak_sets is not None:
        sets = read_peak_sets(options.peak_sets, peaks, tell.warn)
        if options.peak_set_classes is not None:
            read_classes(options.peak_set_classes, sets, tell.warn)
    if options.truth is not None and candidates.vicinity is not None:
        read_truth(options.truth, candidates.vicinity)


def silence_in_model(
    run: Run, request: Request, options: Gene2PeakOptions, files: Sequence[ModalityFile], way: Way
) -> None:
    """Take or train a model, silence genes in it, and write what changes at the peaks."""
    if options.from_model is None:
        check_inputs(request, options, files, Foresight())
    saved = obtain(run, request, options.from_model, aim_of(options, files), files).saved
    names = modalities_of(saved, options)
    with run.timed("encode"):
        cells = take_cells(
            saved, files, names, request.data, device=run.device, seed=request.run.seed, tell=run
        )
    if options.gtf is None:
        n_groups = 1 + len(cells.groups(options.group_key).names)
        n_genes = len(options.genes) or len(cells.genes.names)
        if n_genes * len(cells.peaks.names) * n_groups > MOST_PAIRS:
            raise UsageError(
                f"{n_genes:,} genes and {len(cells.peaks.names):,} peaks make too many pairs to test all",
                field="--gtf",
                hint="give --gtf FILE for peaks near genes"
                + (", or fewer with --genes" if has_places(cells.peaks) else ": name fewer with --genes"),
            )
        run.say(
            "without --gtf, peaks are compared wherever they lie, and the strongest of each gene are kept; "
            "with --gtf FILE, peaks near genes are compared over metacells, in seconds and more precisely"
        )
    with run.timed("silence"):
        result = silence(cells, options, way, seed=request.run.seed, tell=run)
    report_silencing(run, result)
    with run.timed("write"):
        write_silencing(run, result)
        run.finish(lambda: {"drawn": draw_silencing(result, _openness(cells, options))})


def _openness(cells: SilencedCells, options: Gene2PeakOptions) -> dict[str, DoubleArray]:
    """Return means of the peaks by group; empty where the input lacks peaks."""
    if cells.atac not in cells.query.aligned or cells.atac not in cells.saved.readouts:
        return {}
    values, row = cells.measured(cells.atac, logged=False)
    groups, labels = cells.groups(options.group_key), None
    if groups.names:
        labels = np.array([*groups.names, None], dtype=object)[groups.codes[row >= 0]]
    return mean_by_group(values[row[row >= 0]], labels)


def silence_genes(
    model: SavedModel | str | Path,
    cells: Mapping[str, AnnData],
    options: Gene2PeakOptions,
    *,
    device: str = "cpu",
    seed: int = 0,
) -> SilencingResult:
    """Silence genes of cells that are in memory, in a trained model, and see which peaks close.

    Args:
        model: As `load_model` returns it, or its folder.
        cells: AnnData by the model's name of each modality: genes at least.
        options: Genes, gene table (`gtf`), window, groups; see `mocli gene2peak -h`.

    Raises:
        InputError, UsageError: Cells or options do not fit the model.
    """
    saved = load_model(model)
    names = modalities_of(saved, options)
    kinds = {name: ModalityKind(m["kind"]) for name, m in saved.modalities.items()}
    way = choose_way(saved.description["model"], options.method) or Way.LATENT
    files = [of_anndata(adata, name, kinds.get(name)) for name, adata in cells.items()]
    tell = Foresight()
    silenced_cells = take_cells(
        saved, files, names, DataOptions(inputs=()), device=torch.device(device), seed=seed, tell=tell
    )
    return silence(silenced_cells, options, way, seed=seed, tell=tell)


def _quiet(_: str) -> None:
    """Drop messages that were logged already."""


@subcommand(Gene2PeakOptions)
def gene2peak(
    request: Request, options: Gene2PeakOptions, *, dry_run: bool, command: Sequence[str]
) -> Result:
    """Relate genes to peaks (or proteins to genes); the shell's `mocli gene2peak`.

    Genes and peaks measured in the same cells are correlated over metacells unless a model is given or asked
    for. With `method="correlation"` expression is imputed for every cell that has peaks measured, and
    correlated with the accessibility measured in it. With `latent` or `input` each gene
    is silenced in a model, and what changes at the peaks is compared with a null distribution.

    Raises:
        MocliError: Every error a user can mend; `exit_code` says of which sort.
    """
    opened = cache(partial(open_modalities, request.data))
    if by_default(request, options, opened):
        options = replace(options, method="metacells")
    verb = Verb(
        task="gene2peak",
        suffixes=(".tsv",),
        foresee=partial(_foresee, request, options, opened),
        work=partial(_work, request, options, opened),
        beside=((".bedpe",) if options.bedpe else ())
        + ((PEAK_SETS,) if options.peak_sets is not None else ()),
        trains=options.from_model is None and options.method != "metacells",
    )
    return perform(verb, request, dry_run=dry_run, command=command)


def _choose(request: Request, options: Gene2PeakOptions, direction: Direction, tell: Tell) -> Candidates:
    """Choose pairs, and check before training that the request can be met."""
    _groups(direction.source_file, options.group_key)
    first, second = direction.features(request.data.var_key)
    if direction.source == direction.target:
        raise UsageError(
            "say which modality holds genes and which peaks",
            field="--from, --to",
            found=f"--from {direction.source} --to {direction.target}",
        )
    if has_places(first):
        raise UsageError(
            "gene2peak imputes genes and measures peaks, not the other way round",
            field="--from, --to",
            found=f"--from {direction.source} --to {direction.target}",
            hint=f"--from {direction.target} --to {direction.source}",
        )
    if options.gtf is None and has_places(second):
        raise UsageError(
            "peaks are tested around transcription start sites, which are read from a gene table",
            field="--gtf",
            found=f"{direction.source}: {', '.join(second.names[:2])}; no gene table",
            hint="give --gtf FILE: GTF, GFF3, BED, or a table with chrom, start, end, strand, gene",
        )
    columns = choose_genes(first, options.genes, warn=tell.warn)
    return find_candidates(first, second, columns, gtf=options.gtf, window=options.window, top=TOP, tell=tell)


def _groups(file: ModalityFile, key: str | None) -> StrArray | None:
    if key is None:
        return None
    column = find_column([file], key, option="--group-key")[file.name]
    assert column is not None
    return column.astype(object).to_numpy()


def _of_imputation(options: Gene2PeakOptions) -> ImputeOptions:
    """Return the options of the imputation that gives the expression."""
    return ImputeOptions(
        source=options.source,
        target=options.target,
        from_model=options.from_model,
        cells="all",
        evaluate=False,
        hold_out=HoldOut(),
        scale="log",
        coverage=0.9,
        features=(),
        route=Route.READOUT,
    )


def _foresee(request: Request, options: Gene2PeakOptions, opened: Opened, tell: Tell) -> None:
    files, way, saved = opened(), None, None
    if options.method == "metacells":
        tell.say(foretold(take_measured(request, options, files, tell)).words)
        return
    aim = Aim(Task.GENE2PEAK)
    if options.method != "correlation":
        name = name_of(request, options, files)
        way = way_in(name, options)
        aim = aim if way is None else aim_of(options, files)
    if options.from_model is None:
        foresee_training(request, aim, tell, files)
    else:
        from mocli.tasks.trained.train import foresee_given

        saved = foresee_given(tell, request, options.from_model, Task.GENE2PEAK, files)
    if way is not None:
        if saved is None:
            check_inputs(request, options, files, tell)
        else:
            check_in_model(saved, request, options, files, tell)
        tell.say(f"silencing genes in {name}, method {way}")
        return
    direction = survey(request, _of_imputation(options), Task.GENE2PEAK, files, Foresight()).direction
    tell.say(f"imputing {direction.target} from {direction.source}")
    _choose(request, options, direction, tell)
    if saved is not None:
        from mocli.tasks.impute.work import foresee_in_model

        foresee_in_model(tell, request, _of_imputation(options), direction)


def _work(request: Request, options: Gene2PeakOptions, opened: Opened, run: Run) -> None:
    files = opened()
    if options.method == "metacells":
        relate_measured(run, request, options, files)
        return
    way = way_in(name_of(request, options, files), options)
    if way is not None:
        silence_in_model(run, request, options, files, way)
    else:
        _correlate(run, request, options, files)


def _correlate(run: Run, request: Request, options: Gene2PeakOptions, files: list[ModalityFile]) -> None:
    """Impute expression where peaks were measured, correlate the two, and write the table."""
    from mocli.tasks.impute.work import obtain_model, translate

    of_imputation = _of_imputation(options)
    surveyed = survey(request, of_imputation, Task.GENE2PEAK, files, run)
    candidates = _choose(request, options, surveyed.direction, run)
    saved, trained = obtain_model(run, request, Task.GENE2PEAK, surveyed)
    with run.timed("encode"):
        translation, _ = translate(run, request, of_imputation, surveyed, saved)
    with run.timed("relate"):
        related = relate_features(
            translation,
            candidates,
            np.arange(translation.source_file.n_obs),
            groups=_groups(translation.source_file, options.group_key),
            n_permutations=options.n_permutations,
            seed=request.run.seed,
            say=run.say,
        )
        if surveyed.relation is not None and surveyed.relation.pairing is not Pairing.UNPAIRED:
            related = _beside_metacells(run, translation, related, seed=request.run.seed)
    with run.timed("write"):
        if trained is None:
            describe_given(run, surveyed.files, saved, f"the model of {options.from_model}")
        _deliver(run, translation.direction, related)


def _beside_metacells(run: Run, translation: Translation, related: Related, *, seed: int) -> Related:
    """Score pairs over metacells as well, where cells were measured in both, and sort by that score."""
    vicinity, columns = related.candidates.vicinity, related.candidates.columns
    partners = translation.partners()
    both = np.flatnonzero(partners >= 0)
    if vicinity is None or len(both) < FEWEST_CELLS:
        return related
    x, _ = translation.measured(translation.target, partners[both], logged=False)
    y, _ = translation.measured(translation.source, both, logged=False)
    pairs = genomic_pairs(vicinity)
    pairs = replace(pairs, first=columns[pairs.first])
    home = np.full(x.shape[1], -1, dtype=np.int64)
    home[pairs.first] = vicinity.chrom_code[pairs.second]
    run.say(f"correlating over metacells of {len(both):,} cells measured in both")
    scores = score_pairs(x, y, pairs, home, seed=seed)
    names = (
        np.asarray(vicinity.genes, dtype=object)[vicinity.gene],
        np.asarray(vicinity.peaks, dtype=object)[vicinity.peak],
    )
    return replace(related, table=with_columns(related.table, names, scores, scores.z))


def _deliver(run: Run, direction: str, related: Related) -> None:
    report_relations(run, related, direction)
    strength = related.table["correlation"]
    write_pairs(run, related.table, summarise(related), related.candidates.vicinity, strength)
    run.finish(lambda: {"drawn": draw_relations(related)})
