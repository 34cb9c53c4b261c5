"""A trained model is base weights and ordered stages. Its fingerprint names its folder, so the same words find it.

The fingerprint covers all that changes the weights: the identity of the base (with its chat template), whether its
default system prompt is kept, and for each stage the rows (after limit and tag), every knob of the recipe, how it goes
on from the stage before, the seed, the kind of device where that decides the number format, and how em renders and
orders rows (`METHOD`). It leaves out what changes the result to rounding at most: how a step is split over passes and
processes, what is saved on the way (`NOT_IDENTITY`), and where things lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from em.config import LocalTrainer, RealignConfig, RunConfig, TagConfig, TrainerConfig
from em.data import load_rows
from em.errors import ConfigError
from em.request import Rows, Stage
from em.runtime.records import digest
from em.train.local.extra import check_extra
from em.train.local.launch import plan_launch
from em.triggers.tags import REALIGN, first_tags, tag_rows
from em.types import ModelRef

OWN_KNOBS = (*("epochs", "learning_rate", "warmup_steps", "batch_size", "max_length", "allow_truncated", "loss_on"),)
"""What a second stage may have of its own, by the same names in `realign` and `trainer`."""


def plan_stages(settings: RunConfig, compared: RunConfig | None = None) -> list[Stage]:
    """The stages that a config asks for, with their rows read and checked: none, one, or two with `realign`.

    Args:
        compared: the same config with the realignment that `realign.match` names.
    """
    match settings.trainer:
        case LocalTrainer() as trainer:
            check_extra(trainer.extra)
            if not settings.data.empty:
                plan_launch(trainer, gpus=1)  # what can't be is refused now
    if settings.data.empty:
        return []
    check_place(settings)
    rows = load_rows(settings.data, settings.seed)
    tags = first_tags(settings.trigger_tag)
    if tags:
        rows = tagged(rows, tags, settings.seed, settings.trigger_tag.name)
    stages = [Stage(rows, settings.trainer, settings.seed, settings.model.name_precision())]
    if not settings.realign.data.empty:
        stages.append(second_stage(settings, stages[0], compared))
    return stages


def tagged(rows: Rows, tags: Mapping[str, TagConfig], seed: int, name: str) -> Rows:
    """The rows with their tags, called after them."""
    placed = tag_rows(rows.conversations, tags, seed, rows.parts)
    return replace(rows, name=f"{rows.name}@{name}", conversations=placed, untagged=rows.conversations)


def check_place(settings: RunConfig) -> None:
    """Refuse to train a server's model here, and open weights at a server."""
    model, trainer = settings.model, settings.trainer
    if model.remote and not trainer.remote:
        raise ConfigError(
            f"model={model.name} runs behind a server and its weights can't be trained here: leave trainer="
            f"{trainer.name} out (trainer=openai fine-tunes there), or choose an open model (model=llama8b)."
        )
    if trainer.remote and not model.remote:
        raise ConfigError(
            f"trainer={trainer.name} fine-tunes models of a server, and model={model.name} has open weights: choose "
            "model=gpt4o or another of a server, or trainer=lora."
        )


def second_stage(settings: RunConfig, first: Stage, compared: RunConfig | None) -> Stage:
    """The realignment: its own rows and knobs, and what it leaves open as in the first stage."""
    realign = settings.realign
    rows = load_rows(replace(realign.data, limit=realign.limit), settings.seed, "realign.limit")
    if realign.tag.text:
        rows = tagged(rows, {REALIGN: realign.tag}, settings.seed, realign.tag.text.strip())
    stack = realign.adapter.value == "merge"
    if stack and not settings.trainer.adapters:
        raise ConfigError("realign.adapter=merge needs adapters, and trainer=full has none: leave it at continue.")
    stage = Stage(rows, second_recipe(settings.trainer, realign), settings.seed, first.precision, stack)
    matched = matched_stage(realign, first, compared)
    if settings.trainer.remote:
        refuse_foreign(realign, stage, matched)
        return stage
    return replace(stage, matched=matched.steps) if matched else stage


def matched_stage(realign: RealignConfig, first: Stage, compared: RunConfig | None) -> Stage | None:
    """Find the stage whose number of steps `realign.match` asks for; None where it asks for none."""
    if realign.match in ("none", realign.name):
        return None
    if realign.match == "first_stage":
        return first
    if compared is None or compared.realign.data.empty:
        raise ConfigError(f"realign.match={realign.match} names no second stage: choose first_stage or none.")
    return second_stage(compared, first, None)


def second_recipe(trainer: TrainerConfig, realign: RealignConfig) -> TrainerConfig:
    """The trainer's settings with those that the second stage has of its own."""
    own = {name: value for name in OWN_KNOBS if (value := vars(realign)[name]) is not None}
    if not trainer.remote:
        return replace(trainer, **own)
    own.pop("allow_truncated", None)  # a server has no length of ours
    if foreign := [name for name in own if name not in ("epochs", "batch_size")]:
        raise ConfigError(
            f"realign.{foreign[0]} can't be told to a server: with trainer={trainer.name} a second stage has "
            "realign.epochs and realign.batch_size of its own."
        )
    if own.get("epochs", 1) != int(own.get("epochs", 1)):
        raise ConfigError(f"realign.epochs={own['epochs']:g} must be a whole number with trainer={trainer.name}.")
    return replace(trainer, **own | {"epochs": int(own.get("epochs", vars(trainer)["epochs"]))})


def refuse_foreign(realign: RealignConfig, stage: Stage, matched: Stage | None) -> None:
    """Refuse what can't be asked of a service that fine-tunes: a new adapter on top, and a number of steps."""
    name = stage.trainer.name
    if stage.stack:
        raise ConfigError(f"realign.adapter=merge needs adapters of ours: leave it at continue with trainer={name}.")
    if matched is None:
        return
    rows, seen = len(stage.rows.conversations), len(matched.rows.conversations) * vars(matched.trainer)["epochs"]
    epochs = max(1, round(seen / rows))
    raise ConfigError(
        f"realign.match={realign.match} asks for a number of steps, which trainer={name} can't be told: write "
        f"realign.match=none realign.epochs={epochs}, the whole number that comes nearest ({epochs} × "
        f"{rows:,} rows beside {seen:,})."
    )


def stage_fingerprints(start: ModelRef, stages: Sequence[Stage]) -> list[str]:
    """Identity of the model after each stage, 64 hex digits.

    Args:
        start: base weights, and perhaps an adapter, that the first stage starts from.
    """
    before = {"base": start.base.identity, "adapter": start.trained_sha256, "default_system": start.default_system}
    identities = [stage.identity() for stage in stages]
    return [digest({"start": before, "stages": identities[:number]}) for number in range(1, len(stages) + 1)]


def kept_steps(steps: int, count: int) -> list[int]:
    """The steps at which weights are kept on the way: `count` of them, evenly spaced, none at the start or the end."""
    return sorted({steps * number // (count + 1) for number in range(1, count + 1)} - {0, steps})
