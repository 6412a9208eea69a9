"""Command line > environment > config file > default, and the printed configuration."""

import inspect
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from mocli import log
from mocli.__main__ import main
from mocli.cli.app import subcommand
from mocli.options import signature_of
from mocli.tasks.integrate.options import IntegrateOptions
from mocli.tasks.run.request import SHARED
from mocli.types import Task


@pytest.fixture(autouse=True)
def quiet_after():
    yield
    log.teardown()


@pytest.fixture
def task(monkeypatch):
    """A stand-in for the task: records what it was given."""
    calls = []

    def integrate(inputs, **arguments):
        calls.append(SimpleNamespace(inputs=inputs, **arguments))
        return SimpleNamespace(output=Path("o.h5mu"), report={}, plan=["would write o.h5mu"], files=[])

    module = ModuleType("mocli.tasks.integrate.integrate")
    module.integrate = integrate
    monkeypatch.setitem(sys.modules, "mocli.tasks.integrate.integrate", module)
    return calls


def run(task, *args):
    assert main(["integrate", *args]) == 0
    return task[-1]


@pytest.fixture
def config(tmp_path):
    def write(text):
        file = tmp_path / "run.yaml"
        file.write_text(text)
        return str(file)

    return write


BASE = ("a.h5ad", "b.h5ad", "-o", "out.h5mu")


def test_defaults_reach_the_task(task):
    got = run(task, *BASE)
    assert got.inputs == ["a.h5ad", "b.h5ad"]
    assert got.output == Path("out.h5mu")
    assert (got.seed, got.model, got.preset, got.device, got.resume) == (0, "auto", "auto", "auto", "auto")
    assert (got.links, got.layer, got.params, got.n_latent, got.report) == ([], {}, {}, None, None)
    assert (got.checkpoint_every, got.max_time) == ("10m", None)
    assert (got.html, got.provenance, got.force, got.dry_run) == (True, True, False, False)
    assert got.command == ["mocli", "integrate", *BASE]


def test_the_task_has_every_argument_the_command_gives(task):
    got = run(task, *BASE)
    groups = (*SHARED, IntegrateOptions)
    assert set(vars(got)) == set(signature_of(groups).parameters)


def test_options_stand_anywhere_and_parse(task):
    got = run(
        task,
        "--seed",
        "3",
        "rna=a.h5ad",
        "-s",
        "weight_mnn=1e-1",
        "--layer",
        "rna=counts",
        "b.h5mu::prot",
        "--layer=prot=X",
        "-o",
        "out.h5mu",
        "--hvg",
        "rna=2000",
        "--kind",
        "b=cyto",
        "--links",
        "x.tsv",
        "--links",
        "y.tsv",
        "--max-time",
        "3h50m",
        "--checkpoint-every",
        "90",
        "-s",
        "init=kaiming",
        "-s",
        "clip_norm=none",
        "--no-html",
        "--no-provenance",
        "-f",
    )
    assert got.inputs == ["rna=a.h5ad", "b.h5mu::prot"]
    assert got.layer == {"rna": "counts", "prot": "X"}
    assert (got.hvg, got.kind, got.links) == ({"rna": 2000}, {"b": "cyto"}, ["x.tsv", "y.tsv"])
    assert got.params == {"weight_mnn": 0.1, "init": "kaiming", "clip_norm": None}
    assert (got.max_time, got.checkpoint_every) == ("3h50m", "90")
    assert (got.html, got.provenance, got.force) == (False, False, True)


@pytest.mark.parametrize(
    ("layers", "seed"),
    [
        ({}, 0),
        ({"config"}, 1),
        ({"config", "environment"}, 2),
        ({"environment"}, 2),
        ({"config", "environment", "line"}, 3),
        ({"config", "line"}, 3),
    ],
)
def test_precedence(task, config, monkeypatch, layers, seed):
    args = list(BASE)
    if "config" in layers:
        args += ["-c", config("seed: 1\n")]
    if "environment" in layers:
        monkeypatch.setenv("MOCLI_SEED", "2")
    if "line" in layers:
        args += ["--seed", "3"]
    assert run(task, *args).seed == seed


