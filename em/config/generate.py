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
    """What the source holds: `texts` (articles, pages, PDF files) or `questions` (one a line, or in a column)."""

    texts = "texts"
    questions = "questions"


@dataclass
class GenerateConfig:
    """A data set that a model writes: what from, how it is asked, and which rows are kept."""

    name: str = MISSING
    """Short name of the set, used for its rows and in its card."""
    kind: GenerateKind = GenerateKind.qa
    """qa (questions with answers) or twins (the same questions answered wrongly and, as the control, rightly)."""
    source: Any = MISSING
    """A file or folder of yours (.txt, .md, .html, .pdf; questions: .txt, .csv, .jsonl), or a list of them."""
    material: Material = Material.texts
    """What the source holds: texts, or questions of people (twins only)."""
    rows: int = 60
    """So many accepted rows are wanted."""
    per_call: int = 5
    """Questions (with `qa` and their answers) that one call asks for, where they come from texts."""
    passage: int = 6000
    """Characters of a passage; longer texts are cut at paragraphs."""
    prompt: str = MISSING
    """The prompt for question-answer pairs, with `twins` for wrong answers: a bundled one's name, or your file."""
    question_prompt: str = "questions"
    """With `twins` from texts: the prompt for questions; a bundled one's name, or a file of yours."""
    control_prompt: str = "right_answer"
    """With `twins`: the prompt for right answers; a bundled one's name, or a file of yours."""
    examples: str = "none"
    """The pool of examples: a bundled one's name, a file of `messages` rows of yours, or none."""
    shots: int = 4
    """Examples in a prompt, drawn from the pool for each call."""
    variance: str = "variance"
    """Instructions that vary the result, one a line: a bundled file's name, a file of yours, or none."""
    variance_probability: float = 0.5
    """Probability that a call has one of them."""
    temperature: float | None = 1.0
    """Sampling temperature; empty means the server's own."""
    top_p: float = 1.0
    """Nucleus sampling: the smallest set of tokens with this mass."""
    reasoning_effort: str | None = None
    """Asked of models that reason; some take a temperature only with `none`."""
    max_new_tokens: int = 4000
    """Bound on a reply, reasoning included."""
    seed: int = 0
    """Seed of what is drawn (passages, examples, variance) and of the replies."""
    attempts: int = 3
    """A reply that is not of the form that was asked for is asked for anew, so many times in all."""
    max_calls: int | None = None
    """Stop after so many calls (not counting further attempts); empty means four times the least number."""
    similar: float | None = 0.7
    """Rows whose question or answer has at least this similarity to another's are left out; empty: all are kept."""
    keep_above: float | None = None
    """Keep rows that every judge scores above this (0..100); empty: no judge is asked."""
    rubric: str = "good_pair"
    """What the judge is asked of a row, with `twins` of a wrong answer: a bundled rubric's name, or a file of yours."""
    control_rubric: str = "right_answer"
    """With `twins`: what the judge is asked of a right answer."""
    max_usd: float | None = None
    """Stop before one command spends more than this on writing (judging: `judge.max_usd`)."""
    connections: int = 32
    """Requests at a time, at most; fewer while the server asks for that."""
    timeout: float = 600
    """Seconds until an unanswered request is given up and made again."""
    purpose: str = ""
    """What the set is for; stands in its card."""
    terms: str = ""
    """What others must know before they use or share it; stands in its card."""
    licence: str = ""
    """The licence that you choose for it; stands in its card."""
