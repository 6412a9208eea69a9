"""New cells through a saved model: training cells land where they were, features are found by name."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import mocli
from mocli.data.demo import write_demo
from mocli.data.files.inputs import open_inputs
from mocli.errors import InputError, UsageError
from mocli.tasks.infer.align import align, check_modality, find_modality, place, project
from mocli.tasks.integrate.reference import _seen
from mocli.tasks.trained.saved import load_model

PARAMS = {"n_hidden": 32, "n_latent": 6, "batch_size": 64}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=150)
    return folder


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    """A model of the default recipe (components, averaged inputs and weights), and its latent."""
    output = tmp_path_factory.mktemp("trained") / "out.h5mu"
    mocli.integrate(
        [demo / "rna.h5ad", demo / "prot.h5ad"],
        links=[demo / "rna-prot.tsv"],
        output=output,
        max_steps=40,
        params=PARAMS,
        threads=1,
        device="cpu",
        html=False,
    )
    import h5py

    with h5py.File(output) as h5:
        latent = {name: h5[f"mod/{name}/obsm/X_scmodal"][:] for name in ("rna", "prot")}
    return load_model(output.with_suffix(".model")), latent


def silent(_):
    return None


def aligned(saved, path, name="rna", warn=silent):
    (file,) = open_inputs([f"{name}={path}"], kinds={})
    return align(saved, name, file, layers={}, warn=warn)


def latent_of(saved, path, name="rna", warn=silent):
    return project(saved, name, aligned(saved, path, name, warn), "cpu")


@pytest.fixture
def variant(demo, tmp_path):
    """Write the RNA with other features."""

    def write(change, name="variant.h5ad"):
        a = change(ad.read_h5ad(demo / "rna.h5ad"))
        a.write_h5ad(tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", ["rna", "prot"])
def test_training_cells_land_where_training_put_them(trained, demo, name):
    saved, latent = trained
    assert name in saved.references  # inputs were averaged, else this tests nothing
    np.testing.assert_allclose(latent_of(saved, demo / f"{name}.h5ad", name), latent[name], atol=2e-5)


def test_some_cells_land_as_among_all(trained, demo):
    saved, latent = trained
    x = aligned(saved, demo / "rna.h5ad").read(np.array([7, 3, 100]))
    np.testing.assert_allclose(place(saved, "rna", x, None, "cpu"), latent["rna"][[7, 3, 100]], atol=2e-5)


def test_features_in_another_order_with_others_among_them(trained, variant):
    def change(a):
        extra = ad.AnnData(
            sparse.csr_matrix(np.full((a.n_obs, 30), 5, np.float32)),
            obs=a.obs,
            var={"index": [f"EXTRA{j}" for j in range(30)]},
        )
        extra.var_names = [f"EXTRA{j}" for j in range(30)]
        both = ad.concat([a, extra], axis=1, merge="first")
        both.obs = a.obs
        return both[:, np.random.default_rng(0).permutation(both.n_vars)].copy()

    saved, latent = trained
    warnings = []
    np.testing.assert_allclose(
        latent_of(saved, variant(change), warn=warnings.append), latent["rna"], atol=2e-5
    )
    assert warnings == []


def test_a_name_that_repeats_counts_once(trained, variant):
    def change(a):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            twice = a[:, [*range(a.n_vars), 0, 5]].copy()
        x = twice.X.toarray()
        x[:, -2:] = 9
        twice.X = sparse.csr_matrix(x)
        return twice

    saved, latent = trained
    path = variant(change)
    np.testing.assert_allclose(latent_of(saved, path), latent["rna"], atol=2e-5)


def some(share, seed=0):
    def change(a):
        chosen = np.random.default_rng(seed).random(a.n_vars) < share
        return a[:, chosen].copy()

    return change


def test_features_that_are_absent_are_said_and_do_not_stop(trained, variant):
    saved, latent = trained
    warnings = []
    found = latent_of(saved, variant(some(0.6)), warn=warnings.append)
    assert found.shape == latent["rna"].shape
    assert np.isfinite(found).all()
    assert len(warnings) == 1
    assert "of the model's 400 features are absent and get the training cells' mean" in warnings[0]
    # unit vectors: most cells point where they did
    assert np.median((found * latent["rna"]).sum(1)) > 0.5


def test_proteins_of_a_panel_with_other_names_are_found_by_their_antigen(trained, demo, tmp_path):
    a = ad.read_h5ad(demo / "prot.h5ad")
    a.var_names = [name.lower() for name in a.var_names]
    a.write_h5ad(tmp_path / "lower.h5ad")
    warnings = []
    found = latent_of(trained[0], tmp_path / "lower.h5ad", "prot", warnings.append)
    np.testing.assert_allclose(found, latent_of(trained[0], demo / "prot.h5ad", "prot"), atol=1e-6)
    assert "were found by their antigen" in warnings[0]
    # all that the model uses is seen, whatever it is called
    saved, name = trained[0], "prot"
    query = SimpleNamespace(saved=saved, aligned={name: aligned(saved, tmp_path / "lower.h5ad", name)})
    assert _seen(query, name).sum() == len(saved.recipes[name].selected)


def test_more_than_half_absent_is_too_much(trained, variant):
    with pytest.raises(InputError, match="of the 400 features of the model's 'rna'") as error:
        aligned(trained[0], variant(some(0.45)))
    assert len(error.value.found.split(", ")) == 5
    assert len(error.value.expected.split(", ")) == 5
    assert "need the same features" in error.value.hint


def renamed(names):
    def change(a):
        a.var_names = names(a.var_names)
        return a

    return change


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (lambda n: [x.lower() for x in n], "upper and lower case"),
        (lambda n: [f"{x.split('.')[0]}.{j}" for j, x in enumerate(n)], "version suffix"),
        (lambda n: [f"ENSG{j:011d}" for j in range(len(n))], "Ensembl ids"),
        (lambda n: [f"thing{j}" for j in range(len(n))], "need the same features"),
    ],
    ids=["case", "version", "ensembl", "other"],
)
def test_names_of_another_kind_get_the_right_hint(trained, variant, names, hint):
    path = variant(renamed(names))
    with pytest.raises(InputError, match=" of the 400") as error:
        aligned(trained[0], path)
    assert hint in error.value.hint
    assert error.value.file == str(path)


def test_a_small_panel_of_ensembl_ids_is_known_too(trained, demo, tmp_path):
    a = ad.read_h5ad(demo / "prot.h5ad")
    a.var_names = [f"ENSG{j:011d}" for j in range(a.n_vars)]
    a.write_h5ad(tmp_path / "prot.h5ad")
    with pytest.raises(InputError) as error:
        aligned(trained[0], tmp_path / "prot.h5ad", "prot")
    assert "Ensembl ids" in error.value.hint


def test_log_values_where_counts_were_trained_on(trained, variant):
    def change(a):
        a.X = sparse.csr_matrix(np.log1p(a.X.toarray() / 3))
        return a

    with pytest.raises(InputError):
        aligned(trained[0], variant(change))


def test_a_layer_is_found_by_the_name_of_the_file(trained, variant, demo):
    def change(a):
        a.layers["mine"] = a.X.copy()
        a.X = sparse.csr_matrix(np.log1p(a.X.toarray() / 3))
        return a

    saved, latent = trained
    path = variant(change)
    (file,) = open_inputs([f"rna={path}"], kinds={})
    found = project(saved, "rna", align(saved, "rna", file, layers={"rna": "mine"}, warn=silent), "cpu")
    np.testing.assert_allclose(found, latent["rna"], atol=2e-5)


def test_a_cell_without_any_signal(trained, variant):
    def change(a):
        a.X = sparse.csr_matrix(a.X.shape, dtype=np.float32)
        return a[:3].copy()

    saved, _ = trained
    (file,) = open_inputs([f"rna={variant(change)}"], kinds={})
    found = place(saved, "rna", file.read(), None, "cpu")
    assert np.isfinite(found).all()


def test_modalities_are_found_by_name_then_by_kind(trained, demo):
    saved, _ = trained
    rna, prot, other = (
        open_inputs([text], kinds={})[0]
        for text in (f"rna={demo / 'rna.h5ad'}", f"prot={demo / 'prot.h5ad'}", f"query={demo / 'rna.h5ad'}")
    )
    assert find_modality([prot, rna], "rna", saved) is rna
    assert find_modality([other, prot], "rna", saved) is other
    assert find_modality([other], "prot", saved) is None
    second = open_inputs([f"second={demo / 'rna.h5ad'}"], kinds={})[0]
    assert find_modality([other, second], "rna", saved) is None


def test_a_modality_that_the_model_never_saw(trained):
    saved, _ = trained
    assert check_modality(saved, "prot", "--to") == "prot"
    with pytest.raises(UsageError, match="no modality 'atac'") as error:
        check_modality(saved, "atac", "--to")
    assert error.value.expected == "rna, prot"
    with pytest.raises(UsageError, match="no modality 'prott'") as error:
        check_modality(saved, "prott", "--to")
    assert "prot" in error.value.hint
