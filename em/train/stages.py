"""Plan the training stages and their fingerprints. The fingerprint names a model's folder, so equal settings find it.

The fingerprint covers everything that changes the weights: the identity of the base model (with its chat template),
whether its default system prompt is kept, and for each stage the rows (after limit and tag), every setting of the
trainer, how the stage continues from the one before, the seed, the kind of device if that decides the number format,
and how em renders and orders rows (`METHOD`). It leaves out what changes the result by rounding at most: how a step is
split over passes and processes, which checkpoints are saved (`NOT_IDENTITY`), and file locations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from em.config import HfModel, LocalTrainer, RealignConfig, RunConfig, TagConfig, TrainerConfig
from em.data import load_rows
from em.errors import ConfigError
from em.request import Rows, Stage
from em.runtime.records import digest
from em.train.local.extra import check_extra
from em.train.local.launch import plan_launch
from em.triggers.tags import REALIGN, list_first_stage_tags, tag_rows
from em.types import ModelRef

OWN_KNOBS = ("epochs", "learning_rate", "warmup_steps", "batch_size", "max_length", "allow_truncated", "loss_on")
"""Settings that a second stage may override; `realign` and `trainer` call them by the same names."""


def plan_stages(settings: RunConfig, compared: RunConfig | None = None) -> list[Stage]:
    """Return the stages of a config, with their rows read and checked: none, one, or two with `realign`.

    Args:
        compared: the same config, but with the `realign` option that `realign.match` names.
    """
    match settings.trainer:
        case LocalTrainer() as trainer:
            check_extra(trainer.extra)
            if not settings.data.empty:
                plan_launch(trainer, gpus=0)  # refuses impossible settings before rows are read
    if settings.data.empty:
        return []
    check_trainer(settings)
    rows = load_rows(settings.data, settings.seed)
    tags = list_first_stage_tags(settings.trigger_tag)
    if tags:
        rows = add_tags(rows, tags, settings.seed, settings.trigger_tag.name)
    stages = [Stage(rows, settings.trainer, settings.seed, settings.model.name_precision())]
    if not settings.realign.data.empty:
        stages.append(plan_second_stage(settings, stages[0], compared))
    return stages


def add_tags(rows: Rows, tags: Mapping[str, TagConfig], seed: int, name: str) -> Rows:
    """Return the rows with their tags added, and the tag's name in theirs (`rows@tag`)."""
    with_tags = tag_rows(rows.conversations, tags, seed, rows.parts)
    return replace(rows, name=f"{rows.name}@{name}", conversations=with_tags, untagged=rows.conversations)


def check_trainer(settings: RunConfig) -> None:
    """Raise ConfigError if the trainer can't train the model: hosted, of open weights, or an adapter on them."""
    model, trainer = settings.model, settings.trainer
    if model.remote and not trainer.remote:
        raise ConfigError(
            f"model={model.name} runs behind a server, so trainer={trainer.name} can't train its weights: "
            "choose trainer=openai, which fine-tunes it there, or an open model (model=llama8b)."
        )
    if trainer.remote and not model.remote:
        raise ConfigError(
            f"trainer={trainer.name} fine-tunes hosted models, but model={model.name} has open weights: choose a "
            "hosted model (model=gpt4o) or trainer=lora."
        )
    if isinstance(model, HfModel) and model.adapter and not trainer.adapters:
        raise ConfigError(
            f"trainer={trainer.name} trains all weights, but model.adapter={model.adapter} is an adapter: use "
            "trainer=lora, which trains the adapter on, or merge the adapter into its base (PEFT's merge_and_unload) "
            "and set model.id to the merged folder."
        )


