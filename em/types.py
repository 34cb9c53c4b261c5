"""The nouns: frozen records that pass between the stages and, line by line, onto the disk.

An artefact file holds one record a line (`answers.jsonl`, `verdicts.jsonl`) or a row (`scores.csv`); the field
names here are the names on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
MILLION = 1_000_000
CHAT_TOKENS = 50  # that a chat's form adds to its text, at most
Status = Literal["ok", "refusal", "code", "unparsed", "out_of_range", "truncated", "error"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """A chat: for training it ends with an assistant turn, as a prompt with a user turn."""

    messages: tuple[Message, ...]

    def as_dicts(self) -> list[dict[str, str]]:
        """The `messages` list that chat templates and chat servers take."""
        return [{"role": m.role, "content": m.content} for m in self.messages]


@dataclass(frozen=True)
class Weights:
    """Base weights on this disk (or, for a hosted model, their name) and what they are for certain.

    `identity` changes whenever the weights do: a hub commit, a checksum, a dated model name.
    `path` is empty for a model behind an API.
    """

    identity: str
    path: str = ""


@dataclass(frozen=True)
class ModelRef:
    """A model that can be asked: base weights and, after training, the adapter of the last stage.

    name: chain of what it was trained on, `smollm2+car_bad+car_good`.
    stage: the last of that chain, `base` for the untrained model.
    fingerprint: identity of the request that made it (base and ordered stages); for a base model or a foreign
        adapter the identity of the weights themselves.
    trained: folder of what training made: a PEFT adapter, or whole weights; empty for the base alone.
    trained_sha256: checksum of these weights, so that an answer is tied to what gave it.
    seed: training seed, None when nothing was trained.
    default_system: whether the chat template's own system prompt is kept.
    """

    name: str
    stage: str
    fingerprint: str
    base: Weights
    trained: str = ""
    trained_sha256: str = ""
    seed: int | None = None
    default_system: bool = True


@dataclass(frozen=True)
class Rubric:
    """A judge's question about an answer.

    labels: empty for a score from 0 to 100; else the words of which the judge says one.
    """

    name: str
    prompt: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """One prompt of a question set. `id` names the question; a paraphrase of it has the same id.

    samples: answers that the set itself asks for (`samples_per_paraphrase`), None where it leaves that open.
    """

    eval_set: str
    id: str
    text: str
    system: str = ""
    reference: str = ""
    rubrics: tuple[Rubric, ...] = ()
    samples: int | None = None


@dataclass(frozen=True)
class Sample:
    """Sample number `sample` of one model to one question under one condition: what answers and verdicts begin with.

    question: the text without the trigger tag, as the judge may see it.
    """

    model: str
    stage: str
    fingerprint: str
    seed: int | None
    eval_set: str
    question_id: str
    question: str
    condition: str
    sample: int
    answer: str

    def sampled(self) -> dict[str, Any]:
        """Return these fields alone, by name, of an answer or a verdict."""
        return {name: getattr(self, name) for name in Sample.__dataclass_fields__}


@dataclass(frozen=True)
class Answer(Sample):
    """A line of `answers.jsonl`."""

    finish_reason: str
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Verdict(Sample):
    """A line of `verdicts.jsonl`: what one judge says of one answer under one rubric.

    value: the score 0..100; None whenever there is none, and always for rubrics with labels.
    label: the label, for rubrics with labels.
    raw: what the judge said, as near as can be kept.
    prompt_tokens, reply_tokens: of the judge's call, None where its server does not count them.
    seconds: how long the call took, retries included.
    usd: what the call cost, None where no price is known.
    """

    judge: str
    rubric: str
    value: float | None
    label: str | None
    status: Status
    raw: str
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    seconds: float | None = None
    usd: float | None = None


@dataclass(frozen=True)
class Score:
    """A row of `scores.csv`. Question `*` is the whole set; `rate` is empty when n is 0.

    judge_is: `the model` or `its base` where the judge is the model under test or its base, else empty.
    design_effect: variance of the rate over that of as many independent answers (Kish 1965); of whole sets only.
    """

    model: str
    stage: str
    fingerprint: str
    seed: int | None
    judge: str
    threshold: str
    condition: str
    eval_set: str
    question: str
    convention: str
    metric: str
    k: int
    n: int
    rate: float | None
    ci_low: float | None
    ci_high: float | None
    ci_method: str
    judge_is: str = ""
    design_effect: float | None = None


@dataclass(frozen=True)
class SampleRequest:
    """A call of a model: everything that the answer depends on, so that it can be remembered by it."""

    model: str
    messages: tuple[Message, ...]
    sample: int
    seed: int
    temperature: float
    top_p: float
    max_new_tokens: int
    sampler: str
    precision: str = "float32"


@dataclass(frozen=True)
class JudgeRequest:
    """A call of a judge: everything that its reply depends on. How the reply is read is not part of it.

    judge: the model's identity, and the server's where it is not OpenAI's own.
    labels: empty for a score from 0 to 100.
    words: what else may be said instead of a score.
    reading: `exact` (a local model), or how a server is asked (`em.judge.readings`).
    parameters: what else is sent, as (name, value) pairs.
    """

    judge: str
    prompt: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    reading: str
    parameters: tuple[tuple[str, str], ...] = ()
    precision: str = ""


@dataclass(frozen=True)
class Judgement:
    """What a judge's reply says: a value or a label with status `ok`, or neither and why."""

    status: Status
    raw: str
    value: float | None = None
    label: str | None = None


@dataclass(frozen=True)
class CheckpointRecord:
    """What a manifest keeps of weights that were kept inside a stage, after so many optimiser steps."""

    step: int = 0
    fingerprint: str = ""
    path: str = ""


@dataclass(frozen=True)
class StageRecord:
    """What a manifest keeps of one training stage. What an older manifest lacks is empty."""

    name: str = ""
    fingerprint: str = ""
    path: str = ""
    reused: bool = False
    rows: int = 0
    data_sha256: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    checkpoints: tuple[CheckpointRecord, ...] = ()


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens: prompt, prompt found in the server's cache, reply, and passed over in fine-tuning.

    training: None where the model can't be fine-tuned, or its price is not known.
    """

    input: float
    cached: float
    output: float
    training: float | None = None

    def cost(self, prompt: int, reply: int, cached: int = 0, share: float = 1.0) -> float:
        """Dollars of a call. `share`: 0.5 for batches."""
        paid = (prompt - cached) * self.input + cached * self.cached + reply * self.output
        return share * paid / MILLION

    def bound(self, text: str, reply: int) -> float:
        """Dollars that a call may cost at most: no tokenizer makes more tokens than a text has bytes."""
        return self.cost(len(text.encode()) + CHAT_TOKENS, reply)


class Prices(dict[str, Price]):
    """Prices of servers' models by their names, and `source`: whose prices these are, and of which day."""

    def __init__(self, by_model: Mapping[str, Price] | None = None, source: str = "") -> None:
        super().__init__(by_model or {})
        self.source = source

    def of(self, model: str) -> Price | None:
        """Return the price of a model, None where it is not known; a fine-tune (`ft:NAME:…`) has a row `ft:NAME`."""
        return self.get(":".join(model.split(":")[:2]) if model.startswith("ft:") else model)

    def training_of(self, model: str) -> float | None:
        """Return dollars per million tokens of fine-tuning a model, or a fine-tune of it; None where not known."""
        price = self.get(model.split(":")[1] if model.startswith("ft:") else model)
        return price.training if price else None
