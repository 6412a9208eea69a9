"""What a run will refuse its dry run refuses, in the same words: it opens all that the run opens."""

import shutil

import anndata as ad
import h5py
import mudata as md
import numpy as np
import pytest

from mocli.__main__ import main

RUN = ["--device", "cpu", "--threads", "1", "--no-html"]


@pytest.fixture(scope="module")
def folder(good, tmp_path_factory):
    """Add cells whose features the model does not know, values that are none, and a damaged model."""
    folder = tmp_path_factory.mktemp("dry") / "files"
    shutil.copytree(good, folder)
    rna = ad.read_h5ad(folder / "rna.h5ad")
    other = rna.copy()
    other.var_names = [f"OTHER{i}" for i in range(other.n_vars)]
    other.write_h5ad(folder / "other.h5ad")
    rna.X = rna.X.toarray()
    rna.X[:, 0] = np.nan
    rna.write_h5ad(folder / "nan.h5ad")
    shutil.copytree(folder / "o.model", folder / "damaged.model")
    calibration = folder / "damaged.model" / "calibration.safetensors"
    calibration.write_bytes(calibration.read_bytes()[:-100])
    return folder


IMPUTE = "impute {f}/data.h5mu --from-model {f}/o.model --from rna --to prot --cells all -o {o}/o.h5mu"
PERTURB = (
    "perturb {f}/data.h5mu --from-model {f}/o.model --from cell_type=type0 --to cell_type=type1 -o {o}/o.tsv"
)
GENE2PEAK = "gene2peak {f}/data.h5mu --from-model {f}/o.model -o {o}/o.tsv"
DATA, OTHER, NAN = "{f}/data.h5mu", "rna={f}/other.h5ad", "rna={f}/nan.h5ad"
MISTAKES = {
    "a damaged calibration": (IMPUTE.replace("o.model", "damaged.model"), 3, "calibration cannot be read"),
    "features of another kind, to impute": (IMPUTE.replace(DATA, OTHER), 3, "of the 40 features"),
    "values that are none, to impute": (IMPUTE.replace(DATA, NAN), 3, "missing values (NaN)"),
    "cells that are not there": (PERTURB.replace("type0", "type9"), 3, "has cell_type = type9"),
    "features that are not there": (f"{PERTURB} --features NOTHING", 3, "features to perturb"),
    "a target that is not there": (f"{PERTURB} --target-modality atac", 2, "no modality 'atac'"),
    "features of another kind, to perturb": (PERTURB.replace(DATA, OTHER), 3, "of the 40 features"),
    "values that are none, to perturb": (PERTURB.replace(DATA, NAN), 3, "missing values (NaN)"),
    "peaks that the model lacks": (GENE2PEAK, 2, "no modality holds peaks"),
    "a way that the model lacks": (f"{GENE2PEAK} --method correlation --genes NOTHING", 3, "NOTHING"),
    "a group that the model lacks": (
        "simulate --from-model {f}/o.model --label cell_type=type0 -o {o}/o.h5mu",
        2,
        "label",
    ),
    "a model that places nothing twice": (
        "integrate {f}/rna.h5ad {f}/prot.h5ad --links {f}/links.tsv -m scmodal --sample 2 -o {o}/o.h5mu",
        2,
        "no posterior to draw from",
    ),
    "a reference whose labels are others": (
        "integrate {f}/data.h5mu --reference {f}/o.model --transfer-labels cell_type -o {o}/o.h5mu",
        2,
        "keeps no labels",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_dry_run_refuses_what_the_run_refuses(mistake, folder, tmp_path, capsys):
    words, code, said = MISTAKES[mistake]
    answers = []
    for more in (["--dry-run"], []):
        ended = main([*words.format(f=folder, o=tmp_path).split(), *RUN, *more])
        answers.append((ended, capsys.readouterr().err.split("mocli: error:")[-1]))
        assert not [p for p in tmp_path.iterdir() if p.suffix in {".h5mu", ".tsv", ".model"}]
    assert answers[0] == answers[1]
    assert answers[0][0] == code
    assert said in answers[0][1]


@pytest.mark.filterwarnings("ignore:Cannot join columns")
@pytest.mark.parametrize("axis", ["obs", "var"])
@pytest.mark.parametrize(("link", "code"), [(None, 0), (h5py.SoftLink("/nowhere"), 3)])
def test_a_table_of_the_whole_is_made_where_it_lacks_and_refused_where_it_is_damaged(
    axis, link, code, good, tmp_path
):
    """It is needed only by what adds a modality to the file: after the work."""
    folder = tmp_path / "files"
    shutil.copytree(good, folder)
    with h5py.File(folder / "data.h5mu", "r+") as h5:
        del h5[axis]
        if link is not None:
            h5[axis] = link
    words = [*IMPUTE.format(f=folder, o=tmp_path).split(), *RUN]
    assert [main([*words, *more]) for more in (["--dry-run"], [])] == [code, code]
    if code == 0:
        assert md.read_h5mu(tmp_path / "o.h5mu").shape == (60, 40 + 10 + 10)


def test_a_dry_run_says_that_it_looks_for_no_gpu(unpaired, tmp_path, capsys):
    files = [str(unpaired / name) for name in ("rna.h5ad", "prot.h5ad")]
    words = ["integrate", *files, "--links", str(unpaired / "links.tsv"), "-o", str(tmp_path / "o.h5mu")]
    assert main([*words, "--device", "cuda", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("--device cuda is not looked for" in line for line in lines) == 1
    assert not any("it will take" in line for line in lines)
