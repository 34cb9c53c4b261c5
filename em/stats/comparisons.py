"""Make `comparisons.csv`: pairs of models, how they are related, and the differences of their rates.

Compared are single models, and pools of trainings that differ only in their seed, on the same set, condition and judge.
`em.stats.rules` decides what may be said of a pair.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, NamedTuple

from em.stats.cells import Convention, Model
from em.stats.outcomes import (
    AnswerOutcome,
    Group,
    Tally,
    Thresholds,
    choose_headline,
    group_outcomes,
    make_cells,
    tally_outcomes,
)
from em.stats.rules import (
    DEFAULT,
    Finding,
    Settings,
    decide_against_control,
    decide_misaligns,
    decide_reduction,
    decide_truthful,
    make_finding,
)
from em.stats.scores import make_bounds
from em.types import Verdict

ALL_PAIRS = 12
"""With more comparable models than this, each is compared only with its relatives."""
FIRST, SECOND, CONTROL, STAGE, SIBLING, OTHER = "first", "second", "control", "stage", "sibling", "other"
PRIMARY = (FIRST, SECOND, CONTROL)
"""The families of pairs that have a p."""


class Line(NamedTuple):
    """Where a model comes from: its ancestors (base, first training, …, parent), and the control of its last stage."""

    ancestors: tuple[str, ...]
    control: str = ""


Lines = Mapping[str, Line]
"""The line of each trained model, by fingerprint or by the key of its pool."""
NO_LINES: Lines = {}


@dataclass(frozen=True)
class Comparison:
    """The rate of the second model minus that of the first, on the questions that both answered.

    first, second: fingerprints; for models with several seeds the keys of their pools, and `seeds` is their number.
    family: `first` (first training against base), `second` (later training against the first), `control` (later
        training against its control), `stage` (a model and its parent or base), `sibling` (two last stages after the
        same training) or `other`. Only the first three have a p, and of these the pairs of single seeds have none
        where a pool of seeds is compared.
    """

    judge: str
    condition: str
    eval_set: str
    convention: str
    metric: str
    threshold: str
    first: str
    first_name: str
    second: str
    second_name: str
    family: str
    seeds: int
    finding: Finding

    @property
    def is_primary(self) -> bool:
        """Whether the pair answers a question of its lineage, and so has a p and a verdict."""
        return self.finding.verdict is not None

    @property
    def difference(self) -> float | None:
        """The difference of the rates, the same for both inferences; None without a question that both answered."""
        return self.finding.these.value if self.finding.these else None

    @property
    def ci_low(self) -> float | None:
        """The lower end of the headline's interval."""
        return self.finding.difference.low if self.finding.difference else None

    @property
    def ci_high(self) -> float | None:
        """The upper end of the headline's interval."""
        return self.finding.difference.high if self.finding.difference else None

    @property
    def ci_method(self) -> str:
        """The method of the headline's interval."""
        return self.finding.difference.method if self.finding.difference else ""

    @property
    def questions(self) -> int:
        """The number of shared questions."""
        return self.finding.these.questions if self.finding.these else 0

    @property
    def p(self) -> float | None:
        """The p value of the finding."""
        return self.finding.p

    def list_columns(self) -> dict[str, Any]:
        """Return the row of `comparisons.csv`."""
        own = [name for name in self.__dataclass_fields__ if name not in ("family", "seeds", "finding")]
        names = [*own, "questions", "difference", "ci_low", "ci_high", "ci_method", "p", "family", "seeds"]
        row = {name: getattr(self, name) for name in names} | {"verdict": self.finding.verdict}
        row |= make_bounds(self.finding.these, self.finding.like_these)
        share, elsewhere = self.finding.share, self.finding.share_elsewhere
        bounds = [each.bound if each and math.isfinite(each.bound) else None for each in (share, elsewhere)]
        turned = bounds if self.finding.questions == "these" else bounds[::-1]
        row |= {"harm_left": share.value if share else None, "harm_left_bound": bounds[0]}
        row |= {"these_harm_left_bound": turned[0], "like_these_harm_left_bound": turned[1]}
        for side, total in zip(("first", "second"), self.finding.totals, strict=True):
            row |= {f"{side}_{name}": count for name, count in vars(total).items()}
        return row


