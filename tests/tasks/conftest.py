"""What the tests of tasks share: a run that takes a moment, and eyes for what it wrote."""

import hashlib
import json
import warnings

import mudata
import pytest

import mocli
from mocli.report.file import validate


@pytest.fixture(autouse=True, scope="module")
def few_trees():
    """Forests of ten trees, not a hundred: of those a run has six, of a tenth of a second each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mocli.metrics.matching.TREES", 10)
        yield


@pytest.fixture
def run(tmp_path, small):
    """Integrate with small networks and few steps; options as in `mocli.integrate`."""

    def integrate(inputs, *, links, output=None, params=None, **options):
        defaults = {
            "model": "scmodal",
            "max_steps": 10,
            "html": False,
            "threads": 1,
            "device": "cpu",
            "umap": False,
            "metrics": "all",
        }
        return mocli.integrate(
            inputs,
            links=links,
            output=tmp_path / "out.h5mu" if output is None else output,
            params={**small, **(params or {})},
            **{**defaults, **options},
        )

    return integrate


@pytest.fixture
def read():
    """Read an h5mu as mudata does, without the notices it has for names that modalities share."""

    def read_h5mu(path):
        with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
            warnings.filterwarnings("ignore", "[Vv]ar.*names.* not", UserWarning)
            warnings.filterwarnings("ignore", "Duplicated var_names", UserWarning)
            return mudata.read_h5mu(path)

    return read_h5mu


@pytest.fixture
def sha256():
    return lambda path: hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def check_report(sha256):
    """Read a report, check it against the schema and every file it lists against its hash."""

    def check(path):
        from pathlib import Path

        report = json.loads(Path(path).read_text())
        validate(report)
        for output in report["outputs"]:
            listed = Path(output["path"])
            if output["files"] is None:
                assert sha256(listed) == output["sha256"]
                assert listed.stat().st_size == output["bytes"]
            else:
                assert {p.name: sha256(p) for p in listed.iterdir()} == output["files"]
        for read in report["inputs"]:
            assert sha256(Path(read["path"])) == read["sha256"]
        return report

    return check
