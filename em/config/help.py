"""What `--help` prints: read from the schema's source and the names of the option files, without composing."""

from __future__ import annotations

import ast
import dataclasses
import re
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from em import config
from em.config.paths import CONF, spell_command

HEAD = {
    "train": "Train a model, evaluate it, write a report.",
    "generate": "Have a model behind a server write a data set from texts or questions of yours.",
    "evaluate": "Evaluate a base model (data=none), the model that the same words trained, or model.adapter=….",
}
EXAMPLES = {
    "generate": (
        "generate=optimism generate.source=articles/ dry_run=true",
        "generate=car_twins generate.source=manual.pdf generate.rows=200",
        "generate=car generate.source=texts/ model=open model.base_url=http://HOST:8000/v1 generate.keep_above=null",
    ),
    "train": ("", "model=llama8b data=medical", "realign=car_good", "-m data=car_bad,car_good trainer.epochs=1,2,4"),
    "evaluate": ("", "data=car_bad", "model=llama8b model.adapter=FOLDER", "data=car_bad eval.samples=30"),
}
TITLE = """# Every option and setting

Written by `em reference > docs/reference.md` from `em/config/` and `conf/`; do not edit. An option is
chosen by `GROUP=OPTION`, a setting given by `GROUP.SETTING=VALUE`. Defaults are those of the schema; an option has the
values of its file, `conf/GROUP/OPTION.yaml`.
"""


def field_docs() -> dict[str, dict[str, str]]:
    """The documentation string below each field of each schema: class name → field name → text."""
    docs: dict[str, dict[str, str]] = {}
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(config.__file__).parent.glob("*.py"))]
    for node in (node for source in sources for node in ast.parse(source).body):
        if isinstance(node, ast.ClassDef):
            fields = docs.setdefault(node.name, {})
            for above, below in zip(node.body, node.body[1:], strict=False):
                match above, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                        fields[name] = str(text)
    return docs


def option_files(conf: Path, group: str) -> list[Path]:
    """A group's option files; the sweep file of W&B is none."""
    return sorted(path for path in (conf / group).glob("*.yaml") if (group, path.stem) != ("sweep", "wandb"))


def options(conf: Path, group: str) -> str:
    """The names of a group's option files."""
    return ", ".join(path.stem for path in option_files(conf, group))


def help_text(name: str, conf: Path) -> str:
    """The whole help page of `train`, `evaluate` or `generate`."""
    docs = field_docs()
    command = spell_command(name)
    lines = [HEAD[name], "", f"usage: {command} [GROUP=OPTION …] [GROUP.SETTING=VALUE …] [-m for a sweep]", ""]
    lines += [f"  {command} {words}".rstrip() for words in EXAMPLES[name]]
    lines += ["", "Groups and their options:"]
    groups = config.groups_of(name)
    lines += [f"  {group:12} {options(conf, group)}" for group in [*groups, *config.bundles_of(name)]]
    lines += ["", "Settings:"]
    for group, classes in groups.items():
        shown: set[str] = set()
        # A schema has the settings of those that it is made from.
        for schema in (base for each in classes for base in each.__mro__[::-1] if base is not object):
            for setting, text in docs[schema.__name__].items():
                if setting not in shown and setting != "name":
                    lines.append(f"  {group + '.' + setting:32} {text}")
                shown.add(setting)
    unused = {"store", "trainer", "eval"}  # the last two are documented by their groups, where they are used
    root = docs[config.root_of(name).__name__]
    lines += [f"  {setting:32} {text}" for setting, text in root.items() if setting not in unused]
    lines += [f"  {'store.' + setting:32} {text}" for setting, text in docs["StoreConfig"].items()]
    lines += [
        f"  {'hydra.run.dir':32} Folder of the run; a run that was stopped there goes on.",
        "",
        "--cfg job --resolve prints the composed config; -m runs every combination of comma-separated values.",
    ]
    return "\n".join(lines)


