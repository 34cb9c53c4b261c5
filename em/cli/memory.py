"""Measure and prune the cache of model calls:

    em memory size                              number and size of the calls, by kind and model
    em memory prune --kind judge --model NAME --older-than 30 --yes

Without --yes, prune only says what it would forget. A run that needs a forgotten call makes it again.
"""

from __future__ import annotations

import argparse
import shlex
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em.cli.tool import handle_errors
from em.errors import ConfigError, MissingFile
from em.runtime.files import find_cache_folder
from em.runtime.memory import Calls
from em.runtime.records import format_table

MODEL = "coalesce(json_extract(request, '$.judge'), json_extract(request, '$.model'))"
DAY = 86400.0
KINDS = ("sample", "judge", "generate", "reading", "served")


@handle_errors
def main(words: Sequence[str] | None = None) -> None:
    """Run the command in `words`, and print its result."""
    parser = argparse.ArgumentParser(prog="em memory", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, default=None, metavar="DIR", help="store.dir (default: the user's cache)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{size,prune}")
    commands.add_parser("size", help="number and size of the calls, by kind and model")
    command = commands.add_parser("prune", help="forget calls")
    command.add_argument("--kind", choices=KINDS, help="only calls of this kind")
    command.add_argument("--model", metavar="TEXT", help="only calls of models or judges whose name contains this")
    command.add_argument("--contains", metavar="TEXT", help="only calls whose request or response contains this")
    command.add_argument("--older-than", type=float, metavar="DAYS", help="only calls older than this")
    command.add_argument("--yes", action="store_true", help="forget the calls; without --yes, only count them")
    commands.add_parser("show", add_help=False)  # of earlier versions; its error says what to use instead
    arguments, unknown = parser.parse_known_args(words)
    if unknown and arguments.command != "show":
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    print(run_memory_command(arguments))


def run_memory_command(arguments: argparse.Namespace) -> str:
    """Run a command; return the text to print."""
    folder = arguments.store.expanduser() if arguments.store else find_cache_folder()
    if arguments.command == "show":
        path = shlex.quote(str(folder / "calls.sqlite"))
        raise ConfigError(f"em memory show was removed: use sqlite3 {path}, table calls.")
    if not (folder / "calls.sqlite").is_file():
        raise MissingFile(f"{folder} holds no calls.sqlite: name the folder of store.dir with --store DIR.")
    with Calls(folder) as calls:
        return measure_size(calls.db, folder) if arguments.command == "size" else prune_calls(calls.db, arguments)


def measure_size(db: sqlite3.Connection, folder: Path) -> str:
    """Return a table of kind, model, number of calls, megabytes, first and last day."""
    rows = db.execute(
        f"select kind, {MODEL}, count(*), sum(length(request) + length(response)), min(created), max(created) "
        "from calls group by 1, 2 order by 4 desc"
    ).fetchall()
    table = [("kind    ", "   calls", "     MB", "from      ", "to        ", "model")]
    for kind, model, count, size_bytes, first, last in rows:
        table.append((kind, f"{count:,}", f"{size_bytes / 1e6:.2f}", format_day(first), format_day(last), str(model)))
    files = sum(file.stat().st_size for file in folder.glob("calls.sqlite*"))
    total = f"{sum(row[2] for row in rows):,} calls in {files / 1e6:.1f} MB: {folder / 'calls.sqlite'}"
    return "\n".join([*format_table(table, right=[1, 2]), total])


def prune_calls(db: sqlite3.Connection, arguments: argparse.Namespace) -> str:
    """Delete cached calls, and free their space on the disk."""
    where, values = build_where_clause(arguments)
    [(count, size_bytes)] = db.execute(
        f"select count(*), coalesce(sum(length(request) + length(response)), 0) from calls {where}", values
    )
    summary = f"{count:,} calls, {size_bytes / 1e6:.2f} MB"
    if not arguments.yes:
        return f"Would forget {summary}; add --yes to do it."
    db.execute(f"delete from calls {where}", values)
    db.execute("vacuum")
    db.execute("pragma wal_checkpoint(truncate)")
    return f"Forgot {summary}."


def build_where_clause(arguments: argparse.Namespace) -> tuple[str, list[Any]]:
    """Return the SQL `where` clause for the options, and its values."""
    parts, values = [], []
    if arguments.kind:
        parts.append("kind = ?")
        values.append(arguments.kind)
    if arguments.model:
        parts.append(f"instr({MODEL}, ?)")
        values.append(arguments.model)
    if arguments.contains:
        parts.append("(instr(request, ?) or instr(response, ?))")
        values += [arguments.contains] * 2
    if arguments.older_than is not None:
        parts.append("created < ?")
        values.append(datetime.now(UTC).timestamp() - arguments.older_than * DAY)
    return ("where " + " and ".join(parts) if parts else ""), values


def format_day(created: float) -> str:
    """Format a time as its day, in UTC."""
    return datetime.fromtimestamp(created, UTC).date().isoformat()
