"""One run of a peer: its folder, its process, whether it is finished, and where it put the cells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mocli import __version__
from mocli.data.files.obsm import Coordinates
from mocli.errors import InputError
from mocli.peers.registry import RUNNER
from mocli.report.file import write_text
from mocli.tasks.benchmark import folder as runfolder
from mocli.tasks.benchmark.contender import placed
from mocli.tasks.benchmark.folder import hash_of
from mocli.tasks.benchmark.processes import Command

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mocli.peers.registry import Peer
    from mocli.tasks.benchmark.contender import Contender
    from mocli.tasks.benchmark.ground import Ground
    from mocli.tasks.benchmark.interpreter import Interpreter

ANSWER = "answer.json"


@dataclass(frozen=True, eq=False)
class PeerRun:
    """A peer with one seed, in a process and a folder of its own.

    Attributes
    ----------
    seed
        None for a peer that needs none.
    folder
        Absolute, as the process runs there.
    source
        What mocli writes for it, absolute; gone once all runs have ended.
    words, files
        Options and files that say what is in it.
    """

    peer: Peer
    seed: int | None
    folder: Path
    source: Path
    python: Interpreter
    params: Mapping[str, float | None]
    words: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def turn(self) -> str:
        """Its seed."""
        return f"{self.seed} "

    @property
    def work(self) -> str:
        """The peer."""
        return f"peer {self.peer.name}"

    @property
    def name(self) -> str:
        """Words for the log."""
        return f"peer {self.peer.name}" + ("" if self.seed is None else f" seed {self.seed}")

    @property
    def output(self) -> Path:
        """The places."""
        return self.folder / "places.npz"

    @property
    def version(self) -> str:
        """Version of its package."""
        return self.python.versions[self.peer.module]

    def fingerprint(self) -> dict[str, Any]:
        """Return what must be the same for a finished run to be this one."""
        return {
            "peer": self.peer.name,
            "seed": self.seed,
            "params": dict(self.params),
            "words": list(self.words),
            "files": {str(path): hash_of(path) for path in self.files},
            "scripts": [hash_of(self.peer.file), hash_of(RUNNER)],
            "package": f"{self.peer.package} {self.version}",
            "mocli": __version__,
        }

    def answer(self) -> dict[str, Any] | None:
        """Return time and memory, as told by the process at its end; None where it has not ended well."""
        try:
            told = json.loads((self.folder / ANSWER).read_text(encoding="utf-8"))
            whole = self.output.stat().st_size == told["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return told if whole else None

    def finished(self) -> bool:
        """Whether the folder holds a run with this fingerprint that ended well, places and all."""
        return self.answer() is not None and runfolder.is_of(self.folder, self.fingerprint())

    def begin(self) -> None:
        """Make the folder, without results of an earlier run, and write the options."""
        runfolder.begin(self.folder, self.fingerprint(), (ANSWER, self.output.name))

    def process(self, device: str, threads: int) -> Command:
        """Return the process that does it; the interpreter need not have mocli."""
        options = {"seed": self.seed or 0, "params": dict(self.params), "device": device, "threads": threads}
        write_text(self.folder / "options.json", json.dumps(options) + "\n")
        words = [RUNNER, self.peer.file, self.source, "options.json", self.output, self.folder / ANSWER]
        argv = (str(self.python.path), *(str(w) for w in words))
        return Command(argv, self.python.environment(threads), self.folder)

    def contender(self, ground: Ground) -> Contender:
        """Return its places of the cells that are scored, found by name.

        Raises
        ------
        InputError
            The file cannot be read, or some cell has no place.
        """
        parts = []
        try:
            with np.load(self.output, allow_pickle=False) as stored:
                for i, name in enumerate(stored["modalities"]):
                    of = pd.Index(stored[f"names{i}"].astype(object))
                    parts.append(Coordinates(str(name) or None, of, stored[f"z{i}"].astype(np.float32)))
        except (OSError, ValueError, KeyError) as error:
            raise InputError("the places cannot be read", file=self.output, found=error) from error
        peer = self.peer
        definition = f"{peer.title}, doi:{peer.doi}, by {peer.package} {self.version}"
        return placed(
            parts, ground, peer.name, "peer", peer.title, definition, where=self.output, seed=self.seed
        )
