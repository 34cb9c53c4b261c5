"""Models on servers: their identity in em, which includes the server, since two servers may use the same name."""

from __future__ import annotations

from em.config import ApiJudge, OpenAIModel
from em.config.addresses import find_server_name
from em.runtime.records import digest, encode_canonical
from em.types import ModelRef, Weights


def identify_server(config: OpenAIModel | ApiJudge) -> str:
    """Return the part of a model's identity that is not its name: its server, and what is sent besides.

    `revision` replaces the server. em sets it too, where the server tells of other weights (`em.api.identities`).
    """
    parts = [config.revision or find_server_name(config.base_url)]
    if isinstance(config, OpenAIModel) and config.extra_body:
        parts.append(encode_canonical(config.extra_body))
    return " ".join(parts).replace("|", "%7C")


def make_hosted_weights(config: OpenAIModel | ApiJudge) -> Weights:
    """Make the identity of a model on a server; the same name on another server is another identity."""
    name = config.id if isinstance(config, OpenAIModel) else config.model
    return Weights(f"openai:{identify_server(config)}|{name}")


def make_hosted_model(model: OpenAIModel) -> ModelRef:
    """Make the reference to a model on a server, without any training by em."""
    weights = make_hosted_weights(model)
    return ModelRef(model.name, "base", digest(weights.identity), weights)


def parse_hosted_name(model: ModelRef) -> tuple[str, str]:
    """Parse server and name of a model on a server from its identity `openai:SERVER|NAME`."""
    _, _, rest = model.base.identity.partition(":")
    server, _, name = rest.partition("|")
    return server, name
