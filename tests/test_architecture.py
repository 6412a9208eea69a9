"""The house rules, read from the syntax trees."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mocli"
FILES = sorted(PACKAGE.rglob("*.py"))
TOP = {"pyproject.toml", "mocli", "tests", "examples", "README.md", "CHANGELOG.md", "LICENSE"}

BASE = {"mocli", "mocli.errors", "mocli.types"}
MAY_IMPORT = {
    "mocli.errors": set(),
    "mocli.types": set(),
    "mocli.parsing": {"mocli", "mocli.errors"},
    "mocli.options": {"mocli", "mocli.errors", "mocli.parsing"},
    "mocli.log": {"mocli", "mocli.errors"},
    "mocli.data": BASE | {"mocli.data", "mocli.models.base"},
    "mocli.nn": {"mocli.errors", "mocli.types", "mocli.nn"},
    "mocli.models.base": BASE | {"mocli.data.bundle"},
    "mocli.models.registry": BASE | {"mocli.models", "mocli.models.base"},
    "mocli.models.parameters": BASE | {"mocli.models.base", "mocli.models.registry"},
    "mocli.train": BASE
    | {"mocli.train", "mocli.log", "mocli.models.base"}
    | {"mocli.data.batches", "mocli.data.bundle"},
    "mocli.metrics": {
        "mocli.errors",
        "mocli.types",
        "mocli.metrics",
        "mocli.nn.neighbors",
        "mocli.report.figures",
    },
    "mocli.report": BASE | {"mocli.report"},
    "mocli.peers": BASE | {"mocli.peers"},
    "mocli.tasks": BASE
    | {"mocli.options", "mocli.parsing"}
    | {"mocli.tasks", "mocli.train", "mocli.metrics", "mocli.data", "mocli.report", "mocli.log"}
    | {"mocli.models.base", "mocli.models.registry", "mocli.models.parameters"}
    | {"mocli.nn.neighbors", "mocli.nn.readout", "mocli.peers.registry"},
    "mocli.cli": BASE
    | {"mocli.options", "mocli.parsing"}
    | {"mocli.cli", "mocli.tasks", "mocli.report", "mocli.log", "mocli.data.demo.files"}
    | {"mocli.data.files.hdf5", "mocli.data.files.source", "mocli.data.files.inspect"}
    | {"mocli.models.base", "mocli.models.registry", "mocli.models.parameters"},
}
FORBIDDEN = {
    "mocli.report": {"torch", "anndata", "scanpy"},
    "mocli.tasks": {"typer"},
    "mocli.data": {"torch"},
    "mocli.errors": {"numpy", "torch", "pandas"},
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree):
    """Every imported module; names imported from a package count as modules of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def layer_of(name):
    parts = name.split(".")
    if name.startswith("mocli.models."):
        return name if len(parts) == 3 and name in MAY_IMPORT else "a model"
    return ".".join(parts[:2])


def inside(name, packages):
    return any(name == p or (p != "mocli" and name.startswith(p + ".")) for p in packages)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_one_way(path):
    name = module_name(path)
    layer = layer_of(name)
    if name in {"mocli", "mocli.__main__", "mocli.models"}:
        return
    found = {i for i in imports(ast.parse(path.read_text())) if i.split(".")[0] == "mocli"}
    if layer == "a model":
        own = ".".join(name.split(".")[:3])
        allowed = BASE | {"mocli.models.base", "mocli.nn", "mocli.data.bundle", own}
    else:
        allowed = MAY_IMPORT[layer]
    assert not {i for i in found if not inside(i, allowed)}, f"{name} imports what its layer may not"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_heavy_libraries_stay_where_they_belong(path):
    name = module_name(path)
    if name == "mocli.data.batches":
        return
    forbidden = set().union(*(libraries for layer, libraries in FORBIDDEN.items() if inside(name, {layer})))
    assert not {i.split(".")[0] for i in run_time_imports(ast.parse(path.read_text()))} & forbidden


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=module_name)
def test_the_command_line_loads_nothing_heavy_at_import(path):
    heavy = {"torch", "anndata", "scanpy", "mudata", "pandas", "numpy", "scipy", "sklearn", "h5py"}
    tree = ast.parse(path.read_text())
    top = ast.Module([n for n in tree.body if not is_type_checking(n)], [])
    inner = {id(m) for n in ast.walk(top) if isinstance(n, ast.FunctionDef) for m in ast.walk(n)}
    at_import = {
        name.split(".")[0]
        for node in ast.walk(top)
        if id(node) not in inner
        for name in imports(
            ast.Module([node], []) if isinstance(node, ast.Import | ast.ImportFrom) else ast.Module([], [])
        )
    }
    assert not at_import & heavy


