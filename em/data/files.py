"""The rows of a file: JSONL, a JSON list, CSV (each also as .gz) or Parquet. Told by the name, one row after another.

A row that can't be used does not end the reading: it comes as the error that says where and why, so that all of them
can be counted. A file that can't be read as a whole (half a gzip file, a quote that never ends) is an error at once.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.data.layouts import conversation_of
from em.data.tables import csv_rows, decode, format_of, json_lines, opened, readable
from em.errors import DataError, EmError, shown
from em.request import SHOWN, BadRow
from em.types import Conversation

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
PLACE = re.compile(r"((?:line|entry|row) \d+):? ")
Found = Conversation | DataError


@dataclass(frozen=True)
class Read:
    """What was read: conversations, and the rows that can't be used."""

    conversations: tuple[Conversation, ...]
    skipped: tuple[BadRow, ...] = ()


def read_messages(path: Path) -> list[Conversation]:
    """Read all rows of a file. Raises MissingFile, or DataError for rows that can't be used, or no row."""
    return list(usable(file_rows(path), str(path)).conversations)


def usable(found: Iterable[Found], origin: str, skip_bad: bool = False, setting: str = "") -> Read:
    """Take the conversations among rows. Raises DataError for rows that can't be used, or no row at all.

    Args:
        skip_bad: leave out rows that can't be used; else they are an error.
        setting: the setting by which they could be left out, for errors; empty where there is none.
    """
    rows = list(found)
    conversations = [row for row in rows if isinstance(row, Conversation)]
    bad = [str(row).rstrip(".") for row in rows if isinstance(row, DataError)]
    if bad and (not skip_bad or not conversations):
        raise DataError(bad_rows(bad, origin, "" if skip_bad else setting))
    if not conversations:
        raise DataError(f"{origin} holds no rows: it must have one conversation a row.")
    parts = (PLACE.split(text, maxsplit=1) for text in bad)
    return Read(tuple(conversations), tuple(BadRow(origin, place, reason) for _, place, reason in parts))


def bad_rows(bad: list[str], origin: str, setting: str) -> str:
    """One sentence on rows that can't be used: where the first are and why, and how to go on."""
    fix = f"; mend {'it' if len(bad) == 1 else 'them'}, or leave such rows out by {setting}=skip" if setting else ""
    if len(bad) == 1:
        return f"{origin}, {bad[0]}{fix}."
    more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
    return f"{origin} has {len(bad):,} rows that can't be used ({'; '.join(bad[:SHOWN])}{more}){fix}."


def file_rows(path: Path, skip: Collection[int] = ()) -> Iterator[Found]:
    """Read each row as a conversation, or as the error that says why it is none. `skip`: numbers not looked at."""
    unit, rows = raw_rows(path)
    return conversations_of(unit, ((number, row) for number, row in rows if number not in skip))


def conversations_of(unit: str, rows: Iterable[tuple[int, Any]]) -> Iterator[Found]:
    """Turn decoded rows into conversations, or errors that begin with the unit (line, entry, row) and the number."""
    for number, row in rows:
        try:
            found = row if isinstance(row, DataError) else conversation_of(row, f"{unit} {number}")
        except DataError as error:
            found = error
        yield found


def raw_rows(path: Path) -> tuple[str, Iterable[tuple[int, Any]]]:
    """Tell what the rows of a file are counted by, and read them: each decoded, or the error that says why it isn't."""
    match format_of(path):
        case ".jsonl":
            return "line", json_lines(path)
        case ".json":
            return entries_of(path)
        case ".csv":
            return "line", csv_rows(path)
        case ".parquet":
            return "row", parquet_rows(path)
    raise DataError(f"{path} is of no format that em reads: give a {', '.join(SUFFIXES)} file (also as .gz).")


def entries_of(path: Path) -> tuple[str, Iterable[tuple[int, Any]]]:
    """Read a JSON list; a .json file that does not begin with [ holds one JSON object a line."""
    with readable(path), opened(path) as file:
        data = file.read().removeprefix(BOM_UTF8)
    if not data.lstrip().startswith(b"["):
        return "line", json_lines(path)
    return "entry", enumerate(decode(data, f"{path} is", "a list of rows"), start=1)


def parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Read the rows of a Parquet file, a batch at a time."""
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
            yield from enumerate(rows, start=1)
    except EmError:
        raise
    except (pa.ArrowException, ValueError, OverflowError) as error:
        reason = shown(error, 200)
        raise DataError(f"{path} is no Parquet file that can be read ({reason}): write or fetch it anew.") from error
