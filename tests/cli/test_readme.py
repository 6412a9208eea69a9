"""README and guide are true: commands parse and run; every command is named, no option that is not there."""

import ast
import functools
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main

import mocli
from mocli import errors
from mocli.__main__ import main
from mocli.cli.app import app
from mocli.report.file import validate

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
GUIDE = {page.stem: page.read_text() for page in sorted((ROOT / "examples" / "guide").glob("*.md"))}
DOCUMENTS = "\n".join([README, *GUIDE.values()])
ROOT_COMMAND = typer.main.get_command(app)


def marked(name):
    """The one line of the code block behind `<!-- name -->`, split at `&&`."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)\n```", README, re.DOTALL)
    assert found, f"the README marks no {name} command"
    assert "\n" not in found[1], "one line is the whole set-up"
    return [shlex.split(part) for part in found[1].split("&&")]


def blocks(language="", text=DOCUMENTS):
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)


def commands():
    """Every mocli command of README and guide, in blocks and in the text."""
    lines = [line for block in blocks() for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    spans = re.findall(r"`(mocli [^`]+)`", DOCUMENTS)
    return sorted({p for p in [*parts, *spans] if p.startswith("mocli ")})


def every_command(command=ROOT_COMMAND, words=()):
    """Yield the words and the command of every leaf."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from every_command(inner, (*words, name))
    else:
        yield " ".join(words), command


LEAVES = dict(every_command())
ROOT_OPTIONS = {opt for param in ROOT_COMMAND.params for opt in param.opts}


def test_the_first_command_installs_and_runs_the_main_job(tmp_path, monkeypatch, capsys):
    words = marked("demo")
    assert [w[0] for w in words] == ["python3", ".", "pip", "mocli", "mocli"]
    assert words[2] == ["pip", "install", "."]
    monkeypatch.chdir(tmp_path)
    small = ["--max-steps", "5", "-s", "n_hidden=16", "--threads", "1"]
    for argv in (words[3][1:], [*words[4][1:], *small]):
        assert main(argv) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "demo" / "out.report.json").read_text())
    validate(report)
    assert report["status"] == "ok"
    assert report["metrics"]["label_transfer[rna->prot]"]["value"] is not None
    page = (tmp_path / "demo" / "out.report.html").read_text()
    assert "UMAP of the latent" in page
    assert "http" not in re.sub(r"https?://(doi\.org|www\.w3\.org)\S*", "", page)
    for name in ("out.h5mu", "out.log", "out.model"):
        assert (tmp_path / "demo" / name).exists()


def test_the_second_command_installs_and_runs_the_tests():
    words = marked("test")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = re.fullmatch(r"\.\[(\w+)\]", words[2][-1])
    assert extra
    assert extra[1] in project["optional-dependencies"]
    assert words[3] == ["python", "-m", "pytest", "-n", "2"]
    assert project["requires-python"] == ">=3.11"
    assert "Python 3.11 or newer" in README
    assert "<!-- test -->" in (ROOT / ".ci" / "run").read_text(), "CI runs the README's own line"


@pytest.mark.parametrize("line", commands())
def test_every_command_parses(line):
    words = shlex.split(re.split(r"[>|]", line)[0])[1:]
    name = next((n for n in LEAVES if words[: len(n.split())] == n.split()), None)
    if words and words[0].startswith("-"):  # an option of mocli itself
        assert set(words) <= {*ROOT_OPTIONS, "-h", "--help"}, line
        return
    if name is None:  # a group, named in the text
        assert any(n.startswith(" ".join(words)) for n in LEAVES), line
        return
    rest = words[len(name.split()) :]
    if "--config" in rest:  # a file that another line of the block writes
        rest = [word for i, word in enumerate(rest) if word != "--config" and rest[i - 1] != "--config"]
    if rest and not {"-h", "--help", "--help-all"} & set(rest):
        LEAVES[name].make_context(name, rest)  # parses and checks, runs nothing


def test_every_command_is_named():
    assert [name for name in LEAVES if f"mocli {name}" not in DOCUMENTS] == []


def test_every_option_exists():
    spans = " ".join(re.findall(r"`([^`\n]+)`", DOCUMENTS))
    words = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", spans))
    params = [param for command in LEAVES.values() for param in command.params]
    known = {opt for param in params for opt in (*param.opts, *param.secondary_opts)}
    assert words - known - ROOT_OPTIONS - {"-h", "--help"} == set()


def test_the_table_of_outputs_is_what_a_run_writes(tmp_path, unpaired):
    from mocli.tasks.integrate.integrate import integrate

    dry = integrate(
        [unpaired / "rna.h5ad", unpaired / "prot.h5ad"],
        links=unpaired / "links.tsv",
        output=tmp_path / "out.h5mu",
        dry_run=True,
    )
    written = {str(p.relative_to(tmp_path)).split("/")[0] for p in dry.files}
    listed = {name.rstrip("/") for name in re.findall(r"^\| `(out[._][^`]+)` \|", README, re.MULTILINE)}
    assert listed == written


def test_the_python_runs(unpaired, tmp_path, monkeypatch, capsys, small):
    for name in ("rna.h5ad", "prot.h5ad"):
        (tmp_path / name).symlink_to(unpaired / name)
    (tmp_path / "rna-prot.tsv").symlink_to(unpaired / "links.tsv")
    monkeypatch.chdir(tmp_path)
    quick = functools.partial(mocli.integrate, max_steps=3, params=small, html=False, threads=1)
    monkeypatch.setattr(mocli, "integrate", quick, raising=False)
    code = next(block for block in blocks("python", README) if "mocli.integrate" in block)
    exec(compile(ast.parse(code), "README.md", "exec"), {})
    assert "mixing" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_the_picture_in_scanpy_is_drawn(unpaired, tmp_path, monkeypatch, small):
    import matplotlib as mpl

    mpl.use("agg")
    monkeypatch.chdir(tmp_path)
    quick = {"max_steps": 3, "params": small, "html": False, "metrics": "none", "threads": 1}
    inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    links = unpaired / "links.tsv"
    mocli.integrate(inputs, links=links, label_key="cell_type", model="scmodal", output="out.h5ad", **quick)
    code = next(block for block in blocks("python", README) if "sc.pl.umap" in block)
    exec(compile(ast.parse(code), "README.md", "exec"), {})
    assert mpl.pyplot.get_fignums()
    mpl.pyplot.close("all")


def test_every_exit_code_is_told():
    codes = {c.exit_code for c in vars(errors).values() if isinstance(c, type) and hasattr(c, "exit_code")}
    section = GUIDE["hpc"].split("## Exit codes")[1]
    assert {str(c) for c in codes | {0, 130, 138, 143}} <= set(re.findall(r"\d+", section))


def test_every_metric_is_explained():
    from mocli.metrics.registry import available_metrics

    section = GUIDE["metrics"].casefold()
    assert [name for name in available_metrics() if not all(w in section for w in name.split("_"))] == []


def test_every_model_is_described():
    from mocli.models.registry import available

    for traits in available().values():
        assert traits.title in README
        assert traits.title in GUIDE["models"]


def test_the_readme_is_scanned_in_a_minute():
    assert len(README.splitlines()) <= 170


def test_every_page_of_the_guide_is_linked():
    assert [page for page in GUIDE if f"examples/guide/{page}.md" not in README] == []
