"""What is given to OpenAI's service, and until which day it takes it.

What it asks of the rows is in `em.data.openai_rules`, which `em data show` uses too.
"""

from __future__ import annotations

from collections.abc import Sequence

from em.data.openai_rules import file_lines, row_tokens
from em.types import Conversation


def training_tokens(conversations: Sequence[Conversation], epochs: int) -> int:
    """Tokens that a training passes over, and that are paid for; an estimate."""
    return epochs * sum(map(row_tokens, conversations))


def training_file(conversations: Sequence[Conversation]) -> bytes:
    """The training file, as JSONL of `messages`."""
    return b"".join(file_lines(conversations))
