"""A model used on other files than its own: what is refused, set aside, or said."""

import stat

import anndata as ad
import numpy as np
import pytest

from mocli import gene2peak, impute, integrate
from mocli.data.demo import write_demo
from mocli.errors import InputError, UsageError
from mocli.tasks.run.paths import CALIBRATION
from mocli.tasks.trained.train import check_task
from mocli.types import Task

QUICK = {
    "html": False,
    "device": "cpu",
    "threads": 1,
    "max_steps": 3,
    "params": {"n_hidden": 16, "batch_size": 32},
}
USED = {"html": False, "device": "cpu", "threads": 1, "force": True}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    write_demo(folder, n_cells=150)
    return folder


@pytest.fixture(scope="module")
def model(demo):
    """Trained by impute on four fifths of the multiome."""
    impute(
        demo / "multiome.h5mu", links=demo / "rna-atac.tsv", output=demo / "o.h5mu", pairing="unpaired",
        source="atac", target="rna", evaluate=True, **QUICK,
    )  # fmt: skip
    return demo / "o.model"


def test_a_model_that_cannot_do_a_task_is_refused():
    with pytest.raises(UsageError, match="scmodal cannot simulate") as error:
        check_task("scmodal", Task.SIMULATE)
    assert "multigrate" in error.value.hint


def test_cells_that_the_model_was_trained_on_are_called_so(demo, model, tmp_path):
    def warnings(file):
        result = impute(
            file,
            output=tmp_path / "i.h5mu",
            from_model=model,
            source="atac",
            target="rna",
            evaluate=True,
            **USED,
        )
        return " ".join(result.report["warnings"])

    assert "trained on these same files" in warnings(demo / "multiome.h5mu")
    import mudata

    other = mudata.read_h5mu(demo / "multiome.h5mu")
    other.obs["copy"] = "yes"
    other.write_h5mu(tmp_path / "other.h5mu")
    assert "trained on these same files" not in warnings(tmp_path / "other.h5mu")


def test_another_panel_of_the_target_is_left_aside(demo, model, tmp_path):
    import mudata

    both = mudata.read_h5mu(demo / "multiome.h5mu")
    atac, rna = both["atac"].copy(), both["rna"].copy()
    rna.var_names = [f"other{i}" for i in range(rna.n_vars)]
    atac.write_h5ad(tmp_path / "atac.h5ad")
    rna.write_h5ad(tmp_path / "rna.h5ad")
    inputs = [f"atac={tmp_path / 'atac.h5ad'}", f"rna={tmp_path / 'rna.h5ad'}"]
    given = {"from_model": model, "source": "atac", "target": "rna", **USED}
    result = impute(inputs, output=tmp_path / "i.h5ad", **given)
    assert any("are ignored" in w for w in result.report["warnings"])
    new = ad.read_h5ad(result.output)
    assert new.n_obs == atac.n_obs
    assert "observed" not in new.layers
    with pytest.raises(InputError, match="0 of the"):
        impute(inputs, output=tmp_path / "i.h5ad", evaluate=True, **given)


def test_accuracy_kept_with_the_model_is_in_the_unit_asked_for_and_not_called_new(demo, model, tmp_path):
    def var(scale):
        given = {"from_model": model, "target": "rna", "scale": scale, **USED}
        result = impute(f"{demo / 'multiome.h5mu'}::atac", output=tmp_path / f"{scale}.h5ad", **given)
        assert any("when the model was trained" in w for w in result.report["warnings"])
        return ad.read_h5ad(result.output).var

    log, scaled = var("log"), var("scaled")
    from mocli.tasks.trained.saved import load_model

    deviation = load_model(model).readouts["rna"].moments("log")[1]
    known = np.isfinite(log["rmse"]) & (deviation > 0)
    np.testing.assert_allclose(scaled["rmse"][known], log["rmse"][known] / deviation[known], rtol=1e-5)
    np.testing.assert_allclose(scaled["r2"][known], log["r2"][known])


def test_who_may_read_the_report_may_read_the_model(model):
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in model.iterdir()}
    assert CALIBRATION in modes
    assert len(set(modes.values())) == 1


def test_peaks_need_a_model_that_knows_peaks(demo, tmp_path):
    inputs = [demo / "rna.h5ad", demo / "prot.h5ad"]
    result = integrate(inputs, links=demo / "rna-prot.tsv", output=tmp_path / "p.h5mu", **QUICK)
    given = {"from_model": result.output.with_suffix(".model"), "gtf": demo / "genes.tsv", **USED}
    with pytest.raises(UsageError, match="trained without peaks"):
        gene2peak(demo / "multiome.h5mu", output=tmp_path / "o.tsv", **given)
