"""Read the rows of a file one by one: JSONL, a JSON list, CSV (each also as .gz) or Parquet, as its name says.

A row that can't be used does not stop the reading: the reader yields the error that says where and why, so that a
caller can count all bad rows. A file that can't be read (half a gzip file, an unclosed quote) raises at once.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.data.layouts import RowReader
from em.data.tables import decode_json, explain_read_errors, find_format, open_file, read_csv_rows, read_json_lines
from em.errors import DataError, EmError, shorten_value
from em.request import SHOWN, BadRow
from em.types import Conversation

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
PLACE = re.compile(r"((?:line|entry|row) \d+):? ")
RowOrError = Conversation | DataError


@dataclass(frozen=True)
class ReadRows:
    """The rows of a file or set: conversations, and the rows that can't be used."""

    conversations: tuple[Conversation, ...]
    skipped: tuple[BadRow, ...] = ()


def read_messages(path: Path) -> list[Conversation]:
    """Read all rows of a file. Raises MissingFile, or DataError for bad rows or a file without rows."""
    return list(collect_usable_rows(read_file_rows(path), str(path)).conversations)


def collect_usable_rows(
    results: Iterable[RowOrError], origin: str, skip_bad: bool = False, setting: str = ""
) -> ReadRows:
    """Separate conversations from bad rows. Raises DataError for bad rows, or where no row is left.

    Args:
        skip_bad: leave out bad rows instead of raising.
        setting: the setting that would leave them out, for the error; empty where there is none.
    """
    rows = list(results)
    conversations = [row for row in rows if isinstance(row, Conversation)]
    bad = [str(row).rstrip(".") for row in rows if isinstance(row, DataError)]
    if bad and (not skip_bad or not conversations):
        raise DataError(describe_bad_rows(bad, origin, "" if skip_bad else setting))
    if not conversations:
        raise DataError(f"{origin} holds no rows: it must have one conversation a row.")
    parts = (PLACE.split(text, maxsplit=1) for text in bad)
    return ReadRows(tuple(conversations), tuple(BadRow(origin, place, reason) for _, place, reason in parts))


def describe_bad_rows(bad: list[str], origin: str, setting: str) -> str:
    """Return one sentence on the bad rows: the place and fault of the first ones, and how to go on."""
    object_word = "it" if len(bad) == 1 else "them"
    fix = f"; fix {object_word}, or leave such rows out by {setting}=skip" if setting else ""
    if len(bad) == 1:
        return f"{origin}, {bad[0]}{fix}."
    more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
    return f"{origin} has {len(bad):,} rows that can't be used ({'; '.join(bad[:SHOWN])}{more}){fix}."


def read_file_rows(path: Path, skip: Collection[int] = (), reader: RowReader | None = None) -> Iterator[RowOrError]:
    """Read each row as a conversation, or as the error that says why not; pass over the row numbers in `skip`."""
    unit, rows = read_raw_rows(path)
    return convert_rows(unit, ((number, row) for number, row in rows if number not in skip), reader)


def convert_rows(unit: str, rows: Iterable[tuple[int, Any]], reader: RowReader | None = None) -> Iterator[RowOrError]:
    """Convert decoded rows to conversations, or to errors that begin with the unit (line, entry, row) and number."""
    reader = reader or RowReader()
    for number, row in rows:
        try:
            result = row if isinstance(row, DataError) else reader.convert_row(row, f"{unit} {number}")
        except DataError as error:
            result = error
        yield result


def read_raw_rows(path: Path) -> tuple[str, Iterable[tuple[int, Any]]]:
    """Return the unit of a file's rows and an iterator over them: each one decoded, or the error that says why not."""
    match find_format(path):
        case ".jsonl":
            return "line", read_json_lines(path)
        case ".json":
            return read_json_entries(path)
        case ".csv":
            return "line", read_csv_rows(path)
        case ".parquet":
            return "row", read_parquet_rows(path)
    raise DataError(f"{path} has a format that em can't read: give a {', '.join(SUFFIXES)} file (also as .gz).")


def read_json_entries(path: Path) -> tuple[str, Iterable[tuple[int, Any]]]:
    """Read a JSON list; read a .json file that does not begin with [ as one JSON object a line."""
    with explain_read_errors(path), open_file(path) as file:
        data = file.read().removeprefix(BOM_UTF8)
    if not data.lstrip().startswith(b"["):
        return "line", read_json_lines(path)
    return "entry", enumerate(decode_json(data, f"{path} is", "a list of rows"), start=1)


def read_parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Read the rows of a Parquet file, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with explain_read_errors(path), path.open("rb") as file, pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if repeated := next((name for name in names if names.count(name) > 1), None):
                raise DataError(
                    f"{path} has two columns named {shorten_value(repeated)!r}, and em would lose one: "
                    "rename one of them."
                )
            rows = (row for batch in table.iter_batches(batch_size=1000) for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except EmError:
        raise
    except (pa.ArrowException, ValueError, OverflowError) as error:
        reason = shorten_value(error, 200)
        raise DataError(f"{path} is no Parquet file that can be read ({reason}): write or fetch it again.") from error
