"""Which models are compared with which, and what they are to each other: by their lineage, else by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from em.stats.classes import Group

ALL_PAIRS = 12
"""With more models than this asked the same, each is compared with its parent, its base and its siblings alone."""
Lines = Mapping[str, Sequence[str]]
"""What models were trained from, by fingerprint: the base, the first training …, the one that was gone on with."""
NAMES_ALONE: Lines = {}
"""Of models of which no manifest tells, as in judged tables: `m+a+b` comes from `m+a`."""


def pairs(models: Sequence[Group], lines: Lines = NAMES_ALONE) -> Iterator[tuple[Group, Group]]:
    """Which models are compared, in their order; of many, those that are of a family alone."""
    for first, second in combinations(models, 2):
        replicates = (first.model, first.stage) == (second.model, second.stage) and first.seed != second.seed
        if not replicates and (len(models) <= ALL_PAIRS or family_of(first, second, lines) != "other"):
            yield (first, second) if not came_from(first, second, lines) else (second, first)


def family_of(one: Group, other: Group, lines: Lines = NAMES_ALONE) -> str:
    """What two models are to each other: see `em.stats.differences.Comparison`."""
    if came_from(one, other, lines) or came_from(other, one, lines):
        return "stage"
    return "sibling" if siblings(one, other, lines) else "other"


def siblings(one: Group, other: Group, lines: Lines) -> bool:
    """Whether two models with the same seed differ in their last stage alone."""
    if one.stage == other.stage or one.seed != other.seed:
        return False
    if one.fingerprint in lines and other.fingerprint in lines:
        return lines[one.fingerprint] == lines[other.fingerprint]
    (parent, found, _), (same, _, _) = one.model.rpartition("+"), other.model.rpartition("+")
    return bool(found) and parent == same


def came_from(model: Group, before: Group, lines: Lines) -> bool:
    """Whether a model was trained from another, directly or (a base) in the end."""
    if line := lines.get(model.fingerprint):
        return before.fingerprint in (line[0], line[-1])
    if before.seed is not None and before.seed != model.seed:
        return False
    parent, found, _ = model.model.rpartition("+")
    return bool(found) and (
        parent == before.model or (before.stage == "base" and parent.startswith(f"{before.model}+"))
    )
