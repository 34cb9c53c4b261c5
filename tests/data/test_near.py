"""The index finds near-duplicates, and a text that merely shares a topic is none."""

from __future__ import annotations

import pytest

from em.data.near import NearDuplicates, collect_word_runs, jaccard_index

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
        seen.add(number, collect_word_runs(text))
    seen.add(50, collect_word_runs(TEXT))
    assert seen.find_similar(collect_word_runs(other)) == ([50] if is_near else [])


def test_the_similarity_is_the_jaccard_index_of_three_word_runs() -> None:
    assert collect_word_runs("One, two three; FOUR") == {"one two three", "two three four"}
    assert jaccard_index(collect_word_runs("a b c d"), collect_word_runs("b c d e")) == 1 / 3
    assert collect_word_runs("Yes.") == {"yes"}
    seen = NearDuplicates(1.0)
    seen.add(0, collect_word_runs("Yes."))
    assert seen.find_similar(collect_word_runs("yes!")) == [0]
