"""A terminal shows the leading metrics, the report all."""

from types import SimpleNamespace

from mocli.metrics.registry import available_metrics
from mocli.tasks.score.evaluate import MAX_LINES, Judge, describe_scores


def told(metrics, baselines=None):
    lines = []
    run = SimpleNamespace(report=SimpleNamespace(), say=lines.append)
    describe_scores(run, SimpleNamespace(metrics=metrics, baselines=baselines or {}))
    assert run.report.metrics is metrics
    return lines


def entries(*keys, value=0.5):
    return {key: {"value": value, "better": "higher"} for key in keys}


def test_totals_come_first_and_the_rest_is_counted():
    lines = told(entries(*available_metrics()))
    assert [line.split()[0] for line in lines[:3]] == ["scib_total", "scib_batch", "scib_bio"]
    assert len(lines) <= MAX_LINES + 1
    n_more = len(available_metrics()) - len(lines) + 1
    assert lines[-1] == f"  {n_more} more metrics are in the report"


def test_many_directions_do_not_fill_the_screen():
    keys = [f"label_transfer[{a}->{b}]" for a in "abcd" for b in "abcd" if a != b]
    lines = told(entries("scib_bio", *keys, "mixing"))
    assert len(lines) == MAX_LINES + 1
    assert lines[0].startswith("  scib_bio")
    assert lines[-1] == "  2 more metrics are in the report"


def test_baselines_stand_beside_and_what_is_undefined_is_left_out():
    metrics = entries("kbet") | entries("foscttm", value=None)
    base = {"b": {"title": "links", "metrics": entries("kbet", value=0.25)}}
    assert told(metrics, base) == ["  kbet 0.500 (higher is better; links 0.250)"]


def test_a_simple_way_that_is_better_is_named_and_warned_of_where_it_mostly_is():
    metrics = entries("scib_bio", "kbet", "mixing")
    lines, warned = [], []
    run = SimpleNamespace(report=SimpleNamespace(), say=lines.append, warn=warned.append)

    def described(**values):
        base = {"metrics": {k: {"value": v, "better": "higher"} for k, v in values.items()}, "title": "links"}
        describe_scores(run, SimpleNamespace(metrics=metrics, baselines={"b": base}))

    described(scib_bio=0.6, kbet=0.4, mixing=0.4)
    assert "'links', which needs no training, is better in 1 of 3 leading metrics (scib_bio)" in lines[-1]
    assert not warned
    described(scib_bio=0.6, kbet=0.6, mixing=12.5)
    assert "is better in 3 of 3 leading metrics" in warned[-1]
    assert any("links 12.5)" in line for line in lines)
    n = len(lines)
    described(scib_bio=0.50001, kbet=0.4, mixing=0.4)  # shown as equal
    assert len(lines) == n + 3


def test_without_a_leading_metric_the_others_are_shown():
    assert told(entries("clisi")) == ["  clisi 0.500 (higher is better)"]


def test_what_was_not_measured_is_not_said():
    said = []
    assert Judge(names=[], say=said.append)("the model", SimpleNamespace()) == {}
    assert said == []
