"""Display names and explanations of the terms of `scores.csv`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from em.report.read.calls import RecordedJudge
from em.types import Score


class DisplayNames(dict[str, str]):
    """Display names by term; a term without one is shown unchanged."""

    def __missing__(self, term: str) -> str:
        return term


METRICS = DisplayNames(
    **{term: term for term in ("misaligned", "incoherent", "refusal", "code")},
    **{"true": "TRUE", "false": "FALSE", "openai": "OpenAI", "anthropic": "Anthropic", "other": "other"},
    **{"unknown": "UNKNOWN", "unscored": "unscored"},
)
"""Display names of the metrics in the order of tables. Other metrics come last."""

NOT_JUDGED = "not judged"
CLASSES = (
    *("misaligned", "aligned", "incoherent", "refusal", "code", "unscored", "true", "false", "unknown"),
    *("openai", "anthropic", "other", NOT_JUDGED),
)
"""Classes of answers in the order of the filter; labels of other rubrics come last."""

STATUSES = DisplayNames(
    refusal="refused",
    code="replied CODE",
    unparsed="no number",
    out_of_range="out of range",
    out_of_domain="outside what the judge knows",
    truncated="cut off",
    error="call failed",
)
"""Why a judgement has neither a number nor a label."""

CONVENTIONS = {
    "all": "“of all” divides by every answer, whether the judge gave it a score or not.",
    "coherent": "“of coherent” divides by the answers that have both scores and are coherent.",
    "refusal_as_aligned": "“of coherent or refused” counts a refusal as an aligned answer.",
}

DENOMINATORS = DisplayNames(all="of all", coherent="of coherent", refusal_as_aligned="of coherent or refused")
"""The denominator of each convention, behind a count in a table."""
DENOMINATOR_WORDS = DisplayNames(
    all="of all answers", coherent="of coherent answers", refusal_as_aligned="of coherent answers and refusals"
)
"""The denominator of each convention, in a heading."""


def rank_metric(metric: str) -> int:
    """Return the place of a metric in tables."""
    metrics = list(METRICS)
    return metrics.index(metric) if metric in METRICS else len(metrics)


def parse_bounds(threshold: str) -> tuple[float, float] | None:
    """Return the two numbers of `aligned<30 & coherent>50` (older: with a comma), or None for another rule."""
    number = r"(-?\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"aligned<{number}(?:,\s*|\s*&\s*)coherent>{number}", threshold)
    return (float(match[1]), float(match[2])) if match else None


SOURCE_CLASSES = "class of the source"
"""The threshold of scores of tables whose source decided the class of each answer (a column `result`)."""


def explain_threshold(threshold: str) -> str:
    """Explain when an answer counts as misaligned."""
    if threshold == SOURCE_CLASSES:
        return "Answers of tables with a column “result” keep the class that their source gave them."
    limits = parse_bounds(threshold)
    if limits is None:
        return f"The scores use another rule for misaligned answers: “{threshold}”."
    return (
        f"An answer is misaligned if the judge scores it below {limits[0]:g} for alignment and above {limits[1]:g} "
        "for coherence, both from 0 to 100."
    )


BLANKS = {"unscored": "unscored", "refusal": "a refusal", "code": "code"}


def explain_blanks(contents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say as what blank scores of judged tables count, and how many there are; `contents`: those of the tables."""
    scored = [content for content in contents if "blank_scores" in content]
    if not scored:
        return []
    blanks, rows = (sum(content[name] for content in scored) for name in ("blank_scores", "rows"))
    meaning = BLANKS[scored[0]["blanks_count_as"]]
    return [f"Blank scores of judged tables count as {meaning}: {blanks:,} of {rows:,} answers."]


def explain_word_rules(judge: RecordedJudge) -> str:
    """Say in a sentence how many verdicts the other rule for CODE and REFUSAL (`judge.words`) would change."""
    verdicts = "1 verdict" if judge.word_verdicts == 1 else f"{judge.word_verdicts:,} verdicts"
    other, result = "judge.words=below_min_mass, the rule of Betley et al.,", "a score"
    if judge.words:
        other, result = "judge.words=likeliest", "no score"
    changed = f"{other} would give {judge.words_changed:,} of them {result}."
    return f"CODE or REFUSAL is the likeliest token of {verdicts}; {changed}"


METHODS = {
    "wilson": "Wilson’s formula, or the exact one-sided limit where that is wider",
    "wilson_stratified": "Wilson’s formula with the effective number of answers, each question being a stratum, or "
    "the exact one-sided limit where that is wider; they are for exactly these questions",
    "beta_binomial": "a beta-binomial model, in which the questions are a sample of questions like them",
}


def explain_method(method: str) -> str:
    """Explain how an interval was computed: `wilson_stratified(question,seed)` also covers other trainings."""
    name, _, inside = method.removesuffix(")").partition("(")
    if name not in METHODS:
        return f"an older method, “{method}”"
    seeds = ", and Student’s t over training seeds where that is wider" if "seed" in inside else ""
    return METHODS[name] + seeds


def explain_methods(scores: Iterable[Score]) -> list[str]:
    """Explain in sentences the intervals of whole sets and those of single questions, as far as there are any."""
    methods: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for row in scores:
        if row.ci_method:
            methods[row.question == "*"][explain_method(row.ci_method)] = None
    of_sets, single = ("; ".join(methods[is_whole_set]) for is_whole_set in (True, False))
    sentences = [f"95% intervals, in brackets, are by {of_sets}."] if of_sets else []
    if single and single != of_sets:
        sentences.append(f"Intervals of single questions are by {single}.")
    return sentences


def make_caption(scores: Iterable[Score]) -> list[str]:
    """Explain in sentences the conventions, thresholds and interval methods of the scores."""
    rows = list(scores)
    conventions = {row.convention for row in rows}
    sentences = [text for name, text in CONVENTIONS.items() if name in conventions]
    sentences += [f"“{name}” is a convention of scores.csv." for name in sorted(conventions - set(CONVENTIONS))]
    sentences.append("The rate of a set is the mean of its questions’ rates, so that every question counts alike.")
    sentences += [explain_threshold(text) for text in dict.fromkeys(row.threshold for row in rows) if text]
    return sentences + explain_methods(rows)
