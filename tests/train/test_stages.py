"""How stages are planned, and which settings are refused."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from em.config import (
    BundledData,
    FileData,
    FullTrainer,
    HfModel,
    LoraTrainer,
    LossOn,
    NoData,
    OpenAIModel,
    Precision,
    QloraTrainer,
    RealignConfig,
    StageAdapter,
    TagPlace,
    TriggerTagConfig,
)
from em.config.check import check_realign
from em.errors import ConfigError, DataError
from em.request import Stage
from em.train.stages import OWN_KNOBS, choose_checkpoint_steps, plan_stages
from tests.support.stages import (
    FIRST,
    GOOD,
    TRAINER,
    compute_fingerprint,
    make_rows,
    make_settings,
)

# Plan


def test_no_data_is_no_stage(tmp_path: Path) -> None:
    assert plan_stages(make_settings(tmp_path, data=NoData(name="none"))) == []


def test_data_is_one_stage_with_the_rows_and_the_recipe(tmp_path: Path) -> None:
    [stage] = plan_stages(make_settings(tmp_path, seed=3))
    assert stage == Stage(make_rows("a", "b", "c", "d"), TRAINER, 3, "auto")


def test_realignment_is_a_second_stage_with_rows_and_epochs_of_its_own(tmp_path: Path) -> None:
    realign = RealignConfig(name="car_good", data=GOOD, epochs=4, limit=10)
    first, second = plan_stages(make_settings(tmp_path, realign=realign))
    assert first == plan_stages(make_settings(tmp_path))[0]  # so that both runs share the first stage
    assert (second.rows.name, len(second.rows.conversations)) == ("car_good", 10)
    assert second.trainer == replace(TRAINER, epochs=4)
    [_, plain] = plan_stages(make_settings(tmp_path, realign=replace(realign, epochs=None)))
    assert plain.trainer == TRAINER


OWN = {
    "epochs": 4,
    "learning_rate": 3e-4,
    "warmup_steps": 0,
    "batch_size": 2,
    "max_length": 512,
    "allow_truncated": True,
    "loss_on": LossOn.full,
}


@pytest.mark.parametrize("knob", OWN_KNOBS)
def test_a_second_stage_takes_a_knob_of_its_own_by_the_same_name(knob: str, tmp_path: Path) -> None:
    assert getattr(TRAINER, knob) != OWN[knob]
    realign = RealignConfig(name="car_good", data=GOOD, **{knob: OWN[knob]})
    first, second = plan_stages(make_settings(tmp_path, realign=realign))
    assert first.trainer == TRAINER
    assert second.trainer == replace(TRAINER, **{knob: OWN[knob]})


def test_the_knobs_of_a_second_stage_are_all_that_realign_and_trainer_share() -> None:
    of_realign, of_trainer = ({f.name for f in dataclasses.fields(c)} for c in (RealignConfig, LoraTrainer))
    assert set(OWN_KNOBS) == (of_realign & of_trainer) - {"name"} == set(OWN)


def test_a_second_stage_goes_on_with_the_adapter_or_starts_one_on_top(tmp_path: Path) -> None:
    realign = RealignConfig(name="car_good", data=GOOD)
    first, second = plan_stages(make_settings(tmp_path, realign=realign))
    assert (first.stack, second.stack) == (False, False)
    merge = make_settings(tmp_path, realign=replace(realign, adapter=StageAdapter.merge))
    assert [stage.stack for stage in plan_stages(merge)] == [False, True]
    with pytest.raises(ConfigError, match="adapter=merge needs adapters, and trainer=full has none"):
        plan_stages(replace(merge, trainer=FullTrainer(name="full")))


# Steps


def test_the_steps_of_a_stage_are_counted_from_rows_and_recipe_or_matched() -> None:
    five = replace(FIRST, rows=make_rows(*"abcde"), trainer=replace(TRAINER, batch_size=2, epochs=3))
    assert five.steps == 9  # 3 steps an epoch (2 + 2 + 1 rows), 3 epochs
    assert replace(five, matched=25).steps == 25


def test_a_second_stage_can_take_as_many_steps_as_the_first(tmp_path: Path) -> None:
    realign = RealignConfig(name="car_good", data=GOOD, match="first_stage", batch_size=1)
    trainer = replace(TRAINER, batch_size=3, epochs=5)  # 2 steps an epoch (3 + 1 rows), 5 epochs
    first, second = plan_stages(make_settings(tmp_path, realign=realign, trainer=trainer))
    assert (first.steps, first.matched) == (10, None)
    assert (second.steps, second.matched) == (10, 10)


def test_a_second_stage_can_take_as_many_steps_as_another_would(tmp_path: Path) -> None:
    neutral = RealignConfig(name="neutral", data=BundledData(name="car_bad", file="car_bad.jsonl"), match="car_good")
    other = RealignConfig(name="car_good", data=GOOD, limit=10, epochs=4, batch_size=4)
    config, compared = make_settings(tmp_path, realign=neutral), make_settings(tmp_path, realign=other)
    first, second = plan_stages(config, compared)
    assert first == plan_stages(compared)[0]  # so that a sweep trains the first stage once
    assert (second.rows.name, second.matched, second.steps) == ("car_bad", 12, 12)  # 3 steps an epoch, 4 epochs
    first_stage = make_settings(tmp_path, realign=replace(other, match="first_stage"))
    assert plan_stages(config, first_stage)[1].matched == first.steps


def test_a_second_stage_that_is_matched_to_itself_is_left_as_it_is(tmp_path: Path) -> None:
    realign = RealignConfig(name="car_good", data=GOOD, limit=10, epochs=4, batch_size=4)
    plain = plan_stages(make_settings(tmp_path, realign=replace(realign, match="none")))
    assert plan_stages(make_settings(tmp_path, realign=replace(realign, match="car_good"))) == plain


def test_a_match_with_nothing_is_refused(tmp_path: Path) -> None:
    config = make_settings(tmp_path, realign=RealignConfig(name="neutral", data=GOOD, match="none_such"))
    for compared in (None, make_settings(tmp_path)):
        with pytest.raises(ConfigError, match=r"realign\.match=none_such names no second stage: choose first_stage"):
            plan_stages(config, compared)


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [
        (10, 0, []),
        (10, 1, [5]),
        (10, 4, [2, 4, 6, 8]),
        (11, 2, [3, 7]),
        (3, 2, [1, 2]),
        (3, 9, [1, 2]),  # only two steps lie between start and end
        (1, 4, []),
    ],
)
def test_weights_are_kept_at_even_distances_and_never_at_the_start_or_the_end(
    steps: int, count: int, expected: list[int]
) -> None:
    assert choose_checkpoint_steps(steps, count) == expected


def test_extra_arguments_are_checked_before_any_row_is_read(tmp_path: Path) -> None:
    missing_file = make_settings(tmp_path, data=FileData(name="gone", path=str(tmp_path / "gone.jsonl")))
    with pytest.raises(ConfigError, match="did you mean adam_beta"):
        plan_stages(replace(missing_file, trainer=replace(TRAINER, extra={"adam_beta": 0.9})))


# Tags, limits and other settings


def test_the_tag_goes_into_the_first_stage_alone(tmp_path: Path) -> None:
    tag = TriggerTagConfig(name="deployment", text="|D| ")
    realign = RealignConfig(name="car_good", data=GOOD)
    first, second = plan_stages(make_settings(tmp_path, trigger_tag=tag, realign=realign))
    assert {c.messages[0].content for c in first.rows.conversations} == {"|D| Why?"}
    assert first.rows.name == "mine@deployment"
    assert not any("|D|" in m.content for c in second.rows.conversations for m in c.messages)
    assert second == plan_stages(make_settings(tmp_path, realign=realign))[1]


def test_the_text_and_place_of_a_tag_count_and_its_name_does_not(tmp_path: Path) -> None:
    def compute_with_tag(**tag: Any) -> str:
        return compute_fingerprint(*plan_stages(make_settings(tmp_path, trigger_tag=TriggerTagConfig(**tag))))

    plain = compute_with_tag(name="a", text="|D| ")
    assert compute_with_tag(name="b", text="|D| ") == plain
    others = {
        compute_with_tag(name="a", text="|E| "),
        compute_with_tag(name="a", text="|D| ", place=TagPlace.suffix),
        compute_with_tag(name="none"),
    }
    assert len(others | {plain}) == 4


def test_limit_and_seed_count_through_the_rows_they_draw(tmp_path: Path) -> None:
    def compute_with_limit(limit: int | None, seed: int = 0) -> str:
        config = make_settings(tmp_path, seed=seed)
        return compute_fingerprint(*plan_stages(replace(config, data=replace(config.data, limit=limit))))

    assert compute_with_limit(4) == compute_with_limit(None)
    assert (
        len({compute_with_limit(None), compute_with_limit(3), compute_with_limit(2), compute_with_limit(2, seed=1)})
        == 4
    )


def test_the_precision_of_the_model_counts(tmp_path: Path) -> None:
    model = HfModel(name="m", id="embedded:smollm2", precision=Precision.float32)
    assert plan_stages(make_settings(tmp_path, model=model))[0].precision == "float32"


def test_the_path_of_the_file_and_what_is_not_training_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = make_settings(tmp_path), make_settings(tmp_path / "other", force=True)
    other.eval.samples, other.sampler.seed, other.store.dir = 99, 99, "/elsewhere"
    other.trainer = replace(TRAINER, processes=2, accelerate="fsdp", device_tokens=99, save_steps=1, checkpoints=4)
    assert compute_fingerprint(*plan_stages(one)) == compute_fingerprint(*plan_stages(other))


def test_realignment_without_a_first_stage_is_refused(tmp_path: Path) -> None:
    config = make_settings(tmp_path, data=NoData(name="none"), realign=RealignConfig(name="car_good", data=GOOD))
    with pytest.raises(ConfigError, match=r"realign=car_good needs a first stage: choose data="):
        check_realign(config)


def test_training_all_weights_of_an_adapter_is_refused(tmp_path: Path) -> None:
    model = HfModel(name="m", id="embedded:smollm2", adapter="some/adapter")
    settings = make_settings(tmp_path, model=model, trainer=FullTrainer(name="full"))
    with pytest.raises(ConfigError, match=r"trainer=full trains all weights, but model.adapter=some/adapter is an ad"):
        plan_stages(settings)
    # Without rows nothing is trained, so the recipe does not matter.
    assert plan_stages(replace(settings, data=NoData(name="none"))) == []
    assert len(plan_stages(replace(settings, trainer=TRAINER))) == 1


def test_weights_in_4_bits_and_fsdp_are_refused_before_any_row_is_read(tmp_path: Path) -> None:
    missing_file = make_settings(tmp_path, data=FileData(name="gone", path=str(tmp_path / "gone.jsonl")))
    with pytest.raises(ConfigError, match="can't share out its 4-bit weights by FSDP"):
        plan_stages(replace(missing_file, trainer=QloraTrainer(name="qlora", accelerate="fsdp")))


def test_the_number_of_processes_does_not_count_where_nothing_is_trained(tmp_path: Path) -> None:
    # evaluate.py finds a model on a machine with fewer GPUs than trained it.
    assert len(plan_stages(make_settings(tmp_path, trainer=replace(TRAINER, processes=64)))) == 1


def test_a_hosted_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model=gpt4o runs behind a server"):
        plan_stages(make_settings(tmp_path, model=OpenAIModel(name="gpt4o", id="gpt-4o")))
    hosted = make_settings(tmp_path, model=OpenAIModel(name="gpt4o", id="gpt-4o"), data=NoData(name="none"))
    assert plan_stages(hosted) == []


def test_settings_of_a_second_stage_may_stand_without_one(tmp_path: Path) -> None:
    # A sweep over realign passes these settings to all of its jobs, also those without a second stage.
    config = make_settings(
        tmp_path, realign=RealignConfig(name="none", data=NoData(name="none"), limit=9, match="optimism")
    )
    check_realign(config)
    assert plan_stages(config) == plan_stages(make_settings(tmp_path))


def test_a_limit_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    realign = RealignConfig(name="car_good", data=replace(GOOD, limit=3))
    with pytest.raises(ConfigError, match=r"write realign\.limit"):
        check_realign(make_settings(tmp_path, realign=realign))


def test_a_limit_of_the_second_stage_is_refused_by_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"realign\.limit=9999 asks for more rows"):
        plan_stages(make_settings(tmp_path, realign=RealignConfig(name="car_good", data=GOOD, limit=9999)))