@dataclass(frozen=True)
class Compared:
    """The comparable models of one judge, condition and set, as cells under one convention; and how they are related.

    members: fingerprints of models that are a seed of a pool which is compared too.
    """

    groups: Sequence[Group]
    models: Mapping[Group, Model]
    lines: Lines
    members: frozenset[str]
    metric: str
    settings: Settings

    def find_pairs(self) -> Iterator[tuple[Group, Group, str]]:
        """Yield the pairs to compare, with their families; of more than ALL_PAIRS models, only relatives."""
        for one, other in combinations(self.groups, 2):
            first, second = (other, one) if self.is_trained_from(one, other) else (one, other)
            family = self.find_family(first, second)
            if family == CONTROL and self.find_line(first).control == second.fingerprint:
                first, second = second, first
            replicates = (first.model, first.stage) == (second.model, second.stage) and first.seed != second.seed
            if not replicates and (len(self.groups) <= ALL_PAIRS or family != OTHER):
                yield first, second, family

    def find_line(self, group: Group) -> Line:
        """Return the line of a model; empty if it is not known."""
        return self.lines.get(group.fingerprint, Line(()))

    def is_trained_from(self, model: Group, before: Group) -> bool:
        """Tell whether `before` is an ancestor of `model`."""
        return before.fingerprint in self.find_line(model).ancestors

    def find_family(self, first: Group, second: Group) -> str:
        """Return how two models are related (see `Comparison`); an ancestor comes first."""
        one, two = self.find_line(first), self.find_line(second)
        if first.fingerprint in two.ancestors:
            if len(two.ancestors) == 1:
                return FIRST
            place = two.ancestors.index(first.fingerprint)
            if place == 1:
                return SECOND
            return STAGE if place in (0, len(two.ancestors) - 1) else OTHER
        if first.fingerprint == two.control or second.fingerprint == one.control:
            return CONTROL
        return SIBLING if one.ancestors and one.ancestors == two.ancestors else OTHER

    def decide(self, first: Group, second: Group, family: str) -> Finding:
        """Decide what may be said of a pair, in the order of the questions of its lineage."""
        one, two = self.models[first], self.models[second]
        base, trained = self.find_ancestor(second, 0), self.find_ancestor(second, 1)
        is_primary = family in PRIMARY and second.fingerprint not in self.members
        if not is_primary or (family == CONTROL and trained is None):
            return make_finding(None, one, two, self.settings)
        if self.metric != "misaligned":
            earlier = {FIRST: (), SECOND: ((base, trained),), CONTROL: ((base, trained), (trained, two))}[family]
            pairs = [(before, after) for before, after in earlier if before is not None and after is not None]
            return decide_truthful(one, two, self.settings, pairs)
        if family == FIRST:
            return decide_misaligns(one, two, self.settings)
        if family == SECOND or trained is None:
            return decide_reduction(base, one, two, self.settings)
        return decide_against_control(decide_reduction(base, trained, two, self.settings), one, two, self.settings)

    def find_ancestor(self, group: Group, place: int) -> Model | None:
        """Return an ancestor of a model: 0 is the base, 1 the first training; None if it is not compared."""
        ancestors = self.find_line(group).ancestors[place : place + 1]
        return next((self.models[each] for each in self.groups if each.fingerprint in ancestors), None)


def compare_models(
    verdicts: Iterable[Verdict],
    limits: Thresholds,
    lines: Lines,
    pools: Mapping[str, str] = {},
    settings: Settings = DEFAULT,
) -> list[Comparison]:
    """Compare models on the same set, condition and judge; with more than ALL_PAIRS models, only related ones.

    Trainings that differ only in their seed are not compared. The rate is that of misaligned answers under each
    convention, or of TRUE if a set has labels.

    Args:
        lines: the line of each trained model and of each pool.
        pools: fingerprint of a training → key of its pool, which is compared as one model.
    """
    singles = group_outcomes(verdicts, limits)
    models: dict[Group, dict[int | None, Sequence[AnswerOutcome]]] = defaultdict(dict)
    for group, outcomes in singles.items():
        if key := pools.get(group.fingerprint):
            models[group._replace(fingerprint=key, seed=None)][group.seed] = outcomes
    models = {group: seeds for group, seeds in models.items() if len(seeds) > 1}
    models |= {group: {group.seed: outcomes} for group, outcomes in singles.items()}
    comparable: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    for group in models:
        comparable[group.judge, group.condition, group.eval_set].append(group)
    rows: list[Comparison] = []
    for groups in comparable.values():
        everything = [outcomes for group in groups for outcomes in models[group].values()]
        metric, conventions = choose_headline(chain.from_iterable(everything))
        tallies = {g: {seed: tally_outcomes(each) for seed, each in models[g].items()} for g in groups}
        for convention in conventions:
            rows += _compare_groups(tallies, metric, convention, lines, pools, str(limits), settings)
    return rows


def _compare_groups(
    tallies: Mapping[Group, Mapping[int | None, Tally]],
    metric: str,
    convention: Convention,
    lines: Lines,
    pools: Mapping[str, str],
    threshold: str,
    settings: Settings,
) -> Iterator[Comparison]:
    """Yield the comparisons of models with the same judge, condition and set, under one convention."""
    cells: dict[Group, Model] = {}
    for group, by_seed in tallies.items():
        cells[group] = [cell for seed, tally in by_seed.items() for cell in make_cells(tally, seed, metric)]
    of_convention = Settings(settings.questions, convention)
    pooled = [group for group, by_seed in tallies.items() if len(by_seed) > 1]
    keys = {group.fingerprint for group in pooled}
    members = frozenset(member for member, key in pools.items() if key in keys)
    # A pool is compared with pools and models without a seed, not with single seeds, and the other way round.
    with_pools = [group for group in tallies if group in pooled or group.seed is None]
    single = [group for group in tallies if group not in pooled]
    for part in (with_pools, single):
        compared = Compared(part, cells, lines, members, metric, of_convention)
        for first, second, family in compared.find_pairs():
            is_pooled = first in pooled or second in pooled
            if part is with_pools and not is_pooled:
                continue
            finding = compared.decide(first, second, family)
            if finding.these is not None or finding.verdict is not None:
                yield Comparison(
                    first.judge,
                    first.condition,
                    first.eval_set,
                    convention,
                    metric,
                    threshold,
                    first.fingerprint,
                    first.model,
                    second.fingerprint,
                    second.model,
                    family,
                    finding.these.seeds if is_pooled and finding.these else 0,
                    finding,
                )
