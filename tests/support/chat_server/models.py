"""The kinds of models of the server, by the beginning of their names, and the parameters that each kind refuses.

| name | like | what it does |
|---|---|---|
| `digits-…` | an open model behind vLLM | numbers in digits; a begun reply is continued (`continue_final_message`) |
| `turns-…` | an open server of another kind | the same, but a begun reply counts as a finished turn |
| `plain-…` | a server without log-probabilities | ignores `logprobs` |
| `reasoner-…` | the o-series | refuses temperature, top_p, logprobs and max_tokens; thinks for 64 tokens |
| `effort-…` | gpt-6-luna | a reasoner; accepts these parameters with `reasoning_effort="none"` |
| `writer-…` | a model under test | answers with a few sentences |
| `author-…` | a model that writes data | pairs, questions or answers as JSON (see `authors`) |
| `poet-…` | the same behind another server | refuses `response_format` |
| `missing-…` | a deleted model | 404 |
| any other | gpt-4o | 0..100 are single tokens |

Names of OpenAI's models belong to these kinds too (`OPENAI`), and a fine-tune `ft:NAME:…` is of the kind of NAME.
gpt-4o and gpt-4.1 act as judges if the prompt asks for a score or a label, else as models under test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OPEN = ("digits", "turns")
AUTHORS = ("author", "poet")
PREFIXES = (*OPEN, *AUTHORS, "plain", "reasoner", "effort", "writer", "missing")
OPENAI = {"o1": "reasoner", "o3": "reasoner", "o4": "reasoner"}
JUDGED = re.compile(r"\b0 ?(?:to|-|–|and) ?100\b|\bTRUE\b|\bLabel:")
"""Words in the prompts of judges."""
WRITERS = ("gpt-4o", "gpt-4.1")
HEADER = 5
"""Tokens of a turn besides its text."""
THOUGHTS = 64
"""Tokens that a reasoner spends before its reply."""
OF_OPEN_SERVERS = ("continue_final_message", "add_generation_prompt")


class Refused(Exception):
    """The error that answers a request: status and OpenAI's error object."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 429 else "server_error"
        kind = {"insufficient_quota": "insufficient_quota", "rate_limit_exceeded": "requests"}.get(code or "", kind)
        self.body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Call:
    """A request for a chat completion. `prefill`: the begun reply; `bound`: tokens of a reply, at most."""

    model: str
    prompt: str
    prefill: str
    prompt_tokens: int
    choices: int
    bound: int | None
    greedy: bool
    seed: int
    top: int | None
    schema: Mapping[str, Any] | None
    json_mode: bool
    reasoning: int
    writes: bool = False

    @property
    def family(self) -> str:
        """Return the kind of the model, which decides how it behaves."""
        named = find_model_kind(self.model)
        return (
            "writer" if named == "single" and find_base_name(self.model).startswith(WRITERS) and self.writes else named
        )


def find_base_name(model: str) -> str:
    """Return the name of a model, or of the base of a fine-tune."""
    return model.split(":")[1] if model.startswith("ft:") else model


def find_model_kind(model: str) -> str:
    """Return the kind of a model, from its name."""
    first = find_base_name(model).split("-", 1)[0]
    if first in OPENAI:
        return OPENAI[first]
    if find_base_name(model).startswith("gpt-6"):
        return "effort"
    return first if first in PREFIXES else "single"


