"""The output of a perturbation: tables, predicted cells, figures, sentences, pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from mocli.data.write.blocks import Block, NewModality
from mocli.data.write.outfile import write_tsv
from mocli.data.write.write import write_file
from mocli.report.wording import plural
from mocli.tasks.perturb.effects import TargetReader
from mocli.tasks.perturb.options import PerturbOptions
from mocli.tasks.perturb.report import draw, report_perturbation
from mocli.tasks.perturb.shifts import stream
from mocli.tasks.perturb.work import Findings, PlacedCells, Subject
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.record import describe_given

UNCHANGED = "none"


def deliver(
    run: Run,
    request: Request,
    options: PerturbOptions,
    subject: Subject,
    placed: PlacedCells,
    findings: Findings,
) -> None:
    """Write tables and, where asked for, predicted cells; fill the report."""
    screened, predicted = findings.screened, findings.predicted
    if subject.trained is None:
        describe_given(run, subject.files, subject.saved, f"the model of {options.from_model}")
    report_perturbation(run, options, placed, findings)
    path, beside = run.paths.output, list(run.paths.beside)
    n, n_sets = len(placed.perturbations), len(placed.sets.sets)
    if screened is not None:
        write_tsv(path, screened)
        cells = "all cells" if n_sets == 1 else f"{n_sets:,} sets of cells"
        run.add_output(
            path, f"shifts of {plural(n, 'perturbation')} towards {options.target}, {cells}", first=True
        )
        if predicted is not None:
            path = beside.pop(0)
    if predicted is not None:
        write_tsv(path, predicted.table)
        what = f"predicted changes of {len(predicted.reader.names):,} {predicted.reader.modality} features"
        run.add_output(path, f"{what} by {plural(n, 'perturbation')}", first=screened is None)
        if options.write_predicted:
            _write_predicted(run, request, options, subject, placed, predicted.reader, beside.pop(0))
    run.finish(lambda: {"drawn": draw(options, placed, findings)})


def _write_predicted(
    run: Run,
    request: Request,
    options: PerturbOptions,
    subject: Subject,
    placed: PlacedCells,
    reader: TargetReader,
    path: Path,
) -> None:
    """Write the predicted values of every cell, unchanged and after each perturbation, block by block."""
    obs = subject.file.obs.iloc[subject.chosen.source]
    pairs = [(UNCHANGED, UNCHANGED)]
    pairs += [(d, p.name) for d in options.directions for p in placed.perturbations]
    parts = []
    for direction, feature in pairs:
        part = obs.copy()
        if feature != UNCHANGED:
            part.index = pd.Index([f"{cell}|{direction}|{feature}" for cell in obs.index], dtype=object)
        part["perturbed"], part["direction"] = feature, direction
        parts.append(part)
    uns = {}
    if request.output.provenance:
        uns = {"mocli": run.provenance(subject.saved.description["model"], subject.saved.model.params)}
    new = NewModality(
        name=f"{reader.modality}_predicted",
        obs=pd.concat(parts),
        var=pd.DataFrame(index=pd.Index(list(reader.names), dtype=object)),
        blocks=lambda: _blocks(options, placed, reader),
        uns=uns,
    )
    write_file(path, [], obsm={}, uns=uns, new=[new])
    scale = "expected counts at median depth" if reader.counted else "on the scale of the transform"
    run.add_output(
        path,
        f"{new.n_obs:,} predicted cells ({len(pairs):,} x {len(obs):,}) x {new.n_vars:,} features, {scale}",
    )


def _blocks(options: PerturbOptions, placed: PlacedCells, reader: TargetReader) -> Iterator[Block]:
    cells = placed.cells
    yield from ({"X": reader.read(cells.z[rows]).astype(np.float32)} for rows in reader.blocks(len(cells.z)))
    for direction in options.directions:
        for perturbation in placed.perturbations:
            z = cells.z.copy()
            for _, changed, after in stream(cells, [perturbation], options.change, direction):
                z[changed] = after
            yield from ({"X": reader.read(z[rows]).astype(np.float32)} for rows in reader.blocks(len(z)))
