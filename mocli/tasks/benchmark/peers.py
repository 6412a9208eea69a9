"""The peers that a benchmark runs besides its models, those it leaves out and why, and their results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mocli import __version__
from mocli.data.batches import dense_rows, densify
from mocli.data.bundle import MultiOmics
from mocli.data.files.contents import choose_layer
from mocli.data.files.inputs import sha256
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import Coordinates
from mocli.data.files.source import parse_source
from mocli.data.links.route import link_files
from mocli.errors import EnvironmentProblem, InputError, MocliError, UsageError
from mocli.peers.registry import OPTION, RUNNER, Interpreter, Peer, find_interpreter, peers_named
from mocli.report.figures import table as rows_table
from mocli.report.file import write_text
from mocli.tasks.benchmark.contender import Contender, placed
from mocli.tasks.benchmark.ground import Ground
from mocli.tasks.benchmark.options import PeersAsked
from mocli.tasks.benchmark.plan import words_of
from mocli.tasks.benchmark.processes import Command, begin_folder, was_begun_with
from mocli.tasks.benchmark.runs import Identity
from mocli.tasks.benchmark.table import COSTS, Record, process_costs
from mocli.tasks.prepare.load import Prepared, load
from mocli.tasks.run.options import RunOptions, TrainOptions
from mocli.tasks.run.request import Request, contents_of
from mocli.tasks.score.baselines import component_baseline
from mocli.types import ModalityKind, Task

ANSWER = "answer.json"


@dataclass(frozen=True, eq=False)
class PeerRun:
    """A peer with one seed, in its own process and folder.

    Attributes:
        seed: None for a peer that needs none.
        folder: Absolute, as the process runs there.
        source: What mocli writes for it, absolute; gone once all runs have ended.
        words, files: Options and files that its contents depend on.
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
    def identity(self) -> Identity:
        """What its lines of the table begin with."""
        return Task.INTEGRATE.value, self.peer.name, "peer", self.seed, ""

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
        """The file of coordinates."""
        return self.folder / "places.npz"

    @property
    def version(self) -> str:
        """Version of its package."""
        return self.python.versions[self.peer.module]

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies this run."""
        return {
            "peer": self.peer.name,
            "seed": self.seed,
            "params": dict(self.params),
            "words": list(self.words),
            "files": {str(path): contents_of(path) for path in self.files},
            "scripts": [sha256(self.peer.file), sha256(RUNNER)],
            "package": f"{self.peer.package} {self.version}",
            "mocli": __version__,
        }

    def answer(self) -> dict[str, Any] | None:
        """Return time and memory, as written by the process at its end; None if it has not ended well."""
        try:
            answer = json.loads((self.folder / ANSWER).read_text(encoding="utf-8"))
            whole = self.output.stat().st_size == answer["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if whole else None

    def finished(self) -> bool:
        """Say whether the folder holds a run with this fingerprint that ended well, with its coordinates."""
        return self.answer() is not None and was_begun_with(self.folder, self.fingerprint())

    def begin(self) -> None:
        """Make the folder, without results of an earlier run, and write the options."""
        begin_folder(self.folder, self.fingerprint(), (ANSWER, self.output.name))

    def process(self, device: str, threads: int) -> Command:
        """Return the process that does it; the interpreter need not have mocli."""
        options = {"seed": self.seed or 0, "params": dict(self.params), "device": device, "threads": threads}
        write_text(self.folder / "options.json", json.dumps(options) + "\n")
        words = [RUNNER, self.peer.file, self.source, "options.json", self.output, self.folder / ANSWER]
        argv = (str(self.python.path), *(str(w) for w in words))
        return Command(argv, self.python.environment(threads), self.folder)

    def contender(self, ground: Ground) -> Contender:
        """Return its coordinates of the scored cells, matched by name.

        Raises `InputError`: the file cannot be read, or a cell has no coordinates.
        """
        parts = []
        try:
            with np.load(self.output, allow_pickle=False) as stored:
                for i, name in enumerate(stored["modalities"]):
                    cell_names = pd.Index(stored[f"names{i}"].astype(object))
                    parts.append(
                        Coordinates(str(name) or None, cell_names, stored[f"z{i}"].astype(np.float32))
                    )
        except (OSError, ValueError, KeyError) as error:
            raise InputError("the coordinates cannot be read", file=self.output, found=error) from error
        peer = self.peer
        definition = f"{peer.title}, doi:{peer.doi}, by {peer.package} {self.version}"
        template = Contender(peer.name, "peer", peer.title, definition, seed=self.seed)
        return placed(template, parts, ground, where=self.output)


def asked_peers(
    names: Sequence[str], python: str | Path | None, params_given: Mapping[str, object]
) -> tuple[PeersAsked, dict[str, object]]:
    """Return the peers asked for, and the hyper-parameters that are not theirs.

    Raises `UsageError`: a peer or a hyper-parameter that does not exist, no Python, or a Python that is not
    needed.
    """
    if not names:
        if python is not None:
            raise UsageError(
                f"{OPTION} only works together with --peers",
                field=OPTION,
                hint="add --peers all, or leave it out",
            )
        return PeersAsked(), dict(params_given)
    peers = peers_named(names)
    params_of: dict[str, dict[str, object]] = {peer.name: {} for peer in peers}
    rest: dict[str, object] = {}
    for key, value in params_given.items():
        name, _, inner = key.partition(".")
        if inner and name in params_of:
            params_of[name][inner] = value
        else:
            rest[key] = value
    params = {peer.name: peer.settle(params_of[peer.name]) for peer in peers}
    interpreter = find_interpreter(python, {peer.module: peer.package for peer in peers})
    return PeersAsked(tuple(peers), params, interpreter), rest


@dataclass(eq=False)
class PeersWork:
    """Runs of peers on one ground.

    `skipped`: peers left out, and why, as the end of a sentence.
    """

    runs: list[PeerRun]
    skipped: list[tuple[Peer, str]]
    data: PeerData

    def write_data(self, todo: Sequence[PeerRun]) -> dict[str, str]:
        """Write the data of the runs, once for each peer; return reasons of failures, by the peer's name."""
        failed = {}
        for source, run in {run.source: run for run in todo}.items():
            try:
                self.data.write(run.peer, source)
            except MocliError as error:
                failed[run.peer.name] = error.message
        self.data.forget()
        return failed

    def tidy(self) -> None:
        """Remove what was written for the runs."""
        for source in {run.source for run in self.runs}:
            source.unlink(missing_ok=True)
            if source.parent.exists() and not any(source.parent.iterdir()):
                source.parent.rmdir()

    def table(self) -> dict[str, Any] | None:
        """Return the peers that were asked for, as a table of the report; None where there are none."""
        rows: list[list[str | None]] = [
            [p.name, p.title, p.doi, p.package, version, p.licence, "run"]
            for p, version in {run.peer.name: (run.peer, run.version) for run in self.runs}.values()
        ]
        rows += [[p.name, p.title, p.doi, p.package, None, p.licence, "left out"] for p, _ in self.skipped]
        if not rows:
            return None
        return rows_table(
            "Peers",
            "Published tools, each run in a separate process by the package installed there; mocli neither "
            "contains nor needs them, and they have their own licences.",
            ["peer", "tool", "doi", "package", "version", "licence", "outcome"],
            rows,
        )


