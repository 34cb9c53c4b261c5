"""Join the answers of all runs with their verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from em.report.page.words import SOURCE_CLASSES, parse_bounds
from em.report.read.runs import RecordedRun
from em.stats import Thresholds, classify_answer
from em.types import Answer, Verdict

key_of = attrgetter("fingerprint", "eval_set", "question_id", "condition", "sample", "question", "answer")
"""Key of an answer. It includes the texts, because runs with other sampling settings share all other fields."""


@dataclass
class Transcript:
    """An answer and its verdicts by judge; `finish_reason` and tokens are None if only verdicts record the answer."""

    record: Answer | Verdict
    finish_reason: str | None = None
    answer_tokens: int | None = None
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)


def join_transcripts(runs: Sequence[RecordedRun]) -> list[Transcript]:
    """List the transcripts in the order of the runs; an answer or verdict that several runs share appears once."""
    transcripts: dict[tuple[object, ...], Transcript] = {}
    for run in runs:
        for answer in run.answers:
            transcript = transcripts.setdefault(key_of(answer), Transcript(answer))
            transcript.finish_reason, transcript.answer_tokens = answer.finish_reason, answer.answer_tokens
        for verdict in run.verdicts:
            transcript = transcripts.setdefault(key_of(verdict), Transcript(verdict))
            verdicts = transcript.verdicts.setdefault(verdict.judge, [])
            if all(verdict.rubric != other.rubric for other in verdicts):
                verdicts.append(verdict)
    return list(transcripts.values())


def collect_question_texts(transcripts: Iterable[Transcript]) -> dict[tuple[str, str], str]:
    """Map set and question id to the question's text, or to its paraphrases joined by ` / `."""
    texts: dict[tuple[str, str], dict[str, None]] = {}
    for item in transcripts:
        record = item.record
        texts.setdefault((record.eval_set, record.question_id), {})[record.question] = None
    return {key: " / ".join(wordings) for key, wordings in texts.items()}


class VerdictThresholds:
    """The thresholds used for each judge's verdicts, by fingerprint, set and judge.

    Classes that the source decided are the same under all thresholds: they get those of the other scores if these have
    one pair of thresholds, so that their models are compared.
    """

    def __init__(self, runs: Sequence[RecordedRun]) -> None:
        self._limits: dict[tuple[str, str, str], Thresholds] = {}
        finished = set[tuple[str, str, str]]()
        for run in runs:
            for score in run.scores:
                key = (score.fingerprint, score.eval_set, score.judge)
                if numbers := parse_bounds(score.threshold):
                    self._limits.setdefault(key, Thresholds(*numbers))
                elif score.threshold == SOURCE_CLASSES:
                    finished.add(key)
        others = set(self._limits.values())
        if len(others) == 1:
            self._limits |= dict.fromkeys(finished, others.pop())

    def find_limits(self, fingerprint: str, eval_set: str, judge: str) -> Thresholds:
        """Return the thresholds named in the scores; without scores, Betley's 30 and 50."""
        return self._limits.get((fingerprint, eval_set, judge), Thresholds())

    def find_class(self, verdicts: Sequence[Verdict]) -> str:
        """Return the class of an answer by one judge's verdicts, as counted in the scores."""
        first = verdicts[0]
        return classify_answer(verdicts, self.find_limits(first.fingerprint, first.eval_set, first.judge)).kind
