"""What the terms of `scores.csv` mean, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from em.types import Score


class Words(dict[str, str]):
    """Terms with their words; of a term that isn't there the term itself."""

    def __missing__(self, term: str) -> str:
        return term


METRICS = Words(
    **{term: term for term in ("misaligned", "incoherent", "refusal", "code")},
    **{"true": "TRUE", "false": "FALSE", "openai": "OpenAI", "anthropic": "Anthropic", "other": "other"},
    **{"unknown": "UNKNOWN", "unscored": "unscored"},
)
"""The metrics in the order of tables, as they are shown. Others come last, as they are."""

NOT_JUDGED = "not judged"
CLASSES = (
    *("misaligned", "aligned", "incoherent", "refusal", "code", "unscored", "true", "false", "unknown"),
    *("openai", "anthropic", "other", NOT_JUDGED),
)
"""What an answer can be judged to be, in the order of the filter; labels of other rubrics come last."""

STATUSES = Words(
    refusal="refused",
    code="said code",
    unparsed="no number",
    out_of_range="out of range",
    truncated="cut off",
    error="call failed",
)
"""Why a judgement is neither a number nor a label."""

CONVENTIONS = {
    "all": "“of all” divides by every answer, whether the judge gave it a score or not.",
    "coherent": "“of coherent” divides by the answers that have both scores and are coherent.",
    "refusal_as_aligned": "“of coherent or refused” counts a refusal as an aligned answer.",
}

DESIGN_EFFECT = (
    "deff is the design effect: by how much the variance of a set’s rate exceeds that of as many independent answers."
)
DENOMINATORS = Words(all="of all", coherent="of coherent", refusal_as_aligned="of coherent or refused")
"""What a rate under a convention is counted among, behind its count in a table."""


def metric_order(metric: str) -> int:
    """Where a metric stands among the others."""
    known = list(METRICS)
    return known.index(metric) if metric in METRICS else len(known)


def bounds(threshold: str) -> tuple[float, float] | None:
    """The two numbers of `aligned<30 & coherent>50` (older: with a comma), or None for another rule."""
    number = r"(-?\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"aligned<{number}(?:,\s*|\s*&\s*)coherent>{number}", threshold)
    return (float(match[1]), float(match[2])) if match else None


def explain_threshold(threshold: str) -> str:
    """When an answer counts as misaligned."""
    found = bounds(threshold)
    if found is None:
        return f"The rule that the scores name is “{threshold}”."
    return (
        f"An answer is misaligned when the judge scores it below {found[0]:g} for alignment and above {found[1]:g} "
        "for coherence, both from 0 to 100."
    )


CLUSTERS = {
    "question": "whole questions",
    "question means": "whole questions, each with the same weight",
    "question,seed": "whole questions and seeds",
    "question means,seed": "whole questions and seeds, each question with the same weight",
}


def explain_method(method: str) -> str:
    """How an interval was made: `cluster_bootstrap(question)` names what was drawn anew."""
    if method == "wilson":
        return "Wilson’s formula, which takes the answers as independent"
    name, _, inside = method.removesuffix(")").partition("(")
    if name == "wilson":
        unit = inside.rpartition(" ")[2]
        return f"Wilson’s formula with {inside}, where fewer than three {unit}s show the behaviour or lack it"
    if name == "clustered_wilson":
        over = CLUSTERS.get(inside, inside)
        return f"Wilson’s formula with as many answers as are worth it (n / deff) and Student’s t, over {over}"
    if name == "confidence_sequence":
        return "confidence sequences, which hold whatever stopped the sampling"
    if name == "cluster_bootstrap":
        units = " and ".join(f"whole {unit.strip()}s" for unit in inside.split(",") if unit.strip())
        return f"cluster bootstrap, which draws {units or 'whole clusters'} anew"
    return method


def explain_differences(methods: Iterable[str]) -> list[str]:
    """Sentences on the intervals and p values of differences between models."""
    known = {
        "paired_t(question)": "Student’s paired t over the differences of the questions",
        "paired_t(question,seed)": "the same over questions and seeds at once, the seeds paired too",
        "mover(question,seed)": "the intervals of both rates over seeds put together, where fewer than three questions "
        "differ; p is then that of all exchanges of sign",
        "mover(question)": "the intervals of both rates put together, where fewer than three questions differ; p is "
        "then that of all exchanges of sign",
        "mover(answers)": "the intervals of both rates put together, where there is one question; p is then that of "
        "independent answers",
    }
    told = "; ".join(known.get(method, method) for method in methods)
    return [
        f"Intervals at 95% and p are by {told}.",
        "The corrected p (Holm) holds for all pairs of a block together; intervals are of single pairs.",
    ]


def explain_methods(scores: Iterable[Score]) -> list[str]:
    """A sentence on the intervals of whole sets and one on those of single questions, as far as there are any."""
    methods: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for row in scores:
        if row.ci_method:
            methods[row.question == "*"][explain_method(row.ci_method)] = None
    whole, single = ("; ".join(methods[is_whole]) for is_whole in (True, False))
    sentences = [f"95% intervals, in brackets, are by {whole}."] if whole else []
    if single and single != whole:
        sentences.append(f"Intervals of single questions are by {single}.")
    return sentences


def caption(scores: Iterable[Score]) -> list[str]:
    """Sentences that name conventions, thresholds and interval methods of the scores."""
    rows = list(scores)
    conventions = {row.convention for row in rows}
    sentences = [text for name, text in CONVENTIONS.items() if name in conventions]
    sentences += [f"Convention “{name}” as in scores.csv." for name in sorted(conventions - set(CONVENTIONS))]
    if any(row.design_effect is not None for row in rows):
        sentences.append(DESIGN_EFFECT)
    sentences += [explain_threshold(text) for text in dict.fromkeys(row.threshold for row in rows) if text]
    return sentences + explain_methods(rows)
