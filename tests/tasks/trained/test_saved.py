"""A saved model is enough to use it elsewhere: same cells, same place, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

import mocli
from mocli.data.batches import dense_rows
from mocli.data.files.inputs import open_inputs
from mocli.errors import InputError, UsageError
from mocli.tasks.run.paths import check_model_folder
from mocli.tasks.trained.saved import load_model

ROOT = Path(__file__).resolve().parents[3]

ENCODE = """
import sys
import numpy as np
import torch
from mocli.data.files.inputs import open_inputs
from mocli.tasks.infer.align import place
from mocli.tasks.trained.saved import load_model

saved = load_model(sys.argv[1])
torch.set_num_threads(1)
layers = {m["name"]: m["layer"] for m in saved.description["modalities"]}
latent = {
    f.name: place(saved, f.name, f.read(layers[f.name]), None, "cpu") for f in open_inputs(sys.argv[3:])
}
np.savez(sys.argv[2], **latent)
"""


def in_a_new_process(folder, inputs, kept):
    subprocess.run([sys.executable, "-c", ENCODE, folder, kept, *inputs], cwd=ROOT, check=True)
    with np.load(kept) as found:
        return dict(found)


@pytest.fixture
def inputs(unpaired, tmp_path):
    """Counts in a layer, proteins, and peaks: three transforms."""
    rna = ad.read_h5ad(unpaired / "rna.h5ad")
    rna.layers["counts"] = rna.X.copy()
    rna.X = rna.X.log1p()
    rna.write_h5ad(tmp_path / "rna.h5ad")
    rng = np.random.default_rng(0)
    peaks = [f"chr1-{1000 * i}-{1000 * i + 500}" for i in range(1, 41)]
    x = rng.poisson(0.8, (50, 40)).astype(np.float32)
    atac = ad.AnnData(x, pd.DataFrame(index=[f"a{i}" for i in range(50)]), pd.DataFrame(index=peaks))
    atac.write_h5ad(tmp_path / "atac.h5ad")
    rows = "".join(f"GENE{i % 10}\t{p}\n" for i, p in enumerate(peaks))
    (tmp_path / "ra.tsv").write_text("rna\tatac\n" + rows)
    return [tmp_path / "rna.h5ad", unpaired / "prot.h5ad", tmp_path / "atac.h5ad"]


def test_the_same_cells_get_the_same_place_in_a_new_process(run, unpaired, inputs, tmp_path, read):
    report = run(inputs, links=[unpaired / "links.tsv", tmp_path / "ra.tsv"], hvg={"rna": 30}).report
    assert [i["layer"] for i in report["inputs"]] == ["counts", "X", "X"]
    trained = read(tmp_path / "out.h5mu")
    found = in_a_new_process(tmp_path / "out.model", inputs, tmp_path / "latent.npz")
    assert set(found) == {"rna", "prot", "atac"}
    for name, z in found.items():
        np.testing.assert_allclose(z, trained[name].obsm["X_scmodal"], atol=2e-5)


def test_it_says_what_it_is(run, unpaired, tmp_path):
    run([unpaired / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv", label_key="cell_type")
    told = json.loads((tmp_path / "out.model" / "model.json").read_text())
    assert told["format_version"] == 2
    assert told["model"] == "scmodal"
    assert told["pairing"] == "unpaired"
    assert [(m["name"], m["kind"], len(m["var_names"])) for m in told["modalities"]] == [
        ("rna", "rna", 50),
        ("prot", "prot", 12),
    ]
    assert told["levels"] == {"label": ["type0", "type1", "type2"]}
    assert str(unpaired) not in json.dumps(told)


def test_linked_features_come_back_standardised(run, unpaired, tmp_path):
    """Over the training cells each linked column has mean 0 and standard deviation 1."""
    files = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    run(files, links=unpaired / "links.tsv")
    saved = load_model(tmp_path / "out.model")
    assert list(saved.link_recipes) == [("rna", "prot")]
    for recipe, file in zip(saved.link_recipes["rna", "prot"], open_inputs(map(str, files)), strict=True):
        x = dense_rows(recipe.apply(file.read()), np.arange(file.n_obs))
        assert x.shape == (file.n_obs, 10)
        np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(0, ddof=1), 1, atol=2e-2)


def test_new_cells_are_treated_as_the_training_cells_were(run, unpaired, tmp_path):
    """A few cells alone get what they get among all: nothing is fitted anew."""
    files = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    run(files, links=unpaired / "links.tsv")
    saved = load_model(tmp_path / "out.model")
    rna, _ = open_inputs(map(str, files))
    rows = np.array([5, 3, 60])
    every = dense_rows(saved.recipes["rna"].apply(rna.read()), rows)
    few = dense_rows(saved.recipes["rna"].apply(rna.read(rows=rows)), np.arange(3))
    np.testing.assert_array_equal(every, few)


@pytest.mark.parametrize("damage", ["absent", "no json", "cut weights", "no weights"])
def test_what_is_no_model_is_said(run, unpaired, tmp_path, damage):
    folder = tmp_path / "out.model"
    if damage != "absent":
        run([unpaired / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv", max_steps=1)
    if damage == "no json":
        (folder / "model.json").write_text("{")
    elif damage == "cut weights":
        whole = (folder / "weights.safetensors").read_bytes()
        (folder / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    elif damage == "no weights":
        (folder / "weights.safetensors").unlink()
    said = "does not exist" if damage == "absent" else "holds no readable model"
    with pytest.raises(InputError, match=said) as caught:
        load_model(folder)
    assert caught.value.file == str(folder)
    assert "OUT.model" in (caught.value.expected if damage == "absent" else caught.value.hint)


def spoiled_weights(arrays):
    """Every way in which weights that can be read may yet be wrong, on the first of them."""
    name = next(k for k, v in sorted(arrays.items()) if k.startswith("module/") and v.ndim == 2)
    value = arrays[name]
    readout = next(k for k, v in sorted(arrays.items()) if k.startswith("readout/") and v.dtype.kind == "f")
    yield "not finite", {name: np.where(np.eye(*value.shape) > 0, np.nan, value).astype(value.dtype)}
    yield "not finite", {readout: np.full_like(arrays[readout], np.inf)}
    yield "overflow", {name: np.full_like(value, -1e38)}
    yield "weights", {name: np.ascontiguousarray(value.T[:, :-1])}
    yield "weights", {name: value.astype(np.int64)}
    yield "weights", {name: None}


def test_values_whose_squares_are_too_large_leave_no_model_that_cannot_be_read(unpaired, tmp_path):
    prot = ad.read_h5ad(unpaired / "prot.h5ad")
    prot.X = np.log1p(prot.X.toarray() if hasattr(prot.X, "toarray") else prot.X).astype(np.float32)
    prot.X[5, 0] = 1e30
    prot.write_h5ad(tmp_path / "prot.h5ad")
    with pytest.raises(InputError, match="not finite") as caught:
        mocli.integrate(
            [unpaired / "rna.h5ad", tmp_path / "prot.h5ad"], links=unpaired / "links.tsv", model="otcca",
            transform={"prot": "identity"}, output=tmp_path / "out.h5mu", device="cpu", threads=1,
        )  # fmt: skip
    assert "far larger" in caught.value.hint
    assert not (tmp_path / "out.model").exists()


def spoiled_words(told):
    """The same of the description."""
    spec = told["spec"]
    yield "unknown kind", {"model": "os:system"}
    yield "unknown kind", {"model": ["scmodal"]}
    yield "damaged", {"spec": {**spec, "widths": [[name, 10**12] for name, _ in spec["widths"]]}}
    yield "damaged", {"spec": {**spec, "widths": 3}}
    yield "damaged", {"spec": []}
    yield "damaged", {"params": {**told["params"], "n_hidden": -1}}
    yield "damaged", {"params": {**told["params"], "nothing": 1}}
    yield "damaged", {"modalities": [{**m, "recipe": {}} for m in told["modalities"]]}
    yield "not of the form", {"modalities": "rna"}
    yield "damaged", {"links": None}
    yield "not of the form", {"continuous": 1e308}
    yield "not of the form", {"covariates": [{"key": "batch", "column": "sample", "levels": "ab"}]}
    yield "not of the form", {"columns": {"batch": ["sample"]}}
    yield "not of the form", {"trained_on": True}
    yield "not of the form", {"modalities": [{**m, "kind": "os:system"} for m in told["modalities"]]}
    yield "not of the form", {"modalities": [{**m, "name": None} for m in told["modalities"]]}
    yield "not of the form", {"modalities": [{**m, "batches": {"key": "a"}} for m in told["modalities"]]}
    batches = {"key": "batch", "levels": ["a"]}
    yield "damaged", {"modalities": [{**m, "batches": batches} for m in told["modalities"]]}
    yield "not of the form", {"levels": None}
    yield "not of the form", {"pairing": ["perhaps"]}
    yield "another format version", {"format_version": [2]}


def test_every_part_of_a_model_is_checked_before_it_is_used(run, unpaired, tmp_path):
    run([unpaired / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv", max_steps=1)
    folder = tmp_path / "out.model"
    arrays, text = load_file(folder / "weights.safetensors"), (folder / "model.json").read_text()
    for said, change in spoiled_weights(arrays):
        kept = {k: v for k, v in {**arrays, **change}.items() if v is not None}
        save_file(kept, folder / "weights.safetensors")
        with pytest.raises(InputError, match="damaged") as caught:
            load_model(folder)
        assert said in caught.value.found
    save_file(arrays, folder / "weights.safetensors")
    for said, change in spoiled_words(json.loads(text)):
        (folder / "model.json").write_text(json.dumps({**json.loads(text), **change}))
        with pytest.raises(InputError, match=said):
            load_model(folder)
    for broken in ("[" * 100_000, text.replace('"seed": 0', '"seed": NaN'), "[]"):
        (folder / "model.json").write_text(broken)
        with pytest.raises(InputError, match=r"holds no readable model|another format"):
            load_model(folder)
    (folder / "model.json").write_text(json.dumps({**json.loads(text), "continuous": None}))
    assert load_model(folder).description.get("continuous", ()) == ()


def test_another_format_is_refused(run, unpaired, tmp_path):
    run([unpaired / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv", max_steps=1)
    description = tmp_path / "out.model" / "model.json"
    told = json.loads(description.read_text())
    description.write_text(json.dumps({**told, "format_version": 99, "mocli": "9.1"}))
    with pytest.raises(InputError, match="another format version") as caught:
        load_model(tmp_path / "out.model")
    assert "9.1" in caught.value.hint


def test_a_folder_of_the_user_is_never_replaced(run, unpaired, tmp_path):
    folder = tmp_path / "out.model"
    folder.mkdir()
    check_model_folder(folder)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="other files"):
        run([unpaired / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv", force=True)
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "out.h5mu").exists()
