"""The saved model: `weights.safetensors` and `model.json`, self-contained, never pickle.

Holds the networks, the fitted transforms and the ordered feature names, so that
new cells can be projected on another machine without the training data.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mocli
from mocli.data.bundle import MultiOmics
from mocli.data.transforms.linkrecipe import LinkRecipe
from mocli.data.transforms.recipe import Recipe
from mocli.errors import InputError, MocliError
from mocli.leftovers import temporary_beside
from mocli.models.base import Model
from mocli.models.registry import as_dict, load_class, resolve, saved_params, traits_of
from mocli.tasks.prepare.load import Prepared
from mocli.tasks.prepare.plan import Plan
from mocli.tasks.prepare.smoothing import Reference
from mocli.tasks.run.paths import (
    DESCRIPTION,
    FORMAT_VERSION,
    STACKS,
    WEIGHTS,
    read_description,
    read_part,
    unreadable,
    write_part,
)
from mocli.tasks.trained.atlas import Atlas
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.stack import Stack

DAMAGE = (
    *(KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError),
    *(RecursionError, ZeroDivisionError, MocliError),
)
"""Errors that loading a model from damaged parts may raise."""


LARGEST = 1e18
"""Numbers of this size overflow when they are multiplied, as single floats."""


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A model with everything needed to use it."""

    model: Model
    recipes: Mapping[str, Recipe]
    link_recipes: Mapping[tuple[str, str], tuple[LinkRecipe, LinkRecipe]]
    references: Mapping[str, Reference]
    readouts: Mapping[str, FeatureReadout]
    description: Mapping[str, Any]
    atlas: Atlas | None = None
    stacks: Mapping[tuple[str, str], Stack] = field(default_factory=dict)

    @property
    def modalities(self) -> dict[str, dict[str, Any]]:
        """The facts of every modality, by name, in the order of training."""
        return {m["name"]: m for m in self.description["modalities"]}


def save_model(
    folder: Path,
    model: Model,
    plan: Plan,
    prepared: Prepared,
    readouts: Mapping[str, FeatureReadout],
    *,
    seed: int,
    trained_on: Sequence[str] = (),
    atlas: Atlas | None = None,
) -> None:
    """Write a trained model.

    Args:
        trained_on: SHA-256 of the input files.
        atlas: The training cells, for queries.
    """
    bundle = prepared.bundle
    references = {name: Reference.of(m.features, seed=seed) for name, m in bundle.modalities.items()}
    description = {
        "format_version": FORMAT_VERSION,
        "mocli": mocli.__version__,
        "model": plan.traits.name,
        "pairing": bundle.pairing.value,
        "modalities": [
            {
                "name": choice.file.name,
                "kind": choice.file.kind.value,
                "layer": choice.layer.layer,
                "values": choice.layer.values.value,
                "likelihood": choice.likelihood,
                "var_names": [str(v) for v in choice.file.var.index],
                "batches": measured_batches(bundle, choice.file.name),
            }
            for choice in plan.choices
        ],
        "levels": {
            codes.key: list(codes.levels) for codes in (bundle.batch, bundle.label) if codes is not None
        },
        "columns": dict(plan.column_names),
        "covariates": [
            {
                "key": codes.key,
                "column": plan.column_names.get(codes.key, codes.key),
                "levels": list(codes.levels),
            }
            for codes in bundle.categorical
        ],
        "continuous": list(bundle.continuous.keys) if bundle.continuous else [],
        "seed": seed,
        "trained_on": list(trained_on),
    }
    saved = SavedModel(
        model=model,
        recipes=prepared.recipes,
        link_recipes=prepared.link_recipes,
        references={name: reference for name, reference in references.items() if reference is not None},
        readouts=readouts,
        description=description,
        atlas=atlas,
    )
    write_model(folder, saved)


