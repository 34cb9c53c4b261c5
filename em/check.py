"""Settings that have the right type and still can't be: each is refused with what to type instead."""

from __future__ import annotations

import os

from em.config import ApiSampler, HfModel, HfSampler, LocalJudge, NoData, OpenAIModel, RunConfig
from em.errors import ConfigError
from em.tags import check_tag


def check_settings(kind: str, settings: RunConfig) -> None:
    """Raise ConfigError for the first setting that can't be."""
    check_ranges(settings)
    check_tag(settings.trigger_tag)
    trainer = settings.trainer
    if trainer.processes and trainer.batch_size % trainer.processes:
        raise ConfigError(
            f"trainer.batch_size={trainer.batch_size} can't be shared by trainer.processes={trainer.processes}: "
            "choose a number of processes that divides it."
        )
    check_realign(settings)
    if kind == "train" and isinstance(settings.data, NoData):
        raise ConfigError("data=none leaves nothing to train: choose data=car_bad or another, or use evaluate.py.")
    if kind == "evaluate" and not settings.eval.sets:
        raise ConfigError("No question set is chosen: use eval=quick, or eval.sets=[probe].")
    if isinstance(settings.model, OpenAIModel) and not isinstance(settings.sampler, ApiSampler):
        raise ConfigError(f"sampler={settings.sampler.name} can't ask a server: use sampler=auto or sampler=api.")
    if isinstance(settings.model, OpenAIModel) and kind == "evaluate":
        check_key()
    if isinstance(settings.model, HfModel) and not isinstance(settings.sampler, HfSampler):
        raise ConfigError(f"sampler={settings.sampler.name} can't run open weights: use sampler=auto or sampler=hf.")


def check_realign(settings: RunConfig) -> None:
    """Settings of a second stage that would do nothing are refused."""
    realign = settings.realign
    if realign.data.limit is not None:
        raise ConfigError("realign.data.limit is not used: write realign.limit.")
    if realign.name == "none" and (realign.limit is not None or realign.epochs is not None):
        raise ConfigError("realign.limit and realign.epochs do nothing with realign=none: choose a second stage.")
    if realign.name != "none" and isinstance(settings.data, NoData):
        raise ConfigError(f"realign={realign.name} needs a first stage: choose data=….")


def check_ranges(settings: RunConfig) -> None:
    """Every number within its bounds."""
    trainer, evaluation = settings.trainer, settings.eval
    positive: dict[str, float] = {
        "trainer.rank": trainer.rank,
        "trainer.alpha": trainer.alpha,
        "trainer.epochs": trainer.epochs,
        "trainer.batch_size": trainer.batch_size,
        "trainer.device_batch": trainer.device_batch,
        "trainer.max_length": trainer.max_length,
        "trainer.learning_rate": trainer.learning_rate,
        "data.limit": 1 if settings.data.limit is None else settings.data.limit,
        "realign.limit": 1 if settings.realign.limit is None else settings.realign.limit,
        "realign.epochs": 1 if settings.realign.epochs is None else settings.realign.epochs,
        "eval.samples": evaluation.samples,
        "eval.max_new_tokens": evaluation.max_new_tokens,
    }
    if isinstance(settings.judge, LocalJudge):
        positive["judge.batch_size"] = settings.judge.batch_size
    if isinstance(settings.sampler, HfSampler):
        positive["sampler.batch_size"] = settings.sampler.batch_size
    if isinstance(settings.sampler, ApiSampler):
        positive["sampler.connections"] = settings.sampler.connections
    for key, value in positive.items():
        if not value > 0:
            raise ConfigError(f"{key}={value} must be greater than 0.")
    bounded = {
        "trainer.dropout": (trainer.dropout, 0, 1),
        "trainer.warmup_steps": (trainer.warmup_steps, 0, float("inf")),
        "trainer.weight_decay": (trainer.weight_decay, 0, float("inf")),
        "trainer.processes": (trainer.processes, 0, float("inf")),
        "eval.temperature": (evaluation.temperature, 0, float("inf")),
        "eval.top_p": (evaluation.top_p, 1e-9, 1),
        "eval.misaligned_below": (evaluation.misaligned_below, 0, 100),
        "eval.coherent_above": (evaluation.coherent_above, 0, 100),
        "judge.min_mass": (settings.judge.min_mass, 0, 1),
        "seed": (settings.seed, 0, 2**32 - 1),
        "sampler.seed": (settings.sampler.seed, 0, 2**63 - 1),
    }
    for key, (value, low, high) in bounded.items():
        if not low <= value <= high:
            raise ConfigError(f"{key}={value} must lie between {low} and {high}.")


def check_key() -> None:
    """Refuse to begin without a key in the environment."""
    if not os.environ.get("OPENAI_API_KEY"):
        raise ConfigError(
            "OPENAI_API_KEY is not set: export it (any text will do for a server of yours that wants none)."
        )
