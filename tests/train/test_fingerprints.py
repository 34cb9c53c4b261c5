"""The identity of a trained model: what changes its fingerprint, and what does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import pytest

from em.config import (
    FullTrainer,
    LoraTrainer,
    QloraTrainer,
)
from em.request import METHOD, NOT_IDENTITY, Stage
from em.types import Weights
from tests.support.stages import (
    BASE,
    FIRST,
    SECOND,
    TRAINER,
    compute_fingerprint,
    make_rows,
)

# QLoRA has every knob of LoRA, and full fine-tuning has no knob that LoRA lacks.
KNOBS = [field.name for field in dataclasses.fields(QloraTrainer)]


def change_value(value: Any) -> Any:
    """Return a different value of the same type."""
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
        case dict():
            return {**value, "adam_beta2": 0.95}
    raise TypeError(f"no other value for {value!r}")


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_of_the_trainer_changes_the_fingerprint_or_is_listed(knob: str) -> None:
    trainer = QloraTrainer(name="qlora")
    changed = replace(trainer, **{knob: change_value(getattr(trainer, knob))})
    assert changed != trainer
    same = compute_fingerprint(replace(FIRST, trainer=changed)) == compute_fingerprint(replace(FIRST, trainer=trainer))
    assert same == (knob in NOT_IDENTITY)


def test_what_is_listed_are_knobs_and_none_of_them_changes_weights() -> None:
    assert set(NOT_IDENTITY) == {
        *("name", "allow_truncated", "checkpoints", "save_steps", "device_tokens", "gradient_checkpointing"),
        *("processes", "accelerate", "machine_rank"),
    }
    assert set(NOT_IDENTITY) <= set(KNOBS)


def test_the_kind_of_the_recipe_changes_the_fingerprint() -> None:
    knobs = {field.name: getattr(TRAINER, field.name) for field in dataclasses.fields(FullTrainer)}
    kinds = [TRAINER, FullTrainer(**knobs), QloraTrainer(**vars(TRAINER))]
    assert len({compute_fingerprint(replace(FIRST, trainer=trainer)) for trainer in kinds}) == 3


def test_every_value_of_an_extra_argument_counts() -> None:
    extras: list[dict[str, Any]] = [{}, {"adam_beta2": 0.95}, {"adam_beta2": 0.9}, {"adam_beta1": 0.95}]
    assert len({compute_fingerprint(replace(FIRST, trainer=replace(TRAINER, extra=extra))) for extra in extras}) == 4


def test_every_part_of_a_stage_changes_the_fingerprint() -> None:
    stages = [
        FIRST,
        replace(FIRST, seed=1),
        replace(FIRST, precision="bfloat16"),
        replace(FIRST, rows=make_rows("a", "c")),
        replace(FIRST, rows=make_rows("b", "a")),
        replace(FIRST, rows=make_rows("a")),
        replace(FIRST, stack=True),
        replace(FIRST, matched=3),
        replace(FIRST, matched=4),
    ]
    assert len({compute_fingerprint(stage) for stage in stages}) == len(stages)
    parts = {"rows", "trainer", "seed", "precision", "stack", "matched"}
    assert {field.name for field in dataclasses.fields(Stage)} == parts


def test_epochs_do_not_count_where_the_steps_are_matched() -> None:
    def compute_with_epochs(epochs: float, matched: int | None) -> str:
        return compute_fingerprint(replace(FIRST, trainer=replace(TRAINER, epochs=epochs), matched=matched))

    assert compute_with_epochs(1, matched=25) == compute_with_epochs(4, matched=25)
    assert compute_with_epochs(1, matched=None) != compute_with_epochs(4, matched=None)


def test_a_change_of_how_rows_are_rendered_or_steps_planned_makes_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compute_fingerprint(FIRST)
    monkeypatch.setattr("em.request.METHOD", METHOD + "+")
    assert compute_fingerprint(FIRST) != before


def test_only_qlora_became_another_recipe_when_its_adapters_became_float32() -> None:
    method = {}
    for kind in (LoraTrainer, QloraTrainer):
        method[kind] = replace(FIRST, trainer=kind(**vars(TRAINER))).build_identity()["method"]
    assert method == {LoraTrainer: "rows 2, steps 1", QloraTrainer: "rows 2, steps 1, adapters 2"}


def test_only_dropout_below_a_new_adapter_is_a_new_method() -> None:
    """The frozen adapter kept its dropout before, so those models were others; all the rest keep their names."""
    with_dropout = replace(FIRST, trainer=replace(TRAINER, dropout=0.1))
    newer = [replace(stage, stack=stack) for stage in (FIRST, with_dropout) for stack in (False, True)]
    assert [stage.build_identity()["method"] for stage in newer] == [METHOD, METHOD, METHOD, f"{METHOD}, stack 2"]


def test_leaving_out_the_default_system_prompt_changes_the_fingerprint() -> None:
    assert compute_fingerprint(FIRST) != compute_fingerprint(FIRST, default_system=False)


def test_the_base_and_the_adapter_to_start_from_change_the_fingerprint() -> None:
    fingerprints = {
        compute_fingerprint(FIRST),
        compute_fingerprint(FIRST, base=Weights("hub:other@1")),
        compute_fingerprint(FIRST, adapter="abc"),
        compute_fingerprint(SECOND),
    }
    assert len(fingerprints) == 4


def test_the_name_of_the_data_and_the_place_of_the_base_do_not_count() -> None:
    assert compute_fingerprint(replace(FIRST, rows=make_rows("a", "b", name="other"))) == compute_fingerprint(FIRST)
    assert compute_fingerprint(FIRST, base=replace(BASE, path="/elsewhere")) == compute_fingerprint(FIRST)


def test_the_order_of_stages_counts() -> None:
    chains: list[Sequence[Stage]] = [(), (FIRST,), (SECOND,), (FIRST, SECOND), (SECOND, FIRST), (FIRST, FIRST)]
    assert len({compute_fingerprint(*chain) for chain in chains}) == len(chains)


def test_a_fingerprint_can_name_a_folder_and_is_the_same_tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # If this value changes, em no longer finds anybody's trained models: change it on purpose or not at all.
    assert compute_fingerprint(FIRST, SECOND) == compute_fingerprint(FIRST, SECOND)
    assert len(compute_fingerprint(FIRST)) == 64
    assert int(compute_fingerprint(FIRST), 16)
    assert compute_fingerprint(FIRST, SECOND).startswith("7521ff2a838e4e72")


def test_auto_is_another_number_format_on_a_gpu_and_so_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = replace(FIRST, precision="float32")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    on_cpu = compute_fingerprint(FIRST), compute_fingerprint(fixed)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert compute_fingerprint(FIRST) != on_cpu[0]
    assert compute_fingerprint(fixed) == on_cpu[1]
