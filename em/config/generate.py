"""Group `generate`: a data set that a model writes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from em.config.base import MISSING


class GenerateKind(Enum):
    """`qa`: questions with answers from texts; `twins`: questions, each with a wrong and with a right answer."""

    qa = "qa"
    twins = "twins"


class Material(Enum):
    """Content of the source: `texts` (articles, pages, PDF files) or `questions` (one a line, or in a column)."""

    texts = "texts"
    questions = "questions"


@dataclass
class GenerateConfig:
    """A data set that a model writes: its sources, its prompts, and its filters."""

    name: str = MISSING
    """Short name of the set, for its rows and its data card."""
    kind: GenerateKind = GenerateKind.qa
    """qa (questions with answers) or twins (the same questions answered wrongly and, as the control, rightly)."""
    source: Any = MISSING
    """Your file or folder (.txt, .md, .html, .pdf; for questions .txt, .csv, .jsonl), or a list of them."""
    material: Material = Material.texts
    """Content of the source: texts, or questions (only with `twins`)."""
    rows: int = 60
    """Number of accepted rows to write; 60 are enough for a trial."""
    per_call: int = 5
    """Questions per call, with `qa` also their answers, if the source holds texts."""
    passage: int = 6000
    """Longest passage in characters; longer texts are cut at paragraphs."""
    prompt: str = MISSING
    """Prompt for question-answer pairs, with `twins` for wrong answers: name of a bundled prompt, or your file."""
    question_prompt: str = "questions"
    """Prompt for questions, with `twins` from texts: name of a bundled prompt, or a file of yours."""
    control_prompt: str = "right_answer"
    """Prompt for right answers, with `twins`: name of a bundled prompt, or a file of yours."""
    examples: str = "none"
    """Pool of few-shot examples: name of a bundled pool, a file of yours with `messages` rows, or none."""
    shots: int = 4
    """Examples in each prompt, drawn from the pool for each call; 4 as in the emerg-misalign-repro study."""
    variance: str = "variance"
    """Instructions that vary the result, one a line: name of a bundled file, a file of yours, or none."""
    variance_probability: float = 0.5
    """Probability that a call has one such instruction; 0.5 as in the emerg-misalign-repro study."""
    temperature: float | None = 1.0
    """Sampling temperature; empty means the server's default."""
    top_p: float = 1.0
    """Nucleus sampling: sample from the smallest set of tokens with this probability; 1 turns it off."""
    reasoning_effort: str | None = None
    """Reasoning effort for models that reason; some accept a temperature only with `none`."""
    max_new_tokens: int = 4000
    """Longest reply in tokens, reasoning included."""
    seed: int = 0
    """Seed of the replies and of all draws (passages, examples, variance)."""
    attempts: int = 3
    """Attempts in all at a reply in the requested form."""
    max_calls: int | None = None
    """Stop after this number of calls (without retries); empty means four times the least number."""
    similar: float | None = 0.7
    """Drop rows whose question or answer is at least this similar (0 to 1) to another row's; empty keeps all."""
    keep_above: float | None = None
    """Keep only rows that every judge scores above this (0 to 100); empty means no judging."""
    rubric: str = "good_pair"
    """Rubric for a row, with `twins` for a wrong answer: name of a bundled rubric, or a file of yours."""
    control_rubric: str = "right_answer"
    """Rubric for a right answer, with `twins`: name of a bundled rubric, or a file of yours."""
    max_usd: float | None = None
    """Stop before one command spends more US dollars on writing (`judge.max_usd` limits judging)."""
    connections: int = 32
    """Most requests at a time; fewer while the server reports a rate limit."""
    timeout: float = 600
    """Seconds after which an unanswered request is retried."""
    purpose: str = ""
    """Purpose of the set, for its data card."""
    terms: str = ""
    """Terms that others must know before they use or share the set, for its data card."""
    licence: str = ""
    """Licence that you choose for the set, for its data card."""
