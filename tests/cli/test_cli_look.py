"""`mocli doctor FILE...`: what files hold, what would be done with them, what to mend."""

import json

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from mocli.__main__ import main
from mocli.cli.look import look_at
from mocli.data.demo import write_demo
from mocli.data.files.inspect import agreeing_names


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=80)
    return folder


def doctor(capsys, *words):
    code = main(["doctor", *map(str, words)])
    captured = capsys.readouterr()
    assert captured.err == ""
    return code, captured.out.splitlines()


def test_a_screen_with_guides_is_told_by_its_controls_and_genes(demo, tmp_path, capsys):
    a = ad.read_h5ad(demo / "rna.h5ad")
    genes = [*a.var_names[:4], "non-targeting"]
    a.obs["guide_target"] = [genes[i % 5] for i in range(a.n_obs)]
    a.obs["condition"] = ["ctrl" if i % 2 else "stim" for i in range(a.n_obs)]  # has a control, and no genes
    a.write_h5ad(tmp_path / "screen.h5ad")
    _, lines = doctor(capsys, tmp_path / "screen.h5ad")
    assert "screen: guide_target like perturbed features" in lines
    words = "--from guide_target=non-targeting --truth guide_target -o screen.tsv"
    assert lines[-2] == f"or: mocli perturb {tmp_path / 'screen.h5ad'} {words}"


def test_a_multiome_is_ready(demo, capsys):
    code, lines = doctor(capsys, demo / "multiome.h5mu")
    assert (code, lines[-1]) == (0, "ready")
    assert len(lines) == 10
    text = "\n".join(lines)
    for words in (
        "rna: 80 cells x 400 rna features",
        "X (counts)",
        "positions, such as chr1:",
        "columns: batch (2) like batches; cell_type (6) like labels",
        "cells: paired (all 80 cell names are shared); model: multigrate (",
        "--batch-key batch --label-key cell_type",
        "would use counts of X, as they are",
    ):
        assert words in text
    assert "likelihood" not in text
    assert "transform" not in text


def test_unpaired_files_are_told_to_build_links_first(demo, capsys):
    code, lines = doctor(capsys, demo / "rna.h5ad", demo / "prot.h5ad")
    assert code == 0
    prot, rna = demo / "prot.h5ad", demo / "rna.h5ad"
    assert any(line.startswith(f"first: mocli links build {prot} {rna} ") for line in lines)
    assert "--links links.tsv" in lines[-2]


def test_unpaired_files_are_corrected_by_batches_that_one_of_them_has(demo, tmp_path, capsys):
    cells = ad.read_h5ad(demo / "rna.h5ad")
    del cells.obs["batch"]
    cells.write_h5ad(tmp_path / "rna.h5ad")
    _, lines = doctor(capsys, tmp_path / "rna.h5ad", demo / "prot.h5ad")
    assert "--batch-key batch" in lines[-2]


def made(folder, name, x, index, **layers):
    adata = ad.AnnData(sparse.csr_matrix(x.astype(np.float32)))
    adata.obs_names, adata.var_names = index, [f"ENSG{k:011d}" for k in range(x.shape[1])]
    for layer, values in layers.items():
        adata.layers[layer] = sparse.csr_matrix(values.astype(np.float32))
    adata.write_h5ad(folder / name)
    return folder / name


def test_what_looks_wrong_is_said(tmp_path, capsys):
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.3, (60, 40)) + (rng.random((60, 40)) < 0.02)
    path = made(tmp_path, "rna.h5ad", np.log1p(counts * 1.7), [str(k) for k in range(60)], umis=counts)
    code, lines = doctor(capsys, path)
    text = "\n".join(lines)
    assert "counts are in umis and not in X: --layer rna=umis" in text
    assert "Ensembl identifiers of human" in text
    assert "running numbers" in text
    assert "raw matrix" in text
    assert (code, lines[-1] == "ready") in {(0, True), (3, False)}


