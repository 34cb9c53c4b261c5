"""Load a table from elsewhere into rows with checked cells and a place for error messages."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from em.data import tables
from em.errors import DataError, shorten_value


@dataclass(frozen=True)
class ForeignRow:
    """The cells of a row by column. place: file and line of the row, for error messages."""

    cells: tables.Row
    place: str

    def get_text(self, column: str) -> str:
        """Return a column as text, empty if blank or missing."""
        value = self.cells.get(column)
        if value is None:
            return ""
        if isinstance(value, (bool, list, dict)):
            raise DataError(f"{self.place}: {column} must be a text, not {shorten_value(value)!r}.")
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError as error:  # "\ud83d" alone, from a text cut in the middle of an emoji
            problem = f"{column} holds half a character ({text[error.start]!r})"
            raise DataError(f"{self.place}: {problem}, which no server accepts: correct the text.") from None
        return text

    def get_count(self, column: str) -> int | None:
        """Return a column as a whole number from 0, or None if blank or missing."""
        value = self.cells.get(column)
        if value is None or value == "":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or number < 0 or not number.is_integer():
            raise DataError(f"{self.place}: {column} must be a whole number from 0, not {shorten_value(value)!r}.")
        return int(value) if isinstance(value, int) else int(number)

    def get_number(self, column: str) -> float | None:
        """Return a column of a `verdicts.jsonl` as a number from 0, or None if null or missing."""
        value = self.cells.get(column)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise DataError(f"{self.place}: {column} must be a number from 0, or null, not {shorten_value(value)!r}.")
        return value

    def get_raw(self, column: str) -> str:
        """Return a column unchecked, as text; null is empty."""
        value = self.cells.get(column)
        if value is None:
            return ""
        return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class ForeignTable:
    """The content of a file: its rows, and all columns of any row."""

    path: Path
    rows: tuple[ForeignRow, ...]
    columns: frozenset[str]


def load_table(path: Path) -> ForeignTable:
    """Load a file into memory. Raise DataError if it has no rows or lacks a required column."""
    prefix = tables.describe_row_place(path)
    rows = tuple(ForeignRow(cells, f"{prefix} {number}") for number, cells in tables.read_table_rows(path))
    if not rows:
        raise DataError(f"{path} holds no rows.")
    columns = frozenset(column for row in rows for column in row.cells)
    if "answer" not in columns or not columns & {"question", "question_id"}:
        names = shorten_value(", ".join(sorted(columns)), 300)
        raise DataError(f"{path} needs the columns question (or question_id) and answer; it has {names}.")
    return ForeignTable(path, rows, columns)
