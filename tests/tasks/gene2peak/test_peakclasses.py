"""Classes of factors against each other: scipy's t-test over factors, and what a file of classes may be."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mocli.errors import InputError
from mocli.tasks.gene2peak.peaksets import compare_classes, read_classes

SETS = [f"F{k}" for k in range(10)]


@pytest.fixture
def table():
    """Peaks of F0 to F5 close where the factor falls silent, of F6 to F9 not; in two groups of cells."""
    rng = np.random.default_rng(0)
    closing = np.where(np.arange(10) < 6, 0.7, 0.45) + rng.normal(0, 0.02, 10)
    parts = [
        pd.DataFrame(
            {"set": SETS, "group": group, "fraction_closing": closing, "effect": rng.normal(size=10)}
        )
        for group in ("all", "a")
    ]
    return pd.concat(parts, ignore_index=True)


def test_classes_differ_as_scipy_says(table, tmp_path):
    lines = [f"{name.lower()}\t{'activator' if k < 6 else 'repressor'}" for k, name in enumerate(SETS)]
    (tmp_path / "c.tsv").write_text("\n".join(["set\tclass", *lines]))
    classes = read_classes(tmp_path / "c.tsv", dict.fromkeys(SETS), pytest.fail)
    found = compare_classes(table, classes).set_index(["group", "measure"])
    assert len(found) == 4
    x, y = (
        table.query("group == 'all'")["fraction_closing"].to_numpy()[part]
        for part in (slice(6), slice(6, 10))
    )
    expected = stats.ttest_ind(x, y, equal_var=False)
    row = found.loc["all", "fraction_closing"]
    assert (row["class"], row["other_class"], row["n"], row["n_other"]) == ("activator", "repressor", 6, 4)
    assert row["t"] == pytest.approx(expected.statistic)
    assert row["p"] == pytest.approx(expected.pvalue)
    assert row["p"] < 1e-3
    assert row["mean"] > row["mean_other"]
    assert found.loc["all", "effect"]["p"] > 0.05
    alone = compare_classes(table, {"F0": "activator", "F7": "repressor"})
    assert alone["p"].isna().all()


def test_files_of_classes_that_cannot_be(tmp_path):
    sets, warned = dict.fromkeys(SETS), []
    path = tmp_path / "c.tsv"
    for text, words in (
        ("F0\n", "another number of columns"),
        ("", "is empty"),
        ("F0\tx\nF1\tx\n", "no two classes"),
        ("G0\tx\nG1\ty\n", "no two classes"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_classes(path, sets, warned.append)
    path.write_text("F0\tx\nF1\ty\n")
    assert read_classes(path, sets, warned.append) == {"F0": "x", "F1": "y"}
    assert "F2, F3" in warned[0]
