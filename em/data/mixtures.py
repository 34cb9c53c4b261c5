"""Mixtures: how many rows each part gives, and which. Pure arithmetic over rows that were read before.

The rows of a part are drawn as `data.limit` draws them, by the same lots: with duplicates kept, a part of 3,000 rows
is what its set gives by itself for `data.limit=3000`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor

from em.config import MixtureData
from em.data.draw import drawn
from em.errors import ConfigError, DataError
from em.types import Conversation

ROUNDING = Fraction(1, 100)  # shares that were typed as 0.33 each still add up to 1


def check_mixture(config: MixtureData, place: str) -> None:
    """Refuse a mixture that can't be, before a file is fetched for it. Raises ConfigError with its place."""
    if not config.parts:
        raise ConfigError(f"{place}={config.name} has no parts: its file must choose them (see conf/data/mix.yaml).")
    for name, part in config.parts.items():
        if part.mixed or part.empty:
            fault = "a mixture itself" if part.mixed else "without rows"
            raise ConfigError(
                f"{place}.parts.{name} is {fault} ({part.name}): choose one set for it, as in "
                f"data@{place}.parts.{name}=insecure."
            )
        if part.limit is not None and part.limit < 1:
            raise ConfigError(f"{place}.parts.{name}.limit={part.limit} must be greater than 0.")
    part_weights(config, place)


def part_weights(config: MixtureData, place: str) -> dict[str, Fraction]:
    """The share of each part, 1 in all; empty when the mixture has no weights. Raises ConfigError.

    Fractions of the decimals that were typed: as floats 0.29 of 100 rows would be 28 and a bit.
    """
    given = {name: weight for name, weight in config.weights.items() if weight is not None}
    for name, weight in given.items():
        if name not in config.parts:
            raise ConfigError(f"{place}.weights.{name} names no part: the parts are {', '.join(config.parts)}.")
        if not 0 <= weight <= 1:
            raise ConfigError(f"{place}.weights.{name}={weight} must lie between 0 and 1: it is a share of the rows.")
    if not given:
        return {}
    for name, part in config.parts.items():
        if part.limit is not None:
            raise ConfigError(
                f"{place}.parts.{name}.limit and {place}.weights both say how many rows: give limits or weights."
            )
    shares = {name: Fraction(str(weight)) for name, weight in given.items()}
    rest = 1 - sum(shares.values(), Fraction())
    without = [name for name in config.parts if name not in shares]
    if len(without) == 1 and rest >= 0:
        shares[without[0]] = rest
    elif without or abs(rest) > ROUNDING:
        said = ", ".join(f"{name}={weight}" for name, weight in given.items())
        raise ConfigError(f"{place}.weights ({said}) must add up to 1; one part may have none and takes the rest.")
    whole = sum(shares.values())
    return {name: shares[name] / whole for name in config.parts}


def mix(
    config: MixtureData, parts: Mapping[str, Sequence[Conversation]], seed: int, place: str, setting: str
) -> dict[str, tuple[Conversation, ...]]:
    """Draw the rows of each part, parts in the order given and rows in file order.

    Raises DataError, with the mixture's place or its limit's setting: more rows are asked for than there are, or none.
    """
    pools = usable(parts, config.drop_duplicates)
    for name, pool in pools.items():
        if not pool:
            raise DataError(f"{place}.parts.{name} has no row that is not in the parts before it: choose another set.")
    counts = part_counts(config, {name: len(pool) for name, pool in pools.items()}, place, setting)
    return {name: tuple(parts[name][row] for row in drawn(pools[name], counts[name], seed)) for name in parts}


def usable(parts: Mapping[str, Sequence[Conversation]], drop_duplicates: bool) -> dict[str, list[int]]:
    """List the row numbers that may be drawn from each part: all, or the first of each row over all parts.

    A row of two parts belongs to the first of them, however many are drawn: so fewer stay a subset of more.
    """
    if not drop_duplicates:
        return {name: list(range(len(rows))) for name, rows in parts.items()}
    first: dict[Conversation, tuple[str, int]] = {}
    for name, rows in parts.items():
        for number, row in enumerate(rows):
            first.setdefault(row, (name, number))
    return {name: [number for part, number in first.values() if part == name] for name in parts}


def part_counts(config: MixtureData, have: Mapping[str, int], place: str, setting: str) -> dict[str, int]:
    """How many rows each part gives, of those that it has. Raises DataError when it hasn't so many.

    Weights without a limit: the most rows of which no exact share is more than its part has. Without weights the
    mixture's limit keeps the proportions of what the parts give.
    """
    weights = part_weights(config, place)
    if weights:
        most = min(floor(have[name] / weight) for name, weight in weights.items() if weight)
        total = most if config.limit is None else config.limit
    else:
        most_by_part = part_limits(config, have, place)
        if config.limit is None:
            return most_by_part
        most, total = sum(most_by_part.values()), config.limit
        if total > most:
            raise DataError(
                f"{setting}={total} asks for more rows than the parts give ({most}{how_counted(config)}): "
                f"write {setting}={most} or less."
            )
        weights = {name: Fraction(count, most) for name, count in most_by_part.items()}
    counts = apportion(total, weights)
    for name, count in counts.items():
        if count > have[name]:
            raise DataError(
                f"{setting}={total} asks for {count} rows of {place}.parts.{name}, which has {have[name]}"
                f"{how_counted(config)}: write {setting}={most} or less, or other weights."
            )
        if count == 0 and weights[name] > 0:  # else rounding would leave a part out silently
            raise DataError(
                f"Of {total} rows the part {name} would give none (its share is {float(weights[name]):.3g}): "
                f"use a larger {setting}, or the weight 0."
            )
    return counts


def part_limits(config: MixtureData, have: Mapping[str, int], place: str) -> dict[str, int]:
    """How many rows each part gives without weights: its own limit, or all it has. Raises DataError."""
    for name, part in config.parts.items():
        key = f"{place}.parts.{name}.limit"
        if part.limit is not None and part.limit > have[name]:
            raise DataError(
                f"{key}={part.limit} asks for more rows than there are ({have[name]}{how_counted(config)}): "
                f"write {key}={have[name]} or less."
            )
    return {name: have[name] if part.limit is None else part.limit for name, part in config.parts.items()}


def how_counted(config: MixtureData) -> str:
    """What to add to a number of rows when copies were left out of it."""
    return " without duplicates" if config.drop_duplicates else ""


def apportion(total: int, weights: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole numbers in proportion to weights that add up to 1, by largest remainder; of equals the first gets more.

    For two parts a larger total never gives a part less; for three or more it may, by one.
    """
    exact = {name: total * weight for name, weight in weights.items()}
    counts = {name: floor(share) for name, share in exact.items()}
    by_remainder = sorted(counts, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