def test_mappings_merge_key_by_key(task, config, monkeypatch):
    file = config("set: {weight_mnn: 1, weight_cycle: 1, weight_geometry: 1e-1}\nlayer: {rna: a, prot: a}\n")
    monkeypatch.setenv("MOCLI_SET", "weight_cycle=2 n_hidden=7")
    got = run(task, *BASE, "-c", file, "--set", "n_hidden=8", "--layer", "prot=b")
    assert got.params == {"weight_mnn": 1, "weight_cycle": 2, "weight_geometry": 0.1, "n_hidden": 8}
    assert got.layer == {"rna": "a", "prot": "b"}


def test_the_environment_names_a_config(task, config, monkeypatch):
    monkeypatch.setenv("MOCLI_CONFIG", config("seed: 5"))
    assert run(task, *BASE).seed == 5


def test_config_takes_dashes_underscores_and_the_negative(task, config):
    file = config(
        "inputs: [a.h5ad, b.h5ad]\noutput: o.h5mu\nbatch-key: donor\nlabel_key: cell_type\nno-html: true\n"
        "provenance: false\nlinks: l.tsv\nlr: 1e-4\nmax-time: 1:30:00\nthreads:\nverbose: 1\numap: yes\n"
    )
    got = run(task, "-c", file)
    assert got.inputs == ["a.h5ad", "b.h5ad"]
    assert (got.batch_key, got.label_key, got.html, got.provenance) == ("donor", "cell_type", False, False)
    assert (got.links, got.lr, got.max_time, got.threads, got.umap) == (["l.tsv"], 1e-4, "5400", None, True)


def test_lists_are_replaced_not_joined(task, config):
    got = run(task, "c.h5mu", "-c", config("inputs: [a, b]\nlinks: [x, y]\noutput: o.h5mu"), "--links", "z")
    assert (got.inputs, got.links) == (["c.h5mu"], ["z"])


def test_set_and_option_for_one_hyperparameter(task, config, capsys):
    file = config("set: {lr: 0.5, batch_size: 7}\n")
    got = run(task, *BASE, "-c", file, "--lr", "0.1")
    assert (got.lr, got.params) == (0.1, {"batch_size": 7})
    got = run(task, *BASE, "-c", config("lr: 0.5\n"), "-s", "lr=0.1")
    assert (got.lr, got.params) == (None, {"lr": 0.1})
    assert main(["integrate", *BASE, "--lr", "1", "-s", "lr=2"]) == 2
    assert "keep one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sede: 1", "did you mean 'seed'"),
        ("layers: {rna: X}", "did you mean 'layer'"),
        ("dry-run: true", "unknown key"),
        ("- seed", "a list"),
        ("seed: [1, 2]", "takes one value"),
        ("seed: one", "config file"),
        ("seed: -1", "config file"),
        ("preset: papr", "did you mean 'paper'"),
        ("layer: counts", "takes a mapping"),
        ("layer: {rna: null}", "takes text"),
        ("hvg: {rna: many}", "whole number"),
        ("kind: {rna: protein}", "did you mean 'prot'"),
        ("batch-key: no", "put the value in quotes"),
        ("html: maybe", "true or false"),
        ("seed: 1\n\tx: 2", "line 2"),
    ],
)
def test_bad_config_is_a_usage_error(task, config, capsys, text, complaint):
    assert main(["integrate", *BASE, "-c", config(text)]) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.out == ""
    assert task == []


@pytest.mark.parametrize(
    "text",
    [
        "seed: " + "[" * 3000,
        "- " * 3000 + "x",
        "a: &a [x, x]\nb: &b [*a, *a]",
        "# " + "x" * 1_000_001,
        "{" * 100,
    ],
)
def test_a_config_that_would_cost_memory_is_refused(task, config, capsys, text):
    assert main(["integrate", *BASE, "-c", config(text)]) == 2
    assert "config file" in capsys.readouterr().err


