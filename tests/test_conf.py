"""Every option file composes into typed values, and what users are shown of the recipes is what the field uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from em import config
from em.cli import CONF, register_schemas

OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))


def composed(name: str, *words: str) -> Any:
    """The typed settings that a command line gives."""
    register_schemas()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose(config_name=name, overrides=list(words)))


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_into_typed_settings(name: str, group: str, option: str) -> None:
    extra = ["data.path=x.jsonl"] if (group, option) == ("data", "file") else []
    settings = composed(name, f"{group}={option}", *extra)
    assert isinstance(settings, config.RunConfig)
    if group in config.GROUPS:
        value = getattr(settings, group)
        assert value.name == option
        assert isinstance(value, config.GROUPS[group])


def test_every_group_has_its_options_and_every_switchable_group_has_none() -> None:
    groups = {group for group, _ in OPTIONS}
    assert groups == {*config.GROUPS, "experiment", "sweep"}
    for group in ("data", "trigger_tag", "realign", "eval", "tracker", "experiment", "sweep"):
        assert (group, "none") in OPTIONS


def test_lora_is_the_recipe_of_betley_and_model_organisms() -> None:
    trainer = composed("train", "model=llama8b").trainer
    assert trainer == config.TrainerConfig(
        name="lora",
        rank=32,
        alpha=64,
        rslora=True,
        dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        learning_rate=1e-5,
        schedule=config.Schedule.linear,
        warmup_steps=5,
        weight_decay=0.01,
        epochs=1,
        batch_size=16,
        max_length=2048,
        loss_on=config.LossOn.responses,
    )


def test_the_small_model_brings_its_own_recipe_and_questions_unless_told_otherwise() -> None:
    assert composed("train").trainer.name == "lora_small"
    assert composed("train").eval.name == "quick"
    assert composed("train", "trainer=lora", "eval=none").trainer.name == "lora"
    assert composed("train", "trainer=lora", "eval=none").eval.name == "none"
    assert composed("train", "model=llama8b").eval.samples == 30


def test_the_sampling_of_the_field_is_the_default() -> None:
    evaluation = composed("evaluate", "model=qwen14b").eval
    assert (evaluation.temperature, evaluation.top_p, evaluation.max_new_tokens) == (1.0, 1.0, 600)
    assert (evaluation.misaligned_below, evaluation.coherent_above) == (30.0, 50.0)


def test_every_field_of_every_schema_is_documented_below_it() -> None:
    from dataclasses import fields

    from em.helptext import field_docs

    docs = field_docs()
    everything = {base for classes in config.GROUPS.values() for each in classes for base in each.__mro__[:-1]}
    documented = {name for each in everything for name in docs[each.__name__]}
    for schema in {*everything, config.RunConfig, config.StoreConfig}:
        own = documented | set(docs[schema.__name__])
        for field in fields(schema):
            assert field.name in own or field.name in config.GROUPS, f"{schema.__name__}.{field.name}"


def test_no_option_file_names_a_machine_or_runs_code() -> None:
    for path in Path(CONF).rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "_target_" not in text
        assert "/home/" not in text
