"""models, params, demo, doctor."""

import copy
import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from mocli import __version__
from mocli.__main__ import main
from mocli.cli import doctor
from mocli.cli.output import table
from mocli.models.registry import available, params_class, traits_of
from mocli.types import Pairing


def out(capsys, *args):
    assert main(list(args)) == 0
    return capsys.readouterr().out


def test_models_lists_every_model_with_its_traits(capsys):
    text = out(capsys, "models")
    for name, traits in available().items():
        row = next(line for line in text.splitlines() if line.startswith(f"{name} "))
        assert traits.doi in row
        assert all(kind in row for kind in traits.expects)
        assert all(pairing in row for pairing in traits.pairings)
        assert ("not needed" in row) is not traits.needs_links
        assert ("needed by unpaired cells" in row) is traits.links_replace_pairs
        assert traits.summary in text


def test_models_says_what_auto_takes_in_order(capsys):
    lines = out(capsys, "models").splitlines()
    for pairing in Pairing:
        (line,) = (line for line in lines if line.startswith(f"{pairing} cells: "))
        named = line.split(": ")[1].split(", ")
        assert [available()[name].rank[pairing] for name in named] == list(range(1, len(named) + 1))


def test_models_as_json(capsys):
    entries = {e["name"]: e for e in json.loads(out(capsys, "models", "--json"))}
    assert set(entries) == set(available())
    assert entries["scmodal"]["needs_links"] is True
    assert entries["scmodal"]["min_modalities"] == 2


def test_params_as_table_json_and_yaml(capsys):
    names = [f.name for f in fields(params_class(traits_of("scmodal")))]
    rows = out(capsys, "params", "scmodal").splitlines()
    assert [row.split()[0] for row in rows[1:]] == names
    entries = json.loads(out(capsys, "params", "scmodal", "--json"))
    assert [e["name"] for e in entries] == names
    content = yaml.safe_load(out(capsys, "params", "scmodal", "--yaml"))
    assert content == {"model": "scmodal", "set": {e["name"]: e["default"] for e in entries}}