def write_model(folder: Path, saved: SavedModel) -> None:
    """Write the folder under a temporary name and rename it.

    Raises:
        InputError: A number that the model needs is not finite, so the model could not be read.
    """
    from safetensors.numpy import save_file

    model = saved.model
    arrays = {f"module/{k}": v.detach().cpu().numpy() for k, v in model.module.state_dict().items()}
    modalities = []
    for position, (name, entry) in enumerate(saved.modalities.items()):
        state, tensors = saved.recipes[name].state()
        arrays |= {f"recipe/{position}/{k}": v for k, v in tensors.items()}
        reference = saved.references.get(name)
        if reference is not None:
            arrays[f"reference/{position}/scores"] = reference.scores
        readout = None
        if name in saved.readouts:
            readout, tensors = saved.readouts[name].state()
            arrays |= {f"readout/{position}/{k}": v for k, v in tensors.items()}
        averaged = (
            None if reference is None else {"n_neighbors": reference.n_neighbors, "weight": reference.weight}
        )
        modalities.append({**entry, "recipe": state, "readout": readout, "averaged": averaged})
    links = []
    for position, (edge, sides) in enumerate(saved.link_recipes.items()):
        states = []
        for side, recipe in zip(("source", "target"), sides, strict=True):
            state, tensors = recipe.state()
            arrays |= {f"link/{position}/{side}/{k}": v for k, v in tensors.items()}
            states.append(state)
        links.append({"source": edge[0], "target": edge[1], "recipes": states})
    atlas = None
    if saved.atlas is not None:
        atlas, tensors = saved.atlas.state()
        arrays |= {f"atlas/{k}": v for k, v in tensors.items()}
    _refuse_not_finite(folder, arrays)
    description = {
        # a model of an earlier version describes its stacks here
        **{k: v for k, v in saved.description.items() if k != "stacks"},
        "params": as_dict(model.params),
        "spec": model.spec(),
        "modalities": modalities,
        "links": links,
        "atlas": atlas,
    }
    temporary = temporary_beside(folder)
    temporary.mkdir(parents=True)
    try:
        save_file({k: np.ascontiguousarray(v) for k, v in sorted(arrays.items())}, temporary / WEIGHTS)
        text = json.dumps(description, indent=1, sort_keys=True, allow_nan=False)
        (temporary / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        # safetensors lets nobody else read its files, whatever the user's umask
        shutil.copymode(temporary / DESCRIPTION, temporary / WEIGHTS)
        if saved.stacks:
            write_stacks(temporary, saved.stacks)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_stacks(folder: Path, stacks: Mapping[tuple[str, str], Stack]) -> None:
    """Write the stacks of a model, by source and target, into its folder; the rest of it stays as it is.

    Raises:
        InputError: A number is not finite.
    """
    arrays: dict[str, Any] = {}
    described = []
    for position, ((source, target), stack) in enumerate(stacks.items()):
        facts, tensors = stack.state()
        arrays |= {f"stack/{position}/{k}": v for k, v in tensors.items()}
        described.append({"source": source, "target": target, **facts})
    _refuse_not_finite(folder, arrays)
    write_part(folder, STACKS, arrays, described)


def measured_batches(bundle: MultiOmics, modality: str) -> dict[str, Any] | None:
    """Return the batch's key and the levels that have cells measured in a modality; None without batches."""
    codes = bundle.codes_of(bundle.batch, modality)
    if bundle.batch is None or codes is None:
        return None
    levels = [bundle.batch.levels[code] for code in np.unique(codes[codes >= 0])]
    return {"key": bundle.batch.key, "levels": levels}


def load_model(folder: SavedModel | str | Path) -> SavedModel:
    """Read a saved model on the CPU; one that is read already is returned as it is.

    Raises:
        InputError: If the folder holds no model, a damaged one, or one of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if isinstance(folder, SavedModel):
        return folder
    folder = Path(folder)
    description = read_description(folder)
    try:
        arrays = load_file(folder / WEIGHTS)
        if (folder / STACKS).exists():
            stacks, more = read_part(folder, STACKS)
            description, arrays = {**description, "stacks": stacks}, {**arrays, **more}
        return _assembled(description, arrays)
    except (OSError, SafetensorError) as error:
        raise unreadable(folder, error) from error
    except DAMAGE as error:
        raise InputError(
            "the saved model is damaged: its parts do not fit together",
            file=folder,
            found=f"{type(error).__name__}: {error}"[:300],
            hint="copy the folder again from where it was written, or train the model again",
        ) from error


def _not_finite(arrays: Mapping[str, Any]) -> str | None:
    """Return which array is not finite, or will not be once it is multiplied.

    Training cells may lack values, what is computed with may not.
    """
    for name, values in arrays.items():
        if values.dtype.kind == "f" and not name.startswith("atlas/") and not (abs(values) < LARGEST).all():
            return name
    return None


def _refuse_not_finite(folder: Path, arrays: Mapping[str, Any]) -> None:
    if (spoiled := _not_finite(arrays)) is not None:
        raise InputError(
            "the model holds numbers that are not finite, and is not written",
            file=folder,
            found=spoiled,
            hint="look for values in the input that are far larger than all others: they overflow",
        )


def _assembled(description: Mapping[str, Any], arrays: Mapping[str, Any]) -> SavedModel:
    if (name := _not_finite(arrays)) is not None:
        raise ValueError(f"{name} has values that are not finite, or overflow")
    for m in description["modalities"]:
        if m.get("batches") and m["batches"]["key"] not in description["levels"]:
            raise ValueError(f"the batches of {m['name']} have no levels")
    return SavedModel(
        model=_rebuild(description, arrays),
        recipes={
            m["name"]: Recipe.from_state(m["recipe"], _under(arrays, f"recipe/{i}/"))
            for i, m in enumerate(description["modalities"])
        },
        link_recipes={
            (link["source"], link["target"]): (
                LinkRecipe.from_state(link["recipes"][0], _under(arrays, f"link/{i}/source/")),
                LinkRecipe.from_state(link["recipes"][1], _under(arrays, f"link/{i}/target/")),
            )
            for i, link in enumerate(description["links"])
        },
        references={
            m["name"]: Reference(arrays[f"reference/{i}/scores"], **m["averaged"])
            for i, m in enumerate(description["modalities"])
            if m.get("averaged")
        },
        readouts={
            m["name"]: FeatureReadout.from_state(m["readout"], _under(arrays, f"readout/{i}/"))
            for i, m in enumerate(description["modalities"])
            if m.get("readout")
        },
        description=description,
        atlas=Atlas.from_state(description["atlas"], _under(arrays, "atlas/"))
        if description.get("atlas")
        else None,
        stacks={
            (facts["source"], facts["target"]): Stack.from_state(facts, _under(arrays, f"stack/{i}/"))
            for i, facts in enumerate(description.get("stacks", ()))
        },
    )


def _rebuild(description: Mapping[str, Any], arrays: Mapping[str, Any]) -> Model:
    import torch

    traits = traits_of(description["model"])
    params = resolve(traits, saved_params(traits, description["params"], description["format_version"]))
    weights = {k: torch.from_numpy(v) for k, v in _under(arrays, "module/").items()}
    kind = load_class(traits.model)
    with torch.device("meta"):
        # sizes are compared before anything of a size that a damaged file may name is allocated
        expected = kind.from_spec(description["spec"], params).module.state_dict()
    for name, value in expected.items():
        # a scalar is kept as an array of one
        wanted = f"{tuple(value.shape) or (1,)} {value.dtype}"
        has = weights.get(name)
        form = "missing" if has is None else f"{tuple(has.shape) or (1,)} {has.dtype}"
        if form != wanted:
            raise ValueError(f"weights {name} are {form}, not {wanted}")
    model: Model = kind.from_spec(description["spec"], params)
    model.module.load_state_dict(weights)
    model.module.eval()
    return model


def _under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
