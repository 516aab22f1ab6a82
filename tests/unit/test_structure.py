"""The architecture, read from the syntax trees: who imports whom, who reads what."""

import ast
import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from pydantic import BaseModel

from ofa import config

CHECKOUT = Path(__file__).resolve().parents[2]
OURS = ("ofa", "data_prep", "launch")
SOURCES = sorted(p for package in OURS for p in (CHECKOUT / package).rglob("*.py"))

FLOORS = [
    {"config", "config_errors", "config_values", "sections", "files", "hub"},
    {"recipe", "dist", "page", "tables", "timing", "run_files", "code_version"},
    {"board", "metrics", "progress", "plan", "slurm"},
    {"heartbeat", "stop"},
    {"watch"},
    {"data", "models", "pruning", "objectives", "flops"},
    {"cost", "inputs", "guard", "journal", "samples"},
    {"cost_table"},
    {"engine", "run_folder"},
    {"cluster"},
    {"checkpoint"},
    {"export"},
    {"evaluate", "report_data", "report_figures", "report_structure", "report"},
    {"parts", "run"},
    {"train"},
    {"assemble", "sweep"},
    {"finish"},
    {"pretrain", "downstream"},
    {"runtimes"},
    {"predictor"},
    {"inference"},
    {"predict_file", "benchmark"},
]
"""Rooms of `ofa` from the ground up: a room imports its own floor and those below."""


def tree(path):
    """The parsed file."""
    return ast.parse(path.read_text())


def module_name(path):
    """Dotted name of a file of ours."""
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def own_imports(node):
    """Dotted names of our modules that a syntax tree imports."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom) and part.module:
            found |= {part.module} | {f"{part.module}.{alias.name}" for alias in part.names}
    known = {module_name(path) for path in SOURCES}
    return {name for name in found if name in known and name != "ofa"}


def room(name):
    """`ofa.data.plan` -> `data`."""
    return name.split(".")[1]


def floor(name):
    """Number of a room's floor."""
    return next(number for number, rooms in enumerate(FLOORS) if room(name) in rooms)


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[-1] != "__init__.py"], ids=module_name)
def test_imports_go_one_way(path):
    name = module_name(path)
    if name.startswith("ofa."):
        above = {other for other in own_imports(tree(path)) if other.startswith("ofa.") and floor(other) > floor(name)}
        assert not above, f"{name} imports rooms above it: {above}"
        assert not any(other.startswith(("data_prep", "launch")) for other in own_imports(tree(path)))
    if name.startswith("data_prep."):
        foreign = {other for other in own_imports(tree(path)) if other.startswith(("ofa.", "launch."))}
        foreign = {other for other in foreign if not other.startswith("ofa.slurm")}
        assert foreign <= {"ofa.config", "ofa.files", "ofa.hub", "ofa.page", "ofa.data", "ofa.data.shards"}, foreign


def test_every_room_has_a_floor():
    rooms = {room(module_name(path)) for path in SOURCES if module_name(path).startswith("ofa.")}
    assert rooms == set().union(*FLOORS)


def test_there_are_no_import_cycles():
    graph = {module_name(path): own_imports(tree(path)) - {module_name(path)} for path in SOURCES}
    finished, open_modules = set(), []

    def visit(name):
        assert name not in open_modules, f"cycle: {[*open_modules, name]}"
        if name in finished:
            return
        open_modules.append(name)
        for other in graph.get(name, ()):
            visit(other)
        open_modules.pop()
        finished.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_our_own_package_is_imported_at_the_top_only(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert not own_imports(node), f"{path}: {node.name} imports inside"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name == "__init__.py"], ids=module_name)
def test_package_files_are_empty(path):
    assert path.read_text() == ""


def test_only_the_engine_imports_deepspeed():
    importers = {
        module_name(path)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "deepspeed" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "deepspeed")
    }
    assert importers == {"ofa.engine.process"}


def test_only_the_adapter_table_names_architectures():
    names = {"bert", "roberta", "distilbert", "electra", "modernbert"}
    for path in SOURCES:
        strings = {n.value for n in ast.walk(tree(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        if module_name(path) != "ofa.models.adapters":
            assert not strings & names, f"{path} names {strings & names}"


def sections(kind, seen=None):
    """A config section and those inside it."""
    seen = seen if seen is not None else []
    if kind not in seen:
        seen.append(kind)
        for field in kind.model_fields.values():
            for option in re.findall(r"\w+Config", str(field.annotation)):
                sections(getattr(config, option), seen)
    return seen


KINDS = [
    *dict.fromkeys(
        section
        for kind in (
            config.RunConfig,
            config.FinetuneConfig,
            config.QatConfig,
            config.CofiConfig,
            config.CofiMlmConfig,
            config.DataPrepConfig,
            config.SweepConfig,
        )
        for section in sections(kind)
    ),
    config.NamedValuesConfig,
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_config_field_is_read_somewhere(kind):
    """A field that nobody reads is a promise that nobody keeps."""
    assert issubclass(kind, BaseModel)
    read = set()
    for path in SOURCES:
        read |= {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    unread = {name for name in kind.model_fields if name not in read}
    assert not unread, f"{kind.__name__}: {unread}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_config_field_says_what_it_means(kind):
    silent = {name for name, field in kind.model_fields.items() if not field.description}
    silent -= {name for name, field in kind.model_fields.items() if "Config" in str(field.annotation)}
    assert not silent, f"{kind.__name__}: {silent}"


def test_the_schema_is_current():
    assert json.loads((config.CONFIGS / "schema.json").read_text()) == config.schema(), "run: make schema"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_code_is_ascii_and_public_things_have_docstrings(path):
    assert path.read_text().isascii()
    parsed = tree(path)
    if path.name == "__init__.py":
        return
    assert ast.get_docstring(parsed), f"{path} does not say what it is for"
    for node in parsed.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name}"


LINKED = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("ofa/*.md")] + sorted((CHECKOUT / "docs").rglob("*.md"))


@pytest.mark.parametrize("path", LINKED, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_tests_that_the_guarantees_name_are_there():
    named = re.findall(
        r"`((?:unit|dist|e2e|parity|multinode|benchmarks)/[\w/]+\.py)`", (CHECKOUT / "ofa" / "README.md").read_text()
    )
    assert len(named) > 20
    roots = {name: CHECKOUT if name.startswith("benchmarks") else CHECKOUT / "tests" for name in named}
    assert not [name for name, root in roots.items() if not (root / name).is_file()]


def test_no_folder_of_tests_is_skipped(pytestconfig):
    """pytest skips folders called `dist`, unless it is told otherwise."""
    files = (CHECKOUT / "tests").rglob("test_*.py")
    folders = {part for path in files for part in path.relative_to(CHECKOUT).parts[:-1]}
    skipped = pytestconfig.getini("norecursedirs")
    assert "dist" in folders and not [name for name in folders if any(fnmatch(name, one) for one in skipped)]