def test_params_yaml_is_a_config(capsys, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(out(capsys, "params", "scmodal", "--yaml"))
    printed = yaml.safe_load(out(capsys, "integrate", "-c", str(file), "--print-config"))
    assert printed["set"] == yaml.safe_load(file.read_text())["set"]


def test_params_refuses_two_formats(capsys):
    assert main(["params", "scmodal", "--json", "--yaml"]) == 2


@pytest.fixture
def generator(monkeypatch):
    calls = []

    def write_demo(folder, *, n_cells, seed, trimodal):
        calls.append((n_cells, seed, trimodal))
        Path(folder).mkdir(parents=True, exist_ok=True)
        files = [Path(folder) / name for name in ("rna.h5ad", "prot.h5ad", "rna-prot.tsv")]
        for file in files:
            file.write_text("x")
        return files

    module = ModuleType("mocli.data.demo")
    module.write_demo = write_demo
    monkeypatch.setitem(sys.modules, "mocli.data.demo", module)
    return calls


def test_demo_writes_and_says_what_to_try(generator, tmp_path, capsys):
    folder = tmp_path / "my demo"
    assert main(["demo", str(folder), "--cells", "50", "--seed", "3", "--trimodal"]) == 0
    captured = capsys.readouterr()
    assert generator == [(50, 3, True)]
    assert captured.out == ""
    assert f"wrote {folder / 'rna.h5ad'}" in captured.err
    assert re.search(r"next.*mocli integrate '.*rna\.h5ad' .*--links .*rna-prot\.tsv.* -o ", captured.err)


def test_demo_spares_a_folder_in_use(generator, tmp_path, capsys):
    (tmp_path / "precious").write_text("x")
    assert main(["demo", str(tmp_path)]) == 2
    assert generator == []
    assert main(["demo", str(tmp_path), "--force"]) == 0
    assert main(["demo", str(tmp_path / "precious"), "--force"]) == 2


def test_doctor_reports_this_machine(capsys):
    found = json.loads(out(capsys, "doctor", "--json"))
    import h5py
    import torch

    assert found["torch"]["version"] == str(torch.__version__)
    assert found["torch"]["cuda_available"] is torch.cuda.is_available()
    assert found["hdf5"]["version"] == h5py.version.hdf5_version
    assert found["versions"]["mocli"] == __version__
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["memory"]["total_bytes"] > 2**28
    assert found["cpu"]["default_threads"] >= 1
    assert found["folders"]["temporary"]["writable"] is True
    text = doctor.as_text(found)
    assert "GiB" in text
    assert "None" not in text


def test_doctor_ends_with_ready_or_what_to_mend(capsys):
    facts = json.loads(out(capsys, "doctor", "--json"))
    whole = copy.deepcopy(facts)
    whole["memory"] = {"total_bytes": 2**36, "available_bytes": 2**35, "limit_bytes": None}
    whole["folders"]["working"]["free_bytes"] = whole["folders"]["temporary"]["free_bytes"] = 2**36
    assert doctor.verdict(whole) == ["ready: mocli runs here, on the CPU"]
    assert doctor.as_text(whole).splitlines()[-1].startswith("ready")
    whole["versions"]["h5py"] = None
    whole["torch"] = {"version": None, "problem": "ImportError: libcudart"}
    whole["memory"]["limit_bytes"] = 2**29
    whole["folders"]["working"]["writable"] = False
    whole["folders"]["temporary"]["free_bytes"] = 5
    said = "\n".join(doctor.verdict(whole))
    for words in ("to mend", "pip install h5py", "libcudart", "0.5 GiB of memory", "-o", "TMPDIR"):
        assert words in said


def test_doctor_measures_a_step_of_each_model(capsys, monkeypatch):
    from mocli.cli import doctor

    times = doctor.step_times("cpu", models=("multigrate", "otcca", "scmodal"), n_cells=60, steps=2)
    solved = times["models"]["otcca"]
    assert (solved["steps"], "ms_per_step" in solved) == (0, False), "a closed form has no steps"
    assert all(entry["ms_per_step"] >= 0 for entry in times["models"].values() if entry is not solved)
    assert all(entry["train_s"] > 0 for entry in times["models"].values())
    monkeypatch.setattr(
        doctor, "step_times", lambda device: {**times, "device": {"used": device, "name": "x"}}
    )
    text = out(capsys, "doctor", "--bench", "--device", "cpu")
    assert "ms a step" in text
    assert "scmodal" in text


def test_doctor_survives_a_broken_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = json.loads(out(capsys, "doctor", "--json"))
    assert found["torch"]["version"] is None
    assert "problem" in found["torch"]


def test_versions_yml(capsys):
    block = yaml.safe_load(out(capsys, "doctor", "--versions-yml", "NFCORE:MOCLI"))
    assert list(block) == ["NFCORE:MOCLI"]
    assert block["NFCORE:MOCLI"]["mocli"] == __version__
    assert set(block["NFCORE:MOCLI"]) >= {"python", "torch", "anndata", "h5py"}


def test_tables_align_and_never_cut():
    text = table(("a", "bb"), [["long cell", 1], ["x", "y" * 300]])
    first, second, third = text.splitlines()
    assert first.index("bb") == second.index("1") == third.index("y")
    assert third.endswith("y" * 300)


def test_a_closed_form_has_no_time_per_step_and_the_table_says_why(monkeypatch, capsys):
    from mocli.cli import doctor

    times = doctor.step_times("cpu", models=["otcca"], n_cells=60)
    monkeypatch.setattr(doctor, "step_times", lambda _: times)
    assert main(["doctor", "--bench"]) == 0
    assert "otcca: closed form, no steps" in capsys.readouterr().out
