"""Formats of numbers on the page."""

from __future__ import annotations

import math

from em.report.read.calls import Usage

LEAST_P = 0.001
CENT = 0.01


def format_percent(rate: float | None) -> str:
    """Format a rate: `44.2%`, or a dash for None."""
    return "–" if rate is None else f"{100 * rate:.1f}%"


def format_bound(share: float) -> str:
    """Format an upper bound in whole percent, rounded up: `5%` for 4.2 %."""
    return f"{math.ceil(round(100 * share, 6))}%"


def format_points(difference: float) -> str:
    """Format a difference of rates in percentage points: `+12.5`, `−3.0`, `0.0`."""
    text = f"{abs(100 * difference):.1f}"
    if float(text) == 0:
        return text
    return f"−{text}" if difference < 0 else f"+{text}"


def format_p_value(p: float) -> str:
    """Format a p value: `0.031`, or `< 0.001`; with two more digits next to a level, so that its side is seen."""
    if p < LEAST_P:
        return f"< {LEAST_P}"
    text = f"{p:.3f}"
    return f"{p:.5f}" if text in ("0.050", "0.025") else text


def format_coefficient(value: float | None) -> str:
    """Format a coefficient: `0.71`, or a dash for None."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def format_whole_number(number: float | None) -> str:
    """Format a count: `1,234`, or a dash for None."""
    return "–" if number is None else f"{number:,.0f}"


def format_dollars(usd: float | None) -> str:
    """Format a cost: `$12.30`, or a dash for None; below a cent with two significant digits, so it is never zero."""
    if usd is None:
        return "–"
    return f"${usd:,.2f}" if usd == 0 or usd >= CENT else f"${usd:.{1 - math.floor(math.log10(usd))}f}"


def format_usage(used: Usage) -> str:
    """Format the known parts of a usage: `1,200 calls, 400,000 input and 3,000 output tokens, $0.12`."""
    parts = [f"{format_whole_number(used.calls)} calls"] if used.calls is not None else []
    if used.prompt_tokens and used.reply_tokens is not None:  # tokens of a local model are not counted
        read, written = format_whole_number(used.prompt_tokens), format_whole_number(used.reply_tokens)
        parts.append(f"{read} input and {written} output tokens")
    if used.usd is not None:
        parts.append(format_dollars(used.usd))
    return ", ".join(parts)


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units: `2 h 5 min`, `2 min 5 s`, `5 s`."""
    rounded = round(seconds)
    minutes, hours = rounded // 60 % 60, rounded // 3600
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rounded % 60} s" if minutes else f"{rounded} s"
