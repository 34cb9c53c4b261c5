"""Settings that have the right type and still can't be: each is refused with what to type instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from em.config import (
    ApiJudge,
    ApiSampler,
    HfSampler,
    JudgeConfig,
    LocalJudge,
    LocalTrainer,
    LoraTrainer,
    NoData,
    OpenAIModel,
    OpenAITrainer,
    PanelJudge,
    Reading,
    RunConfig,
    ServiceTrainer,
    TinkerTrainer,
    WandbTracker,
)
from em.config.addresses import check_address, check_day, check_key_env, server_name
from em.errors import ConfigError, shown


def check_batch(settings: RunConfig) -> None:
    """Refuse batches of answers where there can be none."""
    if not isinstance(settings.model, OpenAIModel):
        raise ConfigError(f"sampler.batch=true is of a server's models, and model={settings.model.name} runs here.")


def check_realign(settings: RunConfig) -> None:
    """Settings of a second stage that would do nothing are refused."""
    realign = settings.realign
    if realign.data.limit is not None:
        raise ConfigError("realign.data.limit is not used: write realign.limit.")
    if realign.name != "none" and isinstance(settings.data, NoData):
        raise ConfigError(f"realign={realign.name} needs a first stage: choose data=….")


def check_tracker(settings: RunConfig) -> None:
    """Refuse names that W&B would refuse when the run is done."""
    if isinstance(settings.tracker, WandbTracker):
        project = settings.tracker.project
        if not 1 <= len(project) <= 128 or set(project) & set("/\\#?%:"):
            raise ConfigError(
                f"tracker.project={shown(project)} can't be the name of a W&B project: it has 1 to 128 characters, and "
                "none of / \\ # ? % :."
            )


def check_ranges(settings: RunConfig) -> None:
    """Every number within its bounds."""
    trainer, evaluation = settings.trainer, settings.eval
    positive: dict[str, float | None] = {
        "data.limit": settings.data.limit,
        "realign.limit": settings.realign.limit,
        "eval.samples": evaluation.samples,
        "eval.max_new_tokens": evaluation.max_new_tokens,
    }
    for name in ("epochs", "batch_size", "max_length", "learning_rate"):
        positive[f"realign.{name}"] = vars(settings.realign)[name]
        if isinstance(trainer, LocalTrainer):
            positive[f"trainer.{name}"] = vars(trainer)[name]
    if isinstance(trainer, LocalTrainer):
        positive["trainer.device_tokens"] = trainer.device_tokens
    if isinstance(trainer, LoraTrainer):
        positive |= {"trainer.rank": trainer.rank, "trainer.alpha": trainer.alpha}
    if isinstance(settings.sampler, HfSampler):
        positive["sampler.batch_size"] = settings.sampler.batch_size
    if isinstance(settings.sampler, ApiSampler):
        positive["sampler.connections"] = settings.sampler.connections
        positive["sampler.timeout"] = settings.sampler.timeout
    no_bound = float("inf")
    bounded: dict[str, tuple[float | None, float, float]] = {
        "trainer.dropout": (trainer.dropout if isinstance(trainer, LoraTrainer) else 0, 0, 1),
        "realign.warmup_steps": (settings.realign.warmup_steps or 0, 0, no_bound),
        "eval.temperature": (evaluation.temperature, 0, no_bound),
        "eval.top_p": (evaluation.top_p, 1e-9, 1),
        "eval.misaligned_below": (evaluation.misaligned_below, 0, 100),
        "eval.coherent_above": (evaluation.coherent_above, 0, 100),
        "seed": (settings.seed, 0, 2**32 - 1),
        "sampler.seed": (settings.sampler.seed, 0, 2**63 - 1),
    }
    if isinstance(trainer, LocalTrainer):
        names = ("warmup_steps", "weight_decay", "max_grad_norm", "processes", "checkpoints", "save_steps")
        bounded |= {f"trainer.{name}": (vars(trainer)[name], 0, no_bound) for name in names}
    if isinstance(trainer, ServiceTrainer):
        check_words(trainer)
        bounded["seed"] = (settings.seed, 0, 2**31 - 1)
        bounded |= {f"trainer.{name}": (vars(trainer)[name], low, high) for name, low, high in numbers_for(trainer)}
    check_numbers(positive, bounded)
    check_judges("judge", settings.judge)


def check_numbers(
    positive: Mapping[str, float | None], bounded: Mapping[str, tuple[float | None, float, float]]
) -> None:
    """Refuse numbers that are not greater than 0, or that lie outside of their bounds; None is no number."""
    for key, number in positive.items():
        if number is not None and not number > 0:
            raise ConfigError(f"{key}={number} must be greater than 0.")
    for key, (number, low, high) in bounded.items():
        if number is not None and not low <= number <= high:
            raise ConfigError(f"{key}={number} must lie between {low} and {high}.")


def check_words(trainer: ServiceTrainer) -> None:
    """Refuse other words than auto where a number may stand, and a suffix that is too long."""
    for name in ("batch_size", "learning_rate_multiplier"):
        value = vars(trainer).get(name)
        if isinstance(value, str) and value != "auto":
            raise ConfigError(f"trainer.{name}={value} is neither a number nor auto.")
    if isinstance(trainer, TinkerTrainer) and isinstance(trainer.batch_size, str):
        raise ConfigError("trainer.batch_size must be a number with trainer=tinker, whose steps are taken from here.")
    if trainer.suffix is not None and not 1 <= len(trainer.suffix) <= 64:
        raise ConfigError("trainer.suffix must have 1 to 64 characters.")


def numbers_for(trainer: ServiceTrainer) -> Iterator[tuple[str, float, float]]:
    """The settings that are numbers, with the bounds of OpenAI's service."""
    no_bound = float("inf")
    yield from (("epochs", 1, 50), ("timeout", 0.1, no_bound), ("look", 0.01, 3600), ("patience", 0, no_bound))
    yield "settle", 0, 3600
    if not isinstance(trainer.batch_size, str):
        yield "batch_size", 1, 256
    if isinstance(trainer, TinkerTrainer):
        yield from (("learning_rate", 1e-9, 1), ("rank", 1, 4096), ("max_length", 8, 2**20), ("save_steps", 1, 10**6))
    if isinstance(trainer, OpenAITrainer) and not isinstance(trainer.learning_rate_multiplier, str):
        yield "learning_rate_multiplier", 1e-6, 1e6


