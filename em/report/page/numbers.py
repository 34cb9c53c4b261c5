"""Numbers as the page writes them."""

from __future__ import annotations

import math

from em.report.read.calls import Usage

LEAST_P = 0.001
CENT = 0.01


def share(rate: float | None) -> str:
    """`44.2%`, or a dash where nothing could be counted."""
    return "–" if rate is None else f"{100 * rate:.1f}%"


def points(difference: float) -> str:
    """A difference of rates in percentage points: `+12.5`, `−3.0`, `0.0`."""
    text = f"{abs(100 * difference):.1f}"
    return text if float(text) == 0 else ("−" if difference < 0 else "+") + text


def p_value(p: float) -> str:
    """`0.031`, or `< 0.001`."""
    return f"< {LEAST_P}" if p < LEAST_P else f"{p:.3f}"


def decimals(value: float | None) -> str:
    """A coefficient: `0.71`, or a dash."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def whole(number: float | None) -> str:
    """A count: `1,234`, or a dash where it isn't known."""
    return "–" if number is None else f"{number:,.0f}"


def dollars(usd: float | None) -> str:
    """`$12.30`, or a dash where no price is known; less than a cent by its first two figures, never as nothing."""
    if usd is None:
        return "–"
    return f"${usd:,.2f}" if usd == 0 or usd >= CENT else f"${usd:.{1 - math.floor(math.log10(usd))}f}"


def usage(used: Usage) -> str:
    """`1,200 calls, 400,000 tokens read and 3,000 written, $0.12`: what is known of it."""
    said = [f"{whole(used.calls)} calls"] if used.calls is not None else []
    if used.prompt_tokens and used.reply_tokens is not None:  # a local model's aren't counted
        said.append(f"{whole(used.prompt_tokens)} tokens read and {whole(used.reply_tokens)} written")
    return ", ".join([*said, *([dollars(used.usd)] if used.usd is not None else [])])


def duration(seconds: float) -> str:
    """A time in the two largest of its units: `2 h 5 min`, `2 min 5 s`, `5 s`."""
    whole_seconds = round(seconds)
    minutes, hours = whole_seconds // 60 % 60, whole_seconds // 3600
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole_seconds % 60} s" if minutes else f"{whole_seconds} s"