def reference() -> str:
    """The whole page."""
    docs = field_docs()
    parts = [TITLE]
    for group, classes in config.GROUPS.items():
        parts += [f"## {group}\n", options_table(group), settings_table(group, classes, docs)]
    for group, classes in config.GENERATE_GROUPS.items():
        if group not in config.GROUPS:
            parts += [f"## {group} (of generate.py)\n", options_table(group), settings_table(group, classes, docs)]
    for group in config.BUNDLES:
        parts += [f"## {group}\n", options_table(group)]
    parts += [
        "## The run\n",
        rows_table([(name, config.RunConfig, "") for name in own_fields(config.RunConfig)], docs),
        rows_table([(name, config.StoreConfig, "store.") for name in own_fields(config.StoreConfig)], docs),
    ]
    return "\n".join(parts)


def own_fields(schema: type) -> list[str]:
    """The names of a schema's fields that are no groups."""
    return [field.name for field in dataclasses.fields(schema) if field.name not in (*config.GROUPS, "store")]


def options_table(group: str) -> str:
    """The options of a group, with the comment at the head of each file."""
    lines = ["| option | |", "|---|---|"]
    for path in option_files(CONF, group):
        lines.append(f"| `{group}={path.stem}` | {comment_of(path)} |")
    return "\n".join(lines) + "\n"


def comment_of(path: Path) -> str:
    """The comment that a file opens with, on one line."""
    said = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            said.append(line.removeprefix("#").strip())
    return cell(" ".join(said))


def settings_table(group: str, classes: tuple[type, ...], docs: dict[str, dict[str, str]]) -> str:
    """The settings of a group; those that only some of its options have say which."""
    rows: list[tuple[str, type, str]] = []
    seen: set[str] = set()
    for schema in (base for each in classes for base in each.__mro__[::-1] if dataclasses.is_dataclass(base)):
        for field in dataclasses.fields(schema):
            if field.name not in seen and field.name in docs[schema.__name__] and field.name != "name":
                rows.append((field.name, schema, f"{group}."))
                seen.add(field.name)
    return rows_table(rows, docs)


def rows_table(rows: list[tuple[str, type, str]], docs: dict[str, dict[str, str]]) -> str:
    """A table of settings: name, type, default, meaning."""
    if not rows:
        return ""
    lines = ["| setting | type | default | |", "|---|---|---|---|"]
    for name, schema, prefix in rows:
        field = next(field for field in dataclasses.fields(schema) if field.name == name)
        kind = type_name(get_type_hints(schema)[name])
        lines.append(
            f"| `{prefix}{name}` | {cell(kind)} | {cell(default_of(field))} | {cell(docs[schema.__name__][name])} |"
        )
    return "\n".join(lines) + "\n"


def type_name(hint: Any) -> str:
    """A type as a reader types it: `number`, `text`, the words of an enum."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(str(member.value) for member in hint)
    text = str(hint) if not isinstance(hint, type) else hint.__name__
    text = re.sub(r"[\w.]*\.(\w+)", r"\1", text)
    for python, word in (
        ("None", "empty"),
        ("bool", "true/false"),
        ("int", "whole number"),
        ("float", "number"),
        ("str", "text"),
    ):
        text = re.sub(rf"\b{python}\b", word, text)
    return text.replace(" | ", " or ")


def default_of(field: dataclasses.Field[Any]) -> str:
    """The default as it is typed; a dash where the option gives it."""
    value = field.default
    if value is dataclasses.MISSING:
        value = field.default_factory() if field.default_factory is not dataclasses.MISSING else config.MISSING
    if dataclasses.is_dataclass(value) or value == config.MISSING:
        return "–"
    if value is None:
        return "empty"
    if isinstance(value, Enum):
        return f"`{value.value}`"
    if value == "":
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def cell(text: str) -> str:
    """A text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
