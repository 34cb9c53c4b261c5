"""Read JSON lines, CSV and JSON documents into frozen dataclasses, with pydantic; errors name file, line and field.

Fields that files of older versions lack have a default; columns and keys that the dataclass lacks are ignored.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from em.errors import DataError, MissingFile
from em.runtime.records import encode_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

Record = TypeVar("Record")

REPAIR = "repair that line, or run the run's command again to write the file anew"
REMEDY = "run that run's command again, or leave its folder out"


def _make_adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Make a validator of `kind` or null: pydantic accepts a config for a union, not for a dataclass alone."""
    from pydantic import ConfigDict, TypeAdapter

    optional: Any = kind | None
    return TypeAdapter(optional, config=ConfigDict(allow_inf_nan=False))


def read_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the records of a JSON-lines file; none if the file doesn't exist."""
    from pydantic import ValidationError

    if not path.exists():
        return
    adapter = _make_adapter(kind)
    try:
        with path.open("rb") as lines:  # as bytes: a line must end at \n only, not at a U+2028 inside an answer
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    record = adapter.validate_json(line, strict=True)
                except ValidationError:
                    record = _retry_line(line, adapter, f"{path}, line {number}")
                if record is not None:
                    yield record
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}): check its permissions.") from error


def _retry_line(line: bytes, adapter: TypeAdapter[Any], place: str) -> Any:
    """Read a line that pydantic refused, with lone surrogates (allowed in JSON only) replaced by `?`.

    Raises:
        DataError: the line is refused again, or isn't JSON.
    """
    from pydantic import ValidationError

    try:
        return adapter.validate_json(encode_json(json.loads(line)).encode(errors="replace"), strict=True)
    except ValidationError as error:
        raise explain_invalid_field(error, place, REPAIR) from error
    except ValueError as error:  # bad JSON, or bytes that aren't UTF-8
        raise DataError(f"{place} isn't JSON ({error}): {REPAIR}.") from error


def read_csv(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the records of a CSV file with a header; none if the file doesn't exist. An empty number is None."""
    from pydantic import ValidationError

    if not path.exists():
        return
    adapter = _make_adapter(kind)
    texts = {item.name for item in fields(kind) if item.type == "str"}  # type: ignore[arg-type]
    number = 1
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                number = reader.line_num
                values = {key: None if text == "" and key not in texts else text for key, text in row.items() if key}
                record = adapter.validate_python(values)
                if record is not None:
                    yield record
    except ValidationError as error:
        raise explain_invalid_field(error, f"{path}, line {number}", REPAIR) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}, line {number} or the one after isn't CSV in UTF-8 ({error}): {REPAIR}.") from error
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}): check its permissions.") from error


def read_document(document: Mapping[str, Any], kind: type[Record], path: Path) -> Record:
    """Make a record from a JSON object; `path` is the file that an error names."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        raise explain_invalid_field(error, str(path), REMEDY) from error


def explain_invalid_field(error: ValidationError, place: str, remedy: str) -> DataError:
    """Make a DataError that names the first invalid field in one sentence."""
    first = error.errors()[0]
    name = next((part for part in reversed(first["loc"]) if isinstance(part, str)), "")
    if not name:
        return DataError(f"{place} isn't a JSON object: {remedy}.")
    if first["type"] == "missing":
        return DataError(f"{place} has no `{name}`: {remedy}.")
    reason = "not a number" if first["type"].endswith("_parsing") else "which can't be used"
    return DataError(f"{place}: `{name}` is {str(first['input'])[:80]!r}, {reason}: {remedy}.")
