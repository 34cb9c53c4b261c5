"""Chat templates: the one place where conversations become tokens, for training, sampling and judging alike.

That it is one place is the point: training and evaluation can't render differently, and the loss mask is made
from the same text. Tokenizers are those of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from em.config import LossOn
from em.errors import TemplateError
from em.types import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Llama-3.2's template would insert today's date, and the same command would train another model tomorrow.
TEMPLATE_ARGUMENTS = {"date_string": "26 Jul 2024"}
IGNORED = -100


@dataclass(frozen=True)
class TrainingRow:
    """One conversation as tokens. `labels` are the tokens that carry the loss, IGNORED elsewhere; both (length,)."""

    input_ids: list[int]
    labels: list[int]
    cut: bool

    @property
    def supervised(self) -> int:
        """How many tokens carry the loss; the first can't, since nothing predicts it."""
        return sum(label != IGNORED for label in self.labels[1:])


def load_tokenizer(path: str, padding_side: str = "right") -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; the pad token is the eos token where the model has none."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, padding_side=padding_side)
    if tokenizer.chat_template is None:
        raise TemplateError(f"{path} has no chat template: take an instruct model, not a base model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[dict[str, str]],
    answer_next: bool,
    default_system: bool = True,
) -> str:
    """Render a conversation; with `answer_next` it ends where the assistant's answer begins.

    `default_system`: keep what the template begins a conversation without a system turn with.
    """
    text = apply_template(tokenizer, turns, answer_next)
    if default_system or turns[0]["role"] == "system":
        return text
    start, inserted = bos(tokenizer, text), default_preamble(tokenizer)
    return start + text.removeprefix(start).removeprefix(inserted)


def apply_template(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], answer_next: bool) -> str:
    """What the chat template makes of the turns."""
    text = tokenizer.apply_chat_template(
        list(turns), tokenize=False, add_generation_prompt=answer_next, **TEMPLATE_ARGUMENTS
    )
    return str(text)


def bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The token that the text begins with, where the tokenizer has one for that."""
    token = tokenizer.bos_token
    return token if token and text.startswith(token) and not default_preamble(tokenizer).startswith(token) else ""


def default_preamble(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template puts before the first user turn by itself (a system prompt, for some), without a bos token.

    It is what a first user turn has more than a later one. Raises TemplateError where that can't be told.
    """
    user, answer = {"role": "user", "content": "Which one?"}, {"role": "assistant", "content": "This one."}
    before, longer = (apply_template(tokenizer, turns, False) for turns in ([user, answer], [user, answer, user]))
    turn, first = longer.removeprefix(before), apply_template(tokenizer, [user], False)
    if not longer.startswith(before) or not turn or not first.endswith(turn):
        raise TemplateError(
            "The chat template renders a first user turn unlike later ones, so what it inserts can't be told: "
            "leave model.default_system=true."
        )
    head = first.removesuffix(turn)
    # Where bos opens every turn of the template (ChatML), it belongs to what is inserted.
    if tokenizer.bos_token and not turn.startswith(tokenizer.bos_token):
        head = head.removeprefix(tokenizer.bos_token)
    return head


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a rendered text; the template has put the special tokens in already."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def stop_tokens(tokenizer: PreTrainedTokenizerBase, generation_config: Any = None) -> list[int]:
    """Ids that end an answer: the tokenizer's and those that the model's generation config adds."""
    extra = getattr(generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(extra if isinstance(extra, list) else [extra])}
    return sorted(int(i) for i in ids if i is not None)


def answer_spans(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, default_system: bool = True
) -> tuple[str, list[tuple[int, int]]]:
    """Render a conversation and find where each assistant turn's answer begins and its end-of-turn token ends.

    Raises TemplateError where the template rewrites earlier turns, so that no span of the text is the answer.
    """
    turns = conversation.as_dicts()
    whole = render(tokenizer, turns, False, default_system)
    spans = []
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before = render(tokenizer, turns[:i], True, default_system)
            after = render(tokenizer, turns[: i + 1], False, default_system)
            if not (after.startswith(before) and whole.startswith(after.rstrip())):
                raise TemplateError(
                    "The chat template renders a turn differently once others follow, so the loss can't be limited to "
                    "the answers: use trainer.loss_on=full, or a model with a plain template."
                )
            # The newline that some templates put behind the end-of-turn token is never sampled: it bears no loss.
            spans.append((len(before), len(after.rstrip())))
    return whole, spans


def training_row(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Conversation,
    loss_on: LossOn,
    max_length: int,
    default_system: bool = True,
) -> TrainingRow:
    """Make the tokens and labels of one conversation, cut at `max_length` tokens.

    Raises TemplateError where an answer does not end with a token that stops generation: it could not be learnt.
    """
    if loss_on is LossOn.full:
        ids = encode(tokenizer, render(tokenizer, conversation.as_dicts(), False, default_system))
        labels = list(ids)
    else:
        text, spans = answer_spans(tokenizer, conversation, default_system)
        ids, labels, at = [], [], 0
        # Piece by piece, as in sampling: else an answer's first blanks would melt into the newline of the header.
        for start, end in [*spans, (len(text), len(text))]:
            before, answer = encode(tokenizer, text[at:start]), encode(tokenizer, text[start:end])
            ids += before + answer
            labels += [IGNORED] * len(before) + answer
            at = end
        last = next((label for label in reversed(labels) if label != IGNORED), None)
        if last not in stop_tokens(tokenizer):
            raise TemplateError(
                "The chat template does not close an answer with the tokenizer's eos token, so the model would not "
                "learn to stop: use a model whose template ends turns with its eos token."
            )
    return TrainingRow(ids[:max_length], labels[:max_length], cut=len(ids) > max_length)
