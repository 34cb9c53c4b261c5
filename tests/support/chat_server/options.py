"""The server's settings: fields of `Options`, words of its command line, and the body of POST /reset."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Options:
    """Shares are probabilities from 0 to 1, times are seconds."""

    latency: float = 0.0
    """From a request to its answer; errors come at once."""
    seed: int = 0
    """Of the faults."""
    rate_limited: float = 0.0
    """Share of arrivals that get 429: Retry-After in seconds, as a date, in milliseconds, and missing, in turn."""
    retry_after: float = 1.0
    """What those 429s ask to wait."""
    server_errors: float = 0.0
    """Share of arrivals that get 500, 503 and 502 (with an HTML body), in turn."""
    dropped: float = 0.0
    """Share of arrivals whose connection ends: closed without a reply, reset, and within the body, in turn."""
    malformed: float = 0.0
    """Share of arrivals that get 200 with JSON that is broken, and with JSON that is no chat completion, in turn."""
    hangs: float = 0.0
    """Share of arrivals that are never answered."""
    refusals: float = 0.0
    """Share of prompts that are refused, always: by `message.refusal`, or by text."""
    codes: float = 0.0
    """Share of prompts on which the judge says CODE, though the numbers have a third of the mass."""
    garbled: float = 0.0
    """Share of prompts on which the judge says something else than what it was asked for."""
    unfit: float = 0.0
    """Share of an author's replies that are not of the form: broken JSON, other fields, prose, in turn."""
    repeats: float = 0.1
    """Share of an author's pairs and questions that nearly repeat one of a few stock ones."""
    content: str = "text"
    """What an author's `content` is: text, parts (a list of them, a thought among them) or odd (no text at all)."""
    uncounted: bool = False
    """Tell no `usage`."""
    blocked: float = 0.0
    """Share of prompts that are answered with 400 content_filter, always, whatever is asked of them."""
    rate: float = 0.0
    """Answers a second, by a token bucket; beyond it 429. 0: no limit."""
    burst: int = 0
    """Size of the bucket; 0: one second's worth."""
    limit_headers: bool = False
    """Send x-ratelimit-* headers, and Retry-After with the 429s of `rate`."""
    quota: int = -1
    """After so many answers 429 insufficient_quota, for good; -1: never."""
    key: str = ""
    """The only key that is let in; empty: any, or none."""
    models: str = "single-judge,digits-judge,plain-judge,reasoner-judge,effort-judge,writer-model"
    """What GET /v1/models lists; others are served too (see `models`)."""
    shutdown: str = ""
    """`id=YYYY-MM-DD,…` (or seconds since 1970): what /v1/models says of their end, from when they are not found."""
    fingerprint: str = "fp_chat_server"
    """`system_fingerprint` of all answers."""
    batch_seconds: float = 0.2
    """From the creation of a batch to its end."""
    batch_failed: float = 0.0
    """Share of a batch's lines that fail with 500."""
    batch_message: str = "The server had an error."
    """What lines that fail say."""
    batch_end: str = "completed"
    """How batches end: completed, expired (half of the lines are answered) or failed (none is)."""

    tunable: str = ""
    """Ids that can be fine-tuned, besides fine-tunes; empty: all that are listed."""
    tuning_seconds: float = 0.3
    """From the creation of a fine-tuning job to its end."""
    tuning_end: str = "succeeded"
    """How jobs end: succeeded, cancelled, or a failure (see `tuning`)."""
    tuning_message: str = ""
    """What failed jobs say instead of their own message."""
    tuning_fault: str = ""
    """What goes wrong with calls of fine-tuning, files and batches, as `CALL:FAULT[:COUNT],…` (see `tuning`)."""

    @property
    def listed(self) -> list[str]:
        """Ids of GET /v1/models."""
        return [each for each in self.models.split(",") if each]

    @property
    def shutdown_dates(self) -> dict[str, str]:
        """The last day of a model, by its id."""
        return dict(each.split("=", 1) for each in self.shutdown.split(",") if each)

    def changed(self, changes: Mapping[str, Any]) -> Options:
        """With other values for some fields.

        Raises:
            TypeError: there is no such field.
        """
        return replace(self, **changes)


def parse(words: Sequence[str]) -> tuple[int, Options]:
    """Port and options from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.chat_server")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    for each in fields(Options):
        word = "--" + each.name.replace("_", "-")
        if isinstance(each.default, bool):
            parser.add_argument(word, action="store_true")
        else:
            parser.add_argument(word, type=type(each.default), default=each.default)
    found = vars(parser.parse_args(words))
    return found.pop("port"), Options(**found)


def as_words(options: Options) -> list[str]:
    """The command line that gives these options."""
    words = []
    for each in fields(Options):
        value = getattr(options, each.name)
        if value != each.default:
            words.append("--" + each.name.replace("_", "-") + ("" if value is True else f"={value}"))
    return words
