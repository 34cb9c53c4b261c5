"""What `benchmarks.train` makes of its measurements: medians, ranges and ratios, as figures and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.children import Measurement

Figures = dict[str, float]
Round = dict[tuple[str, str], Measurement]
"""The measurements of one round, by data set and variant."""
TARGETS: dict[str, float] = {"trl_defaults": 10, "trl_padded": 2, "trl_packed": 1.4, "hf_trainer": 1.6}


def sum_up(
    figures: Figures, rounds: Sequence[Round], defaults: Sequence[Measurement], slices: Mapping[str, Any]
) -> None:
    """Put medians and ranges of all that was measured so far into the figures.

    Args:
        defaults: the measurements of TRL's defaults, one for each data set, which are in no round.
    """
    extra = {(each.data, each.variant): each for each in defaults}
    pairs = list(dict.fromkeys([key for each in rounds for key in each] + list(extra)))
    for data, variant in pairs:
        found = [each[data, variant] for each in rounds if (data, variant) in each]
        found += [extra[data, variant]] if (data, variant) in extra else []
        describe(figures, found, slices[data])
        if variant != "ours":
            compared(figures, rounds, found[0], (data, variant) in extra)
    for variant in dict.fromkeys(variant for _, variant in pairs):
        over_data(figures, f"ratio_{variant}", f"ratio_{variant}", [data for data, name in pairs if name == variant])
    ours = [data for data, name in pairs if name == "ours"]
    over_data(figures, "ours_share_of_matmul_limit", "share_of_matmul_limit_ours", ours)


def describe(figures: Figures, found: Sequence[Measurement], part: Mapping[str, Any]) -> None:
    """The figures of one variant on one data set: speed, memory, share of the machine's limit."""
    name = f"{found[0].variant}_{found[0].data}"
    spread(figures, f"tokens_per_second_{name}", [each.speed for each in found], 1)
    figures[f"peak_memory_mb_{name}"] = round(max(each.peak_mb for each in found))
    figures[f"measurements_{name}"] = len(found)
    gflops = part["flops"] / part["tokens"] * statistics.median(each.speed for each in found) / 1e9
    figures[f"share_of_matmul_limit_{name}"] = round(gflops / figures["matmul_gflops"], 3)


def compared(figures: Figures, rounds: Sequence[Round], found: Measurement, once: bool) -> None:
    """ours : a variant, round by round; one that was measured `once` is compared with ours of every round."""
    ours, theirs = (found.data, "ours"), (found.data, found.variant)
    both = [each for each in rounds if ours in each and (once or theirs in each)]
    ratios = [each[ours].speed / (found if once else each[theirs]).speed for each in both]
    if once:
        figures[f"steps_{found.variant}_{found.data}"] = found.steps
    if ratios:
        spread(figures, f"ratio_{found.variant}_{found.data}", ratios, 3)


def over_data(figures: Figures, name: str, each: str, data: Sequence[str]) -> None:
    """The geometric mean of a figure over the data sets."""
    values = [figures[f"{each}_{one}"] for one in data if f"{each}_{one}" in figures]
    if values:
        figures[name] = round(statistics.geometric_mean(values), 3)


def spread(figures: Figures, name: str, values: Sequence[float], digits: int) -> None:
    """Median and range."""
    figures[name] = round(statistics.median(values), digits)
    figures[f"{name}_min"], figures[f"{name}_max"] = round(min(values), digits), round(max(values), digits)


def summary(figures: Figures, data: Sequence[str], variants: Sequence[str]) -> None:
    """Print the table that people read, and the ratios beside what was aimed at."""
    head = f"{'median (range)':14} {'variant':12} {'n':>2} {'tokens/s':>17} {'ours : it':>19}"
    print(f"\n{head} {'peak MB':>8} {'of limit':>9}")
    for name in data:
        for variant in variants:
            if f"tokens_per_second_{variant}_{name}" in figures:
                print(line(figures, name, variant))
    print("of limit: the model's operations per second, against this machine's float32 matrix products")
    for name in data:
        steps = figures.get(f"steps_trl_defaults_{name}")
        if steps is not None:
            how = f"extrapolated from {steps:.0f} steps" if steps else "not one step in time: it is at most that fast"
            print(f"trl_defaults on {name}: {how} of 8 rows")
    for variant, target in TARGETS.items():
        ratio = figures.get(f"ratio_{variant}")
        if ratio is not None:
            verdict = "met" if ratio >= target else "MISSED"
            print(f"ours : {variant:13} {ratio:6.2f}   target {target:4}   {verdict}")


def line(figures: Figures, data: str, variant: str) -> str:
    """A line of the table."""
    name = f"{variant}_{data}"
    speed, ratio = ranged(figures, f"tokens_per_second_{name}", 0), ranged(figures, f"ratio_{name}", 2)
    count, peak = figures[f"measurements_{name}"], figures[f"peak_memory_mb_{name}"]
    share = 100 * figures[f"share_of_matmul_limit_{name}"]
    return f"{data:14} {variant:12} {count:2.0f} {speed:>17} {ratio:>19} {peak:8.0f} {share:7.0f} %"


def ranged(figures: Figures, name: str, digits: int) -> str:
    """A median with its range, as text; empty when there is none."""
    if name not in figures:
        return ""
    low, high = figures[f"{name}_min"], figures[f"{name}_max"]
    return f"{figures[name]:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
