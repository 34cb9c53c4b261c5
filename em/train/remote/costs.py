"""What fine-tuning by a server would cost, and whether it may be spent: asked once, before the first new job."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from em.api.prices import MILLION, Price, load_prices, prices_of, training_price
from em.data.openai_rules import row_tokens
from em.errors import ConfigError
from em.request import Training
from em.train.remote.models import models_there, recipe_of, server_model

Whole = Callable[[], float | None]
"""What a run costs at most, with answers and verdicts; None where a price is not known."""


@dataclass
class Approval:
    """Whether what the stages of a run cost, and the rest of it, may be spent."""

    training: Training
    whole: Whole | None = None
    given: bool = False

    def ask(self) -> None:
        """Raise ConfigError unless it may be spent."""
        if self.given:
            return
        settings = self.training
        lines = training_lines(self.training, load_prices(settings.prices))
        for line in lines:
            print(line.text, flush=True)
        known = all(line.usd is not None for line in lines)
        costs = f"{in_dollars(sum(line.usd or 0 for line in lines) if known else None)} for fine-tuning"
        if self.whole is not None:
            costs += f", {in_dollars(self.whole())} at most with all answers and verdicts"
        costs += f" (prices: {prices_of(settings.prices)})"
        if not settings.yes:
            if not sys.stdin.isatty():
                raise ConfigError(
                    f"This would cost {costs}: add yes=true to spend it, or dry_run=true for the whole estimate."
                )
            if answer(f"Spend {costs}? [y/N] ").strip().lower() not in ("y", "yes"):
                raise ConfigError("Nothing was spent: add yes=true, or answer y, to spend it.")
        self.given = True


def in_dollars(usd: float | None) -> str:
    """A sum in words."""
    return "an unknown sum, for lack of a price (prices=FILE)," if usd is None else f"about ${usd:.2f}"


def answer(question: str) -> str:
    """What is typed; nothing at the end of the input. Ctrl-C ends the program, also inside an event loop."""
    before = signal.getsignal(signal.SIGINT)
    try:
        # asyncio's own handler would wait for the loop, which waits for the answer.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return input(question)
    except EOFError:
        return ""
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class TrainingLine:
    """What a stage that is not there yet would take: tokens passed over, dollars (None without a price).

    known: the stage is remembered, and costs nothing.
    """

    name: str
    rows: int
    tokens: int
    usd: float | None
    known: bool

    @property
    def text(self) -> str:
        """It in words."""
        costs = "at an unknown price" if self.usd is None else f"about ${self.usd:.2f}"
        return f"fine-tuning on {self.name}: {self.rows:,} rows, about {self.tokens:,} tokens, {costs}"


def training_lines(training: Training, prices: Mapping[str, Price]) -> list[TrainingLine]:
    """The estimate of every stage; what is remembered costs nothing, unless it is trained again by force."""
    price = training_price(server_model(training).id, prices)
    lines = []
    there = 0 if training.force else len(models_there(training)) - 1
    for number, stage in enumerate(training.stages):
        known = number < there
        rows = stage.rows.conversations
        tokens = 0 if known else recipe_of(stage).epochs * sum(map(row_tokens, rows))
        usd = 0.0 if known else None if price is None else price * tokens / MILLION
        lines.append(TrainingLine(stage.rows.name, len(rows), tokens, usd, known))
    return lines
