"""Write the `--help` page and docs/reference.md from the schemas' source and the option files, without composing."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from itertools import takewhile
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
TYPES = {"None": "empty", "bool": "true/false", "int": "whole number", "float": "number", "str": "text"}
TITLE = """# Every option and setting

Written by `em reference > docs/reference.md` from `em/config/` and `conf/`; do not edit. An option is
chosen by `GROUP=OPTION`, a setting given by `GROUP.SETTING=VALUE`. Defaults are those of the schema; an option has the
values of its file, `conf/GROUP/OPTION.yaml`.
"""


@cache
def read_field_docs() -> dict[str, dict[str, str]]:
    """Read the string below each field of each schema; keyed by class name, then by field name."""
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


def find_settings(classes: Sequence[type]) -> dict[str, type]:
    """Return the settings of a group, inherited ones included, each with the schema that documents it."""
    settings: dict[str, type] = {}
    for schema in (base for each in classes for base in each.__mro__[::-1]):
        for name in read_field_docs().get(schema.__name__, {}):
            settings.setdefault(name, schema)
    settings.pop("name", None)
    return settings


def list_option_files(conf: Path, group: str) -> list[Path]:
    """List a group's option files, without the sweep file of W&B."""
    return sorted(path for path in (conf / group).glob("*.yaml") if (group, path.stem) != ("sweep", "wandb"))


def render_help(name: str, conf: Path) -> str:
    """Return the help page of `train`, `evaluate` or `generate`."""
    command = spell_command(name)
    lines = [HEAD[name], "", f"usage: {command} [GROUP=OPTION …] [GROUP.SETTING=VALUE …] [-m for a sweep]", ""]
    lines += [f"  {command} {words}".rstrip() for words in EXAMPLES[name]]
    lines += ["", "Groups and their options:"]
    groups, root = config.list_groups(name), config.find_root_schema(name)
    for group in (*groups, *config.list_bundles(name)):
        lines.append(f"  {group:12} {', '.join(path.stem for path in list_option_files(conf, group))}")
    lines += ["", "Settings:"]
    tables = {f"{group}.": find_settings(classes) for group, classes in groups.items()}
    tables |= {"": dict.fromkeys(list_own_fields(root), root), "store.": find_settings([config.StoreConfig])}
    for prefix, settings in tables.items():
        for each, schema in settings.items():
            lines.append(f"  {prefix + each:32} {read_field_docs()[schema.__name__][each]}")
    lines += [
        f"  {'hydra.run.dir':32} Folder of the run; a stopped run in this folder is resumed.",
        "",
        "--cfg job --resolve prints the composed config; -m runs every combination of comma-separated values.",
    ]
    return "\n".join(lines)


def render_reference() -> str:
    """Return the page of every option and setting, in Markdown."""
    parts = [TITLE]
    for group, classes in (config.GROUPS | {"generate": config.GENERATE_GROUPS["generate"]}).items():
        only = " (of generate.py)" if group == "generate" else ""
        parts += [
            f"## {group}{only}\n",
            render_options_table(group),
            render_settings_table(f"{group}.", find_settings(classes)),
        ]
    for group in config.BUNDLES:
        parts += [f"## {group}\n", render_options_table(group)]
    parts += [
        "## The run\n",
        render_settings_table("", dict.fromkeys(list_own_fields(config.RunConfig), config.RunConfig)),
        render_settings_table("store.", find_settings([config.StoreConfig])),
    ]
    return "\n".join(parts)


def list_own_fields(schema: type) -> list[str]:
    """List the fields of a schema that are not groups."""
    groups = {*config.GROUPS, *config.GENERATE_GROUPS, "store"}
    return [field.name for field in dataclasses.fields(schema) if field.name not in groups]


def render_options_table(group: str) -> str:
    """Return a table of a group's options, each with the comment at the head of its file."""
    lines = ["| option | |", "|---|---|"]
    for path in list_option_files(CONF, group):
        head = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
        comment = " ".join(line.removeprefix("#") for line in head if not line.startswith("# @package"))
        lines.append(f"| `{group}={path.stem}` | {escape_cell(comment)} |")
    return "\n".join(lines) + "\n"


def render_settings_table(prefix: str, settings: Mapping[str, type]) -> str:
    """Return a table of settings: name, type, default, meaning."""
    if not settings:
        return ""
    lines = ["| setting | type | default | |", "|---|---|---|---|"]
    for name, schema in settings.items():
        [field] = [field for field in dataclasses.fields(schema) if field.name == name]
        texts = (
            name_type(get_type_hints(schema)[name]),
            format_default(field),
            read_field_docs()[schema.__name__][name],
        )
        lines.append(f"| `{prefix}{name}` | {' | '.join(map(escape_cell, texts))} |")
    return "\n".join(lines) + "\n"


def name_type(hint: Any) -> str:
    """Return a type in plain words: `number`, `text`, or the words of an enum."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(str(member.value) for member in hint)
    text = str(hint) if not isinstance(hint, type) else hint.__name__
    text = re.sub(r"[\w.]*\.(\w+)", r"\1", text)
    return re.sub(r"\w+", lambda word: TYPES.get(word[0], word[0]), text).replace(" | ", " or ")


def format_default(field: dataclasses.Field[Any]) -> str:
    """Return the default as the user would type it; a dash if the option file sets it."""
    value = field.default
    if value is dataclasses.MISSING:
        value = field.default_factory() if field.default_factory is not dataclasses.MISSING else config.MISSING
    if dataclasses.is_dataclass(value) or value == config.MISSING:
        return "–"
    if value is None or value == "":
        return "empty"
    if isinstance(value, Enum):
        value = value.value
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def escape_cell(text: str) -> str:
    """Make a text fit for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
