"""`--only-cells`: the cells that a file names, in every subcommand and in what is written."""

import numpy as np
import pytest

import mocli
from mocli.errors import InputError

QUICK = {"threads": 1, "device": "cpu", "html": False, "max_steps": 2, "metrics": "none", "clusters": None}


def test_cells_that_are_not_named_are_left_out_of_result_and_report(paired, tmp_path, small, read):
    whole = read(paired / "data.h5mu")
    names = [str(name) for name in whole.obs_names[5:40:2]]
    (tmp_path / "cells.txt").write_text("\n".join([*names, "", "not there"]) + "\n")
    done = mocli.integrate(
        paired / "data.h5mu", output=tmp_path / "o.h5mu", links=paired / "links.tsv", model="scmodal",
        only_cells=tmp_path / "cells.txt", params=small, **QUICK,
    )  # fmt: skip
    assert {given["n_obs"] for given in done.report["inputs"]} == {len(names)}
    written = read(tmp_path / "o.h5mu")
    assert list(written.obs_names) == names
    for name in written.mod:
        there, before = written[name][names], whole[name][names]
        assert np.array_equal(np.asarray(there.X.todense()), np.asarray(before.X.todense()))
        assert there.obsm["X_scmodal"].shape[0] == written[name].n_obs == len(names)
    assert list(written["rna"].obs["cell_type"]) == list(whole["rna"][names].obs["cell_type"])
    assert str(tmp_path / "cells.txt") in done.report["made_from"]["files"]


def test_a_file_that_names_no_cell_is_refused(paired, tmp_path):
    (tmp_path / "cells.txt").write_text("elsewhere\n")
    with pytest.raises(InputError, match="it names 0 of the 60 cells") as caught:
        mocli.integrate(
            paired / "data.h5mu", output=tmp_path / "o.h5mu", only_cells=tmp_path / "cells.txt", dry_run=True,
        )  # fmt: skip
    assert "c0" in caught.value.expected
