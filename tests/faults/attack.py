"""One damaged input given to one command, in a forked process with limits on time and memory."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from mutants import mutate
from scipy import sparse

import mocli
from mocli import log
from mocli.__main__ import main

PROMISED = {0, 2, 3, 4, 5, 137}
PATIENCE = 60.0
SPACE = 6 << 30
"""Bytes of addresses."""
MOST_HELD = 1 << 30
"""Bytes of the resident set, of a process that starts with some 300 MB of libraries."""

GTF = 'chr1\tx\tgene\t{start}\t{end}\t.\t+\t.\tgene_id "E{i}"; gene_name "GENE{i}";\n'
QUIET = ["--no-html", "--threads", "1", "--device", "cpu"]
TRAIN = [*QUIET, "--max-steps", "2", "-s", "n_hidden=8", "--n-latent", "4"]

FILES = {
    "h5ad": "rna.h5ad",
    "h5mu": "data.h5mu",
    "10x h5": "tenx.h5",
    "TSV": "links.tsv",
    "TSV.gz": "links.tsv.gz",
    "GTF": "genes.gtf",
    "GMT": "sets.gmt",
    "YAML": "run.yaml",
    "model": "o.model",
    "reference": "o.model",
    "query": "data.h5mu",
}
"""What is damaged, by format; a model's folder is read to impute and to map a query."""

WITHOUT_DRY_RUN = {"GTF"}


@dataclass(frozen=True)
class Answer:
    """What a command made of a damaged input; `wrong` is empty where that is as promised."""

    code: int
    damage: str
    wrong: str
    seconds: float
    held: int


def write_good_files(folder: Path, unpaired: Path, paired: Path) -> None:
    """Write a good file of each format, and a model's folder."""
    for name in ("rna.h5ad", "prot.h5ad", "links.tsv"):
        shutil.copy(unpaired / name, folder / name)
    shutil.copy(paired / "data.h5mu", folder / "data.h5mu")
    pd.read_csv(folder / "links.tsv", sep="\t").to_csv(folder / "links.tsv.gz", sep="\t", index=False)
    (folder / "genes.gtf").write_text(
        "".join(GTF.format(i=i, start=1000 * i + 1, end=1000 * i + 500) for i in range(50))
    )
    (folder / "sets.gmt").write_text(
        "".join(f"S{j}\tna\t" + "\t".join(f"GENE{i}" for i in range(j, j + 9)) + "\n" for j in range(9))
    )
    (folder / "run.yaml").write_text(
        "links: [links.tsv]\nmodel: scmodal\nmax-steps: 2\nseed: 1\nset: {n_hidden: 8}\n"
    )
    _write_tenx(paired, folder / "tenx.h5")
    peaks = [f"chr1:{1000 * i}-{1000 * i + 300}" for i in range(40)]
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (60, len(peaks))).astype(np.float32))
    ad.AnnData(
        counts, pd.DataFrame(index=[f"a{i}" for i in range(60)]), pd.DataFrame(index=peaks)
    ).write_h5ad(folder / "atac.h5ad")
    mocli.integrate(
        [folder / "data.h5mu"],
        output=folder / "o.h5mu",
        model="multigrate",
        max_steps=2,
        html=False,
        threads=1,
        device="cpu",
        n_latent=4,
        params={"n_hidden": "8"},
    )
    for rest in folder.glob("o.*"):
        if rest.is_file():
            rest.unlink()


def _write_tenx(paired: Path, path: Path) -> None:
    """Write the cells of both modalities as Cell Ranger 3 does."""
    rna, prot = (ad.read_h5ad(paired / name) for name in ("a.h5ad", "b.h5ad"))
    both = ad.concat([rna, prot], axis=1, merge="first")
    kinds = ["Gene Expression"] * rna.n_vars + ["Antibody Capture"] * prot.n_vars
    x = both.X.tocsr()
    with h5py.File(path, "w") as h5:
        group = h5.create_group("matrix")
        for name, values in (("data", x.data.astype("i4")), ("indices", x.indices), ("indptr", x.indptr)):
            group[name] = values
        group["shape"] = np.array(x.shape[::-1])
        group["barcodes"] = np.array([f"{name}-1" for name in both.obs_names], dtype="S")
        names = np.array(both.var_names, dtype="S")
        for name, texts in (("id", names), ("name", names), ("feature_type", np.array(kinds, dtype="S"))):
            group[f"features/{name}"] = texts


