"""Every bad input through the command line: one message, the documented code, a report, nothing else left."""

import json
import os
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli import log
from mocli.__main__ import main
from mocli.report.file import validate

SMALL = ["-s", "n_hidden=8", "-s", "n_neighbors=3", "--batch-size", "16", "--n-latent", "3"]
QUICK = ["--max-steps", "3", "--no-html", "--threads", "1", "--device", "cpu"]


@pytest.fixture
def data(unpaired, tmp_path):
    """Copies to spoil."""
    folder = tmp_path / "data"
    shutil.copytree(unpaired, folder)
    return folder


class Ended:
    """A command that has ended."""

    def __init__(self, code, out, err, report, folder):
        self.code, self.out, self.err, self.report, self.folder = code, out, err, report, folder

    @property
    def error(self):
        return self.report["error"]


@pytest.fixture
def call(data, tmp_path, capsys):
    """Run `mocli integrate` in this process into an empty folder."""

    def run(*args, rna="rna.h5ad", prot="prot.h5ad", links="links.tsv", inputs=None, output=None):
        folder = tmp_path / "out"
        folder.mkdir(exist_ok=True)
        output = output or folder / "o.h5mu"
        inputs = [data / rna, data / prot] if inputs is None else inputs
        tables = [] if links is None else ["--links", data / links]
        argv = ["integrate", *inputs, *tables, "-o", output, *QUICK, *SMALL, *args]
        code = main([str(a) for a in argv])
        log.teardown()
        captured = capsys.readouterr()
        path = output.with_name(output.stem + ".report.json")
        report = json.loads(path.read_text()) if path.exists() else None
        if report is not None:
            validate(report)
        return Ended(code, captured.out, captured.err, report, folder)

    return run


@pytest.fixture
def refused(call):
    """Run a command that must fail; check everything that all failures share."""

    def check(code, *args, kind="input", **options):
        ended = call(*args, **options)
        assert ended.code == code
        assert ended.out == ""
        assert ended.err.count("mocli: error:") == 1
        assert "Traceback" not in ended.err
        assert ended.report["status"] == "error"
        assert ended.error["kind"] == kind
        assert ended.error["exit_code"] == code
        message = ended.err.split("mocli: error: ")[1]
        for part in ("message", "file", "field", "found", "expected", "hint"):
            if ended.error[part] is not None:
                assert ended.error[part] in message
        assert ended.error["hint"] or ended.error["expected"]
        assert ended.report["outputs"] == []
        assert {p.name for p in ended.folder.iterdir()} <= {"o.report.json", "o_mqc.json", "o.log"}
        log_text = (ended.folder / "o.log").read_text() if (ended.folder / "o.log").exists() else None
        assert log_text is None or ended.error["message"] in log_text
        return ended.error

    return check


def spoil(path, change):
    a = ad.read_h5ad(path)
    a = change(a) or a
    a.write_h5ad(path)


# files


def test_not_hdf5(refused, data):
    (data / "rna.h5ad").write_text("gene,c1,c2\nCD4,1,2\n")
    error = refused(3)
    assert error["file"] == str(data / "rna.h5ad")
    assert "is not HDF5" in error["message"]
    assert "text" in error["found"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated(refused, data, share):
    whole = (data / "prot.h5ad").read_bytes()
    (data / "prot.h5ad").write_bytes(whole[: int(len(whole) * share)])
    error = refused(3)
    assert error["file"] == str(data / "prot.h5ad")
    assert "truncated" in str(error)


def test_damaged_in_the_middle_of_the_matrix(refused, data):
    """What the sample of rows does not meet is met when the whole is read."""
    with h5py.File(data / "rna.h5ad", "r+") as h5:
        del h5["X/indices"]
        h5["X/indices"] = np.full(h5["X/data"].shape[0], 10**6)
    error = refused(3)
    assert error["file"] == str(data / "rna.h5ad")
    assert error["field"].startswith("X")


def test_absent(refused, data):
    error = refused(3, rna="rma.h5ad")
    assert "does not exist" in error["message"]
    assert error["hint"].startswith("did you mean 'rna.h5ad'")


def test_missing_modality(refused, paired):
    error = refused(3, inputs=[f"{paired / 'data.h5mu'}::protein_x", paired / "data.h5mu"])
    assert "no modality 'protein_x'" in error["message"]
    assert error["field"] == "::protein_x"
    assert error["found"] == "rna, prot"


@pytest.mark.parametrize(("asked", "hint"), [("count", "counts"), ("spliced", "layers")])
def test_missing_layer(refused, data, asked, hint):
    spoil(data / "rna.h5ad", lambda a: a.layers.update(counts=a.X.copy()))
    error = refused(3, "--layer", f"rna={asked}")
    assert error["message"] == f"'rna' has no layer '{asked}'"
    assert error["field"] == f"layers['{asked}']"
    assert error["found"] == "X, counts"
    assert hint in error["hint"]


# values


def put(value, row=40, sample=True):
    def change(a):
        x = a.X.toarray()
        x[0 if sample else row, 3] = value
        a.X = sparse.csr_matrix(x)

    return change


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "missing values (NaN)"), (np.inf, "infinite values"), (-1.0, "negative")]
)
@pytest.mark.parametrize("name", ["rna", "prot"])
def test_values_that_cannot_be(refused, data, value, words, name):
    spoil(data / f"{name}.h5ad", put(value))
    error = refused(3)
    assert words in error["message"] + error["found"]
    assert error["file"] == str(data / f"{name}.h5ad")
    assert error["field"] == "X"
    if value != -1.0:  # the place is named
        assert f"({name[0]}0, {'GENE3' if name == 'rna' else 'Prot3'})" in error["found"]


