"""The overall score of a benchmark: over the aspects that all who compete were measured by."""

from mocli.report.ranking import Figure, rank


def figure(method, key, value, *, kind="model", aspect):
    return Figure(
        method=method,
        kind=kind,
        seed=0,
        key=key,
        title=key,
        better="higher",
        aspect=aspect,
        order=1,
        value=value,
    )


def test_nobody_gains_by_what_it_cannot_be_asked():
    found = rank(
        [
            figure("both", "a", 1.0, aspect="labels"),
            figure("one", "a", 0.9, aspect="labels"),
            figure("low", "a", 0.0, aspect="labels"),
            figure("both", "b", 0.1, aspect="partners"),
            figure("low", "b", 0.5, aspect="partners"),
        ]
    )
    overall = {line.method: line.overall for line in found.lines}
    assert [line.method for line in found.lines] == ["both", "one", "low"]
    assert overall["both"] == 1.0
    assert overall["low"] == 0.0
    # all aspects only of those who have them all
    assert found.unequal
    assert {line.method: line.everything for line in found.lines} == {"both": 0.5, "one": None, "low": 0.5}
    header, rows = found.table()
    assert header[4] == "overall, all aspects"
    assert [row[4] for row in rows] == [0.5, None, 0.5]
    # still shown
    assert {line.method: line.aspects for line in found.lines}["both"]["partners"] == 0.0


def test_methods_that_read_equal_share_a_rank_and_the_verdict_names_them() -> None:
    values = {"x": 1.0, "y": 0.9996, "z": 0.5, "w": 0.0}
    found = rank([figure(name, "a", value, aspect="labels") for name, value in values.items()])
    assert {line.method: line.rank for line in found.lines} == {"x": 1, "y": 1, "z": 3, "w": 4}
    assert found.verdict == "x and y are first of 4 methods (overall 1.000)"


def test_the_verdict_says_whether_a_control_is_surpassed() -> None:
    def verdict(control):
        made = [figure("m", "a", 0.8, aspect="labels"), figure("low", "a", 0.0, aspect="labels")]
        return rank([*made, figure("wnn", "a", control, kind="control", aspect="labels")]).verdict

    assert verdict(0.4) == "m is first of 3 methods (overall 1.000), before the best control, wnn (0.500)"
    told = "a control, which needs no training, is not surpassed"
    assert (
        verdict(1.6)
        == f"wnn is first of 3 methods (overall 1.000); the best of the others is m (0.500): {told}"
    )


def test_the_verdict_says_by_what_a_method_is_first_and_who_leads_on_all_aspects() -> None:
    labels = {"joint": 1.0, "pca": 0.8, "both": 0.9, "low": 0.0}
    partners = {"both": 1.0, "low": 0.0}

    def found(values):
        kinds = {"pca": "control"}
        return rank(
            [figure(m, "a", v, kind=kinds.get(m, "model"), aspect="labels") for m, v in values.items()]
            + [figure(m, "b", v, aspect="partners") for m, v in partners.items()]
        )

    assert found(labels).shared == ["labels"]
    assert found(labels).verdict == (
        "joint is first of 4 methods by labels alone (1.000), before the best control, pca (0.800); "
        "on all aspects both leads (0.950), of the 2 methods measured in all"
    )
    assert (
        "; on all aspects both leads too (1.000), of" in found({**labels, "both": 1.0, "joint": 0.9}).verdict
    )


def test_bounds_do_not_say_what_is_shared():
    found = rank(
        [
            figure("x", "a", 1.0, aspect="labels"),
            figure("y", "a", 0.0, aspect="labels"),
            figure("x", "b", 0.0, aspect="partners"),
            figure("y", "b", 1.0, aspect="partners"),
            figure("perfect", "a", 1.0, kind="answer", aspect="labels"),
        ]
    )
    assert {line.method: line.overall for line in found.lines} == {"x": 0.5, "y": 0.5, "perfect": 1.0}
    assert found.lines[-1].rank is None
    # all were measured alike: the overall score says it
    assert not found.unequal


def test_chance_has_aspects_but_no_overall_score():
    found = rank(
        [
            figure("x", "a", 0.4, aspect="batches"),
            figure("y", "a", 0.0, aspect="batches"),
            figure("shuffled", "a", 1.0, kind="bound", aspect="batches"),
        ]
    )
    *ranked, last = found.lines
    assert [line.rank for line in ranked] == [1, 2]
    assert (last.method, last.rank, last.overall, last.aspects) == ("shuffled", None, None, {"batches": 1.0})
