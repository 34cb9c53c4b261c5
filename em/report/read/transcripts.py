"""Every answer with what the judges said of it, joined from all runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from em.report.page.words import bounds
from em.report.read.runs import Run
from em.stats import Thresholds, classify
from em.types import Answer, Verdict

key_of = attrgetter("fingerprint", "eval_set", "question_id", "condition", "sample", "question", "answer")
"""What makes an answer the one it is: with its texts, for runs with other sampling settings share all the rest."""


@dataclass
class Transcript:
    """An answer (`finish_reason` and tokens are None where only verdicts tell of it) and its verdicts by judge."""

    record: Answer | Verdict
    finish_reason: str | None = None
    answer_tokens: int | None = None
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)


def join(runs: Sequence[Run]) -> list[Transcript]:
    """Answers in the order of the runs; an answer or verdict that several runs share is there once."""
    found: dict[tuple[object, ...], Transcript] = {}
    for run in runs:
        for answer in run.answers:
            seen = found.setdefault(key_of(answer), Transcript(answer))
            seen.finish_reason, seen.answer_tokens = answer.finish_reason, answer.answer_tokens
        for verdict in run.verdicts:
            said = found.setdefault(key_of(verdict), Transcript(verdict)).verdicts.setdefault(verdict.judge, [])
            if all(verdict.rubric != other.rubric for other in said):
                said.append(verdict)
    return list(found.values())


def question_texts(transcripts: Iterable[Transcript]) -> dict[tuple[str, str], str]:
    """The wording of each question of each set; paraphrases one after the other."""
    texts: dict[tuple[str, str], dict[str, None]] = {}
    for item in transcripts:
        record = item.record
        texts.setdefault((record.eval_set, record.question_id), {})[record.question] = None
    return {key: " / ".join(wordings) for key, wordings in texts.items()}


class Rules:
    """The thresholds under which each judge's verdicts were counted, by fingerprint, set and judge."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._found: dict[tuple[str, str, str], Thresholds] = {}
        for run in runs:
            for score in run.scores:
                if found := bounds(score.threshold):
                    self._found.setdefault((score.fingerprint, score.eval_set, score.judge), Thresholds(*found))

    def limits(self, fingerprint: str, eval_set: str, judge: str) -> Thresholds:
        """The thresholds that the scores name there; Betley's 30 and 50 where there are no scores."""
        return self._found.get((fingerprint, eval_set, judge), Thresholds())

    def class_of(self, verdicts: Sequence[Verdict]) -> str:
        """The class of an answer by one judge's verdicts, as the scores count it."""
        first = verdicts[0]
        return classify(verdicts, self.limits(first.fingerprint, first.eval_set, first.judge)).kind
