"""Turn what Hydra and OmegaConf say of a command-line word into a sentence with the fix."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from functools import cache
from typing import get_type_hints

from em import config
from em.config.help import list_option_files, list_own_fields
from em.config.paths import CONF
from em.config.tracker import StoreConfig
from em.errors import did_you_mean

NUMBER = re.compile(
    r"(?!-?(0|[1-9]\d*)$)[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d[\d_]*)?|[+-]?(inf|nan)|true|false", re.IGNORECASE
)
"""Values that Hydra takes for a number or a truth value, and writes in another way."""
KINDS = {
    **dict.fromkeys(("Integer", "int"), "a whole number"),
    **dict.fromkeys(("Float", "float"), "a number"),
    "str": "a word",
}
CONVERSION = (
    r"Value '(.*?)'(?: of type '\w+')? "
    r"(?:could not be converted to (\w+)|is incompatible with type hint '(?:typing\.)?Union\[(.*?)\]')"
)
FAULTS = {
    r"Value '(.*?)' .*is not a valid bool": "has the wrong type: true or false is expected.",
    r"Invalid value '(.*?)', expected one of \[(.*?)\]": "is unknown: it is one of {1}.",
    r"merging override [\w.]+=(\S+) .* not a ListConfig": "has the wrong type: a list is expected, as in {key}=[a,b].",
}
"""Patterns of messages, whose first group is the typed value, and the fault of that value."""


def explain_refused_word(error: BaseException, name: str) -> tuple[str, str]:
    """Find the word that caused an error; return the word, and its fault with what to type instead.

    Args:
        name: name of the primary config.
    """
    text = str(error)
    if error.__cause__ is not None and ("raised while composing" in text or "Error merging override" in text):
        text = f"{text}\n{error.__cause__}"
    flat = " ".join(text.split())
    if "Key 'sweep'" in text:
        fault = "is a sweep file of W&B: start it with `wandb sweep conf/sweep/wandb.yaml` (docs/wandb.md)."
        return "sweep=wandb", fault
    if match := re.search(r"Could not find '(\w+)/(.+?)'", text):
        group, option = match.groups()
        options = [path.stem for path in list_option_files(CONF, group)]
        return f"{group}={option}", f"is no option: {offer_alternatives(option, options)}"
    full_key = re.search(r"full_key: (\S+)", text)
    key = full_key[1] if full_key else ""
    if match := re.search(r"Key '(\w+)' (?:is )?not in '(\w+)'", text):
        schema = re.search(r"object_type=(\w+)", text)
        key = key or match[1]
        settings = list_settings(name, key, schema[1] if schema else match[2])
        return key, f"is no setting: {offer_alternatives(key, settings)}"
    if match := re.search(r"Could not override '([\w.@/]+)'", text):
        return match[1], f"is no setting: {offer_alternatives(match[1], list_settings(name, match[1]))}"
    if match := re.search(r"Error merging override realign\.data=(\w+)", flat):
        return f"realign.data={match[1]}", f"does not choose an option: write data@realign.data={match[1]}."
    if match := re.search(r"merging override (.+?) Cannot convert '(?:list|dict)' to string", flat):
        return "", explain_quoting(match[1], name)
    if match := re.search(r"Ambiguous value for argument '(.+?)' 1\. ", flat):
        key, _, value = match[1].partition("=")
        typed = quote_value(value) if is_text_setting(key, name) else f"[{value}]"
        return match[1], f"has a comma: write {shlex.quote(f'{key}={typed}')}, or add -m to run a job for each value."
    if match := re.search(CONVERSION, flat):
        kinds = dict.fromkeys(KINDS.get(kind, kind) for kind in (match[2] or match[3]).split(", "))
        return f"{key}={match[1]}", f"has the wrong type: {' or '.join(kinds)} is expected."
    for pattern, fault in FAULTS.items():
        if match := re.search(pattern, flat):
            return f"{key}={match[1]}", fault.format(*match.groups(), key=key)
    return "", flat


@cache
def list_text_fields(name: str) -> frozenset[str]:
    """List the names of settings that are texts wherever they occur in the schemas of `name`."""
    root = config.find_root_schema(name)
    schemas = [StoreConfig, *(each for classes in config.list_groups(name).values() for each in classes)]
    hints = [(field, hint) for schema in schemas for field, hint in get_type_hints(schema).items()]
    hints += [(field, get_type_hints(root)[field]) for field in list_own_fields(root)]
    others = {field for field, hint in hints if hint not in (str, str | None)}
    return frozenset(field for field, _ in hints if field not in others)


def is_text_setting(key: str, name: str) -> bool:
    """Return whether a dotted key of the command line names a setting that is a text."""
    path = key.lstrip("+~").split(".")
    is_setting = len(path) > 1 or path[0] in list_own_fields(config.find_root_schema(name))
    return is_setting and path[-1] in list_text_fields(name)


def quote_value(value: str) -> str:
    """Quote a text for Hydra."""
    escaped = re.sub(r'(\\*)(?="|$)', r"\1\1", value).replace('"', r"\"")
    return f'"{escaped}"'


def keep_texts(words: Sequence[str], name: str) -> list[str]:
    """Quote the values of text settings that look like numbers, so that `7e10` stays a text; also in a sweep's list."""
    kept = []
    for word in words:
        key, _, value = word.partition("=")
        if value and is_text_setting(key, name):
            parts = [quote_value(part) if NUMBER.fullmatch(part) else part for part in value.split(",")]
            word = f"{key}={','.join(parts)}"
        kept.append(word)
    return kept


def explain_quoting(word: str, name: str) -> str:
    """Explain how to type a word that Hydra can't parse: quoted for Hydra, and for the shell."""
    key, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"[+~]*[\w.@/:]+", key):
        return f"{word} is no setting: write KEY=VALUE, without a space beside the =."
    if value[:1] == "[" and value[-1:] == "]" and not is_text_setting(key, name):
        parts = [part.strip().strip("'\"") for part in value[1:-1].split(",")]
        quoted = f"[{','.join(map(quote_value, parts))}]"
    else:
        quoted = quote_value(value)
    return f"{word} has characters that need quotes: write {shlex.quote(f'{key}={quoted}')}."


def list_settings(name: str, key: str, schema: str = "") -> list[str]:
    """List the dotted settings that `key` may stand for: those of `schema`, if given, which refused it; else all."""
    groups = config.list_groups(name)
    keys = [
        *groups,
        *list_own_fields(config.find_root_schema(name)),
        *config.list_bundles(name),
        "hydra",
        "store",
        "store.dir",
    ]
    for group, classes in groups.items():
        for each in classes:
            fields = [f"{group}.{field.name}" for field in dataclasses.fields(each)]
            if each.__name__ == schema and group == key.split(".")[0]:
                return fields
            keys += fields
    return keys


def offer_alternatives(word: str, names: list[str]) -> str:
    """Suggest the names that are most similar to a word; list all names if none is similar."""
    names = list(dict.fromkeys(names))
    return did_you_mean(word, names, f"there is {', '.join(names)}.", most=3)
