import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mocli.errors import InputError, Interrupted, NumericalError
from mocli.report import figures, html
from mocli.report.drawing import wrapped
from mocli.report.figures import figure, spoken, table
from mocli.report.file import Report
from mocli.report.ranking import compare, metric_title

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.inside: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data
        for tag in self._open:
            self.inside.setdefault(tag, []).append(data)


def metric(value, better="higher", **more):
    entry = {
        "value": value,
        "better": better,
        "range": [0, 1],
        "n": 10,
        "title": "",
        "definition": "D",
        "sentence": "S",
    }
    return entry | more


def report(hostile: str = "plain") -> Report:
    history = {"train": {hostile: {"step": [1, 2, 3], "value": [3.0, 2.0, None]}}}
    metrics = {f"m[{hostile}]": metric(0.5, title=hostile, sentence=hostile, definition=hostile)}
    sha = "a" * 64
    return Report(
        command=["mocli", "integrate", hostile, "it's", "a b"],
        task="integrate",
        inputs=[{"path": hostile, "modality": hostile, "kind": "rna", "n_obs": 1234, "n_vars": 5,
                 "transform": hostile}],
        links=[{"path": hostile, "source": hostile, "target": "prot", "n_read": 52, "n_matched": 47,
                "n_columns": 44, "n_source_matched": 46, "n_target_matched": 44,
                "unmatched_examples": [hostile, "CD45RA"]}],
        model={"name": "toy", "title": hostile, "doi": "10.1/x" + hostile, "params": {hostile: hostile},
               "reason": hostile},
        training={"steps": 3, "stop_reason": "plateau", "history": history, "resumed_from_step": 2,
                  "phases": [{"name": hostile, "steps": 1}, {"name": "b", "steps": 2}],
                  "losses": {"train": {hostile: {"first": 3.0, "last": 2.0, "min": 2.0}}}},
        outputs=[{"path": hostile, "what": hostile, "bytes": 183_000_111, "sha256": sha},
                 {"path": "m", "what": "model", "bytes": 10, "files": {hostile: sha}}],
        device={"requested": "auto", "used": "cpu", "name": hostile, "peak_memory_bytes": 2_000_000_000},
        timing={"train_s": 192.0, "total_s": 300.0},
        metrics=metrics,
        baselines={"b": {"title": hostile, "definition": hostile, "metrics": metrics}},
        warnings=[hostile],
        versions={hostile: hostile},
        started="2026-01-02T03:04:05Z",
        sample=hostile,
    )  # fmt: skip


def layout(n: int = 60, hostile: str = "T cell") -> html.Layout:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, n)
    categories = {
        "modality": (codes, ("rna", hostile)),
        "label (type)": (rng.integers(-1, 12, n), [hostile, *map(str, range(11))]),
        "batch (donor)": (codes, ["d1", "d2"]),
    }
    return html.Layout("UMAP of the latent", rng.normal(size=(n, 2)).astype(np.float32), categories)


CONFUSION = {"rna->prot": (np.array([[5, 1], [0, 4]]), ["a", "b"], ["a", "b"])}


def test_the_page_is_one_file_without_scripts() -> None:
    text = html.render(report(), layout=layout(), confusion=CONFUSION)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for tag, name, value in page.attributes:
        if name == "src":
            assert value.startswith("data:image/"), tag
        if name == "href":
            assert value.startswith(("#", "https://doi.org/"))
        assert not name.startswith("on")
    assert not re.search(r"url\(|@import", text)
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert {v[1:] for _, n, v in page.attributes if n == "href" and v.startswith("#")} <= ids
    assert all(
        any(t == "img" and n == "alt" for t, n, _ in page.attributes) for tag in page.tags if tag == "img"
    )


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}", "a&amp;b"]
)
def test_every_word_of_the_user_is_text(hostile: str) -> None:
    page = Page(
        html.render(
            report(hostile), layout=layout(hostile=hostile), confusion={hostile: CONFUSION["rna->prot"]}
        )
    )
    assert "script" not in page.tags
    assert not [n for _, n, _ in page.attributes if n.startswith("on")]
    assert page.text.count(hostile) > 20


def test_the_command_is_shown_as_typed() -> None:
    made = report("x; rm -rf 'y' \n z")
    assert shlex.split("".join(Page(html.render(made)).inside["pre"])) == made.command


