"""Tables that a spreadsheet opens."""

import pandas as pd
import pytest

from mocli.data.write.outfile import inert, write_tsv


@pytest.mark.parametrize("text", ["=1+1", "+cmd|calc", "-2+3", "@SUM(A1)"])
def test_names_that_look_like_formulas_are_text(text):
    assert inert(text) == "'" + text


@pytest.mark.parametrize("value", ["-", "+", "-1.5", "+3e4", "CD4", "HLA-A", "", -1, 2.5, None])
def test_signs_numbers_and_names_stay(value):
    assert inert(value) is value


def test_a_table_is_written_so(tmp_path):
    table = pd.DataFrame(
        {"gene": ["=A1", "CD4"], "strand": ["-", "+"], "change": [-0.123456789, float("nan")]}
    )
    table["set"] = pd.Categorical(["@x", "y"])
    write_tsv(tmp_path / "out.tsv", table)
    assert (tmp_path / "out.tsv").read_text() == (
        "gene\tstrand\tchange\tset\n'=A1\t-\t-0.123457\t'@x\nCD4\t+\tNA\ty\n"
    )
    assert table["gene"][0] == "=A1"
