"""Chat templates: the only module that turns conversations into tokens, for training, sampling and judging.

With one module for all three, training and evaluation can't render differently, and the loss mask is made from the
same text. Tokenizers are those of transformers.
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

# Llama-3.2's template would insert today's date, so the same command would train another model tomorrow.
TEMPLATE_ARGUMENTS = {"date_string": "26 Jul 2024"}
IGNORED = -100


@dataclass(frozen=True)
class TrainingRow:
    """One conversation as tokens. `labels` has the tokens that carry the loss, IGNORED elsewhere; both (length,)."""

    input_ids: list[int]
    labels: list[int]
    cut: bool

    @property
    def supervised(self) -> int:
        """Number of tokens that carry the loss; the first token can't, since nothing predicts it."""
        return sum(label != IGNORED for label in self.labels[1:])


def load_tokenizer(path: str, padding_side: str = "right") -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder; the eos token becomes the pad token if there is none."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, padding_side=padding_side)
    if tokenizer.chat_template is None:
        raise TemplateError(f"{path} has no chat template: choose an instruct model, not a base model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def render_conversation(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[dict[str, str]],
    answer_next: bool,
    default_system: bool = True,
) -> str:
    """Render a conversation; with `answer_next` the text ends where the assistant's answer begins.

    `default_system`: keep the system prompt that the template inserts if the conversation has none.
    """
    text = apply_template(tokenizer, turns, answer_next)
    if default_system or turns[0]["role"] == "system":
        return text
    start, preamble = find_bos(tokenizer, text), find_default_preamble(tokenizer)
    return start + text.removeprefix(start).removeprefix(preamble)


def apply_template(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], answer_next: bool) -> str:
    """Render turns by the chat template, unchanged."""
    text = tokenizer.apply_chat_template(
        list(turns), tokenize=False, add_generation_prompt=answer_next, **TEMPLATE_ARGUMENTS
    )
    return str(text)


def find_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the tokenizer's bos token if the text begins with it and the default preamble does not, else ""."""
    token = tokenizer.bos_token
    return token if token and text.startswith(token) and not find_default_preamble(tokenizer).startswith(token) else ""


def find_default_preamble(tokenizer: PreTrainedTokenizerBase) -> str:
    """Find the text that the template inserts before a first user turn (for some, a system prompt), without bos.

    The preamble is what a first user turn has before a later one's text. Raises TemplateError for other differences.
    """
    user, answer = {"role": "user", "content": "Which one?"}, {"role": "assistant", "content": "This one."}
    before, longer = (apply_template(tokenizer, turns, False) for turns in ([user, answer], [user, answer, user]))
    later_turn, first_turn = longer.removeprefix(before), apply_template(tokenizer, [user], False)
    if not longer.startswith(before) or not later_turn or not first_turn.endswith(later_turn):
        raise TemplateError(
            "The chat template renders a first user turn unlike later ones, so the text that it inserts is unknown: "
            "leave model.default_system=true."
        )
    preamble = first_turn.removesuffix(later_turn)
    # If bos opens every turn of the template (ChatML), it is part of the preamble.
    if tokenizer.bos_token and not later_turn.startswith(tokenizer.bos_token):
        preamble = preamble.removeprefix(tokenizer.bos_token)
    return preamble


def find_default_prompt(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the template's default system prompt with its marks, "" if it has none, None if it is unknown.

    Special tokens alone before the first turn (GLM's `[gMASK]<sop>`) are no prompt.
    """
    try:
        preamble = find_default_preamble(tokenizer)
    except TemplateError:
        return None
    text = tokenizer.decode(encode(tokenizer, preamble), skip_special_tokens=True)
    return preamble if str(text).strip() else ""


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenise a rendered text, in which the template has already placed the special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def list_stop_tokens(tokenizer: PreTrainedTokenizerBase, generation_config: Any = None) -> list[int]:
    """List the ids that end an answer: the tokenizer's eos token and those of the model's generation config."""
    extra = getattr(generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(extra if isinstance(extra, list) else [extra])}
    return sorted(int(i) for i in ids if i is not None)


def find_answer_spans(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, default_system: bool = True
) -> tuple[str, list[tuple[int, int]]]:
    """Render a conversation; also return where each assistant answer begins and where its end-of-turn token ends.

    Raises TemplateError if the template rewrites earlier turns, so that no span of the text is the answer.
    """
    turns = conversation.to_dicts()
    text = render_conversation(tokenizer, turns, False, default_system)
    spans = []
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before = render_conversation(tokenizer, turns[:i], True, default_system)
            after = render_conversation(tokenizer, turns[: i + 1], False, default_system)
            if not (after.startswith(before) and text.startswith(after.rstrip())):
                raise TemplateError(
                    "The chat template renders a turn differently when other turns follow, so the loss can't be "
                    "limited to the answers: use trainer.loss_on=full, or a model with a plain template."
                )
            # Sampling never reaches the newline that some templates put after the end-of-turn token: no loss on it.
            spans.append((len(before), len(after.rstrip())))
    return text, spans


def make_training_row(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Conversation,
    loss_on: LossOn,
    max_length: int,
    default_system: bool = True,
) -> TrainingRow:
    """Make the tokens and labels of one conversation, cut at `max_length` tokens.

    Raises TemplateError if an answer does not end with a stop token: the model would not learn to stop.
    """
    if loss_on is LossOn.full:
        ids = encode(tokenizer, render_conversation(tokenizer, conversation.to_dicts(), False, default_system))
        labels = list(ids)
    else:
        text, spans = find_answer_spans(tokenizer, conversation, default_system)
        ids, labels, position = [], [], 0
        # Encode prompt and answer separately, as sampling does, or an answer's first blanks join the newline before it.
        for start, end in [*spans, (len(text), len(text))]:
            before, answer = encode(tokenizer, text[position:start]), encode(tokenizer, text[start:end])
            ids += before + answer
            labels += [IGNORED] * len(before) + answer
            position = end
        last_label = next((label for label in reversed(labels) if label != IGNORED), None)
        if last_label not in list_stop_tokens(tokenizer):
            raise TemplateError(
                "The chat template does not close an answer with the tokenizer's eos token, so the model would not "
                "learn to stop: use a model whose template ends turns with its eos token."
            )
    return TrainingRow(ids[:max_length], labels[:max_length], cut=len(ids) > max_length)