def test_the_cause_of_values_that_are_no_counts_is_told(tmp_path, capsys):
    """As SoupX leaves counts: without the share of ambient RNA."""
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.gamma(0.5, 30.0, 40), (60, 40)) * rng.uniform(0.6, 0.95, (60, 40))
    _, lines = doctor(capsys, made(tmp_path, "rna.h5ad", x, [f"c{k}" for k in range(60)]))
    (look,) = (line for line in lines if line.startswith("  look: "))
    assert "X looks like fractions" in look
    assert "SoupX" in look
    assert "--round" in look


def test_running_numbers_of_two_files_pair_no_cells_here_either(tmp_path, capsys):
    x = np.random.default_rng(0).poisson(1.0, (60, 40))
    files = [made(tmp_path, name, x, [str(k) for k in range(60)]) for name in ("rna.h5ad", "prot.h5ad")]
    _, lines = doctor(capsys, *files)
    assert any(line.startswith("cells: unpaired (names of cells are running numbers") for line in lines)


def labelled(folder, **columns):
    path = made(
        folder, "rna.h5ad", np.random.default_rng(0).poisson(4.0, (60, 40)), [f"c{k}" for k in range(60)]
    )
    adata = ad.read_h5ad(path)
    for name, levels in columns.items():
        adata.obs[name] = np.resize(levels, 60)
    adata.write_h5ad(path)
    return path


def test_a_batch_that_lies_in_conditions_is_not_to_be_corrected_for(tmp_path, capsys):
    path = labelled(tmp_path, condition=["ctrl", "stim"], batch=["c1", "s1", "c2", "s2"])
    _, lines = doctor(capsys, path)
    assert "columns: batch (4) like batches; condition (2) like conditions; none like labels" in lines
    nested = (
        "each level of obs['batch'] lies in one level of obs['condition']: correcting for it also removes "
    )
    (look,) = (line for line in lines if line.startswith("  look: each"))
    assert look.startswith(f"  look: {nested}")
    assert lines[-2] == f"next: mocli integrate {path} -o out.h5mu"
    path = labelled(tmp_path, condition=["ctrl", "stim"], batch=["c1", "s1"], donor=["a", "a", "b", "b"])
    assert "--batch-key donor" in doctor(capsys, path)[1][-2]
    words = ["integrate", str(path), "-o", str(tmp_path / "out.h5mu"), "--batch-key"]
    main([*words, "batch", "--dry-run"])
    said = capsys.readouterr().out
    assert "batch: obs['batch'], 2 levels: c1 (30), s1 (30)" in said
    assert nested in said
    main([*words, "donor", "--dry-run"])
    assert "each level of" not in capsys.readouterr().out
    quick = ["--max-steps", "1", "--n-latent", "4", "--metrics", "none", "--no-html", "--no-umap"]
    assert main([*words, "batch", *quick]) == 0
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert [w for w in report["warnings"] if w.startswith(nested)]


def test_labels_are_counted_as_a_run_does(tmp_path, capsys):
    path = labelled(tmp_path, cell_type_gated=["B", "T", "unassigned"], batch=["1", "2", "NA"])
    columns = "columns: batch (2) like batches; cell_type_gated (2) like labels"
    assert columns in doctor(capsys, path)[1]


def test_what_stops_a_run_is_to_be_mended(demo, tmp_path, capsys):
    (tmp_path / "x.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    code, lines = doctor(capsys, tmp_path / "x.h5ad")
    assert code == 3
    assert lines[0] == "to mend:"
    assert "x.h5ad" in lines[1]
    assert doctor(capsys, tmp_path / "absent.h5ad")[0] == 3
    assert look_at([str(demo / "rna.h5ad")]).problems == []


def test_as_json(demo, capsys):
    main(["doctor", str(demo / "prot.h5ad"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["modalities"][0]["kind"] == "prot"
    assert found["modalities"][0]["labels"] == {"cell_type": 6}


def test_names_that_agree_but_for_what_tools_add():
    first = [f"{b}-1" for b in ("ACGTACGTACGT", "TTTTCCCCAAAA", "GGGGACGTACGT")]
    assert agreeing_names(first, [n.removesuffix("-1") for n in first]) == (0, 3)
    assert agreeing_names(first, [f"donor1_{n}_2" for n in first]) == (0, 3)
    assert agreeing_names(first, first) == (3, 3)
    assert agreeing_names(["cell_1", "cell_2"], ["cell_3", "cell_4"])[0] == 0
