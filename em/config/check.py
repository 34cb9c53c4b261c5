"""Refuse settings that have the right type and an invalid value, with what to type instead."""

from __future__ import annotations

from pathlib import Path

from em import config
from em.config.addresses import check_address, check_day, check_key_env, find_server_name
from em.errors import ConfigError, shorten_value

Bounds = dict[str, tuple[float, float] | None]
NO_BOUND = float("inf")
SHARE = (0, 1)
SENT = {"model", "messages", "temperature", "top_p", "max_completion_tokens", "max_tokens", "seed", "n", "stream"}
"""Fields of requests that `model.extra_body` can't set, since other settings do, or em reads no other reply."""


def require_positive(*names: str) -> Bounds:
    """Return bounds for settings that must be greater than 0."""
    return dict.fromkeys(names)


def require_non_negative(*names: str) -> Bounds:
    """Return bounds for settings that must not be negative."""
    return dict.fromkeys(names, (0, NO_BOUND))


BOUNDS: dict[type, Bounds] = {
    config.DataConfig: require_positive("limit"),
    config.RealignConfig: require_positive("limit", "epochs", "batch_size", "max_length", "learning_rate")
    | require_non_negative("warmup_steps"),
    config.LocalTrainer: require_positive("epochs", "batch_size", "max_length", "learning_rate", "device_tokens")
    | require_non_negative("warmup_steps", "weight_decay", "max_grad_norm", "processes", "checkpoints", "save_steps"),
    config.LoraTrainer: require_positive("rank", "alpha") | {"dropout": SHARE},
    config.ServiceTrainer: require_non_negative("patience")
    | {
        "epochs": (1, 50),
        "timeout": (0.1, NO_BOUND),
        "look": (0.01, 3600),
        "settle": (0, 3600),
        "batch_size": (1, 256),
    },
    config.OpenAITrainer: {"learning_rate_multiplier": (1e-6, 1e6)},
    config.TinkerTrainer: {
        "learning_rate": (1e-9, 1),
        "rank": (1, 4096),
        "max_length": (8, 2**20),
        "save_steps": (1, 10**6),
    },
    config.EvalConfig: require_positive("samples", "max_new_tokens")
    | require_non_negative("temperature")
    | {"top_p": (1e-9, 1), "misaligned_below": (0, 100), "coherent_above": (0, 100)},
    config.SamplerConfig: {"seed": (0, 2**63 - 1)},
    config.VllmSampler: {"gpu_memory": (0.05, 1)},
    config.HfSampler: require_positive("batch_size"),
    config.ApiSampler: require_positive("connections", "timeout"),
    config.ChatJudge: {"min_mass": SHARE},
    config.LocalJudge: require_positive("batch_size"),
    config.DistilledJudge: require_positive("batch_size"),
    config.ApiJudge: require_positive("samples", "max_reply_tokens", "connections", "timeout", "max_usd"),
    config.GenerateConfig: require_positive(
        *("rows", "per_call", "max_new_tokens", "attempts", "max_calls", "max_usd", "connections", "timeout")
    )
    | require_non_negative("shots")
    | {"passage": (200, NO_BOUND), "variance_probability": SHARE, "temperature": (0, 2), "top_p": (1e-9, 1)}
    | {"seed": (0, 2**63 - 1), "similar": (0.05, 1), "keep_above": (0, 99.999)},
}
"""The lowest and the highest value of each number among the settings; None stands for "greater than 0"."""


def check_model(settings: config.RunConfig) -> None:
    """Raise ConfigError for an invalid server address, or a sampler that can't ask the model."""
    model, sampler = settings.model, settings.sampler
    if isinstance(model, config.OpenAIModel):
        if not sampler.remote:
            raise ConfigError(f"sampler={sampler.name} can't ask a server: use sampler=auto or sampler=api.")
        check_hosted_model(model)
        check_day("model.retired", model.retired)
        if settings.eval.default_prompt is config.DefaultPrompt.none and not settings.answers:
            raise ConfigError(
                f"eval.default_prompt=none is not possible with model={model.name}, since its server applies the chat "
                "template: use eval.default_prompt=template, or a model with open weights (model=qwen7b)."
            )
        return
    if sampler.batch:
        raise ConfigError(f"sampler.batch=true needs a server's model, and model={model.name} runs here: leave it out.")
    if isinstance(sampler, config.VllmSampler):
        check_address("sampler.base_url", sampler.base_url)
    if not sampler.local:
        raise ConfigError(f"sampler={sampler.name} can't run open weights: use sampler=auto or sampler=hf.")


def check_realign(settings: config.RunConfig) -> None:
    """Raise ConfigError for settings of a second stage that would have no effect."""
    realign = settings.realign
    if realign.data.limit is not None:
        raise ConfigError("realign.data.limit is not used: write realign.limit.")
    if realign.name != "none" and isinstance(settings.data, config.NoData):
        raise ConfigError(f"realign={realign.name} needs a first stage: choose data=….")


def check_tracker(settings: config.RunConfig) -> None:
    """Raise ConfigError for a project name that W&B would refuse at the end of the run."""
    if isinstance(settings.tracker, config.WandbTracker):
        project = settings.tracker.project
        if not 1 <= len(project) <= 128 or set(project) & set("/\\#?%:"):
            raise ConfigError(
                f"tracker.project={shorten_value(project)} can't be the name of a W&B project: give 1 to 128 "
                "characters, and none of / \\ # ? % :."
            )