def test_the_page_says_what_happened() -> None:
    text = " ".join(Page(html.render(report(), layout=layout(), confusion=CONFUSION)).text.split())
    for words in (
        "1,234", "47 of 52 links in the table matched", "CD45RA", "the losses had stopped falling",
        "continued from a checkpoint at step 2", "183 MB", "3 min 12 s", "1 thing to know", "2 GB",
        "Cells by label (type)", "One modality at a time", "Labels transferred, rna → prot",
        "1 hyper-parameter",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("no link matched", file="l.tsv", found="ENSG1", expected="CD4", hint="use symbols"),
         ["This run failed", "no link matched", "l.tsv", "ENSG1", "CD4", "use symbols"]),
        (NumericalError("the loss is no longer finite", term="cycle", step=4),
         ["Diverged", "cycle", "step 4"]),
        (Interrupted(15, "signal 15 received"), ["Interrupted", "signal 15 received", "143"]),
    ],
)  # fmt: skip
def test_a_failed_run_says_so_at_the_top(error: Exception, words: list[str]) -> None:
    made = Report(command=["mocli"], task="integrate")
    made.fail(error)
    text = Page(html.render(made)).text
    for word in words:
        assert word in text.split("What was asked")[0], word
    full = report()
    full.fail(error)
    Page(html.render(full, layout=layout()))


def test_the_least_report_renders() -> None:
    text = Page(html.render(Report(command=[], task="integrate"))).text
    assert "How good it is" not in text
    assert "What was trained" not in text


def test_the_same_report_gives_the_same_page() -> None:
    assert html.render(report(), layout=layout()) == html.render(report(), layout=layout())


def test_a_large_run_stays_under_3_mb(tmp_path: Path) -> None:
    made = report()
    step = list(range(1, 10_001, 25))
    made.training["history"] = {
        "t": {f"term{i}": {"step": step, "value": np.random.default_rng(i).random(400)} for i in range(8)}
    }
    labels = [f"label {i}" for i in range(45)]
    square = np.random.default_rng(0).integers(0, 99, (45, 45))
    text = html.render(
        made, layout=layout(20_000), confusion=dict.fromkeys(("a->b", "b->a"), (square, labels, labels))
    )
    html.write(tmp_path / "r.html", text)
    assert (tmp_path / "r.html").stat().st_size < 3_000_000
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def verdict(model: dict, **baselines: dict):
    return compare(model, {k: {"title": k, "metrics": v} for k, v in baselines.items()}, model="M")


def test_the_best_follows_the_direction_and_ties_share_it() -> None:
    found = verdict(
        {
            "up": metric(0.9),
            "down": metric(0.9, "lower"),
            "tie": metric(0.50001),
            "none": metric(None),
            "free": metric(1.0, None),
        },
        A={
            "up": metric(0.8),
            "down": metric(0.1, "lower"),
            "tie": metric(0.5),
            "none": metric(0.2),
            "free": metric(2.0, None),
        },
    )
    best = {row.key: [cell.best for cell in row.cells] for row in found.rows}
    assert best == {
        "up": [True, False],
        "down": [False, True],
        "tie": [True, True],
        "none": [False, False],
        "free": [False, False],
    }
    assert "better than the baseline on 1 of 3 metrics" in found.verdict
    assert "equals the best baseline on tie" in found.verdict
    assert found.losses == ["down: A 0.100, M 0.900"]


def test_the_verdict_is_plain_where_the_model_wins_and_silent_without_baselines() -> None:
    won = verdict({"a": metric(0.9)}, A={"a": metric(0.8)}, B={"a": metric(None)})
    assert won.verdict == "M is better than both baselines on every metric that they share."
    assert not won.losses
    tied = verdict({"a": metric(0.9)}, A={"a": metric(0.9)})
    assert tied.verdict.startswith("M is better than the baseline on no metric that they share. It equals")
    alone = verdict({"a": metric(0.9)})
    assert alone.verdict == ""
    assert not alone.rows[0].cells[0].best


def test_only_leading_metrics_are_judged_by_and_training_is_not_blamed() -> None:
    model = {"median": metric(0.6), "worst": {**metric(0.1), "leading": False}}
    found = verdict(model, A={"median": metric(0.5), "worst": metric(0.3)})
    assert found.verdict == "M is better than the baseline on every leading metric that they share."
    assert not found.losses
    lost = verdict({"median": metric(0.6)}, A={"median": metric(0.7)})
    assert "training" not in lost.verdict
    assert lost.losses == ["median: A 0.700, M 0.600"]
    alone = verdict({"worst": {**metric(0.1), "leading": False}}, A={"worst": metric(0.3)})
    assert alone.losses == ["worst: A 0.300, M 0.100"]


