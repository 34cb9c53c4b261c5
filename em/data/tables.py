"""Read the rows of a table: CSV with a header, JSONL or JSON; each also as .gz."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from em.errors import DataError, EmError, MissingFile

Row = dict[str, Any]
FORMATS = (".csv", ".jsonl", ".json")
TAG = "tag"
# By default csv refuses fields above 128 KiB; answers can be longer.
LONGEST = 2**31 - 1
DELIMITERS = (",", ";", "\t")


def read_table_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a table with their numbers: the line of a CSV or JSONL file, the entry of a JSON file, from 1.

    A JSON file is a list of entries, or a dictionary of tag → list, of which each entry gets the key `tag`.
    Raises MissingFile, or DataError (with the place) where the content does not have the format of the suffix.
    """
    read = {".csv": read_csv_rows, ".jsonl": read_json_lines, ".json": read_json_rows}.get(find_format(path))
    if read is None:
        raise DataError(f"{path} is no table that em reads: give a {', '.join(FORMATS)} file, or one of them as .gz.")
    for number, row in read(path):
        if isinstance(row, DataError):
            raise DataError(f"{path}, {row}")
        if not isinstance(row, dict):
            raise DataError(f"{describe_row_place(path)} {number} is not a JSON object of names and values.")
        yield number, row


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turn an error of reading a file into MissingFile, or into DataError for incomplete gzip data."""
    try:
        yield
    except EmError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not whole gzip data ({error}): fetch or compress it again.") from error
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}): name an existing file.") from error


def find_format(path: Path) -> str:
    """Return the suffix of the format, in lower case and without `.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def strip_suffixes(path: Path) -> str:
    """Return the file's name without the suffixes of its format: `gpt-4.1` for `gpt-4.1.csv.gz`."""
    name = path.stem if path.suffix.lower() == ".gz" else path.name
    return name[: -len(find_format(path))] if find_format(path) in FORMATS else name


def describe_row_place(path: Path) -> str:
    """Return the text before a row's number in an error: the file, and `line` or `entry`."""
    return f"{path}, {'entry' if find_format(path) == '.json' else 'line'}"


def open_file(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """Open a file to read bytes, decompressed if its suffix is .gz."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def read_csv_rows(path: Path) -> Iterator[tuple[int, Row | DataError]]:
    """Yield each CSV row with the number of its first line; a row with missing or extra fields comes as DataError."""
    csv.field_size_limit(LONGEST)
    number = 0
    try:
        with (
            explain_read_errors(path),
            open_file(path) as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file,
        ):
            first = file.readline()
            # Spreadsheets in many languages write semicolons, since their numbers have commas.
            delimiter = max(DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
            reader = csv.reader(chain([first], file), strict=True, delimiter=delimiter)
            header = [name.strip("\ufeff ") for name in next(reader, [])]
            if len(set(header)) < len(header):
                raise DataError(f"{path}: two columns have the same name: rename one in the first line.")
            end = reader.line_num
            for values in reader:
                begin, end = end + 1, reader.line_num
                if not values:
                    continue
                number = begin
                if len(values) == len(header):
                    yield number, dict(zip(header, values, strict=True))
                    continue
                fields = f"line {number} has {len(values)} fields, the header {len(header)}"
                yield number, DataError(f"{fields}: a field with commas or line breaks needs double quotes around it.")
    except (csv.Error, UnicodeDecodeError) as error:
        at = f" after line {number}" if number else ""
        raise DataError(f"{path} is not CSV in UTF-8{at}: {error}.") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the value of each JSONL line that is not blank, with its number; an invalid line comes as DataError.

    Reading bytes makes a line end at \\n alone, not at a U+2028 in a string.
    """
    with explain_read_errors(path), open_file(path) as file:
        start = 0
        for number, line in enumerate(file, start=1):
            data = line.removeprefix(BOM_UTF8) if number == 1 else line
            if data.strip():
                try:
                    value = decode_json(
                        data, f"line {number}:", "one JSON object a line", start + len(line) - len(data)
                    )
                except DataError as error:
                    value = error
                yield number, value
            start += len(line)


def decode_json(data: bytes, place: str, expected: str, start: int = 0) -> Any:
    """Decode JSON in UTF-8; `place` and `expected` go into an error, `start` is the data's offset in the file."""
    try:
        return parse_json(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{place} not UTF-8 text (byte {start + error.start}): save it as UTF-8.") from error
    except ValueError as error:
        raise DataError(f"{place} not JSON ({error}): {expected} is expected.") from error


def parse_json(text: str) -> Any:
    """Decode a JSON text. Raises ValueError, also for too deep nesting or a repeated key."""
    try:
        return json.loads(text, object_pairs_hook=refuse_repeated_keys)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> Row:
    """Return the pairs of a JSON object as a dictionary. Raises ValueError for a repeated key."""
    values = dict(pairs)
    if len(values) < len(pairs):
        [(repeated, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {repeated[:60]!r} is there twice")
    return values


def read_json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the numbered entries of a JSON list, or of all lists in a dictionary of tag → list."""
    with explain_read_errors(path), open_file(path) as file:
        content = decode_json(file.read().removeprefix(BOM_UTF8), f"{path} is", "a list of rows")
    if isinstance(content, dict) and content and all(isinstance(entries, list) for entries in content.values()):
        tagged = [(tag, entry) for tag, entries in content.items() for entry in entries]
        content = [entry | {TAG: tag} if isinstance(entry, dict) else entry for tag, entry in tagged]
    if not isinstance(content, list):
        raise DataError(f"{path} holds neither a list of entries nor a dictionary of tag → list of entries.")
    yield from enumerate(content, 1)
