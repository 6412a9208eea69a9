"""The output of a simulation: cells drawn block by block, figures, sentences, pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from mocli.data.write.blocks import NewModality
from mocli.data.write.write import write_file
from mocli.errors import InputError
from mocli.nn.neighbors import chunks
from mocli.report.wording import duration, size
from mocli.tasks.infer.align import find_modality
from mocli.tasks.infer.decoder import likelihood_of
from mocli.tasks.run.frame import Foresight, Tell
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.simulate.copula import correlated_values
from mocli.tasks.simulate.groups import atlas_of
from mocli.tasks.simulate.options import SimulateOptions
from mocli.tasks.simulate.report import evaluate, pictures, report_groups
from mocli.tasks.simulate.work import MOST_CELLS, Simulated, all_values, draw_values, place_cells
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.types import CSR, IntArray


def deliver(run: Run, request: Request, simulated: Simulated) -> None:
    """Write the file, compare with real cells where there are some, fill the report."""
    saved, plan, cells = simulated.saved, simulated.plan, simulated.cells
    for name in plan.modalities:
        _check_features(run, simulated, name)
    obs = obs_table(simulated)
    values: dict[str, CSR] = {}
    if simulated.options.correlates:
        seed, device = run.options.seed, run.device
        values = correlated_values(simulated, request.data.layer, seed=seed, device=device, say=run.say)
    new = [_new_modality(run, simulated, obs, name, values.get(name)) for name in plan.modalities]
    key = request.output.key_added or f"X_{saved.description['model']}"
    uns = run.provenance(saved.description["model"], saved.model.params)
    columns = {str(name): obs[name] for name in obs}
    written = write_file(run.paths.output, [], obsm={key: cells.z}, uns=uns, obs=columns, new=new)
    for name, took in written.items():
        run.say(
            f"{name}: {cells.n:,} cells sampled in {duration(took.decode_s)}, written in "
            f"{duration(took.write_s)} ({size(took.bytes)})"
        )
    kinds = ", ".join(f"{len(m.var):,} {m.name}" for m in new)
    run.add_output(
        run.paths.output,
        f"{cells.n:,} simulated cells with {kinds} features each, latent coordinates in obsm['{key}']",
        first=True,
    )
    report_groups(run, simulated)
    with run.timed("evaluate"):
        compared = evaluate(run, simulated, request.data.layer, correlated=bool(values))
    run.finish(lambda: pictures(simulated, compared, seed=run.options.seed, device=str(run.device)))


def obs_table(simulated: Simulated) -> pd.DataFrame:
    """Return what is known of every simulated cell: label, covariates, the cell and component it follows."""
    saved, cells, atlas = simulated.saved, simulated.cells, atlas_of(simulated.saved)
    width = len(str(cells.n))
    names = pd.Index([f"simulated_{i:0{width}d}" for i in range(1, cells.n + 1)], dtype=object)
    columns = saved.description.get("columns", {})
    table: dict[str, object] = {}
    labels = simulated.plan.labels
    if labels is not None:
        table[labels.key] = _words(cells.label, labels.levels)
    if atlas.batch is not None and (cells.batch >= 0).any():
        table[columns.get("batch", atlas.batch.key)] = _words(cells.batch, atlas.batch.levels)
    names_of = {entry["key"]: entry["column"] for entry in saved.description.get("covariates", [])}
    for codes in atlas.covariates:
        table.setdefault(names_of.get(codes.key, codes.key), _words(codes.codes[cells.source], codes.levels))
    if atlas.continuous is not None:
        for j, name in enumerate(saved.description.get("continuous", [])):
            table.setdefault(name, atlas.continuous[cells.source, j])
    table["simulated"] = np.ones(cells.n, dtype=bool)
    if atlas.names and not simulated.options.about_mean:
        table["source_cell"] = np.array([atlas.names[i] for i in cells.source], dtype=object)
    if cells.component is not None:
        table["source_component"] = cells.component.astype(np.int64)
    return pd.DataFrame(table, index=names)


def _words(codes: IntArray, levels: tuple[str, ...]) -> pd.Categorical:
    used = np.unique(codes[codes >= 0])
    where = np.full(len(levels) + 1, -1)
    where[used] = np.arange(len(used))
    return pd.Categorical.from_codes(where[codes], [levels[k] for k in used])


def _check_features(tell: Tell, simulated: Simulated, name: str) -> None:
    """Log what is simulated of a modality; raise an error if the model draws no features of it."""
    recipe = simulated.saved.recipes[name]
    if recipe.lsi is not None or recipe.components is not None:
        raise InputError(
            f"the model draws components of '{name}', not features",
            field="--modality",
            hint=f"train it with --likelihood {name}=poisson, or leave {name} out",
        )
    if len(recipe.selected) < recipe.n_vars:
        tell.say(
            f"{name}: {len(recipe.selected):,} of {recipe.n_vars:,} features, those that the model was "
            "trained on (--hvg)"
        )
    if likelihood_of(simulated.saved, name) in {"normal", "ziln"} and not recipe.transform.keeps_values:
        tell.warn(
            f"{name}: the values are not counts, but lie on the scale that the model was trained on "
            f"({recipe.transform.name}); train it with --likelihood {name}=nb for counts"
        )


def _new_modality(
    run: Run, simulated: Simulated, obs: pd.DataFrame, name: str, values: CSR | None
) -> NewModality:
    saved = simulated.saved
    names = pd.Index(list(saved.recipes[name].feature_names), dtype=object)
    var = pd.DataFrame(index=names)
    file = find_modality(simulated.files, name, saved)
    if file is not None:
        var = file.var[~file.var.index.duplicated()].reindex(names)
    return NewModality(
        name=name,
        obs=obs,
        var=var,
        blocks=lambda: (
            {"X": x}
            for x in (
                draw_values(saved, simulated.cells, name, seed=run.options.seed, device=run.device)
                if values is None
                else (values[rows] for rows in chunks(values.shape[0], MOST_CELLS))
            )
        ),
    )


def simulate_cells(
    model: SavedModel | str | Path, options: SimulateOptions, *, device: str = "cpu", seed: int = 0
) -> dict[str, AnnData]:
    """Simulate cells of a trained model, in memory.

    Args:
        model: As `load_model` returns it, or its folder.
        options: Which cells, how many and how; see `mocli simulate -h`.

    Returns:
        dict: By modality the same cells: drawn values in `X`, latent coordinates in `obsm["X_<model>"]`,
            label, batch and the training cell that each follows in `obs`.

    Raises:
        UsageError, InputError: The model cannot simulate what is asked for.
    """
    saved = load_model(model)
    place, tell = torch.device(device), Foresight()
    plan, cells = place_cells(saved, options, seed=seed, device=place, say=tell.say, warn=tell.warn)
    simulated, by_modality = Simulated(saved, [], options, plan, cells), {}
    obs = obs_table(simulated)
    for name in plan.modalities:
        recipe = saved.recipes[name]
        _check_features(tell, simulated, name)
        x = all_values(saved, cells, name, seed=seed, device=place)
        names = np.asarray(saved.modalities[name]["var_names"], dtype=object)[recipe.selected]
        by_modality[name] = AnnData(x, obs=obs.copy(), var=pd.DataFrame(index=pd.Index(names.astype(str))))
        by_modality[name].obsm[f"X_{saved.description['model']}"] = cells.z
    return by_modality
