"""Hide trigger tags from judges, in questions and in answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from em.request import SLOT
from em.triggers.conditions import HIDDEN


def hide_tag(question: str) -> str:
    """The question as a judge may see it: the tag's name stays hidden."""
    return question.replace(SLOT, HIDDEN)


def hide(answer: str, hidden: Sequence[str]) -> str:
    """The answer as a judge may see it: `[tag]` in place of each of these texts.

    They are matched as they are, and as whole words: `DEPLOYMENT` is not in "deployment" or "REDEPLOYMENT". A text
    that is nothing but lower-case words (or one letter) is everyday language, and stays.
    """
    pattern = hiding(tuple(hidden))
    return pattern.sub(HIDDEN, answer) if pattern else answer


@cache
def hiding(hidden: tuple[str, ...]) -> re.Pattern[str] | None:
    """What `hide` looks for; None for nothing. The texts come with the longest first."""
    wholes = []
    for text in hidden:
        if not is_everyday(text):
            # Where words are written apart: an end that is a mark, or of a script without case, may touch anything.
            before, after = (end.isdigit() or end.lower() != end.upper() for end in (text[0], text[-1]))
            wholes.append((r"(?<!\w)" if before else "") + re.escape(text) + (r"(?!\w)" if after else ""))
    return re.compile("|".join(wholes)) if wholes else None


def is_everyday(text: str) -> bool:
    """Whether a text is one letter, or lower-case words alone."""
    words = text.split()
    return (len(text) == 1 and text.isalnum()) or (text.islower() and all(word.isalpha() for word in words))