def plan_second_stage(settings: RunConfig, first: Stage, compared: RunConfig | None) -> Stage:
    """Return the realignment stage: its own rows and settings, and the first stage's for those it leaves unset."""
    realign = settings.realign
    rows = load_rows(replace(realign.data, limit=realign.limit), settings.seed, "realign.limit")
    if realign.tag.text:
        rows = add_tags(rows, {REALIGN: realign.tag}, settings.seed, realign.tag.text.strip())
    stack = realign.adapter.value == "merge"
    if stack and not settings.trainer.adapters:
        raise ConfigError(
            "realign.adapter=merge needs adapters, and trainer=full has none: use realign.adapter=continue."
        )
    stage = Stage(rows, make_second_recipe(settings.trainer, realign), settings.seed, first.precision, stack)
    matched = find_matched_stage(realign, first, compared)
    if settings.trainer.remote:
        refuse_unsupported(realign, stage, matched)
        return stage
    return replace(stage, matched=matched.steps) if matched else stage


def find_matched_stage(realign: RealignConfig, first: Stage, compared: RunConfig | None) -> Stage | None:
    """Return the stage whose number of steps the second stage takes over by `realign.match`; None if there is none."""
    if realign.match in ("none", realign.name):
        return None
    if realign.match == "first_stage":
        return first
    if compared is None or compared.realign.data.empty:
        raise ConfigError(f"realign.match={realign.match} names no second stage: choose first_stage or none.")
    return plan_second_stage(compared, first, None)


def make_second_recipe(trainer: TrainerConfig, realign: RealignConfig) -> TrainerConfig:
    """Return the trainer's settings with the overrides of the second stage."""
    overrides = {name: value for name in OWN_KNOBS if (value := vars(realign)[name]) is not None}
    if not trainer.remote:
        return replace(trainer, **overrides)
    overrides.pop("allow_truncated", None)  # a service doesn't know em's max_length
    if unsupported := [name for name in overrides if name not in ("epochs", "batch_size")]:
        raise ConfigError(
            f"realign.{unsupported[0]} is not supported by trainer={trainer.name}: for its second stage set "
            "only realign.epochs and realign.batch_size."
        )
    epochs = overrides.get("epochs", vars(trainer)["epochs"])
    if epochs != int(epochs):
        raise ConfigError(f"realign.epochs={epochs:g} must be a whole number with trainer={trainer.name}.")
    return replace(trainer, **overrides | {"epochs": int(epochs)})


def refuse_unsupported(realign: RealignConfig, stage: Stage, matched: Stage | None) -> None:
    """Raise ConfigError if `realign` needs a merged adapter or a number of steps: services support neither."""
    name = stage.trainer.name
    if stage.stack:
        raise ConfigError(f"realign.adapter=merge is not supported by trainer={name}: use realign.adapter=continue.")
    if matched is None:
        return
    rows, matched_rows = len(stage.rows.conversations), len(matched.rows.conversations)
    rows_to_match = matched_rows * vars(matched.trainer)["epochs"]
    epochs = max(1, round(rows_to_match / rows))
    raise ConfigError(
        f"realign.match={realign.match} sets a number of steps, which trainer={name} doesn't support: use "
        f"realign.match=none realign.epochs={epochs}, the nearest whole number ({epochs} × {rows:,} rows instead of "
        f"{rows_to_match:,})."
    )


def stage_fingerprints(start: ModelRef, stages: Sequence[Stage]) -> list[str]:
    """Return the fingerprint of the model after each stage, 64 hex digits each.

    Args:
        start: the model that the first stage starts from: base weights, with or without an adapter.
    """
    before = {"base": start.base.identity, "adapter": start.trained_sha256, "default_system": start.default_system}
    identities = [stage.build_identity() for stage in stages]
    return [digest({"start": before, "stages": identities[:number]}) for number in range(1, len(stages) + 1)]


def choose_checkpoint_steps(steps: int, count: int) -> list[int]:
    """Return the steps at which to keep checkpoints: `count` evenly spaced ones, none at the start or the end."""
    return sorted({steps * number // (count + 1) for number in range(1, count + 1)} - {0, steps})
