"""How a judge behind a server can be read, learnt from the first real judgement: no call is made for this alone.

The first judgement is asked with log-probabilities and room for a whole reply. A server that refuses them is asked
for structured output, then for text: refusals cost nothing. From the tokens of the reply it shows whether integers are
single tokens, or whether the first one names a label: scores and labels are learnt apart. Where it does not show (a
word, a single digit), the reply is kept and the next judgement is asked in the same way, three times at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from em.judge.readings import is_integer

LADDER = ("learn", "structured", "sampled")
"""Ways to ask an unknown model, from the best; the next is tried where the server refuses one."""


@dataclass(frozen=True)
class LearnRequest:
    """Under which name it is remembered how a judge is read."""

    judge: str
    parameters: tuple[tuple[str, str], ...]
    labelled: bool
    rule: str = "learning_v2"


def learnt(response: Mapping[str, Any], labels: Sequence[str] = ()) -> tuple[str, str] | None:
    """The way to read scores (with `labels`: labels) that a first reply shows, and why; None where it does not."""
    choice = response["choices"][0]
    top = choice.get("top") or []
    if not top:
        return "sampled", "the server gives no log-probabilities"
    if labels:
        first = max(top, key=lambda pair: pair[1])[0].strip().strip('"*').lower()
        named = [label for label in labels if first and label.lower().startswith(first)]
        return ("logprobs", "the first token names a label") if len(named) == 1 else None
    if any(is_integer(token) and len(token.strip()) > 1 for token, _ in top):
        return "logprobs", "integers of two digits are single tokens"
    tokens = [token.strip() for token in choice["tokens"]]
    tokens = [token for token in tokens if token]
    if len(tokens) > 1 and all(is_digits(token) for token in tokens[:2]):
        return "mass", "an integer takes several tokens"
    return None


def is_digits(token: str) -> bool:
    """Whether a token consists of digits."""
    return token.isascii() and token.isdigit()
