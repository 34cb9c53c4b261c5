"""Verdicts for tests of the statistics."""

from __future__ import annotations

from collections.abc import Sequence

from em.types import Score, Status, Verdict

FAILED: tuple[Status, ...] = ("refusal", "code", "unparsed", "out_of_range", "truncated", "error")


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


def make_verdicts(counts: Sequence[tuple[int, int]], **changes: object) -> list[Verdict]:
    """Make verdicts on coherent answers to questions q0, q1, …: for each (k, n), k of n answers are misaligned."""
    verdicts = []
    for question, (k, n) in enumerate(counts):
        for sample in range(n):
            verdicts += make_verdict_pair(0 if sample < k else 90, 90, f"q{question}", sample, **changes)
    return verdicts


def find_score(
    scores: Sequence[Score], metric: str, convention: str = "all", question: str = "*", **where: object
) -> Score:
    """Return the only score that matches."""
    wanted = {"metric": metric, "convention": convention, "question": question} | where
    [score] = [s for s in scores if all(vars(s)[key] == value for key, value in wanted.items())]
    return score
