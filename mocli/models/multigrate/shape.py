"""What Multigrate's networks are built from, and how it is saved."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    n_components
        Fixed components that encoders see instead of features, by modality; none for those left out.
    n_added
        How many of the last levels of each covariate a query added; none for keys left out.
    """

    widths: Mapping[str, int]
    likelihoods: Mapping[str, str]
    levels: Mapping[str, tuple[str, ...]]
    has_batch: bool
    continuous: tuple[str, ...]
    patterns: tuple[int, ...]
    n_components: Mapping[str, int] = field(default_factory=dict)
    n_added: Mapping[str, int] = field(default_factory=dict)

    def n_levels(self, key: str) -> tuple[int, int]:
        """Return the numbers of known and of added levels."""
        added = self.n_added.get(key, 0)
        return len(self.levels[key]) - added, added

    @property
    def batch(self) -> str | None:
        """Key of the batch."""
        return next(iter(self.levels)) if self.has_batch else None


def spec_of(shape: Shape) -> dict[str, Json]:
    """Return a shape as plain values whose order does not rely on keys."""
    found: Any = {
        "modalities": [[name, width, shape.likelihoods[name]] for name, width in shape.widths.items()],
        "levels": [[key, list(levels)] for key, levels in shape.levels.items()],
        "has_batch": shape.has_batch,
        "continuous": list(shape.continuous),
        "patterns": list(shape.patterns),
        "components": [[name, n] for name, n in shape.n_components.items()],
        "added": [[key, n] for key, n in shape.n_added.items()],
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
        n_components=dict(saved.get("components", [])),
        n_added=dict(saved.get("added", [])),
    )
