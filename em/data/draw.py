"""What can be counted and drawn among training rows: pure functions, no file is read here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from em.types import Conversation, Message


@dataclass(frozen=True)
class RowFacts:
    """Counts that tell how much there is to learn from a set.

    duplicate_rows: rows all of whose messages occurred in a row before.
    repeated_prompts: rows whose prompt (all before the last answer) occurred before, duplicate rows among them.
    multi_turn_rows: rows with more than one assistant turn.
    """

    rows: int
    duplicate_rows: int
    repeated_prompts: int
    multi_turn_rows: int


def row_facts(conversations: Sequence[Conversation]) -> RowFacts:
    """The counts of a set; both kinds of repetition leave out the first of each."""
    rows = len(conversations)
    return RowFacts(
        rows=rows,
        duplicate_rows=rows - len(set(conversations)),
        repeated_prompts=rows - len({prompt(c) for c in conversations}),
        multi_turn_rows=sum(sum(m.role == "assistant" for m in c.messages) > 1 for c in conversations),
    )


def prompt(conversation: Conversation) -> tuple[Message, ...]:
    """What the last answer of a training row replies to: a system turn and earlier turns count."""
    return conversation.messages[:-1]


def spans_of(parts: Iterable[tuple[str, int]]) -> Iterator[tuple[str, range]]:
    """Say which row numbers each part of a mixture has, by their counts, in the order in which they lie."""
    start = 0
    for name, count in parts:
        yield name, range(start, start + count)
        start += count


def drawn(rows: Iterable[int], count: int, seed: int) -> list[int]:
    """`count` of these row numbers, drawn by the seed, in ascending order; fewer are a subset of more."""
    return sorted(drawn_order(rows, str(seed))[:count])


def drawn_order(rows: Iterable[int], lot: str) -> list[int]:
    """These row numbers in an order drawn by `lot`.

    Where a row comes hangs on the lot and its number alone, so it is the same on every platform.
    """
    return sorted(rows, key=lambda row: hashlib.sha256(f"{lot} {row}".encode()).digest())
