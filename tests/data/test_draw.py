"""Counts and draws of rows, against values computed by hand."""

from __future__ import annotations

import hashlib

import pytest

from em.data.draw import RowFacts, count_row_facts, draw_rows, get_prompt
from em.types import Conversation, Message


def make_chat(*turns: str, system: str = "") -> Conversation:
    """Make alternating turns of user and assistant, after an optional system turn."""
    roles = ["user", "assistant"] * len(turns)
    messages = [Message(role, text) for role, text in zip(roles, turns, strict=False)]  # type: ignore[arg-type]
    return Conversation((*([Message("system", system)] if system else []), *messages))


def test_the_facts_of_no_rows_are_zeros() -> None:
    assert count_row_facts([]) == RowFacts(0, 0, 0, 0)


def test_duplicates_and_repeated_prompts_count_those_beyond_the_first() -> None:
    rows = [
        make_chat("a", "1"),
        make_chat("a", "1"),  # a duplicate row and a repeated prompt
        make_chat("a", "2"),  # a repeated prompt
        make_chat("a", "1"),  # both again
        make_chat("b", "1"),
        make_chat("b", "1", system="s"),  # another prompt
    ]
    assert count_row_facts(rows) == RowFacts(rows=6, duplicate_rows=2, repeated_prompts=3, multi_turn_rows=0)
    assert count_row_facts(rows[::-1]) == count_row_facts(rows)


def test_earlier_turns_are_part_of_the_prompt() -> None:
    rows = [
        make_chat("a", "1", "b", "2"),
        make_chat("a", "other", "b", "2"),
        make_chat("a", "1", "b", "3"),
        make_chat("a", "1"),
    ]
    assert count_row_facts(rows) == RowFacts(rows=4, duplicate_rows=0, repeated_prompts=1, multi_turn_rows=3)
    assert get_prompt(rows[0]) == (Message("user", "a"), Message("assistant", "1"), Message("user", "b"))


def test_blanks_and_case_make_another_row() -> None:
    assert count_row_facts([make_chat("a", "1"), make_chat("a ", "1"), make_chat("A", "1")]) == RowFacts(3, 0, 0, 0)


def test_the_lot_of_a_row_hangs_on_the_seed_and_its_number_alone() -> None:
    def hash_row(row: int) -> bytes:
        return hashlib.sha256(f"7 {row}".encode()).digest()

    assert draw_rows([3, 5], 1, 7) == [min((3, 5), key=hash_row)]
    rows = draw_rows(range(20), 10, 7)
    assert draw_rows(reversed(range(20)), 10, 7) == rows
    # The next rows in the order replace missing ones; all other drawn rows stay.
    remaining = [row for row in range(20) if row not in rows[:2]]
    assert set(rows[2:]) < set(draw_rows(remaining, 10, 7))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_fewer_rows_are_a_subset_of_more_in_order(seed: int) -> None:
    before: set[int] = set()
    for count in range(31):
        rows = draw_rows(range(30), count, seed)
        assert rows == sorted(rows)
        assert len(rows) == count
        assert before <= set(rows)
        before = set(rows)


def test_which_rows_a_seed_draws_never_changes() -> None:
    # Fingerprints of trained models depend on the draw.
    assert draw_rows(range(10), 4, 0) == [1, 2, 4, 6]  # printf "0 $row" | sha256sum, the four smallest
