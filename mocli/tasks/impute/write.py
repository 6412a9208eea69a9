"""What an imputation leaves behind: the filled modality block by block, figures, words, pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mocli.data.batches import densify
from mocli.data.write.blocks import NewModality
from mocli.data.write.write import Added, write_h5ad, write_h5mu
from mocli.tasks.impute.accuracy import blocks_of
from mocli.tasks.impute.draw import Sampler
from mocli.tasks.impute.report import report_figures, report_route, tabulate
from mocli.tasks.infer.align import align
from mocli.tasks.infer.decoder import Decoder
from mocli.tasks.relate.report import draw_relations, report_relations, summarise
from mocli.tasks.relate.table import write_tsv
from mocli.tasks.trained.record import describe_given
from mocli.train.checkpoint import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mocli.data.write.blocks import Block, Written
    from mocli.tasks.impute.work import Imputation
    from mocli.types import IntArray

SPOKEN_OF = 1_000_000
"""Values from which the pace of writing is worth a line."""

_SCALES = {
    "counts": "expected counts of a cell of the training cells' median depth",
    "scaled": "standardised by the training cells' mean and standard deviation of log values",
    "shares": "shares of the cell's total",
}


def deliver(work: Imputation) -> None:
    """Write the file and fill the report."""
    run = work.run
    rows, lacks = work.rows_to_fill()
    if work.trained is None:
        describe_inputs(work)
    features = feature_table(work)
    new = _new_modality(work, rows, lacks, features)
    written = _write(work, new)
    run.report.timing |= {"decode_s": round(written.decode_s, 3), "compress_s": round(written.write_s, 3)}
    if written.n_values >= SPOKEN_OF:
        run.say(_pace(written))
    run.add_output(
        run.paths.output,
        f"{len(rows):,} cells x {len(features):,} {work.target} features "
        + ("denoised" if work.denoised is not None else f"imputed from {work.source}")
        + f" by the {work.predictor.name}, {_scale_words(work)}",
        first=True,
    )
    report_route(work)
    report_figures(work)
    tabulate(work)
    if work.related is not None:
        report_relations(run, work.related, f"{work.source}->{work.target}")
        write_tsv(run.paths.beside[0], work.related.table)
        run.add_output(run.paths.beside[0], summarise(work.related))
    if run.paths.html is not None:
        _write_html(work)
    Checkpoints(run.paths.checkpoints, fingerprint={}, resume="never").remove()
    for record in run.report.outputs:
        run.say(f"wrote {record['path']}: {record['what']}")


def _scale_words(work: Imputation) -> str:
    scale = work.asked.scale
    if work.denoised is not None and scale == "counts":
        return "expected counts at the depth of each cell"
    return work.readout.transform.readable.words if scale == "log" else _SCALES[scale]


def feature_table(work: Imputation) -> pd.DataFrame:
    """Tell what is known of every feature written: its var columns, accuracy, coverage, trust."""
    names = pd.Index([work.names[j] for j in work.columns], dtype=object)
    if work.target_file is not None:
        var = work.target_file.var
        table = var[~var.index.duplicated()].reindex(names)
    else:
        table = pd.DataFrame(index=names)
    accuracy = work.evaluation.accuracy if work.evaluation else None
    if accuracy is None and work.calibration is not None:
        accuracy = work.calibration.accuracy
    if accuracy is not None:
        for name in ("pearson", "spearman", "r2", "rmse"):
            table[name] = getattr(accuracy, name)[work.columns]
        table["better_than_mean"] = np.nan_to_num(accuracy.r2[work.columns], nan=-1) > 0
    if work.evaluation is not None:
        table["coverage"] = work.evaluation.coverage[work.columns]
    if isinstance(work.predictor, Decoder):
        table["imputed_by"] = "readout"
        table.iloc[work.predictor.decoded(work.columns), -1] = "decoder"
    return table


def _new_modality(work: Imputation, rows: IntArray, lacks: np.ndarray, features: pd.DataFrame) -> NewModality:
    obs = work.source_file.obs.iloc[rows].copy()
    obs["imputed"] = lacks
    return NewModality(
        name=f"{work.target}_imputed",
        obs=obs,
        var=features,
        blocks=lambda: _blocks(work, rows),
        uns=work.run.provenance(work.saved.description["model"], work.saved.model.params),
    )


def _blocks(work: Imputation, rows: IntArray) -> Iterator[Block]:
    scale, columns = work.asked.scale, work.columns
    intervals = work.calibration.intervals.take(columns) if work.calibration else None
    measured = None
    if work.denoised is not None:
        measured = work.denoised.aligned, rows
    elif work.target_file is not None and len(work.pairs):
        aligned = align(
            work.saved, work.target, work.target_file, layers=work.request.data.layer, warn=lambda _: None
        )
        own = np.full(work.source_file.n_obs, -1, dtype=np.int64)
        own[work.pairs[:, 0]] = work.pairs[:, 1]
        measured = aligned, own[rows]
    sampler = Sampler.of(work) if work.asked.draw else None
    for span in blocks_of(len(rows), len(columns)):
        block: dict[str, Any] = {"X": work.values(rows[span])}
        if intervals is not None:
            block["lower"], block["upper"] = intervals.interval(block["X"])
        if measured is not None:
            aligned, own = measured
            observed = np.full((span.stop - span.start, len(columns)), np.nan, np.float32)
            known = np.flatnonzero(own[span] >= 0)
            if len(known):
                x = aligned.read(own[span][known])
                observed[known] = (work.denoised or work.readout).measured(x, scale, columns, aligned.absent)
            block["observed"] = observed
        if sampler is not None:
            block["sampled"] = sampler.draw(rows[span], columns)
        yield block


def _write(work: Imputation, new: NewModality) -> Written:
    path = work.run.paths.output
    if path.suffix == ".h5ad":
        return write_h5ad(path, new)
    key = work.request.output.key_added or f"X_{work.saved.description['model']}"
    added = [Added(file=f, obsm={key: work.z} if f is work.source_file else {}) for f in work.files]
    return write_h5mu(path, added, obsm={}, uns=new.uns, new=[new], warn=work.run.warn)[new.name]


def _pace(written: Written) -> str:
    millions = max(written.n_values, 1) / 1e6
    decode, write = written.decode_s / millions, written.write_s / millions
    bound = "compression and disk" if write > decode else "decoding"
    return (
        f"{written.n_values / 1e6:,.1f} million values written ({written.bytes / 1e6:,.1f} MB): per million "
        f"{decode:.3f} s to decode, {write:.3f} s to compress and write; bound by {bound}"
    )


def describe_inputs(work: Imputation) -> None:
    """Put inputs and model into the report where nothing was trained."""
    describe_given(work.run, work.files, work.saved, f"the model of {work.asked.from_model}")


def _write_html(work: Imputation) -> None:
    from mocli.report import html, imputed

    run = work.run
    run.say("drawing the report")
    drawn = []
    if work.evaluation is not None:
        rows, predicted, measured, names = _examples(work)
        linked = work.evaluation.baselines.get("linked_feature")
        drawn.append(
            html.Drawn(
                imputed.accuracy_dots(
                    [work.names[j] for j in work.columns],
                    work.evaluation.accuracy.pearson[work.columns],
                    None if linked is None else linked.pearson[work.columns],
                ),
                "How well every feature is predicted",
                "Pearson correlation of imputed and measured values over cells that were hidden.",
            )
        )
        drawn.append(
            html.Drawn(
                imputed.scatter(predicted, measured, names),
                "Imputed against measured",
                f"One point a cell ({len(rows):,} of those hidden): best, median and worst feature.",
            )
        )
    if work.related is not None:
        drawn += draw_relations(work.related)
    html.write(run.paths.html, html.render(run.report, drawn=drawn)) if run.paths.html else None
    if run.paths.html:
        run.add_output(run.paths.html, "the report to read")


def _examples(work: Imputation) -> tuple[IntArray, np.ndarray, np.ndarray, list[str]]:
    assert work.evaluation is not None
    assert work.target_file is not None
    pearson = work.evaluation.accuracy.pearson[work.columns]
    known = np.flatnonzero(np.isfinite(pearson))
    ranked = known[np.argsort(pearson[known], kind="stable")]
    picked = [ranked[-1], ranked[len(ranked) // 2], ranked[0]] if len(ranked) else []
    columns = work.columns[np.array(picked, dtype=np.int64)]
    rows = work.checked[:1000]
    aligned = align(
        work.saved, work.target, work.target_file, layers=work.request.data.layer, warn=lambda _: None
    )
    x = aligned.read(work.pairs[rows, 1])
    measured = work.readout.measured(x, work.asked.scale, columns, aligned.absent)
    predicted = work.predict(work.pairs[rows, 0], work.asked.scale, columns)
    return rows, predicted, densify(measured), [work.names[j] for j in columns]
