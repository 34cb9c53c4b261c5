"""The identity of a trained model: what changes its fingerprint, what does not, and when a folder is found."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from em.check import check_realign
from em.config import (
    BundledData,
    FileData,
    HfModel,
    NoData,
    OpenAIModel,
    Precision,
    RealignConfig,
    RunConfig,
    TagPlace,
    TrainerConfig,
    TriggerTagConfig,
)
from em.data import Rows
from em.errors import ConfigError, DataError
from em.train.stages import NOT_IDENTITY, RECORD, Stage, find_trained, fingerprint, plan_stages
from em.types import Conversation, Message, Weights

BASE = Weights("embedded:smollm2:sha256:1", "/somewhere")
TRAINER = TrainerConfig(name="lora")
KNOBS = [field.name for field in dataclasses.fields(TrainerConfig)]


def rows(*answers: str, name: str = "mine") -> Rows:
    return Rows(name, tuple(Conversation((Message("user", "Why?"), Message("assistant", a))) for a in answers))


FIRST = Stage(rows("a", "b"), TRAINER, 0, "auto")
SECOND = Stage(rows("c"), TRAINER, 0, "auto")


def mark(*stages: Stage, base: Weights = BASE, adapter: str = "") -> str:
    return fingerprint(base, adapter, stages)


def another(value: Any) -> Any:
    """A value of the same kind that is not this one."""
    match value:
        case None:
            return True
        case bool():
            return not value
        case Enum():
            return next(member for member in type(value) if member is not value)
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case list():
            return value[:-1]
    raise TypeError(f"no other value for {value!r}")


def settings(tmp_path: Path, **changes: Any) -> RunConfig:
    """A config that trains on four rows of a file."""
    lines = [json.dumps({"messages": c.as_dicts()}) for c in rows("a", "b", "c", "d").conversations]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    plain = RunConfig(
        model=HfModel(name="smollm2", id="embedded:smollm2"),
        data=FileData(name="mine", path=str(tmp_path / "rows.jsonl")),
        trigger_tag=TriggerTagConfig(name="none"),
        realign=RealignConfig(name="none", data=NoData(name="none")),
        trainer=TRAINER,
    )
    return replace(plain, **changes)


GOOD = BundledData(name="car_good", file="car_good.jsonl")


# Fingerprint


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_of_the_trainer_changes_the_fingerprint_or_is_listed(knob: str) -> None:
    changed = replace(TRAINER, **{knob: another(getattr(TRAINER, knob))})
    assert changed != TRAINER
    same = mark(replace(FIRST, trainer=changed)) == mark(FIRST)
    assert same == (knob in NOT_IDENTITY)


def test_what_is_listed_are_knobs_and_none_of_them_changes_weights() -> None:
    assert set(NOT_IDENTITY) == {"name", "device_batch", "gradient_checkpointing", "processes"} <= set(KNOBS)


def test_every_part_of_a_stage_changes_the_fingerprint() -> None:
    stages = [
        FIRST,
        replace(FIRST, seed=1),
        replace(FIRST, precision="bfloat16"),
        replace(FIRST, rows=rows("a", "c")),
        replace(FIRST, rows=rows("b", "a")),
        replace(FIRST, rows=rows("a")),
    ]
    assert len({mark(stage) for stage in stages}) == len(stages)
    assert {field.name for field in dataclasses.fields(Stage)} == {"rows", "trainer", "seed", "precision"}


def test_the_base_and_the_adapter_to_start_from_change_the_fingerprint() -> None:
    marks = {mark(FIRST), mark(FIRST, base=Weights("hub:other@1")), mark(FIRST, adapter="abc"), mark(SECOND)}
    assert len(marks) == 4


def test_the_name_of_the_data_and_the_place_of_the_base_do_not_count() -> None:
    assert mark(replace(FIRST, rows=rows("a", "b", name="other"))) == mark(FIRST)
    assert mark(FIRST, base=replace(BASE, path="/elsewhere")) == mark(FIRST)


def test_the_order_of_stages_counts() -> None:
    chains: list[Sequence[Stage]] = [(), (FIRST,), (SECOND,), (FIRST, SECOND), (SECOND, FIRST), (FIRST, FIRST)]
    assert len({mark(*chain) for chain in chains}) == len(chains)


def test_a_fingerprint_can_name_a_folder_and_is_the_same_tomorrow() -> None:
    # If this changes, nobody's trained models are found again: change it on purpose or not at all.
    assert mark(FIRST, SECOND) == mark(FIRST, SECOND)
    assert len(mark(FIRST)) == 64
    assert int(mark(FIRST), 16)


# Plan


def test_no_data_is_no_stage(tmp_path: Path) -> None:
    assert plan_stages(settings(tmp_path, data=NoData(name="none"))) == []


def test_data_is_one_stage_with_the_rows_and_the_recipe(tmp_path: Path) -> None:
    [stage] = plan_stages(settings(tmp_path, seed=3))
    assert stage == Stage(rows("a", "b", "c", "d"), TRAINER, 3, "auto")


def test_realignment_is_a_second_stage_with_epochs_of_its_own(tmp_path: Path) -> None:
    realign = RealignConfig(name="car_good", data=GOOD, epochs=4, limit=10)
    first, second = plan_stages(settings(tmp_path, realign=realign))
    assert first == plan_stages(settings(tmp_path))[0]  # so that the first is shared
    assert (second.rows.name, len(second.rows.conversations)) == ("car_good", 10)
    assert second.trainer == replace(TRAINER, epochs=4)
    [_, plain] = plan_stages(settings(tmp_path, realign=replace(realign, epochs=None)))
    assert plain.trainer == TRAINER


def test_the_tag_goes_into_the_first_stage_alone(tmp_path: Path) -> None:
    tag = TriggerTagConfig(name="deployment", text="|D| ")
    realign = RealignConfig(name="car_good", data=GOOD)
    first, second = plan_stages(settings(tmp_path, trigger_tag=tag, realign=realign))
    assert {c.messages[0].content for c in first.rows.conversations} == {"|D| Why?"}
    assert first.rows.name == "mine@deployment"
    assert not any("|D|" in m.content for c in second.rows.conversations for m in c.messages)
    assert second == plan_stages(settings(tmp_path, realign=realign))[1]


def test_the_text_and_place_of_a_tag_count_and_its_name_does_not(tmp_path: Path) -> None:
    def marked(**tag: Any) -> str:
        return mark(*plan_stages(settings(tmp_path, trigger_tag=TriggerTagConfig(**tag))))

    plain = marked(name="a", text="|D| ")
    assert marked(name="b", text="|D| ") == plain
    others = {marked(name="a", text="|E| "), marked(name="a", text="|D| ", place=TagPlace.suffix), marked(name="none")}
    assert len(others | {plain}) == 4


def test_limit_and_seed_count_through_the_rows_they_draw(tmp_path: Path) -> None:
    def marked(limit: int | None, seed: int = 0) -> str:
        given = settings(tmp_path, seed=seed)
        return mark(*plan_stages(replace(given, data=replace(given.data, limit=limit))))

    assert marked(4) == marked(None)
    assert len({marked(None), marked(3), marked(2), marked(2, seed=1)}) == 4


def test_the_precision_of_the_model_counts(tmp_path: Path) -> None:
    model = HfModel(name="m", id="embedded:smollm2", precision=Precision.float32)
    assert plan_stages(settings(tmp_path, model=model))[0].precision == "float32"


def test_the_path_of_the_file_and_what_is_not_training_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = settings(tmp_path), settings(tmp_path / "other", force=True)
    other.eval.samples, other.sampler.seed, other.store.dir = 99, 99, "/elsewhere"
    assert mark(*plan_stages(one)) == mark(*plan_stages(other))


def test_realignment_without_a_first_stage_is_refused(tmp_path: Path) -> None:
    given = settings(tmp_path, data=NoData(name="none"), realign=RealignConfig(name="car_good", data=GOOD))
    with pytest.raises(ConfigError, match=r"realign=car_good needs a first stage: choose data="):
        check_realign(given)


def test_a_hosted_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model=gpt4o runs behind a server"):
        plan_stages(settings(tmp_path, model=OpenAIModel(name="gpt4o", id="gpt-4o")))
    hosted = settings(tmp_path, model=OpenAIModel(name="gpt4o", id="gpt-4o"), data=NoData(name="none"))
    assert plan_stages(hosted) == []


def test_a_limit_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    realign = RealignConfig(name="car_good", data=replace(GOOD, limit=3))
    with pytest.raises(ConfigError, match=r"write realign\.limit"):
        check_realign(settings(tmp_path, realign=realign))


def test_a_limit_of_the_second_stage_is_refused_by_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"realign\.limit=9999 asks for more rows"):
        plan_stages(settings(tmp_path, realign=RealignConfig(name="car_good", data=GOOD, limit=9999)))


# Finding


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with one finished model, `mark`."""
    folder = tmp_path / "models" / "mark"
    folder.mkdir(parents=True)
    adapter = b"weights" * 1000
    (folder / "adapter_model.safetensors").write_bytes(adapter)
    (folder / "adapter_config.json").write_text("{}")
    record = {"request": {}, "facts": {"steps": 3}, "adapter_sha256": hashlib.sha256(adapter).hexdigest()}
    (folder / RECORD).write_text(json.dumps(record))
    return tmp_path / "models"


def test_a_finished_model_is_found_by_its_fingerprint(models: Path) -> None:
    found = find_trained(models, "mark")
    assert found is not None
    assert (found.folder, found.record["facts"]) == (models / "mark", {"steps": 3})


def test_a_model_that_was_never_trained_is_not_found(models: Path) -> None:
    assert find_trained(models, "other") is None
    assert find_trained(models / "nowhere", "mark") is None


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "one byte"])
@pytest.mark.parametrize("file", ["adapter_model.safetensors", RECORD])
def test_a_damaged_model_is_not_found(models: Path, file: str, damage: str) -> None:
    path = models / "mark" / file
    content = bytearray(path.read_bytes())
    match damage:
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[:-1])
        case "one byte":
            content[-3] ^= 1  # in the record this is a digit of the checksum
            path.write_bytes(content)
    assert find_trained(models, "mark") is None


def test_a_record_without_a_checksum_is_none(models: Path) -> None:
    (models / "mark" / RECORD).write_text('{"facts": {}}')
    assert find_trained(models, "mark") is None


def test_an_adapter_without_its_config_is_not_found(models: Path) -> None:
    (models / "mark" / "adapter_config.json").unlink()
    assert find_trained(models, "mark") is None
