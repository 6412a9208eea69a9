"""Where training starts: weights of a saved model to begin from, parts that are frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.bundle import MultiOmics
from mocli.data.files.inputs import sha256
from mocli.data.transforms.recipe import Recipe, RecipeOptions
from mocli.errors import InputError
from mocli.models.base import KeepsInputs, Model
from mocli.tasks.prepare.choice import Choice
from mocli.tasks.prepare.load import Prepared
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.modelfolder import WEIGHTS
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.types import IntArray

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


@dataclass(frozen=True, eq=False)
class InitialModel:
    """A saved model whose weights another begins with."""

    folder: Path
    saved: SavedModel
    sha256: str

    @classmethod
    def of(cls, folder: Path | None) -> InitialModel | None:
        """Read it; None where training begins afresh."""
        if folder is None:
            return None
        return cls(folder, load_model(folder), sha256(folder / WEIGHTS))

    def recipe(self, choice: Choice, options: RecipeOptions, keep: IntArray) -> Recipe | None:
        """Return the saved recipe of a modality, if it is for these features and what was asked for.

        Weights are of the features that they were trained on, so those are chosen again, scaled as then.
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
        kept = np.isin(keep, recipe.selected).all()
        return recipe if same and kept and then == options else None

    def _check(self, bundle: MultiOmics) -> None:
        """Refuse what tensors, which know no names, would be taken for.

        Raises
        ------
        InputError
            Modalities are others or in another order; a covariate has as many levels, but others.
        """
        own, theirs = list(bundle.modalities), list(self.saved.modalities)
        if own != theirs:
            raise InputError(
                "the model to start from has other modalities, or these in another order",
                file=self.folder,
                field="--init-from",
                found=", ".join(own),
                expected=", ".join(theirs),
                hint="give the inputs in that order: " + " ".join(f"{name}=FILE" for name in theirs),
            )
        saved = [(e["key"], tuple(e["levels"])) for e in self.saved.description.get("covariates", [])]
        given = [(c.key, tuple(c.levels)) for c in bundle.categorical]
        saved.append(("--continuous", tuple(self.saved.description.get("continuous", []))))
        given.append(("--continuous", bundle.continuous.keys if bundle.continuous is not None else ()))
        for (key, mine), (known, levels) in zip(given, saved, strict=False):
            if len(mine) == len(levels) and (key, mine) != (known, levels) and mine:
                raise InputError(
                    "a covariate has as many levels as one of the model to start from, but others: one "
                    "would be taken for the other",
                    file=self.folder,
                    field=key,
                    found=", ".join(mine[:5]),
                    expected=", ".join(levels[:5]),
                    hint="place new batches with --reference, rename the levels, or leave the covariate out",
                )

    def give(self, model: Model, prepared: Prepared) -> Taken:
        """Put all tensors that fit into a model fresh from a bundle.

        Raises
        ------
        InputError
            Modalities or covariates are others, or no matrix of weights fits.
        """
        self._check(prepared.bundle)
        bundle, own = prepared.bundle, model.module.state_dict()
        theirs = self.saved.model.module.state_dict()
        order = tuple(bundle.modalities)
        other = {
            i: bundle.modalities[name].features.n_vars
            for i, name in enumerate(order)
            if prepared.recipes[name] is not self.saved.recipes.get(name)
        }
        learned = {name for name, _ in model.module.named_parameters()}
        known = self.saved.atlas is not None and tuple(self.saved.atlas.names) == bundle.obs_names
        # numbers that are no floats count or name things
        wanted = {name: value for name, value in own.items() if value.is_floating_point()}
        why = {
            name: _of_features(name, value, model.module, len(order), other, learned=name in learned)
            or _obstacle(name, value, theirs, 0 if known else bundle.n_cells)
            for name, value in wanted.items()
        }
        fitting = {name: theirs[name] for name, reason in why.items() if reason is None}
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
                fitting[name][list(other)] = own[name][list(other)]
        model.module.load_state_dict(fitting, strict=False)
        if isinstance(model, KeepsInputs):
            model.look_again(bundle, same_cells=known)
        left = Counter((name.partition(".")[0], reason) for name, reason in why.items() if reason)
        return Taken(
            self,
            n_tensors=len(wanted),
            n_taken=len(fitting),
            left=tuple((part, reason, n) for (part, reason), n in left.items()),
            refitted=tuple(order[i] for i in other),
        )


@dataclass(frozen=True, eq=False)
class Taken:
    """What a model took from another.

    Attributes
    ----------
    left
        Part, why its tensors were not taken, and how many.
    refitted
        Modalities whose features or scaling are not those of the saved model.
    """

    origin: InitialModel
    n_tensors: int
    n_taken: int
    left: tuple[tuple[str, str, int], ...] = ()
    refitted: tuple[str, ...] = field(default=())

    def tell(self, tell: Tell) -> None:
        """Say it."""
        tell.say(f"{self.n_taken:,} of {self.n_tensors:,} tensors are initialised from {self.origin.folder}")
        for part, reason, n in self.left:
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
            "left": [{"part": part, "reason": reason, "tensors": n} for part, reason, n in self.left],
        }


def _of_features(
    name: str, own: Tensor, module: Module, n: int, other: Mapping[int, int], *, learned: bool
) -> str | None:
    """Return why a tensor of a modality that was refitted cannot be taken, None if it can.

    What was not learned there was computed from the features themselves; of weights, those that have
    one for each feature.
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
    return "of other features" if not learned or other[int(number)] in own.shape else None


def _obstacle(name: str, own: Tensor, theirs: Mapping[str, Tensor], n_cells: int) -> str | None:
    """Return why a tensor cannot be taken, None if it can."""
    if name not in theirs:
        return "the saved model has none"
    if theirs[name].shape != own.shape:
        return "of another shape"
    # a table that the model itself holds has a row for each cell
    if "." not in name and own.ndim == 2 and len(own) == n_cells:
        return "of other cells"
    return None


def frozen_record(model: Model, parts: tuple[str, ...], names: frozenset[str]) -> dict[str, Any] | None:
    """Return what stayed as it was, for the report; None if nothing."""
    if not parts:
        return None
    sizes = [w.numel() for name, w in model.module.named_parameters() if name in names]
    return {"parts": list(parts), "tensors": len(sizes), "values": sum(sizes)}
