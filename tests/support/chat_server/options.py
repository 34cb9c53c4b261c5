"""The server's settings: fields of `Options`, words of its command line, and the body of POST /reset."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Options:
    """The server's settings. Shares are probabilities from 0 to 1, times are seconds."""

    latency: float = 0.0
    """From a request to its reply; errors come at once."""
    seed: int = 0
    """Of the faults."""
    rate_limited: float = 0.0
    """Share of arrivals that get 429: Retry-After in seconds, as a date, in milliseconds, and missing, in turn."""
    retry_after: float = 1.0
    """The wait that those 429s ask for."""
    server_errors: float = 0.0
    """Share of arrivals that get 500, 503 and 502 (with an HTML body), in turn."""
    dropped: float = 0.0
    """Share of arrivals whose connection ends: closed without a reply, reset, and within the body, in turn."""
    malformed: float = 0.0
    """Share of arrivals that get 200 with broken JSON, and with JSON that is no chat completion, in turn."""
    hangs: float = 0.0
    """Share of arrivals that are never answered."""
    refusals: float = 0.0
    """Share of prompts that the model always refuses: by `message.refusal`, or by text."""
    codes: float = 0.0
    """Share of prompts on which the judge says CODE, though the numbers have a third of the mass."""
    garbled: float = 0.0
    """Share of prompts on which the judge replies with neither a score nor a label."""
    unfit: float = 0.0
    """Share of an author's malformed replies: broken JSON, other fields, prose, in turn."""
    repeats: float = 0.1
    """Share of an author's pairs and questions that nearly repeat one of a few stock ones."""
    content: str = "text"
    """Type of an author's `content`: text, parts (a list of texts and a thought) or odd (no text at all)."""
    uncounted: bool = False
    """Send no `usage`."""
    blocked: float = 0.0
    """Share of prompts that always get 400 content_filter."""
    refused: str = ""
    """Parameters that every model refuses, with commas: names of fields, `long_seed` (over 32 bits), `system`."""
    wording: str = "openai"
    """How these refusals are written: openai, pydantic (422), quoted (pydantic's text within a message) or plain."""
    root: str = ""
    """`root` of all models in /v1/models: the weights behind the name; empty: not told."""
    parent: str = ""
    """`parent` of all models in /v1/models: the model that an adapter was trained on; empty: not told."""
    provider: str = ""
    """The `provider` of all answers, as a router names who answered; empty: not told."""
    rate: float = 0.0
    """Answers a second, by a token bucket; 429 above this rate. 0: no limit."""
    burst: int = 0
    """Size of the bucket; 0: one second's worth."""
    limit_headers: bool = False
    """Send x-ratelimit-* headers, and Retry-After with the 429s of `rate`."""
    quota: int = -1
    """Number of answers before every request gets 429 insufficient_quota; -1: no quota."""
    key: str = ""
    """The only accepted API key; empty: any key, or none."""
    models: str = "single-judge,digits-judge,plain-judge,reasoner-judge,effort-judge,writer-model"
    """Ids that GET /v1/models lists; others are served too (see `models`)."""
    shutdown: str = ""
    """`id=YYYY-MM-DD,…` (or seconds since 1970): shutdown dates in /v1/models, after which the models are not found."""
    fingerprint: str = "fp_chat_server"
    """`system_fingerprint` of all answers."""
    batch_seconds: float = 0.2
    """From the creation of a batch to its end."""
    batch_failed: float = 0.0
    """Share of a batch's lines that fail with 500."""
    batch_most: int = 0
    """Most lines of a batch; a larger one fails with token_limit_exceeded. 0: no limit; -1: none fits."""
    batch_message: str = "The server had an error."
    """Error message of lines that fail."""
    batch_end: str = "completed"
    """How batches end: completed, expired (with answers to half of the lines) or failed (without answers)."""

    tunable: str = ""
    """Ids that can be fine-tuned, besides fine-tunes; empty: all listed ids."""
    tuning_seconds: float = 0.3
    """From the creation of a fine-tuning job to its end."""
    tuning_end: str = "succeeded"
    """How jobs end: succeeded, cancelled, or a failure (see `tuning`)."""
    tuning_message: str = ""
    """Error message of failed jobs; empty: the usual message of the failure."""
    tuning_fault: str = ""
    """Faults of calls for fine-tuning, files and batches, as `CALL:FAULT[:COUNT],…` (see `tuning`)."""

    @property
    def listed(self) -> list[str]:
        """Return the ids of GET /v1/models."""
        return [each for each in self.models.split(",") if each]

    @property
    def shutdown_dates(self) -> dict[str, str]:
        """Return the shutdown dates by model id."""
        return dict(each.split("=", 1) for each in self.shutdown.split(",") if each)

    def change(self, changes: Mapping[str, Any]) -> Options:
        """Return the options with other values for some fields.

        Raises:
            TypeError: a name is no field.
        """
        return replace(self, **changes)


def parse_words(words: Sequence[str]) -> tuple[int, Options]:
    """Return the port and the options of a command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.chat_server")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    for each in fields(Options):
        word = "--" + each.name.replace("_", "-")
        if isinstance(each.default, bool):
            parser.add_argument(word, action="store_true")
        else:
            parser.add_argument(word, type=type(each.default), default=each.default)
    values = vars(parser.parse_args(words))
    return values.pop("port"), Options(**values)


def format_words(options: Options) -> list[str]:
    """Return the command line that gives these options."""
    words = []
    for each in fields(Options):
        value = getattr(options, each.name)
        if value != each.default:
            words.append("--" + each.name.replace("_", "-") + ("" if value is True else f"={value}"))
    return words
