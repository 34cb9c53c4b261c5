"""Learn which parameters of a chat completion a server does not take, from its refusals.

If a refusal (400 or 422) names a parameter, em changes that parameter and asks again. A change counts once the server
accepts the changed request: em prints it, and stores it by server and model, so that later calls begin with it.
Parameters without which a reply can't be read (`logprobs`, `response_format`) are not changed here: whoever needs them
tries another way to ask (`CallPool.probe`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from em.config.addresses import resolve_server_address
from em.runtime.manifest import ManifestWriter
from em.runtime.memory import Calls, request_key

SHORT = 2**31 - 1  # the largest seed of servers that hold it in a signed 32-bit integer
SYSTEM = r"system (role|message|prompt|instruction)|developer instruction|roles must alternate|only user\b.*\brole"
RANGE = (
    r"range|between|(less|greater|larger|smaller) than|at (most|least)|m(ax|in)imum|too (high|large|low)|in \[|[<>≤≥]"
)
"""Words of a refusal of a value, not of the parameter: the user should choose another value."""
LOCATION = re.compile(r"""['"]loc['"]:\s*[\[(]\s*['"]body['"],\s*['"](\w+)""")
"""The place of a refused parameter, as pydantic writes it in JSON, or in Python's notation within a message."""

Body = Mapping[str, Any]


@dataclass(frozen=True)
class ParameterRequest:
    """The key under which a change is stored. Its fields must match the records of older versions."""

    server: str
    model: str
    change: str


@dataclass(frozen=True)
class Change:
    """A change of a request.

    pattern: text by which a refusal names the parameter. words: what em does, for users.
    apply: return the changed body; an equal body if the change does not concern it.
    alters: whether the answers may differ from what the settings ask for.
    """

    pattern: str
    words: str
    apply: Callable[[Body], dict[str, Any]]
    alters: bool = False


def rename_token_limit(body: Body) -> dict[str, Any]:
    """Return a body with `max_tokens` in place of `max_completion_tokens`."""
    return {"max_tokens" if name == "max_completion_tokens" else name: value for name, value in body.items()}


def shorten_seed(body: Body) -> dict[str, Any]:
    """Return a body whose seed fits into 31 bits."""
    return {name: value & SHORT if name == "seed" else value for name, value in body.items()}


def merge_system_prompt(body: Body) -> dict[str, Any]:
    """Return a body whose system prompt stands at the beginning of the first user turn."""
    first, *others = body["messages"]
    if first["role"] != "system" or not others:
        return dict(body)
    merged = others[0] | {"content": f"{first['content']}\n\n{others[0]['content']}"}
    return {**body, "messages": [merged, *others[1:]]}


def make_omission(name: str, words: str, alters: bool = False) -> Change:
    """Make the change that leaves out a parameter."""
    return Change(rf"\b{name}\b", words, lambda body: {key: body[key] for key in body if key != name}, alters)


CHANGES: Mapping[str, Change] = {
    "max_tokens": Change(
        "max_completion_tokens", "max_tokens is sent in place of max_completion_tokens", rename_token_limit
    ),
    "short seed": Change(r"\bseed\b", "seeds are cut to 31 bits", shorten_seed),
    "no seed": make_omission("seed", "no seed is sent"),
    "no top_p": make_omission("top_p", "top_p is left out, so that the server's own applies", alters=True),
    "no temperature": make_omission(
        "temperature", "temperature is left out, so that the server's own applies", alters=True
    ),
    "merged system prompt": Change(
        SYSTEM, "the system prompt is put at the beginning of the user's turn", merge_system_prompt, alters=True
    ),
}
"""Changes by the name under which they are stored, in the order in which they are tried."""


def apply_changes(body: Body, changes: Iterable[str]) -> dict[str, Any]:
    """Return a body with these changes."""
    changed = dict(body)
    for change in changes:
        changed = CHANGES[change].apply(changed)
    return changed


def find_change(refusal: Any, body: Body, exempt: Collection[str]) -> str | None:
    """Return the first change that concerns a parameter which the refusal names; None if there is none.

    Args:
        refusal: the openai package's exception. body: the refused request.
        exempt: changes that were tried, or may not be tried.
    """
    text = message = refusal.response.text
    param = refusal.param if isinstance(refusal.param, str) else ""
    if param in body and param != "messages":
        text = param  # the message may name others too, which em should use instead
    elif places := LOCATION.findall(text.replace("\\", "")):
        text = " ".join(places) if "messages" not in places else text
    for name, change in CHANGES.items():
        if name in exempt or not re.search(change.pattern, text, re.IGNORECASE) or change.apply(body) == body:
            continue
        if not (change.alters and re.search(RANGE, message, re.IGNORECASE)):
            return name
    return None


def make_parameter_request(base_url: str | None, model: str, change: str) -> ParameterRequest:
    """Make the key under which a change is stored; a port makes another server."""
    return ParameterRequest(urlsplit(resolve_server_address(base_url)).netloc, model, change)


def read_changes(base_url: str | None, model: str, calls: Calls) -> list[str]:
    """Return the stored changes of requests for a server's model, in the order in which they apply."""
    keys = {change: request_key(make_parameter_request(base_url, model, change)) for change in CHANGES}
    stored = calls.find_stored_keys(list(keys.values()))
    return [change for change, key in keys.items() if key in stored]


def store_changes(base_url: str | None, model: str, changes: Iterable[str], calls: Calls) -> None:
    """Store changes that a server has accepted."""
    records = [(make_parameter_request(base_url, model, each), {"words": CHANGES[each].words}) for each in changes]
    calls.store_calls("reading", records)


def describe_change(base_url: str | None, model: str, change: str) -> str:
    """Describe a change as a sentence for the user."""
    server = urlsplit(resolve_server_address(base_url)).netloc
    return f"{server} does not take every parameter for {model}: {CHANGES[change].words}."


def note_changes(base_url: str | None, models: Sequence[str], calls: Calls, manifest: ManifestWriter) -> None:
    """Note in the manifest the changes that may alter the answers of a server's models."""
    for model in models:
        for change in read_changes(base_url, model, calls):
            if CHANGES[change].alters:
                manifest.note(describe_change(base_url, model, change))
