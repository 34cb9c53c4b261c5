"""Shutdown dates of models: refuse a model that is shut down or deleted, and warn of a date that is near."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from em.api.client import CallFailed, Client, explain_error
from em.config import ApiJudge, OpenAIModel
from em.config.addresses import find_server_name, resolve_server_address
from em.errors import ConfigError, ServerError
from em.runtime.files import find_cache_folder
from em.runtime.keys import KEY_ENV, require_key
from em.runtime.manifest import ManifestWriter

SOON = 60  # days before a shutdown date in which the manifest notes it
SECOND_LOOK = 5.0  # seconds until a second check, for servers that miss a model for a moment
CLOSED = date(2026, 7, 2)
"""The day since which OpenAI takes jobs only from organisations that had fine-tuned before."""
LAST_JOB = date(2027, 1, 6)
"""The last day on which OpenAI takes new fine-tuning jobs."""
TIMEOUT = 30.0


@dataclass(frozen=True)
class Lifetime:
    """The shutdown date of a model, and the list of models at its server.

    ends: the first day without the model and its fine-tunes; None if unknown.
    listed: the models that the server lists; None if it gives no list, or was not asked.
    """

    ends: date | None
    listed: Collection[str] | None = None
    today: date = field(default_factory=lambda: datetime.now(UTC).date())

    @property
    def is_over(self) -> bool:
        """Whether the model is shut down."""
        return self.ends is not None and self.ends <= self.today

    @property
    def is_near_end(self) -> bool:
        """Whether the shutdown date is near or past."""
        return self.ends is not None and (self.ends - self.today).days <= SOON


async def find_lifetime(
    config: ApiJudge | OpenAIModel, names: Sequence[str], timeout: float = TIMEOUT, today: date | None = None
) -> Lifetime:
    """Find a model's shutdown date: the earliest of its option (`retired`, for OpenAI's own server) and the server's.

    A date in the option that is past needs no request and no key.

    Args:
        names: the model and its fine-tunes, which share its shutdown date.
    """
    today = today or datetime.now(UTC).date()
    official = config.retired and not find_server_name(config.base_url)
    by_option = date.fromisoformat(config.retired) if official else None
    if by_option and by_option <= today:
        return Lifetime(by_option, None, today)
    require_key(config.base_url, config.key_env)
    async with Client(config.base_url, 1, timeout, config.key_env) as client:
        listed = await list_models(client, names[0])
    days = [read_day(listed[name].get("shutdown_date")) for name in names if listed and name in listed]
    return Lifetime(min(filter(None, [by_option, *days]), default=None), listed, today)


def refuse_shut_down(model: str, lifetime: Lifetime, new_job: bool = False) -> None:
    """Raise ConfigError for a model that is shut down, and for a new job after OpenAI's last day for jobs."""
    if lifetime.is_over:
        raise ConfigError(
            f"{model} was shut down on {lifetime.ends}, with every fine-tune of it: choose an open model "
            "(model=llama8b)."
        )
    if new_job and lifetime.today > LAST_JOB:
        last = f" (its last day is {lifetime.ends})" if lifetime.ends else ""
        raise ConfigError(
            f"OpenAI has taken no new fine-tuning jobs since {LAST_JOB}, so {model}{last} can't be trained any more: "
            "choose an open model (model=llama8b), or another server by model.base_url."
        )


def note_shutdown_date(model: OpenAIModel, lifetime: Lifetime, verb: str, manifest: ManifestWriter) -> str:
    """Note a near shutdown date in the manifest, and return the note; empty if the date is not near."""
    if not lifetime.is_near_end:
        return ""
    day = lifetime.ends
    note = f"{model.id} and every fine-tune of it are shut down on {day}: they can't be {verb} after that day."
    manifest.note(note)
    return note


async def list_models(client: Client, model: str) -> dict[str, dict[str, Any]] | None:
    """List the server's models by id; None if the server gives no list.

    Args:
        model: the model that the user asked for, named in error messages.
    """
    import openai

    try:
        models = (await client.get("/models")).get("data")
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise ServerError(explain_error(model, error)) from None
    except openai.APIStatusError:
        return None
    except CallFailed as error:
        if isinstance(error.__cause__, openai.APIStatusError):
            return None  # the server answers, but fails on this list
        raise ServerError(f"{resolve_server_address(client.base_url)}: {error}") from None
    if not isinstance(models, list):
        return None
    return {str(each.get("id")): each for each in models if isinstance(each, dict)}