def test_a_way_that_is_part_of_the_model_is_no_rival_of_it() -> None:
    model = {"a": metric(0.6), "b": metric(0.6)}
    ways = {
        "r": {"title": "readout", "metrics": {"a": metric(0.7), "b": metric(0.1)}, "is_own": True},
        "s": {"title": "mean", "metrics": {"a": metric(0.5), "b": metric(0.1)}},
    }
    found = compare(model, ways, model="M")
    assert not found.losses
    assert found.verdict == (
        "M is better than the baseline on every metric that they share. The model's own way, readout, is "
        "better on a."
    )


def test_a_baseline_of_fewer_features_is_held_against_the_model_over_the_same() -> None:
    model = {"up": metric(0.5), "other": metric(0.5), "down": metric(0.5, "lower")}
    some = {"up": metric(0.6), "other": metric(0.6), "down": metric(0.6, "lower")}
    there = {"up": metric(0.7), "other": metric(0.55), "down": metric(0.6, "lower")}
    whole = {"up": metric(0.4), "other": metric(0.4), "down": metric(0.7, "lower")}
    found = compare(
        model,
        {"s": {"title": "S", "metrics": some, "model_metrics": there}, "w": {"title": "W", "metrics": whole}},
        model="M",
    )
    assert found.partial
    assert not verdict(model, A=some).partial
    rows = {row.key: row for row in found.rows}
    assert [c.best for c in rows["up"].cells] == [True, False, False]
    assert rows["up"].cells[1].model_text == "0.700"
    assert found.losses == ["other: S 0.600, M 0.550 over the same features"]
    assert "better than both baselines on 1 of 3 metrics" in found.verdict
    assert "equals the best baseline on down" in found.verdict


def test_the_page_says_what_is_measured_over_fewer_features() -> None:
    made = report("impute")
    made.metrics = {"up": metric(0.5)}
    made.baselines = {
        "s": {
            "title": "S",
            "definition": "some",
            "metrics": {"up": metric(0.6)},
            "model_metrics": {"up": metric(0.7)},
        }
    }
    assert made.as_dict()["baselines"]["s"]["model_metrics"]["up"]["value"] == 0.7
    page = html.render(made)
    assert "there 0.700" in page
    assert "over the same features" in page


def test_metrics_that_one_method_lacks_stay_in_the_table() -> None:
    found = verdict({"a": metric(0.9)}, A={"b": metric(0.8)})
    assert [[c.value for c in row.cells] for row in found.rows] == [[0.9, None], [None, 0.8]]


def test_metric_titles_say_of_which_modalities() -> None:
    assert metric_title("label_transfer[rna->prot]", "Accuracy") == "Accuracy, rna → prot"
    assert metric_title("mixing", None) == "mixing"
    assert metric_title("foscttm[a-b]_within_label", "FOSCTTM") == "FOSCTTM, a-b"
    assert metric_title("auprc[promoter peaks]", "Area, promoter peaks") == "Area, promoter peaks"


def test_counts_and_figures_without_a_rival_are_in_the_table_and_not_drawn() -> None:
    counted = metric(44, better=None, range=[0, None], title="Pairs tested", sentence="")
    metrics = {"n": counted, "share": metric(0.1), "auprc": metric(0.5)}
    found = verdict(metrics, A={"n": counted, "auprc": metric(0.4)})
    assert [row.drawable for row in found.rows] == [False, False, True]
    assert found.rows[0].cells[0].text == "44"


def test_the_page_has_no_empty_column_and_says_how_to_read_every_figure() -> None:
    made = report()
    assert "made ready by" in html.render(made)
    for one in made.inputs:
        one.pop("transform", None)
    made.metrics = {"n": metric(44, n=None, sentence="", definition="Pairs of a window.")}
    made.baselines = {}
    page = html.render(made)
    for heading in ("values from", "look like", "made ready by", "measured on"):
        assert heading not in page
    assert re.search(r'<td class="read">Pairs of a window\.</td>', page)


def test_a_line_of_the_log_says_which_values_are_better() -> None:
    entry = figure(0.25, "T", "d", better="lower")
    assert spoken("t", entry, "links 0.500") == "  t 0.250 (lower is better; links 0.500)"
    assert spoken("n", figure(1200, "N", "d")) == "  n 1,200"


def test_figures_that_a_table_shows_are_not_shown_twice() -> None:
    made = report()
    made.metrics = {"auprc[known]": metric(0.5), "silencing_auprc[known; pearson]": metric(0.123)}
    made.baselines = {}
    assert "0.123" not in html.render(made)