def check_judges(key: str, judge: JudgeConfig) -> None:
    """Check the one judge, or the judges of a panel, each by the key that its settings have on the command line."""
    if isinstance(judge, PanelJudge):
        if not judge.judges:
            raise ConfigError("judge=panel needs judges: add judge@judge.judges.first=gpt4o, or choose judge=local.")
        for name, each in judge.judges.items():
            check_judges(f"{key}.judges.{name}", each)
        return
    assert isinstance(judge, LocalJudge | ApiJudge)
    names = ["batch_size"]
    if isinstance(judge, ApiJudge):
        check_address(f"{key}.base_url", judge.base_url)
        check_key_env(f"{key}.key_env", judge.key_env)
        if judge.name == "open" and not server_name(judge.base_url):
            raise ConfigError(f"judge=open needs a server: name it by {key}.base_url=http://HOST:8000/v1.")
        if judge.batch and judge.reading is Reading.mass:
            raise ConfigError(f"{key}.batch=true can't go with reading=mass, which asks several times a judgement.")
        check_day(f"{key}.retired", judge.retired)
        names = ["samples", "max_reply_tokens", "connections", "timeout", "max_usd"]
    positive = {f"{key}.{name}": vars(judge)[name] for name in names}
    check_numbers(positive, {f"{key}.min_mass": (judge.min_mass, 0, 1)})
