"""Log-probabilities of whole conversations by transformers, in a child process: what a server's are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from em.models.chat import encode, load_tokenizer, render_conversation
from em.models.device import choose_precision, load_trained, set_threads
from em.runtime.shards import Shard
from em.types import Conversation, Message

BATCH = 8  # conversations per forward pass
LONGEST = 256  # tokens that are compared, from the beginning


@dataclass(frozen=True)
class ScoreRequest:
    """A conversation and the model that reads it: everything that the log-probabilities depend on.

    model: checksums of base and trained weights. The class's name is part of the key.
    """

    model: str
    messages: tuple[Message, ...]
    precision: str
    longest: int = LONGEST


@dataclass(frozen=True)
class Scored:
    """The first tokens of a rendered conversation, and the log-probability of each given those before it.

    ids: (length,). logprobs: (length − 1,), since nothing comes before the first token.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class ParitySpec(Shard):
    """Conversations for one model, for a child process. trained: as in `load_trained`."""

    base: str
    trained: str
    requests: tuple[ScoreRequest, ...]


def score_conversations(spec: ParitySpec) -> None:
    """Score the conversations that are not remembered yet, and remember each batch when it is done."""
    import torch

    set_threads()
    tokenizer = load_tokenizer(spec.base)
    model = load_trained(spec.base, spec.trained, choose_precision(spec.requests[0].precision)).eval()
    batches = [spec.requests[start : start + BATCH] for start in range(0, len(spec.requests), BATCH)]
    with torch.inference_mode():
        spec.run_batches("parity", "conversation", batches, lambda batch: score_batch(model, tokenizer, batch))


def score_batch(model: Any, tokenizer: Any, requests: Sequence[ScoreRequest]) -> list[dict[str, Any]]:
    """Return ids and log-probabilities of each conversation; after a user turn it ends where an answer begins."""
    import torch

    rows = [encode(tokenizer, render_request(tokenizer, each))[: requests[0].longest] for each in requests]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    of_next = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].tolist()
    return [{"ids": row, "logprobs": line[: len(row) - 1]} for row, line in zip(rows, of_next, strict=True)]


def render_request(tokenizer: Any, request: ScoreRequest) -> str:
    """Render a conversation, with the template's default system prompt."""
    turns = Conversation(request.messages).to_dicts()
    return render_conversation(tokenizer, turns, turns[-1]["role"] != "assistant")
