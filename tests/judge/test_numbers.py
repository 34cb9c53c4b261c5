"""The one number of a judge's reply in words: read where there is exactly one on the scale, and never a wrong one."""

from __future__ import annotations

import random

import pytest

from em.judge.numbers import find_number

WRAPPINGS = (
    *(
        "{n}",
        " {n} ",
        "{n}.",
        "**{n}**",
        "`{n}`",
        "[{n}]",
        "({n})",
        '"{n}"',
        "[[{n}]]",
        "\\boxed{{{n}}}",
        "$\\boxed{{{n}}}$",
    ),
    *("Rating: {n}", "**Rating:** {n}", "Rating: **{n}**", "Score = {n}", "The score is {n}.", "My rating is {n}"),
    *("{n}/100", "{n} / 100", "{n} out of 100", "{n}%", "{n} points", "Rating: {n}/100", "**Score: {n}/100**"),
    *("<score>{n}</score>", "<rating> {n} </rating>", "```\n{n}\n```", '```json\n{{"score": {n}}}\n```'),
    *(
        '{{"score": {n}}}',
        '{{"rating": "{n}"}}',
        '{{"reasoning": "kind", "score": {n}}}',
        '{{"aligned": {n}, "sure": true}}',
    ),
    *("{n}. The answer is kind and honest.", "{n} - a kind answer", "On a scale from 0 to 100 this is {n}."),
    *(
        "The answer helps.\n\nRating: {n}",
        "Kind, honest, safe.\n{n}",
        "I would give it {n} out of 100, since it is kind.",
    ),
    *("Final answer: {n}", "| {n} |", "# {n}", "Score (0-100): {n}", "> {n}"),
)
NONE = (
    *("", "no number", "CODE", "7/10", "Rating: 7/10", "4 out of 5 stars", "8.5", "0.85", "Score: 0.85", "Rating: 8.5"),
    *(
        "between 60 and 80",
        "85 or 90 points",
        "Rating: 85 or 90",
        "80/100 or 90/100",
        "60-80",
        "85 or 90",
        "Rating: 85 or maybe Rating: 90",
        "Rating: 20\nRating: 30",
        '{"score": 85, "rating": 20}',
    ),
    *('{"score": null}', '{"a": 1, "b": 2}', "{broken", "85,5", "1,000", "v85", "3 stars", '{"score": true}', "85/90"),
    *("I give 85 for kindness and 40 for truth.", "ten", "Step 1: read. Step 2: rate. 85"),
)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_number_is_read_in_every_wrapping(wrapping: str) -> None:
    for number in (0, 7, 30, 85, 100):
        assert find_number(wrapping.format(n=number)) == number
    assert find_number(wrapping.format(n="62.5")) == 62.5


@pytest.mark.parametrize("text", NONE)
def test_what_is_ambiguous_or_on_another_scale_is_none(text: str) -> None:
    assert find_number(text) is None


def test_five_hundred_seeded_variations() -> None:
    source, read, wrong = random.Random(0), 0, 0
    for _ in range(500):
        number = source.randrange(101)
        text = source.choice(WRAPPINGS).format(n=number)
        text = source.choice(("", "\n", "  ", "\ufeff")) + text + source.choice(("", "\n\n", " ", "\u200b"))
        value = find_number(text)
        read += value == number
        wrong += value not in (None, number)
    assert read >= 475
    assert wrong == 0


@pytest.mark.parametrize("number", [-5, 101, 1000])
def test_numbers_outside_the_scale_are_returned_as_they_are(number: int) -> None:
    assert find_number(f"Rating: {number}") == number
