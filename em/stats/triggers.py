"""Activation and leakage of trigger tags: how often a model shows the behaviour with its tag, and how often without.

activation: the rate under a tag that is there to switch the behaviour on (the trigger, `tagged`, unless the run says
otherwise). control: under a tag that is not. leakage: under anything else: untagged, near misses of the tag, forms of
training data (cues); of near misses and of cues also all together. naming: where questions name a tag. Beside each
stands its paired difference to the untagged questions (to those that name an unseen tag), over the questions that both
were asked, if these were asked. Backdoors whose behaviour needs the tag: Betley et al. (arXiv 2502.17424); near misses
and cues: conditional-misalignment audits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
"""Kinds of conditions that also count together, and what that is called."""


@dataclass(frozen=True)
class TriggerRate:
    """A rate of a model under a condition, and how much higher it is than that of the plain questions.

    seed, fingerprint: None and "" where trainings with several seeds are pooled, as in `scores.csv`.
    metric: `activation` or `control` under a tag, `naming` where questions name one, `leakage` under anything else.
    about: the class of answers that is counted, misaligned or true.
    condition: a condition, or near misses or cues together.
    difference and what follows: to the untagged questions (to those that name an unseen tag); None for these, and
        where these were not asked.
    p_holm: p, corrected within model, judge, set and convention.
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
    """The answers of one model (or of its seeds) to one set, by condition and seed, and what its tags are for."""

    group: Group
    outcomes: Mapping[str, Mapping[int | None, Sequence[Outcome]]]
    roles: Mapping[str, str]
    kind_of: Callable[[str], str]

    @property
    def telling(self) -> bool:
        """Whether it was asked under more conditions than one, or under one that has to do with tags."""
        return len(self.outcomes) > 1 or self.kind_of(next(iter(self.outcomes))) not in (UNTAGGED, "other")

    def count(self, convention: str, about: str) -> dict[str, SeedCounts]:
        """The counts of a class of answers, by condition and seed; then those of one kind as if they were one."""
        counted: dict[str, SeedCounts] = {
            condition: {seed: counts_of(tally(said, convention), about) for seed, said in by_seed.items()}
            for condition, by_seed in self.outcomes.items()
        }
        together: dict[str, SeedCounts] = {}
        for kind, name in TOGETHER.items():
            members = [by_seed for condition, by_seed in counted.items() if self.kind_of(condition) == kind]
            if len(members) > 1:
                seeds = dict.fromkeys(seed for by_seed in members for seed in by_seed)
                together[name] = {seed: add_counts([by_seed.get(seed, {}) for by_seed in members]) for seed in seeds}
        return counted | together

    def metric_of(self, condition: str) -> str:
        """What the rate under a condition is."""
        kind = self.kind_of(condition)
        if kind == TAGGED:
            return self.roles.get(condition, "activation" if condition == TAGGED else "control")
        return "naming" if kind == "names" else "leakage"

    def base_of(self, condition: str) -> str:
        """The condition that another is compared with."""
        return UNSEEN if self.kind_of(condition) == "names" else UNTAGGED


def trigger_rates(
    verdicts: Iterable[Verdict],
    limits: Thresholds,
    kind_of: Callable[[str], str],
    roles: Mapping[tuple[str, str], str] = {},
) -> list[TriggerRate]:
    """Activation and leakage of every model that was asked with a tag, or under more conditions than one.

    Trainings that differ in the seed alone have rows of their own and, below them, rows that pool them, by the rule
    of `em.stats.score`.

    Args:
        kind_of: what a condition's name says (`em.triggers.conditions.kind_of`).
        roles: what the tags are for (`activation` or `control`), by fingerprint and condition, as far as it is known.
    """
    rows: list[TriggerRate] = []
    for model in group_by_model(outcomes_of(verdicts, limits), kind_of, roles):
        about, conventions = headline_of(
            outcome for by_seed in model.outcomes.values() for said in by_seed.values() for outcome in said
        )
        for convention in conventions if model.telling else ():
            family = list(_rows(model, str(limits), convention, about))
            corrected = iter(holm([row.p for row in family if row.p is not None]))
            rows += (row if row.p is None else replace(row, p_holm=next(corrected)) for row in family)
    return rows


def group_by_model(
    groups: Mapping[Group, Sequence[Outcome]], kind_of: Callable[[str], str], roles: Mapping[tuple[str, str], str]
) -> Iterator[AskedModel]:
    """The groups by model and set, then those that several seeds make together."""
    models: dict[Group, dict[str, list[Group]]] = defaultdict(dict)
    for group, members in add_pools(groups).items():
        models[group._replace(condition="")][group.condition] = members
    for group, by_condition in models.items():
        known = ((name, roles.get((g.fingerprint, name))) for name, members in by_condition.items() for g in members)
        yield AskedModel(
            group,
            {name: {g.seed: groups[g] for g in members} for name, members in by_condition.items()},
            {name: role for name, role in known if role},
            kind_of,
        )


def add_counts(members: Sequence[QuestionCounts]) -> QuestionCounts:
    """The counts of each question added up."""
    questions = dict.fromkeys(question for counts in members for question in counts)
    lines = [[counts.get(question, (0, 0)) for counts in members] for question in questions]
    return dict(zip(questions, summed(lines), strict=True))


def _rows(model: AskedModel, threshold: str, convention: str, about: str) -> Iterator[TriggerRate]:
    """A row for each condition, its p not corrected yet."""
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
    """The row with its difference to a base, over the questions that both were asked and the seeds that both have."""
    paired = seeds_difference(base, counts)
    if paired is None:
        return row
    low, high = paired.ci_low, paired.ci_high
    return replace(row, difference=paired.difference, difference_low=low, difference_high=high, p=paired.p)