def read_day(value: object) -> date | None:
    """Read a server's `shutdown_date`: an ISO day or time, or seconds since 1970; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC).date()
    try:
        return datetime.fromisoformat(str(value)).date()
    except ValueError:
        return None


def check_judge(judge: ApiJudge, today: date | None = None) -> list[str]:
    """Refuse a judge that is shut down; return notes for the report on a near date or an unlisted name."""
    lifetime = asyncio.run(find_lifetime(judge, [judge.model], min(judge.timeout, TIMEOUT), today))
    if lifetime.is_over:
        use = judge.replacement or "judge=open, an open-weight judge"
        raise ConfigError(f"The judge {judge.model} was shut down on {lifetime.ends}: use {use}.")
    if lifetime.listed is not None and judge.model not in lifetime.listed:
        return [f"The judge's server does not list {judge.model}: its name may be wrong, or the model retired."]
    if lifetime.is_near_end:
        day = lifetime.ends
        return [f"The judge {judge.model} is shut down on {day}: results can't be repeated with it after that day."]
    return []


async def check_served(model: OpenAIModel, names: Sequence[str], store: Path, manifest: ManifestWriter) -> None:
    """Check that the server still serves `names` before sampling; note a near shutdown date in the manifest."""
    import openai

    lifetime = await find_lifetime(model, [*names, model.id])
    refuse_shut_down(names[0], lifetime)
    listed = lifetime.listed or names
    async with Client(model.base_url, 1, TIMEOUT, model.key_env) as client:
        for name in names:
            if name in listed or name == model.id or name.startswith("tinker://"):  # no list has tinker's models
                continue
            with suppress(openai.OpenAIError, ValueError):  # some servers refuse requests for single models
                if await is_deleted(client, name):
                    raise ServerError(
                        f"The server does not have {name} any more: forget it by {make_jobs_command(client, store)} "
                        f"delete {name} --yes, then train it again by the same train.py command."
                    )
    note_shutdown_date(model, lifetime, "asked", manifest)


async def check_new_job(client: Client, model: OpenAIModel, name: str, manifest: ManifestWriter) -> None:
    """Refuse to fine-tune a model that the server does not have or no longer trains; note a near shutdown date.

    Args:
        name: the model to fine-tune: the base model, or a fine-tune of it, which shares its shutdown date.
    """
    import openai

    lifetime = await find_lifetime(model, [name, model.id], client.timeout)
    refuse_shut_down(name, lifetime, new_job=not find_server_name(model.base_url))
    if lifetime.listed is not None and name not in lifetime.listed:
        try:
            # A fine-tune may be missing from the list alone: not every server lists fine-tunes.
            not_served = name == model.id or await client.call_with_retries(name, lambda: is_deleted(client, name))
        except openai.OpenAIError as error:
            raise ServerError(explain_error(name, error)) from None
        if not_served:
            raise ServerError(
                f"The server does not list {name}, so it can't be fine-tuned: check model.id and model.base_url (it "
                "may have been retired, or deleted)."
            )
    if note := note_shutdown_date(model, lifetime, "evaluated", manifest):
        print(f"warning: {note}", flush=True)


async def is_deleted(client: Client, model: str | None) -> bool:
    """Return whether the server answers twice, some seconds apart, that a model does not exist.

    Some servers can't look up single models: if one of its listed models is missing too, its 404 means nothing.
    """
    import openai

    if not model or not await is_missing(client, model):
        return False
    try:
        others = [str(other.id) async for other in client.raw.models.list()]
    except openai.NotFoundError:
        return False
    if not others or model in others or await is_missing(client, others[0]):
        return False
    await asyncio.sleep(SECOND_LOOK)
    return await is_missing(client, model)


async def is_missing(client: Client, model: str) -> bool:
    """Return whether the server answers a request for the model with 404."""
    import openai

    try:
        await client.raw.models.retrieve(model)
        return False
    except openai.NotFoundError:
        return True


def make_jobs_command(client: Client, store: Path | None = None) -> str:
    """Return the `em jobs` command for this server, with options for an address, key or store that is no default."""
    key = client.key_env if client.key_env != KEY_ENV else None
    place = store if store != find_cache_folder() else None
    options = {"--base-url": client.base_url, "--key-env": key, "--store": place}
    words = [word for option, value in options.items() if value for word in (option, str(value))]
    return shlex.join(["em", "jobs", *words])
