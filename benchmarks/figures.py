"""Summarise the measurements of `benchmarks.train`: medians, ranges and ratios, as figures and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.children import Measurement

Figures = dict[str, float]
Round = dict[tuple[str, str], Measurement]
"""The measurements of one round, by data set and variant."""


def summarise_rounds(figures: Figures, rounds: Sequence[Round], defaults: Sequence[Measurement]) -> None:
    """Put medians and ranges of all measurements so far into the figures.

    Args:
        defaults: the measurements of TRL's defaults, one for each data set; no round contains them.
    """
    extra = {(each.data, each.variant): each for each in defaults}
    pairs = list(dict.fromkeys([key for each in rounds for key in each] + list(extra)))
    for data, variant in pairs:
        measured = [each[data, variant] for each in rounds if (data, variant) in each]
        measured += [extra[data, variant]] if (data, variant) in extra else []
        add_speed_and_memory(figures, measured)
        if variant != "ours":
            add_ratios(figures, rounds, measured[0], (data, variant) in extra)
    for variant in dict.fromkeys(variant for _, variant in pairs):
        ratios = [figures[name] for data, _ in pairs if (name := f"ratio_{variant}_{data}") in figures]
        if ratios:
            figures[f"ratio_{variant}"] = round(statistics.geometric_mean(ratios), 3)


def add_speed_and_memory(figures: Figures, measured: Sequence[Measurement]) -> None:
    """Add the figures of one variant on one data set: speed and memory."""
    name = f"{measured[0].variant}_{measured[0].data}"
    add_spread(figures, f"tokens_per_second_{name}", [each.speed for each in measured], 1)
    figures[f"peak_memory_mb_{name}"] = round(max(each.peak_mb for each in measured))
    figures[f"measurements_{name}"] = len(measured)


def add_ratios(figures: Figures, rounds: Sequence[Round], peer: Measurement, once: bool) -> None:
    """Add the ratio of speeds, ours : peer, by round; compare a peer measured `once` with ours of every round."""
    ours, theirs = (peer.data, "ours"), (peer.data, peer.variant)
    both = [each for each in rounds if ours in each and (once or theirs in each)]
    ratios = [each[ours].speed / (peer if once else each[theirs]).speed for each in both]
    if once:
        figures[f"steps_{peer.variant}_{peer.data}"] = peer.steps
    if ratios:
        add_spread(figures, f"ratio_{peer.variant}_{peer.data}", ratios, 3)


def add_spread(figures: Figures, name: str, values: Sequence[float], digits: int) -> None:
    """Add the median and the range of some values."""
    figures[name] = round(statistics.median(values), digits)
    figures[f"{name}_min"], figures[f"{name}_max"] = round(min(values), digits), round(max(values), digits)


def print_summary(figures: Figures, data: Sequence[str], variants: Sequence[str]) -> None:
    """Print the table of medians, and the means of the ratios."""
    head = f"{'median (range)':14} {'variant':12} {'n':>2} {'tokens/s':>17} {'ours : it':>19}"
    print(f"\n{head} {'peak MB':>8}")
    for name in data:
        for variant in variants:
            if f"tokens_per_second_{variant}_{name}" in figures:
                print(format_line(figures, name, variant))
    for name in data:
        steps = figures.get(f"steps_trl_defaults_{name}")
        if steps is not None:
            how = f"extrapolated from {steps:.0f} steps" if steps else "an upper bound from zero steps"
            print(f"trl_defaults on {name}: {how} of 8 rows")
    for variant in variants:
        if f"ratio_{variant}" in figures:
            print(f"ours : {variant:13} {figures[f'ratio_{variant}']:6.2f}")


def format_line(figures: Figures, data: str, variant: str) -> str:
    """Return a line of the table."""
    name = f"{variant}_{data}"
    speed, ratio = format_range(figures, f"tokens_per_second_{name}", 0), format_range(figures, f"ratio_{name}", 2)
    count, peak = figures[f"measurements_{name}"], figures[f"peak_memory_mb_{name}"]
    return f"{data:14} {variant:12} {count:2.0f} {speed:>17} {ratio:>19} {peak:8.0f}"


def format_range(figures: Figures, name: str, digits: int) -> str:
    """Return a median with its range as text; empty if there is no such figure."""
    if name not in figures:
        return ""
    low, high = figures[f"{name}_min"], figures[f"{name}_max"]
    return f"{figures[name]:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