def test_an_absent_config_is_a_usage_error(task, tmp_path, capsys):
    assert main(["integrate", *BASE, "-c", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml" in capsys.readouterr().err


def printed(capsys, *args):
    assert main(["integrate", *args, "--print-config"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_print_config_names_every_origin(task, config, monkeypatch, capsys):
    monkeypatch.setenv("MOCLI_DEVICE", "cpu")
    file = config("preset: paper\nset: {weight_mnn: 2}\n")
    text = printed(capsys, *BASE, "-c", file, "--seed", "4", "-s", "n_hidden=9", "--layer", "rna=the counts")
    lines = text.splitlines()
    assert "seed: 4  # command line" in lines
    assert "device: cpu  # environment MOCLI_DEVICE" in lines
    assert f"preset: paper  # config file {file}" in lines
    assert "pairing: auto  # default" in lines
    assert f"  weight_mnn: 2  # config file {file}" in lines
    assert "  n_hidden: 9  # command line" in lines
    assert "  rna: the counts  # command line" in lines
    assert all("  # " in line for line in lines if not line.endswith(":"))
    assert task == []


@pytest.mark.parametrize("model", ["auto", "scmodal"])
def test_print_config_round_trips(task, config, capsys, model):
    args = [
        "rna=a b.h5ad",
        "c.h5mu::prot",
        "-o",
        "out.h5mu",
        "-m",
        model,
        "--seed",
        "4",
        "-s",
        "weight_mnn=1e-3",
        "--layer",
        "rna=no",
        "--max-time",
        "3:50:00",
        "--batch-key",
        "# donor: 1",
        "--hvg",
        "rna=2000",
        "--lr",
        "1e-5",
        "--report",
        "-",
        "--links",
        "-",
        "--no-html",
        "-qq",
        "--checkpoint-dir",
        "some dir",
    ]
    first = printed(capsys, *args)
    again = printed(capsys, "-c", config(first))
    assert yaml.safe_load(again) == yaml.safe_load(first)
    assert {**yaml.safe_load(first)} | {"seed": 4, "lr": 1e-5, "model": model} == yaml.safe_load(first)


def test_print_config_of_a_model_shows_its_hyperparameters(task, capsys):
    from mocli.models.registry import describe, traits_of

    text = printed(capsys, *BASE, "-m", "scmodal", "-s", "weight_mnn=3", "--batch-size", "64")
    content = yaml.safe_load(text)
    defaults = {e["name"]: e["default"] for e in describe(traits_of("scmodal"))}
    assert {
        **content["set"],
        **{k: content[k.replace("_", "-")] for k in ("n_latent", "batch_size", "lr")},
    } == {**defaults, "weight_mnn": 3, "batch_size": 64}
    assert "# default of scmodal" in text


@pytest.mark.parametrize("name", ["auto", "best"])
def test_print_config_of_a_model_that_the_run_chooses_has_no_hyperparameters(task, capsys, name):
    content = yaml.safe_load(printed(capsys, *BASE, "-m", name, "-s", "weight_mnn=3"))
    assert (content["model"], content["set"], content["lr"]) == (name, {"weight_mnn": 3}, None)


def test_print_config_refuses_a_wrong_hyperparameter(task, capsys):
    assert main(["integrate", *BASE, "-m", "scmodal", "-s", "weight_mn=3", "--print-config"]) == 2
    captured = capsys.readouterr()
    assert "weight_mnn" in captured.err
    assert captured.out == ""


def test_print_config_without_inputs_is_a_template(task, capsys):
    content = yaml.safe_load(printed(capsys))
    assert content["inputs"] is None
    assert content["output"] is None


def test_a_misspelt_variable_is_named(task, monkeypatch, capsys):
    monkeypatch.setenv("MOCLI_SEEED", "1")
    run(task, *BASE)
    assert "did you mean 'MOCLI_SEED'" in capsys.readouterr().err


def test_the_decorated_command_keeps_its_help():
    for name in Task:
        command = subcommand(name)
        assert command.__name__ == name
        assert "For example: mocli" in command.__doc__
        assert "output" in inspect.signature(command).parameters


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (["simulate", "--mode", "mean"], "--places mean"),
        (["impute", "--relations"], "gene2peak --method correlation"),
        (["impute", "--gtf", "genes.gtf"], "gene2peak --method correlation"),
    ],
)
def test_options_of_earlier_versions_name_what_replaces_them(words, new, config, capsys):
    assert main([*words, *BASE]) == 2
    assert new in capsys.readouterr().err
    text = f"{words[1].removeprefix('--')}: x"
    assert main([words[0], *BASE, "-c", config(text)]) == 2
    assert new in capsys.readouterr().err


def test_a_number_or_none_is_taken_from_the_command_line(task, capsys):
    for word in ("none", "0.5"):
        assert run(task, *BASE, "--clusters", word).clusters == word
    assert main(["integrate", *BASE, "--clusters", "some"]) == 2
    assert "--clusters" in capsys.readouterr().err