def test_a_negative_value_beyond_the_sample(refused, data):
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, (2000, 50)).astype(np.float32)
    x[1234, 5] = -2
    obs = pd.DataFrame(index=[f"r{i}" for i in range(2000)])
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(50)])
    ad.AnnData(sparse.csr_matrix(x), obs, var).write_h5ad(data / "rna.h5ad")
    error = refused(3)
    assert "(r1234, GENE5)" in error["found"]
    assert error["expected"] == "values >= 0"


def test_scaled_values_name_the_way_out(refused, call, data):
    def scale(a):
        a.X = a.X.toarray() - 1.0

    spoil(data / "prot.h5ad", scale)
    assert "--transform prot=identity" in refused(3)["hint"]
    shutil.rmtree(data.parent / "out")
    assert call("--transform", "prot=identity").code == 0


def test_log_values_where_counts_are_required(refused, call, data):
    def log_it(a):
        a.layers["raw_counts"] = a.X.copy()
        a.X = a.X.log1p()

    spoil(data / "rna.h5ad", log_it)
    error = refused(3, "--transform", "rna=lognorm")
    assert error["message"] == "'rna' needs counts"
    assert error["field"] == "X"
    assert "log-normalised" in error["found"]
    assert error["hint"] == "layers['raw_counts'] would do: --layer rna=raw_counts"
    shutil.rmtree(data.parent / "out")
    assert call("--transform", "rna=lognorm", "--layer", "rna=raw_counts").code == 0


def test_log_values_and_no_counts_anywhere(refused, data):
    def log_it(a):
        a.X = a.X.log1p()

    spoil(data / "rna.h5ad", log_it)
    assert "no other layer" in refused(3, "--transform", "rna=counts")["hint"]


def test_cells_without_any_signal_are_counted_and_handled(call, data):
    def empty(a):
        x = a.X.toarray()
        x[[3, 10, 11]] = 0
        a.X = sparse.csr_matrix(x)

    spoil(data / "rna.h5ad", empty)
    ended = call()
    assert ended.code == 0
    assert [i["n_empty"] for i in ended.report["inputs"]] == [3, 0]
    assert any("3 of 70 cells" in w for w in ended.report["warnings"])
    assert "3 of 70 cells" in ended.err
    assert_finite(ended.folder / "o.h5mu")


def assert_finite(path):
    with h5py.File(path) as h5:
        assert np.isfinite(h5["obsm/X_scmodal"][()]).all()


def test_a_modality_of_zeros(call, data):
    def nothing(a):
        a.X = sparse.csr_matrix(a.shape, dtype=np.float32)

    spoil(data / "prot.h5ad", nothing)
    ended = call()
    assert ended.code == 0
    assert ended.report["inputs"][1]["n_empty"] == 60
    assert_finite(ended.folder / "o.h5mu")


def test_constant_features_are_counted_and_handled(call, data):
    def constant(a):
        x = a.X.toarray()
        x[:, :4] = [[0, 1, 2, 3]]
        a.X = sparse.csr_matrix(x)

    spoil(data / "prot.h5ad", constant)
    ended = call()
    assert ended.code == 0
    assert any("4 features are constant" in w for w in ended.report["warnings"])
    assert_finite(ended.folder / "o.h5mu")


# cells


