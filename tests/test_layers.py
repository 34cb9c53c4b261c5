"""Imports go downwards only, Hydra stays in one module, and nothing heavy is loaded before the config is accepted."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom up; a package stands for its modules, but for those that are named themselves. A new module must be
# given its place here.
LAYERS = (
    ("em", "em.types", "em.errors", "em.config"),
    ("em.rows", "em.mixtures", "em.near", "em.pace"),
    (
        "em.store",
        "em.upstream",
        "em.data",
        "em.questions",
        "em.tags",
        "em.conditions",
        "em.stats",
        "em.prices",
        "em.keys",
        "em.foreign",
    ),
    (
        *("em.children", "em.weights", "em.chat", "em.device", "em.manifest", "em.check", "em.helptext", "em.client"),
        *("em.hosted", "em.reference"),
    ),
    ("em.memo", "em.power", "em.batches", "em.data.tokens", "em.data.__main__"),
    ("em.request", "em.train", "em.remote", "em.sample", "em.judge", "em.report", "em.track"),
    ("em.sampling", "em.adaptive", "em.judging", "em.tuned", "em.forced", "em.spending", "em.tuning", "em.standing"),
    ("em.evaluation", "em.estimate", "em.finished", "em.run", "em.generate"),
    ("em.worker", "em.launcher", "em.openai_jobs", "em.dashboard"),
    ("em.cli",),
)
BACKENDS = ("em.train", "em.remote", "em.sample", "em.judge", "em.report", "em.track")
HEAVY = {
    *("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers", "safetensors", "huggingface_hub"),
    *(
        "openai",
        "wandb",
        "pandas",
        "matplotlib",
        "numpy",
        "scipy",
        "requests",
        "pooch",
        "pydantic",
        "sklearn",
        "aiohttp",
        "httpx2",
        "datasketch",
        "trafilatura",
        "pypdf",
        "detect_secrets",
        "phonenumbers",
        "pyarrow",
        "stdnum",
    ),
}
HYDRA = {"hydra", "omegaconf"}


@cache
def modules() -> dict[str, Path]:
    """All modules of em by name."""
    found = {}
    for path in sorted((ROOT / "em").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str, lazy: bool) -> frozenset[str]:
    """What a module imports: at module level (not for types alone) and, with `lazy`, anywhere."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        match node:
            case ast.Import(names=names):
                found.update(name.name for name in names)
            case ast.ImportFrom(module=source, names=names, level=0) if source:
                found.add(source)
                found.update(f"{source}.{name.name}" for name in names if f"{source}.{name.name}" in modules())
            case ast.ImportFrom():
                raise AssertionError(f"{module}: relative import, line {node.lineno}")
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=otherwise) if not lazy:
                for each in otherwise:
                    visit(each)
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if not lazy:
                return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return frozenset(found)


def ours(module: str, lazy: bool = True) -> set[str]:
    """The modules of em that a module imports."""
    return {name for name in imports(module, lazy) if name in modules()} - {module}


def place(module: str) -> int:
    """The layer of a module: its own, or its package's."""
    above = module.rpartition(".")[0]
    for name in (module, *([above] if above != "em" else [])):
        for height, layer in enumerate(LAYERS):
            if name in layer:
                return height
    raise AssertionError(f"{module} has no layer: give it one in LAYERS")


def package(module: str) -> str:
    """The package or module below em that a module belongs to."""
    return ".".join(module.split(".")[:2])


def loaded(*start: str) -> set[str]:
    """The modules of em that are loaded when these are imported: what they import at module level, and so on."""
    seen: set[str] = set()
    waiting = [*start]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            # Importing a.b.c runs a and a.b too.
            parents = [module.rpartition(".")[0]] if "." in module else []
            waiting += [*ours(module, lazy=False), *parents]
    return seen


def test_the_reading_of_imports_sees_what_is_there() -> None:
    assert len(modules()) > 40
    assert "torch" in imports("em.device", lazy=True)
    assert "torch" not in imports("em.device", lazy=False)
    assert {"em.errors", "em.config"} <= ours("em.cli", lazy=False)
    assert "em.run" in ours("em.cli") - ours("em.cli", lazy=False)


def test_every_name_in_the_layers_exists() -> None:
    assert {name for layer in LAYERS for name in layer} <= set(modules())


@pytest.mark.parametrize("module", modules())
def test_imports_go_downwards_or_sideways(module: str) -> None:
    upwards = {other for other in ours(module) if place(other) > place(module)}
    assert upwards == set()


def test_no_import_goes_round_in_a_circle() -> None:
    # Those inside functions too; raises CycleError with the circle. `em` alone is the version.
    TopologicalSorter({module: ours(module) - {package(module), "em"} for module in modules()}).prepare()


def test_backends_do_not_know_each_other() -> None:
    for module in modules():
        if package(module) in BACKENDS:
            others = {package(other) for other in ours(module)} & set(BACKENDS)
            assert others <= {package(module)}, module


def test_the_nouns_need_nothing_but_the_standard_library() -> None:
    for module in LAYERS[0]:
        outside = {name.split(".")[0] for name in imports(module, lazy=True)} - set(sys.stdlib_module_names)
        assert outside <= {"em"}, module


def test_only_cli_imports_hydra() -> None:
    users = {m for m in modules() if {name.split(".")[0] for name in imports(m, lazy=True)} & HYDRA}
    assert users == {"em.cli"}


@pytest.mark.parametrize("start", ["em.cli", "em.config", "em.helptext", "em.run", "em.generate.run", "em.report"])
def test_nothing_heavy_is_imported_at_module_level(start: str) -> None:
    heavy = {
        (module, name)
        for module in loaded(start)
        for name in imports(module, lazy=False)
        if name.split(".")[0] in HEAVY
    }
    assert heavy == set()


def test_nothing_heavy_is_loaded_when_the_parent_starts() -> None:
    code = "import sys, em.cli, em.helptext, em.run, em.generate.run\n"
    code += "print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert "em" in found
    assert found & (HEAVY | HYDRA) == set()
