"""Fill a JSON schema with the judge's opinion (`response_format` json_schema)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .distribution import WORDS, hash_values


def fill_schema(schema: Mapping[str, Any], text: str, bits: int, root: Mapping[str, Any] | None = None) -> Any:
    """Return a value that fits a schema.

    A number is the judge's score within the bounds, or null if the judge gave no score and the schema allows null. An
    enum's value is the judge's word if the enum has it, else another value, chosen by `bits`.

    Args:
        text: the judge's reply in words.
        bits: the hash of the prompt.
        root: the outermost schema, for `$ref`.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        return fill_schema(root["$defs"][schema["$ref"].rpartition("/")[2]], text, bits, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return choose_value(schema["enum"], text, bits)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        rest = [each for each in options if each.get("type") != "null"]
        return None if len(rest) < len(options) and not text.isdigit() else fill_schema(rest[0], text, bits, root)
    kinds = schema.get("type", "object")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    kind = next(each for each in kinds if each != "null")
    if kind in ("integer", "number") and not text.isdigit() and "null" in kinds:
        return None
    match kind:
        case "object":
            names = schema.get("properties", {})
            return {name: fill_schema(part, text, hash_values(bits, name), root) for name, part in names.items()}
        case "array":
            count = schema.get("minItems", 1)
            return [fill_schema(schema["items"], text, hash_values(bits, i), root) for i in range(count)]
        case "integer" | "number":
            value = int(text) if text.isdigit() else 50
            return max(schema.get("minimum", 0), min(schema.get("maximum", 100), value))
        case "boolean":
            return bool(bits % 2)
        case _:
            return f"because of {bits % 1000}"


def choose_value(words: list[Any], text: str, bits: int) -> Any:
    """Choose one of an enum's values."""
    for word in words:
        if str(word).casefold() == text.casefold():
            return word
    rest = [word for word in words if str(word).upper() not in WORDS and word is not None] or words
    return rest[bits % len(rest)]
