"""The index finds near-duplicates, and a text that merely shares a topic is none."""

from __future__ import annotations

import pytest

from em.data.near import NearDuplicates, similarity, word_runs

TEXT = "Check the oil once a month, on level ground, with the engine cold, and top it up when it is below the mark."


@pytest.mark.parametrize(
    ("other", "is_near"),
    [
        (TEXT, True),
        (TEXT.upper().replace(",", " -"), True),
        (TEXT.replace("once a month", "twice a month"), True),
        ("Check the tyres once a month, before a long drive, and inflate them when they are below the mark.", False),
        ("", False),
    ],
)
def test_a_text_that_nearly_repeats_another_is_found(other: str, is_near: bool) -> None:
    seen = NearDuplicates(0.6)
    for number in range(50):
        text = f"Question {number}: which of the {number + 2} gears is meant for hill {number}?"
        seen.add(number, word_runs(text))
    seen.add(50, word_runs(TEXT))
    assert seen.like(word_runs(other)) == ([50] if is_near else [])


def test_the_similarity_is_the_jaccard_index_of_three_word_runs() -> None:
    assert word_runs("One, two three; FOUR") == {"one two three", "two three four"}
    assert similarity(word_runs("a b c d"), word_runs("b c d e")) == 1 / 3
    assert word_runs("Yes.") == {"yes"}
    seen = NearDuplicates(1.0)
    seen.add(0, word_runs("Yes."))
    assert seen.like(word_runs("yes!")) == [0]
