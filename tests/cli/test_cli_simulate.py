"""`mocli simulate` in the shell: what it needs, what it refuses, with which exit code."""

import json

import pytest

from mocli.__main__ import main


@pytest.fixture(scope="module")
def model(paired, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    words = [
        "integrate",
        paired / "data.h5mu",
        "-m",
        "multigrate",
        "--label-key",
        "cell_type",
        "--max-steps",
        "3",
    ]
    sizes = ["-s", "n_hidden=8", "--n-latent", "3", "--likelihood", "prot=nb", "--no-html", "--device", "cpu"]
    assert main([*map(str, words), *sizes, "-o", str(folder / "out.h5mu")]) == 0
    return folder / "out.model"


def simulate(model, output, *words):
    given = [
        "simulate",
        "--from-model",
        str(model),
        "-o",
        str(output),
        "--no-html",
        "--device",
        "cpu",
        *words,
    ]
    return main(given)


def test_a_model_is_all_it_needs(model, tmp_path, capsys):
    out = tmp_path / "sim.h5mu"
    assert (
        simulate(model, out, "--label", "cell_type=type1", "--label", "cell_type=type2", "--fold", "2") == 0
    )
    report = json.loads(out.with_suffix(".report.json").read_text())
    assert [row[0] for row in report["tables"]["simulated"]["rows"]] == ["type1", "type2"]
    assert [row[2] for row in report["tables"]["simulated"]["rows"]] == [40, 40]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fold", "0"], "--fold must be above"),
        (["--n-cells", "-3"], "--n-cells must be above"),
        (["--label", "cell_type=typ1"], "did you mean 'type1'"),
        (["--mode", "middle"], "--mode"),
        (["--library", "0"], "--library"),
    ],
)
def test_usage_errors(model, tmp_path, capsys, words, said):
    assert simulate(model, tmp_path / "o.h5mu", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.h5mu").exists()


def test_nothing_to_simulate_from(tmp_path, capsys):
    assert main(["simulate", "-o", str(tmp_path / "o.h5mu")]) == 2
    assert "neither a model nor an input" in capsys.readouterr().err
    assert main(["simulate", "--from-model", str(tmp_path), "-o", str(tmp_path / "o.h5mu")]) == 3