def run_time_imports(tree):
    guarded = {id(n) for block in ast.walk(tree) if is_type_checking(block) for n in ast.walk(block)}
    kept = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and id(n) not in guarded]
    yield from imports(ast.Module(kept, []))


def is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_are_short_and_have_a_noun(path):
    assert len(path.read_text().splitlines()) <= 600
    assert path.stem not in {"utils", "helpers_misc", "common", "misc"}
    assert ast.get_docstring(ast.parse(path.read_text())), "every file says what it is"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_pickle_no_densifying_elsewhere_no_stub(path):
    tree = ast.parse(path.read_text())
    assert not {"pickle", "dill", "joblib", "cloudpickle"} & {i.split(".")[0] for i in imports(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr != "todense"
            if node.attr == "toarray":
                assert module_name(path) == "mocli.data.batches"
            if node.attr == "load" and isinstance(node.value, ast.Name):
                assert node.value.id != "torch"
        if isinstance(node, ast.Name):
            assert node.id != "NotImplementedError"


def test_top_level_holds_only_what_was_agreed():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if not listed:
        pytest.skip("not a git checkout")
    extra = {name.split("/")[0] for name in listed} - TOP
    assert {name for name in extra if not name.startswith(".")} == set()


TOY_MODEL = """
    from mocli.models.base import Traits
    from mocli.types import ModalityKind, Pairing, Task
    TRAITS = Traits(
        name="toyfifth", title="Toy", doi="10.0/toy", summary="a fifth model",
        pairings=frozenset({Pairing.UNPAIRED}), prefers=frozenset(),
        expects=dict.fromkeys(ModalityKind, "any"), min_modalities=2, max_modalities=2,
        needs_links=True, tasks=frozenset({Task.INTEGRATE}),
        params="mocli.models.scmodal.params:ScmodalParams", model="mocli.models.scmodal.model:Scmodal",
    )
"""
TOY_METRIC = """
    from mocli.metrics.embedding import Embedding
    from mocli.metrics.registry import Score, metric

    @metric(Embedding, better="higher", bounds=(0.0, float("inf")))
    def toy_spread(e):
        "Toy spread.\\n\\nHow far cells spread.\\n\\nMean absolute coordinate.\\n\\nSource: none."
        yield Score(float(abs(e.joint).mean()), len(e.joint))
"""
SEE_THEM = """
    import sys
    import mocli.models, mocli.metrics
    mocli.models.__path__.append(sys.argv[1]); mocli.metrics.__path__.append(sys.argv[2])
    from mocli.metrics.registry import available_metrics
    from mocli.__main__ import main
    print("METRIC", "toy_spread" in available_metrics())
    print("EXIT", main(["models"]))
    print("EXIT", main(["params", "toyfifth"]))
"""


def test_a_fifth_model_is_one_folder_and_a_metric_one_file(tmp_path):
    (tmp_path / "models" / "toyfifth").mkdir(parents=True)
    (tmp_path / "models" / "toyfifth" / "__init__.py").write_text(textwrap.dedent(TOY_MODEL))
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "toy_spread.py").write_text(textwrap.dedent(TOY_METRIC))
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SEE_THEM), tmp_path / "models", tmp_path / "metrics"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "METRIC True" in run.stdout, run.stderr
    assert run.stdout.count("EXIT 0") == 2, run.stdout + run.stderr
    assert "toyfifth" in run.stdout


def test_public_names_hold_the_six_tasks():
    import mocli

    assert {"integrate", "impute", "simulate", "perturb", "gene2peak", "benchmark"} <= set(mocli.__all__)
    assert callable(mocli.integrate)
    assert set(dir(mocli)) >= set(mocli.__all__)
    with pytest.raises(AttributeError):
        mocli.nonsense  # noqa: B018
