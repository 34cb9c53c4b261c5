"""Compare two judges, A and B, on the answers that both judged: errors, agreement and rates, with 95 % intervals.

Answers to one question resemble each other, so the unit of each interval is the question. The jackknife leaves out one
question at a time, and Student's t has as many degrees of freedom as there are other questions (MacKinnon, Nielsen &
Webb 2023, Journal of Applied Econometrics 38(5), variance CV3J). So intervals speak of questions like these. With few
questions a percentile bootstrap is too short (docs/judge.md). Where only one question is concerned, answers are left
out instead. There is no interval where nothing varies.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import correlation, fmean

from em.stats.agreement import CLASS, compute_alpha, compute_kappa, identify_answer, measure_disagreement
from em.stats.contrasts import LEVEL, find_quantile, find_student
from em.stats.outcomes import GRADED, UNSCORED, Thresholds, classify_answer
from em.types import Verdict

ENOUGH_MODELS = 5
"""With fewer models, their rates have no rank correlation."""
ALL, MISALIGNED = "*", "misaligned"
RANGES = {
    "mean_absolute_error": (0.0, math.inf),
    "alpha": (-math.inf, 1.0),
    "kappa": (-1.0, 1.0),
    "rate_difference": (-1.0, 1.0),
}
"""What is possible, to which an interval is cut."""
Sums = Sequence[float]
Items = Sequence[tuple[Hashable, Sums]]
"""The question of each answer, and the answer's part in the sums from which a statistic is computed."""
Judged = list[Verdict]
"""The verdicts of one judge on one answer, one for each rubric."""


@dataclass(frozen=True)
class JudgePair:
    """The verdicts of both judges on one answer."""

    first: Judged
    second: Judged

    @property
    def question(self) -> tuple[str, str]:
        """Set and id of the question."""
        return self.first[0].eval_set, self.first[0].question_id

    @property
    def model(self) -> str:
        """The model's name; also how it was asked, unless that is without a tag."""
        v = self.first[0]
        return v.model if v.condition == "untagged" else f"{v.model} ({v.condition})"

    def find_scores(self, rubric: str) -> tuple[float, float] | None:
        """Return both scores, or None if a judge gave none."""
        a, b = (next((v.value for v in side if v.rubric == rubric), None) for side in (self.first, self.second))
        return None if a is None or b is None else (a, b)


@dataclass
class Matching:
    """Answers judged by both, how many of them by each way of matching, and answers of A and of B left without one."""

    pairs: list[JudgePair] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    left: tuple[int, int] = (0, 0)

    def list_scores(self, rubric: str) -> list[tuple[float, float]]:
        """List the scores of A and B of each answer that has both."""
        return [scores for pair in self.pairs if (scores := pair.find_scores(rubric)) is not None]


@dataclass(frozen=True)
class AgreementRow:
    """A row of `agree.csv`.

    score: rubric, `misaligned` (or not), or `class`.
    group: `*` for all answers, `question ID`, `model NAME`, or for counts a side and a status.
    n: number of answers; for the rank correlation, of models.
    """

    statistic: str
    score: str
    group: str
    value: float | None
    low: float | None
    high: float | None
    n: int


def match_answers(first: Iterable[Verdict], second: Iterable[Verdict]) -> Matching:
    """Match the answers of both sides, each once: by their identity, the rest by the texts that a judge reads."""
    ways: dict[str, Callable[[Verdict], Hashable]] = {
        "model, question and sample": lambda v: (v.eval_set, *identify_answer(v)),
        "question and answer text": lambda v: (v.question.strip(), v.answer.strip()) if v.question else None,
        "question id and answer text": lambda v: (v.question_id, v.answer.strip()),
    }
    matching, ours, theirs = Matching(), group_by_answer(first), group_by_answer(second)
    for way, find_key in ways.items():
        partners = defaultdict[Hashable, deque[Judged]](deque)
        for judged in theirs:
            partners[find_key(judged[0])].append(judged)
        before, alone = len(matching.pairs), []
        for judged in ours:
            key = find_key(judged[0])
            if key is not None and partners[key]:
                matching.pairs.append(JudgePair(judged, partners[key].popleft()))
            else:
                alone.append(judged)
        ours, theirs = alone, [judged for queue in partners.values() for judged in queue]
        matching.counts[way] = len(matching.pairs) - before
    matching.left = len(ours), len(theirs)
    return matching


