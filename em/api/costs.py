"""Costs as a table: calls, tokens and dollars by model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from em.runtime.records import format_table

CHARACTERS = 4  # per token


@dataclass(frozen=True)
class Line:
    """One row of the estimate."""

    what: str
    calls: int
    known: int
    prompt_tokens: int
    reply_tokens: int
    usd: float | None


def total_of(lines: Sequence[Line]) -> float | None:
    """Dollars of all rows; None where one is not known."""
    known = [line.usd for line in lines if line.usd is not None]
    return sum(known) if len(known) == len(lines) else None


def table(lines: Sequence[Line]) -> list[str]:
    """The rows as text, below a head."""
    rows: list[tuple[str, ...]] = [(" " * 44, "   calls", "   known", "  tokens in", " tokens out", "  dollars")]
    for line in lines:
        counts = (f"{count:,}" for count in (line.calls, line.known, line.prompt_tokens, line.reply_tokens))
        rows.append((line.what[:44], *counts, "unknown" if line.usd is None else f"{line.usd:.4f}"))
    return format_table(rows, right=range(1, 6))