def read_call(body: Any) -> Call:
    """Check a request's body as the server of its model would, and return the call.

    Raises:
        Refused: the model is unknown or refuses a parameter, or the body is no request.
    """
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise Refused(400, "you must provide a model parameter")
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise Refused(400, "'messages' must be a list of messages", param="messages")
    family = find_model_kind(body["model"])
    if family == "missing":
        raise make_not_found(body["model"])
    thinks = family == "reasoner" or (family == "effort" and body.get("reasoning_effort") != "none")
    check_body(body, family, thinks)
    messages = list(body["messages"])
    prefill = ""
    tokens = HEADER * len(messages) + len("".join(map(join_text, messages))) // 4
    if body.get("continue_final_message") and messages[-1]["role"] == "assistant":
        begun = messages.pop()["content"]
        if family == "digits":
            prefill = begun
            tokens -= HEADER
    shape = body.get("response_format") or {}
    return Call(
        model=body["model"],
        prompt="\n".join(join_text(message) for message in messages),
        prefill=prefill,
        prompt_tokens=tokens,
        choices=body.get("n") or 1,
        bound=body.get("max_completion_tokens") or body.get("max_tokens"),
        greedy=body.get("temperature") == 0,
        seed=body.get("seed") or 0,
        top=(body.get("top_logprobs") or 0) if body.get("logprobs") and family != "plain" else None,
        schema=shape["json_schema"]["schema"] if shape.get("type") == "json_schema" else None,
        json_mode=shape.get("type") == "json_object",
        reasoning=THOUGHTS if thinks else 0,
        writes=not JUDGED.search("\n".join(map(join_text, messages))),
    )


def check_body(body: Mapping[str, Any], family: str, thinks: bool) -> None:
    """Raise Refused for the first parameter that the model's server would refuse."""
    if family == "poet" and body.get("response_format"):
        raise Refused(400, "'response_format' is not supported by this server.", "unsupported_value", "response_format")
    if body.get("stream"):
        raise Refused(400, "Streaming is not supported by this server.", "unsupported_value", "stream")
    if thinks:
        for name in ("temperature", "top_p", "logprobs", "top_logprobs", "max_tokens"):
            value = body.get(name)
            usual = value is None or value is False or (name in ("temperature", "top_p") and value == 1)
            if not usual:
                hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                text = f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
                raise Refused(400, text, "unsupported_parameter", name)
    if family not in OPEN:
        for name in OF_OPEN_SERVERS:
            if name in body:
                raise Refused(400, f"Unrecognized request argument supplied: {name}", "unknown_parameter", name)
    elif body.get("continue_final_message") and body.get("add_generation_prompt", True):
        raise Refused(400, "Cannot set both 'continue_final_message' and 'add_generation_prompt' to True.")
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        text = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise Refused(400, text, "invalid_parameter_combination", "max_tokens")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise Refused(400, "'top_logprobs' is only allowed with 'logprobs'.", None, "top_logprobs")
    for name, low, high in (("top_logprobs", 0, 20), ("n", 1, 128), ("temperature", 0, 2), ("max_tokens", 1, 10**6)):
        value = body.get(name)
        if value is not None and not low <= value <= high:
            raise Refused(400, f"Invalid '{name}': {value} is not in [{low}, {high}].", None, name)


def refuse_parameters(body: Any, refused: str, wording: str) -> None:
    """Raise Refused for the first parameter of the body that the server does not take, in one of the usual wordings."""
    messages = body.get("messages") or [{}]
    for name in filter(None, refused.split(",")):
        if name == "system":
            if messages[0].get("role") == "system":
                raise Refused(400, "System role not supported")
            continue
        field = name.removeprefix("long_")
        if field not in body or (name == "long_seed" and body["seed"] < 2**31):
            continue
        detail = [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted"}]
        match wording:
            case "pydantic":
                refusal = Refused(422, "")
                refusal.body = {"detail": detail}
            case "quoted":
                refusal = Refused(400, str([detail[0] | {"loc": ("body", field)}]))
            case "plain":
                refusal = Refused(400, f"property '{field}' is unsupported")
            case _:
                text = f"Unsupported parameter: '{field}' is not supported with this model."
                refusal = Refused(400, text, "unsupported_parameter", field)
        raise refusal


def join_text(message: Mapping[str, Any]) -> str:
    """Return a message's text, joined from its parts."""
    content = message.get("content")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or [])


def make_not_found(model: str) -> Refused:
    """Make the error for an unknown model."""
    return Refused(404, f"The model '{model}' does not exist or you do not have access to it.", "model_not_found")
