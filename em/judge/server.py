"""What a judge's server says of its models before anything is paid: whether it has this one, and until when."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from typing import Any

from em.check import check_key_for
from em.client import Client, server_name
from em.config import ApiJudge
from em.errors import ConfigError
from em.hosted import SOON, end_of, list_models


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
        raise gone(judge, ends.isoformat())
    if ends and (ends - today).days <= SOON:
        return [f"The judge {judge.model} is shut down on {ends}: results can't be repeated with it after that day."]
    return []


def gone(judge: ApiJudge, when: str) -> ConfigError:
    """The refusal of a retired model."""
    use = judge.replacement or "judge=open, an open-weight judge"
    return ConfigError(f"The judge {judge.model} was shut down on {when}: use {use}.")


async def listed_by(judge: ApiJudge) -> dict[str, dict[str, Any]] | None:
    """The models of the judge's server by id; None where it gives no list."""
    async with Client(judge.base_url, 1, min(judge.timeout, 30), judge.key_env) as client:
        return await list_models(client, judge.model)
