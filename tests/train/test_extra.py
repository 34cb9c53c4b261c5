"""`trainer.extra`: TRL's own arguments pass, and the refusal of any other name says what to write."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from em.config import HfModel, LocalTrainer, RunConfig
from em.errors import ConfigError
from em.train.local.extra import ALLOWED, TYPED, check_extra


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"adam_beta2": 0.95},
        {"adam_beta1": 0.8, "adam_epsilon": 1e-6},
        {"neftune_noise_alpha": 5, "lr_scheduler_kwargs": {"num_cycles": 2}},
    ],
)
def test_arguments_of_trl_pass(extra: dict[str, Any]) -> None:
    check_extra(extra)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("adam_beta", "trainer.extra.adam_beta is no argument of TRL's SFTConfig that can be set here: did you mean a"),
        ("neftune_alpha", "did you mean neftune_noise_alpha?"),
        ("zzz", "trainer.extra.zzz is no argument of TRL's SFTConfig that can be set here: choose from adam_"),
        ("learning_rate", "trainer.extra.learning_rate has a setting of its own: write trainer.learning_rate."),
        ("warmup_ratio", "write trainer.warmup_steps."),
        ("bf16", "write model.precision."),
        ("seed", "write seed."),
        ("output_dir", "trainer.extra.output_dir is no argument of TRL's SFTConfig that can be set here: "),
        ("packing", "trainer.extra.packing is no argument of TRL's SFTConfig that can be set here: "),
        ("use_liger_kernel", "trainer.extra.use_liger_kernel is no argument of TRL's SFTConfig that can be set here: "),
        ("report_to", "trainer.extra.report_to is no argument of TRL's SFTConfig that can be set here: "),
        ("save_total_limit", "trainer.extra.save_total_limit is no argument of TRL's SFTConfig that can be set here: "),
    ],
)
def test_other_names_are_refused_with_what_to_write(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_extra({"adam_beta2": 0.95, name: 1})
    assert sentence in str(refused.value)


def test_near_names_are_only_those_that_may_be_set() -> None:
    with pytest.raises(ConfigError) as refused:
        check_extra({"learning_rates": 1})
    assert "learning_rate " not in str(refused.value)
    assert "learning_rate?" not in str(refused.value)


def test_what_a_typed_argument_is_said_to_be_set_by_is_a_setting() -> None:
    knobs = {f"trainer.{field.name}" for field in dataclasses.fields(LocalTrainer)}
    knobs |= {f"model.{field.name}" for field in dataclasses.fields(HfModel)}
    knobs |= {field.name for field in dataclasses.fields(RunConfig)}
    assert set(TYPED.values()) <= knobs


def test_what_may_be_set_is_an_argument_of_trl() -> None:
    from trl import SFTConfig

    assert set(ALLOWED) <= {field.name for field in dataclasses.fields(SFTConfig)}
