import json
import math
import os
import shutil
import stat
import subprocess
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

from mocli.errors import EnvironmentProblem, InputError, Interrupted, NumericalError, OutOfMemory
from mocli.report.figures import column_table, figure, table
from mocli.report.file import Report, dumps, load_schema, plain, validate

SHA = "0123456789abcdef" * 4


def full_report() -> Report:
    curve = {"step": [1.0, 2.0], "value": [3.0, math.nan]}
    metric = {"value": np.float32(0.62), "better": "higher", "range": [0, math.inf], "n": np.int64(9)}
    metric |= {"title": "Accuracy", "definition": "d", "sentence": "s"}
    return Report(
        command=["mocli", "integrate", "a b.h5mu"],
        task="integrate",
        inputs=[{"path": "a b.h5mu", "sha256": SHA, "modality": "rna", "kind": "rna", "n_obs": 3,
                 "n_vars": 4}],
        outputs=[{"path": "out/run1.h5mu", "what": "cells", "bytes": 10, "sha256": SHA}],
        links=[{"path": "l.tsv", "source": "rna", "target": "prot", "n_read": 3, "n_matched": 2,
                "n_columns": 2, "n_source_matched": 2, "n_target_matched": 2, "unmatched_examples": ["X"]}],
        model={"name": "toy", "params": {"lr": 1e-3, "sizes": (1, 2), "clip": None}},
        training={"phases": [{"name": "train", "steps": 2, "stop_reason": "steps"}], "steps": 2,
                  "losses": {"train": {"kl": {"first": 3.0, "last": math.nan, "min": 3.0}}},
                  "history": {"train": {"kl": curve}}},
        device={"requested": "auto", "used": "cpu", "threads": 2},
        timing={"train_s": 0.5},
        seed=0,
        determinism={"level": "bitwise", "latent_sha256": SHA},
        metrics={"accuracy[rna->prot]": metric, "undefined": metric | {"value": math.nan, "range": None}},
        baselines={"links": {"title": "links", "definition": "d", "metrics": {"undefined": metric}}},
        warnings=["careful"],
        versions={"numpy": "2"},
    )  # fmt: skip


def as_read(report: Report) -> dict:
    return json.loads(report.to_json())


def test_the_schema_is_itself_valid() -> None:
    Draft202012Validator.check_schema(load_schema())


def test_full_and_minimal_reports_validate_and_have_the_same_keys() -> None:
    full, least = as_read(full_report()), as_read(Report(command=["mocli"], task="integrate"))
    validate(full)
    validate(least)
    assert full.keys() == least.keys() == set(load_schema()["required"])


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InputError("bad", file=Path("x.h5ad"), hint="mend"), "error", 3),
        (NumericalError("not finite", term="kl", step=3), "diverged", 5),
        (OutOfMemory("full"), "error", 137),
        (Interrupted(15, "stopped"), "interrupted", 143),
        (KeyboardInterrupt(), "interrupted", 130),
        (MemoryError(), "error", 137),
        (ValueError("oops"), "error", 1),
    ],
)
def test_a_failed_run_has_a_valid_report(error: BaseException, status: str, code: int) -> None:
    report = Report(command=["mocli"], task="integrate")
    report.fail(error)
    read = as_read(report)
    validate(read)
    assert read["status"] == status
    assert read["error"]["exit_code"] == code
    assert read["error"]["failed_term"] == ("kl" if status == "diverged" else None)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.update(surprise=1),
        lambda r: r.pop("metrics"),
        lambda r: r.update(status="fine"),
        lambda r: r.update(status="error"),  # without saying which
        lambda r: r["inputs"][0].update(n_obs="3"),
        lambda r: r["inputs"][0].update(extra=1),
        lambda r: r["outputs"][0].update(sha256="abc"),
        lambda r: r["metrics"]["undefined"].update(better="bigger"),
        lambda r: r["training"]["history"].update(kl={"step": [], "value": []}),  # no phase
    ],
)
def test_the_schema_is_strict(spoil) -> None:
    read = as_read(full_report())
    spoil(read)
    with pytest.raises(ValidationError):
        validate(read)


def test_numbers_are_numbers_and_keys_are_sorted() -> None:
    text = full_report().to_json()
    assert "NaN" not in text
    assert "Infinity" not in text

    def check(pairs: list) -> dict:
        keys = [key for key, _ in pairs]
        assert keys == sorted(keys)
        return dict(pairs)

    read = json.loads(text, object_pairs_hook=check)
    assert read["metrics"]["accuracy[rna->prot]"]["value"] == 0.62  # not 0.6200000047683716
    assert read["metrics"]["accuracy[rna->prot]"]["range"] == [0, None]
    assert read["metrics"]["undefined"]["value"] is None
    assert read["training"]["history"]["train"]["kl"]["value"] == [3.0, None]
    assert '"value": [3.0, null]' in text


def test_plain_knows_what_runs_collect() -> None:
    class Kind(StrEnum):
        RNA = "rna"

    values = {
        Kind.RNA: np.arange(3), 1: {"b", "a"}, "path": Path("x/y"), "flag": np.bool_(True),
        "nan": np.float32("nan"), "zero": np.array(2.5), "half": np.float16(0.1), "kind": Kind.RNA,
    }  # fmt: skip
    assert plain(values) == {
        "rna": [0, 1, 2], "1": ["a", "b"], "path": "x/y", "flag": True,
        "nan": None, "zero": 2.5, "half": 0.1, "kind": "rna",
    }  # fmt: skip
    assert type(plain(np.bool_(True))) is bool
    with pytest.raises(TypeError, match="object"):
        plain(object())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=40, deadline=None)
