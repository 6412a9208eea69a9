"""What is kept of a training: the loss terms of every step, and checkpoints bound to their run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from mocli.errors import EnvironmentProblem, InputError, NumericalError, UsageError
from mocli.leftovers import temporary_beside
from mocli.models.base import Plateau
from mocli.types import DoubleArray, Json


class History:
    """Values of each term at each step of a phase, `(n_steps, n_terms)`.

    `interval`: steps between two looks at the values: 1 on the CPU; more on a GPU, where a look waits for the
    device.
    """

    def __init__(self, interval: int) -> None:
        self.terms: tuple[str, ...] = ()
        self._rows: list[list[float]] = []
        self._pending: list[Tensor] = []
        self._interval = interval

    def __len__(self) -> int:
        return len(self._rows) + len(self._pending)

    def record(self, terms: Mapping[str, Tensor]) -> None:
        """Add one step; look at the values when `interval` steps are waiting."""
        self.terms = self.terms or tuple(terms)
        self._pending.append(torch.stack([value.detach() for value in terms.values()]))
        if len(self._pending) >= self._interval:
            self.flush()

    def flush(self) -> None:
        """Fetch what is waiting; raise at the first value that is not finite."""
        if not self._pending:
            return
        block = torch.stack(self._pending).tolist()
        self._pending.clear()
        for row in block:
            if not np.isfinite(row).all():
                term = self.terms[int(np.flatnonzero(~np.isfinite(row))[0])]
                raise NumericalError(
                    "the loss is no longer finite",
                    term=term,
                    step=len(self._rows),
                    hint="lower --lr, look for extreme values in the input, or weaken this term with --set",
                )
            self._rows.append(row)

    def values(self) -> DoubleArray:
        """All recorded values, `(n_steps, n_terms)`."""
        return np.asarray(self._rows, dtype=np.float64).reshape(len(self._rows), len(self.terms))

    def latest(self, n: int = 20) -> dict[str, float]:
        """Mean of each term over the last `n` steps."""
        if not self._rows:
            return {}
        return dict(zip(self.terms, np.mean(self._rows[-n:], axis=0).tolist(), strict=True))

    def summary(self) -> dict[str, dict[str, float]]:
        """First, last (means over 20 steps) and least value of each term."""
        values = self.values()
        return {
            term: {
                "first": float(values[:20, i].mean()),
                "last": float(values[-20:, i].mean()),
                "min": float(values[:, i].min()),
            }
            for i, term in enumerate(self.terms)
            if len(values)
        }

    def curves(self, n_points: int = 400) -> dict[str, dict[str, list[float]]]:
        """Each term thinned to at most `n_points` means over equal stretches of steps."""
        values = self.values()
        if not len(values):
            return {}
        blocks = np.array_split(np.arange(len(values)), min(n_points, len(values)))
        steps = [float(block[-1] + 1) for block in blocks]
        means = np.stack([values[block].mean(0) for block in blocks])
        return {t: {"step": steps, "value": means[:, i].tolist()} for i, t in enumerate(self.terms)}

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what a checkpoint keeps."""
        self.flush()
        return {"terms": list(self.terms)}, {"history": torch.from_numpy(self.values())}

    def restore(self, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put `state` back."""
        self.terms = tuple(meta["terms"])
        rows = tensors["history"]
        if rows.dim() != 2 or rows.shape[1] != len(self.terms) or not bool(rows.isfinite().all()):
            raise ValueError(f"the history is no table of {len(self.terms)} finite terms")
        self._rows = rows.tolist()

    def flat(self, plateau: Plateau, since: int = 0) -> bool:
        """Return whether the smoothed loss has stopped improving, by the steps after `since` alone."""
        n, window = len(self._rows), plateau.window
        if not due(plateau, n) or n - since < 2 * window:
            return False
        weights = np.array([plateau.weights.get(term, 0.0) for term in self.terms])
        total = self.values() @ weights
        first, before, now = (
            total[:window].mean(),
            total[-2 * window : -window].mean(),
            total[-window:].mean(),
        )
        return bool(before - now < plateau.tolerance * abs(first - now))


def due(plateau: Plateau, n_steps: int) -> bool:
    """Whether it is time for a look: every tenth of a window, so that it does not matter who asks when."""
    enough = n_steps >= max(plateau.min_steps, 2 * plateau.window)
    return enough and n_steps % max(plateau.window // 10, 1) == 0


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
