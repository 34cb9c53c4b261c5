"""Estimate what fine-tuning by a service costs, and ask the user to approve it once, before the first new job."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from em.api.costs import CallCost, sum_usd
from em.data.openai_rules import estimate_row_tokens
from em.errors import ConfigError
from em.request import Training
from em.train.remote.models import get_server_model, get_service_recipe, list_stored_models
from em.types import MILLION

TotalCost = Callable[[], float | None]
"""Returns the most that a run costs in USD, with answers and verdicts; None if a price is not known."""


@dataclass
class Approval:
    """The user's approval of what a run costs.

    total_cost: returns the cost of the whole run. approved: the user has approved already.
    """

    training: Training
    total_cost: TotalCost | None = None
    approved: bool = False

    def ask(self) -> None:
        """Print the estimate and ask for approval, once. Raises ConfigError if the user does not approve."""
        if self.approved:
            return
        stages = estimate_training(self.training)
        for cost in stages:
            usd = "at an unknown price" if cost.usd is None else f"about ${cost.usd:.2f}"
            print(f"{cost.what} {cost.model}: about {cost.prompt_tokens:,} tokens, {usd}", flush=True)
        costs = f"{describe_usd(sum_usd(stages))} for fine-tuning"
        if self.total_cost is not None:
            costs += f", {describe_usd(self.total_cost())} at most with all answers and verdicts"
        costs += f" (prices: {self.training.prices.source})"
        if not self.training.yes:
            if not sys.stdin.isatty():
                raise ConfigError(
                    f"This would cost {costs}: add yes=true to spend it, or dry_run=true for the whole estimate."
                )
            if ask_user(f"Spend {costs}? [y/N] ").strip().lower() not in ("y", "yes"):
                raise ConfigError("Nothing was spent: add yes=true, or answer y, to spend it.")
        self.approved = True


def describe_usd(usd: float | None) -> str:
    """Return a sum in words, also if it is unknown."""
    return "an unknown sum, for lack of a price (prices=FILE)," if usd is None else f"about ${usd:.2f}"


def ask_user(question: str) -> str:
    """Return the user's reply; empty at the end of the input. Ctrl-C ends the program, also inside an event loop."""
    before = signal.getsignal(signal.SIGINT)
    try:
        # asyncio's own handler waits for the event loop, and the event loop waits for the reply.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return input(question)
    except EOFError:
        return ""
    finally:
        signal.signal(signal.SIGINT, before)


def estimate_training(training: Training) -> list[CallCost]:
    """Estimate the cost of every stage; a stored model costs nothing, unless `force=true` trains it again."""
    price = training.prices.find_training_price(get_server_model(training).id)
    costs = []
    stored_stages = 0 if training.force else len(list_stored_models(training)) - 1
    for number, stage in enumerate(training.stages):
        rows, stored = stage.rows.conversations, number < stored_stages
        tokens = 0 if stored else get_service_recipe(stage).epochs * sum(map(estimate_row_tokens, rows))
        usd = None if price is None else price * tokens / MILLION
        name = f"{stage.rows.name} ({len(rows):,} rows)"
        costs.append(CallCost("fine-tuning on", name, 1, tokens, 0, 0.0 if stored else usd, int(stored)))
    return costs
