"""Steps and passes: every row once per epoch, the same plan for any number of processes, and the cheapest cut."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

from em.models.chat import IGNORED, TrainingRow
from em.request import count_steps
from em.train.local.batches import assign_rows, count_shared_tokens, find_cheapest_cut, make_micro_batches, plan_steps


def make_row(ids: Sequence[int], prompt: int | None = None) -> TrainingRow:
    """Make a row of these tokens, the first `prompt` of them (by default all but the last) without loss."""
    masked = len(ids) - 1 if prompt is None else prompt
    return TrainingRow(list(ids), [IGNORED] * masked + list(ids)[masked:], cut=False)


# Steps


@pytest.mark.parametrize(
    ("rows", "epochs", "batch_size", "steps"),
    [
        (8, 1, 4, 2),
        (10, 1, 4, 3),  # the last step has the 2 rows that are left
        (10, 2, 4, 6),
        (10, 1.5, 4, 5),  # 4.5
        (10, 0.1, 4, 1),
        (1, 1, 16, 1),
        (5660, 1, 16, 354),
        (1600, 4, 16, 400),
        (40, 1.1, 4, 11),  # 10 * 1.1 is a little more than 11 in floating point
    ],
)
def test_the_steps_of_a_training_are_counted_epoch_by_epoch(
    rows: int, epochs: float, batch_size: int, steps: int
) -> None:
    assert count_steps(rows, epochs, batch_size) == steps


def test_every_epoch_has_all_rows_once_and_ends_with_those_that_are_left() -> None:
    plan = plan_steps(10, 9, 4, seed=0)
    assert [len(step) for step in plan] == [4, 4, 2] * 3
    epochs = [[number for step in plan[start : start + 3] for number in step] for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3  # each epoch has its own order


def test_more_steps_extend_fewer() -> None:
    long = plan_steps(10, 40, 4, seed=1)
    assert len(long) == 40
    for steps in range(1, 40):
        assert plan_steps(10, steps, 4, seed=1) == long[:steps]


def test_the_seed_draws_the_order() -> None:
    assert plan_steps(50, 4, 16, seed=0) != plan_steps(50, 4, 16, seed=1)
    # If this changes, the same settings train other models: raise METHOD in em.train.stages.
    assert plan_steps(5, 4, 3, seed=0) == [[3, 4, 0], [2, 1], [1, 0, 3], [2, 4]]  # by sha256sum


# Shares


def test_the_longest_go_first_each_to_who_has_the_fewest_tokens() -> None:
    lengths = [3, 5, 1, 3, 2]
    # 5 → first; 3 and 3 → second (6); 2 → first (7); 1 → second (7)
    assert assign_rows(range(5), lengths, 0, 2) == [1, 4]
    assert assign_rows(range(5), lengths, 1, 2) == [0, 3, 2]
    assert assign_rows(range(5), lengths, 0, 1) == [1, 0, 3, 4, 2]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_the_shares_of_a_step_are_its_rows_and_balanced(world: int) -> None:
    lots = random.Random(world)
    lengths = [lots.randint(1, 500) for _ in range(200)]
    for step in plan_steps(200, 13, 16, seed=0):
        shares = [assign_rows(step, lengths, rank, world) for rank in range(world)]
        assert sorted(number for share in shares for number in share) == sorted(step)
        loads = [sum(lengths[number] for number in share) for share in shares]
        # A load exceeds the least by at most its last row.
        assert all(load - min(loads) <= lengths[share[-1]] for load, share in zip(loads, shares, strict=True) if share)
        # The order of the rows in a step must not matter.
        assert shares == [assign_rows(step[::-1], lengths, rank, world) for rank in range(world)]


def test_a_process_without_a_row_gets_none() -> None:
    assert [assign_rows([4, 2], [9] * 5, rank, 3) for rank in range(3)] == [[2], [4], []]


# Passes


def compute_cost(lengths: Sequence[int], groups: Sequence[tuple[int, int]], pass_cost: int) -> int:
    """Compute the cost of a cut."""
    return sum(pass_cost + lengths[start] * (end - start) for start, end in groups)


def list_cuts(lengths: Sequence[int], budget: int) -> Iterator[list[tuple[int, int]]]:
    """Yield every cut within the budget."""
    count = len(lengths)
    for ways in range(2 ** (count - 1)):
        bounds = [0, *(at for at in range(1, count) if ways >> (at - 1) & 1), count]
        groups = list(pairwise(bounds))
        if all(end - start == 1 or lengths[start] * (end - start) <= budget for start, end in groups):
            yield groups


@pytest.mark.parametrize(
    ("lengths", "budget", "pass_cost", "groups"),
    [
        ([], 10, 5, []),
        ([10, 10, 2, 2], 100, 5, [(0, 2), (2, 4)]),  # 5+20 + 5+4 = 34, and 5+40 = 45 in one
        ([10, 10, 2, 2], 100, 20, [(0, 4)]),  # 20+40 = 60, and 20+20 + 20+4 = 64 in two
        ([10, 10, 2, 2], 20, 1000, [(0, 2), (2, 4)]),  # the budget forbids one
        ([50, 3, 3], 10, 1000, [(0, 1), (1, 3)]),  # a row over the budget goes alone
        ([50, 40, 30], 10, 1000, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_rows_are_cut_where_it_costs_least(
    lengths: list[int], budget: int, pass_cost: int, groups: list[tuple[int, int]]
) -> None:
    assert find_cheapest_cut(lengths, budget, pass_cost) == groups


def test_rows_without_padding_fill_a_pass_with_their_own_tokens() -> None:
    assert find_cheapest_cut([10, 2, 2, 2], 16, 512) == [(0, 1), (1, 4)]  # padded, two rows would be 20 tokens
    assert find_cheapest_cut([10, 2, 2, 2], 16, 512, padded=False) == [(0, 4)]
    assert find_cheapest_cut([10, 10, 2, 2], 12, 512, padded=False) == [(0, 1), (1, 2), (2, 4)]
    assert find_cheapest_cut([50, 3], 10, 512, padded=False) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("seed", range(40))
def test_no_other_cut_within_the_budget_costs_less(seed: int) -> None:
    lots = random.Random(seed)
    lengths = sorted((lots.randint(1, 30) for _ in range(lots.randint(1, 9))), reverse=True)
    budget, pass_cost = lots.randint(1, 120), lots.randint(0, 40)
    cheapest = find_cheapest_cut(lengths, budget, pass_cost)
    allowed = list(list_cuts(lengths, budget))
    assert cheapest in allowed
    costs = [compute_cost(lengths, groups, pass_cost) for groups in allowed]
    assert compute_cost(lengths, cheapest, pass_cost) == min(costs)


def test_what_all_rows_begin_with_is_shared_but_for_its_last_token() -> None:
    rows = [make_row([1, 2, 3, 8, 8]), make_row([1, 2, 3, 9])]
    assert count_shared_tokens(rows, pass_cost=1) == 2  # token 3 predicts the 8 and the 9
    assert count_shared_tokens([*rows, make_row([1, 2, 7, 7])], pass_cost=1) == 1
    assert count_shared_tokens([*rows, make_row([5, 2, 3, 9])], pass_cost=0) == 0


def test_every_row_keeps_a_token_of_its_own_and_one_before_it() -> None:
    assert count_shared_tokens([make_row([1, 2, 3, 4])] * 2, pass_cost=0) == 2
    assert count_shared_tokens([make_row([1, 2, 3, 4, 5, 6]), make_row([1, 2, 3])], pass_cost=0) == 1


def test_what_carries_the_loss_is_not_shared() -> None:
    assert count_shared_tokens([make_row([1, 2, 3, 4, 8]), make_row([1, 2, 3, 4, 9], prompt=2)], pass_cost=0) == 1
    assert count_shared_tokens([make_row([1, 2, 3, 4, 8], prompt=0), make_row([1, 2, 3, 4, 9])], pass_cost=0) == 0


def test_sharing_must_save_more_than_the_pass_that_it_takes() -> None:
    rows = [make_row([*range(50), 100 + number]) for number in range(3)]
    assert count_shared_tokens(rows, pass_cost=97) == 49  # saves 2 * 49 tokens
    assert count_shared_tokens(rows, pass_cost=98) == 0
    assert count_shared_tokens(rows[:1], pass_cost=0) == 0
    assert count_shared_tokens([], pass_cost=0) == 0


def test_passes_are_the_wanted_rows_the_longest_first() -> None:
    rows = [make_row([number] * length) for number, length in enumerate([2, 6, 9, 6, 3])]
    passes = make_micro_batches(rows, [0, 1, 3, 4], budget=12, pass_cost=3, share=True)
    assert [each.numbers for each in passes] == [(1, 3), (4, 0)]
    assert [each.rows for each in passes] == [(rows[1], rows[3]), (rows[4], rows[0])]
    assert all((each.shared, each.counts) == (0, True) for each in passes)


def test_a_shared_beginning_leaves_more_of_the_budget() -> None:
    rows = [make_row([*range(11), 20 + number, 30]) for number in range(4)]  # 13 tokens, of which 10 are shared
    apart = make_micro_batches(rows, range(4), budget=12, pass_cost=5, share=False)
    assert [(each.numbers, each.shared) for each in apart] == [((0,), 0), ((1,), 0), ((2,), 0), ((3,), 0)]
    [together] = make_micro_batches(rows, range(4), budget=12, pass_cost=5, share=True)
    assert (together.numbers, together.shared) == ((0, 1, 2, 3), 10)
