"""What scCross' networks are built from, and how it is saved."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mocli.types import Json


@dataclass(frozen=True)
class Part:
    """One modality.

    Attributes
    ----------
    form, n_components
        How values become components, and how many.
    n_reference, n_neighbors
        Training cells kept, and how many of them a cell is averaged over.
    """

    name: str
    width: int
    likelihood: str
    form: str
    n_components: int
    n_reference: int
    n_neighbors: int


@dataclass(frozen=True)
class Shape:
    """Modalities in order, pairs of them that links join, and the batch."""

    parts: tuple[Part, ...]
    edges: tuple[tuple[str, str], ...]
    batch: str | None
    levels: tuple[str, ...]


def spec_of(shape: Shape) -> dict[str, Json]:
    """Return a shape as plain values."""
    found: Any = {
        "modalities": [[part.name, part.width, part.likelihood] for part in shape.parts],
        "parts": [asdict(part) for part in shape.parts],
        "edges": [list(edge) for edge in shape.edges],
        "batch": shape.batch,
        "levels": list(shape.levels),
    }
    return dict(found)


def shape_of(spec: Mapping[str, Json]) -> Shape:
    """Return the shape that `spec_of` wrote."""
    saved: Any = spec
    return Shape(
        parts=tuple(Part(**part) for part in saved["parts"]),
        edges=tuple((a, b) for a, b in saved["edges"]),
        batch=saved["batch"],
        levels=tuple(saved["levels"]),
    )