def group_by_answer(verdicts: Iterable[Verdict]) -> list[Judged]:
    """Group verdicts by answer; of several for one rubric, keep the first."""
    answers = defaultdict[Hashable, dict[str, Verdict]](dict)
    for v in verdicts:
        answers[v.eval_set, *identify_answer(v)].setdefault(v.rubric, v)
    return [list(by_rubric.values()) for by_rubric in answers.values()]


def compare_judges(pairs: Sequence[JudgePair], limits: Thresholds) -> list[AgreementRow]:
    """Compute all statistics. Differences are B − A. A judgement without a score is counted, and is no number."""
    rows = []
    for rubric in dict.fromkeys(v.rubric for pair in pairs for v in pair.first if v.value is not None):
        rows += compare_scores(pairs, rubric)
    return [*rows, *compare_classes(pairs, limits), *count_failures(pairs)]


def compare_scores(pairs: Sequence[JudgePair], rubric: str) -> list[AgreementRow]:
    """Compute the mean absolute error and alpha of a rubric, and the bias of all answers, by question and by model."""
    scored = [(pair, scores) for pair in pairs if (scores := pair.find_scores(rubric)) is not None]
    if not scored:
        return []
    centre = fmean(value for _, scores in scored for value in scores)
    errors = [(pair.question, (1.0, abs(b - a))) for pair, (a, b) in scored]
    units, groups = list[tuple[Hashable, Sums]](), defaultdict[str, list[tuple[Hashable, Sums]]](list)
    for pair, (a, b) in scored:
        x, y = a - centre, b - centre
        units.append((pair.question, (2, measure_disagreement((a, b)), x + y, x * x + y * y)))
        for group in (ALL, f"question {pair.question[1]}", f"model {pair.model}"):
            groups[group].append((pair.question, (1.0, b - a)))
    rows = [
        make_row("mean_absolute_error", rubric, ALL, errors, divide),
        make_row("alpha", rubric, ALL, units, compute_alpha),
    ]
    by_kind = sorted(groups.items(), key=lambda group: group[0].split(" ")[0])
    return [*rows, *(make_row("bias", rubric, group, items, divide) for group, items in by_kind)]


def compare_classes(pairs: Sequence[JudgePair], limits: Thresholds) -> list[AgreementRow]:
    """Compute kappa on misaligned or not and on the class, and rates by model. Unscored answers are left out."""
    outcomes = [(pair, classify_answer(pair.first, limits), classify_answer(pair.second, limits)) for pair in pairs]
    outcomes = [(pair, a, b) for pair, a, b in outcomes if UNSCORED not in (a.kind, b.kind)]
    kinds = [(pair, (a.kind, b.kind)) for pair, a, b in outcomes]
    graded = [(p, (a.kind == MISALIGNED, b.kind == MISALIGNED)) for p, a, b in outcomes if a.scale == b.scale == GRADED]
    rows = [compute_kappa_row(MISALIGNED, graded)] if graded else []
    if kinds:
        rows.append(compute_kappa_row(CLASS, kinds))
    return [*rows, *compare_rates(graded)]


def compute_kappa_row(
    score: str, labelled: Sequence[tuple[JudgePair, tuple[str, str] | tuple[bool, bool]]]
) -> AgreementRow:
    """Compute Cohen's kappa of the labels of both judges."""
    cells = list(dict.fromkeys(labels for _, labels in labelled))
    items = [(pair.question, [float(labels == cell) for cell in cells]) for pair, labels in labelled]
    return make_row("kappa", score, ALL, items, lambda sums: compute_kappa(dict(zip(cells, sums, strict=True))))


