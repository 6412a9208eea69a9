"""Peers as they are declared, and their runner in a process that has neither mocli nor what they run."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import mocli.peers
from mocli.errors import UsageError
from mocli.models.registry import available
from mocli.peers import runner
from mocli.peers.registry import RUNNER, available_peers, peers_named
from mocli.types import ModalityKind, Pairing

PEERS = list(available_peers().values())


def test_five_tools_are_there_and_none_is_called_like_a_model():
    names = [peer.name for peer in PEERS]
    assert names == ["harmony", "maxfuse", "mofa", "multivi", "totalvi"]
    assert not set(names) & set(available())


@pytest.mark.parametrize("peer", PEERS, ids=lambda p: p.name)
def test_a_peer_says_what_it_is(peer):
    assert re.fullmatch(r"10\.\d{4,}/\S+", peer.doi)
    assert all((peer.title, peer.package, peer.module, peer.licence, peer.takes, peer.pairings))
    assert peer.name == peer.file.stem
    if "counts" in peer.takes:
        assert peer.kinds, "what its counts are of"


@pytest.mark.parametrize("file", [RUNNER, *(p.file for p in PEERS)], ids=lambda f: f.stem)
def test_files_for_another_python_import_next_to_nothing(file):
    tree = ast.parse(file.read_text())
    top = {
        name.split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert top <= {*sys.stdlib_module_names, "numpy"}
    inside = {
        str(node.module).split(".")[0]
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom)
    }
    assert "mocli" not in inside


def test_packages_of_peers_are_no_dependencies():
    import tomllib

    project = tomllib.loads((RUNNER.parents[2] / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for of in project["optional-dependencies"].values() for d in of)]
    assert not {re.split(r"[>=\[]", d)[0] for d in wanted} & {peer.package for peer in PEERS}


PAIRED = {"pairing": Pairing.PAIRED, "n_batches": 2, "n_links": 1}
RNA, PROT, ATAC = ModalityKind.RNA, ModalityKind.PROT, ModalityKind.ATAC


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("harmony", {}, None),
        ("harmony", {"n_batches": 1}, "two batches"),
        ("harmony", {"pairing": Pairing.UNPAIRED}, "takes mosaic or paired cells, these are unpaired"),
        ("mofa", {"pairing": Pairing.MOSAIC}, None),
        ("totalvi", {"n_batches": 0}, None),
        ("totalvi", {"kinds": [RNA, ATAC]}, "takes prot and rna data, these are rna and atac"),
        ("totalvi", {"pairing": Pairing.MOSAIC}, "takes paired cells"),
        ("multivi", {"kinds": [ATAC, RNA]}, None),
        ("multivi", {}, "takes atac and rna data"),
        ("maxfuse", {"pairing": Pairing.UNPAIRED}, None),
        ("maxfuse", {"n_links": 0}, "--links"),
        ("maxfuse", {"kinds": [RNA, PROT, ATAC]}, "takes 2 modalities, got 3"),
    ],
)
def test_data_that_a_peer_does_not_take_are_told(name, change, reason):
    found = available_peers()[name].problem_with(**{**PAIRED, "kinds": [RNA, PROT], **change})
    assert found == reason if reason is None else reason in found


def test_names_and_hyper_parameters_are_checked():
    assert [p.name for p in peers_named(["all"])] == list(available_peers())
    with pytest.raises(UsageError, match="no peer 'harmoni'") as caught:
        peers_named(["mofa", "harmoni"])
    assert "'harmony'" in caught.value.hint
    totalvi = available_peers()["totalvi"]
    assert totalvi.settle({"max_epochs": 3}) == {"max_epochs": 3, "n_latent": 20}
    with pytest.raises(UsageError, match="no hyper-parameter 'max_epoch'") as caught:
        totalvi.settle({"max_epoch": 3})
    assert "'max_epochs'" in caught.value.hint
    for wrong in (0, -1, True, "3", 2.5, float("nan")):
        with pytest.raises(UsageError, match="positive whole number"):
            totalvi.settle({"max_epochs": wrong})
    assert available_peers()["multivi"].settle({"seen_in": 0.5})["seen_in"] == 0.5


def write_input(path, **more):
    arrays = {
        "cells": np.array(["a", "b", "c"]),
        "rows": np.array([[2, 0], [0, 1], [1, 2]]),
        "modalities": np.array(["gex", "adt"]),
        "kinds": np.array(["rna", "prot"]),
        "names0": np.array(["b", "c", "a"]),
        "names1": np.array(["a", "b", "c"]),
    }
    np.savez(path, **arrays, **more)
    return path


OPTIONS = {"seed": 3, "params": {"scale": 2.0}, "device": "cuda:1", "threads": 1}


def test_what_is_given_comes_back_by_cell(tmp_path):
    x = sparse.random(3, 5, density=0.5, format="csr", random_state=0)
    parts = {"counts0": x.data, "indices0": x.indices, "indptr0": x.indptr, "shape0": np.array(x.shape)}
    dense = np.arange(6, dtype=np.float32).reshape(3, 2)
    batch = {"batch": np.array([0, -1, 1]), "batch_levels": np.array(["x", "long name"])}
    source = write_input(tmp_path / "i.npz", **parts, counts1=dense, features1=dense, **batch)
    given = runner.read(source, OPTIONS, tmp_path)
    assert list(given.kinds) == ["gex", "adt"]
    assert given.of_kind("prot") == "adt"
    got = given.by_cell(given.counts, "gex")
    assert sparse.issparse(got)
    assert np.array_equal(got @ np.eye(5), x[[2, 0, 1]] @ np.eye(5))
    assert np.array_equal(given.by_cell(given.counts, "adt"), dense)
    assert list(given.batch) == ["x", "none", "long name"]
    assert given.components is None
    assert list(given.features) == ["adt"]
    assert given.scvi_device() == {"accelerator": "gpu", "devices": [1]}
    for word, told in (("cpu", ("cpu", 1)), ("auto", ("auto", "auto")), ("cuda", ("gpu", 1))):
        found = runner.read(source, {**OPTIONS, "device": word}, tmp_path).scvi_device()
        assert (found["accelerator"], found["devices"]) == told


def run_peer(tmp_path, text, name="numpy"):
    """A peer's file that is called like a package must not hide it."""
    peer = tmp_path / "files" / f"{name}.py"
    peer.parent.mkdir(exist_ok=True)
    peer.write_text(text)
    (tmp_path / "o.json").write_text(json.dumps(OPTIONS))
    files = [write_input(tmp_path / "i.npz"), tmp_path / "o.json", tmp_path / "z.npz", tmp_path / "a.json"]
    words = [sys.executable, "-E", RUNNER, peer, *files]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, cwd=tmp_path)


