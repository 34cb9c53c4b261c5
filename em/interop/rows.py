"""The rows of a table of others: their cells, checked, with the place that an error names."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from em.data import tables
from em.errors import DataError, shown


@dataclass(frozen=True)
class Row:
    """The cells of a row by column. place: where the row is, for errors."""

    cells: tables.Row
    place: str

    def text(self, column: str) -> str:
        """A column as text, empty where it is blank or missing."""
        value = self.cells.get(column)
        if value is None:
            return ""
        if isinstance(value, (bool, list, dict)):
            raise DataError(f"{self.place}: {column} must be a text, not {shown(value)!r}.")
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError as error:  # "\ud83d" alone, of a text that was cut in the middle of an emoji
            half = f"{column} holds half a character ({text[error.start]!r})"
            raise DataError(f"{self.place}: {half}, which no server takes: mend it.") from None
        return text

    def count(self, column: str) -> int | None:
        """A column as a whole number from 0, None where it is blank or missing."""
        value = self.cells.get(column)
        if value is None or value == "":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or number < 0 or not number.is_integer():
            raise DataError(f"{self.place}: {column} must be a whole number from 0, not {shown(value)!r}.")
        return int(value) if isinstance(value, int) else int(number)

    def number(self, column: str) -> float | None:
        """A column of a line of ours as a number from 0; None where it is null or missing."""
        value = self.cells.get(column)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise DataError(f"{self.place}: {column} must be a number from 0, or null, not {shown(value)!r}.")
        return value

    def raw(self, column: str) -> str:
        """A column as it stands, as text; blank is empty."""
        value = self.cells.get(column)
        if value is None:
            return ""
        return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Table:
    """A file that was read: its rows, and all columns that any row has."""

    path: Path
    rows: tuple[Row, ...]
    columns: frozenset[str]


def load(path: Path) -> Table:
    """A file with at least one row, all in memory."""
    prefix = tables.places(path)
    rows = tuple(Row(cells, f"{prefix} {number}") for number, cells in tables.read_table(path))
    if not rows:
        raise DataError(f"{path} holds no rows.")
    columns = frozenset(column for row in rows for column in row.cells)
    if "answer" not in columns or not columns & {"question", "question_id"}:
        names = shown(", ".join(sorted(columns)), 300)
        raise DataError(f"{path} needs the columns question (or question_id) and answer; it has {names}.")
    return Table(path, rows, columns)
