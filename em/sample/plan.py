"""From questions to sample requests, and from remembered responses to answers.

A request holds everything that the answer depends on and nothing else, so an answer is found again whichever run
asks for it, and asking for more samples adds to those that are there. Requests are ordered by sample number
first: the first n samples of a larger plan are the plan of n samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from em.config import EvalConfig
from em.request import Conditions
from em.runtime.memory import request_key
from em.runtime.records import canonical
from em.triggers.conditions import asked
from em.triggers.hiding import hide_tag
from em.types import Answer, ModelRef, Question, SampleRequest

DEFAULT_SAMPLES = 30


@dataclass(frozen=True)
class Planned:
    """One answer that is wanted, and the call that gives it."""

    question: Question
    condition: str
    sample: int
    request: SampleRequest

    @cached_property
    def key(self) -> str:
        """Under which the call is remembered."""
        return request_key(self.request)


@dataclass(frozen=True)
class Draws:
    """How answers are drawn: what the evaluation says of it, the run's seed, and who samples in which number format."""

    settings: EvalConfig
    seed: int
    sampler: str
    precision: str


def plan_samples(model: ModelRef, questions: Sequence[Question], conditions: Conditions, draws: Draws) -> list[Planned]:
    """Plan all answers that an evaluation of one model wants, in the order in which they are made.

    As many to each question as `eval.samples` says, or as the set itself does; DEFAULT_SAMPLES where neither does.
    """
    settings = draws.settings
    pairs = [
        (question, condition, asked(question, condition), settings.samples or question.samples or DEFAULT_SAMPLES)
        for question in questions
        for condition in conditions.of(question)
    ]
    return [
        Planned(
            question,
            condition.name,
            sample,
            SampleRequest(
                model=sampled_identity(model),
                messages=conversation.messages,
                sample=sample,
                seed=draws.seed,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_new_tokens=settings.max_new_tokens,
                sampler=draws.sampler,
                precision=draws.precision,
            ),
        )
        for sample in range(max((count for *_, count in pairs), default=0))
        for question, condition, conversation, count in pairs
        if sample < count
    ]


def answer_seed(request: SampleRequest) -> int:
    """The seed of one answer, from the run's seed, the prompt and the sample's number (63 bits)."""
    prompt = canonical([[m.role, m.content] for m in request.messages])
    return int.from_bytes(hashlib.sha256(f"{request.seed}|{request.sample}|{prompt}".encode()).digest()[:8], "big") >> 1


def sampled_identity(model: ModelRef) -> str:
    """What answers: base and trained weights, by checksum, and whether the template's own system prompt is there."""
    parts = [model.base.identity, *([model.trained_sha256] if model.trained_sha256 else [])]
    return "+".join([*parts, *([] if model.default_system else ["no default system prompt"])])


def in_order(plan: Sequence[Planned]) -> list[Planned]:
    """A plan in the order of question, condition and sample, in which its answers are told."""
    questions = {id(p.question): i for i, p in reversed(list(enumerate(plan)))}
    pairs = {(id(p.question), p.condition): i for i, p in reversed(list(enumerate(plan)))}
    return sorted(plan, key=lambda p: (questions[id(p.question)], pairs[id(p.question), p.condition], p.sample))


def answer_of(model: ModelRef, planned: Planned, response: Mapping[str, Any]) -> Answer:
    """The answer that a remembered response is."""
    return Answer(
        model=model.name,
        stage=model.stage,
        fingerprint=model.fingerprint,
        seed=model.seed,
        eval_set=planned.question.eval_set,
        question_id=planned.question.id,
        question=hide_tag(planned.question.text),
        condition=planned.condition,
        sample=planned.sample,
        **{name: response[name] for name in ("answer", "finish_reason", "prompt_tokens", "answer_tokens")},
    )
