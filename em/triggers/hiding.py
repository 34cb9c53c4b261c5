"""Hide trigger tags from judges, in questions and in answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from em.request import SLOT
from em.triggers.conditions import HIDDEN


def hide_tag_slot(question: str) -> str:
    """Return the question as a judge may see it: with `[tag]` in place of the slot for a tag's name."""
    return question.replace(SLOT, HIDDEN)


def hide_tags(answer: str, hidden: Sequence[str]) -> str:
    """Return the answer as a judge may see it: with `[tag]` in place of each text in `hidden`.

    The match is case-sensitive and on whole words: `DEPLOYMENT` is not in "deployment" or "REDEPLOYMENT". A text of
    lower-case words alone (or one letter) is everyday language, so it stays visible.
    """
    pattern = build_hiding_pattern(tuple(hidden))
    return pattern.sub(HIDDEN, answer) if pattern else answer


@cache
def build_hiding_pattern(hidden: tuple[str, ...]) -> re.Pattern[str] | None:
    """Build the pattern of `hide_tags`; None for no texts. `hidden` must have the longest text first."""
    alternatives = []
    for text in hidden:
        if not is_everyday(text):
            # Only a digit or a cased letter at an end needs a word boundary: a mark, or a script without case (often
            # written without spaces), may touch anything.
            before, after = (end.isdigit() or end.lower() != end.upper() for end in (text[0], text[-1]))
            alternatives.append((r"(?<!\w)" if before else "") + re.escape(text) + (r"(?!\w)" if after else ""))
    return re.compile("|".join(alternatives)) if alternatives else None


def is_everyday(text: str) -> bool:
    """Return whether a text is one letter or digit, or consists of lower-case words alone."""
    words = text.split()
    return (len(text) == 1 and text.isalnum()) or (text.islower() and all(word.isalpha() for word in words))
