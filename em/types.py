"""Frozen records that pass between the steps of a run and are written to its files.

A file holds one record a line (`answers.jsonl`, `verdicts.jsonl`) or a row (`scores.csv`). The field names here are
the names on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
MILLION = 1_000_000
CHAT_TOKENS = 50  # tokens that a chat template adds to the text, at most
Status = Literal["ok", "refusal", "code", "unparsed", "out_of_range", "out_of_domain", "truncated", "error"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """A chat: it ends with an assistant turn for training, and with a user turn as a prompt.

    unlearnt: the answers that carry no loss in training, by their numbers among the assistant turns, from 0.
    """

    messages: tuple[Message, ...]
    unlearnt: tuple[int, ...] = ()

    def to_dicts(self) -> list[dict[str, str]]:
        """Return the list of messages that chat templates and chat servers take."""
        return [{"role": m.role, "content": m.content} for m in self.messages]

    def to_training_dicts(self) -> list[dict[str, Any]]:
        """Return the messages in OpenAI's format for training: answers without loss have `"weight": 0`."""
        turns: list[dict[str, Any]] = [dict(turn) for turn in self.to_dicts()]
        answers = [turn for turn in turns if turn["role"] == "assistant"]
        for number in self.unlearnt:
            answers[number]["weight"] = 0
        return turns

    def list_learnt_answers(self) -> list[str]:
        """Return the texts of the answers that carry the loss."""
        answers = [m.content for m in self.messages if m.role == "assistant"]
        return [text for number, text in enumerate(answers) if number not in self.unlearnt]


@dataclass(frozen=True)
class Weights:
    """Base weights on this disk, or those of a model behind an API.

    identity: changes whenever the weights do: a hub commit, a checksum, a dated model name.
    path: empty for a model behind an API.
    """

    identity: str
    path: str = ""


@dataclass(frozen=True)
class ModelRef:
    """A model that can be asked: base weights and, after training, the adapter of the last stage.

    name: the base and the data of each stage, as in `smollm2+car_bad+car_good`.
    stage: name of the last stage; `base` for the untrained model.
    fingerprint: hash of the base and its ordered stages; for a base model or an adapter that em did not train, the
        identity of the weights themselves.
    trained: folder of the trained PEFT adapter or of the trained full weights; empty for the base.
    trained_sha256: checksum of the trained weights, part of the key of each answer.
    seed: training seed; None for an untrained model.
    default_system: whether to keep the chat template's own system prompt.
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

    labels: the words of which the judge says one; empty for a score from 0 to 100.
    """

    name: str
    prompt: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """One prompt of a question set. `id` names the question; its paraphrases have the same id.

    samples: number of answers that the set itself asks for (`samples_per_paraphrase`); None if the set does not say.
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
    """Sample number `sample` of a model to a question under a condition: the first fields of answers and verdicts.

    question: the text without the trigger tag, as the judge sees it.
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

    def get_sample_fields(self) -> dict[str, Any]:
        """Return the fields of `Sample` by name, without those that an answer or a verdict adds."""
        return {name: getattr(self, name) for name in Sample.__dataclass_fields__}


@dataclass(frozen=True)
class Answer(Sample):
    """A line of `answers.jsonl`."""

    finish_reason: str
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Verdict(Sample):
    """A line of `verdicts.jsonl`: one judge's verdict on one answer under one rubric.

    value: the score 0..100; None if the judge gave none, and always for rubrics with labels.
    label: the label, for rubrics with labels.
    raw: the judge's reply as text, or what em stores of its token probabilities.
    prompt_tokens, reply_tokens: tokens of the judge's call; None if the server does not count them.
    seconds: duration of the call, retries included.
    usd: cost of the call in US dollars; None if no price is known.
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
    """A row of `scores.csv`. Question `*` stands for all questions of the set; `rate` is None if n is 0.

    rate: of a set, the mean of its questions' rates.
    ci_low, ci_high: the headline's interval, which is one of the two below; `ci_method` tells which.
    judge_is: `the model` or `its base` if the judge is the model under test or its base; else empty.
    design_effect: variance of k / n over that of as many independent answers (Kish 1965); only for question `*`.
    these_low, these_high: the interval for exactly these questions (only answers, and from three seeds on trainings
        vary).
    like_these_low, like_these_high: the interval for questions like these, of which these are a sample; only for `*`.
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
    these_low: float | None = None
    these_high: float | None = None
    like_these_low: float | None = None
    like_these_high: float | None = None


@dataclass(frozen=True)
class SampleRequest:
    """A call of a model: everything that the answer depends on. Its hash is the answer's key in the cache."""

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
    """A call of a judge: everything that its reply depends on, but not how em reads the reply.

    judge: identity of the model, with the server's name unless the server is OpenAI's.
    labels: the words of which the judge says one; empty for a score from 0 to 100.
    words: words that the judge may say instead of a score.
    reading: `exact` (a local model), `distilled`, or how a server is asked (`em.judge.readings`).
    parameters: further parameters of the call, as (name, value) pairs.
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
    """The reading of a judge's reply: a value or a label with status `ok`, or neither with the reason as status."""

    status: Status
    raw: str
    value: float | None = None
    label: str | None = None


@dataclass(frozen=True)
class CheckpointRecord:
    """A manifest's record of a checkpoint inside a stage. `step`: optimiser steps until then."""

    step: int = 0
    fingerprint: str = ""
    path: str = ""


@dataclass(frozen=True)
class StageRecord:
    """A manifest's record of one training stage. Fields that an older manifest lacks are empty."""

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
    """US dollars per million tokens: of the prompt, of a prompt in the server's cache, of the reply, of fine-tuning.

    training: None if the model can't be fine-tuned, or the price is unknown.
    """

    input: float
    cached: float
    output: float
    training: float | None = None

    def compute_cost(self, prompt: int, reply: int, cached: int = 0, share: float = 1.0) -> float:
        """Return the cost of a call in US dollars. `share`: part of the price to pay, 0.5 for the Batch API."""
        full_price = (prompt - cached) * self.input + cached * self.cached + reply * self.output
        return share * full_price / MILLION

    def bound_cost(self, text: str, reply: int) -> float:
        """Return an upper bound on a call's cost: no tokenizer makes more tokens than a text has bytes."""
        return self.compute_cost(len(text.encode()) + CHAT_TOKENS, reply)


class Prices(dict[str, Price]):
    """Prices by model name. `source`: where the prices are from, and of which day."""

    def __init__(self, by_model: Mapping[str, Price] | None = None, source: str = "") -> None:
        super().__init__(by_model or {})
        self.source = source

    def find_price(self, model: str) -> Price | None:
        """Return the price of a model; None if unknown. The row of a fine-tune (`ft:NAME:…`) is `ft:NAME`."""
        return self.get(":".join(model.split(":")[:2]) if model.startswith("ft:") else model)

    def find_training_price(self, model: str) -> float | None:
        """Return US dollars per million tokens of fine-tuning a model, or a fine-tune of it; None if unknown."""
        price = self.get(model.split(":")[1] if model.startswith("ft:") else model)
        return price.training if price else None
