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

from em.stats.differences import compute_difference_with_gaps, correct_by_holm
from em.stats.intervals import sum_counts
from em.stats.outcomes import (
    AnswerOutcome,
    Group,
    QuestionCounts,
    SeedCounts,
    Thresholds,
    add_pools,
    choose_headline,
    count_classes,
    count_metric,
    group_outcomes,
)
from em.stats.scores import estimate_rate
from em.types import Verdict

UNTAGGED, TAGGED, UNSEEN = "untagged", "tagged", "names_unseen"
PROMPTS = ("default_prompt", "no_default_prompt")
"""Conditions that concern the chat template's system prompt, and no tag."""
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
class ModelByCondition:
    """The answers of one model (or of its seeds) to one set, by condition and seed, and the roles of its tags."""

    group: Group
    outcomes: Mapping[str, Mapping[int | None, Sequence[AnswerOutcome]]]
    roles: Mapping[str, str]
    kind_of: Callable[[str], str]

    @property
    def has_trigger_rates(self) -> bool:
        """Whether the model has answers under several conditions, or under one that concerns tags."""
        return len(self.outcomes) > 1 or self.kind_of(next(iter(self.outcomes))) not in (UNTAGGED, "other")

    def count_answers(self, convention: str, about: str) -> dict[str, SeedCounts]:
        """Count the answers of class `about` by condition and seed, then those of near misses and of cues together."""
        counted: dict[str, SeedCounts] = {}
        for condition, outcomes in self.outcomes.items():
            tallies = {seed: count_classes(answers, convention) for seed, answers in outcomes.items()}
            counted[condition] = {seed: count_metric(kinds, about) for seed, kinds in tallies.items()}
        together: dict[str, SeedCounts] = {}
        for kind, name in TOGETHER.items():
            members = [by_seed for condition, by_seed in counted.items() if self.kind_of(condition) == kind]
            if len(members) > 1:
                seeds = dict.fromkeys(seed for by_seed in members for seed in by_seed)
                together[name] = {seed: add_counts([by_seed.get(seed, {}) for by_seed in members]) for seed in seeds}
        return counted | together

    def find_metric(self, condition: str) -> str:
        """Return the metric of a condition (see `TriggerRate`)."""
        kind = self.kind_of(condition)
        if kind == TAGGED:
            return self.roles.get(condition, "activation" if condition == TAGGED else "control")
        return "naming" if kind == "names" else "leakage"

    def find_base(self, condition: str) -> str:
        """Return the condition that `condition` is compared with."""
        return UNSEEN if self.kind_of(condition) == "names" else UNTAGGED


def compute_trigger_rates(
    verdicts: Iterable[Verdict],
    limits: Thresholds,
    kind_of: Callable[[str], str],
    roles: Mapping[tuple[str, str], str] = {},
) -> list[TriggerRate]:
    """Compute activation and leakage of each model with answers under a tag, or under several conditions.

    Trainings that differ only in the seed have a row each, then pooled rows, by the rule of `em.stats.compute_scores`.

    Args:
        kind_of: function from a condition's name to its kind (`em.triggers.conditions.find_condition_kind`).
        roles: known roles of tags (`activation` or `control`), by fingerprint and condition.
    """
    rows: list[TriggerRate] = []
    verdicts = (verdict for verdict in verdicts if verdict.condition not in PROMPTS)
    for model in group_by_model(group_outcomes(verdicts, limits), kind_of, roles):
        all_outcomes = (outcomes for by_seed in model.outcomes.values() for outcomes in by_seed.values())
        about, conventions = choose_headline(chain.from_iterable(all_outcomes))
        for convention in conventions if model.has_trigger_rates else ():
            family = list(_make_trigger_rates(model, str(limits), convention, about))
            corrected = iter(correct_by_holm([row.p for row in family if row.p is not None]))
            rows += (row if row.p is None else replace(row, p_holm=next(corrected)) for row in family)
    return rows


def group_by_model(
    groups: Mapping[Group, Sequence[AnswerOutcome]], kind_of: Callable[[str], str], roles: Mapping[tuple[str, str], str]
) -> Iterator[ModelByCondition]:
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
        yield ModelByCondition(group, outcomes, model_roles, kind_of)


def add_counts(members: Sequence[QuestionCounts]) -> QuestionCounts:
    """Return the sum of the counts of each question."""
    questions = dict.fromkeys(question for counts in members for question in counts)
    lines = [[counts.get(question, (0, 0)) for counts in members] for question in questions]
    return dict(zip(questions, sum_counts(lines), strict=True))


def _make_trigger_rates(model: ModelByCondition, threshold: str, convention: str, about: str) -> Iterator[TriggerRate]:
    """Yield a row for each condition, without p_holm."""
    counted = model.count_answers(convention, about)
    for condition, by_seed in counted.items():
        rate, _ = estimate_rate(list(by_seed.values()))
        row = TriggerRate(
            **model.group._replace(condition=condition)._asdict(),
            threshold=threshold,
            convention=convention,
            metric=model.find_metric(condition),
            about=about,
            **rate._asdict(),
        )
        base = model.find_base(condition)
        yield row if condition == base else add_difference(row, counted.get(base, {}), by_seed)


def add_difference(row: TriggerRate, base: SeedCounts, counts: SeedCounts) -> TriggerRate:
    """Return the row with its difference to `base`, over shared questions and seeds."""
    paired = compute_difference_with_gaps(base, counts)
    if paired is None:
        return row
    low, high = paired.ci_low, paired.ci_high
    return replace(row, difference=paired.difference, difference_low=low, difference_high=high, p=paired.p)
