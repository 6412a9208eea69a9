"""The examples run as they are, with this checkout's mocli."""

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import warm
import yaml

import mocli
from mocli.data.demo import write_demo
from mocli.tasks.benchmark import plan as plantable

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SMALL = "-s n_hidden=16 -s n_neighbors=5 --n-latent 4 --batch-size 32 --no-html --threads 1 --device cpu"
PATIENCE = 90.0


@pytest.fixture
def environment(tmp_path):
    """A PATH with `mocli`, and a scheduler's `scontrol` that writes down what it is asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    scripts = {
        "mocli": f'exec "{sys.executable}" -m mocli "$@"',
        "scontrol": f'echo "$@" >> "{tmp_path}/scontrol.txt"',
    }
    for name, line in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MOCLI_"))}
    path = f"{programs}{os.pathsep}{kept['PATH']}"
    # one thread: the tests share their cores with others
    alone = {"SLURM_CPUS_PER_TASK": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **alone, "PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The socket of a mocli that has its libraries loaded."""
    folder = tmp_path_factory.mktemp("warm")
    words = [sys.executable, Path(warm.__file__), folder / "socket"]
    place = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([str(w) for w in words], env=place, stdin=subprocess.DEVNULL) as process:
        end = time.monotonic() + PATIENCE
        while not (folder / "socket").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        yield folder / "socket"
        process.kill()


@pytest.fixture
def warmed(environment, server, tmp_path):
    """As `environment`, where every command of a script is spared the start."""
    client = tmp_path / "client.py"
    client.write_text(warm.CLIENT.format(path=str(server)))
    line = f'exec "{sys.executable}" -S -E "{client}" "$@"'
    (tmp_path / "bin" / "mocli").write_text(f"#!/bin/sh\n{line}\n")
    return environment


