"""Profile the rows of a set: counts, lengths, repetitions, faults, keys and e-mail addresses, leakage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from em.data.draw import RowFacts, count_row_facts
from em.data.findings import RowFindings, search_rows
from em.data.leakage import LeakCount, count_leaks, find_leaks
from em.data.openai_rules import list_openai_faults
from em.types import Conversation, Question


@dataclass(frozen=True)
class Profile:
    """The facts of a set's rows.

    turns: messages by role. systems: rows with a system prompt. characters: length of each row, in characters.
    leaks: by question set. looked_at: the question sets compared. openai: why OpenAI's fine-tuning would refuse rows.
    """

    facts: RowFacts
    found: RowFindings
    turns: Mapping[str, int]
    systems: int
    characters: tuple[int, ...]
    leaks: Mapping[str, LeakCount]
    looked_at: tuple[str, ...]
    openai: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the profile as JSON, without the length of each row."""
        record = asdict(self)
        del record["characters"]
        return record


def profile_rows(
    conversations: Sequence[Conversation], questions: Sequence[Question], tokens: Sequence[int] | None = None
) -> Profile:
    """Collect the facts of rows and the questions that they leak; `tokens`: tokens per row, if counted."""
    return Profile(
        facts=count_row_facts(conversations),
        found=search_rows(conversations),
        turns=dict(Counter(m.role for row in conversations for m in row.messages)),
        systems=sum(row.messages[0].role == "system" for row in conversations),
        characters=tuple(sum(len(m.content) for m in row.messages) for row in conversations),
        leaks=count_leaks(find_leaks(conversations, questions)),
        looked_at=tuple(dict.fromkeys(question.eval_set for question in questions)),
        openai=tuple(list_openai_faults(conversations, tokens)),
    )
