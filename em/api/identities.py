"""Find out which model is behind a server's name: what the server's list of models says of it, or the server's port.

A name is no identity: a server of one's own may serve another adapter under it tomorrow. So the identity has the
server's host and, if `/v1/models` tells them, the model's `root` (unless it is the name itself) and `parent`. Without
`root` the first port that em saw counts as the host alone, and every other port is another identity. Calls of older
versions, whose identity is the host, are therefore found again. OpenAI's own names are identities.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from em.api.client import Client
from em.api.lifetimes import TIMEOUT, list_models
from em.config import ApiJudge, OpenAIModel
from em.config.addresses import find_server_name, resolve_server_address
from em.errors import ServerError
from em.runtime.manifest import ManifestWriter
from em.runtime.memory import Calls, request_key

T = TypeVar("T")


@dataclass(frozen=True)
class ServedRequest:
    """The key under which em remembers what was behind a name: last at a port, or first at any port (`port` empty)."""

    server: str
    model: str
    port: str = ""


def settle_identities(configs: Sequence[T], calls: Calls, ask: bool = True) -> tuple[list[T], list[str]]:
    """Return settings whose `revision` says which model is behind the name, and a sentence for each changed model.

    Args:
        configs: settings of models and judges; those that are behind no server, or have a revision, stay as they are.
        ask: ask the servers; otherwise, and where a server can't be reached, take what is remembered.
    """
    settled, notes = list[T](), list[str]()
    for config in configs:
        served_by_em = isinstance(config, ApiJudge) and config.serve
        is_remote = isinstance(config, OpenAIModel | ApiJudge) and not config.revision and not served_by_em
        if isinstance(config, OpenAIModel | ApiJudge) and is_remote and find_server_name(config.base_url):
            identity, note = find_served(config, calls, ask)
            notes += [note] if note else []
            if identity != find_server_name(config.base_url):
                config = replace(config, revision=identity)
        settled.append(config)
    return settled, list(dict.fromkeys(notes))


def note_changed_models(notes: Sequence[str], manifest: ManifestWriter) -> None:
    """Print the sentences on changed models, and note them for the top of the report."""
    for note in notes:
        print(note, flush=True)
        manifest.note(note)


def find_served(config: OpenAIModel | ApiJudge, calls: Calls, ask: bool) -> tuple[str, str]:
    """Return what is behind a model's name, and a sentence if that has changed since em last asked."""
    host, port = find_server_name(config.base_url), find_port(config.base_url)
    name = config.id if isinstance(config, OpenAIModel) else config.model
    here, first = ServedRequest(host, name, port), ServedRequest(host, name)
    remembered = calls.read_responses([request_key(here), request_key(first)])
    last, first_seen = remembered.get(request_key(here)), remembered.get(request_key(first))
    first_port = str(first_seen["port"]) if first_seen else port
    try:
        listed = asyncio.run(read_list(config, name)) if ask else None
    except ServerError:  # whoever needs the server reports it
        ask, listed = False, None
    if listed is None and (last or not ask):
        return str(last["identity"]) if last else describe_served(host, port, name, {}, first_port), ""
    identity = describe_served(host, port, name, (listed or {}).get(name, {}), first_port)
    calls.store_calls("served", [(first, {"identity": identity, "port": port})])
    calls.store_calls("served", [(here, {"identity": identity})], conflict="replace")
    before = str((last or first_seen or {}).get("identity", identity))
    if identity == before:
        return identity, ""
    return identity, (
        f"{name} at {host}:{port} is another model ({identity}) than before ({before}), so it is asked anew; "
        "if it is the same, name it by revision=TEXT beside base_url."
    )


def find_port(base_url: str | None) -> str:
    """Return the port of a server's address."""
    address = urlsplit(resolve_server_address(base_url))
    return str(address.port or (443 if address.scheme == "https" else 80))


async def read_list(config: OpenAIModel | ApiJudge, name: str) -> Mapping[str, Mapping[str, Any]] | None:
    """Return the server's models by name; None if it gives no list.

    Raises:
        ServerError: the server can't be reached, or refuses the key.
    """
    async with Client(config.base_url, 1, TIMEOUT, config.key_env) as client:
        return await list_models(client, name)


def describe_served(host: str, port: str, name: str, entry: Mapping[str, Any], first_port: str) -> str:
    """Return the identity of what is behind a name. `first_port`: the port that the host alone stands for."""
    root, parent = entry.get("root"), entry.get("parent")
    identity = host
    if not isinstance(root, str) or not root:
        identity += "" if port == first_port else f":{port}"
    elif root != name:
        identity += f" {root}"
    return f"{identity} of {parent}" if isinstance(parent, str) and parent else identity