def test_repeated_cell_names(refused, data):
    with h5py.File(data / "rna.h5ad", "r+") as h5:
        h5["obs/_index"][5] = "r4"
    error = refused(3)
    assert "repeated cell names" in error["message"]
    assert error["field"] == "obs_names"
    assert "'r4'" in error["found"]


def test_one_cell(refused, data):
    spoil(data / "prot.h5ad", lambda a: a[:1].copy())
    error = refused(3)
    assert error["message"] == "'prot' has one cell"
    assert error["file"] == str(data / "prot.h5ad")


@pytest.mark.parametrize("n", [2, 5])
def test_very_few_cells_run_through(call, data, n):
    for name in ("rna", "prot"):
        spoil(data / f"{name}.h5ad", lambda a: a[:n].copy())
    ended = call("--label-key", "cell_type", "--umap")
    assert ended.code == 0
    assert any("fewer than a minibatch" in w for w in ended.report["warnings"])
    assert_finite(ended.folder / "o.h5mu")


def test_one_modality(refused, data):
    error = refused(2, "-m", "scmodal", inputs=[data / "rna.h5ad"], kind="usage")
    assert "needs at least 2 modalities, got 1" in str(error)
    assert "multigrate" in error["hint"]


# links


def test_no_links(refused):
    for model in ("multigrate", "scmodal"):
        error = refused(2, "-m", model, links=None, kind="usage")
        assert error["hint"] == "give a feature-link table with --links: mocli links build makes one"


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "rna\tprot\n"])
def test_an_empty_table(refused, data, text):
    (data / "links.tsv").write_text(text)
    error = refused(3)
    assert error["file"] == str(data / "links.tsv")
    assert "empty" in error["message"] or "no links" in error["message"]


def test_a_table_that_is_absent_or_a_folder(refused, data):
    error = refused(3, links="lnks.tsv")
    assert "does not exist" in error["message"]
    assert error["hint"] == "did you mean 'links.tsv'?"
    (data / "folder").mkdir()
    assert refused(3, links="folder")["file"] == str(data / "folder")


def linked(data, rows, header="rna\tprot"):
    (data / "links.tsv").write_text("\n".join([header, *("\t".join(r) for r in rows)]) + "\n")


def test_links_that_match_nothing_name_the_nearest(refused, data):
    linked(data, [(f"GENES{i}", f"Prot{i}") for i in range(5)])
    error = refused(3)
    assert "no link matches" in error["message"]
    assert "'GENES0' (nearest: 'GENE0')" in error["found"]
    assert error["file"] == str(data / "links.tsv")


def test_links_with_swapped_columns(refused, data):
    linked(data, [(f"Prot{i}", f"GENE{i}") for i in range(5)])
    assert "swapped" in refused(3)["hint"]


def test_links_by_another_kind_of_name(refused, data):
    linked(data, [(f"ENSG{i:011d}", f"Prot{i}") for i in range(5)])
    assert "Ensembl ids stand in the table" in refused(3)["hint"]


def test_links_in_a_column_of_var_that_repeats(refused, data):
    def alias(a):
        a.var["symbol"] = [f"S{i // 2}" for i in range(a.n_vars)]

    spoil(data / "rna.h5ad", alias)
    linked(data, [(f"S{i}", f"Prot{i}") for i in range(5)])
    assert "--var-key symbol" in refused(3)["hint"]


def test_links_that_differ_in_case_or_stand_in_another_column_match(call, data):
    def alias(a):
        a.var["gene_id"] = [f"ENSG{i:011d}" for i in range(a.n_vars)]

    spoil(data / "rna.h5ad", alias)
    linked(data, [(f"ENSG{i:011d}", f"PROT{i}") for i in range(5)])
    ended = call()
    assert ended.code == 0
    assert ended.report["links"][0]["n_matched"] == 5
    assert "5 names found by another column of var, e.g. 'ENSG00000000000' is 'GENE0'" in ended.err
    assert "'PROT0' is 'Prot0'" in ended.err


def test_chromosomes_with_and_without_chr(refused, call, data):
    def peaks(a):
        a.var_names = [f"chr1-{1000 * i}-{1000 * i + 500}" for i in range(a.n_vars)]

    spoil(data / "prot.h5ad", peaks)
    inputs = [data / "rna.h5ad", f"atac={data / 'prot.h5ad'}"]
    linked(data, [(f"GENE{i}", f"1:{1000 * i}-{1000 * i + 500}") for i in range(5)], "rna\tatac")
    ended = call(inputs=inputs)
    assert ended.code == 0
    assert ended.report["links"][0]["n_matched"] == 5
    shutil.rmtree(ended.folder)
    linked(data, [(f"GENE{i}", f"chr2:{1000 * i}-{1000 * i + 500}") for i in range(5)], "rna\tatac")
    assert "chromosome" in refused(3, inputs=inputs)["hint"]


