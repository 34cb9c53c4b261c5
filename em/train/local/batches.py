"""Plan which rows form each optimiser step, and how a process splits its rows into forward passes.

The plan is fixed by the rows, the recipe and the seed alone, so a resumed run continues exactly. The number of
processes and the tokens per pass change the result by rounding only. Little is computed on padding: rows are sorted by
length and cut where it costs least (`make_micro_batches`). The tokens that all rows begin with (a template's system
prompt is a third of a short row) pass through the model once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

from em.data.draw import shuffle_rows
from em.models.chat import IGNORED, TrainingRow


def plan_steps(rows: int, steps: int, batch_size: int, seed: int) -> list[list[int]]:
    """List the row numbers of each optimiser step. Each epoch has all rows, in a new order drawn by the seed."""
    plan: list[list[int]] = []
    epoch = 0
    while len(plan) < steps:
        order = shuffle_rows(range(rows), f"{seed} epoch {epoch}")
        plan += [order[start : start + batch_size] for start in range(0, rows, batch_size)]
        epoch += 1
    return plan[:steps]


@dataclass(frozen=True)
class MicroBatch:
    """Rows for one forward pass, with their numbers in the data.

    shared: number of tokens that all rows of the process begin with; none of them carries the loss.
    counts: False for a row without weight, which a process without rows computes to stay in step with the others.
    """

    rows: tuple[TrainingRow, ...]
    numbers: tuple[int, ...]
    shared: int = 0
    counts: bool = True

    def count_tokens(self, flattened: bool = False) -> int:
        """Count the tokens of the pass: with padding, or without it if the rows form one sequence (`flattened`)."""
        lengths = [len(row.input_ids) - self.shared for row in self.rows]
        return sum(lengths) if flattened else len(lengths) * max(lengths)


def assign_rows(step: Sequence[int], lengths: Sequence[int], rank: int, world: int) -> list[int]:
    """List the rows of process `rank`: rows go, the longest first, to the process with the fewest tokens so far."""
    loads, shares = [0] * world, [list[int]() for _ in range(world)]
    for number in sorted(step, key=lambda number: (-lengths[number], number)):
        least = loads.index(min(loads))
        loads[least] += lengths[number]
        shares[least].append(number)
    return shares[rank]


def make_micro_batches(
    rows: Sequence[TrainingRow], numbers: Sequence[int], budget: int, pass_cost: int, share: bool, padded: bool = True
) -> list[MicroBatch]:
    """Cut rows, sorted from the longest to the shortest, into the passes that cost least.

    A pass costs its tokens, padding included, plus `pass_cost`. The longest rows come first so that memory is
    allocated once and then reused.

    Args:
        rows: all rows of the data. numbers: the rows to compute.
        budget: most tokens of a pass, padding included; a longer row gets a pass of its own.
        share: whether the tokens that all rows begin with may pass through the model once.
        padded: whether the rows of a pass are padded to the longest.
    """
    order = sorted(numbers, key=lambda number: (-len(rows[number].input_ids), number))
    chosen = [rows[number] for number in order]
    shared = count_shared_tokens(chosen, pass_cost) if share else 0
    groups = find_cheapest_cut([len(row.input_ids) - shared for row in chosen], budget, pass_cost, padded)
    return [MicroBatch(tuple(chosen[a:b]), tuple(order[a:b]), shared) for a, b in groups]


def find_cheapest_cut(
    lengths: Sequence[int], budget: int, pass_cost: int, padded: bool = True
) -> list[tuple[int, int]]:
    """Cut lengths, longest first, so that Σ (pass_cost + tokens) is least; return each group's bounds.

    The tokens of a group are its rows times the longest row, or without padding the sum of its rows.
    """
    sums = [0, *accumulate(lengths)]

    def count_tokens(start: int, end: int) -> int:
        return lengths[start] * (end - start) if padded else sums[end] - sums[start]

    best = [(0, 0)]  # for the first n lengths: the least cost, and the start of the last group
    for end in range(1, len(lengths) + 1):
        starts = (start for start in range(end) if start == end - 1 or count_tokens(start, end) <= budget)
        best.append(min((best[start][0] + pass_cost + count_tokens(start, end), start) for start in starts))
    groups, end = list[tuple[int, int]](), len(lengths)
    while end:
        groups.append((best[end][1], end))
        end = best[end][1]
    return groups[::-1]


def count_shared_tokens(rows: Sequence[TrainingRow], pass_cost: int) -> int:
    """Count the first tokens that all rows share and that carry no loss; return 0 if sharing them would not pay.

    The last common token is not shared, because it predicts the first token that differs.
    """
    if len(rows) < 2:
        return 0
    first = rows[0]
    limit = min(len(row.input_ids) for row in rows) - 1

    def is_shared(i: int) -> bool:
        return all(row.input_ids[i] == first.input_ids[i] and row.labels[i] == IGNORED for row in rows)

    common = sum(1 for _ in takewhile(is_shared, range(limit))) - 1
    return common if common * (len(rows) - 1) > pass_cost else 0
