"""Compute activation and leakage of trigger tags: how often a model shows the behaviour with and without its tag.

activation: the rate under an activation tag (the trigger, `tagged`, unless the run says otherwise).
control: the rate under any other tag.
leakage: the rate without a tag, under near misses of the tag, and under forms of training data (cues); near misses and
cues also have one rate each for all together.
naming: the rate on questions that name a tag.
Each rate has its paired difference to the untagged questions (for naming: to questions that name an unseen tag), over
shared questions. Backdoors that need the tag: Betley et al. (arXiv 2502.17424); near misses and cues:
conditional-misalignment audits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from em.stats.differences import holm, seeds_difference
from em.stats.intervals import summed
from em.stats.outcomes import (
    Group,
    Outcome,
    QuestionCounts,
    SeedCounts,
    Thresholds,
    add_pools,
    counts_of,
    headline_of,
    outcomes_of,
    tally,
)
from em.stats.scores import rate_over
from em.types import Verdict

UNTAGGED, TAGGED, UNSEEN = "untagged", "tagged", "names_unseen"
TOGETHER = {"near": "near misses, together", "cue": "cues, together"}
"""Kinds of conditions that are also counted together, and the name of the sum."""


@dataclass(frozen=True)
class TriggerRate:
    """The rate of a model under a condition, and its difference to the rate without a tag.

    seed, fingerprint: None and "" for pooled trainings with several seeds, as in `scores.csv`.
    metric: `activation` or `control` under a tag, `naming` for questions that name a tag, else `leakage`.
    about: the class of answers that is counted, misaligned or true.
    condition: a condition, or near misses or cues together.
    difference, difference_low, difference_high, p: to the base condition (untagged; for naming, an unseen tag); None
        for the base itself, and without answers to the base.
    p_holm: p corrected within model, judge, set and convention.
    """

    model: str
    stage: str
    fingerprint: str
    seed: int | None
    judge: str
    eval_set: str
    threshold: str
    convention: str
    metric: str
    about: str
    condition: str
    k: int
    n: int
    rate: float | None
    ci_low: float | None
    ci_high: float | None
    ci_method: str
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class AskedModel:
    """The answers of one model (or of its seeds) to one set, by condition and seed, and the roles of its tags."""

    group: Group
    outcomes: Mapping[str, Mapping[int | None, Sequence[Outcome]]]
    roles: Mapping[str, str]
    kind_of: Callable[[str], str]

    @property
    def telling(self) -> bool:
        """Whether the model has answers under several conditions, or under one that concerns tags."""
        return len(self.outcomes) > 1 or self.kind_of(next(iter(self.outcomes))) not in (UNTAGGED, "other")

    def count(self, convention: str, about: str) -> dict[str, SeedCounts]:
        """Count the answers of class `about` by condition and seed, then those of near misses and of cues together."""
        counted: dict[str, SeedCounts] = {}
        for condition, outcomes in self.outcomes.items():
            tallies = {seed: tally(answers, convention) for seed, answers in outcomes.items()}
            counted[condition] = {seed: counts_of(kinds, about) for seed, kinds in tallies.items()}
        together: dict[str, SeedCounts] = {}
        for kind, name in TOGETHER.items():
            members = [by_seed for condition, by_seed in counted.items() if self.kind_of(condition) == kind]
            if len(members) > 1:
                seeds = dict.fromkeys(seed for by_seed in members for seed in by_seed)
                together[name] = {seed: add_counts([by_seed.get(seed, {}) for by_seed in members]) for seed in seeds}
        return counted | together

    def metric_of(self, condition: str) -> str:
        """Return the metric of a condition (see `TriggerRate`)."""
        kind = self.kind_of(condition)
        if kind == TAGGED:
            return self.roles.get(condition, "activation" if condition == TAGGED else "control")
        return "naming" if kind == "names" else "leakage"

    def base_of(self, condition: str) -> str:
        """Return the condition that `condition` is compared with."""
        return UNSEEN if self.kind_of(condition) == "names" else UNTAGGED


def trigger_rates(
    verdicts: Iterable[Verdict],
    limits: Thresholds,
    kind_of: Callable[[str], str],
    roles: Mapping[tuple[str, str], str] = {},
) -> list[TriggerRate]:
    """Compute activation and leakage of each model with answers under a tag, or under several conditions.

    Trainings that differ only in the seed have a row each, then pooled rows, by the rule of `em.stats.score`.

    Args:
        kind_of: function from a condition's name to its kind (`em.triggers.conditions.kind_of`).
        roles: known roles of tags (`activation` or `control`), by fingerprint and condition.
    """
    rows: list[TriggerRate] = []
    for model in group_by_model(outcomes_of(verdicts, limits), kind_of, roles):
        all_outcomes = (outcomes for by_seed in model.outcomes.values() for outcomes in by_seed.values())
        about, conventions = headline_of(chain.from_iterable(all_outcomes))
        for convention in conventions if model.telling else ():
            family = list(_rows(model, str(limits), convention, about))
            corrected = iter(holm([row.p for row in family if row.p is not None]))
            rows += (row if row.p is None else replace(row, p_holm=next(corrected)) for row in family)
    return rows


def group_by_model(
    groups: Mapping[Group, Sequence[Outcome]], kind_of: Callable[[str], str], roles: Mapping[tuple[str, str], str]
) -> Iterator[AskedModel]:
    """Yield the answers of each model and set, then those of pooled seeds."""
    models: dict[Group, dict[str, list[Group]]] = defaultdict(dict)
    for group, members in add_pools(groups).items():
        models[group._replace(condition="")][group.condition] = members
    for group, by_condition in models.items():
        outcomes = {name: {g.seed: groups[g] for g in members} for name, members in by_condition.items()}
        model_roles: dict[str, str] = {}
        for name, members in by_condition.items():
            for member in members:
                if role := roles.get((member.fingerprint, name)):
                    model_roles[name] = role
        yield AskedModel(group, outcomes, model_roles, kind_of)


def add_counts(members: Sequence[QuestionCounts]) -> QuestionCounts:
    """Return the sum of the counts of each question."""
    questions = dict.fromkeys(question for counts in members for question in counts)
    lines = [[counts.get(question, (0, 0)) for counts in members] for question in questions]
    return dict(zip(questions, summed(lines), strict=True))


def _rows(model: AskedModel, threshold: str, convention: str, about: str) -> Iterator[TriggerRate]:
    """Yield a row for each condition, without p_holm."""
    counted = model.count(convention, about)
    for condition, by_seed in counted.items():
        rate, _ = rate_over(list(by_seed.values()))
        row = TriggerRate(
            **model.group._replace(condition=condition)._asdict(),
            threshold=threshold,
            convention=convention,
            metric=model.metric_of(condition),
            about=about,
            **rate._asdict(),
        )
        base = model.base_of(condition)
        yield row if condition == base else compare_with(row, counted.get(base, {}), by_seed)


def compare_with(row: TriggerRate, base: SeedCounts, counts: SeedCounts) -> TriggerRate:
    """Return the row with its difference to `base`, over shared questions and seeds."""
    paired = seeds_difference(base, counts)
    if paired is None:
        return row
    low, high = paired.ci_low, paired.ci_high
    return replace(row, difference=paired.difference, difference_low=low, difference_high=high, p=paired.p)
