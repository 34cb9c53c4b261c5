"""Models behind servers: what they are called here, which ones a server has, and until when."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from em.client import CallFailed, Client, in_words, server_address, server_name
from em.config import OpenAIModel
from em.errors import ServerError
from em.types import ModelRef, Weights, digest

SOON = 60  # days before the end of a model that a note is made of it


def hosted_weights(base_url: str | None, name: str) -> Weights:
    """The weights that a server has under a name, told from those of the same name behind another server."""
    return Weights(f"openai:{server_name(base_url)}|{name}")


def hosted_model(model: OpenAIModel) -> ModelRef:
    """A model behind a server as it is, without training."""
    weights = hosted_weights(model.base_url, model.id)
    return ModelRef(model.name, "base", digest(weights.identity), weights)


def hosted_name(model: ModelRef) -> tuple[str, str]:
    """Server and name of a model behind a server, from its identity `openai:SERVER|NAME`."""
    _, _, rest = model.base.identity.partition(":")
    server, _, name = rest.partition("|")
    return server, name


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
