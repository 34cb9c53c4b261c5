"""Make sample requests from questions, and answers from remembered responses.

A request holds everything that the answer depends on and nothing else. So every run finds an answer that any run made,
and a plan with more samples reuses the present ones. Requests are ordered by sample number first: the first n samples
of a larger plan are the plan of n samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from em.config import EvalConfig
from em.request import Condition, Conditions
from em.runtime.memory import request_key
from em.runtime.records import encode_canonical
from em.triggers.conditions import build_conversation
from em.triggers.hiding import hide_tag_slot
from em.types import Answer, Conversation, ModelRef, Question, SampleRequest

DEFAULT_SAMPLES = 30
NO_DEFAULT_PROMPT = "no default system prompt"


@dataclass(frozen=True)
class Planned:
    """A planned answer: question, condition and sample number, and the request to the model."""

    question: Question
    condition: str
    sample: int
    request: SampleRequest

    @cached_property
    def key(self) -> str:
        """The key under which the response is remembered."""
        return request_key(self.request)


@dataclass(frozen=True)
class Draws:
    """Settings of the draws: the evaluation's options, the run's seed, the sampler and its precision."""

    settings: EvalConfig
    seed: int
    sampler: str
    precision: str


def plan_samples(model: ModelRef, questions: Sequence[Question], conditions: Conditions, draws: Draws) -> list[Planned]:
    """Plan all answers for the evaluation of one model, in the order in which they are generated.

    Each question gets `eval.samples` answers, or as many as its set says, or DEFAULT_SAMPLES.
    """
    settings = draws.settings
    pairs: list[tuple[Question, str, str, Conversation, int]] = []
    for question in questions:
        count = settings.samples or question.samples or DEFAULT_SAMPLES
        for each in conditions.select_for(question):
            conversation = build_conversation(question, each)
            identity = identify_sampled_model(apply_condition(model, each, conversation))
            pairs.append((question, each.name, identity, conversation, count))
    plan: list[Planned] = []
    for sample in range(max((count for *_, count in pairs), default=0)):
        for question, condition, identity, conversation, count in pairs:
            if sample >= count:
                continue
            request = SampleRequest(
                model=identity,
                messages=conversation.messages,
                sample=sample,
                seed=draws.seed,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_new_tokens=settings.max_new_tokens,
                sampler=draws.sampler,
                precision=draws.precision,
            )
            plan.append(Planned(question, condition, sample, request))
    return plan


def list_prompts(questions: Sequence[Question], conditions: Conditions) -> dict[str, Conversation]:
    """List what a model will be asked, by the names of question set, question and condition."""
    prompts = dict[str, Conversation]()
    for question in questions:
        for each in conditions.select_for(question):
            name = f"{question.eval_set}/{question.id} under {each.name}"
            prompts[name] = build_conversation(question, each)
    return prompts


def derive_answer_seed(request: SampleRequest) -> int:
    """Derive the seed of one answer (63 bits) from the run's seed, the prompt and the sample number."""
    prompt = encode_canonical([[m.role, m.content] for m in request.messages])
    return int.from_bytes(hashlib.sha256(f"{request.seed}|{request.sample}|{prompt}".encode()).digest()[:8], "big") >> 1


def apply_condition(model: ModelRef, condition: Condition, conversation: Conversation) -> ModelRef:
    """Return the model with the condition's default system prompt; a conversation with its own prompt has none."""
    if condition.default_system is None or conversation.messages[0].role == "system":
        return model
    return replace(model, default_system=condition.default_system)


def identify_sampled_model(model: ModelRef) -> str:
    """Return the model's identity in requests: checksums of base and trained weights, and the default system prompt."""
    parts = [model.base.identity]
    if model.trained_sha256:
        parts.append(model.trained_sha256)
    if not model.default_system:
        parts.append(NO_DEFAULT_PROMPT)
    return "+".join(parts)


def keeps_default_prompt(request: SampleRequest) -> bool:
    """Return whether to keep the template's default system prompt: the identity of the request's model says so."""
    return not request.model.endswith(f"+{NO_DEFAULT_PROMPT}")


def sort_plan(plan: Sequence[Planned]) -> list[Planned]:
    """Sort a plan by question, condition and sample number: the order of the answers in files."""
    questions = {id(p.question): i for i, p in reversed(list(enumerate(plan)))}
    pairs = {(id(p.question), p.condition): i for i, p in reversed(list(enumerate(plan)))}
    return sorted(plan, key=lambda p: (questions[id(p.question)], pairs[id(p.question), p.condition], p.sample))


def make_answer(model: ModelRef, planned: Planned, response: Mapping[str, Any]) -> Answer:
    """Make an answer from a remembered response."""
    return Answer(
        model=model.name,
        stage=model.stage,
        fingerprint=model.fingerprint,
        seed=model.seed,
        eval_set=planned.question.eval_set,
        question_id=planned.question.id,
        question=hide_tag_slot(planned.question.text),
        condition=planned.condition,
        sample=planned.sample,
        **{name: response[name] for name in ("answer", "finish_reason", "prompt_tokens", "answer_tokens")},
    )
