"""Where training starts: from weights of a saved model, with parts that are frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import Module

from mocli.data.bundle import MultiOmics
from mocli.data.files.inputs import sha256
from mocli.data.transforms.recipe import Recipe, RecipeOptions
from mocli.errors import InputError
from mocli.models.base import KeepsInputs, Model
from mocli.tasks.prepare.choice import Choice
from mocli.tasks.prepare.load import Prepared
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.paths import WEIGHTS
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.types import IntArray


@dataclass(frozen=True, eq=False)
class InitialModel:
    """A saved model whose weights another model starts from."""

    folder: Path
    saved: SavedModel
    sha256: str

    @classmethod
    def of(cls, folder: Path | None) -> InitialModel | None:
        """Read the model; None where training starts afresh."""
        if folder is None:
            return None
        return cls(folder, load_model(folder), sha256(folder / WEIGHTS))

    def recipe(self, choice: Choice, options: RecipeOptions, keep: IntArray) -> Recipe | None:
        """Return the saved recipe of a modality, if it fits these features and options.

        Weights belong to the features they were trained on, so the same features are chosen, scaled as
        before.
        """
        name = choice.file.name
        entry, recipe = self.saved.modalities.get(name), self.saved.recipes.get(name)
        if entry is None or recipe is None:
            return None
        same = entry["var_names"] == [str(v) for v in choice.file.var.index]
        then = replace(recipe.options, seed=options.seed)
        if not choice.selects:
            # features were not asked for: as many as the number of cells suggests
            then = replace(then, n_top=options.n_top, seen_in=options.seen_in)
        covers = np.isin(keep, recipe.selected).all()
        return recipe if same and covers and then == options else None

    def _check(self, bundle: MultiOmics) -> None:
        """Refuse modalities and levels that tensors, which carry no names, would confuse.

        Raises `InputError`: modalities differ or are in another order, or a covariate has the same number of
        levels but other ones.
        """
        names, saved_names = list(bundle.modalities), list(self.saved.modalities)
        if names != saved_names:
            raise InputError(
                "the model to start from has other modalities, or the same in another order",
                file=self.folder,
                field="--init-from",
                found=", ".join(names),
                expected=", ".join(saved_names),
                hint="give the inputs in that order: " + " ".join(f"{name}=FILE" for name in saved_names),
            )
        saved = [(e["key"], tuple(e["levels"])) for e in self.saved.description.get("covariates", [])]
        covariates = [(c.key, tuple(c.levels)) for c in bundle.categorical]
        saved.append(("--continuous", tuple(self.saved.description.get("continuous", []))))
        covariates.append(("--continuous", bundle.continuous.keys if bundle.continuous is not None else ()))
        for (key, values), (saved_key, levels) in zip(covariates, saved, strict=False):
            if len(values) == len(levels) and (key, values) != (saved_key, levels) and values:
                raise InputError(
                    "a covariate has as many levels as one of the model to start from, but other ones, "
                    "which would be confused",
                    file=self.folder,
                    field=key,
                    found=", ".join(values[:5]),
                    expected=", ".join(levels[:5]),
                    hint="integrate new batches with --reference, rename the levels, or leave out the "
                    "covariate",
                )

    def give(self, model: Model, prepared: Prepared) -> Taken:
        """Put all tensors that fit into a model newly built for a bundle.

        Raises `InputError`: modalities or covariates differ, or no matrix of weights fits.
        """
        self._check(prepared.bundle)
        bundle, fresh = prepared.bundle, model.module.state_dict()
        saved = self.saved.model.module.state_dict()
        order = tuple(bundle.modalities)
        other = {
            i: bundle.modalities[name].features.n_vars
            for i, name in enumerate(order)
            if prepared.recipes[name] is not self.saved.recipes.get(name)
        }
        learned = {name for name, _ in model.module.named_parameters()}
        same_cells = self.saved.atlas is not None and tuple(self.saved.atlas.names) == bundle.obs_names
        # numbers that are no floats count or name things
        wanted = {name: value for name, value in fresh.items() if value.is_floating_point()}
        why = {
            name: _of_features(name, value, model.module, len(order), other, learned=name in learned)
            or _obstacle(name, value, saved, 0 if same_cells else bundle.n_cells)
            for name, value in wanted.items()
        }
        fitting = {name: saved[name] for name, reason in why.items() if reason is None}
        # a bias of one unit fits everywhere and says nothing
        if not any(name in fitting and w.ndim > 1 for name, w in model.module.named_parameters()):
            raise InputError(
                "no weights of the model to start from fit this one",
                file=self.folder,
                found="; ".join(sorted({str(reason) for reason in why.values()})),
                hint="use the same modalities, features and sizes of layers, or leave --init-from out",
            )
        for name in fitting.keys() - learned:
            if "." not in name and fitting[name].shape == (len(order),):
                # an entry for each modality
                fitting[name] = fitting[name].clone()
                fitting[name][list(other)] = fresh[name][list(other)]
        model.module.load_state_dict(fitting, strict=False)
        if isinstance(model, KeepsInputs):
            model.look_again(bundle, same_cells=same_cells)
        not_taken = Counter((name.partition(".")[0], reason) for name, reason in why.items() if reason)
        return Taken(
            self,
            n_tensors=len(wanted),
            n_taken=len(fitting),
            not_taken=tuple((part, reason, n) for (part, reason), n in not_taken.items()),
            refitted=tuple(order[i] for i in other),
        )


@dataclass(frozen=True, eq=False)
class Taken:
    """The tensors that a model took from another.

    Attributes:
        not_taken: Part, why its tensors were not taken, and how many.
        refitted: Modalities whose features or scaling are not those of the saved model.
    """

    origin: InitialModel
    n_tensors: int
    n_taken: int
    not_taken: tuple[tuple[str, str, int], ...] = ()
    refitted: tuple[str, ...] = field(default=())

    def tell(self, tell: Tell) -> None:
        """Log it."""
        tell.say(f"{self.n_taken:,} of {self.n_tensors:,} tensors are initialised from {self.origin.folder}")
        for part, reason, n in self.not_taken:
            tell.say(f"  {part}: {n:,} start from random values ({reason})")
        for name in self.refitted:
            tell.warn(
                f"{name}: its features or their scaling differ from those of {self.origin.folder}; "
                "the weights of its features start from random values"
            )

    def record(self) -> dict[str, Any]:
        """Return it for the report."""
        return {
            "path": str(self.origin.folder),
            "sha256": self.origin.sha256,
            "tensors": self.n_tensors,
            "taken": self.n_taken,
            "left": [{"part": part, "reason": reason, "tensors": n} for part, reason, n in self.not_taken],
        }


def _of_features(
    name: str, tensor: Tensor, module: Module, n: int, other: Mapping[int, int], *, learned: bool
) -> str | None:
    """Return why a tensor of a modality that was refitted cannot be taken, None if it can.

    A tensor that was not learned was computed from the features themselves; of weights, only those with one
    entry for each feature matter.
    """
    # imported here: a dry run must not pay for torch
    from torch.nn import ModuleList

    first, _, rest = name.partition(".")
    members = getattr(module, first, None)
    if isinstance(members, ModuleList) and len(members) == n:
        number = rest.partition(".")[0]
    else:
        number = first.rpartition("_")[2] if not rest else ""
    if not number.isdecimal() or int(number) not in other:
        return None
    return "of other features" if not learned or other[int(number)] in tensor.shape else None


def _obstacle(name: str, tensor: Tensor, saved: Mapping[str, Tensor], n_cells: int) -> str | None:
    """Return why a tensor cannot be taken, None if it can."""
    if name not in saved:
        return "the saved model has none"
    if saved[name].shape != tensor.shape:
        return "of another shape"
    # a table that the model itself holds has a row for each cell
    if "." not in name and tensor.ndim == 2 and len(tensor) == n_cells:
        return "of other cells"
    return None


def frozen_record(model: Model, parts: tuple[str, ...], names: frozenset[str]) -> dict[str, Any] | None:
    """Return the frozen parts, for the report; None if there are none."""
    if not parts:
        return None
    sizes = [w.numel() for name, w in model.module.named_parameters() if name in names]
    return {"parts": list(parts), "tensors": len(sizes), "values": sum(sizes)}
