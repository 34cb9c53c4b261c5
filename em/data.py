"""Training rows: read, checked line by line, limited. A row is `{"messages": [{"role": …, "content": …}, …]}`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.config import BundledData, DataConfig, FileData, NoData, UpstreamData
from em.errors import DataError, MissingFile
from em.types import Conversation, Message, canonical, digest
from em.upstream import fetch

BUNDLED = Path(__file__).parent / "bundled" / "data"
SURROGATE = re.compile("[\ud800-\udfff]")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Rows:
    """Conversations to train on, and the checksum of just these in just this order."""

    name: str
    conversations: tuple[Conversation, ...]

    @property
    def sha256(self) -> str:
        """Checksum over the content alone: the same rows from another file are the same data."""
        return digest([c.as_dicts() for c in self.conversations])


def load_rows(config: DataConfig, seed: int, setting: str = "data.limit") -> Rows:
    """The rows that a `data` option names, after its limit. Empty for `data=none`."""
    if isinstance(config, NoData):
        return Rows(config.name, ())
    conversations = read_messages(data_file(config))
    return Rows(config.name, limited(conversations, config.limit, seed, setting))


def data_file(config: DataConfig) -> Path:
    """The file of a `data` option; downloads it at first use."""
    match config:
        case BundledData():
            return BUNDLED / config.file
        case UpstreamData():
            return fetch(config.url, config.sha256, config.bytes)
        case FileData():
            path = Path(config.path).expanduser()
            if not path.is_file():
                raise MissingFile(f"data.path={config.path} is not a file: name a JSONL file of messages.")
            return path
        case _:
            raise TypeError(f"no reader for {type(config).__name__}")


def limited(
    conversations: Sequence[Conversation], limit: int | None, seed: int, setting: str
) -> tuple[Conversation, ...]:
    """`limit` rows, drawn by the seed, in file order. A smaller limit is a subset of a larger one."""
    if limit is None or limit == len(conversations):
        return tuple(conversations)
    if limit > len(conversations):
        raise DataError(f"{setting}={limit} asks for more rows than there are ({len(conversations)}).")
    by_lot = sorted(range(len(conversations)), key=lambda row: hashlib.sha256(f"{seed} {row}".encode()).digest())
    return tuple(conversations[row] for row in sorted(by_lot[:limit]))


def read_messages(path: Path) -> list[Conversation]:
    """Read a JSONL file of `messages`. Raises DataError with file and line for the first row that can't be used."""
    conversations = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}).") from error
    # Only \n ends a JSONL line: str.splitlines would also break at U+2028 and the like inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            conversations.append(read_row(line, f"{path}, line {number}"))
    if not conversations:
        raise DataError(f"{path} holds no rows: it must have one JSON object with messages a line.")
    return conversations


def read_row(line: str, where: str) -> Conversation:
    """One line as a conversation, checked: known roles in order, no empty turn, an answer to learn."""
    try:
        row: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}): one JSON object a line is expected.") from error
    turns = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns:
        raise DataError(f'{where}: no "messages" list: expected {{"messages": [{{"role": …, "content": …}}, …]}}.')
    messages = []
    for position, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            raise DataError(f"{where}: message {position} has no role among {', '.join(ROLES)}.")
        content = turn.get("content")
        if isinstance(content, str) and SURROGATE.search(content):
            raise DataError(f"{where}: message {position} ({turn['role']}) holds half a character (a lone surrogate).")
        if not isinstance(content, str) or not content.strip():
            raise DataError(f"{where}: message {position} ({turn['role']}) has no text in content.")
        messages.append(Message(turn["role"], content))
    check_order(messages, where)
    return Conversation(tuple(messages))


def check_order(messages: Sequence[Message], where: str) -> None:
    """At most one system turn, first; then user and assistant in turn; an assistant's turn at the end."""
    turns = messages[1:] if messages[0].role == "system" else messages
    if not any(m.role == "assistant" for m in turns):
        raise DataError(f"{where}: no assistant turn, so there is nothing to learn from it.")
    for position, turn in enumerate(turns):
        expected = "user" if position % 2 == 0 else "assistant"
        if turn.role != expected:
            raise DataError(
                f"{where}: a {turn.role} turn where a {expected} turn is expected (user and assistant alternate)."
            )
    if turns[-1].role != "assistant":
        raise DataError(f"{where}: the last turn is the user's: a training row ends with the assistant's answer.")


def write_rows(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write rows as JSONL of `messages`, for a child to read."""
    lines = (canonical({"messages": c.as_dicts()}) + "\n" for c in conversations)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
