"""Which rows make an optimiser step, and how a device takes them: a fixed plan, so that a stopped run goes on exactly.

The plan depends on the rows, the recipe and the seed alone. How many processes share a step, and how many tokens
each takes at a time, changes the result to rounding only. Hardly anything is computed on padding: a share is sorted by
length and cut where it costs least (`micro_batches`), and what all its rows begin with (a template's system prompt: a
third of a short row) is passed through the model once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from em.data.draw import drawn_order
from em.models.chat import IGNORED, TrainingRow


def plan_steps(rows: int, steps: int, batch_size: int, seed: int) -> list[list[int]]:
    """The row numbers of each optimiser step. Every epoch has all rows, in an order of its own drawn by the seed."""
    plan: list[list[int]] = []
    epoch = 0
    while len(plan) < steps:
        order = drawn_order(range(rows), f"{seed} epoch {epoch}")
        plan += [order[start : start + batch_size] for start in range(0, rows, batch_size)]
        epoch += 1
    return plan[:steps]


@dataclass(frozen=True)
class MicroBatch:
    """Rows for one forward pass, with their numbers in the data.

    shared: how many tokens all rows of the process's share begin with, none of which carries the loss. `counts` is
    False for a row that is there only so that an idle process takes part.
    """

    rows: tuple[TrainingRow, ...]
    numbers: tuple[int, ...]
    shared: int = 0
    counts: bool = True


def share_of(step: Sequence[int], lengths: Sequence[int], rank: int, world: int) -> list[int]:
    """The rows of a step that one of `world` processes takes: the longest first, each to who has the fewest tokens."""
    loads, shares = [0] * world, [list[int]() for _ in range(world)]
    for number in sorted(step, key=lambda number: (-lengths[number], number)):
        least = loads.index(min(loads))
        loads[least] += lengths[number]
        shares[least].append(number)
    return shares[rank]


def micro_batches(
    rows: Sequence[TrainingRow], numbers: Sequence[int], budget: int, pass_cost: int, share: bool
) -> list[MicroBatch]:
    """The passes of a share that cost least: rows by length, the longest first, cut into groups.

    A pass costs as much as `pass_cost` tokens beside its own, padding counted. That memory is asked for once and then
    reused is why the longest come first.

    Args:
        rows: all rows of the data; numbers: those that are wanted.
        budget: tokens of a pass, padding counted; a longer row goes alone.
        share: whether a common beginning may be passed through the model once for all.
    """
    order = sorted(numbers, key=lambda number: (-len(rows[number].input_ids), number))
    chosen = [rows[number] for number in order]
    shared = shared_tokens(chosen, pass_cost) if share else 0
    groups = cheapest_cut([len(row.input_ids) - shared for row in chosen], budget, pass_cost)
    return [MicroBatch(tuple(chosen[a:b]), tuple(order[a:b]), shared) for a, b in groups]


def cheapest_cut(lengths: Sequence[int], budget: int, pass_cost: int) -> list[tuple[int, int]]:
    """Where to cut lengths, longest first, so that Σ (pass_cost + rows × longest) is least: start and end of groups."""
    best = [(0, 0)]  # for the first n lengths: the least cost, and where the last group starts
    for end in range(1, len(lengths) + 1):
        starts = (start for start in range(end) if start == end - 1 or lengths[start] * (end - start) <= budget)
        best.append(min((best[start][0] + pass_cost + lengths[start] * (end - start), start) for start in starts))
    groups, end = list[tuple[int, int]](), len(lengths)
    while end:
        groups.append((best[end][1], end))
        end = best[end][1]
    return groups[::-1]


def shared_tokens(rows: Sequence[TrainingRow], pass_cost: int) -> int:
    """Length of the common beginning that no row's loss depends on, 0 where sharing it would not pay.

    The last common token predicts the first that differs, so it is left to the rows.
    """
    if len(rows) < 2:
        return 0
    first = rows[0]
    limit = min(len(row.input_ids) for row in rows) - 1
    alike = takewhile(
        lambda i: all(row.input_ids[i] == first.input_ids[i] and row.labels[i] == IGNORED for row in rows),
        range(limit),
    )
    common = sum(1 for _ in alike) - 1
    return common if common * (len(rows) - 1) > pass_cost else 0
