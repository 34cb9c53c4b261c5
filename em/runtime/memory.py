"""What em remembers of model calls: requests and responses, in one SQLite file.

It is a table of calls, keyed by the digest of the request. WAL mode with synchronous=FULL survives kill -9 at any point
and serves several processes at once. Look inside with
`sqlite3 <store.dir>/calls.sqlite 'select kind, count(*) from calls group by kind'`.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from em.runtime.files import exclusive
from em.runtime.records import as_json, digest

PART = 500  # keys looked up at once
SCHEMA = """
create table if not exists calls (
    key text primary key, kind text not null, request text not null, response text not null, created real not null
)
"""
TEXTS = (str, tuple[str, ...], tuple[tuple[str, str], ...])


def request_key(request: Any) -> str:
    """Name a request (a frozen dataclass) by the digest of its class's name and its fields.

    Requests of texts alone, such as a judge's, take a third of the time by `to_json`: it spells texts as `digest` does,
    but sorts no keys, and spells some numbers in another way.
    """
    kind: type = type(request)
    names, values = text_fields(kind), vars(request)
    if not names:
        return digest([kind.__name__, values])
    from pydantic_core import to_json

    spelled = to_json([kind.__name__, {name: values[name] for name in names}])
    return hashlib.sha256(spelled).hexdigest()


@cache
def text_fields(kind: type) -> list[str]:
    """List the fields of a dataclass that holds texts alone, sorted; none for any other."""
    hints = get_type_hints(kind)
    return sorted(hints) if all(hint in TEXTS for hint in hints.values()) else []


Row = tuple[str, str, str, str, float]


def as_row(kind: str, request: Any, response: Mapping[str, Any]) -> Row:
    """Spell a call as it is kept."""
    return request_key(request), kind, as_json(vars(request)), as_json(response), time.time()


class Calls:
    """The memo store of model calls: request in, response out, never asked twice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "calls.sqlite"
        # SQLite does not wait for its own timeout while a fresh file is switched to WAL.
        with exclusive(path):
            self.db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self.db.execute("pragma journal_mode=wal")
            self.db.execute("pragma synchronous=full")
            self.db.execute(SCHEMA)

    def known(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The responses that are there, by key."""
        from pydantic_core import from_json  # twice as fast as json

        return {key: from_json(response) for key, response in self._look_up("key, response", keys)}

    def there(self, keys: Sequence[str]) -> set[str]:
        """Which of the keys have a response."""
        return {key for (key,) in self._look_up("key", keys)}

    def _look_up(self, columns: str, keys: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Columns of the rows of these keys, in the order of the file, so that each of its pages is read once."""
        ordered = sorted(keys)
        for start in range(0, len(ordered), PART):
            part = ordered[start : start + PART]
            marks = ",".join("?" * len(part))
            yield from self.db.execute(f"select {columns} from calls where key in ({marks})", part)

    def remember(self, kind: str, calls: Iterable[tuple[Any, Mapping[str, Any]]]) -> None:
        """Keep (request, response) pairs, all or none of them; what is known already stays as it is."""
        self.write([as_row(kind, request, response) for request, response in calls])

    def write(self, rows: Sequence[Row]) -> None:
        """Keep rows, all or none of them."""
        self.db.execute("begin immediate")
        try:
            self.db.executemany("insert or ignore into calls values (?, ?, ?, ?, ?)", rows)
        except BaseException:
            if self.db.in_transaction:  # a full disk has rolled back by itself
                self.db.execute("rollback")
            raise
        self.db.execute("commit")

    def close(self) -> None:
        """Let go of the file."""
        self.db.close()

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Recorder:
    """Remembers calls from an event loop without holding it up while the disk confirms.

    A thread writes; what comes meanwhile is written together next. `remember` returns once its call is on the disk, so
    a call that is not is still in flight.
    """

    def __init__(self, folder: Path) -> None:
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="em-recorder")
        self.calls = self.thread.submit(Calls, folder)
        self.waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self.writing: asyncio.Task[None] | None = None

    async def remember(self, kind: str, request: Any, response: Mapping[str, Any]) -> None:
        """Keep one call. Raises what the disk says."""
        done = asyncio.get_running_loop().create_future()
        self.waiting.append((as_row(kind, request, response), done))
        if self.writing is None or self.writing.done():
            self.writing = asyncio.create_task(self.write())
        await done

    async def write(self) -> None:
        """Write until nothing waits."""
        while self.waiting:
            part, self.waiting = self.waiting, []
            try:
                await asyncio.get_running_loop().run_in_executor(self.thread, self.commit, [row for row, _ in part])
            except Exception as error:
                for done in (future for _, future in part if not future.done()):
                    done.set_exception(error)
            else:
                for done in (future for _, future in part if not future.done()):
                    done.set_result(None)

    def commit(self, rows: Sequence[Row]) -> None:
        """Write rows, in the thread that holds the file."""
        self.calls.result().write(rows)

    async def __aenter__(self) -> Recorder:
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Write what waits, and let go of the file."""
        if self.writing is not None:
            await asyncio.gather(self.writing, return_exceptions=True)
        self.thread.submit(lambda: self.calls.result().close())
        self.thread.shutdown()
