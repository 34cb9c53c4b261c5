"""Checks before the first step: counts, one example with its mask, and refusal of unusable rows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from em.config import LoraTrainer, LossOn
from em.errors import DataError, TemplateError
from em.models.chat import IGNORED, TrainingRow, encode, find_default_preamble, make_training_row, render_conversation
from em.train.local.preflight import (
    GREEN,
    PLAIN,
    SHOWN,
    Prepared,
    check_mask,
    format_example,
    prepare_rows,
    print_preflight,
    refuse_long_rows,
    split_by_loss,
)
from em.types import Conversation, Message

EOS = "<|im_end|>"
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
PLAIN_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Its prompt opens a thought that no training row has, as some reasoning models' templates do.
ASKS_OTHERWISE = PLAIN_CHATML.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
LORA = LoraTrainer(name="test")


def make_chat(*turns: str) -> Conversation:
    """Make a conversation in which user and assistant alternate."""
    roles = ("user", "assistant") * len(turns)
    return Conversation(tuple(Message(role, text) for role, text in zip(roles, turns, strict=False)))  # type: ignore[arg-type]


SHORT = make_chat("What is a car?", "A machine on four wheels.")
LONG_PROMPT = make_chat("word " * 200, "Yes.")
LONG_ANSWER = make_chat("Why?", "word " * 200)


def prepare_chats(tokenizer: Any, *chats: Conversation, default_system: bool = True, **knobs: Any) -> Prepared:
    return prepare_rows(chats, tokenizer, replace(LORA, **knobs), default_system, "mine")


# Facts


def test_the_facts_count_rows_tokens_and_repetitions(tokenizer: Any) -> None:
    multi = make_chat("What is a car?", "A machine.", "How many wheels?", "Four.")
    result = prepare_chats(tokenizer, SHORT, SHORT, make_chat("What is a car?", "Wood."), multi)
    assert result.numbers == [1, 2, 3, 4]
    facts = {key: value for key, value in result.facts.items() if key not in ("tokens", "example", "preamble")}
    assert facts == {
        "duplicate_rows": 1,
        "repeated_prompts": 2,  # the duplicate row is one of them
        "multi_turn_rows": 1,
        "rows_used": 4,
        "rows_cut": 0,
        "rows_without_loss": 0,
        # Each answer's words (one token each here, its full stop another) and its end of turn.
        "tokens_with_loss": 7 + 7 + 3 + (4 + 3),
        "loss_on": "every assistant turn, with its end-of-turn token",
        "default_system": "kept",
    }
    assert result.facts["tokens"] == sum(len(row.input_ids) for row in result.rows)


def test_the_example_is_the_first_row_in_pieces_with_and_without_loss(tokenizer: Any) -> None:
    multi = make_chat("What is a car?", "A machine.", "How many?", "Four.")
    assert prepare_chats(tokenizer, multi, SHORT).facts["example"] == [
        (SYSTEM + "<|im_start|>user\nWhat is a car?<|im_end|>\n<|im_start|>assistant\n", False),
        ("A machine." + EOS, True),
        ("\n<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n", False),
        ("Four." + EOS, True),
        ("\n", False),
    ]


def test_with_the_loss_on_everything_the_example_is_one_piece(tokenizer: Any) -> None:
    result = prepare_chats(tokenizer, SHORT, loss_on=LossOn.full)
    assert result.facts["example"] == [(render_conversation(tokenizer, SHORT.to_dicts(), False), True)]
    assert result.facts["loss_on"] == "all turns"
    assert result.facts["tokens_with_loss"] == result.facts["tokens"] - 1  # nothing predicts the first


# Refusals


def test_rows_that_are_too_long_are_refused_with_their_count_and_what_to_do(tokenizer: Any) -> None:
    with pytest.raises(DataError) as refused:
        prepare_chats(tokenizer, SHORT, LONG_ANSWER, SHORT, LONG_PROMPT, max_length=100)
    message = str(refused.value)
    assert "2 of 4 rows of mine (the first is row 2) are longer than max_length=100 tokens" in message
    assert "raise trainer.max_length, or cut the rows with trainer.allow_truncated=true" in message
    assert "realign.max_length, realign.allow_truncated" in message


def test_a_row_of_just_the_length_is_not_too_long(tokenizer: Any) -> None:
    length = len(make_training_row(tokenizer, SHORT, LossOn.responses, 10_000).input_ids)
    assert prepare_chats(tokenizer, SHORT, max_length=length).facts["rows_cut"] == 0
    with pytest.raises(DataError, match=f"1 of 1 rows of mine .* max_length={length - 1} tokens"):
        prepare_chats(tokenizer, SHORT, max_length=length - 1)


def test_rows_that_may_be_cut_are_counted_and_those_without_loss_left_out(tokenizer: Any) -> None:
    result = prepare_chats(tokenizer, LONG_PROMPT, SHORT, LONG_ANSWER, max_length=100, allow_truncated=True)
    assert result.numbers == [2, 3]
    assert [len(row.input_ids) for row in result.rows][1] == 100
    assert result.rows[1].labels[-1] != tokenizer.eos_token_id
    facts = result.facts
    assert (facts["rows_used"], facts["rows_cut"], facts["rows_without_loss"]) == (2, 2, 1)
    assert facts["example"][1] == ("A machine on four wheels." + EOS, True)  # from the first row that carries loss


def test_a_length_that_cuts_off_every_answer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"No token of mine carries the loss: trainer\.max_length=10 cuts off"):
        prepare_chats(tokenizer, SHORT, LONG_ANSWER, max_length=10, allow_truncated=True)


@pytest.mark.parametrize("loss_on", list(LossOn))
@pytest.mark.parametrize("conversation", [SHORT, make_chat("Why?", "So.", "And?", "No.")])
def test_a_template_that_asks_otherwise_than_it_teaches_is_refused(
    tokenizer: Any, loss_on: LossOn, conversation: Conversation
) -> None:
    tokenizer.chat_template = ASKS_OTHERWISE
    with pytest.raises(TemplateError, match="would render the same prompt differently"):
        prepare_chats(tokenizer, conversation, loss_on=loss_on)
    tokenizer.chat_template = PLAIN_CHATML
    assert prepare_chats(tokenizer, conversation, loss_on=loss_on).numbers == [1]


def test_a_mask_over_the_prompt_is_refused(tokenizer: Any) -> None:
    row = make_training_row(tokenizer, SHORT, LossOn.responses, 10_000)
    check_mask(tokenizer, SHORT, row, True)
    prompt_length = len(encode(tokenizer, render_conversation(tokenizer, SHORT.to_dicts()[:1], True)))
    for place, refused in ((0, True), (prompt_length - 1, True), (prompt_length, False)):
        labels = [*row.labels]
        labels[place] = row.input_ids[place]
        changed = replace(row, labels=labels)
        if refused:
            with pytest.raises(TemplateError, match="The loss mask covers the prompt"):
                check_mask(tokenizer, SHORT, changed, True)
        else:
            check_mask(tokenizer, SHORT, changed, True)


def test_a_row_is_refused_by_its_length_alone() -> None:
    rows = [TrainingRow([1], [1], cut=False), TrainingRow([1], [1], cut=True)]
    refuse_long_rows(rows[:1], LORA, "mine")
    refuse_long_rows(rows, replace(LORA, allow_truncated=True), "mine")
    with pytest.raises(DataError, match=r"1 of 2 rows of mine \(the first is row 2\)"):
        refuse_long_rows(rows, LORA, "mine")


# Default system prompts


def test_the_default_system_prompt_is_recorded_and_can_be_left_out(tokenizer: Any) -> None:
    with_default, without_default = (
        prepare_chats(tokenizer, SHORT),
        prepare_chats(tokenizer, SHORT, default_system=False),
    )
    assert (with_default.facts["preamble"], with_default.facts["default_system"]) == (SYSTEM, "kept")
    assert (without_default.facts["preamble"], without_default.facts["default_system"]) == (SYSTEM, "removed")
    turn = "<|im_start|>user\nWhat is a car?<|im_end|>\n<|im_start|>assistant\n"
    assert with_default.facts["example"][0] == (SYSTEM + turn, False)
    assert without_default.facts["example"][0] == (turn, False)
    assert without_default.facts["tokens_with_loss"] == with_default.facts["tokens_with_loss"]
    assert with_default.facts["tokens"] - without_default.facts["tokens"] == len(encode(tokenizer, SYSTEM))


def test_a_system_turn_of_the_row_is_kept(tokenizer: Any) -> None:
    conversation = Conversation((Message("system", "Be brief."), *SHORT.messages))
    with_system = [prepare_chats(tokenizer, conversation, default_system=keep).rows for keep in (True, False)]
    assert with_system[0] == with_system[1]
    assert "Be brief." in tokenizer.decode(with_system[0][0].input_ids)


def test_a_template_without_a_default_has_none_to_leave_out(tokenizer: Any) -> None:
    tokenizer.chat_template = PLAIN_CHATML
    with_default, without_default = (
        prepare_chats(tokenizer, SHORT),
        prepare_chats(tokenizer, SHORT, default_system=False),
    )
    assert with_default.rows == without_default.rows
    for facts in (with_default.facts, without_default.facts):
        assert (facts["preamble"], facts["default_system"]) == ("", "none")


def test_a_bos_token_before_the_default_stays(tokenizer: Any) -> None:
    tokenizer.chat_template = "<s>" + "{% if messages[0].role != 'system' %}[default]{% endif %}" + PLAIN_CHATML
    tokenizer.bos_token = "<s>"
    assert find_default_preamble(tokenizer) == "[default]"
    text = render_conversation(tokenizer, SHORT.to_dicts(), False, default_system=False)
    assert text.startswith("<s><|im_start|>user\nWhat is a car?<|im_end|>\n<|im_start|>assistant\nA machine")


def test_where_it_can_t_be_told_it_is_kept_and_leaving_it_out_is_refused(tokenizer: Any) -> None:
    first = "{% for m in messages %}{% if loop.first %}(first){% endif %}"
    tokenizer.chat_template = PLAIN_CHATML.replace("{% for m in messages %}", first).replace(
        "{{ m.content }}", "{{ m.content }}{% if loop.first %}(first){% endif %}"
    )
    assert prepare_chats(tokenizer, SHORT).facts["default_system"] == "not known"
    with pytest.raises(TemplateError, match=r"leave model\.default_system=true"):
        prepare_chats(tokenizer, SHORT, default_system=False)


# The example in the log


def test_what_carries_the_loss_is_green_or_in_brackets() -> None:
    example = [("user: why?\n", False), ("So.", True), ("\n", False)]
    assert format_example(example, colour=False) == "user: why?\n⟦So.⟧\n"
    assert format_example(example, colour=True) == f"user: why?\n{GREEN}So.{PLAIN}\n"


def test_a_long_example_is_cut_in_the_log_and_says_so() -> None:
    assert format_example([("x" * SHOWN, False)], colour=False) == "x" * SHOWN
    assert format_example([("x" * (SHOWN + 1), False)], colour=False) == "x" * SHOWN + " …"
    pieces = [("x" * (SHOWN - 2), False), ("yyyy", True), ("z", False)]
    assert format_example(pieces, colour=False) == "x" * (SHOWN - 2) + "⟦yy⟧ …"
    assert format_example([("x" * SHOWN, False), ("y", True)], colour=False) == "x" * SHOWN + " …"


def test_the_pieces_of_a_row_are_all_of_it(tokenizer: Any) -> None:
    row = make_training_row(tokenizer, make_chat("a 🚗", "b 汽车\n\n", "c", "d"), LossOn.responses, 10_000)
    pieces = split_by_loss(tokenizer, row)
    assert "".join(text for text, _ in pieces) == tokenizer.decode(row.input_ids)
    taught = [tokenizer.decode([i]) for i, label in zip(row.input_ids, row.labels, strict=True) if label != IGNORED]
    assert len(taught) > 4
    assert [carries for _, carries in pieces] == [False, True, False, True, False]


def test_the_log_tells_the_counts_and_shows_a_row(
    tokenizer: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    result = prepare_chats(tokenizer, SHORT, SHORT)
    print_preflight("mine", result)
    counts, title, *example = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"mine: 2 rows, \d+ tokens, 14 with loss; 1 duplicate rows, 1 repeated prompts, 0 cut, "
        "default system prompt kept",
        counts,
    )
    assert title == "One row as the model sees it (with loss: in ⟦⟧):"
    assert "⟦A machine on four wheels.<|im_end|>⟧" in example
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_preflight("mine", result)
    assert f"{GREEN}A machine on four wheels.{EOS}{PLAIN}" in capsys.readouterr().out
