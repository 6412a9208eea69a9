"""What a user asks of a task, grouped; the keyword arguments of the Python API end here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mocli.errors import UsageError, did_you_mean
from mocli.types import Preset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class DataOptions:
    """Which files, which values in them, which columns."""

    inputs: Sequence[str]
    links: Sequence[str] = ()
    gene_sets: str | None = None
    pairing: str = "auto"
    kind: Mapping[str, str] = field(default_factory=dict)
    layer: Mapping[str, str] = field(default_factory=dict)
    transform: Mapping[str, str] = field(default_factory=dict)
    likelihood: Mapping[str, str] = field(default_factory=dict)
    hvg: Mapping[str, int] = field(default_factory=dict)
    seen_in: Mapping[str, float] = field(default_factory=dict)
    var_key: str | None = None
    batch_key: str | None = None
    covariate_keys: Sequence[str] = ()
    continuous_keys: Sequence[str] = ()
    weight_key: str | None = None
    label_key: str | None = None
    pair_key: str | None = None
    obs_prefix: bool = False
    keep: Mapping[str, Sequence[str]] = field(default_factory=dict)  # features that selection spares


@dataclass(frozen=True)
class TrainOptions:
    """Which model, how long."""

    model: str = "auto"
    preset: str = "auto"
    max_steps: int | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    init_from: Path | None = None  # folder of a saved model
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunOptions:
    """Where and how it runs."""

    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    deterministic: bool = False
    checkpoint_dir: Path | None = None
    checkpoint_every: float = 600.0
    resume: str = "auto"
    max_time: float | None = None
    max_memory: float | None = None


@dataclass(frozen=True)
class OutputOptions:
    """What is written."""

    output: Path
    key_added: str | None = None
    umap: bool = False
    html: bool = True
    report: Path | None = None
    provenance: bool = True
    force: bool = False


def one_of(value: str, choices: Sequence[str], field_name: str) -> str:
    """Return `value` if it is a choice; else a usage error with the nearest ones."""
    if value not in choices:
        raise UsageError(
            f"'{value}' is no value for {field_name}",
            field=field_name,
            expected=", ".join(choices),
            hint=did_you_mean(value, choices),
        )
    return value


def preset_of(value: str) -> Preset:
    """Return the preset by name."""
    return Preset(one_of(value, [p.value for p in Preset], "--preset"))


def listed_names(given: str | Path | Sequence[str] | None, field_name: str) -> tuple[str, ...]:
    """Return names from `A,B`, from a file with one a line, or as they are; none for None.

    Raises
    ------
    UsageError
        There is none in what was given.
    """
    if given is None:
        return ()
    if isinstance(given, (str, Path)):
        path = Path(given)
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else str(given).split(",")
        given = [line.strip() for line in lines if line.strip()]
        if not given:
            raise UsageError(
                f"{field_name} holds no name", field=field_name, file=path if path.is_file() else None
            )
    return tuple(dict.fromkeys(given))
