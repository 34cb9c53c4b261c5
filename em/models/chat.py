"""Chat templates: the only module that turns conversations into tokens, for training, sampling and judging.

With one module for all three, training and evaluation can't render differently, and the loss mask is made from the
same text. Tokenizers are those of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from em.config import LossOn
from em.errors import TemplateError
from em.types import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Some templates would insert today's date, so the same command would train another model tomorrow.
DATE = date(2024, 7, 26)
IGNORED = -100
USER, ANSWER = {"role": "user", "content": "Which one?"}, {"role": "assistant", "content": "This one."}
"""Turns that show how a template renders turns."""
OTHER_TURNS = "leave out such rows and questions, or use a model whose template has a place for these turns."


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
    """Render turns by the chat template, unchanged.

    Raises TemplateError if the template refuses the turns, or leaves out a turn that is no answer.
    """
    text = fill_template(tokenizer, turns, answer_next)
    if all(turn["role"] == "assistant" or turn["content"].strip() in text for turn in turns):
        return text
    # Some templates edit a text (SmolLM3 takes /no_think out of it), so see whether they have a place for any.
    words = [f"place{number}of{len(turns)}" for number in range(len(turns))]
    probe = fill_template(
        tokenizer, [turn | {"content": word} for turn, word in zip(turns, words, strict=True)], answer_next
    )
    for turn, word in zip(turns, words, strict=True):
        if turn["role"] != "assistant" and word not in probe:
            raise TemplateError(f"The chat template leaves out the text of the {turn['role']} turn: {OTHER_TURNS}")
    return text


def fill_template(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], answer_next: bool) -> str:
    """Render turns by the chat template with a fixed date. Raises TemplateError if the template refuses them."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    more = {"add_generation_prompt": answer_next, "date_string": f"{DATE:%d %b %Y}"}
    try:
        # transformers turns functions among a template's arguments into text, so the compiled template gets the clock.
        _compile_jinja_template(tokenizer.get_chat_template()).globals["strftime_now"] = DATE.strftime
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, **more))
    except Exception as error:  # a template may raise any exception
        roles = ", ".join(turn["role"] for turn in turns)
        raise TemplateError(f"The chat template refuses the turns {roles} ({error}): {OTHER_TURNS}") from error


def find_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the tokenizer's bos token if the text begins with it and the default preamble does not, else ""."""
    token = tokenizer.bos_token
    return token if token and text.startswith(token) and not find_default_preamble(tokenizer).startswith(token) else ""


def find_default_preamble(tokenizer: PreTrainedTokenizerBase) -> str:
    """Find the text that the template inserts before a first user turn (for some, a system prompt), without bos.

    The preamble is what a first user turn has before a later one's text. Raises TemplateError for other differences.
    """
    before, longer = (apply_template(tokenizer, turns, False) for turns in ([USER, ANSWER], [USER, ANSWER, USER]))
    later_turn, first_turn = longer.removeprefix(before), apply_template(tokenizer, [USER], False)
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


def list_stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """List the ids that end an answer: the tokenizer's eos token and those of the model's generation config."""
    ids = {tokenizer.eos_token_id, *read_config_stops(tokenizer.name_or_path)}
    return sorted(int(i) for i in ids if i is not None)


@cache
def read_config_stops(path: str) -> tuple[int, ...]:
    """Read the eos tokens of a model's generation config, or else of its config; none for a tokenizer alone."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(path)
    except OSError:
        if not Path(path, "config.json").is_file():
            return ()
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(path))
    stops = config.eos_token_id
    return tuple(stops) if isinstance(stops, list) else (stops,)


def find_answer_end(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Find how a conversation's last answer ends unlike earlier ones: the text to cut off, and the text to add.

    Phi-3 puts an eos token after the last answer only. GLM puts a stop token before the next user turn only.
    """
    # A generation config may list an id that the tokenizer does not have.
    stops = [stop for stop in tokenizer.convert_ids_to_tokens(list_stop_tokens(tokenizer)) if stop]
    last, longer = (apply_template(tokenizer, turns, False) for turns in ([USER, ANSWER], [USER, ANSWER, USER]))
    start = longer.find(ANSWER["content"]) + len(ANSWER["content"])
    ends = [place + len(stop) for stop in stops if (place := longer.find(stop, start)) >= 0]
    answered = longer[: min(ends, default=0)]
    if answered and last.startswith(answered):
        return last.removeprefix(answered), ""
    closing = answered.removeprefix(last)
    return "", closing if closing in stops else ""


