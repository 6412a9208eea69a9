"""Files in: every way a data set comes, against what anndata and scipy say it holds."""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.io import mmwrite

from mocli.data.features.index import FeatureIndex, Features
from mocli.data.files.inputs import open_inputs, sha256
from mocli.data.files.kinds import kind_of, kind_of_features, name_in_stem
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.data.files.source import Source, parse_source
from mocli.data.write.write import Added, write_file
from mocli.errors import InputError, UsageError
from mocli.types import ModalityKind

REAL = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"


def counts(n_obs: int, n_vars: int, seed: int = 0) -> sp.csr_matrix:
    return sp.csr_matrix(np.random.default_rng(seed).poisson(0.4, (n_obs, n_vars)).astype(np.float32))


def adata(n_obs: int = 20, n_vars: int = 6, *, prefix: str = "g", seed: int = 0) -> ad.AnnData:
    obs = pd.DataFrame(
        {"batch": pd.Categorical(["a", "b"] * (n_obs // 2))}, index=[f"c{i}" for i in range(n_obs)]
    )
    return ad.AnnData(
        counts(n_obs, n_vars, seed), obs, pd.DataFrame(index=[f"{prefix}{j}" for j in range(n_vars)])
    )


def mdata(modalities: dict[str, ad.AnnData], path: Path) -> Path:
    with mudata.set_options(pull_on_update=False):
        mudata.MuData(modalities).write_h5mu(path)
    return path


def one(text: object) -> ModalityFile:
    (file,) = open_inputs([str(text)])
    return file


def same(a: sp.spmatrix, b: sp.spmatrix) -> bool:
    return a.shape == b.shape and abs(a - b).nnz == 0


# how a user names an input


@pytest.mark.parametrize(
    ("text", "path", "modality", "name"),
    [
        ("a.h5ad", "a.h5ad", None, None),
        ("a.h5mu::rna", "a.h5mu", "rna", None),
        ("gex=a.h5ad", "a.h5ad", None, "gex"),
        ("gex=a.h5mu::rna", "a.h5mu", "rna", "gex"),
        ("dir/run=1/a.h5ad", "dir/run=1/a.h5ad", None, None),
        ("./run=1/a.h5mu::rna", "./run=1/a.h5mu", "rna", None),
        ("C:\\data\\a.h5ad", "C:\\data\\a.h5ad", None, None),
        ("gex=C:\\data\\x=1\\a.h5mu::rna", "C:\\data\\x=1\\a.h5mu", "rna", "gex"),
        ("my cells=dir/a b.h5ad", "dir/a b.h5ad", None, "my cells"),
    ],
)
def test_a_source_is_split(text: str, path: str, modality: str | None, name: str | None) -> None:
    assert parse_source(text) == Source(text, Path(path), modality, name)


def test_what_exists_as_it_stands_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run=1").mkdir()
    (tmp_path / "run=1" / "a.h5mu").touch()
    (tmp_path / "odd::name.h5ad").touch()
    assert parse_source("run=1/a.h5mu").name is None
    assert parse_source("run=1/a.h5mu::rna") == Source("run=1/a.h5mu::rna", Path("run=1/a.h5mu"), "rna", None)
    assert parse_source("odd::name.h5ad").path == Path("odd::name.h5ad")
    assert parse_source("x=odd::name.h5ad") == Source("x=odd::name.h5ad", Path("odd::name.h5ad"), None, "x")


@pytest.mark.parametrize("text", ["", "  ", "a.h5mu::"])
def test_nothing_is_no_source(text: str) -> None:
    with pytest.raises(UsageError):
        parse_source(text)


# matrices


@pytest.mark.parametrize("layout", ["csr", "csc", "dense", "float64", "int64", "bool"])
def test_every_layout_reads_as_the_same_csr(tmp_path: Path, layout: str) -> None:
    a = adata(300, 9)
    x = a.X.copy()
    if layout == "bool":
        x = x.astype(bool).astype(np.float32)
    a.X = {"csc": x.tocsc, "dense": x.toarray}.get(layout, x.copy)()
    if layout in ("float64", "int64", "bool"):
        a.X = x.astype(layout)
    a.write_h5ad(tmp_path / "rna.h5ad")
    file = one(tmp_path / "rna.h5ad")
    read = file.read()
    assert isinstance(read, sp.csr_matrix)
    assert read.dtype == np.float32
    assert read.indices.dtype == read.indptr.dtype == np.int32
    assert read.has_sorted_indices
    assert same(read, x)
    for rows in (
        slice(3, 9),
        slice(None, None, 7),
        [299, 0, 150, 150],
        np.array([5]),
        np.arange(300)[::-1],
        [],
    ):
        assert same(
            file.read(rows=rows), x[np.arange(300)[rows] if isinstance(rows, slice) else list(rows)]
        ), rows
    assert same(file.sample(n_rows=1000), x)
    sample = file.sample(n_rows=64)
    assert sample.shape == (64, 9)
    assert file.nbytes() == pytest.approx(8 * x.nnz + 4 * 301, rel=0.2 if layout == "dense" else 0)


def test_stored_zeros_and_unsorted_indices_are_put_right(tmp_path: Path) -> None:
    a = adata(4, 5)
    a.X = sp.csr_matrix(
        (np.array([2.0, 0.0, 1.0, 3.0], np.float32), np.array([3, 1, 0, 4]), np.array([0, 3, 3, 4, 4])),
        shape=(4, 5),
    )
    a.write_h5ad(tmp_path / "rna.h5ad")
    x = one(tmp_path / "rna.h5ad").read()
    assert x.data.tolist() == [1, 2, 3]
    assert x.indices.tolist() == [0, 3, 4]


def test_dense_rows_and_csc_columns_are_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mocli.data.files.matrix._BLOCK", 20)
    a = adata(100, 7)
    x = a.X.copy()
    a.layers["dense"], a.layers["csc"] = x.toarray(), x.tocsc()
    a.write_h5ad(tmp_path / "rna.h5ad")
    file = one(tmp_path / "rna.h5ad")
    for layer in ("dense", "csc"):
        assert same(file.read(layer), x)
        assert same(file.read(layer, rows=[90, 3]), x[[90, 3]])


def test_layers_and_raw(tmp_path: Path) -> None:
    a = adata(20, 8)
    whole = a.X.copy()
    a.raw = a.copy()
    a = a[:, ["g5", "g1"]].copy()
    a.layers["log"] = a.X.log1p()
    a.write_h5ad(tmp_path / "rna.h5ad")
    file = one(tmp_path / "rna.h5ad")
    assert file.matrices == ("X", "log", "raw")
    assert same(file.read("raw"), whole[:, [5, 1]])
    assert same(file.read("raw", rows=[4]), whole[[4]][:, [5, 1]])
    assert same(file.read("log"), whole[:, [5, 1]].log1p())
    with pytest.raises(InputError, match="did you mean 'log'") as caught:
        file.read("logs")
    assert caught.value.found == "X, log, raw"


def test_raw_with_other_features_is_no_matrix_of_these(tmp_path: Path) -> None:
    a, b = adata(20, 8), adata(20, 8, prefix="h")
    a.raw = b
    a.write_h5ad(tmp_path / "rna.h5ad")
    assert not one(tmp_path / "rna.h5ad").raw


def test_a_file_without_x(tmp_path: Path) -> None:
    a = adata()
    a.layers["counts"] = a.X.copy()
    a.X = None
    a.write_h5ad(tmp_path / "rna.h5ad")
    file = one(tmp_path / "rna.h5ad")
    assert file.matrices == ("counts",)
    with pytest.raises(InputError, match="no layer 'X'"):
        file.read()


# names and kinds


@pytest.mark.parametrize(
    ("stem", "name", "kind"),
    [
        ("rna", "rna", "rna"),
        ("adt", "adt", "prot"),
        ("pbmc_prot", "prot", "prot"),
        ("GEX", "GEX", "rna"),
        ("adt87_pbmc", "prot", "prot"),
        ("cite_rna", "rna", "rna"),
        ("snATAC-rep1", "atac", "atac"),
        ("cytof_bcrxl", "cyto", "cyto"),
        ("scgem.methylation", "methyl", "methyl"),
        ("rna_atac", "rna_atac", "other"),
        ("sample1", "sample1", "other"),
    ],
)
def test_a_file_names_its_modality(tmp_path: Path, stem: str, name: str, kind: str) -> None:
    adata().write_h5ad(tmp_path / f"{stem}.h5ad")
    file = one(tmp_path / f"{stem}.h5ad")
    assert (file.name, file.kind.value) == (name, kind)


@pytest.mark.parametrize(
    ("stem", "name", "kind"),
    [
        ("rna5k_29adt", "rna", "rna"),
        ("cite", "rna", "rna"),
        ("pbmc_atac", "atac", "atac"),
        ("adt", "adt", "prot"),
    ],
)
def test_genes_in_a_file_named_for_proteins_too(tmp_path: Path, stem: str, name: str, kind: str) -> None:
    genes = adata(n_vars=4)
    genes.var_names = ["MALAT1", "RPL3", "RPS12", "CD4"]
    genes.write_h5ad(tmp_path / f"{stem}.h5ad")
    file = one(tmp_path / f"{stem}.h5ad")
    assert (file.name, file.kind.value) == (name, kind)


def test_aliases() -> None:
    assert {kind_of(n) for n in ("gex", "Gene Expression", "mRNA", "transcriptome")} == {ModalityKind.RNA}
    assert {kind_of(n) for n in ("ADT", "protein", "Antibody Capture", "cite", "abc")} == {ModalityKind.PROT}
    assert {kind_of(n) for n in ("Peaks", "accessibility", "gene_activity")} == {ModalityKind.ATAC}
    assert {kind_of(n) for n in ("cytof", "CODEX", "imc")} == {ModalityKind.CYTO}
    assert {kind_of(n) for n in ("5mC", "meth", "methyl")} == {ModalityKind.METHYL}
    assert kind_of("guides") is ModalityKind.OTHER
    assert name_in_stem("protein_expression") == "prot"


def test_feature_names_tell_regions_and_transcripts() -> None:
    assert kind_of_features(["chr1:10-20", "chrX-5-90", "GL000194.1:3-9"]) is ModalityKind.ATAC
    assert kind_of_features(["ENSG00000141510.16", "ENSG00000012048"]) is ModalityKind.RNA
    assert kind_of_features(["Rpl3", "mt-Co1", "Actb", "Foxp3"]) is ModalityKind.RNA
    assert kind_of_features(["CD3", "HLA-DR", "IgG1", "B2M", "CD45-1-2"]) is ModalityKind.OTHER
    assert kind_of_features([]) is ModalityKind.OTHER


def test_a_users_name_is_kept_and_its_meaning_found(tmp_path: Path) -> None:
    a = adata(prefix="chr1:1-1")
    a.write_h5ad(tmp_path / "sample.h5ad")
    assert one(tmp_path / "sample.h5ad").name == "atac"
    file = one(f"mine={tmp_path / 'sample.h5ad'}")
    assert (file.name, file.kind) == ("mine", ModalityKind.ATAC)
    (file,) = open_inputs([f"mine={tmp_path / 'sample.h5ad'}"], kinds={"mine": ModalityKind.METHYL})
    assert file.kind is ModalityKind.METHYL


def test_names_that_collide(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        adata().write_h5ad(tmp_path / folder / "rna_a.h5ad")
    adata().write_h5ad(tmp_path / "rna_b.h5ad")
    first, second = str(tmp_path / "one" / "rna_a.h5ad"), str(tmp_path / "two" / "rna_a.h5ad")
    assert [f.name for f in open_inputs([first, str(tmp_path / "rna_b.h5ad")])] == ["rna", "rna_b"]
    assert [f.name for f in open_inputs([first, second])] == ["rna", "rna_a"]
    with pytest.raises(UsageError, match="given twice by the same file"):
        open_inputs([first, second, first])
    with pytest.raises(UsageError, match="name one of them: other="):
        open_inputs([first, f"rna={second}"])
    with pytest.raises(UsageError, match="no input"):
        open_inputs([])


def test_mixed_feature_types_are_split_by_column(tmp_path: Path) -> None:
    a = adata(30, 7)
    x = a.X.copy()
    a.var["feature_types"] = [
        "Gene Expression",
        "Antibody Capture",
        "Gene Expression",
        "CRISPR Guide Capture",
    ] + ["Gene Expression"] * 3
    a.layers["log"] = x.log1p().tocsc()
    a.write_h5ad(tmp_path / "mixed.h5ad")
    rna, prot = open_inputs([str(tmp_path / "mixed.h5ad")])
    assert "crispr_guide_capture left out" in rna.notes[0]
    (guides,) = open_inputs([f"{tmp_path / 'mixed.h5ad'}::crispr_guide_capture"])
    assert [f.name for f in (rna, prot, guides)] == ["rna", "prot", "crispr_guide_capture"]
    assert guides.kind is ModalityKind.OTHER
    assert same(rna.read(), x[:, [0, 2, 4, 5, 6]])
    assert same(prot.read("log", rows=[7, 2]), x.log1p()[[7, 2]][:, [1]])
    assert list(rna.var.index) == ["g0", "g2", "g4", "g5", "g6"]
    assert one(f"surface={tmp_path / 'mixed.h5ad'}::adt").name == "surface"
    with pytest.raises(UsageError, match="one name to 2 modalities"):
        open_inputs([f"x={tmp_path / 'mixed.h5ad'}"])


# h5mu


def test_modalities_of_an_h5mu_in_their_order(tmp_path: Path) -> None:
    imputed = adata(8, 3, prefix="q")
    path = mdata(
        {"prot": adata(10, 3, prefix="p"), "gex": adata(20, 6), "prot_imputed": imputed}, tmp_path / "m.h5mu"
    )
    files = open_inputs([str(path)])
    assert [(f.name, f.kind.value, f.group) for f in files] == [
        ("prot", "prot", "/mod/prot"),
        ("gex", "rna", "/mod/gex"),
    ]
    assert one(f"{path}::rna").name == "gex"
    assert one(f"{path}::prot_imputed").n_obs == 8
    with pytest.raises(InputError, match="did you mean 'prot'") as caught:
        open_inputs([f"{path}::prt"])
    assert caught.value.exit_code == 3


def test_columns_of_the_whole_are_joined_by_name_and_the_modality_s_own_win(tmp_path: Path) -> None:
    rna, prot = adata(20, 6), adata(20, 3, prefix="p")[::-1].copy()
    prot = prot[:10].copy()
    with mudata.set_options(pull_on_update=False):
        m = mudata.MuData({"rna": rna, "prot": prot})
        m.obs["n"] = np.arange(20)
        m.obs["batch"] = "top"
        m.obs["rna:stage"] = [f"s{i}" for i in range(20)]
        m.write_h5mu(tmp_path / "m.h5mu")
    r, p = open_inputs([str(tmp_path / "m.h5mu")])
    assert list(r.obs["n"]) == list(range(20))
    assert list(p.obs["n"]) == list(range(19, 9, -1))
    assert list(r.obs["batch"]) == ["a", "b"] * 10
    assert r.obs["stage"].iloc[3] == "s3"
    assert "stage" not in p.obs
    assert "rna:stage" not in p.obs


# columns a user names


def test_a_column_is_found_wherever_it_is(tmp_path: Path) -> None:
    rna, prot = adata(20, 6), adata(20, 3, prefix="p")
    prot.obs["dose"] = 1.0
    files = open_inputs([str(mdata({"rna": rna, "prot": prot}, tmp_path / "m.h5mu"))])
    found = find_column(files, "dose")
    assert found["rna"] is None
    assert found["prot"] is not None
    assert found["prot"].tolist() == [1.0] * 20
    both, mine = find_column(files, "batch"), find_column(files, "rna:batch")
    assert both["prot"] is not None
    assert mine["prot"] is None
    assert mine["rna"] is not None
    with pytest.raises(InputError, match="did you mean 'batch'") as caught:
        find_column(files, "batches", option="--batch-key")
    assert caught.value.found == "batch, dose"


# 10x


def write_tenx(path: Path, x: sp.csr_matrix, types: list[str], *, version: int = 3) -> Path:
    """Cell Ranger's layout: features x cells by column."""
    by_cell = x.astype(np.int32)
    names = [f"n{j}" for j in range(x.shape[1])]
    with h5py.File(path, "w") as h5:
        g = h5.create_group("matrix" if version == 3 else "GRCh38")
        g["barcodes"] = np.array([f"AAAC{i}-1" for i in range(x.shape[0])], dtype="S18")
        g["data"], g["indices"] = by_cell.data, by_cell.indices.astype(np.int64)
        g["indptr"], g["shape"] = by_cell.indptr.astype(np.int64), np.array(x.shape[::-1], dtype=np.int32)
        if version == 2:
            g["genes"], g["gene_names"] = np.array([f"id{n}" for n in names], "S8"), np.array(names, "S8")
        else:
            f = g.create_group("features")
            f["id"], f["name"] = np.array([f"id{n}" for n in names], "S8"), np.array(names, "S8")
            f["feature_type"], f["genome"] = np.array(types, "S20"), np.array(["GRCh38"] * len(names), "S8")
            f["_all_tag_keys"] = np.array(["genome"], "S8")
    return path


def test_10x_version_3_is_split_by_feature_type(tmp_path: Path) -> None:
    x = counts(30, 6)
    types = ["Gene Expression"] * 3 + ["Antibody Capture"] * 2 + ["Peaks"]
    path = write_tenx(tmp_path / "filtered_feature_bc_matrix.h5", x, types)
    rna, prot, atac = open_inputs([str(path)])
    assert [f.kind.value for f in (rna, prot, atac)] == ["rna", "prot", "atac"]
    assert same(rna.read(), x[:, :3])
    assert same(atac.read(rows=[8, 1]), x[[8, 1]][:, [5]])
    assert list(prot.var["gene_ids"]) == ["idn3", "idn4"]
    assert list(prot.obs.index[:2]) == ["AAAC0-1", "AAAC1-1"]
    assert rna.format == "10x"
    scanpy = pytest.importorskip("scanpy")
    assert same(rna.read(), scanpy.read_10x_h5(path, gex_only=True).X)


def test_10x_version_2(tmp_path: Path) -> None:
    x = counts(12, 4)
    file = one(write_tenx(tmp_path / "gex.h5", x, [], version=2))
    assert same(file.read(), x)
    assert list(file.var.columns) == ["gene_ids"]


# files of old versions, written by hand after anndata's history of its format


@pytest.mark.parametrize("frames", ["compound", "references"])
def test_old_files_read(tmp_path: Path, frames: str, write_old) -> None:
    x = write_old(tmp_path / "rna.h5ad", frames=frames)
    file = one(tmp_path / "rna.h5ad")
    assert same(file.read(), x)
    assert list(file.obs.index) == ["c0", "c1", "c2", "c3"]
    if frames == "compound":
        assert list(file.obs["n"]) == [0, 1, 0, 1]
    else:
        assert list(file.obs["kind"]) == ["a", "b", "b", "a"]


def test_a_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"cells" * 100000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"cells" * 100000).hexdigest()


@pytest.mark.real_data
def test_real_files_open_with_the_modalities_they_hold() -> None:
    if not REAL.is_dir():
        pytest.skip("the real data sets are not beside the repository")
    expected = {
        "kang_ifnb_pbmc_labelled.h5ad": ["rna"],
        "pbmc_3tech_labelled.h5ad": ["rna"],
        "papalexi_thp1_crispr.h5ad": ["rna"],
        "adt87_pbmc_kotliarov.h5ad": ["prot"],
        "cytof_bcrxl_stim.h5ad": ["cyto"],
        "scgem_reprogramming.h5mu": ["rna", "methyl"],
        "multiome_pbmc_tiny40.h5mu": ["rna", "atac"],
    }
    for name, modalities in expected.items():
        files = open_inputs([str(REAL / name)])
        assert [f.kind.value for f in files] == modalities, name
        read = (
            ad.read_h5ad(REAL / name) if name.endswith("ad") else mudata.read_h5mu(REAL / name)[modalities[0]]
        )
        oracle = sp.csr_matrix(read.X)
        oracle.eliminate_zeros()
        assert same(files[0].read(), oracle)


def test_hashtags_among_antibodies_are_left_out_unless_the_modality_is_said_to_be_another(tmp_path):
    hashtags = ["HTO-1", "Hashtag_3", "TotalSeqC-Hashtag4", "CMO301", "HTO_A"]
    antibodies = ["CD3", "prot_CD14", "HTOT", "IgG1"]
    x = counts(6, len(hashtags + antibodies))
    adata = ad.AnnData(x, var=pd.DataFrame(index=[*hashtags[:2], *antibodies, *hashtags[2:]]))
    adata.write_h5ad(tmp_path / "prot.h5ad")
    (prot,) = open_inputs([str(tmp_path / "prot.h5ad")])
    assert list(prot.var.index) == antibodies
    assert "5 hashtags left out" in prot.notes[0]
    assert same(prot.read(), x[:, 2:6])
    (every,) = open_inputs([str(tmp_path / "prot.h5ad")], kinds={"prot": ModalityKind.OTHER})
    assert every.n_vars == 9


FEATURES = [
    "E1\tACTB\tGene Expression", "E2\tMALAT1\tGene Expression", "E3\tGAPDH\tGene Expression",
    "p1\tCD3\tAntibody Capture", "p2\tCD4\tAntibody Capture",
]  # fmt: skip


def write_tenx_folder(folder, x, *, prefix="", pack=gzip.compress, features=FEATURES, end=".gz"):
    folder.mkdir()
    stream = io.BytesIO()
    mmwrite(stream, x.T.astype(int))
    (folder / f"{prefix}matrix.mtx{end}").write_bytes(pack(stream.getvalue()))
    barcodes = "\n".join(f"AAACCCAAGA{i}-1" for i in range(x.shape[0]))
    (folder / f"{prefix}barcodes.tsv{end}").write_bytes(pack(barcodes.encode()))
    (folder / f"{prefix}features.tsv{end}").write_bytes(pack("\n".join(features).encode()))


@pytest.mark.parametrize("options", [{}, {"pack": bytes, "end": ""}, {"prefix": "GSM1_"}])
def test_a_folder_of_10x_is_read_and_written(tmp_path, options):
    x = counts(8, 5)
    write_tenx_folder(tmp_path / "filtered", x, **options)
    rna, prot = open_inputs([str(tmp_path / "filtered")])
    assert (rna.name, rna.kind, prot.kind) == ("rna", ModalityKind.RNA, ModalityKind.PROT)
    assert same(rna.read(rows=[3, 1]), x[[3, 1], :3])
    assert same(prot.read(), x[:, 3:])
    name = f"{options.get('prefix', '')}matrix.mtx{options.get('end', '.gz')}"
    assert rna.paths == (tmp_path / "filtered" / name,)
    assert one(f"{rna.path}::prot").n_vars == 2
    write_file(tmp_path / "out.h5mu", [Added(rna), Added(prot)], obsm={}, uns={})
    assert same(mudata.read_h5mu(tmp_path / "out.h5mu")["prot"].X, x[:, 3:])


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    ("promised", "message"),
    [("5 8 4000000000", "cut off"), ("5 4000000000 3", "does not fit"), ("5 8 -3", "cannot be read")],
)
def test_a_matrix_that_promises_more_than_its_file_can_hold_is_not_read(tmp_path, end, promised, message):
    write_tenx_folder(tmp_path / "a", counts(8, 5), pack=gzip.compress if end else bytes, end=end)
    text = f"%%MatrixMarket matrix coordinate integer general\n{promised}\n1 1 1\n".encode()
    (tmp_path / "a" / f"matrix.mtx{end}").write_bytes(gzip.compress(text) if end else text)
    with pytest.raises(InputError, match=message) as error:
        open_inputs([str(tmp_path / "a")])
    assert error.value.exit_code == 3


def test_a_folder_of_10x_that_does_not_fit_is_refused(tmp_path):
    write_tenx_folder(tmp_path / "a", counts(8, 5), features=FEATURES[:4])
    with pytest.raises(InputError, match="does not fit its barcodes and features"):
        open_inputs([str(tmp_path / "a")])
    (tmp_path / "a" / "features.tsv.gz").unlink()
    with pytest.raises(InputError, match=r"features.tsv.gz does not exist"):
        open_inputs([str(tmp_path / "a")])


def test_a_genome_of_several_is_chosen(tmp_path):
    with h5py.File(tmp_path / "two.h5", "w") as h5:
        for genome, n in (("GRCh38", 3), ("mm10", 2)):
            x = counts(4, n)
            g = h5.create_group(genome)
            g["barcodes"] = [f"AAAC{i}-1" for i in range(4)]
            g["genes"], g["gene_names"] = ([f"{genome}_{kind}{j}" for j in range(n)] for kind in "ig")
            g["shape"] = [n, 4]
            for part in ("data", "indices", "indptr"):
                g[part] = getattr(x, part)
    with pytest.raises(InputError, match="several genomes") as error:
        open_inputs([str(tmp_path / "two.h5")])
    assert error.value.hint.endswith("two.h5::GRCh38")
    assert one(f"{tmp_path / 'two.h5'}::mm10").n_vars == 2


def test_genes_behind_a_genome_are_genes():
    names = [f"GRCh38_{name}" for name in ("ACTB", "MALAT1", "GAPDH", "FTL")]
    assert kind_of_features(names) is ModalityKind.RNA
    index = FeatureIndex(Features("rna", ModalityKind.RNA, tuple(names)))
    assert index.find("MALAT1") == (1, "decoration")


@pytest.mark.parametrize("named", [True, False])
def test_a_matrix_of_obsm_is_a_modality(tmp_path, named):
    proteins = np.array([[1, 0], [2, 5], [0, 3]], np.float32)
    cells = [f"c{i}" for i in range(3)]
    adata = ad.AnnData(
        sp.csr_matrix(np.ones((3, 4), np.float32)),
        obs=pd.DataFrame({"batch": ["a", "b", "a"]}, index=cells),
        var=pd.DataFrame(index=["ACTB", "GAPDH", "FTL", "CD3E"]),
    )
    table = pd.DataFrame(proteins, index=cells, columns=["CD3", "CD4"])
    adata.obsm["protein_expression"] = table if named else proteins
    if not named:
        adata.uns["protein_names"] = np.array(["CD3", "CD4"], dtype=object)
    adata.write_h5ad(tmp_path / "cite.h5ad")
    path = f"{tmp_path / 'cite.h5ad'}"
    (rna,) = open_inputs([path])
    assert (rna.name, rna.kind) == ("rna", "rna")
    assert f"add the input {path}::obsm:protein_expression" in rna.notes[0]
    rna, prot = open_inputs([path, f"{path}::obsm:protein_expression"])
    assert not rna.notes  # what is an input is used
    assert (prot.name, prot.kind, list(prot.var.index)) == ("prot", "prot", ["CD3", "CD4"])
    assert np.array_equal(prot.read().toarray(), proteins)
    assert prot.obs["batch"].tolist() == ["a", "b", "a"]
    write_file(tmp_path / "out.h5mu", [Added(rna), Added(prot)], obsm={}, uns={})
    assert np.array_equal(mudata.read_h5mu(tmp_path / "out.h5mu")["prot"].X.toarray(), proteins)
    with pytest.raises(InputError, match="obsm holds no 'adt'"):
        open_inputs([f"{path}::obsm:adt"])
