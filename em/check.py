"""Settings that have the right type and still can't be: each is refused with what to type instead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date

from em.config import (
    ApiJudge,
    ApiSampler,
    HfModel,
    HfSampler,
    JudgeConfig,
    LocalJudge,
    LoraTrainer,
    NoData,
    OneJudge,
    OpenAIModel,
    PanelJudge,
    Reading,
    RunConfig,
)
from em.errors import ConfigError
from em.tags import check_tag


def check_settings(kind: str, settings: RunConfig) -> None:
    """Raise ConfigError for the first setting that can't be."""
    check_ranges(settings)
    check_tag(settings.trigger_tag)
    check_realign(settings)
    if kind == "train" and isinstance(settings.data, NoData):
        raise ConfigError("data=none leaves nothing to train: choose data=car_bad or another, or use evaluate.py.")
    if kind == "train" and settings.answers:
        raise ConfigError("answers=FILE judges what was sampled before: use evaluate.py.")
    if kind == "evaluate" and not settings.eval.sets and not settings.answers:
        raise ConfigError("No question set is chosen: use eval=quick, or eval.sets=[probe].")
    if isinstance(settings.model, OpenAIModel) and not isinstance(settings.sampler, ApiSampler):
        raise ConfigError(f"sampler={settings.sampler.name} can't ask a server: use sampler=auto or sampler=api.")
    if isinstance(settings.model, OpenAIModel) and kind == "evaluate" and not settings.answers:
        check_key_for(settings.model.base_url)
    if isinstance(settings.model, HfModel) and not isinstance(settings.sampler, HfSampler):
        raise ConfigError(f"sampler={settings.sampler.name} can't run open weights: use sampler=auto or sampler=hf.")


def check_realign(settings: RunConfig) -> None:
    """Settings of a second stage that would do nothing are refused."""
    realign = settings.realign
    if realign.data.limit is not None:
        raise ConfigError("realign.data.limit is not used: write realign.limit.")
    if realign.name != "none" and isinstance(settings.data, NoData):
        raise ConfigError(f"realign={realign.name} needs a first stage: choose data=….")


def check_ranges(settings: RunConfig) -> None:
    """Every number within its bounds."""
    trainer, evaluation = settings.trainer, settings.eval
    positive: dict[str, float | None] = {
        "data.limit": settings.data.limit,
        "trainer.device_tokens": trainer.device_tokens,
        "realign.limit": settings.realign.limit,
        "eval.samples": evaluation.samples,
        "eval.max_new_tokens": evaluation.max_new_tokens,
    }
    for name in ("epochs", "batch_size", "max_length", "learning_rate"):
        positive |= {f"trainer.{name}": vars(trainer)[name], f"realign.{name}": vars(settings.realign)[name]}
    if isinstance(trainer, LoraTrainer):
        positive |= {"trainer.rank": trainer.rank, "trainer.alpha": trainer.alpha}
    for key, judge in judges_by_key("judge", settings.judge):
        positive |= numbers_of(key, judge)
    if isinstance(settings.sampler, HfSampler):
        positive["sampler.batch_size"] = settings.sampler.batch_size
    if isinstance(settings.sampler, ApiSampler):
        positive["sampler.connections"] = settings.sampler.connections
        positive["sampler.timeout"] = settings.sampler.timeout
    for key, value in positive.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{key}={value} must be greater than 0.")
    no_bound = float("inf")
    bounded: dict[str, tuple[float, float, float]] = {
        "trainer.dropout": (trainer.dropout if isinstance(trainer, LoraTrainer) else 0, 0, 1),
        "trainer.warmup_steps": (trainer.warmup_steps, 0, no_bound),
        "realign.warmup_steps": (settings.realign.warmup_steps or 0, 0, no_bound),
        "trainer.weight_decay": (trainer.weight_decay, 0, no_bound),
        "trainer.max_grad_norm": (trainer.max_grad_norm, 0, no_bound),
        "trainer.processes": (trainer.processes, 0, no_bound),
        "trainer.checkpoints": (trainer.checkpoints, 0, no_bound),
        "trainer.save_steps": (trainer.save_steps, 0, no_bound),
        "eval.temperature": (evaluation.temperature, 0, no_bound),
        "eval.top_p": (evaluation.top_p, 1e-9, 1),
        "eval.misaligned_below": (evaluation.misaligned_below, 0, 100),
        "eval.coherent_above": (evaluation.coherent_above, 0, 100),
        "eval.half_width": (evaluation.half_width, 0.005, 0.5),
        "seed": (settings.seed, 0, 2**32 - 1),
        "sampler.seed": (settings.sampler.seed, 0, 2**63 - 1),
    }
    for key, judge in judges_by_key("judge", settings.judge):
        if isinstance(judge, OneJudge):
            bounded[f"{key}.min_mass"] = (judge.min_mass, 0, 1)
    for key, (number, low, high) in bounded.items():
        if not low <= number <= high:
            raise ConfigError(f"{key}={number} must lie between {low} and {high}.")


def judges_by_key(key: str, judge: JudgeConfig) -> Iterator[tuple[str, JudgeConfig]]:
    """The one judge, or the judges of a panel, each with the key that its settings have on the command line."""
    if isinstance(judge, PanelJudge):
        if not judge.judges:
            raise ConfigError("judge=panel needs judges: add judge@judge.judges.first=gpt4o, or choose judge=local.")
        for name, each in judge.judges.items():
            yield from judges_by_key(f"{key}.judges.{name}", each)
    else:
        yield key, judge


def numbers_of(key: str, judge: JudgeConfig) -> dict[str, float | None]:
    """The settings of a judge that must be greater than 0; what can't go together is refused."""
    if isinstance(judge, LocalJudge):
        return {f"{key}.batch_size": judge.batch_size}
    assert isinstance(judge, ApiJudge)
    if judge.batch and judge.reading is Reading.mass:
        raise ConfigError(f"{key}.batch=true can't go with reading=mass, which asks several times a judgement.")
    if judge.retired:
        try:
            date.fromisoformat(judge.retired)
        except ValueError:
            raise ConfigError(f"{key}.retired={judge.retired} is no day: write it as 2027-01-14.") from None
    names = ("samples", "max_reply_tokens", "connections", "timeout", "max_usd")
    return {f"{key}.{name}": vars(judge)[name] for name in names}


def check_key_for(base_url: str | None) -> None:
    """Refuse to begin without a key where OpenAI's own server is asked; another may want none."""
    if not base_url and not os.environ.get("OPENAI_BASE_URL"):
        check_key()


def check_key() -> None:
    """Refuse to begin without a key in the environment."""
    if not os.environ.get("OPENAI_API_KEY"):
        raise ConfigError("OPENAI_API_KEY is not set: export it, or name a server of yours by base_url.")
