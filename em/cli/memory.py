"""What em remembers of model calls, from the command line:

    em memory size                              how many calls of which model, and how much room they take
    em memory show --kind judge --contains TEXT  requests and responses, newest first
    em memory prune --kind judge --model NAME --older-than 30 --yes

Without --yes, prune only says what it would forget. What is forgotten is asked again when it is wanted again.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em.errors import EmError, MissingFile
from em.runtime.files import cache_dir
from em.runtime.memory import Calls
from em.runtime.records import format_table

MODEL = "coalesce(json_extract(request, '$.judge'), json_extract(request, '$.model'))"
DAY = 86400.0
KINDS = ("sample", "judge", "generate", "reading")


def main(words: Sequence[str] | None = None) -> int:
    """Do what the words ask for; the exit code."""
    parser = argparse.ArgumentParser(prog="em memory", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, default=None, metavar="DIR", help="store.dir (default: the user's cache)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("size", help="calls and room by kind and model")
    for name, text in (("show", "requests and responses, newest first"), ("prune", "forget calls")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--kind", choices=KINDS, help="only calls of this kind")
        command.add_argument("--model", metavar="TEXT", help="only calls of models or judges whose name contains this")
        command.add_argument("--contains", metavar="TEXT", help="only calls whose request or response contains this")
        if name == "show":
            command.add_argument("--limit", type=int, default=10, metavar="N", help="at most so many (default: 10)")
        else:
            command.add_argument("--older-than", type=float, metavar="DAYS", help="only calls made before that")
            command.add_argument("--yes", action="store_true", help="forget them; without it, only count them")
    arguments = parser.parse_args(words)
    try:
        print(perform(arguments))
    except EmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def perform(arguments: argparse.Namespace) -> str:
    """The text that answers a command."""
    folder = arguments.store.expanduser() if arguments.store else cache_dir()
    if not (folder / "calls.sqlite").is_file():
        raise MissingFile(f"{folder} holds no calls.sqlite: name the folder of store.dir with --store DIR.")
    with Calls(folder) as calls:
        match arguments.command:
            case "size":
                return size(calls.db, folder)
            case "show":
                return show(calls.db, arguments)
            case _:
                return prune(calls.db, arguments)


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


def show(db: sqlite3.Connection, arguments: argparse.Namespace) -> str:
    """Requests and responses as JSON, one call a paragraph."""
    where, values = condition(arguments)
    rows = db.execute(
        f"select kind, request, response, created from calls {where} order by created desc limit ?",
        [*values, arguments.limit],
    )
    return "\n\n".join(
        f"{kind}, {day(created)}\n{json.dumps(json.loads(request), indent=1, ensure_ascii=False)}\n"
        f"{json.dumps(json.loads(response), indent=1, ensure_ascii=False)}"
        for kind, request, response, created in rows
    )


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
    if getattr(arguments, "older_than", None) is not None:
        parts.append("created < ?")
        values.append(datetime.now(UTC).timestamp() - arguments.older_than * DAY)
    return ("where " + " and ".join(parts) if parts else ""), values


def day(created: float) -> str:
    """A time as a day."""
    return datetime.fromtimestamp(created, UTC).date().isoformat()
