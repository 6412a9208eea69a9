"""multiDGD on cells of a batch that it never saw: hardly worse than where the batch was seen."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from mocli.data.demo import write_demo

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "multidgd_unseen.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_cells_of_an_unseen_batch_lose_at_most_a_tenth(tmp_path, monkeypatch, capsys):
    write_demo(tmp_path, n_cells=300)
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("multidgd_unseen", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    words = ["x", str(tmp_path / "multiome.h5mu"), "--batches", "batch_2", "--epochs", "30"]
    monkeypatch.setattr(sys, "argv", words)
    module.main()
    line = next(line for line in capsys.readouterr().out.splitlines() if '"benchmark"' in line)
    ratio = {row["way"]: row["ratio"] for row in json.loads(line)["rows"]}
    assert ratio["naive"] <= 1.1
    assert ratio["component"] <= ratio["naive"] + 0.005