def run(words, environment, cwd):
    return subprocess.run(
        [str(w) for w in words], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


def test_every_example_is_run_here():
    text = Path(__file__).read_text()
    files = [p.relative_to(EXAMPLES) for p in EXAMPLES.rglob("*") if p.suffix in {".sh", ".sbatch", ".py"}]
    assert files
    assert [str(p) for p in files if not all(f'"{part}"' in text for part in p.parts)] == []


def test_the_query_example(warmed, tmp_path):
    work = tmp_path / "work"
    options = ["--max-steps", "20", "--no-html", "--threads", "1"]
    done = run(["bash", EXAMPLES / "shell" / "query.sh", work, *options], warmed, tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((work / "mapped.report.json").read_text())
    assert "query_label_accuracy[cell_type->rna, k-NN]" in report["metrics"]


def test_the_perturb_example(warmed, tmp_path):
    work = tmp_path / "work"
    options = ["--max-steps", "5", "--no-html", "--threads", "1"]
    done = run(["bash", EXAMPLES / "shell" / "perturb.sh", work, *options], warmed, tmp_path)
    assert done.returncode == 0, done.stderr
    screened = json.loads((work / "screen.report.json").read_text())
    assert "responses" in screened["tables"]
    effects = json.loads((work / "effects.report.json").read_text())
    assert effects["training"] is None
    assert "effect_by_group" in effects["tables"]


def test_the_impute_example(warmed, tmp_path):
    work = tmp_path / "work"
    options = ["--max-steps", "5", "--no-html", "--threads", "1"]
    done = run(["bash", EXAMPLES / "shell" / "impute.sh", work, *options], warmed, tmp_path)
    assert done.returncode == 0, done.stderr
    checked = json.loads((work / "checked.report.json").read_text())
    assert "imputation_pearson_median[atac->rna]" in checked["metrics"]
    filled = json.loads((work / "filled.report.json").read_text())
    assert filled["status"] == "ok"
    assert filled["training"] is None


def test_the_simulate_example(warmed, tmp_path):
    work = tmp_path / "work"
    options = ["--max-steps", "20", "--no-html", "--threads", "1"]
    done = run(["bash", EXAMPLES / "shell" / "simulate.sh", work, *options], warmed, tmp_path)
    assert done.returncode == 0, done.stderr
    judged = json.loads((work / "simulated.report.json").read_text())
    assert "discriminability[rna]" in judged["metrics"]
    balanced = json.loads((work / "balanced.report.json").read_text())
    assert balanced["training"] is None
    assert {row[2] for row in balanced["tables"]["simulated"]["rows"]} == {50}


def test_the_shell_example(environment, tmp_path):
    script = EXAMPLES / "shell" / "integrate.sh"
    work = tmp_path / "work"
    options = ["--max-steps", "5", "--no-html", "--threads", "1"]
    done = run(["bash", script, work, *options], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((work / "integrated.report.json").read_text())
    assert report["status"] == "ok"
    assert report["training"]["steps"] == 5
    assert "max-steps: 5" in (work / "integrate.yaml").read_text()
    assert "would write" in done.stdout
    assert str(work / "again.h5mu") in done.stdout
    assert not (work / "again.h5mu").exists()


def test_the_shell_example_of_an_atlas(warmed, tmp_path):
    work = tmp_path / "work"
    options = ["--max-steps", "5", "--no-html", "--threads", "1"]
    done = run(["bash", EXAMPLES / "shell" / "atlas.sh", work, *options], warmed, tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((work / "atlas.report.json").read_text())
    assert [i["modality"] for i in report["inputs"]] == ["rna", "rna", "atac"]
    assert "obs['input'] says which input a cell is of: multiome, rna" in done.stdout


def test_the_shell_example_of_genes_and_peaks(warmed, tmp_path):
    script, work = EXAMPLES / "shell" / "gene2peak.sh", tmp_path / "work"
    done = run(["bash", script, work, *SMALL.split(), "--max-steps", "5"], warmed, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("gene\tpeak\tchrom\tstart\tend\tdistance_to_tss\tgroup")
    assert len(lines) == 5
    assert (work / "gene2peak.bedpe").exists()
    assert len((work / "two.tsv").read_text().splitlines()) > 2


def test_the_shell_example_of_silenced_genes(warmed, tmp_path):
    script, work = EXAMPLES / "shell" / "silencing.sh", tmp_path / "work"
    options = "-s n_hidden=16 --n-latent 4 --batch-size 64 --no-html --threads 1 --device cpu --max-steps 5"
    done = run(["bash", script, work, *options.split()], warmed, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("gene\tpeak\tchrom\tstart\tend\tdistance_to_tss\tgroup\tn_cells\tdelta")
    assert len(lines) == 5
    assert len((work / "both.tsv").read_text().splitlines()) > 2


@pytest.mark.parametrize("steps", [["5"], []], ids=["few steps", "the model that auto takes"])
def test_the_python_example(environment, unpaired, tmp_path, steps):
    script = EXAMPLES / "python" / "integrate.py"
    words = [sys.executable, script, unpaired / "rna.h5ad", unpaired / "prot.h5ad", unpaired / "links.tsv"]
    done = run([*words, tmp_path / "o.h5mu", *steps], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\(130, \d+\) \d", done.stdout)


def test_the_science_without_the_command(environment, tmp_path):
    write_demo(tmp_path, n_cells=80)
    mocli.integrate(
        tmp_path / "multiome.h5mu", output=tmp_path / "out.h5mu", model="multigrate", label_key="cell_type",
        max_steps=3, params={"n_hidden": 16}, n_latent=4, metrics="none", html=False, threads=1, device="cpu",
    )  # fmt: skip
    words = [
        EXAMPLES / "python" / "science.py",
        *(tmp_path / n for n in ("multiome.h5mu", "out.model", "genes.tsv")),
    ]
    done = run([sys.executable, *words], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    firsts = [line.split()[0] for line in done.stdout.splitlines()]
    assert firsts == ["imputed", "perturbed", "simulated", "silenced", "scored"]
    assert "'rna': (20, 400), 'atac': (20, 1500)" in done.stdout


def test_the_slurm_example(environment, paired, tmp_path):
    script = EXAMPLES / "slurm" / "integrate.sbatch"
    words = [script, paired / "data.h5mu", paired / "links.tsv", tmp_path / "o.h5mu"]
    done = run(["bash", *words], {**environment, "MOCLI_EXTRA": SMALL + " --max-steps 5"}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "o.report.json").read_text())["status"] == "ok"
    assert not (tmp_path / "scontrol.txt").exists()


def test_the_slurm_example_survives_preemption(environment, paired, tmp_path):
    """USR1 to the batch shell alone, as `--signal=B:USR1` sends it: checkpoint, 138, queued again, done."""
    script = EXAMPLES / "slurm" / "integrate.sbatch"
    assert "#SBATCH --signal=B:USR1@" in script.read_text(), "without B: the shell never hears of it"
    words = ["bash", script, paired / "data.h5mu", paired / "links.tsv", tmp_path / "o.h5mu"]
    job = {**environment, "MOCLI_EXTRA": SMALL + " --max-steps 400", "SLURM_JOB_ID": "77"}
    process = subprocess.Popen(words, env=job, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    log, end = tmp_path / "o.log", time.monotonic() + PATIENCE
    while not (log.exists() and "align: step" in log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 138, err
    assert (tmp_path / "o.ckpt" / "checkpoint.safetensors").exists()
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 77\n"

    done = run(words, job, tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert report["status"] == "ok"
    assert report["training"]["resumed_from_step"] > 0
    assert not (tmp_path / "o.ckpt").exists()


def test_the_slurm_example_of_several_nodes(environment, paired, tmp_path):
    """One node, two processes on the CPU; the scheduler's commands are stand-ins."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, does in (("srun", 'exec "$@"'), ("scontrol", "echo localhost")):
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (tools / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "localhost"}
    job |= {"MOCLI_PROCESSES": "2", "MOCLI_DEVICE": "cpu", "MOCLI_EXTRA": "-m multigrate --max-steps 5"}
    path = f"{tools}{os.pathsep}{environment['PATH']}"
    script = EXAMPLES / "slurm" / "several_nodes.sbatch"
    words = ["bash", script, paired / "data.h5mu", tmp_path / "o.h5mu"]
    done = run(words, {**environment, **job, "PATH": path}, tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert report["status"] == "ok"
    assert report["device"]["processes"] == 2


def test_the_shell_example_of_a_benchmark(warmed, tmp_path):
    work = tmp_path / "work"
    options = ["--max-steps", "2", "--no-html", "--threads", "1", "--models", "multigrate", "--seeds", "0"]
    done = run(["bash", EXAMPLES / "shell" / "benchmark.sh", work, *options], warmed, tmp_path)
    assert done.returncode == 0, done.stderr
    methods = {line.split("\t")[1] for line in done.stdout.splitlines()}
    assert methods >= {"method", "multigrate", "principal_components", "shuffled", "perfect"}


@pytest.mark.slow
def test_the_snakemake_example(environment, tmp_path):
    """Every subcommand over the sample sheet, and every line of the benchmark's plan, on demo data."""
    pytest.importorskip("snakemake", reason="the workflow is run where snakemake is installed")
    work = tmp_path / "work"
    shutil.copytree(EXAMPLES / "snakemake", work)
    assert run(["mocli", "demo", "demo"], environment, work).returncode == 0
    quick = ["--config", "training=--max-steps 2 --device cpu --no-html", "seeds=0", "fold=1"]
    done = run([sys.executable, "-m", "snakemake", "--cores", "1", *quick], environment, work)
    assert done.returncode == 0, done.stderr
    written = {p.name for p in (work / "results" / "demo").iterdir()}
    assert written >= {"imputed.h5ad", "gene2peak.tsv", "screen.tsv", "simulated.h5mu", "bench.tsv"}
    with (work / "results" / "demo" / "bench.plan.tsv").open() as stream:
        lines = {line["id"]: line for line in csv.DictReader(stream, delimiter="\t")}
    done = {p.name for p in (work / "results" / "demo" / "bench.done").iterdir()}
    assert done == set(lines)
    assert all((work / line["output"]).exists() for line in lines.values())


def test_workflows_use_options_that_exist():
    """Commands of the Snakefile and the Nextflow module: each subcommand, each option."""
    import typer.main

    from mocli.cli.app import app

    commands = typer.main.get_command(app).commands
    module = EXAMPLES / "nextflow" / "modules" / "mocli" / "benchmark"
    snakefile, process = (EXAMPLES / "snakemake" / "Snakefile").read_text(), (module / "main.nf").read_text()
    plan = (module.parent / "plan" / "main.nf").read_text()
    for text in (snakefile, process, plan):
        for words in re.findall(r"mocli (\w+)((?:(?!mocli |rule |output:|stub:).)*)", text, re.DOTALL):
            name, rest = words
            if name not in commands or name in {"links", "demo"}:
                continue
            known = {opt for p in commands[name].params for opt in (*p.opts, *p.secondary_opts)}
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", rest)) <= known, name
    used = set(re.findall(r"mocli (\w+)", snakefile))
    assert used >= {"links", "integrate", "impute", "gene2peak", "perturb", "simulate", "benchmark"}
    described = yaml.safe_load((module / "meta.yml").read_text())
    emitted = set(re.findall(r"emit: (\w+)", process))
    assert set(described["output"]) == emitted
    assert "stub:" in process
    assert {"--plan", "--collect"} <= set(re.findall(r"--[a-z]+", plan)) & set(
        re.findall(r"--[a-z]+", snakefile)
    )
    included = set(re.findall(r"(MOCLI_\w+)", (EXAMPLES / "nextflow" / "plan.nf").read_text()))
    assert included == set(re.findall(r"^process (\w+)", plan, re.MULTILINE))
    assert set(re.findall(r"line\.(\w+)", plan)) <= set(plantable.COLUMNS)
    assert set(re.findall(r"\[\"(\w+)\"\]", snakefile.partition("rule run:")[2])) <= set(plantable.COLUMNS)


def given_to(script, environment, work):
    """The words of every mocli command that a script of a paper runs, with all of its files there."""
    work.mkdir(parents=True)
    text = script.read_text()
    names = {n for line in re.findall(r"given ([^;\n]+); then", text) for n in line.split() if "$" not in n}
    names |= {n + ".h5mu" for line in re.findall(r"for name in ([^;\n]+); do", text) for n in line.split()}
    names |= {n for line in re.findall(r"for query in ([^;\n]+); do", text) for n in line.split()}
    for name in {*names, "hichip.bedpe"}:
        (work / name).touch()
    said = work.parent / "said.txt"
    stub = Path(environment["PATH"].split(os.pathsep)[0]) / "mocli"
    stub.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >> "{said}"\nprintf "\\n\\0" >> "{said}"\n')
    done = run(["bash", script, work, "--device", "cpu"], environment, work)
    assert done.returncode == 0, done.stderr
    assert "skipped" not in done.stderr
    words = [line.strip("\0").split("\0") for line in said.read_text().split("\n\0") if line]
    said.unlink()
    return words, names


@pytest.mark.parametrize("script", ["scmodal.sh", "multigrate.sh", "multidgd.sh", "sccross.sh"])
def test_commands_of_the_papers_are_commands_of_mocli(script, environment, tmp_path, capsys):
    """Every option, choice and hyper-parameter is one; every file is told of in the README beside."""
    import typer.main

    from mocli.cli.app import app
    from mocli.models.registry import available, params_class

    root = typer.main.get_command(app)
    words, names = given_to(EXAMPLES / "papers" / script, environment, tmp_path / "data")
    text = (EXAMPLES / "papers" / "README.md").read_text()
    assert [n for n in names if f"`{n}`" not in text] == []
    assert len(words) > 5
    known = {f.name for t in available().values() for f in dataclasses.fields(params_class(t))}
    models = set()
    for one in words:
        if one[0] == "links":
            root.commands["links"].commands[one[1]].make_context(one[1], one[2:])
            continue
        if one[0] == "export":
            root.commands["export"].make_context("export", one[1:])
            continue
        # resolved as for a run, and nothing is run
        root.main([*one, "--print-config"], prog_name="mocli", standalone_mode=False)
        resolved = yaml.safe_load(capsys.readouterr().out)
        assert set(resolved.get("set") or {}) <= known
        models |= {resolved.get("model"), *str(resolved.get("models")).split(",")}
    assert script.removesuffix(".sh") in models


def test_accessions_of_the_papers_are_only_those_they_name():
    text = (EXAMPLES / "papers" / "README.md").read_text()
    assert set(re.findall(r"GSE\d+", text)) == {
        "GSE164378", "GSE128639", "GSE158013", "GSE165860",  # scMODAL
        "GSE194122", "GSE205117", "GSE162170", "GSE101498",  # multiDGD
        "GSE126074", "GSE240753", "GSE140203", "GSE97179", "GSE156793", "GSE149683",  # scCross
    }  # fmt: skip


def test_the_container_recipe_copies_what_there_is_and_installs_it():
    """A lint: no container is built here."""
    text = (EXAMPLES / "container" / "Dockerfile").read_text()
    lines = re.sub(
        r"\\\n\s*", " ", "\n".join(x for x in text.splitlines() if not x.startswith("#"))
    ).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip()]
    assert {word for word, _ in steps} <= {
        "FROM",
        "ARG",
        "ENV",
        "COPY",
        "RUN",
        "WORKDIR",
        "ENTRYPOINT",
        "CMD",
    }
    assert steps[0] == ["FROM", "python:3.12-slim"]  # a version that pyproject.toml allows
    copied = [source for word, rest in steps if word == "COPY" for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], "pyproject.toml", "mocli"} <= set(copied)
    (install,) = [rest for word, rest in steps if word == "RUN"]
    assert "pip install --no-cache-dir /src" in install
    assert json.loads(dict(steps)["ENTRYPOINT"]) == [next(iter(project["scripts"]))]
