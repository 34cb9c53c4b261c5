"""Models on servers: their identity in em, which includes the server, since two servers may use the same name."""

from __future__ import annotations

from em.config import OpenAIModel
from em.config.addresses import find_server_name
from em.runtime.records import digest
from em.types import ModelRef, Weights


def make_hosted_weights(base_url: str | None, name: str) -> Weights:
    """Make the identity of a model on a server; the same name on another server is another identity."""
    return Weights(f"openai:{find_server_name(base_url)}|{name}")


def make_hosted_model(model: OpenAIModel) -> ModelRef:
    """Make the reference to a model on a server, without any training by em."""
    weights = make_hosted_weights(model.base_url, model.id)
    return ModelRef(model.name, "base", digest(weights.identity), weights)


def parse_hosted_name(model: ModelRef) -> tuple[str, str]:
    """Parse server and name of a model on a server from its identity `openai:SERVER|NAME`."""
    _, _, rest = model.base.identity.partition(":")
    server, _, name = rest.partition("|")
    return server, name
