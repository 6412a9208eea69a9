"""How a fitted recipe's output changes with one feature, in closed form.

The depth of a cell is held fixed: its normalising factor stays that of the values measured, so that
lowering one feature does not raise all others. A recipe is then a function of every single value, followed
by something linear (components of an SVD, or nothing).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mocli.data.transforms.components import SCALE
from mocli.data.transforms.recipe import Recipe
from mocli.types import CSR, DoubleArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class RecipeResponse:
    """How a recipe responds to changes of single raw values.

    Attributes:
        place: Position of every input feature among those used, -1 for none, `(n_vars,)`.
        directions: How the output moves with a used feature's value, `(n_used, n_out)`; None where the values
            are the output.
    """

    recipe: Recipe
    place: IntArray
    directions: FloatArray | None

    @classmethod
    def of(cls, recipe: Recipe) -> RecipeResponse:
        """Take a fitted recipe apart."""
        used = np.arange(recipe.n_vars) if recipe.lsi is not None else recipe.selected
        place = np.full(recipe.n_vars, -1, dtype=np.int64)
        place[used] = np.arange(len(used))
        directions: FloatArray | None = None
        if recipe.lsi is not None:
            directions = np.ascontiguousarray(recipe.lsi.components.T)
            if recipe.scaler is not None:
                if recipe.scaler.clip is not None:
                    raise ValueError("clipped components do not respond in closed form")
                directions = directions * np.where(recipe.scaler.constant, 0, 1 / recipe.scaler.std)
        if recipe.components is not None:
            loadings = recipe.components.loadings
            directions = loadings if directions is None else directions @ loadings
        return cls(recipe, place, None if directions is None else directions.astype(np.float32))

    @property
    def used(self) -> IntArray:
        """Input features that the output depends on, `(n_used,)`."""
        return np.flatnonzero(self.place >= 0)

    def factor(self, x: CSR) -> DoubleArray:
        """Return the normalising factor of each cell, `(n,)`; 1 where the recipe has none."""
        target = self.recipe.target_sum if self.recipe.lsi is None else SCALE
        factor = self.recipe.transform.factor(x, target)
        return np.ones(x.shape[0]) if factor is None else factor

    def values(self, raw: DoubleArray, factor: DoubleArray, used: IntArray) -> DoubleArray:
        """Return the input of the linear part for raw values.

        `raw`, `factor`, `used`: values, factors of their cells, positions of their features among those used,
        `(n,)`.
        """
        recipe, scaler = self.recipe, self.recipe.scaler
        idf = 1.0 if recipe.lsi is None else recipe.lsi.idf[used]
        raw = recipe.transform.element(raw * factor * idf, recipe.options.cofactor)
        if recipe.lsi is not None:
            return raw
        if scaler is None:
            return raw
        scaled: DoubleArray = (raw - scaler.mean[used]) / scaler.std[used]
        if scaler.clip is not None:
            scaled = np.clip(scaled, -scaler.clip, scaler.clip)
        return np.where(scaler.constant[used], 0.0, scaled)
