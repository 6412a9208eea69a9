"""A benchmark whose only model failed does not end as if all were well."""

import json
from dataclasses import replace

import pytest

from mocli.errors import MocliError
from mocli.tasks.benchmark.runs import ModelRun, raise_failed
from mocli.tasks.run.request import origin_of, requested
from mocli.types import Task


@pytest.fixture
def training(tmp_path):
    request = requested("a.h5mu", output="o.h5mu")

    def make(model, seed, status, *, code=3, study=""):
        folder = tmp_path / f"{model}-{seed}{study}"
        folder.mkdir()
        error = None
        if status == "error":
            error = {"kind": "input", "message": "no links matched", "hint": "look", "exit_code": code}
        if status is not None:
            origin = origin_of("integrate", request.groups)
            text = json.dumps({"status": status, "error": error, "made_from": origin})
            (folder / "out.report.json").write_text(text)
        return ModelRun(Task.INTEGRATE, model, seed, study, folder, request)

    return make


def test_the_code_is_that_of_the_failure(training):
    runs = [training("scmodal", 0, "error"), training("scmodal", 1, "error", code=5)]
    with pytest.raises(MocliError, match="no run of scmodal ended well: no links matched") as caught:
        raise_failed(runs, ())
    assert (caught.value.exit_code, caught.value.kind) == (3, "input")


def test_a_model_that_was_named_must_end_once(training):
    runs = [training("scmodal", 0, "error"), training("sccross", 0, "ok")]
    raise_failed(runs, ())
    raise_failed([*runs, training("scmodal", 1, "ok")], ("scmodal", "sccross"))
    with pytest.raises(MocliError, match="scmodal"):
        raise_failed(runs, ("scmodal", "sccross"))


def test_runs_without_a_report_and_studies(training):
    with pytest.raises(MocliError) as caught:
        raise_failed([training("scmodal", 0, None)], ())
    assert caught.value.exit_code == 1
    raise_failed([training("scmodal", 2, "ok"), training("scmodal", 2, "error", study="x")], ())
    raise_failed([], ())


@pytest.mark.parametrize("unless_done", [True, False])
def test_a_run_that_is_done_again_is_not_scored_by_what_was_there(training, unless_done):
    run = training("scmodal", 0, "ok")
    request = replace(run.request, output=replace(run.request.output, unless_done=unless_done))
    run = replace(run, request=request)
    run.begin()
    assert (run.report() is not None) is unless_done
