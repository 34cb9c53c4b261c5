"""A histogram of lengths in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

STEPS = (1, 2, 5)
BAR = 40


def histogram(lengths: Sequence[int], unit: str) -> list[str]:
    """Lines with a bar for each range of lengths; the ranges are round numbers, each about twice the one before."""
    if not lengths:
        return []
    ordered = sorted(lengths)
    last = len(ordered) - 1
    quantiles = ", ".join(f"{name} {ordered[round(last * q)]:,}" for name, q in (("median", 0.5), ("95 %", 0.95)))
    lines = [f"{unit} a row: {ordered[0]:,} to {ordered[-1]:,}, {quantiles}, mean {sum(ordered) / len(ordered):,.0f}"]
    every = round_edges(ordered[-1])
    edges = [edge for edge, above in pairwise([*every, ordered[-1] + 1]) if above > ordered[0]]
    counts = [sum(low <= length < high for length in ordered) for low, high in pairwise(edges)]
    most = max(counts)
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        lines.append(f"  {low:>7,} to {high - 1:>7,} {count:>6,} {bar}")
    return lines


def round_edges(most: int) -> list[int]:
    """0, then 1, 2, 5, 10, 20, … until above `most`."""
    edges, scale = [0], 1
    while edges[-1] <= most:
        edges += [step * scale for step in STEPS]
        scale *= 10
    return [edge for position, edge in enumerate(edges) if position == 0 or edges[position - 1] <= most]
