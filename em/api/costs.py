"""Costs of server calls, made or estimated: the record, its sum, its form on the screen and on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from em.runtime.records import format_table
from em.types import Price

CHARACTERS = 4  # per token


@dataclass(frozen=True)
class CallCost:
    """Calls of one kind: tokens (None if the server did not count them) and dollars (None without a price).

    cached_calls: in an estimate, the number of calls that are remembered already and cost nothing.
    """

    what: str
    model: str
    calls: int
    prompt_tokens: int | None
    reply_tokens: int | None
    usd: float | None
    cached_calls: int = 0


def sum_usd(costs: Iterable[CallCost]) -> float | None:
    """Return the dollars of all calls; None if any cost is unknown."""
    usd = [cost.usd for cost in costs]
    return None if None in usd else sum(each or 0.0 for each in usd)


def read_judge_cost(record: Mapping[str, Any]) -> CallCost:
    """Return the cost of a judge from its record in the manifest."""
    r = record
    return CallCost("judging", r["model"], r["calls"], r["prompt_tokens"], r["reply_tokens"], r["usd"])


def compute_call_cost(price: Price | None, prompt_tokens: int, reply_tokens: int, share: float = 1.0) -> float | None:
    """Return the dollars of calls; None without a price. `share`: 0.5 for batches."""
    return None if price is None else price.compute_cost(prompt_tokens, reply_tokens, share=share)


def record_costs(costs: Sequence[CallCost], source: str = "") -> dict[str, Any]:
    """Return the entry `costs` of a manifest or card: one row per cost, and the total (None if any is unknown).

    Args:
        source: name and day of the price table.
    """
    total = sum_usd(costs)
    rows = [{key: value for key, value in asdict(cost).items() if key != "cached_calls"} for cost in costs]
    record: dict[str, Any] = {"total_usd": None if total is None else round(total, 6), "by": rows}
    return record | {"prices": source} if source else record


def read_costs(record: Mapping[str, Any] | None) -> list[CallCost]:
    """Return the rows that `record_costs` wrote into a manifest."""
    return [CallCost(**row) for row in (record or {}).get("by", [])]


def format_estimate(costs: Sequence[CallCost]) -> list[str]:
    """Return an estimate as lines of text: a table with a header."""
    rows: list[tuple[str, ...]] = [(" " * 44, "   calls", "   known", "  tokens in", " tokens out", "  dollars")]
    for cost in costs:
        counts = (f"{n or 0:,}" for n in (cost.calls, cost.cached_calls, cost.prompt_tokens, cost.reply_tokens))
        label = f"{cost.what} {cost.model}"[:44]
        rows.append((label, *counts, "unknown" if cost.usd is None else f"{cost.usd:.4f}"))
    return format_table(rows, right=range(1, 6))
