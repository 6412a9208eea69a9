"""What predictions were worth, in the model's folder: comes back as it was, and says when it is damaged."""

import numpy as np
import pytest

from mocli.errors import InputError
from mocli.metrics import conformal
from mocli.metrics.imputation import accuracy
from mocli.tasks.run.paths import CALIBRATION, check_model_folder
from mocli.tasks.trained.calibration import Calibration, load_calibrations, save_calibrations


@pytest.fixture
def some():
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(50, 6)).astype(np.float32)
    measured = predicted + rng.normal(size=(50, 6)).astype(np.float32)
    floor = conformal.fit(predicted, measured, coverage=0.9, floor=0.0)
    few = conformal.fit(predicted[:5], measured[:5], coverage=0.95)
    return {
        ("rna", "prot", "log", "readout"): Calibration(floor, "40 cells", accuracy(predicted, measured)),
        ("prot", "rna", "counts", "decoder=b 1"): Calibration(few, "Zellen, ähnlich"),
    }


def test_all_of_it_comes_back(some, tmp_path):
    save_calibrations(tmp_path, some)
    found = load_calibrations(tmp_path)
    assert list(found) == list(some)
    for key, expected in some.items():
        assert found[key].basis == expected.basis
        for part in ("lower", "upper", "floor"):
            np.testing.assert_array_equal(
                getattr(found[key].intervals, part), getattr(expected.intervals, part)
            )
        for part in ("coverage", "n", "symmetric"):
            assert getattr(found[key].intervals, part) == getattr(expected.intervals, part)
    first, second = found.values()
    assert second.accuracy is None
    for part in ("pearson", "spearman", "rmse", "mae", "r2", "n"):
        np.testing.assert_array_equal(
            getattr(first.accuracy, part), getattr(some["rna", "prot", "log", "readout"].accuracy, part)
        )
    assert (np.isinf(second.intervals.lower) | np.isinf(second.intervals.upper)).sum() == 6


def test_the_same_gives_the_same_bytes_and_leaves_nothing_else(some, tmp_path):
    save_calibrations(tmp_path, some)
    first = (tmp_path / CALIBRATION).read_bytes()
    save_calibrations(tmp_path, some)
    assert (tmp_path / CALIBRATION).read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [CALIBRATION]


def test_a_model_without_it_has_none(tmp_path):
    assert load_calibrations(tmp_path) == {}
    save_calibrations(tmp_path, {})
    assert load_calibrations(tmp_path) == {}


def test_a_model_with_it_may_be_replaced(some, tmp_path):
    save_calibrations(tmp_path, some)
    check_model_folder(tmp_path)


def cut(data):
    return data[: len(data) // 2]


def other_facts(data):
    return data.replace(b"intervals", b"intervalz")


def other_names(data):
    return data.replace(b'"0/lower"', b'"0/lowes"')


@pytest.mark.parametrize("damage", [cut, other_facts, other_names, lambda _: b"", lambda _: b"{}" * 30])
def test_a_damaged_file_is_said(some, tmp_path, damage):
    save_calibrations(tmp_path, some)
    path = tmp_path / CALIBRATION
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="calibration cannot be read") as error:
        load_calibrations(tmp_path)
    assert error.value.file == str(path)
    assert "delete this file" in error.value.hint


def test_a_file_that_cannot_be_written_leaves_the_old_one(some, tmp_path, monkeypatch):
    save_calibrations(tmp_path, some)
    before = (tmp_path / CALIBRATION).read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_calibrations(tmp_path, some)
    assert (tmp_path / CALIBRATION).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [CALIBRATION]
