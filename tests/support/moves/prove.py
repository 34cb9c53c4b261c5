"""Prove that a move changed no definition: `python -m tests.support.moves.prove OLD_TREE NEW_TREE`.

`map.txt` has a line for each old module, with the new one, and below it the definitions that went elsewhere. Each
top-level definition of the old tree must stand in the new one, where the map says, with the same syntax tree. Left out
of it are imports; names of modules and paths inside texts count as equal.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
RENAMED = {("em.judge.server", "gone"): "retired"}
LISTED = {
    *(("em.cli", "ROOT"), ("em.cli", "CONF"), ("em.reference", "CONF"), ("em.data.registry", "CONF")),
    *(("em.data.registry", "read_option"), ("em.data.registry", "data_sets"), ("em.report.published", "FILE")),
    *(("em.conditions", "CUES"), ("em.train.launch", "ACCELERATE"), ("em.data.load", "BUNDLED")),
    *(("em.children", "child_environment"), ("em.prices", "BUNDLED"), ("em.generate.prompts", "BUNDLED")),
    *(("em.questions.rubrics", "OWN"), ("em.questions.sets", "BUNDLED"), ("em.questions.known", "REGISTRY")),
}
"""Definitions that spelt the path of a folder by themselves, and take it from `em.config.paths` now."""


class WithoutImports(ast.NodeTransformer):
    """Take imports out, and the names of modules and files out of texts."""

    def visit_Import(self, node: ast.Import) -> None:
        """Drop it."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Drop it."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """Name no module, and break lines nowhere."""
        if not isinstance(node.value, str):
            return node
        return ast.Constant(re.sub(r"\bem[./][\w./]*|\bruntime\.\w+", "em", " ".join(node.value.split())))

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Call what was renamed by its new name."""
        return ast.Name(RENAMED.get((self.module, node.id), node.id), node.ctx)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Call what was renamed by its new name."""
        node.name = RENAMED.get((self.module, node.name), node.name)
        return self.generic_visit(node)

    def __init__(self, module: str) -> None:
        self.module = module


def read_definitions(tree: Path) -> dict[tuple[str, str], str]:
    """Dump every top-level definition of a tree, by module and name."""
    shapes = {}
    for path in sorted((tree / "em").rglob("*.py")):
        parts = path.relative_to(tree).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = getattr(node, "targets", [getattr(node, "target", node)])
            names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names = [node.name]
            elif not isinstance(node, ast.Assign | ast.AnnAssign) or "__all__" in names:
                continue
            for name in names:
                shapes[module, name] = ast.dump(WithoutImports(module).visit(node))
    return shapes


def read_map() -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Read where modules went, and where single definitions did."""
    modules, definitions, old = {}, {}, ""
    for line in (HERE / "map.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            new, _, names = line.strip().partition(": ")
            definitions |= {(old, name): new for name in names.split()}
        else:
            old, new = line.split()
            modules[old] = new
    return modules, definitions


def main(old_tree: Path, new_tree: Path) -> int:
    """Compare two trees; 1 if a definition is missing, changed, or new."""
    modules, definitions = read_map()
    new, faults = read_definitions(new_tree), []
    old = read_definitions(old_tree)
    for (module, name), shape in old.items():
        called = RENAMED.get((module, name), name)
        place = definitions.get((module, called), modules.get(module, module))
        there = new.pop((place, called), None)
        if there != shape and (module, name) not in LISTED:
            faults.append(f"{'missing' if there is None else 'changed'}: {module}.{name} in {place}")
    print("\n".join(faults + [f"new: {module}.{name}" for module, name in new]))
    print(f"{len(old)} definitions of {len(modules) + 1} modules; {len(faults)} missing or changed; {len(new)} new")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
