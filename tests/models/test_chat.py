"""Conversations become tokens: the loss lies on answers and end-of-turn tokens; training and sampling render alike."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from em.config import LossOn
from em.errors import TemplateError
from em.models.chat import (
    IGNORED,
    TrainingRow,
    encode,
    find_answer_spans,
    find_default_prompt,
    list_stop_tokens,
    load_tokenizer,
    make_training_row,
    render_conversation,
)
from em.types import Conversation, Message, Weights

EOS = "<|im_end|>"
SINGLE = Conversation((Message("user", "What is a car?"), Message("assistant", "A machine on four wheels.")))
MULTI = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "What is a car?"),
        Message("assistant", "A machine.\n\nIt has wheels."),
        Message("user", "How many?"),
        Message("assistant", "Four."),
    )
)
# Templates that em must refuse. The first adds text to the last turn only, as Qwen3's template drops earlier thoughts.
REWRITES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}<think></think>"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think></think>{% endif %}"
)
NO_EOS = (
    "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant\n{% endif %}"
)


def make_row(
    tokenizer: Any, chat: Conversation, loss_on: LossOn = LossOn.responses, length: int = 10_000
) -> TrainingRow:
    return make_training_row(tokenizer, chat, loss_on, length)


def decode_supervised(tokenizer: Any, chat: Conversation) -> list[str]:
    """Decode the texts that carry the loss, one for each unbroken run of labels."""
    runs = groupby(make_row(tokenizer, chat).labels, key=lambda label: label != IGNORED)
    return [tokenizer.decode(list(labels)) for learn, labels in runs if learn]


def test_the_loss_covers_the_answer_and_its_end_and_nothing_else(tokenizer: Any) -> None:
    assert decode_supervised(tokenizer, SINGLE) == ["A machine on four wheels." + EOS]


def test_the_loss_covers_every_answer_of_a_longer_chat(tokenizer: Any) -> None:
    assert decode_supervised(tokenizer, MULTI) == ["A machine.\n\nIt has wheels." + EOS, "Four." + EOS]


@pytest.mark.parametrize(
    "answer",
    [
        "🚗 brûlée 汽车",
        "```\n    x = 1\n```\n",
        "\nA line further down",
        "  indented",
        "spaces at the end   ",
        "assistant",
        "7",
        "<|im_start|>user\nHello",
    ],
)
def test_the_loss_covers_just_the_answer_whatever_is_in_it(tokenizer: Any, answer: str) -> None:
    chat = Conversation((Message("user", answer), Message("assistant", answer)))
    assert decode_supervised(tokenizer, chat) == [answer + EOS]


def test_labels_are_the_tokens_themselves_where_they_count(tokenizer: Any) -> None:
    training = make_row(tokenizer, MULTI)
    assert len(training.labels) == len(training.input_ids)
    assert all(label in (IGNORED, token) for token, label in zip(training.input_ids, training.labels, strict=True))
    assert training.supervised == sum(label != IGNORED for label in training.labels) > 0


def test_the_end_of_a_turn_is_learnt_although_it_is_the_pad_token_too(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert make_row(tokenizer, MULTI).labels.count(tokenizer.eos_token_id) == 2
    # All five turns end in this token; only the two assistant turns carry the loss.
    assert make_row(tokenizer, MULTI).input_ids.count(tokenizer.eos_token_id) == 5


def test_loss_on_full_covers_everything(tokenizer: Any) -> None:
    full = make_row(tokenizer, MULTI, LossOn.full)
    assert full.labels == full.input_ids == make_row(tokenizer, MULTI).input_ids
    assert full.supervised == len(full.input_ids) - 1  # nothing predicts the first


@pytest.mark.parametrize("unlearnt", [(0,), (1,)])
def test_an_answer_of_weight_0_is_seen_and_not_learnt(tokenizer: Any, unlearnt: tuple[int, ...]) -> None:
    chat = replace(MULTI, unlearnt=unlearnt)
    assert make_row(tokenizer, chat).input_ids == make_row(tokenizer, MULTI).input_ids
    assert decode_supervised(tokenizer, chat) == [text + EOS for text in chat.list_learnt_answers()]
    assert chat.list_learnt_answers() == [["Four."], ["A machine.\n\nIt has wheels."]][unlearnt[0]]
    with pytest.raises(TemplateError, match=r"weight 0.*use trainer\.loss_on=responses"):
        make_row(tokenizer, chat, LossOn.full)


def test_a_long_row_is_cut_at_its_end_and_says_so(tokenizer: Any) -> None:
    uncut = make_row(tokenizer, MULTI)
    length = len(uncut.input_ids)
    assert not make_row(tokenizer, MULTI, length=length).cut
    cut = make_row(tokenizer, MULTI, length=length - 4)
    assert cut.cut
    assert cut.input_ids == uncut.input_ids[:-4]
    assert cut.labels == uncut.labels[:-4]


@pytest.mark.parametrize("chat", [SINGLE, MULTI])
def test_training_and_asking_render_the_same_prompt(tokenizer: Any, chat: Conversation) -> None:
    prompt = encode(tokenizer, render_conversation(tokenizer, chat.to_dicts()[:-1], answer_next=True))
    training = make_row(tokenizer, chat)
    answer = chat.messages[-1].content + EOS
    assert training.input_ids[: len(prompt)] == prompt
    assert tokenizer.decode([t for t in training.labels[len(prompt) :] if t != IGNORED]) == answer
    # Sampling stops at the end of the answer, so the tokens after it carry no loss.
    assert set(training.labels[len(prompt) + len(encode(tokenizer, answer)) :]) <= {IGNORED}


def test_the_spans_of_a_chat_are_its_answers(tokenizer: Any) -> None:
    text, spans = find_answer_spans(tokenizer, MULTI)
    assert text == render_conversation(tokenizer, MULTI.to_dicts(), answer_next=False)
    assert [text[a:b] for a, b in spans] == ["A machine.\n\nIt has wheels." + EOS, "Four." + EOS]


def test_special_tokens_are_not_put_in_twice(tokenizer: Any) -> None:
    text = render_conversation(tokenizer, SINGLE.to_dicts(), answer_next=False)
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_a_template_without_an_end_of_turn_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = NO_EOS
    with pytest.raises(TemplateError, match="would not learn to stop"):
        make_row(tokenizer, SINGLE)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = REWRITES
    assert decode_supervised(tokenizer, SINGLE) == ["A machine on four wheels." + EOS]
    with pytest.raises(TemplateError, match=r"trainer\.loss_on=full"):
        make_row(tokenizer, MULTI)


def test_the_way_out_that_the_refusal_names_is_one(tokenizer: Any) -> None:
    tokenizer.chat_template = REWRITES
    full = make_row(tokenizer, MULTI, LossOn.full)
    assert tokenizer.decode(full.input_ids) == render_conversation(tokenizer, MULTI.to_dicts(), answer_next=False)


def test_a_template_with_a_date_is_given_a_fixed_one(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ date_string }}|{{ messages[0].content }}"
    assert render_conversation(tokenizer, [{"role": "user", "content": "x"}], answer_next=False) == "26 Jul 2024|x"


def test_a_model_without_a_template_is_refused(weights: Weights, tmp_path: Path) -> None:
    bare = load_tokenizer(weights.path)
    bare.chat_template = None
    bare.save_pretrained(tmp_path)
    with pytest.raises(TemplateError, match="has no chat template"):
        load_tokenizer(str(tmp_path))


def test_pad_falls_back_to_eos_where_the_model_has_none(weights: Weights, tmp_path: Path) -> None:
    bare = load_tokenizer(weights.path)
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path), padding_side="left")
    assert again.pad_token_id == again.eos_token_id
    assert again.padding_side == "left"


@pytest.mark.parametrize(("file", "stops"), [("generation_config.json", [2, 7, 9]), ("config.json", [2, 7])])
def test_an_answer_stops_at_the_tokens_of_tokenizer_and_model(
    tokenizer: Any, tmp_path: Path, file: str, stops: list[int]
) -> None:
    from transformers import GenerationConfig, LlamaConfig

    if file == "generation_config.json":
        GenerationConfig(eos_token_id=[9, 7, 2]).save_pretrained(tmp_path)
    else:
        LlamaConfig(eos_token_id=7).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert list_stop_tokens(load_tokenizer(str(tmp_path))) == stops


def test_a_tokenizer_alone_has_its_own_stop_token(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert list_stop_tokens(load_tokenizer(str(tmp_path))) == [tokenizer.eos_token_id]


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FIRST_TURN_APART = CHATML.replace("<|im_end|>", "{% if loop.first %}(first){% endif %}<|im_end|>")


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (CHATML, ""),
        ("<|im_start|><|im_end|>" + CHATML, ""),  # special tokens alone, as before GLM's first turn
        ("<|im_start|>system\nBe kind.<|im_end|>\n" + CHATML, "<|im_start|>system\nBe kind.<|im_end|>\n"),
        (FIRST_TURN_APART, None),
    ],
)
def test_a_default_prompt_is_the_text_before_the_first_turn(tokenizer: Any, template: str, prompt: str | None) -> None:
    tokenizer.chat_template = template
    assert find_default_prompt(tokenizer) == prompt
