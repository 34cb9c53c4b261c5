"""What a judge's server says of its models before anything is paid: whether it has this one, and until when."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from typing import Any

from em.check import check_key
from em.client import CallFailed, Client, in_words, server_address, server_name
from em.config import ApiJudge
from em.errors import ConfigError, ServerError

SOON = 60  # days before the end of a model that a note is made of it


def check_judge(judge: ApiJudge, today: date | None = None) -> list[str]:
    """Notes on a judge for the report; asks the server for its list of models, which costs nothing.

    Raises:
        ConfigError: the model is retired, by the server's own word or by the option's date where it is OpenAI's.
        ServerError: the server refuses the key, or can't be reached.
    """
    today = today or datetime.now(UTC).date()
    own = not server_name(judge.base_url)
    if own and judge.retired and date.fromisoformat(judge.retired) <= today:
        raise gone(judge, judge.retired)
    if own:
        check_key()
    listed = asyncio.run(list_models(judge))
    if listed is None:
        return []
    if judge.model not in listed:
        return [f"The judge's server does not list {judge.model}: its name may be wrong, or the model retired."]
    ends = end_of(listed[judge.model].get("shutdown_date"))
    if ends is None and own and judge.retired:
        ends = date.fromisoformat(judge.retired)
    if ends and ends <= today:
        raise gone(judge, ends.isoformat())
    if ends and (ends - today).days <= SOON:
        return [f"The judge {judge.model} is shut down on {ends}: results can't be repeated with it after that day."]
    return []


def gone(judge: ApiJudge, when: str) -> ConfigError:
    """The refusal of a retired model."""
    use = judge.replacement or "judge=open, an open-weight judge"
    return ConfigError(f"The judge {judge.model} was shut down on {when}: use {use}.")


async def list_models(judge: ApiJudge) -> dict[str, dict[str, Any]] | None:
    """The server's models by id; None where it gives no list."""
    import openai

    async with Client(judge.base_url, 1, min(judge.timeout, 30)) as client:
        try:
            found = (await client.get("/models")).get("data")
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ServerError(in_words(judge.model, error)) from None
        except openai.APIStatusError:
            return None
        except CallFailed as error:
            if isinstance(error.__cause__, openai.APIStatusError):
                return None  # it is there, and does not serve this list
            raise ServerError(f"{server_address(judge.base_url)}: {error}") from None
    if not isinstance(found, list):
        return None
    return {str(model.get("id")): model for model in found if isinstance(model, dict)}


def end_of(told: object) -> date | None:
    """A `shutdown_date` as servers write it: a day, a time, or seconds since 1970."""
    if isinstance(told, int | float) and not isinstance(told, bool):
        return datetime.fromtimestamp(told, UTC).date()
    try:
        return datetime.fromisoformat(str(told)).date()
    except ValueError:
        return None
