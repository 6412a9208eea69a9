"""A result is taken for done only where the same would be made again, and all of it is there."""

import pytest

from mocli.models.scmodal import params
from mocli.tasks.impute.options import ImputeOptions
from mocli.tasks.run.request import is_whole, origin_of, requested


@pytest.fixture
def origin(tmp_path):
    def make(*more, **given):
        request = requested([], output=tmp_path / "out.h5mu", **given)
        return origin_of("impute", (*request.groups, *more))

    return make


@pytest.mark.parametrize(("model", "counts"), [("scmodal", True), ("auto", True), ("sccross", False)])
def test_another_default_of_the_model_makes_another_result(origin, monkeypatch, model, counts):
    before = origin(model=model)
    assert before == origin(model=model)
    monkeypatch.setattr(params, "PRESETS", {"auto": {"n_latent": 7}})
    assert (origin(model=model) != before) is counts


def test_a_trained_model_keeps_its_own(origin, monkeypatch, tmp_path):
    taken = ImputeOptions("rna", "prot", from_model=tmp_path / "a.model")
    before = origin(taken)
    monkeypatch.setattr(params, "PRESETS", {"auto": {"n_latent": 7}})
    assert origin(taken) == before


def test_the_default_of_an_option_counts(origin, monkeypatch):
    before = origin()
    monkeypatch.setattr("mocli.tasks.run.request.plain", lambda value: None if value is True else value)
    assert origin()["words"] == before["words"]
    assert origin() != before


def test_a_file_that_cannot_be_read_is_the_run_s_to_tell(origin, monkeypatch, tmp_path):
    cells = tmp_path / "cells.txt"
    cells.write_text("a")
    assert origin(only_cells=cells)["files"][str(cells)] is not None

    def refuse(path):
        raise PermissionError(13, "denied", str(path))

    monkeypatch.setattr("mocli.tasks.run.request.sha256", refuse)
    assert origin(only_cells=cells)["files"] == {str(cells): None}


def test_every_file_of_a_result_must_be_there(tmp_path):
    output, folder = tmp_path / "out.h5ad", tmp_path / "out.model"
    folder.mkdir()
    output.write_text("1234")
    (folder / "weights").write_text("56")
    outputs = [{"path": str(output), "bytes": 4}, {"path": str(folder), "bytes": 2}]
    report = {"status": "ok", "made_from": {"files": {}}, "outputs": outputs}
    assert is_whole(report, output)
    (folder / "weights").unlink()
    assert not is_whole(report, output)
    assert not is_whole({**report, "outputs": outputs[1:]}, output)
    assert not is_whole({**report, "status": "error"}, output)