def plan_peers(
    peers_asked: PeersAsked, request: Request, ground: Ground, seeds: Sequence[int], folder: Path
) -> PeersWork:
    """Return the runs of the peers that fit the data and are installed, seed by seed, and those left out."""
    data = PeerData(ground, request.data.layer, request.run.seed)
    work = PeersWork([], [], data)
    files = [parse_source(text).path for text in request.data.inputs]
    # linked features are kept among the variable ones, whoever uses the links
    files += link_files(request.data.links)
    words = _words_of_data(request)
    for peer in peers_asked.peers:
        assert peers_asked.python is not None
        problem = _problem_with(peer, request, ground) or _missing(peer, peers_asked.python)
        if problem is not None:
            work.skipped.append((peer, problem))
            continue
        for seed in seeds if peer.seeds else (None,):
            name = f"peer-{peer.name}" + ("" if seed is None else f"-seed{seed}")
            work.runs.append(
                PeerRun(
                    peer=peer,
                    seed=seed,
                    folder=(folder / name).absolute(),
                    source=(folder / "peers" / f"{peer.name}.npz").absolute(),
                    python=peers_asked.python,
                    params=peers_asked.params[peer.name],
                    words=tuple(words),
                    files=tuple(files),
                )
            )
    return work


def _words_of_data(request: Request) -> list[str]:
    """Return the options that the data for peers depend on."""
    data = replace(request.data, label_key=None, pair_key=None, likelihood={})
    data = replace(data, covariate=(), continuous=(), weight_key=None)
    plain = replace(request, data=data, train=TrainOptions(), run=RunOptions())
    return [*words_of(plain, request.data.links, {}), "--seed", str(request.run.seed)]


