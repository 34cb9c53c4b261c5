"""What a manifest tells of calls of models: judges as recorded artefacts, costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
    """What calls of a model took: None where it isn't known."""

    calls: float | None = None
    prompt_tokens: float | None = None
    reply_tokens: float | None = None
    usd: float | None = None


@dataclass(frozen=True)
class Judge(Usage):
    """A judge as a recorded artefact, and what it took: who it is, and how it is asked and read.

    label: its name in verdicts and scores. min_mass: probability of all numbers below which there is no score.
    prompts: sha256 of the prompt of each rubric. snapshot: what the server called itself in its replies.
    """

    name: str = ""
    label: str = ""
    model: str = ""
    server: str = ""
    identity: str = ""
    reading: str = ""
    rule: str = ""
    min_mass: float | None = None
    prompts: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    snapshot: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cost(Usage):
    """What one model was called for (`what`: sampling or judging), and what that took."""

    what: str = ""
    model: str = ""


@dataclass(frozen=True)
class Costs:
    """All calls whose answers are in a run, whenever they were made.

    total_usd: None where a price isn't known. prices: whose prices, and of when.
    """

    total_usd: float | None = None
    by: tuple[Cost, ...] = ()
    prices: str = ""
