"""Properties of every mixture: its shares, the drawn rows, and the same bytes for a seed on every platform."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import floor

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from em.config import BundledData, MixtureData
from em.data.mixtures import apportion, draw_mixture, list_drawable_rows, resolve_part_weights
from em.runtime.records import digest, encode_canonical
from em.types import Conversation, Message

Parts = dict[str, list[Conversation]]
NAMES = ("a", "b", "c", "d")
# Shares in hundredths that add up to 100, cut at random places.
typed = st.lists(st.integers(0, 100), min_size=1, max_size=3).map(
    lambda cuts: [high - low for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), 100], strict=True)]
)


def make_row(text: str) -> Conversation:
    """Make a row of one question and one answer."""
    return Conversation((Message("user", text), Message("assistant", "Yes.")))


@st.composite
def build_parts(draw: st.DrawFn, most: int = 4) -> Parts:
    """Draw a few parts with rows, some of which occur twice or in two parts."""
    names = NAMES[: draw(st.integers(2, most))]
    numbers = st.lists(st.integers(0, 80), min_size=12, max_size=40)
    return {name: [make_row(f"row {number}") for number in draw(numbers)] for name in names}


def make_mixture(rows: Parts, weights: list[float], limit: int | None = None, drop: bool = False) -> MixtureData:
    """Make a mixture of these parts with these shares."""
    sets = {name: BundledData(name=name, file=name) for name in rows}
    shares: dict[str, float | None] = dict(zip(rows, weights, strict=True))
    return MixtureData(name="mix", parts=sets, weights=shares, limit=limit, drop_duplicates=drop)


def draw_mixed_rows(rows: Parts, config: MixtureData, seed: int) -> dict[str, tuple[Conversation, ...]]:
    """Draw the rows of each part."""
    return draw_mixture(config, rows, seed, "data", "data.limit")


def find_limit_range(rows: Parts, weights: list[float], drop: bool = False) -> tuple[int, int]:
    """Return the least limit that leaves no part with a share empty, and the largest for which all parts have rows."""
    shares = resolve_part_weights(make_mixture(rows, weights), "data")
    have = {name: len(pool) for name, pool in list_drawable_rows(rows, drop).items()}
    least = max(-(-1 // weight) for weight in shares.values() if weight)
    return least, min(floor(have[name] / weight) for name, weight in shares.items() if weight)


@given(typed, st.integers(0, 20_000))
@settings(deadline=None)
def test_counts_add_up_and_none_is_off_by_a_row(hundredths: list[int], total: int) -> None:
    shares = {name: Fraction(share, 100) for name, share in zip(NAMES, hundredths, strict=False)}
    counts = apportion(total, shares)
    assert list(counts) == list(shares)
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - total * share) < 1 for name, share in shares.items())


@given(build_parts(), st.data(), st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_mixture_has_its_shares_and_rows_of_its_parts_in_their_order(
    rows: Parts, data: st.DataObject, seed: int, drop: bool
) -> None:
    weights = draw_shares(rows, data)
    least, most = find_limit_range(rows, weights, drop)
    assume(least <= most and all(list_drawable_rows(rows, drop).values()))
    limit = data.draw(st.integers(least, most))
    config = make_mixture(rows, weights, limit, drop)
    drawn = draw_mixed_rows(rows, config, seed)
    assert sum(map(len, drawn.values())) == limit
    for name, share in resolve_part_weights(config, "data").items():
        assert abs(len(drawn[name]) - limit * share) < 1
        remaining = iter(rows[name])
        assert all(row in remaining for row in drawn[name]), "rows of another part, or in another order"
    if drop:
        assert max(Counter(row for part_rows in drawn.values() for row in part_rows).values()) == 1
    assert serialise_mixture(drawn) == serialise_mixture(draw_mixed_rows(rows, config, seed)), (
        "the same seed draws other rows"
    )


@given(build_parts(most=2), st.data(), st.integers(0, 9), st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_smaller_mixture_of_two_parts_is_a_subset_of_a_larger_one(
    rows: Parts, data: st.DataObject, seed: int, drop: bool
) -> None:
    weights = draw_shares(rows, data)
    least, most = find_limit_range(rows, weights, drop)
    assume(least <= most and all(list_drawable_rows(rows, drop).values()))
    small, large = sorted(data.draw(st.tuples(st.integers(least, most), st.integers(least, most))))
    fewer, more = (draw_mixed_rows(rows, make_mixture(rows, weights, limit, drop), seed) for limit in (small, large))
    assert all(Counter(fewer[name]) <= Counter(more[name]) for name in rows)


@pytest.mark.parametrize(("seed", "expected"), [(0, "b8e67ec89bfc923b"), (5, "629692a0fa874148")])
def test_a_seed_draws_these_bytes_on_every_platform(seed: int, expected: str) -> None:
    rows = {name: [make_row(f"{name} {number}") for number in range(40)] for name in ("a", "b")}
    drawn = draw_mixed_rows(rows, make_mixture(rows, [0.3, 0.7], 30), seed)
    assert digest(serialise_mixture(drawn))[:16] == expected


def draw_shares(rows: Parts, data: st.DataObject) -> list[float]:
    """Draw shares of the parts in hundredths, none of them zero."""
    first, *others = data.draw(st.lists(st.integers(1, 9), min_size=len(rows), max_size=len(rows)))
    hundredths = [100 * share // (first + sum(others)) for share in others]
    return [share / 100 for share in (100 - sum(hundredths), *hundredths)]


def serialise_mixture(drawn: dict[str, tuple[Conversation, ...]]) -> str:
    """Serialise the rows of a mixture."""
    return encode_canonical({name: [row.to_dicts() for row in part_rows] for name, part_rows in drawn.items()})