def test_the_runner_needs_no_mocli(tmp_path):
    text = """
import sys
import numpy as np
def place(given):
    import numpy.linalg
    assert not {"mocli", "torch", "scipy", "anndata", "pandas"} & set(sys.modules), sorted(sys.modules)
    assert not [p for p in sys.path if p.endswith("mocli/peers")]
    return {"adt": np.full((3, 2), given.seed * given.params["scale"])}
"""
    done = run_peer(tmp_path, text)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "z.npz", allow_pickle=False) as stored:
        assert list(stored["modalities"]) == ["adt"]
        assert list(stored["names0"]) == ["a", "b", "c"]
        assert (stored["z0"] == 6).all()
        assert stored["z0"].dtype == np.float32
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["bytes"] == (tmp_path / "z.npz").stat().st_size
    assert told["peak_memory_bytes"] > 1e6
    assert told["gpu_peak_memory_bytes"] is None
    assert 0 <= told["train_s"] <= told["total_s"]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("np.zeros((2, 2))", "error: coordinates have the shape (2, 2), but there are 3 cells"),
        ("np.zeros(3)", "error: coordinates have the shape (3,), but there are 3 cells"),
        ("np.array([[0.0], [np.nan], [np.inf]])", "error: 2 of 3 coordinates are not finite"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_places_that_are_none_are_not_written(tmp_path, result, reason):
    done = run_peer(tmp_path, f"import numpy as np\ndef place(given):\n    return {result}\n")
    assert done.returncode != 0
    assert reason in done.stderr
    assert not (tmp_path / "z.npz").exists()
    assert not (tmp_path / "a.json").exists()


def test_one_file_is_a_peer(tmp_path, monkeypatch):
    (tmp_path / "toyalone.py").write_text(PEERS[0].file.read_text().replace('"harmony"', '"toyalone"'))
    monkeypatch.setattr(mocli.peers, "__path__", [*mocli.peers.__path__, str(tmp_path)])
    found = available_peers()["toyalone"]
    assert found.file == Path(tmp_path / "toyalone.py")
