"""What a manifest tells of calls of models: judges as recorded artefacts, costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from em.report.read.records import Fields


@dataclass(frozen=True)
class Usage:
    """What calls of a model took: None where it isn't known."""

    calls: float | None
    prompt_tokens: float | None
    reply_tokens: float | None
    usd: float | None


@dataclass(frozen=True)
class Judge:
    """A judge as a recorded artefact: who it is, and how it is asked and read.

    label: its name in verdicts and scores. min_mass: probability of all numbers below which there is no score.
    prompts: sha256 of the prompt of each rubric. snapshot: what the server called itself in its replies.
    """

    name: str
    label: str
    model: str
    server: str
    identity: str
    reading: str
    rule: str
    min_mass: float | None
    prompts: dict[str, Any]
    parameters: dict[str, Any]
    snapshot: tuple[str, ...]
    usage: Usage


@dataclass(frozen=True)
class Cost:
    """What one model was called for (`what`: sampling or judging), and what that took."""

    what: str
    model: str
    usage: Usage


@dataclass(frozen=True)
class Costs:
    """All calls whose answers are in a run, whenever they were made.

    total_usd: None where a price isn't known. prices: whose prices, and of when.
    """

    total_usd: float | None
    by: tuple[Cost, ...]
    prices: str = ""


def read_judges(fields: Fields) -> tuple[Judge, ...]:
    """The judges of a manifest; older ones name a single one."""
    several: Sequence[dict[str, Any]] = fields.items("judges", dict)
    one = fields.inner("judge").document
    return tuple(_judge(Fields(fields.path, judge)) for judge in several or ([one] if one else []))


def _judge(fields: Fields) -> Judge:
    return Judge(
        **{key: fields.text(key) for key in ("name", "label", "model", "server", "identity", "reading", "rule")},
        min_mass=fields.amount("min_mass"),
        prompts=fields.inner("prompts").document,
        parameters=fields.inner("parameters").document,
        snapshot=fields.texts("snapshot"),
        usage=_usage(fields),
    )


def read_costs(fields: Fields) -> Costs:
    """What the calls of a run took."""
    by = [Fields(fields.path, cost) for cost in fields.items("by", dict)]
    told = tuple(Cost(c.text("what"), c.text("model"), _usage(c)) for c in by)
    return Costs(fields.amount("total_usd"), told, fields.text("prices"))


def _usage(fields: Fields) -> Usage:
    return Usage(*(fields.amount(key) for key in ("calls", "prompt_tokens", "reply_tokens", "usd")))
