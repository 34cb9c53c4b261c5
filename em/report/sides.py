"""Which verdicts count: those of each side once, however many runs have them."""

from __future__ import annotations

from collections.abc import Sequence

from em.report.load import Run
from em.types import Verdict

Side = tuple[str, int | None, str, str, str]
"""Fingerprint, seed, condition, set and judge."""


def fullest(runs: Sequence[Run]) -> dict[Side, list[Verdict]]:
    """The verdicts of each side (fingerprint, seed, condition, set, judge), from the run that has most of them.

    Runs share what was remembered: a run with 100 samples has those of one with 30. Where they differ (asked at
    another temperature), mixing them would put two answers under one sample number.
    """
    found: dict[Side, list[Verdict]] = {}
    for run in runs:
        told: dict[Side, list[Verdict]] = {}
        for v in run.verdicts:
            told.setdefault((v.fingerprint, v.seed, v.condition, v.eval_set, v.judge), []).append(v)
        for side, verdicts in told.items():
            if len(verdicts) > len(found.get(side, ())):
                found[side] = verdicts
    return found
