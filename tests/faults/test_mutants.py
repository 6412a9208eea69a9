"""Damaged inputs end in an answer: a documented exit code, one message, no traceback, no hang, no rest."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mutants import mutate

import mocli
from mocli.__main__ import main

PROMISED = {0, 2, 3, 4, 5, 137}
PATIENCE = 60.0
MEMORY = 6 << 30
QUICK = 12  # mutants a format in the default suite
MANY = int(os.environ.get("MOCLI_TEST_MUTANTS", "150"))

GTF = 'chr1\tx\tgene\t{start}\t{end}\t.\t+\t.\tgene_id "E{i}"; gene_name "GENE{i}";\n'
TRAIN = [
    "--max-steps",
    "2",
    "--no-html",
    "--threads",
    "1",
    "--device",
    "cpu",
    "-s",
    "n_hidden=8",
    "--n-latent",
    "4",
]


@pytest.fixture(scope="module")
def good(unpaired, paired, tmp_path_factory):
    """Folder with a good file of each format, and a model's folder."""
    folder = tmp_path_factory.mktemp("good")
    for name in ("rna.h5ad", "prot.h5ad", "links.tsv"):
        shutil.copy(unpaired / name, folder / name)
    shutil.copy(paired / "data.h5mu", folder / "data.h5mu")
    (folder / "genes.gtf").write_text(
        "".join(GTF.format(i=i, start=1000 * i + 1, end=1000 * i + 500) for i in range(50))
    )
    (folder / "sets.gmt").write_text(
        "".join(f"S{j}\tna\t" + "\t".join(f"GENE{i}" for i in range(j, j + 9)) + "\n" for j in range(9))
    )
    (folder / "run.yaml").write_text(
        "links: [links.tsv]\nmodel: scmodal\nmax-steps: 2\nseed: 1\nset: [n_hidden=8]\n"
    )
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
    (folder / "o.h5mu").unlink()
    return folder


def command(kind: str, folder: Path, out: Path) -> list[str]:
    pair = [str(folder / "rna.h5ad"), str(folder / "prot.h5ad")]
    integrate = ["integrate", *pair, "--links", str(folder / "links.tsv"), "-m", "scmodal", "-o", str(out)]
    return {
        "h5ad": integrate,
        "tsv": integrate,
        "yaml": ["integrate", *pair, "--config", str(folder / "run.yaml"), "-o", str(out)],
        "h5mu": ["integrate", str(folder / "data.h5mu"), "-m", "multigrate", "-o", str(out)],
        "gtf": [
            "links",
            "build",
            str(folder / "rna.h5ad"),
            str(folder / "rna.h5ad"),
            "--gtf",
            str(folder / "genes.gtf"),
            "-o",
            str(out),
        ],
        "gmt": [*integrate[:-4], "-m", "sccross", "--gene-sets", str(folder / "sets.gmt"), "-o", str(out)],
        "model": [
            "impute",
            str(folder / "data.h5mu"),
            "--from-model",
            str(folder / "o.model"),
            "--from",
            "rna",
            "--to",
            "prot",
            "--cells",
            "all",
            "-o",
            str(out),
        ],
    }[kind]


FILES = {
    "h5ad": "rna.h5ad", "tsv": "links.tsv", "yaml": "run.yaml", "h5mu": "data.h5mu", "gtf": "genes.gtf",
    "gmt": "sets.gmt", "model": "o.model",
}  # fmt: skip


def in_child(argv: list[str], said: Path, cwd: Path) -> int:
    """Exit code of a command in a forked process, -9 where it does not end in time."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(cwd)
        sink = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        code = 99
        with suppress(BaseException):
            code = main(argv)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -9


def try_mutant(kind: str, seed: int, good: Path, work: Path, *, dry: bool) -> tuple[int, str, str]:
    """Exit code, what was damaged and what is wrong with the answer (empty if nothing)."""
    folder = work / f"{kind}{seed}"
    shutil.copytree(good, folder)
    done = mutate(folder / FILES[kind], FILES[kind].rpartition(".")[2], random.Random(f"{kind}{seed}"))
    out = folder / ("out.tsv" if kind == "gtf" else "out.h5mu")
    argv = command(kind, folder, out)
    extra = (
        []
        if kind == "gtf"
        else ["--dry-run", "--no-html"]
        if dry
        else TRAIN
        if kind != "model"
        else TRAIN[2:7]
    )
    code = in_child([*argv, *extra], folder / "said.txt", folder)
    said = (folder / "said.txt").read_text(errors="replace")
    wrong = ""
    if code not in PROMISED:
        wrong = f"exit {code}"
    elif "Traceback" in said:
        wrong = "a traceback"
    elif code and out.exists():
        wrong = "a result of a run that failed"
    elif "\x1b" in said:
        wrong = "a raw escape"
    elif [p for p in folder.iterdir() if p.name.endswith(".tmp")]:
        wrong = "a temporary file is left"
    answer = f"{kind} {seed} ({done}): {wrong}: {said[-300:]}" if wrong else ""
    shutil.rmtree(folder)
    return code, done, answer


@pytest.mark.parametrize("kind", list(FILES))
def test_a_damaged_file_gets_an_answer(kind, good, tmp_path):
    answers = [try_mutant(kind, seed, good, tmp_path, dry=True) for seed in range(QUICK)]
    wrong = [answer for _, _, answer in answers if answer]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(FILES))
def test_many_damaged_files_get_an_answer_and_a_dry_run_keeps_its_promise(kind, good, tmp_path):
    wrong, promised, kept = [], 0, 0
    for seed in range(QUICK, QUICK + MANY):
        code, done, answer = try_mutant(kind, seed, good, tmp_path, dry=True)
        wrong += [answer] if answer else []
        if code == 0 and kind != "gtf":
            promised += 1
            real, _, answer = try_mutant(kind, seed, good, tmp_path, dry=False)
            wrong += [answer] if answer else []
            kept += real == 0
            if real:
                wrong.append(f"{kind} {seed} ({done}): the dry run passed, the run ended with {real}")
    assert wrong == [], "\n".join([f"{len(wrong)} of {MANY}; {kept} of {promised} promises kept", *wrong])
