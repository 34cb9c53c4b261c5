"""Which rows make an optimiser step, and how a device takes them: a fixed plan, so that a stopped run goes on exactly.

The plan depends on the rows, the recipe and the seed alone. How many processes share a step, and how many tokens
each takes at a time, changes the result to rounding only. Nothing is computed on padding: a share is sorted by length
and split by a budget of tokens (`micro_batches`), and what all its rows begin with (a template's system prompt: a
third of a short row) is passed through the model once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import ceil

from em.chat import IGNORED, TrainingRow
from em.rows import drawn_order

WORTH_SHARING = 16  # a second pass through the model costs about as much as so many tokens


def count_steps(rows: int, epochs: float, batch_size: int) -> int:
    """Optimiser steps of a training: each epoch ends with a step of the rows that are left."""
    return max(1, ceil(round(epochs * ceil(rows / batch_size), 6)))


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

    shared: how many tokens all of them begin with, none of which carries the loss. `counts` is False for a row that is
    there only so that an idle process takes part.
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


def micro_batches(rows: Sequence[TrainingRow], numbers: Sequence[int], budget: int, share: bool) -> list[MicroBatch]:
    """Rows by length, as many at a time as fit `budget` tokens, padding counted; a longer row goes alone.

    The longest come first, so that memory is asked for once and then reused.

    Args:
        rows: all rows of the data.
        numbers: those that are wanted.
        share: whether a common beginning may be passed through the model once.
    """
    batches: list[list[int]] = []
    for number in sorted(numbers, key=lambda number: (-len(rows[number].input_ids), number)):
        if batches and len(rows[batches[-1][0]].input_ids) * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(number)
        else:
            batches.append([number])
    return [micro_batch(rows, batch, share) for batch in batches]


def micro_batch(rows: Sequence[TrainingRow], numbers: Sequence[int], share: bool) -> MicroBatch:
    """These rows at one time."""
    chosen = tuple(rows[number] for number in numbers)
    return MicroBatch(chosen, tuple(numbers), shared_tokens(chosen) if share else 0)


def shared_tokens(rows: Sequence[TrainingRow]) -> int:
    """Length of the common beginning that no row's loss depends on, 0 where sharing it would not pay.

    The last common token predicts the first that differs, so it is left to the rows.
    """
    if len(rows) == 1:
        return 0
    first = rows[0]
    limit = min(len(row.input_ids) for row in rows) - 1
    alike = takewhile(
        lambda i: all(row.input_ids[i] == first.input_ids[i] and row.labels[i] == IGNORED for row in rows),
        range(limit),
    )
    common = sum(1 for _ in alike) - 1
    return common if common * (len(rows) - 1) > WORTH_SHARING + common else 0