@given(JSON_VALUES)
def test_dumps_keeps_json_as_it_is(value) -> None:
    assert json.loads(dumps(value)) == value


def test_multiqc_gets_one_row_of_numbers_under_a_clean_name() -> None:
    read = as_read(full_report())
    assert read["id"] == "mocli_integrate"
    assert read["data"] == {"run1 (out)": {"status": "ok", "steps": 2, "accuracy": 0.62}}
    assert read["headers"]["accuracy"]["format"] == "{:,.3f}"
    failed = Report(command=["mocli"], task="integrate", inputs=[{"path": "d/two.h5ad.gz"}])
    failed.fail(InputError("bad"))
    assert as_read(failed)["data"] == {"two": {"status": "error"}}
    # MultiQC takes columns from the last file alone: those of a failed run are those of all
    assert {"status", "scib_total", "foscttm"} <= as_read(failed)["headers"].keys()


def test_multiqc_gets_few_leading_columns_and_no_markup() -> None:
    name = "<img src=x onerror=alert(1)>"
    figures = {f"foscttm[{name},{pair}]": figure(v, "FOSCTTM", "d") for pair, v in (("a", 0.2), ("b", 0.4))}
    figures |= {f"other{k}": figure(0.5, "other", "d") for k in range(30)}
    report = Report(command=["mocli"], task="integrate", metrics=figures)
    report.outputs = [{"path": f"runs/a/{name}.h5mu", "what": "w"}]
    read = as_read(report)
    ((sample, row),) = read["data"].items()
    assert sample.startswith("&lt;img")
    assert sample.endswith("(runs a)")
    assert row == {"status": "ok", "foscttm": pytest.approx(0.3)}
    for key in ("id", "section_name", "description", "headers", "data", "pconfig"):
        assert "<" not in json.dumps(read[key])


@pytest.mark.slow
def test_multiqc_itself_makes_one_table_of_runs(tmp_path: Path) -> None:
    program = shutil.which("multiqc")
    if program is None:
        pytest.skip("multiqc is not installed")
    for folder, score in (("a", 0.123456), ("b", 0.5), ("c", None)):
        (tmp_path / folder).mkdir()
        metrics = {} if score is None else {"scib_total": figure(score, "scIB total", "d")}
        report = Report(command=["mocli"], task="integrate", metrics=metrics)
        report.outputs = [{"path": f"{folder}/out.h5mu", "what": "w"}]
        if score is None:
            report.fail(InputError("bad"))
        report.write_multiqc(tmp_path / folder / "out_mqc.json")
    subprocess.run([program, ".", "--no-ansi"], cwd=tmp_path, check=True, capture_output=True)
    table = (tmp_path / "multiqc_data" / "multiqc_mocli_integrate_table.txt").read_text().splitlines()
    header, *lines = (line.split("\t") for line in table)
    rows = {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines}
    assert {name: (row["status"], row["scib_total"]) for name, row in rows.items()} == {
        "out (a)": ("ok", "0.123456"),
        "out (b)": ("ok", "0.5"),
        "out (c)": ("error", ""),
    }
    page = (tmp_path / "multiqc_report.html").read_text()
    assert "0.123" in page
    assert "scIB total" in page


def test_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    target.write_text("old")
    full_report().write(target)
    validate(json.loads(target.read_text(encoding="utf-8")))
    assert list(tmp_path.iterdir()) == [target]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "r.json"
    target.write_text("old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        full_report().write(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_write_to_an_absent_folder_is_the_environments_fault(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot write the report"):
        full_report().write(tmp_path / "absent" / "r.json")


def test_links_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    real, link, pipe = tmp_path / "real.json", tmp_path / "link.json", tmp_path / "pipe"
    real.write_text("old")
    link.symlink_to(real)
    full_report().write(link)
    assert link.is_symlink()
    assert json.loads(real.read_text(encoding="utf-8"))["task"] == "integrate"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        Report(command=["mocli"], task="t").write(pipe)
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert json.loads(os.read(reader, 1 << 16))["task"] == "t"
    finally:
        os.close(reader)


def test_file_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.h5ad")
    report = Report(command=["mocli", name], task="integrate", inputs=[{"path": name}])
    report.write(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_bytes())["command"][1] == name


def test_a_figure_has_every_key_of_a_metric_and_void_values_are_null() -> None:
    made = figure(math.nan, "title", "definition", bounds=(0.0, math.inf))
    assert set(made) == set(load_schema()["$defs"]["metric"]["properties"])
    assert made["value"] is None
    assert made["range"] == [0.0, None]


def test_tables_are_made_of_rows_or_of_columns() -> None:
    columns = {"a": ["x", "y"], "b": np.array([1.23456789, np.nan]), "c": np.array([1, 2])}
    made = column_table("title", "sentence", columns)
    assert made == table(
        "title", "sentence", ["a", "b", "c"], [["x", 1.23457, math.nan], ("y", None, 1 + 1)]
    ) | {"rows": [["x", 1.23457, 1], ["y", None, 2]]}
    assert all(type(value) is int for value in (row[2] for row in made["rows"]))