def test_links_of_modalities_that_are_not_loaded(refused, data):
    linked(data, [("GENE1", "peak1")], "rna\tatac")
    error = refused(3)
    assert "atac" in str(error)


def test_a_weight_that_is_none(refused, data):
    linked(data, [("GENE1", "Prot1", "-0.5")], "rna\tprot\tweight")
    error = refused(3)
    assert error["field"] == "line 2, column 3"
    assert "sign -1" in error["hint"]


# columns


@pytest.mark.parametrize("option", ["--label-key", "--batch-key", "--pair-key"])
def test_a_column_that_is_absent(refused, option):
    error = refused(3, option, "cel_type")
    assert f"no modality has the column 'cel_type' of {option}" in error["message"]
    assert error["field"] == "obs['cel_type']"
    assert error["hint"] == "did you mean 'cell_type'?"


def test_a_var_column_that_is_absent(refused):
    assert refused(3, "--var-key", "symbol")["field"] == "var['symbol']"


# options


def test_unknown_hyper_parameter(refused):
    error = refused(2, "-m", "scmodal", "-s", "n_hiden=3", kind="usage")
    assert "no hyper-parameter 'n_hiden'" in error["message"]
    assert "did you mean 'n_hidden'?" in error["hint"]


def test_a_hyper_parameter_out_of_range(refused):
    error = refused(2, "-s", "weight_mnn=-1", kind="usage")
    assert error["field"] == "--set weight_mnn"
    assert error["found"] == "-1"


def test_unknown_transform_and_modality(refused):
    assert "did you mean 'lognorm'" in refused(2, "--transform", "rna=lognrm", kind="usage")["hint"]
    assert "did you mean 'prot'" in refused(2, "--hvg", "prt=100", kind="usage")["hint"]


def test_hvg_where_no_features_are_chosen(refused, data):
    def peaks(a):
        a.var_names = [f"chr1-{1000 * i}-{1000 * i + 500}" for i in range(a.n_vars)]

    spoil(data / "prot.h5ad", peaks)
    linked(data, [("GENE1", "chr1-1000-1500"), ("GENE2", "chr1-2000-2500")], "rna\tatac")
    inputs = [data / "rna.h5ad", f"atac={data / 'prot.h5ad'}"]
    error = refused(2, "--hvg", "atac=20", inputs=inputs, kind="usage")
    assert "--hvg has no effect on atac" in error["message"]
    error = refused(2, "--seen-in", "atac=0.1", inputs=inputs, kind="usage")
    assert "--seen-in has no effect on atac" in error["message"]


def test_no_feature_is_seen_in_enough_cells(refused, data):
    def thin(a):
        a.X = np.eye(*a.shape, dtype=np.float32)

    spoil(data / "rna.h5ad", thin)
    error = refused(3, "--seen-in", "rna=0.9", kind="input")
    assert "no feature of rna" in error["message"]


def test_an_unknown_model_is_refused_before_there_is_a_run(call):
    """The command line itself is wrong, so there is no run to report on."""
    ended = call("-m", "scmodle")
    assert ended.code == 2
    assert "did you mean 'scmodal'?" in ended.err
    assert "Traceback" not in ended.err
    assert list(ended.folder.iterdir()) == []


# the environment


