"""Whether a server still has the models that are about to be asked, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from em.client import Client, server_name
from em.config import OpenAIModel
from em.errors import ServerError
from em.hosted import SOON, end_of, hosted_name, list_models
from em.manifest import Manifest
from em.remote.jobs import gone
from em.remote.rules import check_days
from em.remote.words import jobs_command
from em.request import Request
from em.sampling import Plan
from em.store import Calls

TIMEOUT = 30.0


def check_models(request: Request, plans: Sequence[Plan], manifest: Manifest) -> None:
    """Refuse to sample from a model that the server has no more; note an end that is near.

    A model all of whose answers are remembered is not needed any more.
    """
    model = request.settings.model
    if not isinstance(model, OpenAIModel):
        return
    with Calls(request.store) as calls:
        names = [hosted_name(plan.model)[1] for plan in plans if missing(plan, calls)]
    if names:
        asyncio.run(ask(model, names, request.store, manifest))


def missing(plan: Plan, calls: Calls) -> bool:
    """Whether answers of a model are still to be made."""
    requests = plan.requests()
    return len(calls.there(list(requests))) < len(requests)


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
