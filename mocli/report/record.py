"""The parts of a report: plain dictionaries with known keys.

Keys that a run leaves out are written as null; `schema.json` has the same
names with their meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from mocli.types import Json

Status: TypeAlias = Literal["ok", "error", "interrupted", "diverged"]


class ErrorRecord(TypedDict, total=False):
    """What went wrong, and how to mend it."""

    kind: str
    message: str
    hint: str | None
    exit_code: int
    file: str | None
    field: str | None
    found: str | None
    expected: str | None
    failed_term: str | None


class InputRecord(TypedDict, total=False):
    """One modality as it was read."""

    path: str
    sha256: str | None
    modality: str
    kind: str
    n_obs: int
    n_vars: int
    layer: str | None
    values: str | None
    n_empty: int | None
    transform: Json
    likelihood: str | None
    seen_in: float | None
    n_used: int | None


class OutputRecord(TypedDict, total=False):
    """One file or folder that was written; a folder lists its files with a hash each."""

    path: str
    what: str
    bytes: int
    sha256: str | None
    files: dict[str, str] | None


class LinkRecord(TypedDict, total=False):
    """One link table between two modalities, and how much of it matched; or linked features as given."""

    path: str | None
    sha256: str | None
    dialect: str | None
    source: str
    target: str
    n_read: int | None
    n_matched: int
    n_columns: int
    n_source_matched: int | None
    n_target_matched: int | None
    unmatched_examples: list[str]


class ModelRecord(TypedDict, total=False):
    """The method, its hyper-parameters, and why it was chosen."""

    name: str
    title: str | None
    doi: str | None
    params: dict[str, Json]
    reason: str | None


class PhaseRecord(TypedDict, total=False):
    """One stretch of training."""

    name: str
    steps: int
    stop_reason: str | None
    best_step: int | None
    lr_lowered: list[int]


class LossRecord(TypedDict, total=False):
    """A loss term at the start, at the end, and at its least."""

    first: float
    last: float
    min: float


class Curve(TypedDict):
    """A loss term over training; both lists have one length."""

    step: list[float]
    value: list[float]


class LeftRecord(TypedDict):
    """Tensors that a saved model could not give to a part of another."""

    part: str
    reason: str
    tensors: int


class OriginRecord(TypedDict):
    """The saved model that training started from, and how many tensors came from it."""

    path: str
    sha256: str
    tensors: int
    taken: int
    left: list[LeftRecord]


class FrozenRecord(TypedDict):
    """What training left as it was."""

    parts: list[str]
    tensors: int
    values: int


class TrainingRecord(TypedDict, total=False):
    """What training did; losses and curves by phase, then by term."""

    phases: list[PhaseRecord]
    steps: int
    epochs: float | None
    cells_drawn: int | None
    stop_reason: str | None
    resumed_from_step: int | None
    losses: dict[str, dict[str, LossRecord]]
    history: dict[str, dict[str, Curve]]
    init_from: OriginRecord | None
    frozen: FrozenRecord | None


class DeviceRecord(TypedDict, total=False):
    """Where it ran and how much memory it took."""

    requested: str
    used: str | None
    name: str | None
    threads: int | None
    torch: str | None
    expected_memory_bytes: int | None
    peak_memory_bytes: int | None
    gpu_peak_memory_bytes: int | None


class DeterminismRecord(TypedDict, total=False):
    """What a second run with this seed would give: the same bytes, or the same up to noise."""

    level: Literal["bitwise", "statistical"]
    latent_sha256: str | None


class MetricRecord(TypedDict, total=False):
    """A measured quality, with what is needed to read it."""

    value: float | None
    better: Literal["higher", "lower"] | None
    range: tuple[float | None, float | None] | list[float | None] | None
    n: int | None
    title: str
    definition: str
    sentence: str


class BaselineRecord(TypedDict, total=False):
    """A simpler method measured in the same way; or, if `is_bound`, the best that can be asked.

    `model_metrics` are the model's where the method says nothing of some features: over the others.
    """

    is_bound: bool
    title: str
    definition: str
    metrics: dict[str, MetricRecord]
    model_metrics: dict[str, MetricRecord]


class TableRecord(TypedDict):
    """A result that is a table: every row has one value for each column."""

    title: str
    sentence: str
    columns: list[str]
    rows: list[list[str | float | int | bool | None]]
