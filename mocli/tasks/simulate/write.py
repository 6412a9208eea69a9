"""What a simulation leaves behind: cells measured block by block, figures, words, pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from mocli.data.write.blocks import NewModality
from mocli.data.write.write import write_h5mu
from mocli.errors import InputError
from mocli.models.base import Conditions
from mocli.nn.neighbors import chunks
from mocli.tasks.infer.align import find_modality
from mocli.tasks.infer.decoder import likelihood_of
from mocli.tasks.simulate.groups import atlas_of
from mocli.tasks.simulate.report import evaluate, report_groups, write_html
from mocli.tasks.trained.record import describe_given
from mocli.train.checkpoint import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mocli.data.write.blocks import Block
    from mocli.tasks.simulate.work import Cells, Simulation
    from mocli.types import IntArray

VALUES = 2_000_000
"""Values sampled at a time; the block of a cell decides its random numbers, so it depends on nothing else."""

MOST_CELLS = 1024


def deliver(work: Simulation) -> None:
    """Write the file, compare with real cells where there are some, fill the report."""
    run, cells, wanted = work.run, work.cells, work.wanted
    if work.trained is None:
        describe_given(run, work.files, work.saved, f"the model of {work.asked.from_model}")
    for name in wanted.modalities:
        _check_features(work, name)
    obs = obs_table(work)
    new = [_new_modality(work, obs, name) for name in wanted.modalities]
    key = work.request.output.key_added or f"X_{work.saved.description['model']}"
    uns = run.provenance(work.saved.description["model"], work.saved.model.params)
    columns = {str(name): obs[name] for name in obs}
    written = write_h5mu(run.paths.output, [], obsm={key: cells.z}, uns=uns, obs=columns, new=new)
    for name, took in written.items():
        run.say(
            f"{name}: {cells.n:,} cells sampled in {took.decode_s:.1f} s, written in {took.write_s:.1f} s "
            f"({took.bytes / 1e6:,.1f} MB)"
        )
    kinds = ", ".join(f"{len(m.var):,} {m.name}" for m in new)
    run.add_output(
        run.paths.output,
        f"{cells.n:,} simulated cells with {kinds} features each, places in obsm['{key}']",
        first=True,
    )
    report_groups(work)
    with run.timed("evaluate"):
        compared = evaluate(work)
    write_html(work, compared)
    Checkpoints(run.paths.checkpoints, fingerprint={}, resume="never").remove()
    for record in run.report.outputs:
        run.say(f"wrote {record['path']}: {record['what']}")


def obs_table(work: Simulation) -> pd.DataFrame:
    """Return what is known of every simulated cell: label, covariates, the cell and component it follows."""
    cells, atlas = work.cells, atlas_of(work.saved)
    width = len(str(cells.n))
    names = pd.Index([f"simulated_{i:0{width}d}" for i in range(1, cells.n + 1)], dtype=object)
    columns = work.saved.description["columns"]
    table: dict[str, object] = {}
    labels = work.wanted.labels
    if labels is not None:
        table[labels.key] = _words(cells.label, labels.levels)
    if atlas.batch is not None and (cells.batch >= 0).any():
        table[columns.get("batch", atlas.batch.key)] = _words(cells.batch, atlas.batch.levels)
    known = {entry["key"]: entry["column"] for entry in work.saved.description.get("covariates", [])}
    for codes in atlas.covariates:
        table.setdefault(known.get(codes.key, codes.key), _words(codes.codes[cells.source], codes.levels))
    if atlas.continuous is not None:
        for j, name in enumerate(work.saved.description.get("continuous", [])):
            table.setdefault(name, atlas.continuous[cells.source, j])
    table["simulated"] = np.ones(cells.n, dtype=bool)
    if atlas.names and not work.asked.about_mean:
        table["source_cell"] = np.array([atlas.names[i] for i in cells.source], dtype=object)
    if cells.component is not None:
        table["source_component"] = cells.component.astype(np.int64)
    return pd.DataFrame(table, index=names)


def _words(codes: IntArray, levels: tuple[str, ...]) -> pd.Categorical:
    used = np.unique(codes[codes >= 0])
    where = np.full(len(levels) + 1, -1)
    where[used] = np.arange(len(used))
    return pd.Categorical.from_codes(where[codes], [levels[k] for k in used])


def _check_features(work: Simulation, name: str) -> None:
    """Say what of a modality is simulated; raise where the model draws no features of it."""
    run, recipe = work.run, work.saved.recipes[name]
    if recipe.lsi is not None or recipe.components is not None:
        raise InputError(
            f"the model draws components of '{name}', not features",
            field="--modality",
            hint=f"train it with --likelihood {name}=poisson, or leave {name} out",
        )
    if len(recipe.selected) < recipe.n_vars:
        run.say(
            f"{name}: {len(recipe.selected):,} of {recipe.n_vars:,} features, those that the model was "
            "trained on (--hvg)"
        )
    if likelihood_of(work.saved, name) in {"normal", "ziln"} and not recipe.transform.keeps_values:
        run.warn(
            f"{name}: values are no counts but lie on the scale that the model was trained on "
            f"({recipe.transform.name}); "
            f"train it with --likelihood {name}=nb for counts"
        )


def _new_modality(work: Simulation, obs: pd.DataFrame, name: str) -> NewModality:
    recipe = work.saved.recipes[name]
    names = pd.Index(list(recipe.feature_names), dtype=object)
    var = pd.DataFrame(index=names)
    file = find_modality(work.files, name, work.saved)
    if file is not None:
        known = file.var[~file.var.index.duplicated()]
        var = known.reindex(names)
    return NewModality(name=name, obs=obs, var=var, blocks=lambda: blocks(work, name))


def blocks(work: Simulation, name: str) -> Iterator[Block]:
    """Draw what is measured of all cells in a modality, a block at a time."""
    cells = work.cells
    n_vars = len(work.saved.recipes[name].selected)
    size = min(MOST_CELLS, max(16, VALUES // max(n_vars, 1)))
    position = list(work.saved.modalities).index(name)
    device = work.run.device
    for number, rows in enumerate(chunks(cells.n, size)):
        seed = np.random.SeedSequence([work.run.options.seed, position, number]).generate_state(1, np.uint64)
        generator = torch.Generator(device).manual_seed(int(seed[0] >> np.uint64(1)))
        library = cells.library.get(name)
        with torch.inference_mode():
            drawn = work.sampler.sample(
                name,
                torch.from_numpy(cells.z[rows]).to(device),
                conditions(work, cells, rows),
                None if library is None else torch.from_numpy(library[rows]).to(device),
                generator=generator,
            )
        yield {"X": sparse.csr_matrix(drawn.float().cpu().numpy())}


def conditions(work: Simulation, cells: Cells, rows: slice) -> Conditions:
    """Covariates that cells are measured under: the batch asked for, all else as in the cells they follow."""
    atlas, device = atlas_of(work.saved), work.run.device
    codes = {}
    if atlas.batch is not None and (cells.batch >= 0).any():
        codes[atlas.batch.key] = torch.from_numpy(cells.batch[rows]).to(device)
    for covariate in atlas.covariates:
        codes[covariate.key] = torch.from_numpy(covariate.codes[cells.source[rows]]).to(device)
    numbers = None
    if atlas.continuous is not None:
        numbers = torch.from_numpy(atlas.continuous[cells.source[rows]]).to(device)
    return Conditions(codes, numbers)
