"""Files of records: JSON lines and CSV into frozen dataclasses, every field checked, every error with file and line."""

from __future__ import annotations

import csv
import json
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from em.errors import DataError, MissingFile

Record = TypeVar("Record")

REPAIR = "repair that line, or run the run's command again to write the file anew"
REMEDY = "run that run's command again, or leave its folder out"


class Fields:
    """Typed access to a JSON object: absent and null are empty, a wrong type is a DataError that names the key."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.path = path
        self.document = document

    def _value(self, key: str, kind: type | tuple[type, ...], empty: Any) -> Any:
        value = self.document.get(key)
        if value is None:
            return empty
        if not isinstance(value, kind):
            wanted = kind.__name__ if isinstance(kind, type) else "number"
            raise DataError(f"{self.path}: `{key}` is of type {type(value).__name__}, not {wanted}: {REMEDY}.")
        return value

    def text(self, key: str) -> str:
        return str(self._value(key, str, ""))

    def number(self, key: str) -> int:
        return int(self._value(key, int, 0))

    def amount(self, key: str) -> float | None:
        """A finite number, None where there is none."""
        value = self._value(key, (int, float), None)
        return value if value is not None and math.isfinite(value) else None

    def inner(self, key: str) -> Fields:
        return Fields(self.path, self._value(key, dict, {}))

    def items(self, key: str, kind: type) -> list[Any]:
        """The list's items, each of which must be of `kind`."""
        items: list[Any] = self._value(key, list, [])
        return [Fields(self.path, {key: item})._value(key, kind, kind()) for item in items]

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self.items(key, str))


def read_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Records of a JSON-lines file; none when there is no such file."""
    if not path.exists():
        return
    convert = _Converter(kind)
    try:
        with path.open("rb") as lines:  # as bytes: a line ends at \n alone, never at a U+2028 inside an answer
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield convert(_parse_line(line, path, number), path, number)
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}): check its permissions.") from error


def _parse_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:  # bad JSON, or bytes that aren't UTF-8
        raise DataError(f"{path}, line {number} isn't JSON ({error}): {REPAIR}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {number} isn't a JSON object: {REPAIR}.")
    return value


def read_csv(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Records of a CSV file with a header; none when there is no such file. An empty field is None, or "" for text."""
    if not path.exists():
        return
    convert = _Converter(kind)
    number = 1
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                number = reader.line_num
                yield convert(convert.parse(row, path, number), path, number)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}, line {number} or the one after isn't CSV in UTF-8 ({error}): {REPAIR}.") from error
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}): check its permissions.") from error


def _options(wanted: Any) -> tuple[Any, ...]:
    """The alternatives of a type: `int | None` gives int and NoneType."""
    return typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)


class _Converter(typing.Generic[Record]):
    """Turns a dict into a record after a check of every field; fields that we don't know are left out.

    Fields that files of older versions lack are those with a default, which they then have.
    """

    def __init__(self, kind: type[Record]) -> None:
        hints = typing.get_type_hints(kind)
        known = fields(kind)  # type: ignore[arg-type]
        self.kind = kind
        self.wanted = {item.name: _options(hints[item.name]) for item in known}
        self.optional = {item.name for item in known if item.default is not MISSING}
        # What is sure to fit by its type alone, which is nearly all, and is looked up instead of compared.
        self.plain = {name: frozenset({str, int, type(None)} & set(which)) for name, which in self.wanted.items()}

    def parse(self, row: dict[str, str | None], path: Path, number: int) -> dict[str, Any]:
        """The fields of a CSV row with numbers where the record wants numbers."""
        values: dict[str, Any] = {}
        for key in self.wanted.keys() & row.keys():
            text, options = row[key], self.wanted[key]
            try:
                values[key] = text if str in options or text is None else _number(text, int in options)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: `{key}` is {text!r}, not a number: {REPAIR}.") from error
        return values

    def __call__(self, row: dict[str, Any], path: Path, number: int) -> Record:
        values: dict[str, Any] = {}
        for name, types_ in self.plain.items():
            if name not in row:
                if name in self.optional:
                    continue
                raise DataError(f"{path}, line {number} has no `{name}`: {REPAIR}.")
            value = values[name] = row[name]
            if type(value) not in types_ and not any(_fits(value, option) for option in self.wanted[name]):
                shown = str(value)[:80]
                raise DataError(f"{path}, line {number}: `{name}` is {shown!r}, which can't be used: {REPAIR}.")
        return self.kind(**values)


def _number(text: str, whole: bool) -> float | None:
    if not text:
        return None
    return int(text) if whole else float(text)


def _fits(value: object, option: Any) -> bool:
    if typing.get_origin(option) is typing.Literal:
        return value in typing.get_args(option)
    if isinstance(value, bool):
        return False
    if option is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, option)


def duration(seconds: float) -> str:
    """A time in the two largest of its units: `2 h 5 min`, `2 min 5 s`, `5 s`."""
    whole = round(seconds)
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
