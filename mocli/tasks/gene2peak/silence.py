"""`mocli gene2peak --method latent|input`: from the request to the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mocli.data.features.index import Features, features_of
from mocli.data.files.inmemory import of_anndata
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.data.genome.loci import has_places
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
from mocli.tasks.gene2peak.options import Gene2PeakOptions
from mocli.tasks.gene2peak.peaksets import read_classes, read_peak_sets
from mocli.tasks.gene2peak.report import draw_silencing, mean_by_group, report_silencing, write_silencing
from mocli.tasks.gene2peak.truth import read_truth
from mocli.tasks.gene2peak.work import TOP, SilencingResult, silence
from mocli.tasks.prepare.aim import Aim
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.relate.candidates import choose_genes, find_candidates
from mocli.tasks.run.frame import Foresight, Tell
from mocli.tasks.run.options import UNNAMED, DataOptions
from mocli.tasks.run.paths import read_description
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.foresee import plan_training
from mocli.tasks.trained.obtain import check_task, obtain
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.types import DoubleArray, ModalityKind, Task

if TYPE_CHECKING:
    from anndata import AnnData

MOST_PAIRS = 20_000_000
"""Pairs of genes and peaks in all groups, where peaks are not near genes."""


def name_of(request: Request, options: Gene2PeakOptions) -> str:
    """Return the model that will be used.

    Raises `UsageError`: it has no place in this task.
    """
    if options.from_model is not None:
        return str(read_description(options.from_model)["model"])
    if request.train.model not in UNNAMED:
        check_task(request.train.model, Task.GENE2PEAK)
        return request.train.model
    return plan_training(request, Task.GENE2PEAK, _quiet).traits.name


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


def silence_in_model(run: Run, request: Request, options: Gene2PeakOptions, way: Way) -> None:
    """Take or train a model, silence genes in it, and write what changes at the peaks."""
    files = open_modalities(request.data)
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
        beside = {path.suffix: path for path in run.paths.beside}
        write_silencing(run, result, bedpe=beside.get(".bedpe"), peak_sets=beside.get(".tsv"))
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
