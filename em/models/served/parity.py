"""Compare a server's log-probabilities with those of transformers: does it serve the right weights and template?

Both score the same messages. The tokens must be the same, and the log-probabilities too, but for rounding. Since an
adapter may change little, its effect (its log-probabilities minus the base's) is compared as well: the slope of the
served effect on the true one is 1 for a healthy server, 0 if the adapter is not applied, and the ratio of the scales
if its scale is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from em.api.client import Client
from em.errors import ServerError
from em.models.scores import LONGEST, Scored
from em.runtime.records import digest
from em.types import Conversation

COUNT = 64
SHORT = 3 * LONGEST  # characters of a conversation with fewer than LONGEST tokens, for most tokenizers
LIMITS = {"float32": 0.001, "bfloat16": 0.08}
"""Highest mean difference of log-probabilities, in nats per token. Seen for healthy servers: see docs/serving.md."""
CLEAR = 3.0  # an effect shows if it is so many times the difference of a healthy base
SLOPE = 0.15  # how far the slope may be from 1
STRAIGHT = 0.98  # cosine of served and true effect from which a wrong slope means a wrong scale, and no cut rank


@dataclass(frozen=True)
class Comparison:
    """How far a served model is from what transformers say. problem: a sentence, empty if they agree.

    difference: mean absolute difference of log-probabilities, in nats per token. effect: that of the adapter, by
    transformers; 0 for a base. slope: of the served effect on the true one; None if the effect is too small to tell.
    """

    problem: str
    difference: float = 0.0
    effect: float = 0.0
    slope: float | None = None


def choose_conversations(prompts: Sequence[Conversation], rows: Sequence[Conversation]) -> list[Conversation]:
    """Choose up to 64 short conversations, half of them training rows, in an order given by their texts alone."""
    chosen = list[Conversation]()
    for source, share in ((rows, COUNT // 2), (prompts, COUNT)):
        unique = sorted({digest(each.to_dicts()): each for each in source}.items())
        shuffled = random.Random(0).sample(unique, len(unique))
        short = [each for _, each in shuffled if sum(len(m.content) for m in each.messages) <= SHORT]
        chosen += (short or [each for _, each in shuffled])[: share - len(chosen)]
    return chosen


async def score_by_server(client: Client, model: str, conversations: Sequence[Conversation]) -> list[Scored]:
    """Have a vLLM server score conversations, one at a time. Raises ServerError if a reply has no log-probabilities.

    vLLM 0.32 ends on a CPU if it computes `prompt_logprobs` of several requests at once and has LoRA turned on.
    """
    return [await score_one(client, model, each) for each in conversations]


async def score_one(client: Client, model: str, conversation: Conversation) -> Scored:
    """Have a vLLM server score one conversation."""
    body = make_score_body(model, conversation)
    scored = read_scores((await client.complete_chat(body)).body)
    if scored is None:
        raise ServerError(
            "The server returns no prompt_logprobs, so em can't check what it serves: set sampler.parity=off."
        )
    return scored


def make_score_body(model: str, conversation: Conversation) -> dict[str, Any]:
    """Make the request that returns the log-probability of each token of a conversation."""
    return {
        "model": model,
        "messages": conversation.to_dicts(),
        "add_generation_prompt": conversation.messages[-1].role != "assistant",
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 0,
    }


def read_scores(reply: Mapping[str, Any]) -> Scored | None:
    """Read ids and log-probabilities from a reply; None if it has none. The first token's id is not told: it is −1."""
    try:
        _, *entries = reply["prompt_logprobs"]
        pairs = [next(iter(entry.items())) for entry in entries]
        ids = tuple(int(token) for token, _ in pairs)
        logprobs = tuple(float(value["logprob"]) for _, value in pairs)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        return None
    return Scored((-1, *ids)[:LONGEST], logprobs[: LONGEST - 1])


def compare_base(reference: Sequence[Scored], served: Sequence[Scored], precision: str) -> Comparison:
    """Compare a base model (or a full fine-tune) by transformers with the served one."""
    if problem := compare_tokens(reference, served):
        return Comparison(problem)
    difference = compute_mean_difference(join_logprobs(reference), join_logprobs(served))
    if difference <= LIMITS[precision]:
        return Comparison("", difference)
    return Comparison(f"it serves other weights: {describe_difference(difference, precision)}", difference)


def compare_adapter(
    references: tuple[Sequence[Scored], Sequence[Scored]],
    served: Sequence[Scored],
    precision: str,
    base_difference: float,
) -> Comparison:
    """Compare a model with an adapter. The base must have been compared before.

    Args:
        references: the base, and the base with the adapter, by transformers. base_difference: that of the served base.
    """
    if problem := compare_tokens(references[1], served):
        return Comparison(problem)
    base, adapted, answered = (join_logprobs(each) for each in (*references, served))
    effects = [a - b for a, b in zip(adapted, base, strict=True)]
    seen = [s - b for s, b in zip(answered, base, strict=True)]
    difference, effect = compute_mean_difference(adapted, answered), compute_mean_difference(adapted, base)
    floor = max(base_difference, LIMITS[precision] / 10)
    slope = cosine = None
    if effect > CLEAR * floor:
        slope, cosine = fit_slope(effects, seen)
    if difference <= LIMITS[precision] and (slope is None or abs(slope - 1) <= SLOPE):
        return Comparison("", difference, effect, slope)
    if slope is None or cosine is None:
        cause = "it applies another adapter"
    elif abs(slope) < SLOPE and compute_mean_difference(answered, base) < effect / 2:
        cause = "the adapter is not applied"
    elif cosine >= STRAIGHT and abs(slope - 1) > SLOPE:
        cause = f"the adapter has the wrong scale, about {slope:.2f} times the right one"
    else:
        cause = f"the adapter has another scale, a cut rank, or is another one ({slope:.2f} times the right effect)"
    return Comparison(f"{cause}: {describe_difference(difference, precision)}", difference, effect, slope)


def describe_difference(difference: float, precision: str) -> str:
    """Describe a mean difference beside its limit."""
    return f"log-probabilities differ by {difference:.4f} nats a token ({LIMITS[precision]:g} would be rounding)"


def compare_tokens(reference: Sequence[Scored], served: Sequence[Scored]) -> str:
    """Return why the tokens of the two differ, with the first place where they do; empty if they are the same."""
    for number, (ours, theirs) in enumerate(zip(reference, served, strict=True), start=1):
        one, other = ours.ids[1:], theirs.ids[1:]  # a server does not tell the first token
        if one == other:
            continue
        place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        doubled = other[: len(one)] == ours.ids[: len(other)][: len(one)] and other[:1] == ours.ids[:1]
        cause = (
            "it puts the bos token twice" if doubled else "it renders another chat template, or has another tokenizer"
        )
        return f"{cause}: token {place + 2} of conversation {number} differs"
    return ""


def join_logprobs(scored: Sequence[Scored]) -> list[float]:
    """Join the log-probabilities of all conversations."""
    return [value for each in scored for value in each.logprobs]


def compute_mean_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the mean absolute difference."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / max(1, len(one))


def fit_slope(true: Sequence[float], seen: Sequence[float]) -> tuple[float, float]:
    """Return the slope through the origin of `seen` on `true`, and their cosine."""
    product = sum(a * b for a, b in zip(true, seen, strict=True))
    squares, others = sum(a * a for a in true), sum(b * b for b in seen)
    return product / squares, product / max(1e-12, (squares * others) ** 0.5)