def test_cuda_without_cuda(refused, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = refused(4, "--device", "cuda", kind="environment")
    assert "'cuda' is not available" in error["message"]
    assert "--device cpu" in error["hint"]


def test_the_output_exists(call, tmp_path):
    first = call()
    assert first.code == 0
    before = {p: p.read_bytes() for p in first.folder.rglob("*") if p.is_file()}
    second = call("--seed", "1")
    assert second.code == 2
    assert "the output exists" in second.err
    assert "--force" in second.err
    failed = first.folder / "o.failed.report.json"
    report = json.loads(failed.read_text())
    validate(report)
    assert (report["status"], report["error"]["exit_code"]) == ("error", 2)
    after = {p: p.read_bytes() for p in first.folder.rglob("*") if p.is_file() and p != failed}
    assert after == before
    assert call("--seed", "1", "--force").code == 0


def test_an_output_of_somebody_else_exists(refused, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "o.h5mu").write_text("mine")
    with pytest.raises(AssertionError):  # the file that was there is still there
        refused(2, kind="usage")
    assert (tmp_path / "out" / "o.h5mu").read_text() == "mine"
    assert json.loads((tmp_path / "out" / "o.report.json").read_text())["status"] == "error"


def test_the_folder_of_the_output_is_absent(call, tmp_path):
    ended = call("--report", tmp_path / "r.json", output=tmp_path / "uot" / "o.h5mu")
    assert ended.code == 4
    assert "folder is not there" in ended.err
    assert "mkdir -p" in ended.err
    report = json.loads((tmp_path / "r.json").read_text())
    validate(report)
    assert (report["status"], report["error"]["kind"]) == ("error", "environment")


@pytest.mark.skipif(not Path("/proc/self").is_dir() and os.geteuid() == 0, reason="nothing is closed to root")
def test_the_folder_of_the_output_is_closed(call, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    if os.geteuid() == 0:  # to root, only the kernel's own folder is closed
        closed = Path("/proc")
    ended = call("--report", tmp_path / "r.json", output=closed / "o.h5mu")
    assert ended.code == 4
    assert "cannot be written to" in ended.err
    assert "Traceback" not in ended.err
    assert json.loads((tmp_path / "r.json").read_text())["error"]["exit_code"] == 4
    assert not (closed / "o.h5mu").exists()


def test_the_folder_of_the_report_is_absent(call, tmp_path):
    """Said before training, not after it."""
    ended = call("--report", tmp_path / "nowhere" / "r.json")
    assert ended.code == 4
    assert "folder is not there" in ended.err
    assert "step" not in ended.err


def test_the_output_is_no_h5mu_or_a_folder(call, tmp_path):
    ended = call(output=tmp_path / "out" / "o.txt")
    assert ended.code == 2
    assert "-o o.h5mu" in ended.err
    (tmp_path / "out" / "o.h5mu").mkdir()
    ended = call()
    assert ended.code == 2
    assert "is a folder" in ended.err


@pytest.mark.parametrize("option", ["--report", "-o"])
def test_an_input_is_never_written_over(call, data, paired, option):
    if option == "--report":
        before = (data / "rna.h5ad").read_bytes()
        ended = call("--report", data / "rna.h5ad", "--force")
        assert (data / "rna.h5ad").read_bytes() == before
    else:
        shutil.copy(paired / "data.h5mu", data / "d.h5mu")
        before = (data / "d.h5mu").read_bytes()
        ended = call("--force", inputs=[data / "d.h5mu"], output=data / "d.h5mu")
        assert (data / "d.h5mu").read_bytes() == before
    assert ended.code == 2
    assert "its own input" in ended.err
    assert list(ended.folder.iterdir()) == []


def test_a_full_disk_is_no_bug(call, data, monkeypatch):
    import errno

    import mocli.tasks.trained.train as training

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "o.model")

    monkeypatch.setattr(training, "save_model", full)
    ended = call()
    assert ended.code == 4
    assert (ended.error["kind"], ended.error["exit_code"]) == ("environment", 4)
    assert not (ended.folder / "o.h5mu").exists()


def test_a_loss_that_is_not_finite(call):
    ended = call("-s", "weight_reconstruction=1e38", "-s", "weight_cycle=1e38", "-s", "init_sd=1e6")
    assert ended.code == 5
    assert "Traceback" not in ended.err
    assert ended.report["status"] == "diverged"
    assert ended.error["failed_term"]
    assert not (ended.folder / "o.h5mu").exists()


def test_a_bug_is_called_a_bug(call, monkeypatch):
    import mocli.tasks.trained.train as training

    def broken(*_args, **_options):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(training, "fit", broken)
    ended = call()
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "please report it" in ended.err
    assert (ended.report["status"], ended.error["kind"]) == ("error", "bug")
    assert not (ended.folder / "o.h5mu").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_report_on_stdout(call, data, capsys, fails):
    if fails:
        (data / "links.tsv").write_text("")
    ended = call("--report", "-", "-q")
    report = json.loads(ended.out)
    validate(report)
    assert report["status"] == ("error" if fails else "ok")
    assert ended.report is None


def test_errors_as_one_line_of_json(call, data):
    (data / "links.tsv").write_text("")
    ended = call("--log-format", "json")
    assert ended.code == 3
    entry = json.loads(ended.err.splitlines()[-1])
    assert (entry["level"], entry["kind"]) == ("error", "input")
    assert entry["file"] == str(data / "links.tsv")