def test_words_in_a_table_wrap_and_numbers_do_not() -> None:
    made = report()
    made.tables = {
        "t": table("T", "s", ["group", "cells", "best"], [["a", 3, "IFI6 up, IFIT3 up"], ["b", None, None]])
    }
    page = html.render(made)
    assert '<td class="n">3</td><td>IFI6 up, IFIT3 up</td>' in page
    assert '<td class="n">–</td><td>–</td>' in page
    assert '<th class="n">cells</th><th>best</th>' in page


def test_names_of_columns_break_at_their_joints_and_stay_escaped() -> None:
    made = report()
    made.tables = {"t": table("T", "s", ["a", "n_<b>"], [["x", 1]])}
    assert "n_<wbr>&lt;b&gt;</th>" in html.render(made)


def test_a_wide_table_is_set_smaller_and_a_long_one_says_that_it_scrolls() -> None:
    made = report()
    columns = [f"c{i}" for i in range(html.MOST_COLUMNS + 1)]
    made.tables = {"t": table("T", "s", columns, [list(range(len(columns)))])}
    page = html.render(made)
    assert '<div class="scroll many">' in page
    made.tables = {"t": table("T", "s", ["a"], [[i] for i in range(html.MOST_ROWS + 1)])}
    page = html.render(made)
    assert '<div class="scroll tall">' in page
    assert "13 rows: scroll within the table" in page


def test_a_definition_ends_with_one_dot() -> None:
    made = report()
    for definition in ("The mean.", "the mean"):
        made.baselines = {"s": {"title": "s", "definition": definition, "metrics": {"a": metric(0.5)}}}
        assert re.search(r"<em>s</em>: [Tt]he mean\. ", html.render(made))


def test_a_run_without_a_model_begins_its_verdict_as_a_sentence() -> None:
    made = report()
    made.model = None
    made.metrics = {"a": metric(0.9)}
    made.baselines = {"simple": {"title": "simple", "definition": "", "metrics": {"a": metric(0.5)}}}
    assert "<p>This run is better than the baseline" in html.render(made)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.duration(0.04), "under 0.1 s"),
        (figures.duration(59.96), "1 min 0 s"),
        (figures.duration(3725), "1 h 2 min"),
        (figures.duration(None), "–"),
        (figures.size(999), "999 B"),
        (figures.size(999_900), "1 MB"),
        (figures.size(3_400_000), "3.4 MB"),
        (figures.size(2e15), "2,000 TB"),
        (figures.metric_value(0.0), "0.000"),
        (figures.metric_value(24), "24"),
        (figures.metric_value(12_345), "12,345"),
        (figures.metric_value(1e-5), "1.0e-05"),
        (figures.metric_value(15.24), "15.2"),
        (figures.metric_value(-0.25), "-0.250"),
        (figures.join(["a", "b", "c"]), "a, b and c"),
        (figures.count(1234.0), "1,234"),
        (figures.count(2.345), "2.35"),
        (figures.value([1, None]), "[1, null]"),
        (figures.value(False), "no"),
        (figures.stop_reason("my_rule"), "my rule"),
        (figures.plural(1, "step"), "1 step"),
        (figures.plural(2000, "step"), "2,000 steps"),
    ],
)
def test_wording(shown: str, expected: str) -> None:
    assert shown == expected


def test_the_page_begins_with_what_the_run_concluded() -> None:
    made = report()
    figure_first = html.render(made)
    made.conclude("none of 8 perturbations brings cells nearer")
    made.conclude("No way beats the mean.")
    told = "None of 8 perturbations brings cells nearer. No way beats the mean."
    assert told not in figure_first
    assert told in html.render(made)
    assert made.as_dict()["conclusion"] == told
    made.advice = "Transfer a coarser column."
    assert "<strong>What next.</strong> Transfer a coarser column." in html.render(made)


def test_titles_of_panels_are_wrapped_and_not_cut() -> None:
    title = "Change predicted by the best way against measured, Pearson (median) ↑"
    lines = wrapped(title).split("\n")
    assert " ".join(lines) == title
    assert max(map(len, lines)) <= 32


@pytest.mark.parametrize(("steps", "told"), [(300, True), (0, False)])
def test_more_training_is_advised_where_there_were_steps(steps: int, told: bool) -> None:
    made = report()
    assert made.training is not None
    made.training["steps"] = steps
    made.metrics = {"a": metric(0.5)}
    made.baselines = {"simple": {"title": "simple", "definition": "", "metrics": {"a": metric(0.9)}}}
    assert ("more training (--max-steps)" in html.render(made)) is told