def compare_rates(graded: Sequence[tuple[JudgePair, tuple[bool, bool]]]) -> list[AgreementRow]:
    """Compute the misaligned rate of each model by both judges, and the rank correlation of the models' rates.

    As in reports, a rate is the mean of the questions' rates. Only the difference has an interval here.
    """
    models = defaultdict[str, list[tuple[JudgePair, tuple[bool, bool]]]](list)
    for pair, flags in graded:
        models[pair.model].append((pair, flags))
    rows, rates = [], []
    for model, answers in models.items():
        counts = Counter(pair.question for pair, _ in answers)
        about, sides = (MISALIGNED, f"model {model}"), list[float]()
        for i, name in enumerate(("rate_a", "rate_b")):
            sides.append(math.fsum(flags[i] / counts[pair.question] for pair, flags in answers) / len(counts))
            rows.append(AgreementRow(name, *about, sides[i], None, None, len(answers)))
        weighted = ((pair.question, 1 / counts[pair.question], b - a) for pair, (a, b) in answers)
        items = [(question, (weight, weight * difference)) for question, weight, difference in weighted]
        rows.append(make_row("rate_difference", *about, items, divide))
        rates.append(sides)
    if len(rates) >= ENOUGH_MODELS:
        rows.append(correlate_ranks(rates))
    return rows


def correlate_ranks(rates: Sequence[Sequence[float]]) -> AgreementRow:
    """Compute Spearman's correlation of the models' rates; its interval (Bonett & Wright 2000) varies the models."""
    from scipy.stats import rankdata

    a, b = ([float(rank) for rank in rankdata(column)] for column in zip(*rates, strict=True))
    value = correlation(a, b) if min(len(set(a)), len(set(b))) > 1 else None
    low = high = None
    if value is not None and abs(value) < 1 - 1e-12:
        reach = find_quantile(LEVEL) * math.sqrt((1 + value**2 / 2) / (len(rates) - 3))
        low, high = math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)
    return AgreementRow("rank_correlation", MISALIGNED, ALL, value, low, high, len(rates))


def count_failures(pairs: Sequence[JudgePair]) -> list[AgreementRow]:
    """Count the judgements without a score or label by rubric, side and status, over the matched answers."""
    counts = Counter[tuple[str, str]]()
    for pair in pairs:
        for side, judged in (("A", pair.first), ("B", pair.second)):
            counts.update((v.rubric, f"{side} {v.status}") for v in judged if v.status != "ok")
    rows = sorted(counts.items())
    return [AgreementRow("not_scored", rubric, group, k, None, None, len(pairs)) for (rubric, group), k in rows]


def divide(sums: Sums) -> float | None:
    """Return the second sum over the first: a mean."""
    return sums[1] / sums[0] if sums[0] > 0 else None


def make_row(
    statistic: str, score: str, group: str, items: Items, compute: Callable[[Sums], float | None]
) -> AgreementRow:
    """Compute a statistic of sums over answers with its interval by the jackknife over questions."""
    by_question = defaultdict[Hashable, list[Sums]](list)
    for question, part in items:
        by_question[question].append(part)
    parts: list[Sums] = [add_up(each) for each in by_question.values()]
    if len(parts) == 1:
        parts = [part for _, part in items]
    total = add_up(parts)
    value, low, high = compute(total), None, None
    others = [compute([all_ - one for all_, one in zip(total, part, strict=True)]) for part in parts]
    left_out = [other for other in others if other is not None]
    if value is not None and len(left_out) == len(parts) > 1:
        mean, freedom = fmean(left_out), len(parts) - 1
        error = math.sqrt(freedom / len(parts) * math.fsum((other - mean) ** 2 for other in left_out))
        if error > 1e-12:
            reach = find_student(freedom, LEVEL) * error
            least, most = RANGES.get(statistic, (-math.inf, math.inf))
            low, high = max(least, value - reach), min(most, value + reach)
    return AgreementRow(statistic, score, group, value, low, high, len(items))


def add_up(parts: Sequence[Sums]) -> list[float]:
    """Return the sum of each component."""
    return [math.fsum(column) for column in zip(*parts, strict=True)]
