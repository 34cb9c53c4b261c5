"""The store of model calls: requests and their responses, in one SQLite file, so that em makes no call twice.

The file has one table of calls, keyed by the digest of the request. WAL mode with synchronous=FULL survives kill -9 at
any point and serves several processes at once. Look inside with
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
from typing import Any, Literal, get_type_hints

from em.runtime.files import hold_lock
from em.runtime.records import digest, encode_json

PART = 500  # number of keys per query
SCHEMA = """
create table if not exists calls (
    key text primary key, kind text not null, request text not null, response text not null, created real not null
)
"""
TEXTS = (str, tuple[str, ...], tuple[tuple[str, str], ...])


def request_key(request: Any) -> str:
    """Return the key of a request (a frozen dataclass): the digest of its class's name and its fields.

    Requests that hold only texts, such as JudgeRequest, take a fast path through `to_json` (3× faster). It encodes
    texts as `digest` does, but does not sort keys, and encodes some numbers differently.
    """
    kind: type = type(request)
    names, values = list_text_fields(kind), vars(request)
    if not names:
        return digest([kind.__name__, values])
    from pydantic_core import to_json

    encoded = to_json([kind.__name__, {name: values[name] for name in names}])
    return hashlib.sha256(encoded).hexdigest()


@cache
def list_text_fields(kind: type) -> list[str]:
    """Return the sorted field names of a dataclass that holds only texts; none for any other dataclass."""
    hints = get_type_hints(kind)
    return sorted(hints) if all(hint in TEXTS for hint in hints.values()) else []


Row = tuple[str, str, str, str, float]


def make_row(kind: str, request: Any, response: Mapping[str, Any]) -> Row:
    """Return a call as a row of the table."""
    return request_key(request), kind, encode_json(vars(request)), encode_json(response), time.time()


class Calls:
    """The store of model calls: maps each request to its response."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "calls.sqlite"
        # SQLite ignores its own timeout while it switches a new file to WAL, hence the lock.
        with hold_lock(path):
            self.db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self.db.execute("pragma journal_mode=wal")
            self.db.execute("pragma synchronous=full")
            self.db.execute(SCHEMA)

    def read_responses(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the stored responses to these keys, by key."""
        from pydantic_core import from_json  # twice as fast as json

        return {key: from_json(response) for key, response in self._look_up("key, response", keys)}

    def find_stored_keys(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that have a stored response."""
        return {key for (key,) in self._look_up("key", keys)}

    def _look_up(self, columns: str, keys: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield columns of the rows with these keys, in the order of the file, so that each page is read once."""
        ordered = sorted(keys)
        for start in range(0, len(ordered), PART):
            part = ordered[start : start + PART]
            marks = ",".join("?" * len(part))
            yield from self.db.execute(f"select {columns} from calls where key in ({marks})", part)

    def store_calls(
        self,
        kind: str,
        calls: Iterable[tuple[Any, Mapping[str, Any]]],
        conflict: Literal["ignore", "replace"] = "ignore",
    ) -> None:
        """Store (request, response) pairs, all or none of them.

        Args:
            conflict: whether a new response is ignored or replaces the stored one.
        """
        self.write([make_row(kind, request, response) for request, response in calls], conflict)

    def write(self, rows: Sequence[Row], conflict: Literal["ignore", "replace"] = "ignore") -> None:
        """Insert rows, all or none of them."""
        self.db.execute("begin immediate")
        try:
            self.db.executemany(f"insert or {conflict} into calls values (?, ?, ?, ?, ?)", rows)
        except BaseException:
            if self.db.in_transaction:  # a full disk has rolled back by itself
                self.db.execute("rollback")
            raise
        self.db.execute("commit")

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Recorder:
    """Stores calls from an event loop without blocking the loop while the disk confirms.

    A thread writes; calls that arrive meanwhile are its next transaction. Storing a call returns once the call is on
    disk, so a call that is not on disk counts as still in flight.
    """

    def __init__(self, folder: Path) -> None:
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="em-recorder")
        self.calls = self.thread.submit(Calls, folder)
        self.waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self.writing: asyncio.Task[None] | None = None

    async def store_call(self, kind: str, request: Any, response: Mapping[str, Any]) -> None:
        """Store one call. Raises the error of the write if it fails."""
        done = asyncio.get_running_loop().create_future()
        self.waiting.append((make_row(kind, request, response), done))
        if self.writing is None or self.writing.done():
            self.writing = asyncio.create_task(self.write_waiting())
        await done

    async def write_waiting(self) -> None:
        """Write waiting calls until none is left."""
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
        """Write rows; runs in the thread that opened the file."""
        self.calls.result().write(rows)

    async def __aenter__(self) -> Recorder:
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Write waiting calls, then close the file."""
        if self.writing is not None:
            await asyncio.gather(self.writing, return_exceptions=True)
        self.thread.submit(lambda: self.calls.result().close())
        self.thread.shutdown()