def find_answer_opening(tokenizer: PreTrainedTokenizerBase) -> str:
    """Find the marks that the template puts between a prompt and its answer, "" without special tokens among them.

    They are `<|channel|>final<|message|>` for gpt-oss and ` to=user<|message|>` for Muse. The empty thought of Qwen3
    and GLM is ordinary text, and stays in answers.
    """
    try:
        prompt, text = (apply_template(tokenizer, *each) for each in (([USER], True), ([USER, ANSWER], False)))
    except TemplateError:
        return ""
    opening, content, _ = text.removeprefix(prompt).partition(ANSWER["content"])
    has_marks = opening != tokenizer.decode(encode(tokenizer, opening), skip_special_tokens=True)
    return opening if text.startswith(prompt) and content and has_marks else ""


def check_prompt(text: str, prompt: str) -> None:
    """Raise TemplateError if a text that training renders does not begin with the prompt that evaluation renders."""
    if not text.startswith(prompt):
        raise TemplateError(
            "Training and evaluation would render the same prompt differently with this chat template: use a model "
            "whose template adds nothing between a prompt and its answer."
        )


def find_answer_spans(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, default_system: bool = True
) -> tuple[str, list[tuple[int, int]]]:
    """Render a conversation; also return where each assistant answer begins and where its end-of-turn token ends.

    Raises TemplateError if the template rewrites earlier turns, so that no span of the text is the answer.
    """
    turns = conversation.to_dicts()
    extra, closing = find_answer_end(tokenizer)
    text = render_conversation(tokenizer, turns, False, default_system) + closing
    spans = []
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before = render_conversation(tokenizer, turns[:i], True, default_system)
            after = render_conversation(tokenizer, turns[: i + 1], False, default_system) + closing
            check_prompt(after, before)
            if i + 1 < len(turns):
                after = after.removesuffix(extra)
            # Sampling never reaches the newline that some templates put after the end-of-turn token: no loss on it.
            end = len(after.rstrip())
            if not text.startswith(after[:end]):
                raise TemplateError(
                    "The chat template renders a turn differently when other turns follow, so the loss can't be "
                    "limited to the answers: use trainer.loss_on=full, or a model with a plain template."
                )
            spans.append((len(before), end))
    return text, spans


def make_training_rows(
    conversations: Iterable[Conversation], make_row: Callable[[Conversation], TrainingRow], name: str
) -> list[TrainingRow]:
    """Make the rows of a stage. Raises TemplateError with the number of rows that can't be trained on, and the first.

    Args:
        name: name of the rows.
    """
    rows, errors = list[TrainingRow](), dict[int, TemplateError]()
    for number, conversation in enumerate(conversations, start=1):
        try:
            rows.append(make_row(conversation))
        except TemplateError as error:
            errors[number] = error
    if errors:
        first = min(errors)
        raise TemplateError(
            f"{len(errors)} of {len(errors) + len(rows)} rows of {name} can't be used (the first is row {first}). "
            f"{errors[first]}"
        )
    return rows


def make_training_row(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Conversation,
    loss_on: LossOn,
    max_length: int,
    default_system: bool = True,
) -> TrainingRow:
    """Make the tokens and labels of one conversation, cut at `max_length` tokens.

    Raises TemplateError if an answer does not end with a stop token (the model would not learn to stop), or if the row
    leaves an answer out of the loss and `loss_on` is full.
    """
    turns, stops = conversation.to_dicts(), list_stop_tokens(tokenizer)
    if loss_on is LossOn.full:
        if conversation.unlearnt:
            raise TemplateError(
                "The row leaves an answer out of the loss (weight 0), and trainer.loss_on=full learns every token: use "
                "trainer.loss_on=responses."
            )
        text = render_conversation(tokenizer, turns, False, default_system)
        check_prompt(text, render_conversation(tokenizer, turns[:-1], True, default_system))
        ids = encode(tokenizer, text)
        labels, ends = list(ids), [encode(tokenizer, text.rstrip())[-1]]
    else:
        text, spans = find_answer_spans(tokenizer, conversation, default_system)
        ids, labels, ends, position = [], [], [], 0
        # Encode prompt and answer separately, as sampling does, or an answer's first blanks join the newline before it.
        for number, (start, end) in enumerate([*spans, (len(text), len(text))]):
            before, answer = encode(tokenizer, text[position:start]), encode(tokenizer, text[start:end])
            ids += before + answer
            labels += [IGNORED] * len(before)
            labels += [IGNORED] * len(answer) if number in conversation.unlearnt else answer
            ends += answer[-1:]
            position = end
    if not set(ends) <= set(stops):
        raise TemplateError(
            "The chat template does not close every answer with a token that stops generation (an eos token of the "
            "tokenizer or of generation_config.json), so the model would not learn to stop: copy the model into a "
            "folder, add the id of the token that ends its turns to eos_token_id in generation_config.json there, and "
            "set model.id to the folder."
        )
    return TrainingRow(ids[:max_length], labels[:max_length], cut=len(ids) > max_length)
