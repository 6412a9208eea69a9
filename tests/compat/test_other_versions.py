"""Files of other versions of anndata and mudata are read, and ours by them: each in its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from other_files import read, write

import mocli

SCRIPT = Path(__file__).with_name("other_files.py")
VARIABLE = "MOCLI_TEST_ENVIRONMENTS"
"""A folder in which environments are kept from one call to the next."""

PINNED = {
    ("0.8.0", "0.2.0"): "numpy==1.23.5 pandas==1.5.3 scipy==1.10.1 h5py==3.8.0",
    ("0.9.2", "0.2.3"): "numpy==1.24.4 pandas==1.5.3 scipy==1.10.1 h5py==3.9.0",
    ("0.10.8", "0.2.4"): "numpy==1.26.4 pandas==2.1.4 scipy==1.11.4 h5py==3.10.0",
    ("0.11.4", "0.3.1"): "numpy==2.0.2 pandas==2.2.3 scipy==1.14.1 h5py==3.12.1",
    ("0.12.2", "0.3.2"): "numpy==2.2.6 pandas==2.3.3 scipy==1.15.3 h5py==3.14.0",
}
"""Versions of anndata and mudata, and what they were released with."""

RUN = {"html": False, "threads": 1, "device": "cpu", "max_steps": 3, "metrics": "none"}


@pytest.fixture(scope="module", params=PINNED, ids=lambda versions: "anndata-{}-mudata-{}".format(*versions))
def other(request, tmp_path_factory):
    """Call the script in an environment with these versions, made with pip where it is not there yet."""
    anndata, mudata = request.param
    kept = os.environ.get(VARIABLE)
    root = Path(kept) if kept else tmp_path_factory.getbasetemp() / "environments"
    folder = root / f"anndata-{anndata}-mudata-{mudata}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        wanted = [f"anndata=={anndata}", f"mudata=={mudata}", *PINNED[request.param].split()]
        pip = [python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *wanted]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            python.unlink()
            pytest.skip(f"pip installs no such versions here: {done.stderr[-300:]}")

    def call(*words):
        argv = [python, "-P", SCRIPT, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return call


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """The same content as this environment's versions write it."""
    folder = tmp_path_factory.mktemp("new")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(folder)
    return folder


def outputs(folder, data):
    """Integrate both modalities of one file, and impute one of them; return where, and a digest."""
    params = {"n_hidden": 8, "n_latent": 4, "batch_size": 32}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mocli.integrate(
            [data], output=folder / "o.h5mu", model="multigrate", batch_key="sample", params=params, **RUN
        )
        mocli.impute(
            [data],
            output=folder / "i.h5ad",
            from_model=folder / "o.model",
            source="rna",
            target="prot",
            cells="all",
            html=False,
            device="cpu",
            threads=1,
        )
    return [folder / "o.h5mu", folder / "i.h5ad"], result.report["determinism"]["latent_sha256"]


@pytest.mark.slow
def test_their_files_are_read_as_ours(other, new, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    other("write", theirs)
    digests = []
    for name, source in (("new", new), ("old", theirs)):
        (tmp_path / name).mkdir()
        digests.append(outputs(tmp_path / name, source / "data.h5mu")[1])
        apart = mocli.integrate(
            [source / "rna.h5ad", source / "prot.h5ad"],
            output=tmp_path / name / "apart.h5mu",
            model="multigrate",
            params={"n_hidden": 8, "n_latent": 4},
            **RUN,
        )
        digests.append(apart.report["determinism"]["latent_sha256"])
    assert digests[:2] == digests[2:]


@pytest.mark.slow
def test_our_files_are_read_by_them(other, new, tmp_path):
    files, _ = outputs(tmp_path, new / "data.h5mu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here = [read(file) for file in files]
    assert "X_multigrate" in here[0]["obsm"]
    assert here[1]["shape"] == [60, 10]
    assert other("read", *files) == here
