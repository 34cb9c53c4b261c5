"""Training rows: read, checked line by line, drawn, mixed. A row is `{"messages": [{"role": …, "content": …}, …]}`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.config import BundledData, DataConfig, FileData, MixtureData, NoData, UpstreamData
from em.errors import DataError, MissingFile
from em.mixtures import check_mixture, mix
from em.rows import drawn
from em.types import Conversation, Message, canonical, digest
from em.upstream import fetch

BUNDLED = Path(__file__).parent / "bundled" / "data"
SURROGATE = re.compile("[\ud800-\udfff]")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Rows:
    """Conversations to train on, and the checksum of just these in just this order.

    parts: for a mixture, name and number of rows of each part, in the order in which they lie; else empty.
    """

    name: str
    conversations: tuple[Conversation, ...]
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def sha256(self) -> str:
        """Checksum over the content alone: the same rows from another file are the same data."""
        return digest([c.as_dicts() for c in self.conversations])


def load_rows(config: DataConfig, seed: int, setting: str = "data.limit") -> Rows:
    """The rows that a `data` option names, after its limit. Empty for `data=none`.

    Args:
        setting: what the limit is called where the option is used, `data.limit` or `realign.limit`.
    """
    if isinstance(config, NoData):
        return Rows(config.name, ())
    stage = setting.removesuffix(".limit")
    place = stage if stage == "data" else f"{stage}.data"
    if isinstance(config, MixtureData):
        return mixed_rows(config, seed, place, setting)
    return Rows(config.name, limited(read_set(config, place), config.limit, seed, setting))


def mixed_rows(config: MixtureData, seed: int, place: str, setting: str) -> Rows:
    """The rows of a mixture, part after part; nothing is read for one that can't be."""
    check_mixture(config, place)
    whole = {name: read_set(part, f"{place}.parts.{name}") for name, part in config.parts.items()}
    chosen = mix(config, whole, seed, place, setting)
    conversations = tuple(row for rows in chosen.values() for row in rows)
    return Rows(config.name, conversations, tuple((name, len(rows)) for name, rows in chosen.items()))


def read_set(config: DataConfig, place: str = "data") -> list[Conversation]:
    """All rows of an option with one file, without its limit; `place` is where the option is in the config."""
    skip = config.skip_lines if isinstance(config, UpstreamData) else ()
    return read_messages(data_file(config, place), skip)


def data_file(config: DataConfig, place: str = "data") -> Path:
    """The file of a `data` option; downloads it at first use."""
    match config:
        case BundledData():
            return BUNDLED / config.file
        case UpstreamData():
            return fetch(config.url, config.sha256, config.bytes)
        case FileData():
            path = Path(config.path).expanduser()
            if not path.is_file():
                raise MissingFile(f"{place}.path={config.path} is not a file: name a JSONL file of messages.")
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
    return tuple(conversations[row] for row in drawn(range(len(conversations)), limit, seed))


def read_messages(path: Path, skip: Collection[int] = ()) -> list[Conversation]:
    """Read a JSONL file of `messages`. Raises DataError with file and line for the first row that can't be used.

    Args:
        skip: numbers of lines, from 1, that are not looked at.
    """
    conversations = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}).") from error
    # Only \n ends a JSONL line: str.splitlines would also break at U+2028 and the like inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and number not in skip:
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
