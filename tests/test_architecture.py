"""The house rules, read from the syntax trees."""

import ast
import re
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mocli"
FILES = sorted(PACKAGE.rglob("*.py"))
TOP = {"pyproject.toml", "mocli", "tests", "examples", "README.md", "CHANGELOG.md", "LICENSE"}

BASE = {"mocli", "mocli.errors", "mocli.leftovers", "mocli.types"}
MAY_IMPORT = {
    "mocli.errors": set(),
    "mocli.types": set(),
    "mocli.leftovers": set(),
    "mocli.parsing": {"mocli", "mocli.errors"},
    "mocli.options": {"mocli", "mocli.errors", "mocli.parsing"},
    "mocli.log": {"mocli", "mocli.errors"},
    "mocli.data": BASE | {"mocli.data", "mocli.models.base"},
    "mocli.nn": {"mocli.errors", "mocli.types", "mocli.nn"},
    "mocli.models.base": BASE | {"mocli.data.bundle"},
    "mocli.models.fields": set(),
    "mocli.models.registry": BASE | {"mocli.models", "mocli.models.base"},
    "mocli.train": BASE
    | {"mocli.train", "mocli.log", "mocli.models.base"}
    | {"mocli.data.batches", "mocli.data.bundle"},
    "mocli.metrics": {
        "mocli.errors",
        "mocli.types",
        "mocli.metrics",
        "mocli.nn.nearby",
        "mocli.nn.neighbors",
        "mocli.report.figures",
    },
    "mocli.report": BASE | {"mocli.report"},
    "mocli.peers": BASE | {"mocli.peers"},
    "mocli.tasks": BASE
    | {"mocli.options", "mocli.parsing"}
    | {"mocli.tasks", "mocli.train", "mocli.metrics", "mocli.data", "mocli.report", "mocli.log"}
    | {"mocli.models.base", "mocli.models.registry"}
    | {"mocli.nn.nearby", "mocli.nn.neighbors", "mocli.nn.readout", "mocli.peers.registry"},
    "mocli.cli": BASE
    | {"mocli.options", "mocli.parsing"}
    | {"mocli.cli", "mocli.tasks", "mocli.report", "mocli.log", "mocli.data.demo"}
    | {"mocli.data.files.hdf5", "mocli.data.files.source", "mocli.data.files.inspect"}
    | {"mocli.models.base", "mocli.models.registry"},
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
        allowed = BASE | {"mocli.models.base", "mocli.models.fields", "mocli.nn", "mocli.data.bundle", own}
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
def test_a_file_has_a_noun_and_says_what_it_is(path):
    assert path.stem not in {"utils", "helpers_misc", "common", "misc"}
    assert ast.get_docstring(ast.parse(path.read_text())), "every file says what it is"


MODULES = {module_name(path): path for path in FILES}
# what a file is in the folder of a verb or a model: the folder says whose it is
ROLES = {"options", "plan", "write", "work", "report", "check", "truth", "null", "cells", "build"}
ROLES |= {"params", "module", "model", "networks", "start", "query", "registry", "__init__", "__main__"}
VERBS = {"integrate", "impute", "simulate", "perturb", "gene2peak", "benchmark", "links"}
# a model's own step and shape; what a verb's own function takes is declared as an option group
SAME_CLASS = {"Step", "Shape"}
MANY_FIELDS = ("Traits", "Params", "Options", "Option", "Report", "Record", "Metric")
# what a file, a peer and the demo's tissue are, each read by name; what typer reads as a signature
MANY_FIELDS += ("ModalityFile", "Peer", "Given", "Tissue")
MANY_PARAMETERS = {
    "mocli.cli.links.build",
    "mocli.tasks.benchmark.contender.placed",
    "mocli.tasks.impute.accuracy.evaluate",
    "mocli.tasks.perturb.shifts.perturb_cells",
}


def imported_by():
    """Module to the modules that it imports, imports for types and inside functions included."""
    graph = {name: set() for name in MODULES}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [i if i in MODULES else node.module for i in inner]
            else:
                continue
            graph[name] |= {t for t in targets if t in MODULES and t != name and "mocli" not in (t, name)}
    return graph


def circles(graph):
    """Strongly connected components of more than one module (Tarjan)."""
    index, low, stack, waiting, found = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        waiting.add(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in waiting:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            circle = []
            while not circle or circle[-1] != node:
                circle.append(stack.pop())
                waiting.discard(circle[-1])
            if len(circle) > 1:
                found.append(sorted(circle))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_a_circle_is_found_where_there_is_one():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_import_circle_even_for_types():
    assert circles(imported_by()) == []


def test_no_folder_is_too_full_to_look_through():
    folders = Counter(
        path.parent.relative_to(ROOT).as_posix() for path in FILES if path.name != "__init__.py"
    )
    assert {folder: n for folder, n in folders.items() if n > 18} == {}


def test_no_file_is_a_scrap_of_the_one_that_imports_it():
    importers = Counter(target for targets in imported_by().values() for target in targets)
    scraps = [
        name
        for name, path in MODULES.items()
        if path.stem not in ROLES and importers[name] == 1 and len(path.read_text().splitlines()) < 60
    ]
    assert scraps == []


def test_a_name_says_whose_it_is():
    places = defaultdict(list)
    for name, path in MODULES.items():
        if path.stem not in ROLES and not (path.stem in VERBS and name.split(".")[1] in {"cli", "tasks"}):
            places[path.stem].append(name)
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.ClassDef)
                and not node.name.startswith("_")
                and node.name not in SAME_CLASS
            ):
                places[node.name].append(name)
    assert {key: where for key, where in places.items() if len(where) > 1} == {}


def test_a_function_takes_at_most_eight_parameters_and_a_dataclass_has_twelve_fields():
    many = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                n = len([a for a in given if a.arg not in {"self", "cls"}])
                allowed = f"{name}.{node.name}" in MANY_PARAMETERS
                many += [f"{name}.{node.name}: {n} parameters"] if n > 8 and not allowed else []
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                decorated = any("dataclass" in ast.dump(d) for d in node.decorator_list)
                n = sum(isinstance(line, ast.AnnAssign) for line in node.body)
                if decorated and n > 12 and not node.name.endswith(MANY_FIELDS):
                    many.append(f"{name}.{node.name}: {n} fields")
    assert many == []


def test_likelihoods_and_transforms_are_objects_not_strings():
    pattern = re.compile(r"(likelihood|transform) *(==|in|!=) ")
    folders = [PACKAGE / "models", PACKAGE / "tasks"]
    lines = [
        f"{module_name(path)}: {line.strip()}"
        for folder in folders
        for path in folder.rglob("*.py")
        for line in path.read_text().splitlines()
        if pattern.search(line) and not re.search(r"\bfor\b|#|\"\"\"", line)
    ]
    assert lines == []


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


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_sentence_shows_the_name_of_a_variable(path):
    templates = {"mocli.data.demo", "mocli.log"}  # filled in by str.format and by rich
    if module_name(path) in templates:
        return
    tree = ast.parse(path.read_text())
    formatted = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in ast.walk(n)}
    name = re.compile(r"\{[a-z_][\w.]*(\(.*?\))?(\[.*?\])?(:[^{} ]+)?\}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in formatted:
            assert not name.search(node.value), f"line {node.lineno} lacks an f before the quote"


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
        pairings=frozenset({Pairing.UNPAIRED}), rank={},
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