def check_ranges(settings: config.RunConfig) -> None:
    """Raise ConfigError for numbers out of their bounds, and for invalid settings of services and judges."""
    for group in ("data", "realign", "trainer", "eval", "sampler"):
        check_numbers(group, vars(settings)[group])
    highest_seed = 2**32 - 1
    if isinstance(settings.trainer, config.ServiceTrainer):
        check_words(settings.trainer)
        highest_seed = 2**31 - 1
    if not 0 <= settings.seed <= highest_seed:
        raise ConfigError(f"seed={settings.seed} must lie between 0 and {highest_seed}.")
    check_judges(settings.judge)


def check_numbers(key: str, settings: object) -> None:
    """Raise ConfigError for numbers out of their bounds. `key`: the group's name on the command line."""
    for schema in reversed(type(settings).__mro__):
        for name, bounds in BOUNDS.get(schema, {}).items():
            value = vars(settings)[name]
            if value is None or isinstance(value, str):  # not set, or a word such as auto
                continue
            if bounds is None and not value > 0:
                raise ConfigError(f"{key}.{name}={value} must be greater than 0.")
            if bounds is not None and not bounds[0] <= value <= bounds[1]:
                raise ConfigError(f"{key}.{name}={value} must lie between {bounds[0]} and {bounds[1]}.")


def check_words(trainer: config.ServiceTrainer) -> None:
    """Raise ConfigError for words other than `auto` in place of a number, and for a suffix of the wrong length."""
    for name in ("batch_size", "learning_rate_multiplier"):
        value = vars(trainer).get(name)
        if isinstance(value, str) and value != "auto":
            raise ConfigError(f"trainer.{name}={value} is neither a number nor auto.")
    if isinstance(trainer, config.TinkerTrainer) and isinstance(trainer.batch_size, str):
        raise ConfigError("trainer.batch_size must be a number with trainer=tinker, because em drives its steps.")
    if trainer.suffix is not None and not 1 <= len(trainer.suffix) <= 64:
        raise ConfigError("trainer.suffix must have 1 to 64 characters.")


def check_judges(judge: config.JudgeConfig, key: str = "judge") -> None:
    """Raise ConfigError for invalid or contradictory settings of a judge, or of any judge of a panel."""
    if isinstance(judge, config.PanelJudge):
        if not judge.judges:
            raise ConfigError("judge=panel needs judges: add judge@judge.judges.first=gpt4o, or choose judge=local.")
        for name, each in judge.judges.items():
            check_judges(each, f"{key}.judges.{name}")
    if isinstance(judge, config.DistilledJudge) and judge.model != config.DistilledJudge.model:
        raise ConfigError(
            f"{key}.model={judge.model} can't be used with judge=distilled: add judge=local (in em's own process) or "
            "judge=open (behind a server)."
        )
    if isinstance(judge, config.DistilledJudge) and judge.file and not Path(judge.file).expanduser().is_file():
        raise ConfigError(f"{key}.file={judge.file} is no file: make a judge with `em judge distill`.")
    if isinstance(judge, config.ApiJudge):
        check_address(f"{key}.base_url", judge.base_url)
        check_key_env(f"{key}.key_env", judge.key_env)
        if judge.serve and (judge.name != "open" or judge.base_url or judge.batch):
            raise ConfigError(
                f"{key}.serve=true starts a server for judge=open by itself: leave out {key}.base_url and {key}.batch, "
                "and name the judge's weights by judge=open judge.model=…."
            )
        if judge.name == "open" and not judge.serve and not find_server_name(judge.base_url):
            raise ConfigError(
                f"judge=open needs a server: name it by {key}.base_url=http://HOST:8000/v1, or let em start one by "
                f"{key}.serve=true."
            )
        if judge.batch and judge.reading is config.Reading.mass:
            raise ConfigError(f"{key}.batch=true can't go with reading=mass, which makes several calls per judgement.")
        check_day(f"{key}.retired", judge.retired)
    check_numbers(key, judge)


def check_author(model: config.ModelConfig) -> config.OpenAIModel:
    """Return the model that writes a data set. Raises ConfigError unless a server with an address runs it."""
    if not isinstance(model, config.OpenAIModel):
        raise ConfigError(
            f"model={model.name} is not behind a server, and generate.py needs one: choose model=luna, or serve it and "
            f"write model=open model.id={model.id} model.base_url=http://HOST:8000/v1."
        )
    check_hosted_model(model)
    if model.name == "open" and not find_server_name(model.base_url):
        raise ConfigError("model=open needs a server: name it by model.base_url=http://HOST:8000/v1.")
    return model


def check_hosted_model(model: config.OpenAIModel) -> None:
    """Raise ConfigError for an invalid address, key variable or field of requests."""
    check_address("model.base_url", model.base_url)
    check_key_env("model.key_env", model.key_env)
    if own := sorted(SENT & set(model.extra_body)):
        raise ConfigError(f"model.extra_body.{own[0]} can't be set: em sets {own[0]} itself, by settings of its own.")
