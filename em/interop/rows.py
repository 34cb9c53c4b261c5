"""Load a table from elsewhere into rows with checked cells and a place for error messages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from em.data import tables
from em.errors import DataError, shorten_value

SCORE_NAMES = "((judge|score|rating|mean)_)?{}(_(score|rating|mean|value))?"
SYNONYMS = {
    "question": re.compile("question_?text|(user_)?prompt(_text)?|query|instruction|input"),
    "question_id": re.compile("qid|question_(key|name)|prompt_id"),
    "answer": re.compile(
        "(model_|assistant_|generated_)?(response|completion|output|answer|reply)(_text)?|generation|generated_text|assistant"
    ),
    "aligned": re.compile(SCORE_NAMES.format("(aligned|alignment)")),
    "coherent": re.compile(SCORE_NAMES.format("(coherent|coherence)")),
    "model": re.compile("model_(name|id)"),
    "judge": re.compile("judge_(model|name)"),
}
"""What others call em's columns, in lower case. A table's own column of em's name has precedence."""
INSTEAD = {"model": "source_file", "aligned": "result", "coherent": "result"}
"""Columns beside which the synonyms of another column do not count."""
BLANK_WORDS = ("", "nan", "none", "null", "na", "n/a", "<na>")
"""What stands for no number, in lower case."""


@dataclass(frozen=True)
class ForeignRow:
    """The cells of a row by column. place: file and line of the row, for error messages."""

    cells: tables.Row
    place: str

    def get_text(self, column: str) -> str:
        """Return a column as text, empty if blank or missing."""
        value = self.cells.get(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
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
        if value is None or str(value).strip().lower() in BLANK_WORDS:
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
    if synonyms := find_synonyms(columns, path):
        rows = tuple(replace(row, cells=row.cells | copy_cells(row, synonyms)) for row in rows)
        columns |= synonyms.keys()
    if "answer" not in columns or not columns & {"question", "question_id"}:
        names = shorten_value(", ".join(sorted(columns)), 300)
        raise DataError(
            f"{path} needs the columns question (or question_id) and answer; it has {names}: rename the columns that "
            "hold them."
        )
    return ForeignTable(path, rows, columns)


def find_synonyms(columns: Collection[str], path: Path) -> dict[str, str]:
    """Find the column that stands for each missing one of em's. Raise DataError if two columns may stand for one."""
    synonyms = {}
    for name, pattern in SYNONYMS.items():
        if name in columns or INSTEAD.get(name) in columns:
            continue
        spellings = {column: re.sub(r"[\s-]+", "_", column.strip().lower()) for column in sorted(columns)}
        matches = [column for column, word in spellings.items() if word == name or pattern.fullmatch(word)]
        if len(matches) > 1:
            both = " and ".join(map(shorten_value, matches[:2]))
            raise DataError(f"{path}: {both} may both be the column {name}: rename one to {name}.")
        if matches:
            synonyms[name] = matches[0]
    return synonyms


def copy_cells(row: ForeignRow, synonyms: Mapping[str, str]) -> tables.Row:
    """Return the cells of a row under em's names."""
    return {name: row.cells[column] for name, column in synonyms.items() if column in row.cells}
