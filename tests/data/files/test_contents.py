"""What values look like, against matrices made to look so."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mocli.data.files.contents import check_values, choose_layer, look
from mocli.data.files.inputs import open_inputs
from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError
from mocli.types import ValueKind

COUNTS = np.random.default_rng(0).poisson(1.0, (40, 6)).astype(np.float32)
LOG = np.log1p(COUNTS / COUNTS.sum(1, keepdims=True) * 1e4)


def make(tmp_path: Path, x: np.ndarray, raw: np.ndarray | None = None, **layers: np.ndarray) -> ModalityFile:
    a = ad.AnnData(
        sp.csr_matrix(x if raw is None else raw),
        pd.DataFrame(index=[f"c{i}" for i in range(len(x))]),
        pd.DataFrame(index=[f"g{j}" for j in range(x.shape[1])]),
    )
    if raw is not None:
        a.raw = a.copy()
        a.X = sp.csr_matrix(x)
    for name, values in layers.items():
        a.layers[name] = sp.csr_matrix(values)
    a.write_h5ad(tmp_path / "rna.h5ad")
    (file,) = open_inputs([str(tmp_path / "rna.h5ad")])
    return file


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (COUNTS, ValueKind.COUNTS),
        (COUNTS > 0, ValueKind.COUNTS),
        (np.expm1(np.log1p(COUNTS)), ValueKind.COUNTS),
        (COUNTS * 0, ValueKind.COUNTS),
        (LOG, ValueKind.LOGNORM),
        (LOG / 1e6, ValueKind.LOGNORM),
        (COUNTS / COUNTS.sum(1, keepdims=True) * 1e4, ValueKind.POSITIVE),
        (LOG - LOG.mean(0), ValueKind.REAL),
        (np.where(COUNTS > 3, np.nan, COUNTS), ValueKind.COUNTS),
    ],
)
def test_look(values: np.ndarray, kind: ValueKind) -> None:
    assert look(sp.csr_matrix(np.asarray(values, dtype=np.float32))) is kind


def test_the_layer_order(tmp_path: Path) -> None:
    file = make(tmp_path, LOG, counts=COUNTS, scaled=LOG - 1)
    assert choose_layer(file, None, wants_counts=True).layer == "counts"
    assert choose_layer(file, "X", wants_counts=False).values is ValueKind.LOGNORM
    assert choose_layer(file, "scaled", wants_counts=False, allow_negative=True).values is ValueKind.REAL
    with pytest.raises(InputError, match=r"layers\['scaled'\]"):
        choose_layer(file, "scaled", wants_counts=False)
    with pytest.raises(InputError, match="did you mean 'counts'"):
        choose_layer(file, "count", wants_counts=True)
    assert choose_layer(make(tmp_path, COUNTS), None, wants_counts=True).layer == "X"


def test_what_would_do_is_named(tmp_path: Path) -> None:
    file = make(tmp_path, LOG, raw=COUNTS, umis=COUNTS)
    with pytest.raises(InputError, match="needs counts") as caught:
        choose_layer(file, None, wants_counts=True)
    assert caught.value.hint == "layers['umis'] or raw.X would do: --layer rna=umis"
    assert caught.value.exit_code == 3
    with pytest.raises(InputError, match="no other layer of the file would do"):
        choose_layer(make(tmp_path, LOG), None, wants_counts=True)


@pytest.mark.parametrize(
    ("x", "words"),
    [(LOG, "--likelihood rna=normal"), (LOG - 1, "--likelihood rna=normal --transform rna=identity")],
)
def test_another_likelihood_is_named_where_no_layer_holds_counts(
    tmp_path: Path, x: np.ndarray, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        choose_layer(make(tmp_path, x), None, wants_counts=True, takes_normal=True)
    assert str(caught.value.hint).endswith(f"or take these for normal values with {words}")
    with pytest.raises(InputError) as caught:
        choose_layer(make(tmp_path, x, umis=COUNTS), "X", wants_counts=True, takes_normal=True)
    assert "normal" not in str(caught.value.hint)


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "missing values"), (np.inf, "infinite values"), (-2.0, "negative values")]
)
def test_bad_values_are_placed(tmp_path: Path, value: float, words: str) -> None:
    x = COUNTS.copy()
    x[5, 2] = x[7, 0] = x[30, 5] = x[39, 1] = value
    file = make(tmp_path, x)
    with pytest.raises(InputError, match=words) as caught:
        check_values(file.read(), file, layer="X", allow_negative=False)
    assert caught.value.found is not None
    assert caught.value.found.startswith("4 ")
    assert caught.value.found.endswith("(c5, g2), (c7, g0), (c30, g5)")


def test_negative_values_may_be_allowed(tmp_path: Path) -> None:
    file = make(tmp_path, LOG - 1)
    assert check_values(file.read(), file, layer="X", allow_negative=True).n_empty == 0


@given(arrays(np.float32, (7, 5), elements=st.sampled_from([0.0, 0.0, 1.0, 2.5])))
def test_health_equals_brute_force(x: np.ndarray) -> None:
    file = ModalityFile(
        "rna", None, Path("x"), "/", "h5ad", pd.DataFrame(index=range(7)), pd.DataFrame(index=range(5))
    )
    health = check_values(sp.csr_matrix(x), file, layer="X", allow_negative=False)
    assert health.n_obs == 7
    assert health.n_empty == sum(not row.any() for row in x)
    assert health.n_constant == sum(len(set(column)) == 1 for column in x.T)
    np.testing.assert_allclose(health.total, x.sum(1, dtype=np.float64), rtol=1e-6)


SLOPE = np.linspace(0, 0.4, COUNTS.size).reshape(COUNTS.shape)
CORRECTED = np.where(COUNTS > 0, COUNTS * 0.9 + SLOPE, 0) * 20
FRACTIONS = COUNTS + 0.5 * (np.arange(COUNTS.size).reshape(COUNTS.shape) % 50 == 0)
NEGATIVE = np.where(np.arange(COUNTS.size).reshape(COUNTS.shape) % 101 == 0, -1, COUNTS)


@pytest.mark.parametrize(
    ("values", "cause"), [(CORRECTED, "SoupX"), (FRACTIONS, "alevin-fry"), (NEGATIVE, "CellBender")]
)
def test_counts_that_a_tool_changed_are_named_and_can_be_rounded(tmp_path: Path, values, cause: str) -> None:
    file = make(tmp_path, values)
    with pytest.raises(InputError, match="needs counts") as caught:
        choose_layer(file, None, wants_counts=True)
    assert cause in caught.value.found
    assert "--round" in caught.value.hint
    rounded = file.as_rounded()
    assert choose_layer(rounded, None, wants_counts=True).values is ValueKind.COUNTS
    if values is NEGATIVE:
        with pytest.raises(InputError, match="needs values that are not negative") as caught:
            choose_layer(file, None, wants_counts=False)
        assert cause in caught.value.found
        assert "--round" in caught.value.hint
    else:
        reason = choose_layer(file, None, wants_counts=False).reason
        assert cause in reason
        assert "--round" in reason
    expected = np.maximum(np.rint(values.astype(np.float32)), 0)
    assert abs(rounded.read() - sp.csr_matrix(expected)).nnz == 0


def test_a_matrix_of_counts_is_preferred_to_a_layer_called_so(tmp_path: Path) -> None:
    choice = choose_layer(make(tmp_path, COUNTS, counts=CORRECTED), None, wants_counts=True)
    assert choice.layer == "X"
    assert "which layers['counts'] does not" in choice.reason


def test_counts_in_raw_are_mentioned_where_logs_are_taken(tmp_path: Path) -> None:
    choice = choose_layer(make(tmp_path, LOG, raw=COUNTS), None, wants_counts=False)
    assert choice.layer == "X"
    assert "raw.X holds counts: --layer rna=raw" in choice.reason


def test_values_that_are_not_finite_show_in_a_sample(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="infinite values"):
        choose_layer(make(tmp_path, np.where(COUNTS > 3, np.inf, COUNTS)), None, wants_counts=False)


def test_the_raw_matrix_is_told_on_opening(tmp_path: Path) -> None:
    note = make(tmp_path, np.vstack([COUNTS, *[COUNTS * 0] * 3])).notes[0]
    assert "this looks like the raw matrix: 75" in note
    assert not make(tmp_path, COUNTS).notes
