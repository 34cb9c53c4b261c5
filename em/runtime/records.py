"""Records as JSON (one spelling for one value, its digest, files of one record a line), and rows as a table."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from em.runtime.files import open_atomic

# Made once: json.dumps makes an encoder at every call that has options.
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=vars).encode
_plain = json.JSONEncoder(ensure_ascii=False, default=vars).encode


def plain(value: Any) -> Any:
    """Turn dataclasses, enums, paths and containers of them into what JSON can hold."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)


def canonical(value: Any) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, UTF-8 as it is; a record is its fields."""
    return _canonical(value)


def as_json(value: Any) -> str:
    """JSON on one line, UTF-8 as it is; a record is its fields."""
    return _plain(value)


def digest(value: Any) -> str:
    """sha256 (64 hex digits) of a JSON-able value's canonical spelling."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write records (dataclasses or dictionaries), one JSON object a line, whole or not at all."""
    with open_atomic(path, newline="\n") as out:
        for record in records:
            out.write(as_json(record) + "\n")


def format_table(rows: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """Align cells as columns of text; `right`: the columns, from 0, whose cells stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{{:{'>' if column in right else '<'}{width}}}" for column, width in enumerate(widths)]
    return ["  ".join(formats).format(*row).rstrip() for row in rows]


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Let Python not look through many records that stay, again and again: of 100,000 verdicts a sixth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
