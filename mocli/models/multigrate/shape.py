"""What Multigrate's networks are built from, and how it is saved."""

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
        Levels by categorical covariate; the first is the batch if `has_batch`.
    continuous
        Names of continuous covariates.
    patterns
        Sets of modalities that occur together, as bits.
    """

    widths: Mapping[str, int]
    likelihoods: Mapping[str, str]
    levels: Mapping[str, tuple[str, ...]]
    has_batch: bool
    continuous: tuple[str, ...]
    patterns: tuple[int, ...]


def spec_of(shape: Shape) -> dict[str, Json]:
    """Return a shape as plain values whose order does not rely on keys."""
    found: Any = {
        "modalities": [[name, width, shape.likelihoods[name]] for name, width in shape.widths.items()],
        "levels": [[key, list(levels)] for key, levels in shape.levels.items()],
        "has_batch": shape.has_batch,
        "continuous": list(shape.continuous),
        "patterns": list(shape.patterns),
    }
    return dict(found)


def shape_of(spec: Mapping[str, Json]) -> Shape:
    """Return the shape that `spec_of` wrote."""
    saved: Any = spec
    return Shape(
        widths={name: width for name, width, _ in saved["modalities"]},
        likelihoods={name: likelihood for name, _, likelihood in saved["modalities"]},
        levels={key: tuple(levels) for key, levels in saved["levels"]},
        has_batch=saved["has_batch"],
        continuous=tuple(saved["continuous"]),
        patterns=tuple(saved["patterns"]),
    )
