"""Check that code can be read once: functions begin with a verb, locals are named, expressions are short.

    python -m tests.support.check_names        (part of `make check`)

Like a property, a fixture of pytest names a value and is not counted. Names are counted for `em/`, and for tests and
benchmarks together; expressions and locals are checked everywhere.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEAST_VERBS = 0.65
MOST_SINGLE_WORDS = 0.08
VAGUE_LOCALS = {"found", "told", "said", "whole", "known", "it"}
NOT_COUNTED = {"property", "cached_property", "setter", "fixture"}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
VERBS = set(Path(__file__).with_name("verbs.txt").read_text(encoding="utf-8").split())


@dataclass
class NameCount:
    """How many functions there are, how many begin with a verb, and which are one word that is no verb."""

    functions: int = 0
    verbs: int = 0
    single_words: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one function by its bare name."""
        first, *rest = name.strip("_").split("_")
        self.functions += 1
        if first in VERBS:
            self.verbs += 1
        elif not rest:
            self.single_words.append(name)


def is_counted(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function's name should begin with a verb: no dunder, property or fixture."""
    if node.name.startswith("__"):
        return False
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if getattr(target, "attr", getattr(target, "id", "")) in NOT_COUNTED:
            return False
    return True


def list_faults(node: ast.AST) -> Iterator[str]:
    """Yield what is wrong with one node of a syntax tree."""
    if isinstance(node, ast.IfExp) and any(isinstance(part, ast.IfExp) for part in ast.walk(node) if part is not node):
        yield "a conditional expression inside another: write an if statement"
    if isinstance(node, COMPREHENSIONS) and (node.end_lineno or 0) - node.lineno > 1:
        yield "a comprehension over more than two lines: name a part of it, or write a loop"
    names = []
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        names = [node.id]
    elif isinstance(node, ast.arg):
        names = [node.arg]
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        names = [node.name]
    for name in names:
        if name in VAGUE_LOCALS:
            yield f"`{name}` does not say what it holds"


def check_file(file: Path, count: NameCount) -> list[str]:
    """Add the functions of a file to `count`; return its faults as `file:line: sentence`."""
    faults = []
    tree = ast.parse(file.read_text(encoding="utf-8"))
    # The fields of a record may be names on disk, which stay.
    fields = {id(line.target) for line in ast.walk(tree) if isinstance(line, ast.AnnAssign)}
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS) and is_counted(node):
            count.add(node.name)
        for fault in list_faults(node) if id(node) not in fields else ():
            faults.append(f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {fault}")
    return faults


def check_folders(*folders: str) -> list[str]:
    """Check all modules below some folders; print the shares of names, and return the faults."""
    count = NameCount()
    faults: list[str] = []
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            faults += check_file(file, count)
    verbs, single = count.verbs / count.functions, len(count.single_words) / count.functions
    where = " and ".join(folders)
    print(
        f"{where}: of {count.functions} functions {verbs:.1%} begin with a verb, {single:.1%} are a single other word"
    )
    if verbs < LEAST_VERBS:
        faults.append(f"{where}: fewer than {LEAST_VERBS:.0%} of the functions begin with a verb")
    if single > MOST_SINGLE_WORDS:
        words = ", ".join(sorted(set(count.single_words)))
        faults.append(f"{where}: more than {MOST_SINGLE_WORDS:.0%} are a single word that is no verb: {words}")
    return faults


def main() -> None:
    """Print the faults; end with exit code 1 if there are any."""
    faults = [*check_folders("em"), *check_folders("tests", "benchmarks")]
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
