"""Records of model calls in a manifest: judges as recorded artefacts, and costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Number, tokens and price of calls of a model; None where unknown."""

    calls: float | None = None
    prompt_tokens: float | None = None
    reply_tokens: float | None = None
    usd: float | None = None


@dataclass(frozen=True)
class JudgeErrors:
    """Errors of a judge on model runs that it had not seen: AUROC for misaligned, mean error of a rate in points."""

    auroc: float
    rate_error: float


@dataclass(frozen=True)
class RecordedJudge(Usage):
    """A judge as a recorded artefact: its model, how it was prompted, how its replies were read, and its usage.

    label: its name in verdicts and scores. min_mass: probability of all numbers below which there is no score.
    words: the rule for CODE and REFUSAL (`judge.words`), empty for the default. word_verdicts: number of verdicts with
    such a word as the likeliest token; words_changed: how many of these the other rule would change.
    prompts: sha256 of the prompt of each rubric. snapshot: the model names that the server gave in its replies, or the
    checksum of the weights. errors: measured once, for the distilled judge.
    """

    name: str = ""
    label: str = ""
    model: str = ""
    server: str = ""
    identity: str = ""
    reading: str = ""
    rule: str = ""
    min_mass: float | None = None
    words: str = ""
    word_verdicts: int = 0
    words_changed: int = 0
    prompts: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    snapshot: tuple[str, ...] = ()
    errors: JudgeErrors | None = None


@dataclass(frozen=True)
class ModelCost(Usage):
    """The usage of one model for one purpose (`what`: sampling or judging)."""

    what: str = ""
    model: str = ""


@dataclass(frozen=True)
class Costs:
    """The costs of all calls whose replies are in a run, cached ones too.

    total_usd: None where a price is unknown. prices: source and date of the prices.
    """

    total_usd: float | None = None
    by: tuple[ModelCost, ...] = ()
    prices: str = ""
