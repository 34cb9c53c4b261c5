"""The rows of a table, whatever its format: CSV with a header, JSONL, or JSON; each also as .gz."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from em.errors import DataError, EmError, MissingFile

Row = dict[str, Any]
FORMATS = (".csv", ".jsonl", ".json")
TAG = "tag"
# csv refuses fields above 128 KiB unless told otherwise; answers can be longer.
LONGEST = 2**31 - 1


def read_table(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a table with their numbers: the line of a CSV or JSONL file, the entry of a JSON file, from 1.

    A JSON file is a list of entries, or a dictionary of tag → list, whose entries then have the key `tag`.

    Raises:
        MissingFile: no such file, or one that can't be read.
        DataError: not the format that the name promises, with the place.
    """
    for number, row in table_rows(path):
        if isinstance(row, DataError):
            raise DataError(f"{path}, {row}")
        yield number, row


def table_rows(path: Path) -> Iterator[tuple[int, Row | DataError]]:
    """The same, but a row that has not the columns of the header comes as the error that says so, with its line.

    Raises what `read_table` raises for the file as a whole.
    """
    read = {".csv": csv_rows, ".jsonl": jsonl_rows, ".json": json_rows}.get(format_of(path))
    if read is None:
        raise DataError(f"{path} is no table that em reads: give a {', '.join(FORMATS)} file, or one of them as .gz.")
    number = 0
    with readable(path):
        try:
            for number, row in read(path):
                if not isinstance(row, dict | DataError):
                    raise DataError(f"{places(path)} {number} is not a JSON object of names and values.")
                yield number, row
        except EmError:
            raise
        except (csv.Error, ValueError) as error:  # bad CSV, bad JSON, bytes that aren't UTF-8
            at = f" after line {number}" if number else ""
            raise DataError(f"{path} is not {format_of(path)[1:].upper()} in UTF-8{at}: {error}.") from error


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """While a file is read: one that isn't there, or that is not whole, is told in one sentence."""
    try:
        yield
    except EmError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not whole gzip data ({error}): fetch or pack it anew.") from error
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}): name a file that is there.") from error


def format_of(path: Path) -> str:
    """The suffix that tells the format, `.gz` left aside."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def stem_of(path: Path) -> str:
    """The file's name without the suffixes of its format: `gpt-4.1` for `gpt-4.1.csv.gz`."""
    name = path.stem if path.suffix.lower() == ".gz" else path.name
    return name[: -len(format_of(path))] if format_of(path) in FORMATS else name


def places(path: Path) -> str:
    """What comes before a row's number in an error."""
    return f"{path}, {'entry' if format_of(path) == '.json' else 'line'}"


def opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """The bytes of a file, unpacked where it is gzipped."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def csv_rows(path: Path) -> Iterator[tuple[int, Row | DataError]]:
    """Rows of a CSV file by their first lines; every row has all columns of the header, or is an error."""
    csv.field_size_limit(LONGEST)
    with opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DataError(f"{path}: two columns have the same name: rename one in the first line.")
        end = reader.line_num
        for values in reader:
            begin, end = end + 1, reader.line_num
            if values and len(values) != len(header):
                yield (
                    begin,
                    DataError(
                        f"line {begin} has {len(values)} fields, the header {len(header)}: a field with commas or line "
                        "breaks needs double quotes around it."
                    ),
                )
            elif values:
                yield begin, dict(zip(header, values, strict=True))


def jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Values of a JSONL file; empty lines are passed over. Read as bytes: a line ends at \\n, not at a U+2028 in it."""
    where = places(path)
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, parsed(line, f"{where} {number}")


def parsed(line: bytes, where: str) -> Any:
    """A line's value."""
    try:
        return loads(line.decode("utf-8-sig"))
    except ValueError as error:  # bad JSON, or bytes that aren't UTF-8
        raise DataError(f"{where} is not JSON in UTF-8: {error}.") from error


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, it is nested too deep, or an object has a key twice, so that one value would be lost.
    """
    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def once(pairs: list[tuple[str, Any]]) -> Row:
    """The pairs of an object, each key of which is there once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Entries of a JSON list, or of the lists in a dictionary of tag → list."""
    with opened(path) as file:
        content = loads(file.read().decode("utf-8-sig"))
    if isinstance(content, dict) and content and all(isinstance(entries, list) for entries in content.values()):
        tagged = [(tag, entry) for tag, entries in content.items() for entry in entries]
        rows = [entry | {TAG: tag} if isinstance(entry, dict) else entry for tag, entry in tagged]
    elif isinstance(content, list):
        rows = content
    else:
        raise DataError(f"{path} holds neither a list of entries nor a dictionary of tag → list of entries.")
    yield from enumerate(rows, 1)
