"""Writing: every file of a report appears whole or not at all, and a place that can't be written is one sentence."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

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


def _unwritable(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"The report can't be written to {path} ({reason}): choose another folder with --out DIR.")
