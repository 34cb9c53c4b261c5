"""Resources that every program opens once per run: prices, judges and the memory of calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from em.api.prices import load_prices
from em.config import GenerateRun, RunConfig, SingleJudge
from em.errors import ConfigError
from em.runtime.files import find_cache_folder, make_writable_folder
from em.runtime.memory import Calls
from em.types import Prices


@dataclass(frozen=True)
class Resources:
    """Prices by model, the settings of the judges, and the open memory of calls."""

    prices: Prices
    judges: tuple[SingleJudge, ...]
    memory: Calls


def open_resources(settings: RunConfig | GenerateRun, *budgets: tuple[str, str, float | None]) -> Resources:
    """Read the prices, list the judges, check the budgets, then open the memory of calls.

    Args:
        budgets: budgets besides those of the judges, as (option, model, dollars).
    """
    prices, judges = load_prices(settings.prices), tuple(settings.judge.list_members())
    judging = [("judge.max_usd", judge.model, vars(judge)["max_usd"]) for judge in judges if judge.remote]
    for setting, model, budget in [*judging, *budgets]:
        if budget is not None and prices.find_price(model) is None:
            raise ConfigError(f"{setting} can't be kept: no price of {model} is known; add it by prices=FILE.")
    store = Path(settings.store.dir).expanduser() if settings.store.dir else find_cache_folder()
    make_writable_folder(store, "store.dir")
    return Resources(prices, judges, Calls(store))
