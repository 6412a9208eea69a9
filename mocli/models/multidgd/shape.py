"""What multiDGD's networks are built from, and how it is saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mocli.types import Json


@dataclass(frozen=True)
class Shape:
    """What the networks are built from.

    Attributes
    ----------
    widths, likelihoods
        Features and likelihood by modality, in order.
    levels
        Levels by categorical covariate.
    continuous
        Names of continuous covariates.
    n_cells
        Rows of the table of cells.
    """

    widths: Mapping[str, int]
    likelihoods: Mapping[str, str]
    levels: Mapping[str, tuple[str, ...]]
    continuous: tuple[str, ...]
    n_cells: int


def spec_of(shape: Shape) -> dict[str, Json]:
    """Return a shape as plain values whose order does not rely on keys."""
    found: Any = {
        "modalities": [[name, width, shape.likelihoods[name]] for name, width in shape.widths.items()],
        "levels": [[key, list(levels)] for key, levels in shape.levels.items()],
        "continuous": list(shape.continuous),
        "n_cells": shape.n_cells,
    }
    return dict(found)


def shape_of(spec: Mapping[str, Json]) -> Shape:
    """Return the shape that `spec_of` wrote."""
    saved: Any = spec
    return Shape(
        widths={name: width for name, width, _ in saved["modalities"]},
        likelihoods={name: likelihood for name, _, likelihood in saved["modalities"]},
        levels={key: tuple(levels) for key, levels in saved["levels"]},
        continuous=tuple(saved["continuous"]),
        n_cells=saved["n_cells"],
    )
