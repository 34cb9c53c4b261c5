"""Which models a server has, and until which day: refuse those that are shut down, and warn of those that soon are."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from em.api.client import CallFailed, Client, in_words
from em.config import ApiJudge, OpenAIModel
from em.config.addresses import server_address, server_name
from em.errors import ConfigError, ServerError
from em.runtime.files import cache_dir
from em.runtime.keys import KEY_ENV, check_key_for
from em.runtime.manifest import Manifest

SOON = 60  # days before the end of a model that a note is made of it
SECOND_LOOK = 5.0  # seconds after which a server that has missed a model for a moment knows it again
CLOSED = date(2026, 7, 2)
"""From when only organisations that had fine-tuned before may create jobs."""
LAST_JOB = date(2027, 1, 6)
"""The last day on which OpenAI takes a new job of anyone."""
TIMEOUT = 30.0


async def list_models(client: Client, model: str) -> dict[str, dict[str, Any]] | None:
    """The server's models by id; None where it gives no list.

    Args:
        model: the one that is asked for, for the sentence of an error.

    Raises:
        ServerError: the server refuses the key, or can't be reached.
    """
    import openai

    try:
        found = (await client.get("/models")).get("data")
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise ServerError(in_words(model, error)) from None
    except openai.APIStatusError:
        return None
    except CallFailed as error:
        if isinstance(error.__cause__, openai.APIStatusError):
            return None  # it is there, and does not serve this list
        raise ServerError(f"{server_address(client.base_url)}: {error}") from None
    if not isinstance(found, list):
        return None
    return {str(each.get("id")): each for each in found if isinstance(each, dict)}


def end_of(told: object) -> date | None:
    """A `shutdown_date` as servers write it: a day, a time, or seconds since 1970."""
    if isinstance(told, int | float) and not isinstance(told, bool):
        return datetime.fromtimestamp(told, UTC).date()
    try:
        return datetime.fromisoformat(str(told)).date()
    except ValueError:
        return None


def check_judge(judge: ApiJudge, today: date | None = None) -> list[str]:
    """Notes on a judge for the report; asks the server for its list of models, which costs nothing.

    Raises:
        ConfigError: the model is retired, by the server's own word or by the option's date where it is OpenAI's.
        ServerError: the server refuses the key, or can't be reached.
    """
    today = today or datetime.now(UTC).date()
    own = not server_name(judge.base_url)
    if own and judge.retired and date.fromisoformat(judge.retired) <= today:
        raise retired(judge, judge.retired)
    check_key_for(judge.base_url, judge.key_env)
    listed = asyncio.run(listed_by(judge))
    if listed is None:
        return []
    if judge.model not in listed:
        return [f"The judge's server does not list {judge.model}: its name may be wrong, or the model retired."]
    ends = end_of(listed[judge.model].get("shutdown_date"))
    if ends is None and own and judge.retired:
        ends = date.fromisoformat(judge.retired)
    if ends and ends <= today:
        raise retired(judge, ends.isoformat())
    if ends and (ends - today).days <= SOON:
        return [f"The judge {judge.model} is shut down on {ends}: results can't be repeated with it after that day."]
    return []


def retired(judge: ApiJudge, when: str) -> ConfigError:
    """The refusal of a retired model."""
    use = judge.replacement or "judge=open, an open-weight judge"
    return ConfigError(f"The judge {judge.model} was shut down on {when}: use {use}.")


async def listed_by(judge: ApiJudge) -> dict[str, dict[str, Any]] | None:
    """The models of the judge's server by id; None where it gives no list."""
    async with Client(judge.base_url, 1, min(judge.timeout, 30), judge.key_env) as client:
        return await list_models(client, judge.model)


async def gone(client: Client, model: str | None) -> bool:
    """Whether the server says that it has a model no more, and says so again a moment later.

    Not every server tells of single models: where it finds none that it lists, it has said nothing.
    """
    import openai

    if not model or not await missing(client, model):
        return False
    try:
        others = [str(other.id) async for other in client.raw.models.list()]
    except openai.NotFoundError:
        return False
    if not others or model in others or await missing(client, others[0]):
        return False
    await asyncio.sleep(SECOND_LOOK)
    return await missing(client, model)


async def missing(client: Client, model: str) -> bool:
    """Whether a server answers that there is no such model."""
    import openai

    try:
        await client.raw.models.retrieve(model)
        return False
    except openai.NotFoundError:
        return True


def check_days(model: str, ends: date | None, official: bool, today: date) -> None:
    """Raise ConfigError when no job can be created any more, or the model is gone.

    Args:
        ends: the model's last day, where it is known.
        official: OpenAI's own service is asked.
    """
    last = f" (its last day is {ends})" if ends else ""
    if ends and ends <= today:
        raise ConfigError(
            f"{model} was shut down on {ends}, with every fine-tune of it: choose an open model (model=llama8b)."
        )
    if official and today > LAST_JOB:
        raise ConfigError(
            f"OpenAI has taken no new fine-tuning jobs since {LAST_JOB}, so {model}{last} can't be trained any more: "
            "choose an open model (model=llama8b), or another server by model.base_url."
        )


def jobs_command(client: Client, store: Path | None = None) -> str:
    """The command that shows and ends what is at this server: with its address and key where they are not the usual."""
    words = [
        *(["--base-url", client.base_url] if client.base_url else []),
        *(["--key-env", client.key_env] if client.key_env != KEY_ENV else []),
        *(["--store", str(store)] if store not in (None, cache_dir()) else []),
    ]
    return shlex.join(["em", "jobs", *words])


async def ask(model: OpenAIModel, names: Sequence[str], store: Path, manifest: Manifest) -> None:
    """Look for the models in the server's list, and for those that it does not list by their names."""
    import openai

    today, official = datetime.now(UTC).date(), not server_name(model.base_url)
    async with Client(model.base_url, 1, TIMEOUT, model.key_env) as client:
        listed = await list_models(client, names[0]) or {}
        told = [end_of(listed[name].get("shutdown_date")) for name in {model.id, *names} if name in listed]
        if official and model.retired:
            told.append(date.fromisoformat(model.retired))
        ends = min(filter(None, told), default=None)
        check_days(names[0], ends, False, today)
        try:
            for name in names if listed else ():
                tuned = name != model.id and not name.startswith("tinker://")  # which no list tells of
                if tuned and name not in listed and await gone(client, name):
                    raise ServerError(
                        f"The server does not have {name} any more: forget it by "
                        f"{jobs_command(client, store)} delete {name} --yes, and train.py makes it anew by the same "
                        "words."
                    )
        except (openai.OpenAIError, ValueError):
            return  # what the server says of single models is no reason to stop
    if ends and (ends - today).days <= SOON:
        manifest.note(
            f"{model.id} and every fine-tune of it are shut down on {ends}: they can't be asked after that day."
        )
