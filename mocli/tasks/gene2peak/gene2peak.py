"""`mocli gene2peak`: which peaks go with which genes, by imputed expression or by silencing genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.data.genome.loci import has_places
from mocli.data.write.outfile import write_tsv
from mocli.errors import UsageError
from mocli.tasks.gene2peak.measured import by_default, foretold, relate_measured, take_measured
from mocli.tasks.gene2peak.options import PEAK_SETS, Gene2PeakOptions
from mocli.tasks.impute.holdout import HoldOut
from mocli.tasks.impute.options import ImputeOptions
from mocli.tasks.impute.survey import survey
from mocli.tasks.infer.direction import Direction
from mocli.tasks.infer.translation import Translation
from mocli.tasks.prepare.aim import Aim
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.relate.candidates import Candidates, choose_genes, find_candidates
from mocli.tasks.relate.relate import Related
from mocli.tasks.run.frame import Foresight, Tell, Verb, perform
from mocli.tasks.run.request import Request, Result, subcommand
from mocli.tasks.run.run import Run
from mocli.tasks.trained.foresee import foresee_training
from mocli.tasks.trained.record import describe_given
from mocli.types import Pairing, Route, StrArray, Task

TOP = 20
"""Strongest pairs of every feature that are tested if features have no positions and pairs are too many."""


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
    if by_default(request, options):
        options = replace(options, method="metacells")
    verb = Verb(
        task="gene2peak",
        suffixes=(".tsv",),
        foresee=partial(_foresee, request, options),
        work=partial(_work, request, options),
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


def _foresee(request: Request, options: Gene2PeakOptions, tell: Tell) -> None:
    if options.method == "metacells":
        tell.say(foretold(take_measured(request, options, tell)).words)
        return
    files, way, saved = open_modalities(request.data), None, None
    aim = Aim(Task.GENE2PEAK)
    if options.method != "correlation":
        from mocli.tasks.gene2peak.silence import aim_of, check_in_model, check_inputs, name_of, way_in

        name = name_of(request, options)
        way = way_in(name, options)
        aim = aim if way is None else aim_of(options, files)
    if options.from_model is None:
        foresee_training(request, aim, tell, files)
    else:
        from mocli.tasks.trained.obtain import foresee_given

        saved = foresee_given(tell, request, options.from_model, Task.GENE2PEAK, files)
    if way is not None:
        if saved is None:
            check_inputs(request, options, files, tell)
        else:
            check_in_model(saved, request, options, files, tell)
        tell.say(f"silencing genes in {name}, method {way}")
        return
    direction = survey(request, _of_imputation(options), Task.GENE2PEAK, Foresight()).direction
    tell.say(f"imputing {direction.target} from {direction.source}")
    _choose(request, options, direction, tell)
    if saved is not None:
        from mocli.tasks.impute.work import foresee_in_model

        foresee_in_model(tell, request, _of_imputation(options), direction)


def _work(request: Request, options: Gene2PeakOptions, run: Run) -> None:
    if options.method == "metacells":
        relate_measured(run, request, options)
        return
    # torch and scikit-learn are loaded only now: a dry run and a refusal need neither
    from mocli.tasks.gene2peak.silence import name_of, silence_in_model, way_in

    way = way_in(name_of(request, options), options)
    if way is not None:
        silence_in_model(run, request, options, way)
    else:
        _correlate(run, request, options)


def _correlate(run: Run, request: Request, options: Gene2PeakOptions) -> None:
    """Impute expression where peaks were measured, correlate the two, and write the table."""
    from mocli.tasks.impute.work import obtain_model, translate
    from mocli.tasks.relate.relate import relate_features

    of_imputation = _of_imputation(options)
    surveyed = survey(request, of_imputation, Task.GENE2PEAK, run)
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
    from mocli.tasks.gene2peak.work import with_columns
    from mocli.tasks.relate.correlate import genomic_pairs
    from mocli.tasks.relate.metacells import FEWEST_CELLS, score_pairs

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
    from mocli.tasks.relate.report import draw_relations, over_all, report_relations, summarise, write_bedpe

    report_relations(run, related, direction)
    write_tsv(run.paths.output, related.table)
    run.add_output(run.paths.output, summarise(related), first=True)
    vicinity = related.candidates.vicinity
    for path in run.paths.beside:
        assert vicinity is not None
        write_bedpe(path, over_all(related.table), vicinity)
        run.add_output(path, "the same over all cells as arcs, for genome browsers")
    run.finish(lambda: {"drawn": draw_relations(related)})