def _problem_with(peer: Peer, request: Request, ground: Ground) -> str | None:
    """Return why a peer cannot take the data; None where it can."""
    bundle = ground.bundle
    problem = peer.problem_with(
        pairing=ground.plan.relation.pairing,
        kinds=[f.kind for f in ground.files],
        n_batches=0 if bundle.batch is None else len(bundle.batch.levels),
        n_links=len(bundle.links),
    )
    if problem is not None or "counts" not in peer.takes:
        return problem
    for f in ground.files:
        try:
            counts_layer(f, request.data.layer)
        except InputError as error:
            return f"needs counts, and {f.name} has none ({error.found} in {error.field})"
    return None


def _missing(peer: Peer, python: Interpreter) -> str | None:
    if peer.module in python.versions:
        return None
    return (
        f"is not installed for {python.path} ({python.path} -m pip install {peer.package}, "
        f"or name another Python with {OPTION})"
    )


def costs_of(run: PeerRun, answer: Mapping[str, Any]) -> Iterator[Record]:
    """Yield time and memory of a finished run."""
    return process_costs(run.identity, {key: answer.get(key) for key in COSTS})


PANELS = frozenset({ModalityKind.PROT, ModalityKind.CYTO})
"""Kinds whose counts are written dense: few features, seldom zero."""


def counts_layer(file: ModalityFile, layers: Mapping[str, str]) -> str:
    """Return the matrix of a modality's raw counts; raises `InputError` where there is none."""
    return choose_layer(file, layers.get(file.name), wants_counts=True).layer


@dataclass(frozen=True, eq=False)
class PeerData:
    """Arrays of all cells, computed when they are first used.

    Attributes:
        layers: Layer by modality, where the user names one.
        seed: For highly variable features, LSI and principal components.
    """

    ground: Ground
    layers: Mapping[str, str]
    seed: int

    def write(self, peer: Peer, path: Path) -> None:
        """Write what a peer takes; see `mocli.peers.runner.Given`.

        Raises:
            InputError: It takes counts and a modality has none.
            EnvironmentProblem: The file cannot be written.
        """
        arrays = dict(self._cells())
        for array in sorted(peer.takes):
            arrays |= {"components": self._components, "counts": self._counts,
                       "features": self._features, "linked": self._linked}[array]()  # fmt: skip
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                np.savez(stream, **arrays)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise EnvironmentProblem(
                "the data for a peer cannot be written", file=path, found=error.strerror or str(error)
            ) from error

    def forget(self) -> None:
        """Release the data: runs and scores do not need them."""
        self.__dict__.pop("_prepared", None)

    @cached_property
    def _prepared(self) -> Prepared:
        # the ground may be a sample of the cells, and keeps no recipes; its messages were logged
        return load(self.ground.whole, None, seed=self.seed, say=lambda _: None, warn=lambda _: None)

    @property
    def _bundle(self) -> MultiOmics:
        return self._prepared.bundle

    def _cells(self) -> Iterator[tuple[str, Any]]:
        bundle = self._bundle
        yield "cells", np.asarray(bundle.obs_names, dtype=np.str_)
        yield "rows", bundle.rows
        yield "modalities", np.asarray(list(bundle.modalities), dtype=np.str_)
        yield "kinds", np.asarray([m.kind.value for m in bundle.modalities.values()], dtype=np.str_)
        for i, m in enumerate(bundle.modalities.values()):
            yield f"names{i}", np.asarray(m.obs_names, dtype=np.str_)
        if bundle.batch is not None:
            yield "batch", bundle.batch.codes
            yield "batch_levels", np.asarray(bundle.batch.levels, dtype=np.str_)

    def _components(self) -> dict[str, Any]:
        bundle = self._bundle
        return {"components": component_baseline(bundle, np.arange(bundle.n_cells), self.seed)[0].joint}

    def _features(self) -> dict[str, Any]:
        modalities = self._bundle.modalities.values()
        return {f"features{i}": dense_rows(m.features, np.arange(m.n_obs)) for i, m in enumerate(modalities)}

    def _linked(self) -> dict[str, Any]:
        (link,) = self._bundle.links
        names = list(self._bundle.modalities)
        return {f"linked{names.index(m)}": dense_rows(x, np.arange(x.n_obs)) for m, x in link.sides.items()}

    def _counts(self) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        for i, choice in enumerate(self.ground.whole.choices):
            file = choice.file
            x = file.read(counts_layer(file, self.layers))[:, self._prepared.recipes[file.name].selected]
            if file.kind in PANELS:
                arrays[f"counts{i}"] = densify(x)
            else:
                arrays |= {f"counts{i}": x.data, f"indices{i}": x.indices, f"indptr{i}": x.indptr}
                arrays[f"shape{i}"] = np.asarray(x.shape)
        return arrays
