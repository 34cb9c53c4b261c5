"""Summarise the measurements of `benchmarks.judge`: medians, ranges and ratios, beside the targets."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Figures = dict[str, Any]
TARGETS: tuple[tuple[str, str, float, str], ...] = (
    ("ratio_inspect", ">=", 5, "times as fast as inspect_ai"),
    ("ratio_asyncopenai", ">=", 1.3, "times as fast as plain AsyncOpenAI"),
    ("cpu_ms_per_call", "<=", 3, "ms of CPU (user and system) a call"),
    ("memory_growth_mb", "<", 100, "MB more at the end of the long run than after 2,000 calls"),
    ("cached_rows_per_s", ">=", 10_000, "verdicts a second from the cache"),
    ("rate_with_headers", ">=", 90, "calls a second at a limit of 100, with headers"),
    ("percent_429_with_headers", "<=", 2, "% of these calls refused"),
    ("rate_without_headers", ">=", 90, "calls a second at a limit of 100, without headers"),
    ("percent_429_without_headers", "<=", 2, "% of these calls refused"),
    ("killed_equal", ">=", 3, "of 3 killed runs ended with the same table"),
    ("killed_duplicates_within_flight", ">=", 3, "of them repeated no more calls than were in flight"),
)


def add_rounds(figures: Figures, rounds: Sequence[Mapping[str, Mapping[str, Any]]], calls: int) -> None:
    """Add medians and ranges of all rounds so far, and ratios within each round."""
    for variant in rounds[0]:
        results = [each[variant] for each in rounds]
        add_spread(figures, f"calls_per_second_{variant}", [calls / each["seconds"] for each in results], 1)
        cpu = [1000 * each["cpu_seconds"] / calls for each in results]
        add_spread(figures, "cpu_ms_per_call" if variant == "ours" else f"cpu_ms_per_call_{variant}", cpu, 3)
        figures[f"peak_memory_mb_{variant}"] = round(max(each["rss_mb_peak"] for each in results))
        figures[f"versions_{variant}"] = results[0]["versions"]
        if variant != "ours" and "ours" in rounds[0]:
            ratios = [each[variant]["seconds"] / each["ours"]["seconds"] for each in rounds]
            add_spread(figures, f"ratio_{variant}", ratios, 3)
    figures["rounds"] = len(rounds)


def add_spread(figures: Figures, name: str, values: Sequence[float], digits: int) -> None:
    """Add the median and the range of some values."""
    figures[name] = round(statistics.median(values), digits)
    figures[f"{name}_min"], figures[f"{name}_max"] = round(min(values), digits), round(max(values), digits)


def print_report(figures: Figures) -> None:
    """Print the table of the stacks, then the targets."""
    print(f"\n{'median (range)':22} {'calls/s':>22} {'ours : it':>22} {'CPU ms a call':>15} {'peak MB':>8}")
    for name in [key.removeprefix("versions_") for key in figures if key.startswith("versions_")]:
        cpu = figures["cpu_ms_per_call" if name == "ours" else f"cpu_ms_per_call_{name}"]
        speed, ratio = format_range(figures, f"calls_per_second_{name}", 0), format_range(figures, f"ratio_{name}", 2)
        memory = figures[f"peak_memory_mb_{name}"]
        versions = ", ".join(f"{package} {number}" for package, number in figures[f"versions_{name}"].items())
        print(f"{name:22} {speed:>22} {ratio:>22} {cpu:15.2f} {memory:8.0f}   {versions}")
    print()
    for name, sign, target, meaning in TARGETS:
        if name in figures:
            value = figures[name]
            met = {">=": value >= target, "<=": value <= target, "<": value < target}[sign]
            print(f"{name:32} {value:10.2f}   {sign:>2} {target:<6g} {'met' if met else 'MISSED':7} {meaning}")
    print(f"\n{figures['minutes']:.0f} minutes on {figures['cores']} cores, {figures['latency']} s latency")


def format_range(figures: Figures, name: str, digits: int) -> str:
    """Return a median with its range as text; empty if there is no such figure."""
    if name not in figures:
        return ""
    low, high = figures[f"{name}_min"], figures[f"{name}_max"]
    return f"{figures[name]:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
