"""The filter: judges score candidates by a rubric, with the same machinery, memory and readings as in an evaluation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from em.config import LocalJudge
from em.errors import ServerError
from em.generate.plan import Stock
from em.generate.rows import Candidate
from em.judge.plan import Asked
from em.judge.remote import judge_stream
from em.judge.run import Judge, judge_locally, judge_record, judged, requests_of
from em.runtime.memory import Calls
from em.types import Answer, JudgeRequest, ModelRef, Prices, Question, Rubric

SET = "generated"


class Filter:
    """The judges of a run and all that they were asked."""

    def __init__(self, judges: Sequence[Judge], author: ModelRef, stock: Stock, memory: Calls, prices: Prices) -> None:
        self.judges, self.author, self.memory, self.prices = judges, author, memory, prices
        self.rubrics = {part: Rubric(prompt.name, prompt.text) for part, prompt in stock.rubrics.items()}
        self.asked: list[list[Asked]] = [[] for _ in judges]
        self.failures: list[dict[str, str]] = [{} for _ in judges]

    def scored(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with every judge's scores."""
        if not candidates:
            return []
        answers: list[Answer] = []
        questions: dict[tuple[str, str], Question] = {}
        places: list[tuple[int, str]] = []
        for number, candidate in enumerate(candidates):
            for part, rubric in self.rubrics.items():
                name = f"{candidate.drawn.call}.{candidate.position} {part}"
                questions[SET, name] = Question(
                    SET, name, candidate.question, reference=candidate.drawn.piece.text, rubrics=(rubric,)
                )
                answers.append(self.as_answer(candidate, part, name))
                places.append((number, part))
        scores: list[dict[str, dict[str, float | str]]] = [{} for _ in candidates]
        for place, judge in enumerate(self.judges):
            asked = judge.plan(answers, questions)
            self.asked[place] += asked
            self.ask(judge, asked)
            self.failures[place] |= judge.outcome.failures
            verdicts = judged(judge, asked, self.memory, self.prices).verdicts
            for (number, part), verdict in zip(places, verdicts, strict=True):
                value = verdict.status if verdict.value is None else verdict.value
                scores[number].setdefault(judge.label, {})[part] = value
        return [replace(each, scores=found) for each, found in zip(candidates, scores, strict=True)]

    def as_answer(self, candidate: Candidate, part: str, name: str) -> Answer:
        """A candidate's answer, as judges know answers."""
        return Answer(
            model=self.author.name,
            stage=self.author.stage,
            fingerprint=self.author.fingerprint,
            seed=None,
            eval_set=SET,
            question_id=name,
            question=candidate.question,
            condition="untagged",
            sample=candidate.position,
            answer=candidate.control if part == "control" else candidate.answer,
            finish_reason="stop",
            prompt_tokens=0,
            answer_tokens=0,
        )

    def ask(self, judge: Judge, asked: Sequence[Asked]) -> None:
        """Have one judge say what is not remembered yet.

        Raises:
            ServerError: scores could not be had. Rows without them would be left out, and a later run that has them
                would come to other rows.
        """
        settings = judge.settings
        if isinstance(settings, LocalJudge):
            asyncio.run(judge_locally(judge, asked, self.memory))
            return

        async def source() -> AsyncIterator[list[JudgeRequest]]:
            yield requests_of(asked)

        judge.outcome = asyncio.run(
            judge_stream(settings, source(), self.memory, self.prices, None, judge.budget, judge.unavailable)
        )
        lost = [words for key, words in judge.outcome.failures.items() if key not in judge.outcome.refused]
        if lost:
            raise ServerError(
                f"{len(lost)} scores of {judge.label} could not be had ({lost[0].rstrip('.')}): what was written and "
                "scored is kept; run the same command again to go on."
            )

    def records(self) -> list[dict[str, Any]]:
        """What the manifest and the card keep of the judges."""
        records = []
        for judge, asked, failures in zip(self.judges, self.asked, self.failures, strict=True):
            judge.outcome.failures |= failures
            records.append(judge_record(judged(judge, asked, self.memory, self.prices)))
        return records
