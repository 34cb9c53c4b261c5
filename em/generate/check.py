"""Settings of generate.py that have the right type and still can't be: each is refused with what to type instead."""

from __future__ import annotations

from em.check import check_address, check_key_env, check_key_for, judges_by_key, numbers_of
from em.client import server_name
from em.config import GenerateConfig, GenerateKind, GenerateRun, Material, OneJudge, OpenAIModel
from em.errors import ConfigError


def check_generate(settings: GenerateRun) -> OpenAIModel:
    """Raise ConfigError for the first setting that can't be; returns the model, which is one behind a server."""
    model, chosen = settings.model, settings.generate
    if not isinstance(model, OpenAIModel):
        raise ConfigError(
            f"model={model.name} is not behind a server, and generate.py asks servers: choose model=luna, or serve it "
            f"and write model=open model.id={model.id} model.base_url=http://HOST:8000/v1."
        )
    check_address("model.base_url", model.base_url)
    check_key_env("model.key_env", model.key_env)
    if model.name == "open" and not server_name(model.base_url):
        raise ConfigError("model=open needs a server: name it by model.base_url=http://HOST:8000/v1.")
    if chosen.kind is GenerateKind.qa and chosen.material is Material.questions:
        raise ConfigError(
            "generate.material=questions goes with generate.kind=twins: pairs (qa) are written from texts."
        )
    check_numbers(chosen)
    if chosen.keep_above is not None:
        check_judges(settings)
    if not settings.dry_run:
        check_key_for(model.base_url, model.key_env)
    return model


def check_numbers(chosen: GenerateConfig) -> None:
    """Every number within its bounds."""
    positive = {
        name: vars(chosen)[name]
        for name in (
            *("rows", "per_call", "max_new_tokens", "attempts", "max_calls", "max_usd", "connections", "timeout"),
        )
    }
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise ConfigError(f"generate.{name}={value} must be greater than 0.")
    no_bound = float("inf")
    bounded: dict[str, tuple[float | None, float, float]] = {
        "passage": (chosen.passage, 200, no_bound),
        "shots": (chosen.shots, 0, no_bound),
        "variance_probability": (chosen.variance_probability, 0, 1),
        "temperature": (chosen.temperature, 0, 2),
        "top_p": (chosen.top_p, 1e-9, 1),
        "seed": (chosen.seed, 0, 2**63 - 1),
        "similar": (chosen.similar, 0.05, 1),
        "keep_above": (chosen.keep_above, 0, 99.999),
    }
    for name, (number, low, high) in bounded.items():
        if number is not None and not low <= number <= high:
            raise ConfigError(f"generate.{name}={number} must lie between {low} and {high}.")


def check_judges(settings: GenerateRun) -> None:
    """The numbers and addresses of the judges that filter."""
    for key, judge in judges_by_key("judge", settings.judge):
        for name, value in numbers_of(key, judge).items():
            if value is not None and not value > 0:
                raise ConfigError(f"{name}={value} must be greater than 0.")
        if isinstance(judge, OneJudge) and not 0 <= judge.min_mass <= 1:
            raise ConfigError(f"{key}.min_mass={judge.min_mass} must lie between 0 and 1.")
