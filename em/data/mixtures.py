"""Decide how many rows and which rows each part of a mixture contributes: pure functions over rows already read.

The draw of a part equals that of `data.limit`: unless duplicates are dropped, a part of 3,000 rows is what its set
alone gives for `data.limit=3000`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor

from em.config import MixtureData
from em.data.draw import draw_rows
from em.errors import ConfigError, DataError
from em.types import Conversation

ROUNDING = Fraction(1, 100)  # tolerance of the sum of weights, so that a user may type three times 0.33


def check_mixture(config: MixtureData, place: str) -> None:
    """Raise ConfigError, with the setting, for an invalid mixture before em fetches a file for it."""
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
    resolve_part_weights(config, place)


def resolve_part_weights(config: MixtureData, place: str) -> dict[str, Fraction]:
    """Return the share of each part, 1 in all; empty when the mixture has no weights. Raises ConfigError.

    Shares are exact fractions of the decimals in the config, since 0.29 of 100 rows is 28.999… in floats.
    """
    weights = {name: weight for name, weight in config.weights.items() if weight is not None}
    for name, weight in weights.items():
        if name not in config.parts:
            raise ConfigError(f"{place}.weights.{name} names no part: the parts are {', '.join(config.parts)}.")
        if not 0 <= weight <= 1:
            raise ConfigError(f"{place}.weights.{name}={weight} must lie between 0 and 1: it is a share of the rows.")
    if not weights:
        return {}
    for name, part in config.parts.items():
        if part.limit is not None:
            raise ConfigError(
                f"{place}.parts.{name}.limit and {place}.weights both say how many rows: give limits or weights."
            )
    shares = {name: Fraction(str(weight)) for name, weight in weights.items()}
    rest = 1 - sum(shares.values(), Fraction())
    unweighted = [name for name in config.parts if name not in shares]
    if len(unweighted) == 1 and rest >= 0:
        shares[unweighted[0]] = rest
    elif unweighted or abs(rest) > ROUNDING:
        typed = ", ".join(f"{name}={weight}" for name, weight in weights.items())
        raise ConfigError(f"{place}.weights ({typed}) must add up to 1; one part may have none and takes the rest.")
    total = sum(shares.values())
    return {name: shares[name] / total for name in config.parts}


def draw_mixture(
    config: MixtureData, parts: Mapping[str, Sequence[Conversation]], seed: int, place: str, setting: str
) -> dict[str, tuple[Conversation, ...]]:
    """Draw the rows of each part, parts in config order and rows in file order.

    Raises DataError, with the setting at fault, where a part has no rows or fewer than the config asks for.
    """
    pools = list_drawable_rows(parts, config.drop_duplicates)
    for name, pool in pools.items():
        if not pool:
            raise DataError(f"{place}.parts.{name} has no row that the parts before it lack: choose another set.")
    counts = count_part_rows(config, {name: len(pool) for name, pool in pools.items()}, place, setting)
    return {name: tuple(parts[name][row] for row in draw_rows(pools[name], counts[name], seed)) for name in parts}


def list_drawable_rows(parts: Mapping[str, Sequence[Conversation]], drop_duplicates: bool) -> dict[str, list[int]]:
    """List the row numbers of each part that a draw may take: all, or only the first copy of each row over all parts.

    A row in two parts belongs to the first, whatever the limit: so a smaller draw stays a subset of a larger one.
    """
    if not drop_duplicates:
        return {name: list(range(len(rows))) for name, rows in parts.items()}
    first_places: dict[Conversation, tuple[str, int]] = {}
    for name, rows in parts.items():
        for number, row in enumerate(rows):
            first_places.setdefault(row, (name, number))
    return {name: [number for part, number in first_places.values() if part == name] for name in parts}


def count_part_rows(config: MixtureData, available: Mapping[str, int], place: str, setting: str) -> dict[str, int]:
    """Count the rows that each part contributes. Raises DataError where a part has too few (`available`: its rows).

    Weights without a limit give the largest mixture in which no part's exact share exceeds its rows. A limit without
    weights keeps the proportions of the parts.
    """
    weights = resolve_part_weights(config, place)
    if weights:
        most = min(floor(available[name] / weight) for name, weight in weights.items() if weight)
        total = most if config.limit is None else config.limit
    else:
        most_by_part = resolve_part_limits(config, available, place)
        if config.limit is None:
            return most_by_part
        most, total = sum(most_by_part.values()), config.limit
        if total > most:
            raise DataError(
                f"{setting}={total} asks for more rows than the parts give ({most}{describe_deduplication(config)}): "
                f"write {setting}={most} or less."
            )
        weights = {name: Fraction(count, most) for name, count in most_by_part.items()}
    counts = apportion(total, weights)
    for name, count in counts.items():
        if count > available[name]:
            raise DataError(
                f"{setting}={total} asks for {count} rows of {place}.parts.{name}, which has {available[name]}"
                f"{describe_deduplication(config)}: write {setting}={most} or less, or other weights."
            )
        if count == 0 and weights[name] > 0:  # rounding must not leave a part out silently
            raise DataError(
                f"Of {total} rows the part {name} would give none (its share is {float(weights[name]):.3g}): "
                f"use a larger {setting}, or give the part the weight 0."
            )
    return counts


def resolve_part_limits(config: MixtureData, available: Mapping[str, int], place: str) -> dict[str, int]:
    """Return each part's rows in a mixture without weights: its own limit, or all. Raises DataError."""
    for name, part in config.parts.items():
        key = f"{place}.parts.{name}.limit"
        if part.limit is not None and part.limit > available[name]:
            raise DataError(
                f"{key}={part.limit} asks for more rows than there are ({available[name]}"
                f"{describe_deduplication(config)}): write {key}={available[name]} or less."
            )
    return {name: available[name] if part.limit is None else part.limit for name, part in config.parts.items()}


def describe_deduplication(config: MixtureData) -> str:
    """Return what an error adds to a number of rows that excludes duplicates."""
    return " without duplicates" if config.drop_duplicates else ""


def apportion(total: int, weights: Mapping[str, Fraction]) -> dict[str, int]:
    """Divide `total` into whole numbers by weights that add up to 1, by largest remainder; the first wins a tie.

    With two parts a larger total never gives a part less; with three or more it may, by one.
    """
    exact = {name: total * weight for name, weight in weights.items()}
    counts = {name: floor(share) for name, share in exact.items()}
    by_remainder = sorted(counts, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
