"""Models behind servers: what they are called here, told from those of the same name elsewhere."""

from __future__ import annotations

from em.config import OpenAIModel
from em.config.addresses import server_name
from em.runtime.records import digest
from em.types import ModelRef, Weights


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
