"""Labels of a model's training cells, transferred to the cells of a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mocli.data.files.modality import ModalityFile
from mocli.metrics.label_votes import forest, vote
from mocli.metrics.mapping_score import Labelled, threshold
from mocli.report.figures import Better, figure
from mocli.tasks.integrate.carried import Assigned, Carried
from mocli.tasks.integrate.labelreport import describe_carried, known_labels
from mocli.tasks.integrate.options import TransferOptions
from mocli.tasks.run.run import Run
from mocli.tasks.trained.atlas import Atlas
from mocli.types import BoolArray, FloatArray

FOREST = "random forest"
HOW = {
    "k-NN": "by a vote of the 15 nearest training cells, weight exp(-d^2 / 2h^2), h the 15th's distance",
    FOREST: "by a random forest on the training cells' latent, 200 trees, balanced subsamples",
}


def vote_from_atlas(
    run: Run,
    options: TransferOptions,
    atlas: Atlas,
    files: Sequence[ModalityFile],
    latent: Mapping[str, FloatArray],
    measured: Sequence[str],
    again: Mapping[str, BoolArray],
) -> list[Carried]:
    """Label all cells of a query twice, by neighbours and by a random forest; compare where labels are known.

    Parameters
    ----------
    latent
        By the name of each file's modality, `(n_obs, d)`.
    measured
        The model's names of these modalities; training cells are compared as if nothing else had been
        measured in them.
    again
        Cells that are counted with a modality before, see `Carried`.
    """
    places = atlas.seen_by(measured)
    done = []
    for column in options.columns:
        atlas_codes = atlas.labels[column]
        usable = np.isfinite(places).all(1) & (atlas_codes.codes >= 0)
        by_way: dict[str, dict[str, Assigned]] = {way: {} for way in HOW}
        below, left_out = {}, {}
        for model_name, (name, z) in zip(measured, latent.items(), strict=True):
            rows = np.flatnonzero(np.isfinite(z).all(1))
            voters = usable & atlas.voters(model_name, atlas_codes.codes)
            reference = Labelled.of(places[voters], atlas_codes.codes[voters], device=str(run.device))
            left_out[name] = reference.left_out()
            below[name] = (
                threshold(left_out[name]) if options.unknown_below is None else options.unknown_below
            )
            mapping = reference.score(z[rows])
            to, codes, n_levels = places[voters], atlas_codes.codes[voters], len(atlas_codes.levels)
            nearest = vote(z[rows], to, codes, n_levels=n_levels, device=str(run.device))
            grown = forest(z[rows], to, codes, n_levels=n_levels, seed=run.options.seed)
            for way, (best, confidence) in zip(HOW, (nearest, grown), strict=True):
                by_way[way][name] = Assigned(best, confidence, mapping).at(rows, len(z))
        own_label = {name: np.zeros(len(z), bool) for name, z in latent.items()}
        for way, assigned in by_way.items():
            of_forest = way == FOREST
            carried = Carried(
                column,
                atlas_codes.levels,
                assigned,
                own_label,
                options.min_confidence,
                below,
                left_out,
                way=way,
                column="forest" if of_forest else "transferred",
                maps=not of_forest,
                again=again,
            )
            done.append(carried)
            describe_carried(run, carried, prefix="query_")
            _compare(run, carried, files)
        _agree(run, column, *done[-2:])
    return done


def _compare(run: Run, carried: Carried, files: Sequence[ModalityFile]) -> None:
    """Report how many cells got the label they came with, if the query has the column."""
    levels = np.array(carried.levels, dtype=object)
    for name, (codes, own_levels) in known_labels(carried, files).items():
        cells = np.flatnonzero((codes >= 0) & carried.unlabelled(name))
        if not len(cells):
            continue
        truth = np.array(own_levels, dtype=object)[codes[cells]]
        transferred = carried.codes(name)[cells]
        sure, lacking = transferred >= 0, ~np.isin(truth, levels)
        right = sure & (levels[transferred] == truth)
        figures: tuple[tuple[str, str, float | None, int, str, Better], ...] = (
            (
                "query_label_accuracy",
                "accuracy",
                float(right.mean()),
                len(cells),
                "Share of the query's cells that got the label they came with; unknown counts as wrong.",
                "higher",
            ),
            (
                "query_label_accuracy_known",
                "accuracy where not unknown",
                float(right[sure].mean()) if sure.any() else None,
                int(sure.sum()),
                "Share of right labels among those that are not unknown.",
                "higher",
            ),
            (
                "query_label_unknown",
                "share unknown of known types",
                float((~sure[~lacking]).mean()) if (~lacking).any() else None,
                int((~lacking).sum()),
                "Share of cells that are unknown although the reference has their type.",
                "lower",
            ),
            (
                "query_label_unknown_lacking",
                "share unknown of types that the reference lacks",
                float((~sure[lacking]).mean()) if lacking.any() else None,
                int(lacking.sum()),
                "Share of cells of types that the reference lacks, which are rightly unknown.",
                "higher",
            ),
        )
        for metric, title, value, n, sentence, better in figures:
            run.report.metrics[f"{metric}[{carried.name}->{name}, {carried.way}]"] = figure(
                value,
                f"Labels of the query: {title}, {carried.way}",
                f"Cells of the query are labelled {HOW[carried.way]}; compared with their own label.",
                sentence,
                better=better,
                bounds=(0.0, 1.0),
                n=n,
            )
        line = f"  {carried.way}: of {len(cells):,} {carried.measured(name)} cells that came with a label, "
        if not lacking.all():
            n_had = "all" if not lacking.any() else f"{int((~lacking).sum()):,}"
            line += (
                f"{n_had} are of types that the reference has: {carried.name} is right for "
                f"{right[~lacking].mean():.3f} of them"
            )
        if lacking.any():
            line += (
                f"{'' if lacking.all() else '; '}{int(lacking.sum()):,} are of types that it lacks: "
                f"{(~sure[lacking]).mean():.3f} of them are unknown"
            )
        run.say(line)


def _agree(run: Run, column: str, first: Carried, second: Carried) -> None:
    a, b = (np.concatenate([c.codes(name) for name in c.assigned]) for c in (first, second))
    both = (a >= 0) & (b >= 0)
    if both.any():
        run.say(
            f"  both ways give the same {column} to {(a == b)[both].mean():.1%} of the cells that both label"
        )
