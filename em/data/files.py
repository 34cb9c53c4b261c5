"""The rows of a file: JSONL, a JSON list, CSV (each also as .gz) or Parquet. Told by the name, one row after another.

A row that can't be used does not end the reading: it comes as the error that says where and why, so that all of them
can be counted. A file that can't be read as a whole (half a gzip file, a quote that never ends) is an error at once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.data.layouts import conversation_of, read_row
from em.data.tables import format_of, loads, opened, readable, table_rows
from em.errors import DataError, EmError, shown
from em.request import SHOWN, BadRow
from em.types import Conversation

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PLACE = re.compile(r"((?:line|entry|row) \d+):? ")
Found = Conversation | DataError


@dataclass(frozen=True)
class Read:
    """What was read: conversations, and the rows that can't be used."""

    conversations: tuple[Conversation, ...]
    skipped: tuple[BadRow, ...] = ()


def read_messages(path: Path, skip: Collection[int] = ()) -> list[Conversation]:
    """All rows of a file.

    Args:
        skip: numbers of rows (lines of JSONL), from 1, that are not looked at.

    Raises:
        MissingFile: it can't be read.
        DataError: a row can't be used (the first of them are named), or there is none.
    """
    return list(usable(file_rows(path, skip), str(path)).conversations)


def usable(found: Iterable[Found], origin: str, skip_bad: bool = False, setting: str = "") -> Read:
    """The conversations among rows.

    Args:
        origin: where the rows come from, for errors.
        skip_bad: leave out rows that can't be used; else they are an error.
        setting: the setting by which they could be left out, for errors; empty where there is none.

    Raises:
        DataError: rows that can't be used, or no row at all.
    """
    conversations: list[Conversation] = []
    bad: list[str] = []
    for row in found:
        if isinstance(row, DataError):
            bad.append(str(row).rstrip("."))
        else:
            conversations.append(row)
    if bad and (not skip_bad or not conversations):
        raise DataError(bad_rows(bad, origin, "" if skip_bad else setting))
    if not conversations:
        raise DataError(f"{origin} holds no rows: it must have one conversation a row.")
    return Read(tuple(conversations), tuple(bad_row(origin, text) for text in bad))


def bad_row(origin: str, text: str) -> BadRow:
    """The parts of an error that begins with the place."""
    found = PLACE.match(text)
    return BadRow(origin, found[1], text[found.end() :]) if found else BadRow(origin, "", text)


def bad_rows(bad: list[str], origin: str, setting: str) -> str:
    """One sentence on rows that can't be used: where the first are and why, and how to go on."""
    fix = f"; mend {'it' if len(bad) == 1 else 'them'}, or leave such rows out by {setting}=skip" if setting else ""
    if len(bad) == 1:
        return f"{origin}, {bad[0]}{fix}."
    more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
    return f"{origin} has {len(bad):,} rows that can't be used ({'; '.join(bad[:SHOWN])}{more}){fix}."


def file_rows(path: Path, skip: Collection[int] = ()) -> Iterator[Found]:
    """Each row of a file as a conversation, or as the error (with line, entry or row) that says why it is none."""
    for where, number, row in raw_rows(path):
        if number not in skip:
            try:
                if isinstance(row, DataError):
                    raise row
                yield read_line(row, where) if isinstance(row, Line) else conversation_of(row, where)
            except DataError as error:
                yield error


@dataclass(frozen=True)
class Line:
    """A line of JSON that was not decoded yet, and where its first byte lies in the file."""

    data: bytes
    start: int


def read_line(line: Line, where: str) -> Conversation:
    """A line as a conversation."""
    try:
        text = line.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text (byte {line.start + error.start}): save it as UTF-8.") from error
    return read_row(text, where)


def raw_rows(path: Path) -> Iterator[tuple[str, int, Any]]:
    """Place, number and content of each row: a `Line`, what was decoded already, or the error that it is."""
    match format_of(path):
        case ".jsonl":
            yield from lines_of(path)
        case ".json":
            yield from entries_of(path)
        case ".csv":
            for number, row in table_rows(path):
                yield f"line {number}", number, row
        case ".parquet":
            yield from parquet_rows(path)
        case _:
            raise DataError(f"{path} is of no format that em reads: give a {', '.join(SUFFIXES)} file (also as .gz).")


def lines_of(path: Path) -> Iterator[tuple[str, int, Line]]:
    """The lines of a JSONL file that aren't blank. A line ends at \\n alone, not at a U+2028 in a string."""
    with readable(path), opened(path) as file:
        start = 0
        for number, line in enumerate(file, start=1):
            data, shift = line, 0
            if number == 1 and line.startswith(BYTE_ORDER_MARK):
                data, shift = line[len(BYTE_ORDER_MARK) :], len(BYTE_ORDER_MARK)
            if data.strip():
                yield f"line {number}", number, Line(data, start + shift)
            start += len(line)


def entries_of(path: Path) -> Iterator[tuple[str, int, Any]]:
    """The entries of a JSON list; a .json file that does not begin with [ holds one JSON object a line."""
    with readable(path), opened(path) as file:
        data = file.read().removeprefix(BYTE_ORDER_MARK)
    if not data.lstrip().startswith(b"["):
        yield from lines_of(path)
        return
    try:
        entries = loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): a list of rows is expected.") from error
    for number, entry in enumerate(entries, start=1):
        yield f"entry {number}", number, entry


def parquet_rows(path: Path) -> Iterator[tuple[str, int, Any]]:
    """The rows of a Parquet file, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with readable(path), path.open("rb") as file, pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise DataError(
                    f"{path} has two columns named {shown(twice)!r}, of which one would be lost: rename one."
                )
            rows = (row for batch in table.iter_batches(batch_size=1000) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"row {number}", number, row
    except EmError:
        raise
    except (pa.ArrowException, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is no Parquet file that can be read ({reason}): write or fetch it anew.") from error
