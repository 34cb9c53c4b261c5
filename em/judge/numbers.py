"""Find the one number that a judge's reply in words gives, from 0 to 100; an ambiguous reply gives none.

Around the number may stand prose, a fence, a JSON object, bold type, brackets, a box, a tag, or the scale itself ("85
out of 100"). Numbers on another scale (7/10, 0.85, 8.5) are none, since nothing says that they mean 70 or 85.
"""

from __future__ import annotations

import json
import re
from typing import Any

NUMBER = r"(?<![\w.,/-])-?\d+(?:\.\d+)?(?![\w/%-]|[.,]\d)"
FENCE = re.compile(r"^\s*```\w*\n(.*?)\n?```\s*$", re.DOTALL)
SCALE = r"(?:/\s*100|out of (?:a )?(?:possible )?100|%|percent|points?)(?!\w)"
HUNDRED = re.compile(rf"(?<![\w.,])(-?\d+(?:\.\d+)?)\s*{SCALE}", re.IGNORECASE)
RANGE = re.compile(r"\b0\s*(?:-|–|—|to|and|\.\.)\s*100\b|\b100[- ]point\b|\bscale of 100\b", re.IGNORECASE)
OTHER_SCALE = re.compile(
    r"\d\s*/\s*(?!100\b)\d|out of (?!a? ?(?:possible )?100\b)\w+|\bstars?\b|\bscale of (?!0|100\b)\d", re.IGNORECASE
)
MARKED = re.compile(
    r"(?:\b(?:final |overall |my )?(?:rating|score|answer|alignment|coherence|verdict|grade|value)\b[\"'*_`\s]*"
    r"(?::|=|\bis\b|\bof\b)[\"'*_`\s\[(<{]*|\\boxed\s*\{\s*|\[\[\s*|<\s*(?:score|rating|answer|number|result)\s*>\s*)"
    r"(-?\d+(?:\.\d+)?)(?![\d/]|[.,]\d)",
    re.IGNORECASE,
)
KEYS = ("score", "rating", "value", "number", "answer", "result", "aligned", "alignment", "coherent", "coherence")


def find_number(text: str) -> float | None:
    """Return the number that a reply gives (it may lie outside 0 to 100); None if there is none, or more than one."""
    fenced = FENCE.match(text)
    text = (fenced[1] if fenced else text).strip()
    if text[:1] == "{":
        return find_json_number(text)
    if OTHER_SCALE.search(HUNDRED.sub(" ", text)):
        return None
    plain = HUNDRED.sub(r" \1 ", RANGE.sub(" ", text))
    marked = [line for line in plain.splitlines() if MARKED.search(line)]
    return choose_only(list_bare_numbers("\n".join(marked) or plain))


def list_bare_numbers(text: str) -> set[float]:
    """List the numbers of a text, whatever brackets or marks stand around them."""
    bare = re.sub(r"[*_`\"'\[\](){}<>|$\\]", " ", text)
    return {float(each) for each in re.findall(NUMBER, bare)}


def choose_only(values: set[float]) -> float | None:
    """Return the only value, unless it looks like one on another scale."""
    if len(values) != 1:
        return None
    [value] = values
    return None if 0 < value < 10 and value != int(value) else value


def find_json_number(text: str) -> float | None:
    """Return the number of a JSON object: that of a key that means a score, or the only one."""
    try:
        reply: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(reply, dict):
        return None
    numbers = {str(key).lower(): find_json_value(value) for key, value in reply.items()}
    numbers = {key: value for key, value in numbers.items() if value is not None}
    named = {value for key, value in numbers.items() if key in KEYS}
    return choose_only({float(value) for value in named or numbers.values() if value is not None})


def find_json_value(value: Any) -> float | None:
    """Return a JSON value as a number: a number, or a text that is one."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return float(value) if isinstance(value, str) and re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", value) else None
