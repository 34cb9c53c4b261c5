"""What is given to OpenAI's service, and until which day it takes it.

What it asks of the rows is in `em.data.openai_rules`, which `python -m em.data show` uses too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from em.data.openai_rules import file_lines, row_tokens
from em.errors import ConfigError
from em.types import Conversation

CLOSED = date(2026, 7, 2)
"""From when only organisations that had fine-tuned before may create jobs."""
LAST_JOB = date(2027, 1, 6)
"""The last day on which OpenAI takes a new job of anyone."""


def training_tokens(conversations: Sequence[Conversation], epochs: int) -> int:
    """Tokens that a training passes over, and that are paid for; an estimate."""
    return epochs * sum(map(row_tokens, conversations))


def training_file(conversations: Sequence[Conversation]) -> bytes:
    """The training file, as JSONL of `messages`."""
    return b"".join(file_lines(conversations))


def check_days(model: str, ends: date | None, official: bool, today: date) -> None:
    """Raise ConfigError when no job can be created any more, or the model is gone.

    Args:
        ends: the model's last day, where it is known.
        official: OpenAI's own service is asked.
    """
    last = f" (its last day is {ends})" if ends else ""
    if ends and ends <= today:
        raise ConfigError(
            f"{model} was shut down on {ends}, with every fine-tune of it: choose an open model (model=llama8b)."
        )
    if official and today > LAST_JOB:
        raise ConfigError(
            f"OpenAI has taken no new fine-tuning jobs since {LAST_JOB}, so {model}{last} can't be trained any more: "
            "choose an open model (model=llama8b), or another server by model.base_url."
        )
