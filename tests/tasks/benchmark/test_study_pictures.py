"""Pictures of studies where some metrics, or all, are lacking."""

from mocli.report.plots import Curve, curves
from mocli.tasks.benchmark.page import studies
from mocli.tasks.benchmark.table import Record

LEADING = (
    "discriminability",
    "marker_overlap",
    "nearest_label",
    "feature_correlation",
    "mean_correlation",
    "variance_ratio",
)


def record(study, key, value):
    return Record("integrate", "scmodal", "model", 0, study, "ok", key, value, "higher", 9, key)


def test_a_study_without_any_of_the_leading_metrics_is_not_drawn():
    first = [record(f"panel={n}", key, 0.5) for n in (30, 60) for key in LEADING]
    other = [record(f"corrupt={share}", "label_f1[T]", 0.5) for share in (0.1, 0.3)]
    swept = {("integrate", "scmodal", f"lr={x}"): {"lr": x} for x in (1, 2)}
    grid = [record(f"lr={x}", "label_f1[T]", 0.5) for x in (1, 2)]
    assert [d.title for d in studies([*first, *other, *grid], swept)] == [
        "integrate: linked features, drawn at random"
    ]


def test_a_share_of_nothing_is_drawn():
    assert "<svg" in curves([("F1", [Curve("a", {0.0: [0.5], 0.3: [0.4]})])], "Share of wrong links")
