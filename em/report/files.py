"""Writing: every file of a report appears whole or not at all, and a place that can't be written is one sentence."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from em.errors import OutputError


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; OutputError where that isn't possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside the target and rename, so that a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8. A lone surrogate, which JSON allows and UTF-8 doesn't, becomes `?`."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; None becomes an empty field."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, out.getvalue())


def write_records(path: Path, kind: type[Any], records: Sequence[Any]) -> None:
    """Write dataclass records of one kind as a table with a column for each field; no file without records."""
    names = [item.name for item in fields(kind)]
    if records:
        write_csv(path, names, map(attrgetter(*names), records))


def _unwritable(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"The report can't be written to {path} ({reason}): choose another folder with --out DIR.")
