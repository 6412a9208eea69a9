"""What a perturbation leaves behind: tables, predicted cells, figures, words, pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mocli.data.files.inputs import sha256
from mocli.data.write.blocks import NewModality
from mocli.data.write.tsv import write_tsv
from mocli.data.write.write import write_h5mu
from mocli.tasks.perturb.report import draw, report_perturbation
from mocli.tasks.perturb.shifts import stream
from mocli.train.checkpoint import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mocli.data.write.blocks import Block
    from mocli.tasks.perturb.work import PerturbationRun

UNCHANGED = "none"


def deliver(work: PerturbationRun) -> None:
    """Write tables and, where asked for, predicted cells; fill the report."""
    run, screened, predicted = work.run, work.screened, work.predicted
    if work.trained is None:
        _describe(work)
    report_perturbation(work)
    path, beside = run.paths.output, list(run.paths.beside)
    n = len(work.perturbations)
    if screened is not None:
        write_tsv(path, screened.table)
        told = f"shifts of {n:,} perturbations towards {work.asked.target}, {_sets(len(work.sets.sets))}"
        run.add_output(path, told, first=True)
        if predicted is not None:
            path = beside.pop(0)
    if predicted is not None:
        write_tsv(path, predicted.table)
        what = f"predicted changes of {len(predicted.reader.names):,} {predicted.reader.modality} features"
        run.add_output(path, f"{what} by {n:,} perturbations", first=screened is None)
    if work.asked.write_predicted:
        _write_predicted(work, beside.pop(0))
    if run.paths.html is not None:
        from mocli.report import html

        run.say("drawing the report")
        html.write(run.paths.html, html.render(run.report, drawn=draw(work)))
        run.add_output(run.paths.html, "the report to read")
    Checkpoints(run.paths.checkpoints, fingerprint={}, resume="never").remove()
    for record in run.report.outputs:
        run.say(f"wrote {record['path']}: {record['what']}")


def _write_predicted(work: PerturbationRun, path: Path) -> None:
    """Write what every cell would have, unchanged and after each perturbation, block by block."""
    assert work.predicted is not None
    reader, obs = work.predicted.reader, work.file.obs.iloc[work.chosen.source]
    done = [(UNCHANGED, UNCHANGED)]
    done += [(d, p.name) for d in work.asked.directions for p in work.perturbations]
    parts = []
    for direction, feature in done:
        part = obs.copy()
        if feature != UNCHANGED:
            part.index = pd.Index([f"{cell}|{direction}|{feature}" for cell in obs.index], dtype=object)
        part["perturbed"], part["direction"] = feature, direction
        parts.append(part)
    var = pd.DataFrame(index=pd.Index(list(reader.names), dtype=object))
    uns = work.run.provenance(work.saved.description["model"], work.saved.model.params)
    new = NewModality(
        name=f"{reader.modality}_predicted",
        obs=pd.concat(parts),
        var=var,
        blocks=lambda: _blocks(work),
        uns=uns,
    )
    write_h5mu(path, [], obsm={}, uns=uns, new=[new])
    scale = "expected counts at median depth" if reader.counted else "on the scale of the transform"
    work.run.add_output(
        path,
        f"{new.n_obs:,} predicted cells ({len(done):,} x {len(obs):,}) x {new.n_vars:,} features, {scale}",
    )


def _blocks(work: PerturbationRun) -> Iterator[Block]:
    assert work.predicted is not None
    reader, cells = work.predicted.reader, work.cells
    yield from ({"X": reader.read(cells.z[rows]).astype(np.float32)} for rows in reader.blocks(len(cells.z)))
    for direction in work.asked.directions:
        for perturbation in work.perturbations:
            z = cells.z.copy()
            for _, at, after in stream(
                cells, [perturbation], work.asked.effect, direction, absent=work.absent
            ):
                z[at] = after
            yield from ({"X": reader.read(z[rows]).astype(np.float32)} for rows in reader.blocks(len(z)))


def _describe(work: PerturbationRun) -> None:
    """Put inputs and model into the report where nothing was trained."""
    from mocli.models.registry import traits_of

    hashes = {path: sha256(path) for path in {p for f in work.files for p in f.paths}}
    for f in work.files:
        work.run.report.inputs.extend(
            {"path": str(part.path), "sha256": hashes[part.path], "modality": f.name, "kind": f.kind.value,
             "n_obs": len(rows), "n_vars": part.n_vars}
            for part, rows in f.by_part()
        )  # fmt: skip
    known = work.saved.description
    traits = traits_of(known["model"])
    work.run.report.model = {
        "name": traits.name,
        "title": traits.title,
        "doi": traits.doi,
        "params": known["params"],
        "reason": f"the model of {work.asked.from_model}",
    }


def _sets(n: int) -> str:
    return "all cells" if n == 1 else f"{n:,} sets of cells"
