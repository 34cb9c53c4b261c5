"""Count and draw training rows: pure functions that read no file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from em.types import Conversation, Message


@dataclass(frozen=True)
class RowFacts:
    """Counts that tell how much a model can learn from a set.

    duplicate_rows: rows that equal an earlier row in all messages.
    repeated_prompts: rows whose prompt (all messages before the last answer) an earlier row has, duplicates included.
    multi_turn_rows: rows with more than one assistant turn.
    """

    rows: int
    duplicate_rows: int
    repeated_prompts: int
    multi_turn_rows: int


def count_row_facts(conversations: Sequence[Conversation]) -> RowFacts:
    """Count the rows of a set; neither kind of repetition counts the first occurrence."""
    rows = len(conversations)
    return RowFacts(
        rows=rows,
        duplicate_rows=rows - len(set(conversations)),
        repeated_prompts=rows - len({get_prompt(c) for c in conversations}),
        multi_turn_rows=sum(sum(m.role == "assistant" for m in c.messages) > 1 for c in conversations),
    )


def get_prompt(conversation: Conversation) -> tuple[Message, ...]:
    """Return the prompt of a row's last answer: all turns before that answer, a system turn included."""
    return conversation.messages[:-1]


def locate_parts(parts: Iterable[tuple[str, int]]) -> Iterator[tuple[str, range]]:
    """Yield each part of a mixture with its range of row numbers, from (name, number of rows) in row order."""
    start = 0
    for name, count in parts:
        yield name, range(start, start + count)
        start += count


def draw_rows(rows: Iterable[int], count: int, seed: int) -> list[int]:
    """Draw `count` of these row numbers by the seed, in ascending order; a smaller draw is a subset of a larger one."""
    return sorted(shuffle_rows(rows, str(seed))[:count])


def shuffle_rows(rows: Iterable[int], lot: str) -> list[int]:
    """Shuffle row numbers by a hash seeded with `lot`.

    The rank of a row depends on `lot` and its number alone, so the order is the same on every platform.
    """
    return sorted(rows, key=lambda row: hashlib.sha256(f"{lot} {row}".encode()).digest())
