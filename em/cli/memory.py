"""What em remembers of model calls, from the command line:

    em memory size                              how many calls of which model, and how much room they take
    em memory prune --kind judge --model NAME --older-than 30 --yes

Without --yes, prune only says what it would forget. What is forgotten is asked again when it is wanted again.
"""

from __future__ import annotations

import argparse
import shlex
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em.cli.tool import answer_errors
from em.errors import ConfigError, MissingFile
from em.runtime.files import cache_dir
from em.runtime.memory import Calls
from em.runtime.records import format_table

MODEL = "coalesce(json_extract(request, '$.judge'), json_extract(request, '$.model'))"
DAY = 86400.0
KINDS = ("sample", "judge", "generate", "reading")


@answer_errors
def main(words: Sequence[str] | None = None) -> None:
    """Do what the words ask for."""
    parser = argparse.ArgumentParser(prog="em memory", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, default=None, metavar="DIR", help="store.dir (default: the user's cache)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{size,prune}")
    commands.add_parser("size", help="calls and room by kind and model")
    command = commands.add_parser("prune", help="forget calls")
    command.add_argument("--kind", choices=KINDS, help="only calls of this kind")
    command.add_argument("--model", metavar="TEXT", help="only calls of models or judges whose name contains this")
    command.add_argument("--contains", metavar="TEXT", help="only calls whose request or response contains this")
    command.add_argument("--older-than", type=float, metavar="DAYS", help="only calls made before that")
    command.add_argument("--yes", action="store_true", help="forget them; without it, only count them")
    commands.add_parser("show", add_help=False)  # of earlier versions; `perform` tells what to use instead
    arguments, unknown = parser.parse_known_args(words)
    if unknown and arguments.command != "show":
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    print(perform(arguments))


def perform(arguments: argparse.Namespace) -> str:
    """The text that answers a command."""
    folder = arguments.store.expanduser() if arguments.store else cache_dir()
    if arguments.command == "show":
        path = shlex.quote(str(folder / "calls.sqlite"))
        raise ConfigError(f"em memory show is gone: use sqlite3 {path}, table calls.")
    if not (folder / "calls.sqlite").is_file():
        raise MissingFile(f"{folder} holds no calls.sqlite: name the folder of store.dir with --store DIR.")
    with Calls(folder) as calls:
        return size(calls.db, folder) if arguments.command == "size" else prune(calls.db, arguments)


def size(db: sqlite3.Connection, folder: Path) -> str:
    """A table: kind, model, number of calls, megabytes, first and last day."""
    rows = db.execute(
        f"select kind, {MODEL}, count(*), sum(length(request) + length(response)), min(created), max(created) "
        "from calls group by 1, 2 order by 4 desc"
    ).fetchall()
    table = [("kind    ", "   calls", "     MB", "from      ", "to        ", "model")]
    for kind, model, count, room, first, last in rows:
        table.append((kind, f"{count:,}", f"{room / 1e6:.2f}", day(first), day(last), str(model)))
    files = sum(file.stat().st_size for file in folder.glob("calls.sqlite*"))
    total = f"{sum(row[2] for row in rows):,} calls in {files / 1e6:.1f} MB: {folder / 'calls.sqlite'}"
    return "\n".join([*format_table(table, right=[1, 2]), total])


def prune(db: sqlite3.Connection, arguments: argparse.Namespace) -> str:
    """Forget calls, and give their room back to the disk."""
    where, values = condition(arguments)
    [(count, room)] = db.execute(
        f"select count(*), coalesce(sum(length(request) + length(response)), 0) from calls {where}", values
    )
    told = f"{count:,} calls, {room / 1e6:.2f} MB"
    if not arguments.yes:
        return f"Would forget {told}; add --yes to do it."
    db.execute(f"delete from calls {where}", values)
    db.execute("vacuum")
    db.execute("pragma wal_checkpoint(truncate)")
    return f"Forgot {told}."


def condition(arguments: argparse.Namespace) -> tuple[str, list[Any]]:
    """The `where` that the options ask for, with its values."""
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


def day(created: float) -> str:
    """A time as a day."""
    return datetime.fromtimestamp(created, UTC).date().isoformat()
