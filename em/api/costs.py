"""Costs as a table: calls, tokens and dollars by model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    head = f"{'':44} {'calls':>9} {'known':>9} {'tokens in':>12} {'tokens out':>12} {'dollars':>10}"
    return [
        head,
        *(
            f"{line.what[:44]:44} {line.calls:>9,} {line.known:>9,} {line.prompt_tokens:>12,} {line.reply_tokens:>12,} "
            f"{'unknown' if line.usd is None else f'{line.usd:.4f}':>10}"
            for line in lines
        ),
    ]
