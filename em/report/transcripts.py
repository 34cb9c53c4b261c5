"""Every answer with what the judges said of it, joined from all runs and packed for the page's script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from em.report.labels import Model
from em.report.load import Run
from em.report.words import CLASSES, NOT_JUDGED, bounds
from em.stats import Thresholds, classify
from em.types import Answer, Verdict

Key = tuple[str, str, str, str, int, str, str]


@dataclass
class Transcript:
    """An answer (`finish_reason` and tokens are None where only verdicts tell of it) and its verdicts by judge."""

    record: Answer | Verdict
    finish_reason: str | None = None
    answer_tokens: int | None = None
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)


def join(runs: Sequence[Run]) -> list[Transcript]:
    """Answers in the order of the runs; an answer or verdict that several runs share is there once."""
    found: dict[Key, Transcript] = {}
    for run in runs:
        for answer in run.answers:
            seen = found.setdefault(_key(answer), Transcript(answer))
            seen.finish_reason, seen.answer_tokens = answer.finish_reason, answer.answer_tokens
        for verdict in run.verdicts:
            said = found.setdefault(_key(verdict), Transcript(verdict)).verdicts.setdefault(verdict.judge, [])
            if all(verdict.rubric != other.rubric for other in said):
                said.append(verdict)
    return list(found.values())


def _key(record: Answer | Verdict) -> Key:
    # With the texts: runs with other sampling settings share all the rest, and both answers are to be seen.
    return (
        record.fingerprint,
        record.eval_set,
        record.question_id,
        record.condition,
        record.sample,
        record.question,
        record.answer,
    )


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
                found = bounds(score.threshold)
                if found:
                    self._found.setdefault((score.fingerprint, score.eval_set, score.judge), Thresholds(*found))

    def limits(self, fingerprint: str, eval_set: str, judge: str) -> Thresholds:
        """The thresholds that the scores name there; Betley's 30 and 50 where there are no scores."""
        return self._found.get((fingerprint, eval_set, judge), Thresholds())

    def class_of(self, verdicts: Sequence[Verdict]) -> str:
        """The class of an answer by one judge's verdicts, as the scores count it."""
        first = verdicts[0]
        return classify(verdicts, self.limits(first.fingerprint, first.eval_set, first.judge)).kind


class Words:
    """A list of distinct values, each of which the page's data name by its place."""

    def __init__(self) -> None:
        self.places: dict[Any, int] = {}

    def place(self, value: Any) -> int:
        """The place of a value, which is added when it is new."""
        return self.places.setdefault(value, len(self.places))

    @property
    def values(self) -> list[Any]:
        """The values in their places."""
        return list(self.places)


def pack(transcripts: Sequence[Transcript], models: dict[str, Model], rules: Rules) -> dict[str, Any]:
    """The data of the page: lists of names, and items that point into them (`page.js` unpacks them)."""
    lists = {name: Words() for name in ("models", "stages", "conditions", "sets", "questions", "texts", "judges")}
    for fingerprint in models:
        lists["models"].place(fingerprint)
    classes = [{judge: rules.class_of(said) for judge, said in item.verdicts.items()} for item in transcripts]
    lists["classes"] = _classes({kind for of_item in classes for kind in of_item.values()})
    items = [_item(item, of_item, lists, models) for item, of_item in zip(transcripts, classes, strict=True)]
    packed: dict[str, Any] = {name: words.values for name, words in lists.items()}
    packed["models"] = [model.label for model in models.values()]
    return {**packed, "items": items}


def _classes(seen: set[str]) -> Words:
    """All classes that we know, in the order of the filter, and behind them the labels of other rubrics."""
    words = Words()
    for kind in (*CLASSES, *sorted(seen - set(CLASSES))):
        words.place(kind)
    return words


def _item(
    transcript: Transcript, classes: dict[str, str], lists: dict[str, Words], models: dict[str, Model]
) -> dict[str, Any]:
    record = transcript.record
    eval_set = lists["sets"].place(record.eval_set)
    places = {judge: lists["classes"].place(kind) for judge, kind in classes.items()}
    return {
        "model": lists["models"].place(record.fingerprint),
        "stage": lists["stages"].place(models[record.fingerprint].stage),
        "condition": lists["conditions"].place(record.condition),
        "set": eval_set,
        "question": lists["questions"].place((eval_set, record.question_id)),
        "text": lists["texts"].place(record.question),
        "sample": record.sample,
        "answer": record.answer,
        "finish": transcript.finish_reason,
        "tokens": transcript.answer_tokens,
        "class": sorted(set(places.values())) or [lists["classes"].place(NOT_JUDGED)],
        "judged": [
            [
                lists["judges"].place(judge),
                places[judge],
                [[v.rubric, v.value, v.label, v.status, v.raw] for v in said],
            ]
            for judge, said in transcript.verdicts.items()
        ],
    }
