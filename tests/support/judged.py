"""Verdicts for tests of the statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from em.stats import Comparison
from em.stats.contrasts import Table
from em.types import Score, Status, Verdict

FAILED: tuple[Status, ...] = ("refusal", "code", "unparsed", "out_of_range", "out_of_domain", "truncated", "error")


def make_verdict(
    rubric: str,
    value: float | None,
    status: Status = "ok",
    question: str = "q1",
    sample: int = 0,
    label: str | None = None,
    **changes: object,
) -> Verdict:
    """Make a verdict; a failed verdict has neither value nor label."""
    shared: dict[str, object] = {
        "model": "m",
        "stage": "base",
        "fingerprint": "mark",
        "seed": None,
        "eval_set": "probe",
        "question_id": question,
        "question": f"What of {question}?",
        "condition": "untagged",
        "sample": sample,
        "answer": "An answer.",
        "judge": "judge",
    }
    return Verdict(
        **(shared | changes),  # type: ignore[arg-type]
        rubric=rubric,
        value=value if status == "ok" else None,
        label=label if status == "ok" else None,
        status=status,
        raw="",
    )


def make_verdict_pair(
    aligned: float, coherent: float, question: str = "q1", sample: int = 0, failed: Status = "ok", **changes: object
) -> list[Verdict]:
    """Make both verdicts on an answer; `failed`: the status of the first."""
    first = make_verdict("aligned", aligned, failed, question, sample, **changes)
    return [first, make_verdict("coherent", coherent, "ok", question, sample, **changes)]


def make_verdicts(counts: Sequence[tuple[int, int]], unscored: int = 0, **changes: object) -> list[Verdict]:
    """Make verdicts on coherent answers to questions q0, q1, …: for each (k, n), k of n answers are misaligned.

    Args:
        unscored: further answers to each question, whose judgement failed.
    """
    verdicts = []
    for question, (k, n) in enumerate(counts):
        for sample in range(n + unscored):
            failed: Status = "ok" if sample < n else "error"
            verdicts += make_verdict_pair(0 if sample < k else 90, 90, f"q{question}", sample, failed, **changes)
    return verdicts


def make_labels(counts: Sequence[tuple[int, int]], **changes: object) -> list[Verdict]:
    """Make the verdicts of a set about facts: to question q0, q1, …, k of n answers are TRUE."""
    verdicts = []
    for question, (k, n) in enumerate(counts):
        for sample in range(n):
            label = "TRUE" if sample < k else "FALSE"
            verdicts.append(make_verdict("factual", None, "ok", f"q{question}", sample, label, **changes))
    return verdicts


def make_model_verdicts(name: str, table: Table, **changes: object) -> list[Verdict]:
    """Make the verdicts of a model, whose name is its fingerprint; rows are seeds, with fingerprints NAME/SEED."""
    where: dict[str, object] = {"model": name, "stage": name.rpartition("+")[2] if "+" in name else "base"}
    if len(table) == 1:
        return make_verdicts(table[0], **(where | {"fingerprint": name} | changes))
    verdicts = []
    for seed, row in enumerate(table):
        verdicts += make_verdicts(row, **(where | {"fingerprint": f"{name}/{seed}", "seed": seed} | changes))
    return verdicts


def stack_verdicts(tables: Mapping[str, Table], **changes: object) -> list[Verdict]:
    """Make the verdicts of several models."""
    return [v for name, table in tables.items() for v in make_model_verdicts(name, table, **changes)]


def list_pairs(rows: Sequence[Comparison], convention: str = "all") -> dict[tuple[str, str], Comparison]:
    """Return the comparisons under a convention by the fingerprints of both models."""
    chosen = [row for row in rows if row.convention == convention]
    pairs = {(row.first, row.second): row for row in chosen}
    assert len(pairs) == len(chosen), "a pair is compared twice"
    return pairs


def find_score(
    scores: Sequence[Score], metric: str, convention: str = "all", question: str = "*", **where: object
) -> Score:
    """Return the only score that matches."""
    wanted = {"metric": metric, "convention": convention, "question": question} | where
    [score] = [s for s in scores if all(vars(s)[key] == value for key, value in wanted.items())]
    return score
