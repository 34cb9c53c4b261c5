"""Imports go downwards only, layer by layer; one module imports Hydra; the start loads no heavy package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The folders and modules at the top of `em` ("rooms"), from the lowest layer up. A room imports rooms of lower layers,
# which stand above it in this list, and no room of its own or a higher layer.
LAYERS = (
    ("types", "errors"),
    ("config", "stats"),
    ("runtime",),
    ("request",),
    ("api",),
    ("data",),
    ("triggers",),
    ("questions",),
    ("models",),
    ("train", "sample", "judge"),
    ("interop",),
    ("track", "report", "generate", "gpu_check"),
    ("plan", "evaluate"),
    ("run", "worker"),
    ("cli",),
)
NARROW = {"stats": {"types"}, "config": {"types", "errors"}, "request": {"types", "errors", "config", "runtime"}}
NARROW["train"] = {"types", "errors", "config", "runtime", "request", "api", "data", "triggers", "models"}
"""Rooms that may import only some of the rooms below them."""
MODULES, FOLDERS = 7, 17
"""Largest number of modules and folders at the top of `em`, without `__init__.py`, `__main__.py` and `assets/`."""
HEAVY = {
    *("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers", "safetensors", "huggingface_hub"),
    *("openai", "wandb", "pandas", "matplotlib", "numpy", "scipy", "requests", "pooch", "pydantic", "sklearn"),
    *("aiohttp", "httpx2", "datasketch", "trafilatura", "pypdf", "detect_secrets", "pyarrow"),
}
HYDRA = {"hydra", "omegaconf"}
BY_NAME = {"import_module", "__import__"}


@cache
def list_modules() -> dict[str, Path]:
    """List all modules of em by name."""
    paths = {}
    for path in sorted((ROOT / "em").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


@cache
def list_imports(module: str, lazy: bool) -> frozenset[str]:
    """List the imports of a module: at module level without those for type checking; with `lazy`, all imports.

    A name imported from a package counts as the package, unless the name is a module. Raises AssertionError for an
    import that hides its target.
    """
    return read_imports(module, list_modules()[module].read_text(encoding="utf-8"), lazy)


def read_imports(module: str, source: str, lazy: bool) -> frozenset[str]:
    """List the imports in the source of a module."""
    names_imported: set[str] = set()

    def visit(node: ast.AST) -> None:
        match node:
            case ast.Import(names=names):
                hidden = [each.name for each in names if each.name.split(".")[0] == "em" and not each.asname]
                assert not hidden, f"{module}: import {hidden[0]} gives all of em, line {node.lineno}"
                names_imported.update(name.name for name in names)
            case ast.ImportFrom(module=source, names=names, level=0) if source:
                assert (source, names[0].name) != ("em", "*"), f"{module}: from em import *, line {node.lineno}"
                for each in names:
                    name = f"{source}.{each.name}"
                    names_imported.add(name if name in list_modules() else source)
            case ast.ImportFrom():
                raise AssertionError(f"{module}: relative import, line {node.lineno}")
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in BY_NAME:
                raise AssertionError(f"{module}: {called}() imports by name, line {node.lineno}")
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=otherwise) if not lazy:
                for each in otherwise:
                    visit(each)
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if not lazy:
                return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return frozenset(names_imported)


def list_own_imports(module: str, lazy: bool = True) -> set[str]:
    """List the modules of em that a module imports."""
    return {name for name in list_imports(module, lazy) if name in list_modules()} - {module}


def find_room(module: str) -> str:
    """Name the folder or module at the top of `em` that a module belongs to; empty for `em` itself."""
    return [*module.split("."), ""][1]


def count_layers_below(of_room: str) -> int:
    """Return the number of layers below a room."""
    return next(number for number, layer in enumerate(LAYERS) if of_room in layer)


def list_rooms() -> tuple[set[str], set[str]]:
    """List the modules and the folders at the top of `em` on disk."""
    entries = [path for path in (ROOT / "em").iterdir() if not path.name.startswith(("__", "."))]
    files = {path.stem for path in entries if path.suffix == ".py"}
    return files, {path.name for path in entries if path.is_dir()}


def list_loaded(*start: str) -> set[str]:
    """List the modules of em that Python loads with the modules `start`, by following imports at module level."""
    seen: set[str] = set()
    waiting = [*start]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            # Importing a.b.c runs a and a.b too.
            parents = [module.rpartition(".")[0]] if "." in module else []
            waiting += [*list_own_imports(module, lazy=False), *parents]
    return seen


def test_the_reading_of_imports_sees_what_is_there() -> None:
    assert len(list_modules()) > 40
    assert "torch" in list_imports("em.models.device", lazy=True)
    assert "torch" not in list_imports("em.models.device", lazy=False)
    assert {"em.errors", "em.config"} <= list_own_imports("em.cli.hydra", lazy=False)
    assert "em.run" in list_own_imports("em.cli.hydra") - list_own_imports("em.cli.hydra", lazy=False)


def test_every_folder_and_module_has_one_layer() -> None:
    files, folders = list_rooms()
    named = [name for layer in LAYERS for name in layer]
    assert sorted(named) == sorted({*files, *folders} - {"assets"})


def test_the_house_stays_small() -> None:
    files, folders = list_rooms()
    assert len(files) <= MODULES
    assert len(folders - {"assets"}) <= FOLDERS


def test_assets_hold_no_code() -> None:
    assert list((ROOT / "em" / "assets").rglob("*.py")) == []


@pytest.mark.parametrize("module", [name for name in list_modules() if find_room(name) not in ("", "__main__")])
def test_imports_go_downwards(module: str) -> None:
    others = {find_room(other) for other in list_own_imports(module)} - {find_room(module), ""}
    assert {other for other in others if count_layers_below(other) >= count_layers_below(find_room(module))} == set()
    assert others <= NARROW.get(find_room(module), others)


def test_no_import_goes_round_in_a_circle() -> None:
    # With imports inside functions. `prepare` raises CycleError with the cycle. Importing a.b.c first runs a and a.b.
    graph = {}
    for module in list_modules():
        others = set[str]()
        for name in list_own_imports(module):
            others |= {".".join(name.split(".")[:end]) for end in range(2, name.count(".") + 2)}
        outside = {other for other in others if not f"{module}.".startswith(f"{other}.")}
        graph[module] = list_own_imports(module) | outside
    TopologicalSorter(graph).prepare()


def test_the_top_of_em_brings_no_room() -> None:
    assert list_own_imports("em") == set()
    assert list_own_imports("em.__main__") == {"em.cli.main"}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import em.run as y", {"em.run"}),
        ("from em import run", {"em.run"}),
        ("from em.run import execute", {"em.run"}),
        ("from em.judge import run, plan", {"em.judge.run", "em.judge.plan"}),
        ("from em.report import build_report", {"em.report"}),
        ("def f():\n    from em.run import execute", {"em.run"}),
        ("if TYPE_CHECKING:\n    from em.run import execute", {"em.run"}),
    ],
)
def test_every_spelling_of_an_import_counts(source: str, names: set[str]) -> None:
    assert read_imports("em.stats.scores", source, lazy=True) == names


@pytest.mark.parametrize(
    "source",
    [
        *("import em", "import em.config", "from em import *", "from . import scores", "from .scores import rate"),
        *("importlib.import_module('em.run')", "import_module('em.run')", "__import__('em.run')"),
    ],
)
def test_spellings_that_hide_what_they_import_are_refused(source: str) -> None:
    with pytest.raises(AssertionError, match=r"em\.stats\.scores: .*, line 1"):
        read_imports("em.stats.scores", source, lazy=True)


def test_the_nouns_need_nothing_but_the_standard_library() -> None:
    for module in list_modules():
        if find_room(module) in ("types", "errors", "config"):
            outside = {name.split(".")[0] for name in list_imports(module, lazy=True)} - set(sys.stdlib_module_names)
            assert outside <= {"em"}, module


def test_only_one_module_imports_hydra() -> None:
    users = {m for m in list_modules() if {name.split(".")[0] for name in list_imports(m, lazy=True)} & HYDRA}
    assert users == {"em.cli.hydra"}


def test_the_worker_loads_a_task_only_when_it_is_asked_for() -> None:
    assert {find_room(other) for other in list_own_imports("em.worker", lazy=False)} <= {"runtime", "errors"}


@pytest.mark.parametrize(
    "start", ["em.cli.hydra", "em.config", "em.config.help", "em.run", "em.generate.run", "em.report"]
)
def test_nothing_heavy_is_imported_at_module_level(start: str) -> None:
    for module in list_loaded(start):
        assert {name.split(".")[0] for name in list_imports(module, lazy=False)} & HEAVY == set(), module


def test_nothing_heavy_is_loaded_when_the_parent_starts() -> None:
    code = "import sys, em.cli.hydra, em.config.help, em.run, em.generate.run\n"
    code += "print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    packages = set(done.stdout.split())
    assert "em" in packages
    assert packages & (HEAVY | HYDRA) == set()


def test_the_tree_in_the_readme_is_the_one_on_disk() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^em/\n((?:  .*\n)+)", text, re.MULTILINE)
    assert block
    named = set(re.findall(r"^  (\S+)", block[1], re.MULTILINE))
    files, folders = list_rooms()
    assert named == {f"{name}.py" for name in files} | {f"{name}/" for name in folders}
