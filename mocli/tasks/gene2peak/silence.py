"""`mocli gene2peak --method latent|input`: from the request to the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mocli.data.features.index import features_of
from mocli.data.files.inmemory import of_anndata
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.data.genome.loci import has_places
from mocli.errors import UsageError
from mocli.models.registry import available
from mocli.tasks.gene2peak.cells import can_silence, check_values, choose_modalities, choose_way, take_cells
from mocli.tasks.gene2peak.changes import Way
from mocli.tasks.gene2peak.options import Gene2PeakOptions
from mocli.tasks.gene2peak.peakclasses import read_classes
from mocli.tasks.gene2peak.peaksets import read_peak_sets
from mocli.tasks.gene2peak.report import draw_silencing, report_silencing, write_silencing
from mocli.tasks.gene2peak.truth import read_truth
from mocli.tasks.gene2peak.work import TOP, SilencingResult, silence
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.relate.candidates import choose_genes, find_candidates
from mocli.tasks.run.frame import Foresight, Tell
from mocli.tasks.run.modelfolder import read_description
from mocli.tasks.run.options import UNNAMED, DataOptions
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.foresee import plan_training
from mocli.tasks.trained.obtain import check_task, obtain
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.types import ModalityKind, Task

if TYPE_CHECKING:
    from anndata import AnnData

MOST_PAIRS = 20_000_000
"""Pairs of genes and peaks in all groups, where peaks are not near genes."""


def way_of(request: Request, asked: Gene2PeakOptions) -> Way | None:
    """Return how genes fall silent; None where expression is imputed and correlated.

    Raises
    ------
    UsageError
        The model cannot do as asked.
    """
    if asked.method == "correlation":
        return None
    if asked.from_model is not None:
        name = read_description(asked.from_model)["model"]
    elif request.train.model not in UNNAMED:
        name = request.train.model
        check_task(name, Task.GENE2PEAK)
    else:
        name = plan_training(request, Task.GENE2PEAK, _quiet).traits.name
    way = choose_way(name, asked.method)
    if way is None and asked.of_silencing:
        option = asked.of_silencing[0]
        raise UsageError(
            f"{name} relates genes to peaks by correlation, which does not use {option}",
            field=option,
            hint="leave it out, or use a model that decodes cells' latent coordinates: "
            + ", ".join(other for other in available() if can_silence(other)),
        )
    return way


def check_inputs(
    request: Request, asked: Gene2PeakOptions, files: Sequence[ModalityFile], tell: Tell
) -> None:
    """Find out before training whether all that is asked for is there.

    Raises
    ------
    MocliError
        As silencing itself raises it.
    """
    rna, atac = choose_modalities({f.name: f.kind for f in files}, asked.source, asked.target)
    by_name = {f.name: f for f in files}
    genes, peaks = features_of([by_name[rna], by_name[atac]], var_key=request.data.var_key)
    if asked.group_key is not None:
        find_column(list(files), asked.group_key, option="--group-key")
    columns = choose_genes(genes, asked.genes, warn=tell.warn)
    candidates = find_candidates(
        genes, peaks, columns, gtf=asked.gtf, window=asked.window, top=TOP, tell=tell
    )
    if asked.peak_sets is not None:
        sets = read_peak_sets(asked.peak_sets, peaks, tell.warn)
        if asked.peak_set_classes is not None:
            read_classes(asked.peak_set_classes, sets, tell.warn)
    if asked.truth is not None and candidates.vicinity is not None:
        read_truth(asked.truth, candidates.vicinity)


def silence_in_model(run: Run, request: Request, asked: Gene2PeakOptions, way: Way) -> None:
    """Take or train a model, silence genes in it, and write what changes at the peaks."""
    files = open_modalities(request.data)
    if asked.from_model is None:
        check_inputs(request, asked, files, Foresight())
    saved = obtain(run, request, asked.from_model, Task.GENE2PEAK, files).saved
    kinds = {name: ModalityKind(m["kind"]) for name, m in saved.modalities.items()}
    rna, atac = choose_modalities(kinds, asked.source, asked.target)
    check_values(saved, rna, atac)
    with run.timed("encode"):
        cells = take_cells(
            saved, files, (rna, atac), request.data, device=run.device, seed=request.run.seed, tell=run
        )
    if asked.gtf is None:
        n_groups = 1 + len(cells.groups(asked.group_key).names)
        n_genes = len(asked.genes) or len(cells.genes.names)
        if n_genes * len(cells.peaks.names) * n_groups > MOST_PAIRS:
            raise UsageError(
                f"{n_genes:,} genes with all of {len(cells.peaks.names):,} peaks are too many pairs",
                field="--gtf",
                hint="give --gtf FILE for peaks near genes"
                + (", or fewer with --genes" if has_places(cells.peaks) else ": name fewer with --genes"),
            )
        run.say("no --gtf: peaks are compared wherever they lie, and the strongest of each gene kept")
    with run.timed("silence"):
        found = silence(cells, asked, way, seed=request.run.seed, tell=run)
    report_silencing(run, found)
    with run.timed("write"):
        beside = {path.suffix: path for path in run.paths.beside}
        write_silencing(run, found, bedpe=beside.get(".bedpe"), peak_sets=beside.get(".tsv"))
        run.finish(lambda: {"drawn": draw_silencing(found)})


def silence_genes(
    model: SavedModel | str | Path,
    cells: Mapping[str, AnnData],
    options: Gene2PeakOptions,
    *,
    device: str = "cpu",
    seed: int = 0,
) -> SilencingResult:
    """Silence genes of cells that are in memory, in a trained model, and see which peaks close.

    Parameters
    ----------
    model
        As `load_model` returns it, or its folder.
    cells
        AnnData by the model's name of each modality: genes at least.
    options
        Genes, gene table (`gtf`), window, groups; see `mocli gene2peak -h`.

    Raises
    ------
    InputError, UsageError
        Cells or options do not fit the model.
    """
    saved = load_model(model)
    kinds = {name: ModalityKind(m["kind"]) for name, m in saved.modalities.items()}
    rna, atac = choose_modalities(kinds, options.source, options.target)
    check_values(saved, rna, atac)
    way = choose_way(saved.description["model"], options.method) or Way.LATENT
    files = [of_anndata(adata, name, kinds.get(name)) for name, adata in cells.items()]
    tell = Foresight()
    taken = take_cells(
        saved,
        files,
        (rna, atac),
        DataOptions(inputs=()),
        device=torch.device(device),
        seed=seed,
        tell=tell,
    )
    return silence(taken, options, way, seed=seed, tell=tell)


def _quiet(_: str) -> None:
    """Say nothing a second time."""
