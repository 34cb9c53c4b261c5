"""docs/reference.md: every group with its options and settings, written from the schemas and the option files.

python -m em.reference > docs/reference.md
"""

from __future__ import annotations

import dataclasses
import re
import sys
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from em import config
from em.helptext import field_docs, option_files

CONF = Path(__file__).parents[1] / "conf"
TITLE = """# Every option and setting

Written by `python -m em.reference > docs/reference.md` from `em/config/` and `conf/`; do not edit. An option is
chosen by `GROUP=OPTION`, a setting given by `GROUP.SETTING=VALUE`. Defaults are those of the schema; an option has the
values of its file, `conf/GROUP/OPTION.yaml`.
"""


def reference() -> str:
    """The whole page."""
    docs = field_docs()
    parts = [TITLE]
    for group, classes in config.GROUPS.items():
        parts += [f"## {group}\n", options_table(group), settings_table(group, classes, docs)]
    for group, classes in config.GENERATE_GROUPS.items():
        if group not in config.GROUPS:
            parts += [f"## {group} (of generate.py)\n", options_table(group), settings_table(group, classes, docs)]
    parts += [
        "## experiment\n",
        options_table("experiment"),
        "## sweep\n",
        options_table("sweep"),
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


if __name__ == "__main__":
    sys.stdout.write(reference())