def command(kind: str, folder: Path, out: Path) -> list[str]:
    """Words of the command that reads a file of this format."""
    file, pair = str(folder / FILES[kind]), [str(folder / "rna.h5ad"), str(folder / "prot.h5ad")]
    to, links = ["-o", str(out)], ["--links", str(folder / "links.tsv")]
    model = ["--from-model", str(folder / "o.model"), "--from", "rna", "--to", "prot", "--cells", "all"]
    return {
        "h5ad": ["integrate", *pair, *links, "-m", "scmodal", *to],
        "h5mu": ["integrate", file, "-m", "multigrate", *to],
        "10x h5": ["integrate", file, "-m", "multigrate", *to],
        "TSV": ["integrate", *pair, "--links", file, "-m", "scmodal", *to],
        "TSV.gz": ["integrate", *pair, "--links", file, "-m", "scmodal", *to],
        "GTF": ["links", "build", pair[0], str(folder / "atac.h5ad"), "--gtf", file, *to],
        "GMT": ["integrate", *pair, *links, "-m", "sccross", "--gene-sets", file, *to],
        "YAML": ["integrate", *pair, "--config", file, *to],
        "model": ["impute", str(folder / "data.h5mu"), *model, *to],
        "query": ["impute", file, *model, *to],
        "reference": ["integrate", str(folder / "data.h5mu"), "--reference", file, *to],
    }[kind]


def import_once(good: Path, work: Path) -> None:
    """Run every command here, so that no forked process has to load what it needs."""
    for kind in FILES:
        out = work / f"{kind.replace(' ', '')}{'.tsv' if kind == 'GTF' else '.h5mu'}"
        main([*command(kind, good, out), *_options(kind, dry=False)])
        log.teardown()


def _options(kind: str, *, dry: bool) -> list[str]:
    if kind in WITHOUT_DRY_RUN:
        return []
    if dry:
        return ["--dry-run", "--no-html"]
    return QUIET if kind in {"model", "reference", "query"} else TRAIN


def try_mutant(kind: str, seed: int | None, good: Path, work: Path, *, dry: bool) -> Answer:
    """Damage one input by a seed (None: not at all), run the command on it and look at what it leaves."""
    folder = work / f"{kind.replace(' ', '')}{seed}"
    shutil.copytree(good, folder)
    file = folder / FILES[kind]
    suffix, rng = FILES[kind].removesuffix(".gz").rpartition(".")[2], random.Random(f"{kind}{seed}")
    damage = "" if seed is None else mutate(file, suffix, rng)
    inputs = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out = folder / ("out.tsv" if kind == "GTF" else "out.h5mu")
    said = work / "said.txt"
    begun = time.monotonic()
    code, held = _in_child([*command(kind, folder, out), *_options(kind, dry=dry)], said, folder)
    seconds = time.monotonic() - begun
    text = said.read_text(errors="replace")
    left = {path for path in folder.rglob("*") if path.is_file()} - set(inputs)
    wrong = ""
    if code not in PROMISED:
        wrong = f"exit {code}"
    elif "Traceback" in text:
        wrong = "a traceback"
    elif code and out.exists():
        wrong = "a result of a run that failed"
    elif "\x1b" in text:
        wrong = "a raw escape"
    elif held > MOST_HELD:
        wrong = f"{held >> 20} MiB held"
    elif any(".tmp" in path.name or path.parent.name.endswith(".tmp") for path in left):
        wrong = "a temporary file is left"
    elif dry and kind not in WITHOUT_DRY_RUN and left:
        wrong = f"a dry run wrote {sorted(path.name for path in left)}"
    elif not dry and code == 0 and not out.exists():
        wrong = "no result"
    elif any(not path.exists() or path.read_bytes() != content for path, content in inputs.items()):
        wrong = "an input is changed"
    shutil.rmtree(folder)
    if wrong:
        wrong = f"{kind} {seed} ({damage}): {wrong}: {text[-400:]}"
    return Answer(code, damage, wrong, seconds, held)


def _in_child(argv: list[str], said: Path, cwd: Path) -> tuple[int, int]:
    """Exit code of a command in a forked process, -9 where it does not end in time; bytes held at most."""
    child = os.fork()
    if child == 0:
        os.setsid()
        for name in [name for name in os.environ if name.startswith("MOCLI_TEST_")]:
            del os.environ[name]
        os.chdir(cwd)
        sink = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
        code = 99
        with suppress(BaseException):
            code = main(argv)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -9, 0
