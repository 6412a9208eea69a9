"""Checkpoints: one safetensors file, replaced atomically, bound to its run by a fingerprint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from mocli.errors import EnvironmentProblem, InputError, UsageError
from mocli.leftovers import temporary_beside
from mocli.types import Json

FORMAT = 1
DAMAGE = (
    *(OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError),
    *(RecursionError, OverflowError),
)
"""Errors that reading damaged tensors and JSON may raise."""

FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """Tensors by name, and everything else."""

    tensors: Mapping[str, Tensor]
    meta: dict[str, Json]


class Checkpoints:
    """The checkpoint of one run, in its own folder.

    Args:
        folder: Created at the first save, removed at success.
        fingerprint: What must be equal for a checkpoint to belong to this run: inputs, links, model,
            parameters, seed, format.
        resume: `auto` continues if a matching checkpoint exists, `always` demands one, `never` ignores it.
    """

    def __init__(self, folder: Path, *, fingerprint: Mapping[str, Json], resume: str) -> None:
        self.folder = folder
        # as it is after JSON, where a tuple is a list
        self.fingerprint = json.loads(json.dumps({**fingerprint, "checkpoint_format": FORMAT}))
        self.resume = resume

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / FILE

    def save(self, snapshot: Snapshot) -> None:
        """Write next to the old file and replace it, so that a kill leaves one of the two intact."""
        meta = json.dumps({"fingerprint": self.fingerprint, **snapshot.meta}, sort_keys=True)
        tensors = {k: v.detach().to("cpu").contiguous() for k, v in snapshot.tensors.items()}
        temporary = temporary_beside(self.path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, metadata={"mocli": meta})
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(self.path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                temporary.unlink()
            raise EnvironmentProblem(
                "the checkpoint could not be written",
                file=self.path,
                found=str(error),
                hint="free some space or name another folder with --checkpoint-dir",
            ) from error

    def load(self) -> Snapshot | None:
        """Return the snapshot to continue from, or None to start anew.

        Raises:
            UsageError: If a checkpoint is there but belongs to another run (each differing field is named),
                or `resume="always"` finds none.
            InputError: If it is damaged.
        """
        if self.resume == "never":
            return None
        if not self.path.exists():
            if self.resume == "always":
                raise UsageError(
                    "there is no checkpoint to resume from", file=self.path, hint="use --resume auto"
                )
            return None
        try:
            with safe_open(self.path, framework="pt") as handle:
                meta = json.loads(handle.metadata()["mocli"])
                tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
            self._check(dict(meta.pop("fingerprint")))
        except DAMAGE as error:
            raise self.damaged(error) from error
        return Snapshot(tensors, meta)

    def damaged(self, error: BaseException) -> InputError:
        """Return the error for a checkpoint of this run that cannot be used."""
        return InputError(
            "the checkpoint is damaged",
            file=self.path,
            found=f"{type(error).__name__}: {error}"[:300],
            hint="delete it, or start anew with --resume never",
        )

    def _check(self, fingerprint: Mapping[str, Json]) -> None:
        then, now = _leaves(fingerprint), _leaves(self.fingerprint)
        differing = [k for k in sorted({*then, *now}) if then.get(k) != now.get(k)]
        if differing:
            lines = "; ".join(f"{k}: {_short(then.get(k))} then, {_short(now.get(k))} now" for k in differing)
            raise UsageError(
                "the checkpoint belongs to another run",
                file=self.path,
                found=lines,
                hint="repeat the earlier command to continue it, or start anew with --resume never",
            )

    def remove(self) -> None:
        """Delete the checkpoint, and its folder if nothing else is in it."""
        self.path.unlink(missing_ok=True)
        if self.folder.exists() and not any(self.folder.iterdir()):
            shutil.rmtree(self.folder, ignore_errors=True)


def _leaves(value: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """Return nested values by their path, such as `params.lr`."""
    leaves: dict[str, Json] = {}
    for key, item in value.items():
        leaves |= _leaves(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return leaves


def _short(value: Json) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else text[:57] + "..."


def pack_optimizer(name: str, optimizer: Optimizer) -> dict[str, Tensor]:
    """Flatten an optimiser's state to named tensors."""
    packed: dict[str, Tensor] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            packed[f"optimizer/{name}/{index}/{key}"] = torch.as_tensor(value)
    return packed


def unpack_optimizer(name: str, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `pack_optimizer` back."""
    prefix = f"optimizer/{name}/"
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, _, field = key.removeprefix(prefix).partition("/")
            state.setdefault(int(index), {})[field] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in state.items():
        for kind, value in values.items():
            shape = parameters[number].shape
            if value.shape not in {shape, shape[:1] + (1,) * (len(shape) - 1), torch.Size([])}:
                raise ValueError(
                    f"{prefix}{number}/{kind} has shape {tuple(value.shape)}, not {tuple(shape)}"
                )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
