"""The output of an imputation: the filled modality, block by block, figures, notes and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.batches import densify
from mocli.data.files.inspect import is_spatial
from mocli.data.write.blocks import Block, NewModality, Written
from mocli.data.write.outfile import write_tsv
from mocli.data.write.write import Added, write_file, write_h5ad
from mocli.report import featureplots, html
from mocli.report.figures import size
from mocli.tasks.impute.accuracy import Evaluation, blocks_of
from mocli.tasks.impute.check import Checked
from mocli.tasks.impute.denoise import Sampler
from mocli.tasks.impute.report import report_figures, report_route, tabulate
from mocli.tasks.impute.work import Imputation
from mocli.tasks.infer.align import Aligned
from mocli.tasks.infer.decoder import ValueDecoder
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.options import DataOptions, OutputOptions
from mocli.tasks.run.run import Run
from mocli.tasks.trained.atlas import MANY_KNOWN
from mocli.tasks.trained.record import describe_given
from mocli.types import FloatArray, IntArray

LEAST_FAR = 0.02
"""A larger share of cells far from the training cells than this is warned of; 1 % are far by definition."""
IN_TISSUE = 4
"""Features whose values are drawn where cells lie."""
SPOKEN_OF = 1_000_000
"""From this many values on, the speed of writing is logged."""

_SCALES = {
    "counts": "expected counts of a cell of the training cells' median depth",
    "scaled": "standardised by the mean and standard deviation of the training cells' log values",
    "shares": "shares of the cell's total",
}


def deliver(run: Run, data: DataOptions, output: OutputOptions, work: Imputation, checked: Checked) -> None:
    """Write the file and fill the report."""
    translation = work.translation
    rows, lacks = work.rows_to_fill()
    if work.trained is None:
        describe_given(run, work.survey.files, translation.saved, f"the model of {work.options.from_model}")
        _tell_known(run, work, rows)
    features = feature_table(work, checked)
    obs = translation.source_file.obs.iloc[rows].copy()
    obs["imputed"] = lacks
    distance = None if work.denoised is not None else translation.distance(rows)
    if distance is not None:
        obs["training_distance"] = distance
        obs["far_from_training"] = distance > 1
        tell_far(run, obs, distance)
    times = None
    if checked.calibration is not None:
        times = work.times(rows, data.batch_key, checked.calibration.new_batch)
    if times is not None:
        obs["interval_widening"] = times
        tell_wider(run, times, checked)
    new = NewModality(
        name=f"{translation.target}_imputed",
        obs=obs,
        var=features,
        blocks=lambda: _blocks(run, work, checked, rows, times),
        uns=run.provenance(translation.saved.description["model"], translation.saved.model.params),
    )
    written = _write(run, output, work, new)
    run.report.timing |= {"decode_s": round(written.decode_s, 3), "compress_s": round(written.write_s, 3)}
    if written.n_values >= SPOKEN_OF:
        run.say(_pace(written))
    run.add_output(
        run.paths.output,
        f"{len(rows):,} cells x {len(features):,} {translation.target} features "
        + ("denoised" if work.denoised is not None else f"imputed from {translation.source}")
        + f" by the {translation.predictor.name}, {_scale_words(work)}",
        first=True,
    )
    report_route(run, work)
    report_figures(run, work, checked)
    tabulate(run, work, checked)
    if checked.by_group is not None:
        (path,) = run.paths.beside
        table = checked.by_group.table(work.columns)
        if "imputed_by" in features:
            table["imputed_by"] = table["feature"].map(dict(features["imputed_by"]))
        write_tsv(path, table)
        run.add_output(path, f"features that differ between groups of {checked.by_group.column}")
    run.finish(lambda: {"drawn": [*_draw(work, checked), *_draw_in_tissue(run, work, features)]})


def _scale_words(work: Imputation) -> str:
    scale = work.options.scale
    if work.denoised is not None and scale == "counts":
        return "expected counts at the depth of each cell"
    return work.translation.readout.readable.words if scale == "log" else _SCALES[scale]


def feature_table(work: Imputation, checked: Checked) -> pd.DataFrame:
    """Return what is known of every feature written: its var columns, accuracy, coverage, trust."""
    translation, columns, evaluation = work.translation, work.columns, checked.evaluation
    names = pd.Index([translation.names[j] for j in columns], dtype=object)
    if translation.target_file is not None:
        var = translation.target_file.var
        table = var[~var.index.duplicated()].reindex(names)
    else:
        table = pd.DataFrame(index=names)
    accuracy = evaluation.accuracy if evaluation else None
    if accuracy is None and checked.calibration is not None:
        accuracy = checked.calibration.accuracy
    if accuracy is not None:
        for name in ("pearson", "spearman", "r2", "rmse"):
            table[name] = getattr(accuracy, name)[columns]
        table["better_than_mean"] = np.nan_to_num(accuracy.r2[columns], nan=-1) > 0
    if evaluation is not None:
        table["coverage"] = evaluation.coverage[columns]
    if isinstance(translation.predictor, ValueDecoder):
        table["imputed_by"] = "readout"
        table.iloc[translation.predictor.decoded(columns), -1] = "decoder"
    return table


def tell_far(tell: Tell, obs: pd.DataFrame, distance: FloatArray) -> None:
    """Warn of cells that lie further from the training cells than such cells do."""
    far = np.flatnonzero(distance > 1)
    if len(far) > LEAST_FAR * len(distance):
        furthest = far[np.argsort(-distance[far], kind="stable")[:3]]
        names = ", ".join(f"{obs.index[i]} ({distance[i]:.1f})" for i in furthest)
        tell.warn(
            f"{len(far):,} of {len(distance):,} cells lie further from the training cells than 99 % of "
            f"those do (furthest: {names}): their values are less certain and their intervals wider "
            "(obs['training_distance'], obs['far_from_training'])"
        )


def tell_wider(tell: Tell, times: FloatArray, checked: Checked) -> None:
    """Say that intervals of cells of a new batch are wider, and by how much."""
    calibration = checked.calibration
    if calibration is None or calibration.new_batch <= 1:
        return
    n = int((times >= np.float32(calibration.new_batch)).sum())
    if n > len(times) / 2:
        tell.say(
            f"intervals of {n:,} cells are {calibration.new_batch:.2f} times as wide as those of training "
            "cells, or wider, as these cells are of a batch that training lacked (obs['interval_widening'])"
        )


def _tell_known(run: Run, work: Imputation, rows: IntArray) -> None:
    """Warn where values are imputed of cells in which the model was taught what they are."""
    atlas, target = work.translation.saved.atlas, work.translation.target
    if atlas is None:
        return
    names = [str(name) for name in work.translation.source_file.obs.index[rows]]
    share = atlas.share_known(names, target)
    if share > MANY_KNOWN:
        run.warn(
            f"{share:.0%} of the cells have names of cells whose {target} the model was trained on: if they "
            "are the same, their values are nearer to measured ones than those of new cells will be"
        )


def _blocks(
    run: Run, work: Imputation, checked: Checked, rows: IntArray, times: FloatArray | None
) -> Iterator[Block]:
    translation, denoised, scale, columns = work.translation, work.denoised, work.options.scale, work.columns
    intervals = checked.calibration.intervals.take(columns) if checked.calibration else None
    measured: tuple[Aligned, IntArray] | None = None
    if denoised is not None:
        measured = denoised.aligned, rows
    elif translation.target_file is not None and len(translation.pairs):
        measured = translation.aligned(translation.target), translation.partners()[rows]
    sampler = None
    if work.options.draw:
        sampler = Sampler.of(translation, denoised, device=run.device, seed=run.options.seed)
    for span in blocks_of(len(rows), len(columns)):
        block: dict[str, Any] = {"X": work.values(rows[span])}
        if intervals is not None:
            wide = None if times is None else times[span]
            block["lower"], block["upper"] = intervals.interval(block["X"], wide)
        if measured is not None:
            aligned, partner = measured
            observed = np.full((span.stop - span.start, len(columns)), np.nan, np.float32)
            with_partner = np.flatnonzero(partner[span] >= 0)
            if len(with_partner):
                x = aligned.read(partner[span][with_partner])
                way = denoised or translation.readout
                observed[with_partner] = way.measured(x, scale, columns, aligned.absent)
            block["observed"] = observed
        if sampler is not None:
            block["sampled"] = sampler.draw(rows[span], columns)
        yield block


def _write(run: Run, output: OutputOptions, work: Imputation, new: NewModality) -> Written:
    path, translation = run.paths.output, work.translation
    if path.suffix == ".h5ad":
        return write_h5ad(path, new)
    key = output.key_added or f"X_{translation.saved.description['model']}"
    added = [
        Added(file=f, obsm={key: translation.z} if f is translation.source_file else {})
        for f in work.survey.files
    ]
    return write_file(path, added, obsm={}, uns=new.uns, new=[new], warn=run.warn)[new.name]


def _pace(written: Written) -> str:
    millions = max(written.n_values, 1) / 1e6
    decode, write = written.decode_s / millions, written.write_s / millions
    bound = "compression and disk" if write > decode else "decoding"
    return (
        f"{written.n_values / 1e6:,.1f} million values written ({size(written.bytes)}): per million "
        f"{decode:.3f} s to decode, {write:.3f} s to compress and write; bound by {bound}"
    )


def _draw(work: Imputation, checked: Checked) -> list[html.Drawn]:
    names, columns = work.translation.names, work.columns
    by_group = checked.by_group
    groups = [] if by_group is None else [by_group.draw(columns)]
    if checked.evaluation is None:
        accuracy = checked.calibration.accuracy if checked.calibration else None
        if (
            checked.calibration is None
            or accuracy is None
            or not np.isfinite(accuracy.pearson[columns]).any()
        ):
            return groups
        dots = featureplots.accuracy_dots([names[j] for j in columns], accuracy.pearson[columns], None)
        caption = f"Pearson correlation of imputed and measured values over {checked.calibration.basis}."
        return [html.Drawn(dots, "How well every feature is predicted", caption)]
    rows, predicted, measured, examples = _examples(work, checked.evaluation)
    linked = checked.evaluation.baselines.get("linked_feature")
    drawn = [
        html.Drawn(
            featureplots.accuracy_dots(
                [names[j] for j in columns],
                checked.evaluation.accuracy.pearson[columns],
                None if linked is None else linked.pearson[columns],
            ),
            "How well every feature is predicted",
            "Pearson correlation of imputed and measured values over the cells whose values were hidden.",
        ),
        html.Drawn(
            featureplots.scatter(predicted, measured, examples),
            "Imputed against measured",
            f"One point a cell ({len(rows):,} of those hidden): best, median and worst feature.",
        ),
    ]
    return drawn + groups


class _Columns(dict[str, FloatArray]):
    """Values to draw, by name."""

    def of_modality(self, _: str) -> dict[str, FloatArray]:
        return self


def _draw_in_tissue(run: Run, work: Imputation, features: pd.DataFrame) -> list[html.Drawn]:
    """Draw the best predicted features, or the first ones, where the source's cells have coordinates."""
    from mocli.tasks.score.picture import draw_tissue

    file = work.translation.source_file
    if not is_spatial(file):
        return []
    best = np.arange(len(work.columns))
    if "pearson" in features:
        best = np.argsort(-features["pearson"].fillna(-1).to_numpy(), kind="stable")
    columns, (rows, _) = work.columns[best[:IN_TISSUE]], work.rows_to_fill()
    values = np.full((file.n_obs, len(columns)), np.nan, np.float32)
    values[rows] = replace(work, columns=columns).values(rows)
    names = [f"imputed {work.translation.names[j]}" for j in columns]
    return draw_tissue([file], [_Columns(zip(names, values.T, strict=True))], run.warn)


def _examples(work: Imputation, evaluation: Evaluation) -> tuple[IntArray, np.ndarray, np.ndarray, list[str]]:
    translation, scale = work.translation, work.options.scale
    pearson = evaluation.accuracy.pearson[work.columns]
    finite = np.flatnonzero(np.isfinite(pearson))
    ranked = finite[np.argsort(pearson[finite], kind="stable")]
    picked = [ranked[-1], ranked[len(ranked) // 2], ranked[0]] if len(ranked) else []
    columns = work.columns[np.array(picked, dtype=np.int64)]
    rows = work.survey.compared[:1000]
    aligned = translation.aligned(translation.target)
    x = aligned.read(translation.pairs[rows, 1])
    measured = translation.readout.measured(x, scale, columns, aligned.absent)
    predicted = translation.predict(translation.pairs[rows, 0], scale, columns)
    return rows, predicted, densify(measured), [translation.names[j] for j in columns]
